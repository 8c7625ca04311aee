"""The validation: its controls, scores, intervals, and the report that it writes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from pretraining.benchmark.baselines.offline import LoggedData
from pretraining.benchmark.baselines.offline.certainty_equivalence import (
    CertaintyEquivalence,
)
from pretraining.benchmark.baselines.offline.vi_lcb import VILCB
from pretraining.benchmark.baselines.online import PSRL
from pretraining.prior import FAMILIES, Process
from pretraining.recipe.export import model_card
from pretraining.recipe.simulate import explore, to_statistics, with_rewards
from pretraining.recipe.targets import ProcessBatch, draw_processes, solve, uniform
from pretraining.validation import (
    bayes,
    bootstrap,
    controls,
    exploration,
    scores,
    sets,
    validate,
)
from pretraining.validation.conjugate import bayes_comparison
from pretraining.validation.controls import (
    CONSTANTS,
    certainty_equivalence,
    first_best,
    uniform_over_best,
)
from pretraining.validation.devices import compare_devices
from tabrl import OfflinePolicyEstimator, OnlineAgent
from tabrl._checkpoint import load_network, read_config, save_network
from tabrl._features import StatisticsBatch
from tabrl._network import Network, NetworkConfig

UNDECLARED = np.full((1, 2), np.nan)


def random_process(seed: int, S=7, A=3, restricted=False) -> ProcessBatch:
    """Return one process with certain rewards of the pairs, and an end."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(S, 0.3), (S, A))
    R = np.repeat(rng.normal(size=(S, A, 1)), S, -1)
    allowed = None
    if restricted:
        allowed = rng.random((S, A)) < 0.6
        allowed[:, 1] = True
        P = np.where(allowed[..., None], P, P[:, 1:2])
        R = np.where(allowed[..., None], R, R[:, 1:2])
    terminal = np.arange(S) == S - 1
    process = Process(P, R, terminal, np.eye(S)[0], 0.0, allowed=allowed)
    return solve([process], np.array([0.95]))


def walked(batch: ProcessBatch, size: int, seed=0) -> tuple[StatisticsBatch, dict]:
    """Return the statistics of a uniform walk, and its log row by row."""
    rng = np.random.default_rng(seed)
    n_sets = len(batch.gamma)
    pi = uniform(batch.allowed).double().numpy()
    log = explore(rng, batch, pi, np.full(n_sets, size))
    offline = np.ones(n_sets, bool)
    statistics = to_statistics(batch, log, offline, np.repeat(UNDECLARED, n_sets, 0))
    counts = log.counts[0].astype(int)
    at = np.nonzero(counts)
    state, action, following = (np.repeat(index, counts[at]) for index in at)
    rows = {"state": state, "action": action, "next_state": following}
    rows["reward"] = batch.R[0].numpy()[state, action, following]
    return statistics, rows | {"terminated": batch.terminal[0].numpy()[following]}


# Controls


@pytest.mark.parametrize("size", [3, 15, 60, 2000])
@pytest.mark.parametrize("seed", range(3))
def test_controls_are_those_of_the_benchmark(size, seed):
    batch = random_process(seed)
    statistics, rows = walked(batch, size, seed)
    data = LoggedData.from_log(rows, 0.95, np.full((7, 3), 1 / 3))
    low, high = controls.reward_range(statistics)
    seen = (min(rows["reward"].min(), 0), max(rows["reward"].max(), 0))
    assert (float(low), float(high)) == pytest.approx(seen, rel=1e-3)
    q = certainty_equivalence(statistics)
    for ties, policy in (("random", uniform_over_best), ("first", first_best)):
        expected = CertaintyEquivalence(ties).policy(data, None)
        np.testing.assert_allclose(policy(q)[0], expected)
    bounds = controls.vi_lcb(statistics)
    for c, bound in zip(CONSTANTS, bounds, strict=True):
        expected = VILCB().policy(data, c)
        np.testing.assert_allclose(uniform_over_best(bound)[0], expected)


def test_a_large_constant_makes_another_policy():
    statistics, _ = walked(random_process(0), 60)
    small, large = uniform_over_best(controls.vi_lcb(statistics, (0.0, 5.0)))
    assert not torch.equal(small, large)


