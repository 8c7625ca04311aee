"""The speed benchmark: what it measures, and what it leaves out."""

from __future__ import annotations

import importlib.util
import sys
import time

import numpy as np
import pytest

from pretraining.benchmark.baselines.offline.certainty_equivalence import (
    CertaintyEquivalence,
)
from pretraining.benchmark.exact import evaluate
from pretraining.benchmark.parts import scale, speed
from pretraining.benchmark.report.speed import speed_tables
from tabrl import SufficientStatistics

# narwhals announces a package of its own for Dask; Dask uses old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Dask support is moving:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index"),
]

PROTOCOL = speed.Protocol(
    n_states=(10, 30), n_repeats=2, cql_steps=1, large=((20, 6, 3),), engine_rows=100
)


def test_random_log_follows_the_process():
    env = speed.random_process(20)
    log = speed.random_log(env)
    assert {len(column) for column in log.values()} == {2000}
    within = ~log["truncated"][:-1]
    np.testing.assert_array_equal(
        log["next_state"][:-1][within], log["state"][1:][within]
    )
    assert log["truncated"].sum() == 20
    data = speed.logged_data(log, env)
    expected = data.n * env.expected_reward
    # Rewards are standard normal, so five standard deviations of their sum.
    error = np.abs(data.table(data.statistics.reward_sum) - expected)
    assert (error <= 5 * 2 * np.sqrt(data.n)).all()
    mixed = (data.counts.toarray() > 0) & (env.transition.toarray() == 0)
    assert not mixed.any()


def value_of(actions, log, env):
    """Exact values of actions in the process that the log shows."""
    data = speed.logged_data(log, env)
    pi = np.eye(env.n_actions)[actions]
    return evaluate(data.transition, data.mean_reward, env.gamma, pi)


@pytest.fixture(scope="module")
def process():
    env = speed.random_process(30)
    log = speed.random_log(env)
    data = speed.logged_data(log, env)
    optimum = CertaintyEquivalence("first").policy(data, None).argmax(axis=1)
    return env, log, value_of(optimum, log, env)


def test_dense_value_iteration_is_as_precise_as_it_says(process):
    env, log, optimum = process
    found = value_of(speed.dense_value_iteration(log, env), log, env)
    assert np.abs(optimum - found).max() < 2e-3
    assert np.abs(optimum - value_of(np.zeros(30, dtype=int), log, env)).max() > 1


@pytest.mark.skipif(
    importlib.util.find_spec("quantecon") is None, reason="QuantEcon is not installed"
)
def test_quantecon_plans_the_same_process(process):
    env, log, optimum = process
    found = value_of(speed.quantecon_actions(log, env), log, env)
    np.testing.assert_allclose(found, optimum, atol=1e-6)


def test_seconds_are_those_of_the_call():
    seconds, _ = speed.measure(lambda: time.sleep(0.05))
    assert 0.05 <= seconds < 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("n_mebibytes", [64, 16])
def test_memory_is_the_peak_of_the_call(n_mebibytes):
    def call():
        np.ones(n_mebibytes * 2**17)  # freed at once

    for _ in range(2):  # what the first call gave back is counted again
        _, n_bytes = speed.measure(call)
        # The allocator and threads of the test runner take a mebibyte or two.
        assert n_bytes == pytest.approx(n_mebibytes * 2**20, abs=4 * 2**20)


def test_what_is_too_large_is_said():
    assert speed.too_large(speed.TABRL, 10_000) is None
    assert speed.too_large(speed.DENSE, 1000) is None
    assert speed.too_large(speed.DENSE, 10_000) == "one array of 3 GiB"
    assert speed.too_large(speed.CQL, 10_000) == "one array of 37 GiB"
    assert "fills up" in speed.too_large(speed.QUANTECON, 10_000)


