"""The benchmark's runner and its offline part."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from bits import bits

from pretraining.benchmark import __main__ as command_line
from pretraining.benchmark.baselines import packages as peers
from pretraining.benchmark.baselines.offline import (
    BASELINES,
    LoggedData,
    Method,
    tabrl,
    tabrls,
)
from pretraining.benchmark.baselines.offline.certainty_equivalence import (
    CertaintyEquivalence,
)
from pretraining.benchmark.baselines.offline.cloning import BehaviourPolicy
from pretraining.benchmark.baselines.offline.spibb import SPIBB
from pretraining.benchmark.behaviours import behaviour_policy
from pretraining.benchmark.cells import (
    ResultsError,
    cell_key,
    provenance,
    read_results,
    run_cells,
)
from pretraining.benchmark.coverage import coverage, highest_returns
from pretraining.benchmark.environments import environment
from pretraining.benchmark.parts import offline
from pretraining.benchmark.process import from_table

# Cells and result files

CELLS = [
    {"part": "test", "size": size, "seed": seed} for size in (1, 2) for seed in (0, 1)
]
HEADER = {"commit": "abc", "checkpoint": None, "protocol": {"sizes": (1, 2)}}


def two_scores(cell):
    value = cell["size"] + cell["seed"] / 10
    return [{"method": "a", "value": value}, {"method": "b", "value": -value}]


def run(path, score=two_scores, cells=CELLS, header=HEADER, jobs=1, restart=False):
    return run_cells(
        cells, score, path, header, jobs, restart=restart, progress_bar=False
    )


def test_rows_have_the_parameters_of_their_cell_in_the_order_of_cells(tmp_path):
    path = tmp_path / "new folder" / "results.jsonl"
    rows = run(path)
    assert rows[2] == {**CELLS[1], "method": "a", "value": 1.1}
    assert [row["value"] for row in rows] == [1, -1, 1.1, -1.1, 2, -2, 2.1, -2.1]
    header, found = read_results(path)
    assert header == json.loads(json.dumps(HEADER))
    assert found == rows == run(None) == run(None, jobs=2)


def test_finished_cells_are_skipped(tmp_path):
    path, scored = tmp_path / "results.jsonl", []

    def score(cell):
        scored.append(cell)
        return two_scores(cell)

    run(path, score, CELLS[:3])
    rows = run(path, score)
    assert scored == CELLS
    assert rows == run(path, score) == run(None)
    # The order of a cell's parameters is irrelevant, their values are not.
    turned = dict(reversed(CELLS[0].items()))
    assert cell_key(turned) == cell_key(CELLS[0]) != cell_key(CELLS[1])


def test_a_run_killed_at_any_byte_goes_on_to_the_same_results(tmp_path):
    path = tmp_path / "results.jsonl"
    expected = run(path)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole) + 1):
        path.write_bytes(whole[:size])
        _, rows = read_results(path)
        assert rows == expected[: len(rows)]
        assert len(rows) % 2 == 0
        assert run(path) == expected
        assert path.read_bytes() == whole


def test_a_failing_score_keeps_what_is_finished(tmp_path):
    path = tmp_path / "results.jsonl"

    def score(cell):
        if cell == CELLS[2]:
            raise RuntimeError("out of luck")
        return two_scores(cell)

    with pytest.raises(RuntimeError, match="out of luck"):
        run(path, score)
    assert read_results(path)[1] == run(None)[:4]
    assert run(path) == run(None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("commit", "def"),
        ("checkpoint", "0123"),
        ("protocol", {"sizes": (1, 3)}),
        ("seed", 1),
    ],
)
def test_results_of_something_else_are_rejected(tmp_path, name, value):
    # A planted fault: a result file from another commit, checkpoint or protocol.
    path = tmp_path / "results.jsonl"
    run(path)
    before = path.read_bytes()
    with pytest.raises(ResultsError, match=f"{name} is .* --output, or --restart"):
        run(path, header={**HEADER, name: value})
    assert path.read_bytes() == before
    run(path, header={**HEADER, name: value}, restart=True)
    found = read_results(path)[0][name]
    assert found == json.loads(json.dumps(value))


def test_files_that_are_no_results_are_left_alone(tmp_path):
    path = tmp_path / "results.jsonl"
    for text in ("", "a diary\n", '{"rows": 1}\n', "[1]\n"):
        path.write_text(text)
        with pytest.raises(ResultsError, match="must be a header"):
            run(path)
        assert path.read_text() == text
    run(path, restart=True)
    path.write_text(path.read_text().replace('"value"', "value"))
    with pytest.raises(ResultsError, match=r"Line 2 of .* must be JSON"):
        run(path)


def test_cells_that_are_alike_are_refused():
    with pytest.raises(ValueError, match="must differ"):
        run(None, cells=[CELLS[0], CELLS[0]])


def test_provenance_names_the_code_and_the_machine():
    found = provenance(None)
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["numpy"] == np.__version__
    assert found["checkpoint"] is None
    assert found["machine"]["cores"] >= 1
    assert {"commit", "dirty", "sources"} <= set(found)


def test_provenance_of_a_checkpoint_is_its_hash(tmp_path, monkeypatch):
    import tabrl

    monkeypatch.setattr(tabrl, "fetch_checkpoint", lambda name: tmp_path / name)
    hashes = []
    for content in (b"one", b"two"):
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights" / "model.safetensors").write_bytes(content)
        hashes.append(provenance("weights")["checkpoint"])
    assert len(hashes[0]) == 64
    assert hashes[0] != hashes[1]


# Behaviours and logs


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Garnet-20-4-3"])
def test_behaviours_are_what_their_names_say(name):
    env = environment(name, 0.99)
    half = behaviour_policy(env, "softmax")
    assert env.normalised_value(half) == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_array_equal(half.argmax(axis=1), env.optimal_q.argmax(axis=1))
    # Every action, in the order of its value.
    assert half.min() > 0
    by_value = np.argsort(env.optimal_q, axis=1)
    assert (np.diff(np.take_along_axis(half, by_value, 1)) >= -1e-12).all()
    near = behaviour_policy(env, "epsilon 0.05")
    assert near.min() == pytest.approx(0.05 / env.n_actions)
    uniform = behaviour_policy(env, "uniform")
    np.testing.assert_allclose(uniform, 1 / env.n_actions)
    with pytest.raises(ValueError, match="behaviour must be"):
        behaviour_policy(env, "greedy")


def test_logs_differ_by_seed_size_and_behaviour_alone():
    env = environment("RiverSwim-6", 0.99)
    cell = ("uniform", 64, 0)
    log = offline.simulate_log(env, *cell)
    again = offline.simulate_log(env, *cell)
    np.testing.assert_array_equal(log["state"], again["state"])
    for other in (("uniform", 64, 1), ("uniform", 65, 0), ("epsilon 1", 64, 0)):
        states = offline.simulate_log(env, *other)["state"][:64]
        assert (log["state"] != states).any()


# The offline benchmark

TINY = offline.Protocol(
    environments=("FrozenLake-v1", "RiverSwim-6"),
    behaviours=("uniform", "softmax"),
    sizes=(64,),
    n_seeds=2,
    gammas=(0.95,),
    checkpoint=None,
    large_sizes=(),
)
N_BASELINES = 4 + 2 * 5 + 5 + 3 * 6 + 5 + 6 + 5


def test_offline_run_is_the_same_for_any_number_of_jobs(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = offline.run(TINY, path, progress_bar=False)
    assert bits(rows) == bits(offline.run(TINY, jobs=2, progress_bar=False))
    header, found = read_results(path)
    assert found == rows
    assert header["protocol"]["sizes"] == [64]
    assert len(rows) == 2 * 2 * 2 * N_BASELINES
    keys = ("environment", "behaviour", "size", "gamma", "seed", "method", "constant")
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows)
    with pytest.raises(ResultsError, match="protocol is"):
        offline.run(dataclasses.replace(TINY, n_seeds=3), path, progress_bar=False)


def test_full_protocol_has_every_cell_once():
    protocol = offline.Protocol(d3rlpy=True)
    cells = protocol.cells()
    tabular = [cell for cell in cells if "package" not in cell]
    assert len(tabular) == len(protocol.environments) * (5 * 6 * 20 + 2 * 3 * 2)
    assert len(cells) - len(tabular) == 5 * 2 * 2 * 3
    assert len({cell_key(cell) for cell in cells}) == len(cells)


def test_seeds_are_those_of_the_environment_and_fewer_for_large_logs():
    protocol = dataclasses.replace(
        TINY, seeds_of={"RiverSwim-6": 1}, large_sizes=(999,), n_large_seeds=3
    )
    n_logs: dict[tuple, int] = {}
    for cell in protocol.cells():
        key = cell["environment"], cell["behaviour"], cell["size"]
        n_logs[key] = n_logs.get(key, 0) + 1
    for behaviour in TINY.behaviours:
        assert n_logs["FrozenLake-v1", behaviour, 64] == 2
        assert n_logs["RiverSwim-6", behaviour, 64] == 1
    assert n_logs["FrozenLake-v1", "clinician", 999] == 2
    assert n_logs["RiverSwim-6", "uniform", 999] == 1


def test_a_foreign_world_is_scored_and_its_seed_picks_the_task():
    protocol = dataclasses.replace(
        offline.QUICK_FOREIGN, environments=("RandomMDP-50-4",), checkpoint=None
    )
    cells = protocol.cells()
    values = []
    for seed in (0, 1):
        cell = next(cell for cell in cells[::-1] if cell["seed"] == seed)
        rows = offline.score_cell(cell, protocol)
        values.append(next(r["value"] for r in rows if r["method"] == "SPIBB"))
        env = environment("RandomMDP-50-4", 0.99, seed)
        log = offline.simulate_log(env, cell["behaviour"], cell["size"], seed)
        pi_b = behaviour_policy(env, cell["behaviour"])
        pi = SPIBB().policy(LoggedData.from_log(log, 0.99, pi_b), 5)
        assert values[-1] == env.normalised_value(pi)
    assert values[0] != values[1]


def test_a_world_without_its_package_is_left_out(monkeypatch, capsys):
    def build(name, gamma, seed=0):
        if name == "FrozenLake-v1":
            raise ModuleNotFoundError("Install it.")
        return environment(name, gamma, seed)

    monkeypatch.setattr(offline, "environment", build)
    rows = offline.run(TINY, progress_bar=False)
    assert {row["environment"] for row in rows} == {"RiverSwim-6"}
    assert "Left out: FrozenLake-v1. Install it." in capsys.readouterr().err


def test_a_large_log_is_made_in_parts_that_follow_each_other(monkeypatch):
    monkeypatch.setattr(offline, "_ROWS_AT_ONCE", 100)
    env = environment("FrozenLake-v1", 0.99)
    log = offline.simulate_log(env, "uniform", 250, 0)
    assert {len(column) for column in log.values()} == {250}
    new = np.diff(log["episode"], prepend=-1)
    assert set(new) == {0, 1}
    np.testing.assert_array_equal(log["step"] == 0, new == 1)
    ends = log["terminated"] | log["truncated"]
    np.testing.assert_array_equal(np.append(new[1:], 1) == 1, ends)
    assert len({tuple(log["state"][i : i + 50]) for i in (0, 100, 200)}) == 3


# Intervals


def check_intervals(coverage_of) -> None:
    # From pair 0 one gets 1 or 0 and the end, from pair 1 always 0.
    env = from_table("coin", [[[(0.5, 0, 1.0, True), (0.5, 0, 0.0, True)],
                               [(1.0, 0, 0.0, True)]]], np.ones(1), 0.9)  # fmt: skip
    visited = np.array([[True, True]])
    right = np.array([[[0.4, 0.0]], [[0.5, 0.0]], [[0.6, 0.0]]])
    assert coverage_of(right, visited, env) == {
        "coverage": 1.0,
        "width": pytest.approx(0.1 / 0.25),  # 0.5 is the optimum, 0.25 the uniform
        "overshoot": 0.0,
    }
    low, high = right + [[0.15, 0.0]], right + [[0.55, 0.0]]
    assert coverage_of(low, visited, env)["coverage"] == 0.5
    assert coverage_of(low, visited, env)["overshoot"] == 0.0
    assert coverage_of(high, visited, env)["overshoot"] == 0.5
    # What was not visited is left out, NaN or not.
    unseen = np.where([[True, False]], high, np.nan)
    found = coverage_of(unseen, np.array([[True, False]]), env)
    assert (found["coverage"], found["overshoot"]) == (0.0, 1.0)


def test_intervals_are_compared_with_the_true_values():
    check_intervals(coverage)


def test_intervals_around_the_behaviours_values_are_caught():
    def of_the_behaviour(quantiles, visited, env):
        wrong = dataclasses.replace(env)
        wrong.__dict__["optimal_q"] = np.array([[0.3, 0.3]])
        return coverage(quantiles, visited, wrong)

    with pytest.raises(AssertionError):
        check_intervals(of_the_behaviour)


def test_the_highest_return_is_that_of_the_luckiest_episode():
    env = environment("FrozenLake-v1", 0.9)
    # Slipping the right way each time, 6 steps lead from the start to the goal's 1.
    assert highest_returns(env)[0].max() == pytest.approx(0.9**5)
    river = environment("RiverSwim-6", 0.9)
    # Five steps up, then 1 for ever.
    assert highest_returns(river)[0].max() == pytest.approx(0.9**5 / 0.1)


def test_offline_scores_the_methods_on_the_true_process():
    env = environment("FrozenLake-v1", 0.95)
    cell = {
        "environment": "FrozenLake-v1",
        "behaviour": "uniform",
        "size": 1024,
        "gamma": 0.95,
        "seed": 1,
    }
    rows = offline.score_cell(cell, TINY)
    log = offline.simulate_log(env, "uniform", 1024, seed=1)
    data = LoggedData.from_log(log, 0.95, env.uniform_policy)
    found = {(row["method"], row["constant"]): row["value"] for row in rows}
    ce = CertaintyEquivalence()
    for method, constant in ((ce, None), (SPIBB(), 5), (BehaviourPolicy(), None)):
        expected = env.normalised_value(method.policy(data, constant))
        assert found[method.name, constant] == expected
    assert found["behaviour policy", None] == 0


def test_values_are_given_clipped_and_unclipped():
    cell = {"environment": "CliffWalking-v1", "behaviour": "uniform", "size": 16}
    rows = [
        row
        for seed in range(5)
        for row in offline.score_cell({**cell, "gamma": 0.99, "seed": seed}, TINY)
    ]
    assert min(row["value_unclipped"] for row in rows) < -1
    for row in rows:
        assert row["value"] == max(row["value_unclipped"], -1)


def test_unseen_states_get_the_uniform_policy_or_what_the_method_is():
    env = environment("FrozenLake-v1", 0.95)
    log = offline.simulate_log(env, "softmax", 16, seed=0)
    unseen = np.setdiff1d(np.arange(16), log["state"])
    behaviour = behaviour_policy(env, "softmax")
    data = LoggedData.from_log(log, 0.95, behaviour)
    for method in BASELINES:
        if "argmax" in method.name:
            expected = np.eye(4)[np.zeros(len(unseen), int)]
        elif "SPIBB" in method.name or method.name in ("behaviour policy", "DPRL"):
            expected = behaviour[unseen]
        else:
            expected = np.full((len(unseen), 4), 0.25)
        for constant in method.constants or (None,):
            pi = method.policy(data, constant)
            np.testing.assert_array_equal(pi[unseen], expected, err_msg=method.name)


class FakeEstimator:
    """Stands in for tabrl: knows actions 2 and 0 and infers states but 3 and 1."""

    def __init__(self, gamma, checkpoint, random_state, handle_unknown):
        self.parameters = (gamma, checkpoint, random_state)
        assert handle_unknown == "infer"

    def fit(self, log):
        self.states_, self.actions_ = np.array([3, 1]), np.array([2, 0])
        assert {"state", "action", "reward", "next_state", "terminated"} <= set(log)
        return self

    def predict_proba(self, states):
        table = np.tile([0.6, 0.4], (16, 1))
        table[[3, 1]] = [[0.9, 0.1], [0.3, 0.7]]
        return table[states]

    def predict(self, states):
        return self.actions_[self.predict_proba(states).argmax(axis=1)]


def test_tabrl_policies_are_put_where_their_labels_say(monkeypatch):
    monkeypatch.setattr(tabrl, "OfflinePolicyEstimator", FakeEstimator)
    env = environment("FrozenLake-v1", 0.95)
    log = offline.simulate_log(env, "uniform", 64, seed=0)
    data = LoggedData.from_log(log, 0.95, env.uniform_policy)
    chosen, sampled = (method.policy(data, None) for method in tabrls("auto"))
    np.testing.assert_array_equal(sampled[[3, 1]], [[0.1, 0, 0.9, 0], [0.7, 0, 0.3, 0]])
    np.testing.assert_array_equal(chosen[[3, 1]], [[0, 0, 1, 0], [1, 0, 0, 0]])
    unseen = np.setdiff1d(np.arange(16), [1, 3])
    np.testing.assert_array_equal(sampled[unseen], [[0.4, 0, 0.6, 0]] * 14)
    np.testing.assert_array_equal(chosen[unseen], [[0, 0, 1, 0]] * 14)


def test_tabrl_end_to_end():
    cell = {"environment": "gridworld-3x3", "behaviour": "uniform", "size": 1024}
    rows = offline.score_cell({**cell, "gamma": 0.95, "seed": 0}, offline.Protocol())
    found = {row["method"]: row["value"] for row in rows}
    assert found[tabrl.GREEDY] > 0.9
    assert 0 < found[tabrl.SAMPLED] <= 1
    for row in rows:
        assert ("coverage" in row) == row["method"].startswith("tabrl")
    assert rows[-1]["coverage"] > 0.5
    assert 0 < rows[-1]["width"] < 1
    assert rows[-1]["overshoot"] < 0.5


class FirstAction(Method):
    """A method from outside: takes the first action with some probability."""

    name = "first action"
    constants = (0.5, 1.0)

    def policy(self, data, constant):
        pi = np.full((data.n_states, data.n_actions), 0.0)
        pi[:, 0], pi[:, 1] = constant, 1 - constant
        return pi


def test_an_outside_method_is_one_class_and_one_registration(monkeypatch):
    monkeypatch.setattr(offline, "BASELINES", [*BASELINES, FirstAction()])
    rows = offline.run(TINY, progress_bar=False)
    found = [row for row in rows if row["method"] == "first action"]
    assert len(rows) == 2 * 2 * 2 * (N_BASELINES + 2)
    assert len(found) == 2 * 2 * 2 * 2
    env = environment("RiverSwim-6", 0.95)
    for row in found:
        if row["environment"] == "RiverSwim-6":
            pi = np.tile([row["constant"], 1 - row["constant"]], (6, 1))
            assert row["value"] == env.normalised_value(pi)


def test_an_outside_method_without_its_package_is_left_out(monkeypatch, capsys):
    class Elsewhere(FirstAction):
        name, package = "elsewhere", "no_such_package"

    monkeypatch.setattr(offline, "BASELINES", [Elsewhere(), BehaviourPolicy()])
    rows = offline.run(TINY, progress_bar=False)
    assert {row["method"] for row in rows} == {"behaviour policy"}
    assert "Left out: elsewhere, as no_such_package" in capsys.readouterr().err


def test_a_missing_peer_is_left_out_with_a_reason(monkeypatch, capsys):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    protocol = dataclasses.replace(TINY, environments=["FrozenLake-v1"], d3rlpy=True)
    rows = offline.run(protocol, progress_bar=False)
    assert "DiscreteCQL" not in {row["method"] for row in rows}
    assert "Left out: DiscreteCQL and DiscreteBCQ, as d3rlpy is not installed" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("worlds", "expected"),
    [
        ("development", [offline.QUICK]),
        ("foreign", [offline.QUICK_FOREIGN]),
        ("all", [offline.QUICK, offline.QUICK_FOREIGN]),
    ],
)
def test_each_group_of_worlds_has_its_protocol_and_file(
    worlds, expected, monkeypatch, tmp_path
):
    runs = []

    def run(protocol, output, **options):
        runs.append((protocol, output.name))
        return []

    monkeypatch.setattr(offline, "run", run)
    monkeypatch.setattr(command_line, "part_tables", lambda part, rows: {})
    arguments = ["offline", "--quick", "--worlds", worlds, "--output", str(tmp_path)]
    command_line.main(arguments)
    assert [protocol for protocol, _ in runs] == expected
    names = {protocol.environments: name for protocol, name in runs}
    assert names.get(offline.QUICK.environments, "offline.jsonl") == "offline.jsonl"
    foreign = names.get(offline.QUICK_FOREIGN.environments, "offline-foreign.jsonl")
    assert foreign == "offline-foreign.jsonl"