def test_each_set_of_a_batch_is_as_it_is_alone():
    processes = [random_process(seed) for seed in range(3)]
    together, _ = walked(ProcessBatch.concatenate(processes), 40)
    q = controls.vi_lcb(together)
    rows = torch.arange(3 * 7 * 3).view(3, -1)
    for b in range(3):
        edges = (together.edge_pair >= rows[b, 0]) & (together.edge_pair <= rows[b, -1])
        alone = StatisticsBatch(
            **{
                name: getattr(together, name)[b : b + 1]
                for name in together.__dataclass_fields__
                if not name.startswith("edge")
            },
            edge_pair=together.edge_pair[edges] - b * 21,
            edge_next=together.edge_next[edges] - b * 7,
            edge_count=together.edge_count[edges],
        )
        torch.testing.assert_close(controls.vi_lcb(alone), q[:, b : b + 1])


def test_controls_keep_to_the_actions_that_are_allowed():
    batch = random_process(4, restricted=True)
    statistics, _ = walked(batch, 30)
    forbidden = ~batch.allowed
    assert forbidden.any()
    q = [certainty_equivalence(statistics), *controls.vi_lcb(statistics)]
    for policy in (*map(uniform_over_best, q), *map(first_best, q)):
        assert not policy[forbidden].any()
        torch.testing.assert_close(policy.sum(-1), torch.ones(1, 7).double())


def test_far_rewards_reach_the_start_of_a_long_corridor():
    # Policy iteration alone moves a far reward by about one state an iteration.
    S = 100
    P, R = np.zeros((S, 2, S)), np.zeros((S, 2, S))
    states = np.arange(S)
    P[states, 0, np.maximum(states - 1, 0)] = 1
    P[states, 1, np.minimum(states + 1, S - 1)] = 1
    R[S - 1, 1] = 1
    batch = solve(
        [Process(P, R, np.zeros(S, bool), np.eye(S)[0], 0.0)], np.array([0.9])
    )
    log = with_rewards(np.random.default_rng(0), batch, P[None])
    statistics = to_statistics(batch, log, np.array([True]), UNDECLARED)
    assert (uniform_over_best(certainty_equivalence(statistics))[0, :, 1] == 1).all()


# Scores


def trained() -> Network:
    return load_network("auto", torch.device("cpu"))


@pytest.mark.parametrize("declared", [False, True])
def test_inference_is_that_of_the_estimator(declared):
    batch = random_process(5)
    statistics, rows = walked(batch, 60)
    reward_range = (-0.5, 3.0) if declared else None
    if declared:
        ends = torch.tensor([reward_range])
        statistics = replace(statistics, reward_range=ends)
        rows["reward"] = rows["reward"].clip(-0.5, 3.0)
        mean = np.bincount(rows["state"] * 3 + rows["action"], rows["reward"], 21)
        square = np.bincount(
            rows["state"] * 3 + rows["action"], rows["reward"] ** 2, 21
        )
        statistics = replace(
            statistics,
            reward_sum=torch.from_numpy(mean.reshape(1, 7, 3)),
            reward_sq_sum=torch.from_numpy(square.reshape(1, 7, 3)),
        )
    policy, chance, q = scores.infer(trained(), statistics)
    torch.testing.assert_close(chance.sum(-1), torch.ones(1, 7).double())
    estimator = OfflinePolicyEstimator(gamma=0.95, reward_range=reward_range)
    estimator.fit(rows)
    states = np.setdiff1d(estimator.states_, [6])  # nothing is decided at the end
    found = estimator.predict_proba(states)
    np.testing.assert_allclose(policy[0, states], found, atol=1e-4)
    for i, level in enumerate((0.1, 0.5, 0.9)):
        values = estimator.action_values(states, level)
        np.testing.assert_allclose(q[i, 0, states], values, rtol=1e-4, atol=1e-4)


def scored(monkeypatch, batch, statistics, policy, chance, q):
    """Score what a network would say."""
    monkeypatch.setattr(scores, "infer", lambda *_: (policy, chance, q))
    return scores.score(trained(), batch, statistics)