def test_what_is_missing_is_said_and_the_rest_measured(monkeypatch, capsys):
    monkeypatch.setattr(
        "pretraining.benchmark.baselines.packages.find_spec", lambda name: None
    )
    rows = speed.run(PROTOCOL, progress_bar=False)
    rows = [row for row in rows if "kind" not in row]
    assert len(rows) == 2 * 2 * 4
    for row in rows:
        if row["method"] in (speed.QUANTECON, speed.CQL):
            assert (row["reason"], row["seconds"]) == ("not installed", None)
        else:
            assert row["reason"] is None
            assert row["seconds"] > 0
    assert {row["n_rows"] for row in rows} == {1000, 3000}
    assert "quantecon is not installed" in capsys.readouterr().err


def test_tabrl_plans_well(process):
    env, log, optimum = process
    found = value_of(speed.tabrl_actions(log, env, "auto"), log, env)
    uniform = evaluate(
        env.transition, env.expected_reward, env.gamma, env.uniform_policy
    )
    assert (optimum - found).mean() < 0.2 * (optimum - uniform).mean()


def test_each_state_tries_so_many_actions():
    log = scale.pairs_table(100, 50, 3)
    pairs = {*zip(log["state"].tolist(), log["action"].tolist(), strict=True)}
    assert len(pairs) == 300
    assert {action for _, action in pairs} == set(range(50))
    assert len(log["state"]) == 300 * scale.N_SUCCESSORS


def test_engines_are_measured_beside_their_group_by():
    cell = {"n_rows": 2000, "labels": "text"}
    rows = scale.score_engine(cell, n_repeats=1)
    assert {row["engine"] for row in rows} == set(scale.ENGINES)
    done = [row for row in rows if row["reason"] is None]
    assert {"pandas", "polars lazy", "pyarrow Dataset"} <= {x["engine"] for x in done}
    assert all(row["seconds"] > 0 for row in done)


@pytest.mark.parametrize("engine", scale.ENGINES)
def test_a_bare_group_by_has_the_groups_that_tabrl_counts(engine, tmp_path):
    package = {"pyarrow Dataset": "pyarrow"}.get(engine, engine.split()[0]).lower()
    pytest.importorskip(package)
    scale.write_files(tmp_path, 500, "integers")
    log = scale.open_files(engine, sorted(tmp_path.iterdir()))
    grouped = scale.bare_group_by(engine, log)
    columns = grouped.values() if isinstance(grouped, dict) else [grouped]
    counted = SufficientStatistics.from_transitions(log).statistics
    n_ended = int((counted.n_terminated > 0).sum())
    # Ends have a next state here, so groups of them are as many or more.
    assert all(len(x) >= len(counted.edge_count) + n_ended for x in columns)


def test_an_engine_that_counts_otherwise_is_an_error(monkeypatch):
    def lose_a_file(engine, files, found=scale.open_files):
        return found(engine, files[1:] if engine == "polars" else files)

    monkeypatch.setattr(scale, "open_files", lose_a_file)
    with pytest.raises(AssertionError, match="polars"):
        scale.score_engine({"n_rows": 100, "labels": "integers"}, n_repeats=1)


def test_tables_of_scale_give_exponents_and_ratios():
    rows = [
        {"kind": "sizes", "n_states": n, "n_actions": 4, "n_tried": 4, "seed": seed}
        | {"method": "tabrl", "seconds": n**2 / 100, "bytes": 2**20}
        for n in (10, 100)
        for seed in range(2)
    ]
    rows += [
        {"kind": "engines", "n_rows": 10, "labels": "text", "engine": "polars"}
        | {"method": method, "seconds": seconds, "bytes": 2**21, "reason": None}
        for method, seconds in (("tabrl", 3.0), ("bare group-by", 2.0))
    ]
    tables = speed_tables(rows)
    small, large = tables["speed-sizes"]["rows"]
    assert small[4] is None
    assert large[4] == pytest.approx(2)
    (line,) = tables["speed-engines"]["rows"]
    assert line[3:] == [[3, 3, 3], [2, 2, 2], [1.5, 1.5, 1.5], [2, 2, 2]]
