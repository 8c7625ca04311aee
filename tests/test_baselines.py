"""Offline baselines and the Bayes reference: closed forms and enumeration."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from pretraining.benchmark.baselines.offline import soft_spibb
from pretraining.benchmark.baselines.offline.certainty_equivalence import (
    CertaintyEquivalence,
)
from pretraining.benchmark.baselines.offline.cloning import BehaviourCloning
from pretraining.benchmark.baselines.offline.data import LoggedData, expected_data
from pretraining.benchmark.baselines.offline.soft_spibb import SoftSPIBB
from pretraining.benchmark.baselines.offline.spibb import SPIBB
from pretraining.benchmark.baselines.offline.vi_lcb import VILCB, penalised_reward
from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment, garnet
from pretraining.benchmark.exact import (
    action_values,
    evaluate,
    greedy,
    policy_iteration,
)
from pretraining.validation.bayes import (
    bayes_reference,
    inferred_mean,
    mean_value,
    posterior_samples,
)
from tabrl._statistics import Statistics

GAMMAS = (0.95, 0.99)


CE, CE_FIRST = CertaintyEquivalence(), CertaintyEquivalence("first")
LCB = VILCB()


def bandit_data(
    n, means, reward_range=(0.0, 1.0), gamma=0.9, behaviour=None
) -> LoggedData:
    """Build the data of a one-step bandit."""
    n = np.array(n)
    arm = np.flatnonzero(n)
    none, visits = np.zeros(0, dtype=np.int64), n[arm].astype(float)
    reward_sum = visits * np.array(means)[arm]
    return LoggedData(
        log={},
        statistics=Statistics(
            n_states=1,
            n_actions=len(n),
            pair_state=np.zeros_like(arm),
            pair_action=arm,
            n=visits,
            reward_sum=reward_sum,
            reward_sq_sum=reward_sum**2 / visits,
            n_terminated=visits,
            edge_pair=none,
            edge_next=none,
            edge_count=np.zeros(0),
        ),
        reward_range=reward_range,
        gamma=gamma,
        behaviour=np.full((1, len(n)), 1 / len(n)) if behaviour is None else behaviour,
    )


def counted(log, n_states, n_actions, gamma, behaviour=None) -> LoggedData:
    if behaviour is None:
        behaviour = np.full((n_states, n_actions), 1 / n_actions)
    return LoggedData.from_log(log, gamma, behaviour)


def test_count_of_a_small_log():
    log = {
        "state": np.array([0, 0, 1, 0]),
        "action": np.array([1, 1, 0, 1]),
        "reward": np.array([1.0, 3.0, -2.0, 0.0]),
        "next_state": np.array([1, 1, 0, 0]),
        "terminated": np.array([False, True, False, False]),
    }
    data = counted(log, 2, 2, 0.9)
    np.testing.assert_array_equal(data.n, [[0, 3], [1, 0]])
    reward_sum = data.table(data.statistics.reward_sum)
    np.testing.assert_array_equal(reward_sum, [[0, 4], [-2, 0]])
    np.testing.assert_array_equal(data.mean_reward, [[0, 4 / 3], [-2, 0]])
    expected = [[0, 0], [1, 1], [1, 0], [0, 0]]
    np.testing.assert_array_equal(data.counts.toarray(), expected)
    np.testing.assert_allclose(data.transition.toarray()[1], [1 / 3, 1 / 3])
    assert data.reward_range == (-2.0, 3.0)
    assert (data.n_states, data.n_actions) == (2, 2)


def test_expected_data_are_what_many_visits_give():
    # FrozenLake's goal pays 1 and ends: rewards that differ, and terminations.
    env = environment("FrozenLake-v1", 0.9)
    rng = np.random.default_rng(0)
    log = env.simulate(env.uniform_policy, 200_000, rng)
    found, limit = counted(log, 16, 4, 0.9), expected_data(env, 10)
    busy = found.n > 1000
    assert busy.sum() >= 20
    five_errors = 5 * np.sqrt(0.25 / 1000)
    assert np.abs(found.mean_reward - limit.mean_reward)[busy].max() < five_errors
    error = np.abs((found.transition - limit.transition).toarray()).max(axis=1)
    assert error[busy.ravel()].max() < five_errors
    for name in ("n_terminated", "reward_sq_sum"):
        share, expected = (
            data.table(getattr(data.statistics, name)) / data.n.clip(min=1)
            for data in (found, limit)
        )
        assert np.abs(share - expected)[busy].max() < five_errors


def test_behaviour_cloning_is_the_frequencies():
    log = {
        "state": np.array([0, 0, 0, 0]),
        "action": np.array([0, 0, 1, 0]),
        "reward": np.zeros(4),
        "next_state": np.array([0, 0, 0, 1]),
        "terminated": np.zeros(4, dtype=bool),
    }
    pi = BehaviourCloning().policy(counted(log, 2, 2, 0.9), None)
    np.testing.assert_allclose(pi, [[0.75, 0.25], [0.5, 0.5]])


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", ENVIRONMENT_NAMES)
def test_baselines_are_optimal_in_the_limit(name, gamma):
    env = environment(name, gamma)
    data = expected_data(env, 1e6)
    for method in (CE, CE_FIRST):
        pi = method.policy(data, None)
        assert env.normalised_value(pi) == pytest.approx(1, abs=1e-9)
    pi = LCB.policy(expected_data(env, 1e14), 1.0)
    assert env.normalised_value(pi) > 1 - 1e-4


def test_certainty_equivalence_values_unvisited_pairs_at_zero():
    loses, wins = bandit_data([5, 0], [-1, 0]), bandit_data([5, 0], [1, 0])
    np.testing.assert_array_equal(CE.policy(loses, None), [[0, 1]])
    np.testing.assert_array_equal(CE.policy(wins, None), [[1, 0]])
    unknown = bandit_data([0, 0], [0, 0])
    np.testing.assert_array_equal(CE.policy(unknown, None), [[0.5, 0.5]])
    np.testing.assert_array_equal(CE_FIRST.policy(unknown, None), [[1, 0]])


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
    impatient, patient = counted(log, 1, 2, 0.4), counted(log, 1, 2, 0.6)
    np.testing.assert_array_equal(CE.policy(impatient, None), [[1, 0]])
    np.testing.assert_array_equal(CE.policy(patient, None), [[0, 1]])


def check_vi_lcb_on_a_bandit(policy: Callable[[LoggedData, float], NDArray]) -> None:
    # Bounds 0.9 - c w / sqrt(4) and 0.7 - c w / sqrt(100) cross at c = 0.2 / (0.4 w),
    # with w = sqrt(log(2 * 1 * 2 / delta) / 2).
    data = bandit_data([4, 100], [0.9, 0.7])
    crossing = 0.5 / np.sqrt(np.log(4 / 0.05) / 2)
    below = policy(data, 0.999 * crossing)
    np.testing.assert_array_equal(below, [[1, 0]])
    above = policy(data, 1.001 * crossing)
    np.testing.assert_array_equal(above, [[0, 1]])
    # The bonus is in units of the rewards.
    tenfold = bandit_data([4, 100], [9.0, 7.0], reward_range=(0.0, 10.0))
    np.testing.assert_array_equal(policy(tenfold, 0.999 * crossing), below)
    np.testing.assert_array_equal(policy(tenfold, 1.001 * crossing), above)


def test_vi_lcb_equals_the_closed_form_on_a_bandit():
    check_vi_lcb_on_a_bandit(VILCB(delta=0.05).policy)


def test_a_bonus_of_the_wrong_sign_is_caught():
    # A planted fault: an upper in place of a lower confidence bound.
    def optimistic(data, c):
        return VILCB(delta=0.05).policy(data, -c)

    with pytest.raises(AssertionError):
        check_vi_lcb_on_a_bandit(optimistic)


def test_vi_lcb_breaks_ties_as_it_is_told():
    data = bandit_data([5, 5, 5], [0.2, 0.7, 0.7])
    np.testing.assert_array_equal(LCB.policy(data, 0.1), [[0, 0.5, 0.5]])
    first = VILCB("first").policy(data, 0.1)
    np.testing.assert_array_equal(first, [[0, 1, 0]])


@pytest.mark.parametrize("reward", [-1.0, 0.0, 1.0])
def test_vi_lcb_never_prefers_an_unvisited_pair(reward):
    data = bandit_data([1, 0], [reward, 0], reward_range=(-1.0, 1.0), gamma=0.99)
    np.testing.assert_array_equal(LCB.policy(data, 1.0), [[1, 0]])
    unknown = bandit_data([0, 0], [0, 0], gamma=0.99)
    np.testing.assert_array_equal(LCB.policy(unknown, 1.0), [[0.5, 0.5]])


def test_penalised_reward_is_the_closed_form_for_any_number_of_sets():
    # sqrt(log(2 * 1 * 2 / delta) / 2) = 1 at this delta.
    delta = 4 / np.exp(2)
    n = np.array([[[4.0, 0.0]], [[1.0, 25.0]]])  # two sets of one state
    mean = np.array([[[0.5, 0.0]], [[0.5, 0.5]]])
    low, high = np.zeros((2, 1, 1)), np.array([1.0, 2.0])[:, None, None]
    gamma = np.array([0.5, 0.9])[:, None, None]
    c = np.array([0.1, 1.0])[:, None, None, None]  # and two constants
    found = penalised_reward(n, mean, low, high, gamma, c, delta)
    # An unvisited pair: (0 - c * 1) / (1 - 0.5).
    expected = [
        [[[0.45, -0.2]], [[0.3, 0.46]]],
        [[[0.0, -2.0]], [[-1.5, 0.1]]],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    alone = penalised_reward(n[1], mean[1], 0.0, 2.0, 0.9, 1.0, delta)
    np.testing.assert_array_equal(alone, found[1, 1])


def test_vi_lcb_stays_on_a_known_path_where_certainty_equivalence_leaves_it():
    # One optimal episode: each step cost 1, and what was not tried looks free.
    env = environment("CliffWalking-v1", 0.99)
    optimal = greedy(env.optimal_q, ties="first")
    log = env.simulate(optimal, 13, np.random.default_rng(0))
    assert log["terminated"][-1]
    data = counted(log, env.n_states, env.n_actions, 0.99)
    for c in (0.05, 0.1, 0.2, 0.5, 1.0):
        assert env.normalised_value(LCB.policy(data, c)) == pytest.approx(1)
    assert env.normalised_value(CE.policy(data, None)) < 0


def test_policy_iteration_picks_the_best_of_many_ties():
    # All actions alike: no cycling between equal policies.
    env = environment("gridworld-3x3", 0.99)
    q = policy_iteration(env.transition, np.zeros((9, 4)), 0.99)
    np.testing.assert_array_equal(q, 0)


# SPIBB


@pytest.fixture
def small_log():
    """Data of 40 steps in a process of 5 states and 3 actions, and who acted."""
    env = garnet(5, 3, 2, 0.9, seed=3)
    behaviour = np.random.default_rng(4).dirichlet(np.ones(3), size=5)
    log = env.simulate(behaviour, 40, np.random.default_rng(5))
    return LoggedData.from_log(log, 0.9, behaviour), behaviour


def test_spibb_equals_the_closed_form_on_a_bandit():
    # The best arm has too few visits: it keeps its share, the second best gets all
    # that is free.
    behaviour = np.array([[0.1, 0.7, 0.2]])
    data = bandit_data([4, 5, 9], [0.9, 0.3, 0.5], behaviour=behaviour)
    np.testing.assert_allclose(SPIBB().policy(data, 5), [[0.1, 0.0, 0.9]])
    np.testing.assert_allclose(SPIBB().policy(data, 4), [[1, 0, 0]])
    np.testing.assert_allclose(SPIBB().policy(data, 10), behaviour)


def test_spibb_is_the_best_of_all_policies_that_it_may_choose(small_log):
    data, behaviour = small_log
    known = data.n >= 2
    assert (known.sum(axis=1) > 1).sum() >= 3
    assert not known.all()
    kept = np.where(known, 0, behaviour)
    choices = [np.flatnonzero(row) if row.any() else [None] for row in known]
    values = []
    for actions in product(*choices):
        pi = kept.copy()
        for s, a in enumerate(actions):
            if a is not None:
                pi[s, a] = 1 - kept[s].sum()
            else:
                pi[s] = behaviour[s]
        values.append(evaluate(data.transition, data.mean_reward, 0.9, pi))
    pi = SPIBB().policy(data, 2)
    found = evaluate(data.transition, data.mean_reward, 0.9, pi)
    np.testing.assert_allclose(found, np.max(values, axis=0))
    np.testing.assert_allclose(pi[~known], behaviour[~known])
    np.testing.assert_allclose(pi.sum(axis=1), 1)


def test_soft_spibb_equals_the_closed_form_for_two_actions():
    # What moves is limited by the probability, or by half of the budget at either
    # action; e(s, a) = sqrt(2 log(2 S A / delta) / n).
    behaviour, method = np.array([[0.7, 0.3]]), SoftSPIBB()
    data = bandit_data([50, 8], [0.2, 0.6], behaviour=behaviour)
    error = np.sqrt(2 * np.log(4) / 8)
    moved = method.policy(data, 0.4)
    np.testing.assert_allclose(moved, [[0.7 - 0.2 / error, 0.3 + 0.2 / error]])
    np.testing.assert_allclose(method.policy(data, 10), [[0, 1]])
    np.testing.assert_array_equal(method.policy(data, 0), behaviour)
    never = bandit_data([50, 0], [-0.2, 0], behaviour=behaviour)
    np.testing.assert_array_equal(method.policy(never, 10), behaviour)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 2.0, 5.0])
def test_soft_spibb_keeps_its_budget_and_stays_below_the_exact_optimum(
    small_log, epsilon
):
    data, behaviour = small_log
    assert (data.n == 0).any()
    pi = SoftSPIBB().policy(data, epsilon)
    np.testing.assert_allclose(pi.sum(axis=1), 1)
    assert pi.min() >= 0
    unseen = data.n == 0
    np.testing.assert_array_equal(pi[unseen], behaviour[unseen])
    error = np.sqrt(2 * np.log(2 * 15) / np.maximum(data.n, 1))
    spent = np.where(unseen, 0, error * np.abs(pi - behaviour)).sum(axis=1)
    assert (spent <= epsilon + 1e-9).all()
    # The exact improvement of a state is a linear programme in what each action
    # gains and loses.
    v = evaluate(data.transition, data.mean_reward, 0.9, behaviour)
    q = action_values(data.transition, data.mean_reward, 0.9, v)
    gain = ((pi - behaviour) * q).sum(axis=1)
    best = [
        -linprog(
            np.r_[-q[s], q[s]],
            A_ub=[np.r_[error[s], error[s]]],
            b_ub=[epsilon],
            A_eq=[np.r_[np.ones(3), -np.ones(3)]],
            b_eq=[0],
            bounds=[(0, 0 if u else 1) for u in unseen[s]]
            + [
                (0, 0 if u else b) for u, b in zip(unseen[s], behaviour[s], strict=True)
            ],
        ).fun
        for s in range(5)
    ]
    assert (gain >= -1e-9).all()
    assert (gain <= np.array(best) + 1e-7).all()
    assert gain.max() > 0.1 * np.max(best) > 0


def test_soft_spibb_with_a_large_budget_is_greedy_on_the_behaviours_values():
    env = environment("Garnet-20-4-3", 0.9)
    behaviour = np.random.default_rng(0).dirichlet(np.ones(4), size=20)
    data = expected_data(env, 1e9, behaviour)
    v = evaluate(env.transition, env.expected_reward, 0.9, behaviour)
    q = action_values(env.transition, env.expected_reward, 0.9, v)
    pi = SoftSPIBB().policy(data, 5.0)
    np.testing.assert_allclose(pi, greedy(q), atol=1e-9)


def test_soft_spibb_does_not_tell_actions_apart_by_rounding(monkeypatch):
    """In the middle of a grid two ways are alike, whatever a solver's last digit."""
    env = environment("gridworld-5x5", 0.99)
    log = env.simulate(env.uniform_policy, 4096, np.random.default_rng(0))
    data = LoggedData.from_log(log, 0.99, env.uniform_policy)
    exact = soft_spibb.policy_action_values
    expected = SoftSPIBB().policy(data, 2.0)
    for seed in range(3):
        rng = np.random.default_rng(seed)

        def rounded(*args, rng=rng):
            q = exact(*args)
            return q * (1 + 1e-15 * rng.normal(size=q.shape))

        monkeypatch.setattr(soft_spibb, "policy_action_values", rounded)
        found = SoftSPIBB().policy(data, 2.0)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ENVIRONMENT_NAMES)