def test_scores_of_known_answers(monkeypatch):
    batch = ProcessBatch.concatenate([random_process(seed) for seed in range(4)])
    statistics, _ = walked(batch, 3000)
    alive = statistics.known & ~batch.terminal
    best = uniform_over_best(batch.q)
    flat = uniform(batch.allowed).double()
    exact = torch.stack([batch.q] * 3)
    perfect = scored(monkeypatch, batch, statistics, best, best, exact)
    np.testing.assert_allclose(perfect["sampled"], 0, atol=1e-9)
    np.testing.assert_allclose(perfect["coverage"], 1)
    np.testing.assert_allclose(perfect["brier"], 0)
    wide = torch.stack([batch.q - 1, batch.q + 1, batch.q + 1])
    vague = scored(monkeypatch, batch, statistics, flat, flat, wide)
    np.testing.assert_allclose(vague["sampled"], 1)
    np.testing.assert_allclose(vague["coverage"], 1)
    np.testing.assert_allclose(vague["below_low"], 0)
    np.testing.assert_allclose(vague["below_high"], 1)
    np.testing.assert_allclose(vague["brier"], 2 / 9)  # 1/3 for 1, 0, 0
    # Half of the values a little above the interval, in live states alone.
    q = torch.stack([batch.q - 2, batch.q - 1, batch.q - 1])
    outside = torch.arange(7) % 2 == 0
    q[2] = torch.where(outside[:, None], batch.q - 1, batch.q + 1)
    partly = scored(monkeypatch, batch, statistics, flat, best, q)
    share = (alive & ~outside).sum(1) / alive.sum(1)
    np.testing.assert_allclose(partly["coverage"], share, rtol=1e-6)


def test_reliability_error_is_how_far_probabilities_are_off(monkeypatch):
    batch = random_process(0)
    statistics, _ = walked(batch, 3000)
    best, exact = uniform_over_best(batch.q), torch.stack([batch.q] * 3)
    # 0.6 on the best of three actions: too low by 0.4, the others too high by 0.2.
    unsure = 0.4 * best + 0.2
    for chance, error in ((best, 0.0), (unsure, (0.4 + 2 * 0.2) / 3)):
        result = scored(monkeypatch, batch, statistics, best, chance, exact)
        found = validate.reliability_error(result)
        np.testing.assert_allclose(found, error, atol=1e-9)
    assert result["bin_mass"][0, [2, 6]].sum() == pytest.approx(1)


def test_intervals_are_those_of_the_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(2, 1, 400)
    means = bootstrap.resample(rng, {"x": values, "one": np.ones(400)})
    middle, low, high = bootstrap.interval(means["x"])
    assert middle == pytest.approx(values.mean(), abs=1e-4)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert bootstrap.interval(means["one"]) == [1, 1, 1]
    # Sixteen cells, each of them resampled on its own: a quarter of the width.
    cells = [bootstrap.resample(rng, {"x": rng.normal(2, 1, 400)}) for _ in range(16)]
    _, low_all, high_all = bootstrap.interval(bootstrap.average(cells)["x"])
    assert high_all - low_all == pytest.approx((high - low) / 4, rel=0.2)


# The set


def test_the_set_is_the_same_at_every_call_and_grows_from_its_start():
    few = list(islice(sets.validation_set(8), 5))
    again = list(islice(sets.validation_set(8), 5))
    more = next(sets.validation_set(16))
    for one, other in zip(few, again, strict=True):
        assert one[:2] == other[:2]
        assert torch.equal(one[3].edge_count, other[3].edge_count)
    assert torch.equal(few[0][2].P, more[2].P)
    assert [size for _, size, _, _ in few[:4]] == [16, 128, 1024, 8192]
    assert few[4][0] == list(FAMILIES)[1]


