"""Processes of the benchmark: known figures, exact values and simulated logs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import chisquare

from pretraining.benchmark.baselines.offline import LoggedData
from pretraining.benchmark.environments import (
    ENVIRONMENT_NAMES,
    bernoulli_bandit,
    environment,
    forest,
)
from pretraining.benchmark.exact import greedy
from pretraining.benchmark.process import Environment, from_table

GAMMAS = (0.95, 0.99)
DEEP_SEAS = (6, 10, 20, 30, 50)


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
        # The six tiles to the goal and the fourteen to the other corner.
        ("FrozenLake-v1-not-slippery", 6, 1, 1e-9),
        ("FrozenLake-v1-not-slippery", 5, 0, 1e-9),
        ("two-rooms", 14, 1, 1e-9),
        ("two-rooms", 13, 0, 1e-9),
        *((f"DeepSea-{n}", n, 0.99, 1e-9) for n in DEEP_SEAS),
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


@pytest.mark.parametrize(("gamma", "success"), [(0.99, 0.8630), (0.95, 0.7386)])
def test_value_iteration_on_the_large_lake_loses_by_discounting(gamma, success):
    lake = environment("FrozenLake8x8-v1", gamma)
    pi = greedy(lake.optimal_q, ties="first")
    assert finite_horizon(lake, 200, pi) == pytest.approx(success, abs=5e-5)


@pytest.mark.parametrize("n_states", [6, 12])
def test_river_swim_optimum_swims_right_and_rarely_gets_there_at_random(n_states):
    env = environment(f"RiverSwim-{n_states}", 0.99)
    assert env.optimal_q.argmax(axis=1).all()
    # Resting at the left end is worth 0.005 / (1 - gamma) = 0.5.
    left = np.eye(2)[np.zeros(n_states, dtype=int)]
    assert env.policy_value(left)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("size", DEEP_SEAS)
def test_deep_sea_pays_only_for_going_right_each_time(size):
    env = environment(f"DeepSea-{size}", 0.9)
    discount = 0.9 ** np.arange(size)
    expected = discount[-1] - 0.01 / size * discount.sum()
    assert env.start @ env.optimal_q.max(axis=1) == pytest.approx(expected)
    # At random the corner is reached once in 2^size episodes; half of the moves cost.
    uniform = env.start @ env.policy_value(env.uniform_policy)
    at_random = discount[-1] / 2**size - 0.01 / size * discount.sum() / 2
    assert uniform == pytest.approx(at_random)
    # The action mapping is random, so neither action is right everywhere.
    actions = env.optimal_q.argmax(axis=1)[: size * (size + 1) : size + 1]
    assert set(actions) == {0, 1}


def test_slippery_lake_is_the_seed_papers():
    env = environment("slippery-lake", 0.99)
    # From tile 14, going right reaches the goal unless one of the other three random
    # moves is taken, which has probability 0.05 each.
    assert env.expected_reward[14, 2] == pytest.approx(0.85)
    # From tile 6, left and right fall into holes.
    assert env.expected_reward[6, 0] == pytest.approx(-0.9)
    assert env.expected_reward[6, 1] == pytest.approx(-0.1)


@pytest.mark.parametrize("shape", [(20, 4, 3), (50, 4, 4), (200, 8, 5)])
def test_garnet_has_the_given_numbers_of_successors(shape):
    env = environment("Garnet-" + "-".join(map(str, shape)), 0.99)
    n_states, n_actions, n_successors = shape
    assert env.expected_reward.shape == (n_states, n_actions)
    np.testing.assert_array_equal(np.diff(env.transition.indptr), n_successors)
    np.testing.assert_allclose(env.transition.sum(axis=1), 1)
    # Successors are uniform over the states.
    visits = np.bincount(env.next_state.ravel(), minlength=n_states)
    assert chisquare(visits).pvalue > 1e-3
    # The expected length between cuts is the same for each: 1 / n_successors.
    mean = env.prob.mean(axis=(0, 1))
    spread = 5 * env.prob.std() / np.sqrt(n_states * n_actions)
    np.testing.assert_allclose(mean, 1 / n_successors, atol=spread)
    assert abs(env.expected_reward.mean()) < 5 / np.sqrt(n_states * n_actions)


def test_forest_of_three_years_is_the_documented_example():
    # The arrays in the documentation of pymdptoolbox's mdptoolbox.example.forest().
    env = forest(3, 0.9)
    P = env.transition.toarray().reshape(3, 2, 3).swapaxes(0, 1)
    grows = [[0.1, 0.9, 0.0], [0.1, 0.0, 0.9], [0.1, 0.0, 0.9]]
    np.testing.assert_allclose(P[0], grows)
    np.testing.assert_allclose(P[1], [[1, 0, 0]] * 3)
    np.testing.assert_allclose(env.expected_reward, [[0, 0], [0, 1], [4, 2]])


def test_bandit_pays_each_arm_its_mean():
    env = bernoulli_bandit([0.2, 0.7, 0.6], 0.99)
    np.testing.assert_allclose(env.optimal_q, [[0.2, 0.7, 0.6]])
    assert env.start @ env.policy_value(env.uniform_policy) == pytest.approx(0.5)
    log = env.simulate(env.uniform_policy, 30_000, np.random.default_rng(0))
    assert set(log["reward"]) == {0.0, 1.0}
    assert log["terminated"].all()
    found = LoggedData.from_log(log, 0.99, env.uniform_policy).mean_reward
    np.testing.assert_allclose(found, env.expected_reward, atol=5 * 0.5 / 100)


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


def check_scores_of_hand_solved_chain(env: Environment) -> None:
    # From state 0: 2 + gamma v1 for the optimum, v1 = 1 + gamma / 2 v1.
    v1 = 1 / (1 - env.gamma / 2)
    optimum = 2 + env.gamma * v1
    pi = np.array([[0.0, 1.0], [0.0, 1.0]])  # 2 on leaving state 0, then it ends
    u = np.linalg.solve([[1 - env.gamma / 2, -env.gamma / 2], [0, 1 - env.gamma / 4]],
                        [1, 0.5])[0]  # fmt: skip
    assert env.normalised_value(pi) == pytest.approx((2 - u) / (optimum - u))


def test_scores_are_from_the_start_distribution():
    env = two_state_chain(0.8)
    check_scores_of_hand_solved_chain(env)
    # A planted fault: the same policy scored from another start.
    elsewhere = dataclasses.replace(env, start=np.array([0.0, 1.0]))
    with pytest.raises(AssertionError):
        check_scores_of_hand_solved_chain(elsewhere)


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
    counts = LoggedData.from_log(log, 0.99, env.uniform_policy)
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
