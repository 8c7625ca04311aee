"""Foreign environments against published figures and closed forms; the registry."""

from __future__ import annotations

import importlib.util
from functools import partial

import numpy as np
import pytest
from test_environments import finite_horizon

from pretraining.benchmark import environments as registry
from pretraining.benchmark.environments import (
    ENVIRONMENT_NAMES,
    FOREIGN_NAMES,
    environment,
    register,
)
from pretraining.benchmark.environments.blackjack import blackjack_states
from pretraining.benchmark.environments.gambler import gambler
from pretraining.benchmark.environments.garnet import garnet
from pretraining.benchmark.environments.inventory import lost_sales
from pretraining.benchmark.environments.packages import folder, load
from pretraining.benchmark.environments.river_swim import river_swim

FAMILIES = {"FrozenLake-v1-random-8x8", "RandomMDP-50-4"} | {
    f"AnyMDP-{n}" for n in (16, 32, 64, 128)
}


def build(name: str, seed: int = 0, gamma: float = 0.99):
    """Build an environment; skip the test where its package is missing."""
    try:
        return environment(name, gamma, seed)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


# The registry


@pytest.fixture
def empty_place(monkeypatch):
    """Let a test register what no other test sees."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    registry._build.cache_clear()
    yield
    registry._build.cache_clear()


@pytest.mark.usefixtures("empty_place")
def test_a_new_environment_is_one_line():
    register("RiverSwim-4", partial(river_swim, 4), steps=12)
    env = environment("RiverSwim-4", 0.9)
    assert (env.name, env.n_states, env.episode_steps) == ("RiverSwim-4", 4, 12)
    assert registry.names("foreign") == (*FOREIGN_NAMES, "RiverSwim-4")
    with pytest.raises(ValueError, match=r"must differ\. Got 'RiverSwim-4' twice"):
        register("RiverSwim-4", partial(river_swim, 4))


@pytest.mark.usefixtures("empty_place")
def test_the_seed_picks_the_process_of_a_family_alone():
    register("swims", lambda gamma, seed: river_swim(3 + seed, gamma), family=True)
    assert [environment("swims", 0.9, seed).n_states for seed in (0, 2)] == [3, 5]
    assert environment("swims", 0.9, 2).seed == 2
    assert environment("FrozenLake-v1", 0.9, 5) is environment("FrozenLake-v1", 0.9)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"one of gridworld-3x3, .* Got 'lake'"):
        environment("lake", 0.9)


def test_the_groups_do_not_overlap():
    assert len(ENVIRONMENT_NAMES) == 21
    assert not set(ENVIRONMENT_NAMES) & set(FOREIGN_NAMES)
    assert set(FOREIGN_NAMES) >= FAMILIES


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("FrozenLake-v1", 100),
        ("FrozenLake-v1-not-slippery", 100),
        ("FrozenLake8x8-v1", 200),
        ("Taxi-v4", 200),
        ("Taxi-v4-fine-100", 200),
        ("CliffWalking-v1", 50),
        ("DeepSea-20", 50),
    ],
)
def test_steps_of_an_episode(name, steps):
    assert environment(name, 0.99).episode_steps == steps


@pytest.mark.parametrize("use", [folder, load])
def test_a_missing_package_is_named_with_the_remedy(use):
    message = r"needs the package lost-one\. No module named 'lost_one'.*install\.sh"
    with pytest.raises(ModuleNotFoundError, match=message):
        use("lost_one", "lost-one")


# All foreign environments


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_foreign_environments_are_processes_with_something_to_learn(name):
    env = build(name)
    np.testing.assert_allclose(env.prob.sum(axis=2), 1, atol=1e-12)
    assert env.prob.min() >= 0
    assert env.start.sum() == pytest.approx(1)
    assert env.name == name
    v = env.optimal_q.max(axis=1)
    following = np.where(env.terminated, 0.0, v[env.next_state])
    q = (env.prob * (env.reward + env.gamma * following)).sum(axis=2)
    np.testing.assert_allclose(env.optimal_q, q, atol=1e-6)
    # The optimum is worth more than chance: scores are well defined.
    uniform = env.start @ env.policy_value(env.uniform_policy)
    assert env.start @ v - uniform > 0.01


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_seed_gives_the_same_task_again(name):
    first, other = build(name, 1), build(name, 2)
    registry._build.cache_clear()
    again = build(name, 1)
    assert again is not first
    for part in ("next_state", "prob", "reward", "terminated", "start"):
        np.testing.assert_array_equal(getattr(again, part), getattr(first, part))
    same = [
        np.array_equal(getattr(first, part), getattr(other, part))
        for part in ("next_state", "reward")
    ]
    assert not all(same)


# Published figures


def test_sepsis_returns_are_those_of_the_package():
    # Undiscounted. An episode takes 10 steps or so, the limit of 500 is never met.
    env = build("ICU-Sepsis-v2", gamma=1 - 1e-9)
    assert (env.n_states, env.n_actions) == (716, 25)
    # Its table: random 0.78, optimal 0.88.
    random = env.start @ env.policy_value(env.uniform_policy)
    assert random == pytest.approx(0.78, abs=0.005)
    assert env.start @ env.optimal_q.max(axis=1) == pytest.approx(0.88, abs=0.005)


def test_blackjack_is_played_best_as_sutton_and_barto_say():
    states = blackjack_states()
    hits = environment("Blackjack-v1", 1 - 1e-9).optimal_q.argmax(axis=1)
    sticks_from = {
        (ace, shown): min(
            state[0]
            for state, hit in zip(states, hits, strict=True)
            if state and state[1:] == (shown, ace, False) and not hit
        )
        for ace in (False, True)
        for shown in range(1, 11)
    }
    # Figure 5.2, by the dealer's card from ace to ten.
    hard = [17, 13, 13, 12, 12, 12, 17, 17, 17, 17]
    assert [sticks_from[False, shown] for shown in range(1, 11)] == hard
    # From two to ten; an ace is nearly a tie.
    soft = [18, 18, 18, 18, 18, 18, 18, 19, 19]
    assert [sticks_from[True, shown] for shown in range(2, 11)] == soft


@pytest.mark.parametrize(
    ("penalty", "cost"), [(4, 4.04), (9, 5.44), (19, 6.68), (39, 7.84)]
)
def test_lost_sales_cost_what_zipkin_found(penalty, cost):
    env = lost_sales(31, 15, penalty, 0.99)
    # The gain of an average period, once the start is forgotten.
    gain = (finite_horizon(env, 300) - finite_horizon(env, 200)) / 100
    assert -gain == pytest.approx(cost, abs=0.005)


# Closed forms


def test_the_queue_has_thresholds_in_both_decisions():
    env = environment("queue-21", 0.99)
    admits, fast = divmod(env.optimal_q.argmax(axis=1), 2)
    # Admit while there are few, be fast when there are many; both change within.
    assert (np.diff(admits) <= 0).all()
    assert (np.diff(fast) >= 0).all()
    assert 1 < admits.sum() < 20
    assert 1 < 21 - fast.sum() < 20
    # Without admission an empty queue earns nothing, or the price of speed for ever.
    never = np.zeros((21, 4))
    never[:, 0] = 1
    assert env.policy_value(never)[0] == pytest.approx(0)
    assert env.policy_value(never[:, [1, 0, 2, 3]])[0] == pytest.approx(-100)


def test_the_gamblers_ruin():
    # Least stakes without discounting: (1 - r^s) / (1 - r^goal), r = tails / heads.
    env = gambler(100, 1 - 1e-9)
    timid = np.eye(50)[np.zeros(101, dtype=int)]
    ratio = 0.45 / 0.55
    capital = np.arange(1, 100)
    expected = (1 - ratio**capital) / (1 - ratio**100)
    np.testing.assert_allclose(env.policy_value(timid)[1:100], expected, atol=1e-4)
    # All at once, from half of it, is one toss.
    bold = np.eye(50)[np.full(101, 49)]
    assert env.policy_value(bold)[50] == pytest.approx(0.55)
    # With a coin in one's favour no policy wins more often than the least stakes.
    np.testing.assert_allclose(env.optimal_q[1:100].max(axis=1), expected, atol=1e-4)


def test_wet_chicken_follows_its_rule():
    env = environment("WetChicken-5x5", 0.95)
    rng = np.random.default_rng(0)
    n = 100_000
    s, a = rng.integers(25, size=n), rng.integers(5, size=n)
    x, y = divmod(s, 5)
    along, across = np.array([0, -1, -2, 0, 0])[a], np.array([0, 0, 0, -1, 1])[a]
    velocity = 3 * y / 5
    turbulence = rng.uniform(-1, 1, size=n) * (3.5 - velocity)
    place = np.round(x + along + velocity + turbulence)
    falls = place >= 5
    place = np.where(falls, 0, place.clip(0)).astype(int)
    column = np.where(falls, 0, (y + across).clip(0, 4))
    # Expected and observed numbers of each successor of each pair.
    observed = np.zeros((25, 5, 25))
    np.add.at(observed, (s, a, place * 5 + column), 1)
    visits = observed.sum(axis=2, keepdims=True)
    expected = visits * env.transition.toarray().reshape(25, 5, 25)
    assert not observed[expected == 0].any()
    large = expected > 5
    z = (observed - expected)[large] / np.sqrt(expected[large])
    assert np.abs(z).max() < 5
    # A step pays the place that it reaches.
    paid = env.reward[env.prob > 0]
    np.testing.assert_array_equal(paid, env.next_state[env.prob > 0] // 5)
    assert not env.terminated.any()


def test_random_mdps_pay_at_the_farthest_goal_within_reach():
    env = environment("RandomMDP-50-4", 0.95, seed=1)
    assert env.start[0] == 1
    paid = (env.reward == 1) & (env.prob > 0)
    (goal,) = set(env.next_state[paid])
    assert env.terminated[paid].all()
    assert not env.expected_reward[goal].any()
    reached = env.optimal_q[0].max()
    assert reached > 0.95**50
    # The goal is the same at every discount.
    later = environment("RandomMDP-50-4", 0.99, seed=1)
    np.testing.assert_array_equal(later.reward, env.reward)
    # Of goals within reach, none is worth less from the start.
    base = garnet(50, 4, 4, 0.95, seed=(1, 1))
    for other in set(range(1, 50)) - {int(goal)}:
        arrives = base.next_state == other
        v = np.zeros(50)
        for _ in range(400):
            following = np.where(arrives, 1.0, 0.95 * v[base.next_state])
            v = (base.prob * following).sum(axis=2).max(axis=1)
        assert not 0.95**50 + 1e-6 < v[0] < reached - 1e-6


def test_random_lakes_differ_and_can_be_crossed():
    holes = set()
    for seed in range(5):
        env = environment("FrozenLake-v1-random-8x8", 0.99, seed)
        assert env.start @ env.optimal_q.max(axis=1) > 0
        ends = env.terminated[:, 0, 0] & (env.next_state[:, 0, 0] == np.arange(64))
        holes.add(tuple(np.flatnonzero(ends)))
    assert len(holes) == 5


# AnyMDP


def test_fast_value_iteration_draws_the_packages_own_tasks():
    sampler = pytest.importorskip("xenoverse.anymdp.task_sampler")
    from pretraining.benchmark.environments.anymdp import sample_task

    for seed in (3, 5):
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        task = sample_task(16, seed)
        np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
        original = sampler.AnyMDPTaskSampler(16, 5, seed=seed)
        for key, value in original.items():
            np.testing.assert_array_equal(task[key], value, err_msg=key)


def test_without_its_package_anymdp_says_what_to_install():
    if importlib.util.find_spec("xenoverse"):
        pytest.skip("The package is installed.")
    with pytest.raises(ModuleNotFoundError, match=r"package xenoverse.*install\.sh"):
        environment("AnyMDP-16", 0.99)