def test_near_experts_are_narrow_and_keep_to_one_optimal_action():
    rng = np.random.default_rng(0)
    batch = draw_processes(rng, 8, 10, 4)
    pi = sets.near_experts(rng, batch)
    np.testing.assert_allclose(pi.sum(-1), 1)
    assert not pi[~batch.allowed.numpy()].any()
    best = batch.q.numpy().max(-1)
    chosen = np.take_along_axis(batch.q.numpy(), pi.argmax(-1)[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, best, atol=1e-8)
    others = 1 - pi.max(-1)
    assert others.max() < 0.1
    assert len(np.unique(np.round(others.max(1), 6))) == 8  # an epsilon each
    for family, size, _, statistics in islice(sets.validation_set(8, True), 2):
        assert family == next(iter(FAMILIES))
        assert statistics.n.sum((1, 2)).tolist() == [size] * 8


# Bayes, online


def test_no_method_beats_the_bayes_reference():
    network = trained()
    report = bayes_comparison(lambda data: scores.infer(network, data)[0], 8)
    assert report["n_processes"] == 32
    assert report["excess_reference"] == [0, 0, 0]
    regret = {name: mean for name, (mean, _, _) in list(report.items())[1:]}
    assert 0 <= regret["reference"] < 0.5 * regret["ce_random_ties"]
    assert regret["reference"] < min(regret["sampled"], regret["greedy"])
    assert regret["reference"] <= regret["told_prior"] < regret["told_family"]
    assert regret["told_family"] < 0.5 * regret["ce_random_ties"]
    excess = regret["greedy"] / regret["reference"] - 1
    assert regret["excess_greedy"] == pytest.approx(excess, rel=0.05)


class Fixed(PSRL):
    """A learner that learns nothing."""

    def begin(self) -> None:
        self.follow(self.fixed)


class Switching(PSRL):
    """Follows one policy for two steps, and then another."""

    def begin(self) -> None:
        self.n_steps = 0

    def act(self, state: int) -> int:
        if self.n_steps in (0, 2):
            self.follow(self.fixed[self.n_steps // 2])
        self.n_steps += 1
        return super().act(state)


def test_online_regret_counts_every_policy_of_an_episode():
    batch = random_process(6)
    first, second = (
        uniform(batch.allowed)[0].double(),
        uniform_over_best(batch.q)[0].double(),
    )
    learner = Switching(7, 3, 0.95, (-3.0, 3.0), np.random.default_rng(0))
    learner.fixed = [first.numpy(), second.numpy()]
    best = v = batch.q.amax(-1)[0]
    for _ in range(2):
        q = batch.reward[0] + batch.gamma[0] * (batch.continuing[0] @ v)
        v = (first * q).sum(-1)
    start = batch.start[0]
    expected = float(start @ (best - v) / (start @ (best - batch.v_uniform[0])))
    rng = np.random.default_rng(1)
    found = exploration.online_regret(batch, learner, rng, n_episodes=2000, n_steps=9)
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 2000**0.5)
    assert found.mean() < 0.9  # the first policy alone loses 1


@pytest.mark.parametrize("restricted", [False, True])
def test_online_regret_is_exact(restricted):
    batch = random_process(6, restricted=restricted)
    known = (7, 3, 0.95, (-3.0, 3.0), np.random.default_rng(0))
    for pi, regret in (
        (uniform_over_best(batch.q), 0.0),
        (uniform(batch.allowed), 1.0),
    ):
        learner = Fixed(*known)
        learner.fixed = pi[0].double().numpy()
        found = exploration.online_regret(
            batch, learner, np.random.default_rng(1), 4, 9
        )
        np.testing.assert_allclose(found, np.full(4, regret), atol=1e-9)
        assert 4 <= learner.n.sum() <= 36
        assert not learner.n[6].any()  # the end
    learned = exploration.online_regret(
        batch, PSRL(*known), np.random.default_rng(1), 60
    )
    assert learned[-10:].mean() < 0.5 * learned[:3].mean()


def test_the_agent_keeps_to_masks_and_repeats_itself():
    batch = random_process(7, restricted=True)

    def run() -> tuple[OnlineAgent, np.ndarray]:
        agent = OnlineAgent(7, 3, 0.95, (-3, 3), random_state=0)
        rng = np.random.default_rng(2)
        return agent, exploration.online_regret(batch, agent, rng, 10)

    agent, regret = run()
    statistics = agent.statistics_
    visited = batch.allowed[0].numpy()[statistics.pair_state, statistics.pair_action]
    assert visited.all()
    np.testing.assert_array_equal(run()[1], regret)
    assert regret[-3:].mean() < 0.5


def test_two_valued_and_noisy_rewards_have_their_means():
    class Watched(Fixed):
        rewards: list[float]

        def observe(self, state, action, reward, *rest):
            self.rewards.append(reward)
            super().observe(state, action, reward, *rest)

    P = np.ones((1, 2, 1))
    R = np.array([[[0.3], [0.0]]])
    for noise, outcomes, values in ((0.0, (0.0, 1.0), {0.0, 1.0}), (0.2, None, None)):
        process = Process(P, R, np.array([False]), np.ones(1), noise, outcomes)
        batch = solve([process], np.array([0.9]))
        reward_range = exploration._reward_range(batch)
        learner = Watched(1, 2, 0.9, reward_range, np.random.default_rng(0))
        learner.fixed, learner.rewards = np.array([[1.0, 0.0]]), []
        exploration.online_regret(batch, learner, np.random.default_rng(1), 30, 100)
        rewards = np.array(learner.rewards)
        assert len(rewards) == 3000
        assert rewards.mean() == pytest.approx(0.3, abs=0.03)
        assert rewards.min() >= reward_range[0]
        assert rewards.max() <= reward_range[1]
        assert values is None or set(rewards) == values


def test_where_all_rewards_are_alike_their_range_has_what_follows_an_end():
    batch = random_process(0)
    for reward, expected in ((-0.5, (-0.5, 0.0)), (0.5, (0.0, 0.5))):
        alike = replace(batch, R=torch.full_like(batch.R, reward))
        assert exploration._reward_range(alike) == expected


def test_giving_up_is_to_lose_always_the_same():
    falls = np.linspace(1, 0, 30)
    wrong = np.where(np.arange(30) < 15, falls, 0.4)
    late = np.where(np.arange(30) < 25, 0.4, 0.0)
    regret = np.stack([falls, wrong, late, np.zeros(30), np.full(30, 1.0)])
    assert exploration.gave_up(regret).tolist() == [False, True, False, False, True]


# The command


@pytest.fixture
def two_families(monkeypatch):
    few = {name: FAMILIES[name] for name in ("bandits", "layers")}
    for module in (validate, sets, exploration):
        monkeypatch.setattr(module, "FAMILIES", few)
    monkeypatch.setattr(sets, "SIZES", (16, 128))


def make_run(folder: Path) -> None:
    """Write what a run leaves, for a network that was not trained."""
    config = NetworkConfig(width=8, n_layers=1, n_heads=2)
    torch.manual_seed(0)
    average = Network(config).state_dict()
    state = {"config": json.dumps({"network": asdict(config)}), "average": average}
    torch.save(state, folder / "state.pt")


@pytest.mark.usefixtures("two_families")
def test_command_writes_report_and_figure(tmp_path, monkeypatch, capsys):
    make_run(tmp_path)
    # The search for the reference takes most of the time, and has tests of its own.
    monkeypatch.setattr(bayes, "_N_STARTS", 1)
    monkeypatch.setattr(bayes, "_MAX_STEPS", 20)
    figure = tmp_path / "figure.png"
    arguments = ["validate", "--run", str(tmp_path), "--per-cell", "8"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--figure", str(figure)])
    validate.main()
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "validation.json").read_text())
    assert report["n_processes"] == 32
    assert [(row["family"], row["size"]) for row in report["cells"]] == [
        (family, size) for family in ("bandits", "layers") for size in (16, 128)
    ]
    rows = [*report["cells"], *report["near_expert"]["cells"]]
    for row in rows:
        assert row["best_control"][0] == min(row[c][0] for c in validate.METHODS[2:])
        line = f"{row['family']:<10} {row['size']:>5}  {row['sampled'][0]:8.3f}"
        assert line in printed
        assert row["vi_lcb_constant"] in CONSTANTS
    means = [np.mean([row["sampled"][0] for row in report["cells"]])]
    assert report["overall"]["sampled"][0] == pytest.approx(means[0], abs=2e-4)
    assert report["better"] <= report["wins"] <= 4
    assert sum(row["mass"] for row in report["reliability"]) == pytest.approx(
        1, abs=0.01
    )
    for part in ("Bayes reference", "Online tabrl", "Online PSRL", "covers Q*"):
        assert part in printed
    assert figure.read_bytes()[1:4] == b"PNG"
    # The model card is made from it.
    config = read_config("auto") | {"validation": report}
    card = model_card(config, 1000)
    assert "32 processes" in card
    assert "| layers | 128 | " in card


@pytest.mark.usefixtures("two_families")
def test_a_checkpoint_scores_as_its_run(tmp_path):
    make_run(tmp_path)
    network = validate.averaged_network(tmp_path).eval()
    save_network(network, tmp_path / "checkpoint", {})
    loaded = load_network(tmp_path / "checkpoint", torch.device("cpu"))
    assert validate.validate(network, 8) == validate.validate(loaded, 8)


def test_devices_agree_with_themselves(monkeypatch, two_families):
    report = compare_devices(trained(), "cpu", 8)
    assert report["greedy_agreement"] == 1
    assert report["largest_relative_value_difference"] == 0


@pytest.mark.parametrize("n", ["0", "12"])
def test_sizes_of_cells_are_checked(n, monkeypatch, capsys):
    arguments = ["validate", "--checkpoint", "auto", "--per-cell", n]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        validate.main()
    assert "multiple of 8" in capsys.readouterr().err
