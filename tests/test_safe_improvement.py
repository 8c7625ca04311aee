"""Peers that improve on the behaviour policy safely: closed forms, planted faults."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.adv_soft_spibb import AdvSoftSPIBB
from pretraining.benchmark.baselines.offline.data import LoggedData, expected_data
from pretraining.benchmark.baselines.offline.dprl import DPRL, Episodes
from pretraining.benchmark.baselines.offline.duipi import DUIPI, Posterior
from pretraining.benchmark.baselines.offline.lower_soft_spibb import LowerSoftSPIBB
from pretraining.benchmark.baselines.offline.ramdp import RaMDP
from pretraining.benchmark.baselines.offline.soft_spibb import (
    improve_within_budget,
    iterate_within_budget,
)
from pretraining.benchmark.baselines.offline.spibb import policy_action_values
from pretraining.benchmark.environments import environment, garnet

Policy = Callable[[LoggedData, float], NDArray]


def logged(rows, n_states, n_actions, gamma=0.9, behaviour=None) -> LoggedData:
    """Build data of rows (state, action, reward, next state, terminated, truncated)."""
    names = ("state", "action", "reward", "next_state", "terminated", "truncated")
    types = (np.int64, np.int64, np.float64, np.int64, bool, bool)
    log = {
        name: np.array(column, dtype=kind)
        for name, kind, column in zip(
            names, types, zip(*rows, strict=True), strict=True
        )
    }
    if behaviour is None:
        behaviour = np.full((n_states, n_actions), 1 / n_actions)
    return LoggedData.from_log(log, gamma, np.asarray(behaviour, dtype=np.float64))


def arms(visits, means, behaviour=None, scale=1.0) -> LoggedData:
    """Build data of a one-step bandit, whose rewards lie between 0 and `scale`."""
    rows = []
    for arm, (n, mean) in enumerate(zip(visits, means, strict=True)):
        rows += [(0, arm, mean * scale, 0, True, False)] * n
    data = logged(rows, 1, len(visits), behaviour=behaviour)
    return LoggedData(
        data.log, data.statistics, (0.0, scale), data.gamma, data.behaviour
    )


@pytest.fixture(scope="module")
def small_data() -> LoggedData:
    """Forty steps in a process of 5 states and 3 actions."""
    env = garnet(5, 3, 2, 0.9, seed=3)
    behaviour = np.random.default_rng(4).dirichlet(np.ones(3), size=5)
    log = env.simulate(behaviour, 40, np.random.default_rng(5))
    return LoggedData.from_log(log, 0.9, behaviour)


# RaMDP


def check_ramdp(policy: Policy) -> None:
    # 0.9 - kappa / sqrt(4) and 0.7 - kappa / sqrt(100) cross at kappa = 0.5.
    for scale in (1.0, 10.0):
        data = arms([4, 100], [0.9, 0.7], scale=scale)
        np.testing.assert_array_equal(policy(data, 0.499), [[1, 0]])
        np.testing.assert_array_equal(policy(data, 0.501), [[0, 1]])


def test_ramdp_equals_the_closed_form_on_a_bandit():
    check_ramdp(RaMDP().policy)


def test_a_reward_raised_for_few_visits_is_caught():
    with pytest.raises(AssertionError):
        check_ramdp(lambda data, kappa: RaMDP().policy(data, -kappa))


def test_ramdp_never_prefers_an_unvisited_pair():
    np.testing.assert_array_equal(RaMDP().policy(arms([1, 0], [0, 0]), 2.0), [[1, 0]])


# DUIPI


def two_step_data() -> LoggedData:
    """State 1 pays 1. Action 0 reached it 4 times of 5, action 1 70 times of 100."""
    rows = []
    for action, n, reached in ((0, 5, 4), (1, 100, 70)):
        rows += [(0, action, 0.0, 1, False, True)] * reached
        rows += [(0, action, 0.0, 0, True, False)] * (n - reached)
    rows += [(1, 0, 1.0, 0, True, False)] * 50
    return logged(rows, 2, 2, gamma=0.5)


def check_duipi(policy: Policy) -> None:
    # q = gamma p and sd = gamma sqrt(p (1 - p) / (n + 1)): the Dirichlet's variance.
    crossing = (0.8 - 0.7) / (np.sqrt(0.16 / 6) - np.sqrt(0.21 / 101))
    data = two_step_data()
    assert policy(data, 0.999 * crossing)[0].argmax() == 0
    assert policy(data, 1.001 * crossing)[0].argmax() == 1


def test_duipi_equals_the_closed_form_in_two_steps():
    check_duipi(DUIPI(alpha=1e-9).policy)


def test_an_optimistic_duipi_is_caught():
    with pytest.raises(AssertionError):
        check_duipi(lambda data, xi: DUIPI(alpha=1e-9).policy(data, -xi))


@pytest.mark.parametrize("ends", [False, True])
def test_duipis_values_and_variances_solve_its_equations(ends, small_data):
    alpha, data = 0.1, small_data
    if ends:
        terminated = np.arange(40) % 7 == 0
        log = {**data.log, "terminated": terminated}
        data = LoggedData.from_log(log, 0.9, data.behaviour)
    S, A = data.n.shape
    ended = data.n - data.counts.toarray().sum(axis=1).reshape(S, A)
    count = np.dstack([data.counts.toarray().reshape(S, A, S), ended])
    a = (count + alpha)[..., : S + ends]  # the end is an outcome if it was seen
    total = a.sum(axis=-1, keepdims=True)
    P, var_P = a / total, a * (total - a) / (total**2 * (total + 1))
    r, n = data.mean_reward, np.maximum(data.n, 1)
    square = np.zeros((S, A))
    np.add.at(square, (data.log["state"], data.log["action"]), data.log["reward"] ** 2)
    var_r = np.maximum(square / n - r**2, 0) / n
    pi, q, variance = data.behaviour, np.zeros((S, A)), np.zeros((S, A))
    for _ in range(600):
        v, var_v = (pi * q).sum(axis=1), (pi**2 * variance).sum(axis=1)
        if ends:
            v, var_v = np.append(v, 0), np.append(var_v, 0)
        q = r + 0.9 * P @ v
        gain = r[..., None] + 0.9 * v
        variance = 0.81 * P**2 @ var_v + (var_P * gain**2).sum(axis=-1) + var_r
    found = Posterior(data, alpha).evaluate(pi)
    np.testing.assert_allclose(found[0], q, rtol=1e-9)
    np.testing.assert_allclose(found[1], variance, rtol=1e-9)


def test_duipi_never_takes_an_unvisited_action(small_data):
    for xi in DUIPI.constants:
        pi = DUIPI().policy(small_data, xi)
        np.testing.assert_allclose(pi.sum(axis=1), 1)
        visited = small_data.n > 0
        assert (pi[~visited & visited.any(axis=1, keepdims=True)] == 0).all()


# Soft-SPIBB of other budgets


def test_lower_soft_spibb_equals_the_closed_form_for_two_actions():
    # The action that gains costs e = sqrt(2 log(2 S A) / n), the other one nothing.
    behaviour, method = np.array([[0.7, 0.3]]), LowerSoftSPIBB()
    data = arms([50, 8], [0.2, 0.6], behaviour)
    error = np.sqrt(2 * np.log(4) / 8)
    moved = method.policy(data, 0.2)
    np.testing.assert_allclose(moved, [[0.7 - 0.2 / error, 0.3 + 0.2 / error]])
    np.testing.assert_allclose(method.policy(data, 10), [[0, 1]])
    np.testing.assert_array_equal(method.policy(data, 0), behaviour)
    # What was never tried may lose its probability, and gain none.
    lost = method.policy(arms([0, 8], [0, 0.6], behaviour), 0.2)
    np.testing.assert_allclose(lost, moved)
    kept = method.policy(arms([50, 0], [-0.2, 0], behaviour), 10)
    np.testing.assert_array_equal(kept, behaviour)


def check_lower_budget(policy: Policy, data: LoggedData) -> None:
    error = np.sqrt(2 * np.log(2 * data.n.size) / np.maximum(data.n, 1))
    for epsilon in LowerSoftSPIBB.constants:
        pi = policy(data, epsilon)
        np.testing.assert_allclose(pi.sum(axis=1), 1)
        assert pi.min() >= 0
        gained = np.maximum(pi - data.behaviour, 0)
        assert (gained[data.n == 0] <= 1e-12).all()
        assert ((error * gained).sum(axis=1) <= epsilon + 1e-9).all()


def test_lower_soft_spibb_keeps_its_budget(small_data):
    assert (small_data.n == 0).any()
    check_lower_budget(LowerSoftSPIBB().policy, small_data)


def test_a_budget_that_is_spent_twice_is_caught(small_data):
    def spendthrift(data, epsilon):
        return LowerSoftSPIBB().policy(data, 2 * epsilon)

    with pytest.raises(AssertionError):
        check_lower_budget(spendthrift, small_data)


def test_advantage_is_spent_as_it_was_gained():
    # Equal errors. 0.2 may move by epsilon 0.8: action 0 is worst and loses it first.
    q, error = np.array([[0.0, 1.0, 2.0]]), np.full((1, 3), 2.0)
    behaviour = np.full((1, 3), 1 / 3)
    free = improve_within_budget(q, behaviour, error, 0.8)
    np.testing.assert_allclose(free, behaviour + [[-0.2, 0, 0.2]])
    # Action 2 is worse than 0 by the other values: only action 1 may take it.
    advantage = np.array([[0.0, 1.0, -1.0]])
    bound = improve_within_budget(q, behaviour, error, 0.8, advantage=advantage)
    np.testing.assert_allclose(bound, behaviour + [[-0.2, 0.2, 0]])
    # With a larger budget, what that gained pays for half as much from 1 to 2.
    both = improve_within_budget(q, behaviour, error, 10.0, advantage=advantage)
    np.testing.assert_allclose(both, behaviour + [[-1 / 3, 1 / 3 - 1 / 6, 1 / 6]])


def check_advantage(policy: Policy, data: LoggedData) -> None:
    q = policy_action_values(data, data.behaviour)
    for epsilon in AdvSoftSPIBB.constants:
        change = policy(data, epsilon) - data.behaviour
        assert ((change * q).sum(axis=1) >= -1e-9).all()


def test_adv_soft_spibb_is_advantageous_in_each_state(small_data):
    check_advantage(AdvSoftSPIBB().policy, small_data)
    pi = AdvSoftSPIBB().policy(small_data, 5.0)
    assert np.abs(pi - small_data.behaviour).max() > 0.1


def test_a_policy_that_ignores_the_advantage_is_caught():
    # Waiting in state 0 is worth more than leaving it only once state 1 is played
    # well, which the behaviour does not.
    rows = [(0, 0, 0.0, 1, False, True), (0, 1, 0.5, 0, True, False)] * 100
    rows += [(1, 0, 1.0, 0, True, False), (1, 1, -1.0, 0, True, False)] * 100
    data = logged(rows, 2, 2)
    check_advantage(AdvSoftSPIBB().policy, data)
    assert iterate_within_budget(data, 5.0, 1.0)[0, 0] == pytest.approx(1)
    with pytest.raises(AssertionError):
        check_advantage(lambda data, e: iterate_within_budget(data, e, 1.0), data)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Garnet-20-4-3"])
def test_peers_are_optimal_in_the_limit(name):
    env = environment(name, 0.99)
    data = expected_data(env, 1e12)
    for method in (LowerSoftSPIBB(), RaMDP(), DUIPI(alpha=1e-6)):
        pi = method.policy(data, method.constants[-1])
        assert env.normalised_value(pi) == pytest.approx(1, abs=1e-3), method.name
    none = expected_data(env, 0)
    for method in (LowerSoftSPIBB(), AdvSoftSPIBB()):
        np.testing.assert_array_equal(method.policy(none, 5.0), none.behaviour)


# DPRL


def test_dprl_equals_the_closed_form_on_a_bandit():
    # The mean return is 0.51: arms 0 and 1 are above it.
    behaviour = np.array([[0.2, 0.3, 0.5]])
    data = arms([4, 100, 50], [0.9, 0.7, 0.1], behaviour)
    np.testing.assert_array_equal(DPRL().policy(data, 4), [[1, 0, 0]])
    np.testing.assert_array_equal(DPRL().policy(data, 5), [[0, 1, 0]])
    np.testing.assert_array_equal(DPRL().policy(data, 101), behaviour)


def detour_data(prize: float, gamma: float = 0.9) -> LoggedData:
    """1 at once, or a prize in the third step by rarely visited states, or -5."""
    rows = []
    for i in range(20):
        first, second = 1 + i % 10, 11 + i % 10
        rows += [
            (0, 1, 0.0, first, False, False),
            (first, 0, 0.0, second, False, False),
        ]
        rows += [(second, 0, prize, 0, True, False)]
        rows += [(0, 0, 1.0, 0, True, False), (0, 2, -5.0, 0, True, False)]
    return logged(rows, 21, 3, gamma)


def check_dprl_discount(policy: Policy) -> None:
    # gamma^2 times the prize is 1 at 1.2346.
    for prize, action in ((1.22, 0), (1.25, 1)):
        data = detour_data(prize)
        pi = policy(data, 10)
        np.testing.assert_array_equal(pi[0], np.eye(3)[action])
        np.testing.assert_array_equal(pi[1:], data.behaviour[1:])


def test_dprl_discounts_the_way_between_decision_points():
    check_dprl_discount(DPRL().policy)


def test_a_way_that_is_not_discounted_is_caught():
    def timeless(data, n):
        patient = LoggedData.from_log(data.log, 0.999, data.behaviour)
        return DPRL().policy(patient, n)

    with pytest.raises(AssertionError):
        check_dprl_discount(timeless)


def test_dprl_links_are_those_of_a_log_by_hand():
    # States 0 and 3 decide. From 0: two steps to 3; the end at once; and a truncated
    # episode that stops before state 2, which is worth 1.
    rows = [
        (0, 0, 1.0, 1, False, False),
        (1, 0, 2.0, 3, False, False),
        (3, 0, 4.0, 3, True, False),
        (0, 0, 3.0, 0, True, False),
        (0, 0, 5.0, 2, False, True),
        (2, 0, 1.0, 2, True, False),
    ]
    data = logged(rows, 4, 1, gamma=0.5)
    episodes = Episodes.from_data(data)
    np.testing.assert_array_equal(episodes.episode, [0, 0, 0, 1, 2, 3])
    reward, discount, target = episodes.until(np.array([True, False, False, True]))
    np.testing.assert_allclose(reward, [2.0, 2.0, 4.0, 3.0, 5.5, 1.0])
    np.testing.assert_allclose(discount, [0.5, 1.0, 0, 0, 0, 0])
    assert target[0] == target[1] == 3
    good = np.array([[True], [False], [False], [True]])
    transition, mean = episodes.links(data, good)
    expected = np.zeros((4, 4))
    expected[0, 3] = 0.5 / 3
    np.testing.assert_allclose(transition.toarray(), expected)
    np.testing.assert_allclose(mean[[0, 3], 0], [10.5 / 3, 4.0])


def test_dprl_counts_the_first_visit_of_an_episode_alone():
    rows = [
        (0, 0, 1.0, 0, False, False),
        (0, 0, 1.0, 0, True, False),
        (0, 1, 5.0, 0, True, False),
    ]
    data = logged(rows, 1, 2, gamma=0.5)
    q, v = Episodes.from_data(data).first_visit_means(data)
    np.testing.assert_allclose(q, [[1.5, 5.0]])
    np.testing.assert_allclose(v, [3.25])