def test_spibb_is_optimal_in_the_limit_and_the_behaviour_without_data(name):
    env = environment(name, 0.99)
    behaviour = env.uniform_policy
    pi = SPIBB().policy(expected_data(env, 1e6), 100)
    assert env.normalised_value(pi) == pytest.approx(1, abs=1e-6)
    none = expected_data(env, 0)
    np.testing.assert_array_equal(SPIBB().policy(none, 5), behaviour)
    np.testing.assert_array_equal(SoftSPIBB().policy(none, 5.0), behaviour)


# The Bayes reference


def loop_or_leave(safe: float, seed: int = 0, n_samples: int = 2000) -> NDArray:
    """Reference where action 0 pays 1 and stays, p ~ U(0, 1), and action 1 leaves."""
    concentration = np.zeros((2, 2, 2))  # state, action, next state
    concentration[0, 0] = 1
    concentration[0, 1, 1] = concentration[1, :, 1] = 1
    return bayes_reference(
        np.zeros((2, 2, 2)),
        np.array([[1.0, safe], [0.0, 0.0]]),
        concentration,
        gamma=0.9,
        start=np.array([1.0, 0.0]),
        terminal=np.array([False, True]),
        rng=np.random.default_rng(seed),
        n_samples=n_samples,
    )


def test_bayes_reference_equals_the_closed_form():
    # E[1 / (1 - gamma p)] = -log(1 - gamma) / gamma = 2.558; for the posterior's mean
    # 1 / (1 - gamma / 2) = 1.818, so that certainty equivalence would leave for 2.3.
    np.testing.assert_allclose(loop_or_leave(2.3)[0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(loop_or_leave(2.8)[0], [0, 1], atol=1e-6)
    assert -np.log(0.1) / 0.9 == pytest.approx(2.558, abs=1e-3)


def test_bayes_reference_follows_its_seed():
    np.testing.assert_array_equal(loop_or_leave(2.3, 1, 50), loop_or_leave(2.3, 1, 50))


@pytest.mark.parametrize("seed", range(3))
def test_bayes_reference_is_no_worse_than_any_deterministic_policy(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.4, (4, 2, 4)).astype(float)
    reward = rng.normal(size=(4, 2))
    start, terminal = np.eye(4)[0], np.eye(4, dtype=bool)[3]
    pi = bayes_reference(
        counts, reward, 0.5, 0.9, start, terminal, np.random.default_rng(7), 200
    )
    P = posterior_samples(counts, 0.5, np.random.default_rng(7), 200) * ~terminal
    reward[3] = 0
    best = max(
        mean_value(P, reward, 0.9, start, np.eye(2)[list(actions)])[0]
        for actions in product(range(2), repeat=4)
    )
    assert mean_value(P, reward, 0.9, start, pi)[0] >= best - 1e-9
    np.testing.assert_allclose(pi.sum(axis=1), 1)


def test_an_unknown_concentration_is_inferred():
    counts = np.array([[[3.0, 1.0]], [[0.0, 2.0]]])
    for a in (0.5, 2.0):  # known: the mean of Dirichlet rows
        known = (counts + a) / (counts.sum(-1, keepdims=True) + 2 * a)
        assert np.allclose(inferred_mean(counts, np.array([a])), known)
    # For a = 1 the chances are 3! 1! / 5! and 2! / 3!; for 2, those of beta-binomials.
    one, two = (6 / 120) * (2 / 6), (24 * 2 / 5040 * 6) * (6 / 120 * 6)
    means = [inferred_mean(counts, np.array([a])) for a in (1.0, 2.0)]
    expected = (one * means[0] + two * means[1]) / (one + two)
    assert np.allclose(inferred_mean(counts, np.array([1.0, 2.0])), expected)
    # Rows that repeat say that it is small, and many outcomes that it is large.
    grid, few = np.geomspace(0.05, 5, 50), np.full((4, 2, 4), 0.0)
    few[..., 0] = 4
    many = np.ones((4, 2, 4))
    assert inferred_mean(few, grid)[..., 1:].max() < 0.02
    assert np.allclose(inferred_mean(many, grid), 0.25)


def test_posterior_samples_have_the_moments_of_dirichlet_rows():
    counts = np.array([[[3.0, 0.0, 1.0]]] * 3)
    P = posterior_samples(counts, 0.5, np.random.default_rng(0), 20_000)
    alpha = counts + 0.5
    mean = alpha / alpha.sum(axis=-1, keepdims=True)
    variance = mean * (1 - mean) / (alpha.sum(axis=-1, keepdims=True) + 1)
    np.testing.assert_allclose(P.mean(axis=0), mean, atol=5 * 0.25 / np.sqrt(20_000))
    np.testing.assert_allclose(P.var(axis=0), variance, rtol=0.1)


def test_bayes_reference_knows_the_process_after_much_data():
    env = garnet(8, 3, 3, 0.9, seed=1)
    P = env.transition.toarray().reshape(8, 3, 8)
    pi = bayes_reference(
        1e6 * P, env.expected_reward, 1.0, 0.9, env.start, np.zeros(8, bool),
        np.random.default_rng(0), 100,
    )  # fmt: skip
    assert env.normalised_value(pi) == pytest.approx(1, abs=1e-3)
