"""Optimal in the limit: the bundled checkpoint with a million visits of every pair."""

from __future__ import annotations

import numpy as np
import pytest

from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment
from pretraining.benchmark.process import Environment
from tabrl import OfflinePolicyEstimator
from tabrl._statistics import Statistics


def expected_statistics(env: Environment, n: float) -> Statistics:
    """Return what `n` visits of every pair of a known process give on average."""
    n_pairs = env.n_states * env.n_actions
    flow = env.transition.tocsr()
    flow.sort_indices()
    edges = flow.tocoo()

    def of_pairs(outcome):
        return n * (env.prob * outcome).sum(axis=2).ravel()

    return Statistics(
        n_states=env.n_states,
        n_actions=env.n_actions,
        pair_state=np.arange(n_pairs) // env.n_actions,
        pair_action=np.arange(n_pairs) % env.n_actions,
        n=np.full(n_pairs, float(n)),
        reward_sum=of_pairs(env.reward),
        reward_sq_sum=of_pairs(env.reward**2),
        n_terminated=of_pairs(env.terminated),
        edge_pair=edges.row.astype(np.int64),
        edge_next=edges.col.astype(np.int64),
        edge_count=n * edges.data,
    )


def test_expected_statistics_are_complete():
    statistics = expected_statistics(environment("FrozenLake-v1", 0.99), 9)
    continuing = np.bincount(statistics.edge_pair, statistics.edge_count, 64)
    np.testing.assert_allclose(statistics.n, statistics.n_terminated + continuing)
    # From tile 14, right goes down, right or up: the goal is one of the three.
    assert statistics.reward_sum[14 * 4 + 2] == pytest.approx(3)
    assert statistics.n_terminated[14 * 4 + 2] == pytest.approx(3)


@pytest.mark.parametrize("gamma", [0.95, 0.99])
@pytest.mark.parametrize("name", ENVIRONMENT_NAMES)
def test_optimal_in_the_limit(name, gamma):
    env = environment(name, gamma)
    policy = OfflinePolicyEstimator(gamma=gamma, random_state=0)
    labels = np.arange(env.n_states), np.arange(env.n_actions)
    policy._plan(*labels, expected_statistics(env, 1e6))
    chosen = policy.predict(labels[0])
    greedy = np.eye(env.n_actions)[chosen]
    assert env.normalised_value(greedy) >= 0.9999
    # Sampled, only actions as good as the best are left.
    assert env.normalised_value(policy.predict_proba(labels[0])) >= 0.999
    values = policy.action_values(labels[0]).max(axis=1)
    expected = env.optimal_q.max(axis=1)
    np.testing.assert_allclose(
        env.start @ values, env.start @ expected, rtol=0.02, atol=1e-3
    )
