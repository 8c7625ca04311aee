"""The benchmark: known figures, exact scores, baselines and tables."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import numpy as np
import pytest

from pretraining.benchmark import offline
from pretraining.benchmark.__main__ import main
from pretraining.benchmark.baselines import (
    Counts,
    behaviour_cloning,
    certainty_equivalence,
    count,
    expected_counts,
    vi_lcb,
)
from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment
from pretraining.benchmark.exact import greedy, policy_iteration
from pretraining.benchmark.process import Environment, from_table
from pretraining.benchmark.report import (
    HINDSIGHT,
    Results,
    aggregate_table,
    bootstrap_interval,
    report,
    tail_mean,
    vi_lcb_name,
)

GAMMAS = (0.95, 0.99)


def finite_horizon(env: Environment, horizon: int, pi=None) -> float:
    """Undiscounted value from the start by backward induction, best if `pi` is None."""
    v = np.zeros(env.n_states)
    for _ in range(horizon):
        following = np.where(env.terminated, 0.0, v[env.next_state])
        q = (env.prob * (env.reward + following)).sum(axis=2)
        v = q.max(axis=1) if pi is None else (pi * q).sum(axis=1)
    return float(env.start @ v)


def two_state_chain(gamma: float) -> Environment:
    """From state 0, action 1 pays 2 and goes to state 1, which pays 1 or ends."""
    table = [
        [[(1.0, 0, 0.0, False)], [(1.0, 1, 2.0, False)]],
        [[(0.5, 1, 1.0, False), (0.5, 1, 1.0, True)], [(1.0, 0, 0.0, True)]],
    ]
    return from_table("chain", table, np.array([1.0, 0.0]), gamma)


# Environments


@pytest.mark.parametrize("name", ENVIRONMENT_NAMES)
def test_probabilities_sum_to_one(name):
    env = environment(name, 0.99)
    np.testing.assert_allclose(env.prob.sum(axis=2), 1, atol=1e-12)
    assert env.start.sum() == pytest.approx(1)
    assert env.prob.min() >= 0
    assert env.name == name


@pytest.mark.parametrize(
    ("name", "horizon", "optimum", "rounding"),
    [
        ("FrozenLake-v1", 100, 0.7442, 5e-5),
        ("FrozenLake8x8-v1", 200, 0.9132, 5e-5),
        ("Taxi-v4", 200, 7.93, 5e-3),
        ("CliffWalking-v1", 200, -13, 1e-9),
        # Steps of -1, the last of which pays +10 instead; nothing more once there.
        ("gridworld-3x3", 100, 10 - 3, 1e-9),
        ("gridworld-5x5", 100, 10 - 7, 1e-9),
        ("DeepSea-10", 100, 0.99, 1e-9),
    ],
)
def test_known_optimum(name, horizon, optimum, rounding):
    env = environment(name, 0.99)
    assert finite_horizon(env, horizon) == pytest.approx(optimum, abs=rounding)


def test_known_values_of_given_policies():
    lake = environment("FrozenLake-v1", 0.99)
    assert finite_horizon(lake, 100, lake.uniform_policy) == pytest.approx(
        0.0139, abs=5e-5
    )
    taxi = environment("Taxi-v4", 0.99)
    assert finite_horizon(taxi, 200, taxi.uniform_policy) == pytest.approx(-771, abs=1)


@pytest.mark.parametrize("n_states", [6, 12])
def test_river_swim_optimum_swims_right_and_rarely_gets_there_at_random(n_states):
    env = environment(f"RiverSwim-{n_states}", 0.99)
    assert env.optimal_q.argmax(axis=1).all()
    # Resting at the left end is worth 0.005 / (1 - gamma) = 0.5.
    left = np.eye(2)[np.zeros(n_states, dtype=int)]
    assert env.policy_value(left)[0] == pytest.approx(0.5)


def test_deep_sea_pays_only_for_going_right_each_time():
    env = environment("DeepSea-10", 0.9)
    cost, steps = 0.001, np.arange(10)
    expected = 0.9**9 - cost * (0.9**steps).sum()
    assert env.start @ env.optimal_q.max(axis=1) == pytest.approx(expected)
    # The action mapping is random, so neither action is right everywhere.
    actions = env.optimal_q.argmax(axis=1)[: 10 * 11 : 11]
    assert set(actions) == {0, 1}


def test_slippery_lake_is_the_seed_papers():
    env = environment("slippery-lake", 0.99)
    # From tile 14, going right reaches the goal unless one of the other three random
    # moves is taken, which has probability 0.05 each.
    assert env.expected_reward[14, 2] == pytest.approx(0.85)
    # From tile 6, left and right fall into holes.
    assert env.expected_reward[6, 0] == pytest.approx(-0.9)
    assert env.expected_reward[6, 1] == pytest.approx(-0.1)


# Exact values


def test_policy_value_of_hand_solved_chain():
    gamma = 0.8
    env = two_state_chain(gamma)
    # v1 = 1 + gamma / 2 v1; half of the time v0 = 2 + gamma v1, else gamma v0.
    pi = np.array([[0.5, 0.5], [1.0, 0.0]])
    v1 = 1 / (1 - gamma / 2)
    v0 = 0.5 * (2 + gamma * v1) / (1 - 0.5 * gamma)
    np.testing.assert_allclose(env.policy_value(pi), [v0, v1])
    np.testing.assert_allclose(env.optimal_q.max(axis=1), [2 + gamma * v1, v1])


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", ENVIRONMENT_NAMES)
def test_optimal_q_satisfies_bellmans_equation(name, gamma):
    env = environment(name, gamma)
    v = env.optimal_q.max(axis=1)
    following = np.where(env.terminated, 0.0, v[env.next_state])
    q = (env.prob * (env.reward + gamma * following)).sum(axis=2)
    np.testing.assert_allclose(env.optimal_q, q, atol=1e-6)


def test_normalised_value_is_zero_for_uniform_and_one_for_optimal():
    env = environment("FrozenLake-v1", 0.99)
    assert env.normalised_value(env.uniform_policy) == 0
    assert env.normalised_value(greedy(env.optimal_q)) == pytest.approx(1)


def test_normalised_value_clips_below_at_minus_one():
    env = environment("CliffWalking-v1", 0.99)
    off_the_cliff = np.eye(4)[np.ones(env.n_states, dtype=int)]
    assert env.start @ env.policy_value(off_the_cliff) == pytest.approx(-10_000)
    assert env.normalised_value(off_the_cliff) == -1
    assert env.normalised_value(off_the_cliff, clip=False) < -8


def test_value_depends_on_the_start_distribution():
    # A planted fault: the same policy scored from another start.
    env = two_state_chain(0.8)
    pi = np.array([[0.0, 1.0], [0.0, 1.0]])
    elsewhere = dataclasses.replace(env, start=np.array([0.0, 1.0]))
    assert env.normalised_value(pi) != pytest.approx(
        elsewhere.normalised_value(pi), abs=0.1
    )


def test_greedy_ties():
    q = np.array([[1.0, 1.0 + 1e-13, 0.0], [0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(greedy(q), [[0.5, 0.5, 0], [0, 0, 1]])
    np.testing.assert_array_equal(greedy(q, "first"), [[1, 0, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="ties must be 'random' or 'first'"):
        greedy(q, "last")


# Simulation


@pytest.fixture(scope="module")
def lake_log():
    env = environment("FrozenLake-v1", 0.99)
    return env, env.simulate(env.uniform_policy, 40_000, np.random.default_rng(0))


def test_simulated_frequencies(lake_log):
    env, log = lake_log
    counts = count(log, env.n_states, env.n_actions)
    busy = counts.n > 500
    assert busy.sum() >= 20
    error = (counts.transition - env.transition).toarray()
    error = error.reshape(env.n_states, env.n_actions, -1)[busy]
    # Five standard deviations of a frequency.
    assert np.abs(error).max() < 5 * np.sqrt(0.25 / 500)
    action_share = np.bincount(log["action"]) / len(log["action"])
    np.testing.assert_allclose(action_share, 0.25, atol=5 * np.sqrt(0.19 / 40_000))


def test_simulated_episodes_are_whole(lake_log):
    _, log = lake_log
    new_episode = np.diff(log["episode"], prepend=-1) == 1
    np.testing.assert_array_equal(log["step"] == 0, new_episode)
    np.testing.assert_array_equal(log["state"][new_episode], 0)
    follows = ~new_episode[1:]
    np.testing.assert_array_equal(
        log["next_state"][:-1][follows], log["state"][1:][follows]
    )
    ends = log["terminated"] | log["truncated"]
    np.testing.assert_array_equal(ends[:-1], new_episode[1:])
    assert ends[-1]
    assert not (log["terminated"] & log["truncated"]).any()


@pytest.mark.parametrize("n_transitions", [1, 64, 250])
def test_simulate_gives_the_length_asked_for(n_transitions):
    env = environment("RiverSwim-6", 0.99)
    log = env.simulate(
        env.uniform_policy, n_transitions, np.random.default_rng(1), max_steps=20
    )
    assert {len(column) for column in log.values()} == {n_transitions}
    assert log["step"].max() == min(19, n_transitions - 1)
    np.testing.assert_array_equal(
        np.flatnonzero(log["truncated"]),
        np.union1d(np.arange(19, n_transitions, 20), [n_transitions - 1]),
    )


def test_short_episodes_do_not_come_first():
    # Half of the episodes start in state 0 and end at once, the others never end.
    table = [[[(1.0, 0, 0.0, True)]], [[(1.0, 1, 0.0, False)]]]
    env = from_table("short or long", table, np.array([0.5, 0.5]), 0.9)
    rng = np.random.default_rng(2)
    first = [
        env.simulate(np.ones((2, 1)), 20, rng, max_steps=10)["state"][0]
        for _ in range(1000)
    ]
    assert np.mean(first) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(1000))


def test_simulation_follows_its_seed():
    env = environment("Taxi-v4", 0.99)
    first, again, other = (
        env.simulate(env.uniform_policy, 300, np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name])
    assert (first["state"] != other["state"]).any()


# Baselines


def bandit_counts(n, means, reward_range=(0.0, 1.0)) -> Counts:
    """Build the counts of a one-step bandit."""
    n = np.array([n], dtype=float)
    none = expected_counts(environment("FrozenLake-v1", 0.9), 0).successor
    return Counts(
        n=n,
        reward_sum=n * np.array([means]),
        successor=none[: n.size, :1],
        reward_range=reward_range,
    )


def test_count_of_a_small_log():
    log = {
        "state": np.array([0, 0, 1, 0]),
        "action": np.array([1, 1, 0, 1]),
        "reward": np.array([1.0, 3.0, -2.0, 0.0]),
        "next_state": np.array([1, 1, 0, 0]),
        "terminated": np.array([False, True, False, False]),
    }
    counts = count(log, n_states=2, n_actions=2)
    np.testing.assert_array_equal(counts.n, [[0, 3], [1, 0]])
    np.testing.assert_array_equal(counts.reward_sum, [[0, 4], [-2, 0]])
    expected = [[0, 0], [1, 1], [1, 0], [0, 0]]
    np.testing.assert_array_equal(counts.successor.toarray(), expected)
    np.testing.assert_allclose(counts.transition.toarray()[1], [1 / 3, 1 / 3])
    assert counts.reward_range == (-2.0, 3.0)


def test_behaviour_cloning_is_the_frequencies():
    n = np.array([[3.0, 1.0], [0.0, 0.0]])
    counts = dataclasses.replace(bandit_counts([0, 0], [0, 0]), n=n)
    np.testing.assert_allclose(behaviour_cloning(counts), [[0.75, 0.25], [0.5, 0.5]])


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", ENVIRONMENT_NAMES)
def test_baselines_are_optimal_in_the_limit(name, gamma):
    env = environment(name, gamma)
    counts = expected_counts(env, 1e6)
    for ties in ("first", "random"):
        pi = certainty_equivalence(counts, gamma, ties)
        assert env.normalised_value(pi) == pytest.approx(1, abs=1e-9)
    pi = vi_lcb(expected_counts(env, 1e14), gamma, c=1.0)
    assert env.normalised_value(pi) > 1 - 1e-4


def test_certainty_equivalence_values_unvisited_pairs_at_zero():
    loses, wins = bandit_counts([5, 0], [-1, 0]), bandit_counts([5, 0], [1, 0])
    np.testing.assert_array_equal(certainty_equivalence(loses, 0.9), [[0, 1]])
    np.testing.assert_array_equal(certainty_equivalence(wins, 0.9), [[1, 0]])
    unknown = bandit_counts([0, 0], [0, 0])
    np.testing.assert_array_equal(certainty_equivalence(unknown, 0.9), [[0.5, 0.5]])
    np.testing.assert_array_equal(
        certainty_equivalence(unknown, 0.9, ties="first"), [[1, 0]]
    )


def test_certainty_equivalence_does_not_continue_after_termination():
    # Ending at once for 1 is better than half of it for ever at gamma 0.4, and worse
    # at 0.6: exact only if a terminated transition has no continuation.
    log = {
        "state": np.array([0, 0]),
        "action": np.array([0, 1]),
        "reward": np.array([1.0, 0.5]),
        "next_state": np.array([0, 0]),
        "terminated": np.array([True, False]),
    }
    counts = count(log, 1, 2)
    np.testing.assert_array_equal(certainty_equivalence(counts, 0.4), [[1, 0]])
    np.testing.assert_array_equal(certainty_equivalence(counts, 0.6), [[0, 1]])


def test_vi_lcb_equals_the_closed_form_on_a_bandit():
    # Bounds 0.9 - c w / sqrt(4) and 0.7 - c w / sqrt(100) cross at c = 0.2 / (0.4 w),
    # with w = sqrt(log(2 * 1 * 2 / delta) / 2).
    counts = bandit_counts([4, 100], [0.9, 0.7])
    crossing = 0.5 / np.sqrt(np.log(4 / 0.05) / 2)
    below = vi_lcb(counts, 0.9, 0.999 * crossing, delta=0.05)
    np.testing.assert_array_equal(below, [[1, 0]])
    above = vi_lcb(counts, 0.9, 1.001 * crossing, delta=0.05)
    np.testing.assert_array_equal(above, [[0, 1]])
    # The bonus is in units of the rewards.
    tenfold = bandit_counts([4, 100], [9.0, 7.0], reward_range=(0.0, 10.0))
    np.testing.assert_array_equal(vi_lcb(tenfold, 0.9, 0.999 * crossing, 0.05), below)
    np.testing.assert_array_equal(vi_lcb(tenfold, 0.9, 1.001 * crossing, 0.05), above)


@pytest.mark.parametrize("reward", [-1.0, 0.0, 1.0])
def test_vi_lcb_never_prefers_an_unvisited_pair(reward):
    counts = bandit_counts([1, 0], [reward, 0], reward_range=(-1.0, 1.0))
    np.testing.assert_array_equal(vi_lcb(counts, 0.99, 1.0), [[1, 0]])
    unknown = bandit_counts([0, 0], [0, 0])
    np.testing.assert_array_equal(vi_lcb(unknown, 0.99, 1.0), [[0.5, 0.5]])


def test_vi_lcb_stays_on_a_known_path_where_certainty_equivalence_leaves_it():
    # One optimal episode: each step cost 1, and what was not tried looks free.
    env = environment("CliffWalking-v1", 0.99)
    optimal = greedy(env.optimal_q, ties="first")
    log = env.simulate(optimal, 13, np.random.default_rng(0))
    assert log["terminated"][-1]
    counts = count(log, env.n_states, env.n_actions)
    for c in offline.VI_LCB_CONSTANTS:
        assert env.normalised_value(vi_lcb(counts, 0.99, c)) == pytest.approx(1)
    assert env.normalised_value(certainty_equivalence(counts, 0.99)) < 0


def test_policy_iteration_picks_the_best_of_many_ties():
    # All actions alike: no cycling between equal policies.
    env = environment("gridworld-3x3", 0.99)
    q = policy_iteration(env.transition, np.zeros((9, 4)), 0.99)
    np.testing.assert_array_equal(q, 0)


# Tables


def test_bootstrap_interval_of_known_spread():
    values = np.random.default_rng(0).normal(size=(1, 400))
    low, high = bootstrap_interval(values, n_resamples=20_000)
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half_width, abs=0.05 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.05 * half_width)


def test_bootstrap_interval_is_stratified():
    # Four cells of the same spread about very different means: half the width of one.
    noise = np.random.default_rng(1).normal(size=400)
    values = noise + np.array([[0.0], [100.0], [200.0], [300.0]])
    low, high = bootstrap_interval(values, n_resamples=20_000)
    half_width = 1.96 * noise.std() / np.sqrt(400) / 2
    assert high - low == pytest.approx(2 * half_width, rel=0.05)


def test_tail_mean_is_of_each_cells_worst_tenth():
    values = np.stack([np.arange(30.0), 100 + np.arange(30.0)])
    assert tail_mean(values) == pytest.approx((1 + 101) / 2)
    assert tail_mean(values[:, :10]) == pytest.approx((0 + 100) / 2)
    assert tail_mean(values, share=1.0) == pytest.approx(values.mean())


def result_rows(values: dict[str, list[list[float]]]) -> list[dict]:
    """Rows of one environment a cell."""
    return [
        {
            "gamma": 0.9,
            "environment": f"env-{cell}",
            "behaviour": "uniform",
            "size": 64,
            "seed": seed,
            "method": method,
            "value": value,
        }
        for method, cells in values.items()
        for cell, seeds in enumerate(cells)
        for seed, value in enumerate(seeds)
    ]


def test_hindsight_takes_the_best_constant_of_each_cell():
    small, large = vi_lcb_name(0.05), vi_lcb_name(1.0)
    rows = result_rows({small: [[0.0, 1.0], [0.6, 0.6]], large: [[0.4, 0.4], [1, 1]]})
    results = Results(rows)
    np.testing.assert_array_equal(results.values[HINDSIGHT], [[0.0, 1.0], [1.0, 1.0]])
    assert results.best_constant() == large
    table = aggregate_table(results, results.where())
    assert f"| {HINDSIGHT} | 0.750 [0.500, 1.000] | 0.500 |" in table
    assert f"| {large} | 0.700 [0.700, 0.700] | 0.700 |" in table


def test_results_with_a_missing_row_are_refused():
    rows = result_rows({"a": [[0.0, 1.0]], "b": [[0.0, 1.0]]})
    with pytest.raises(ValueError, match=r"Method 'b' has 1 of 2"):
        Results(rows[:-1])
    with pytest.raises(ValueError, match="at least one row"):
        Results([])


# The offline benchmark

TINY = offline.Protocol(
    environments=("FrozenLake-v1", "RiverSwim-6"),
    epsilons=(1.0, 0.05),
    sizes=(64,),
    n_seeds=2,
    gammas=(0.95,),
    checkpoint=None,
)


def test_offline_run_is_the_same_for_any_number_of_jobs(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = offline.run(TINY, output=path, n_jobs=1, progress_bar=False)
    assert rows == offline.run(TINY, n_jobs=2, progress_bar=False)
    assert rows == [json.loads(line) for line in path.read_text().splitlines()]
    # 4 cells, 2 seeds, 3 baselines and VI-LCB with 5 constants.
    assert len(rows) == 4 * 2 * 8
    text = report(Results(rows), offline.PREFERRED)
    assert offline.CE_RANDOM in text
    assert offline.TABRL_GREEDY not in text


def test_offline_scores_the_methods_on_the_true_process():
    env = environment("FrozenLake-v1", 0.95)
    rows = offline.run_cell(
        0.95, "FrozenLake-v1", 1.0, 1024, n_seeds=2, checkpoint=None
    )
    log = offline.simulate_log(env, 1.0, 1024, seed=1)
    pi = certainty_equivalence(count(log, 16, 4), 0.95)
    (row,) = [r for r in rows if r["method"] == offline.CE_RANDOM and r["seed"] == 1]
    assert row["value"] == env.normalised_value(pi)


class FakeEstimator:
    """Stands in for tabrl: knows states 3 and 1 and actions 2 and 0, in that order."""

    def __init__(self, gamma, checkpoint, random_state):
        self.parameters = (gamma, checkpoint, random_state)

    def fit(self, log):
        self.states_, self.actions_ = np.array([3, 1]), np.array([2, 0])
        assert {"state", "action", "reward", "next_state", "terminated"} <= set(log)

    def predict_proba(self, states):
        np.testing.assert_array_equal(states, self.states_)
        return np.array([[0.9, 0.1], [0.3, 0.7]])

    def predict(self, states):
        return self.actions_[self.predict_proba(states).argmax(axis=1)]


def test_tabrl_policies_are_put_where_their_labels_say(monkeypatch):
    fake = types.SimpleNamespace(OfflinePolicyEstimator=FakeEstimator)
    monkeypatch.setitem(sys.modules, "tabrl", fake)
    env = environment("FrozenLake-v1", 0.95)
    log = offline.simulate_log(env, 1.0, 64, seed=0)
    found = offline.tabrl_policies(log, env, "auto", seed=0)
    sampled, chosen = found[offline.TABRL_SAMPLED], found[offline.TABRL_GREEDY]
    np.testing.assert_array_equal(sampled[[3, 1]], [[0.1, 0, 0.9, 0], [0.7, 0, 0.3, 0]])
    np.testing.assert_array_equal(chosen[[3, 1]], [[0, 0, 1, 0], [1, 0, 0, 0]])
    unseen = np.setdiff1d(np.arange(16), [1, 3])
    np.testing.assert_array_equal(sampled[unseen], 0.25)
    np.testing.assert_array_equal(chosen[unseen], 0.25)


def test_command_line_prints_tables_and_writes_rows(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    main(
        [
            "offline",
            "--quick",
            "--baselines-only",
            "--gamma=0.95",
            "--sizes=64",
            "--jobs=1",
            f"--output={path}",
        ]
    )
    printed = capsys.readouterr().out
    assert "### Offline, gamma = 0.95" in printed
    assert "mean of 12 cells of 2 data sets" in printed
    assert len(path.read_text().splitlines()) == 12 * 2 * 8


def test_quick_benchmark_of_tabrl_end_to_end(capsys):
    main(["offline", "--quick", "--gamma=0.95", "--jobs=1"])
    printed = capsys.readouterr().out
    for method in (offline.TABRL_GREEDY, offline.TABRL_SAMPLED):
        assert f"| {method} | " in printed
