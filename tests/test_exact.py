"""The oracle: exact values from dense and sparse arrays, from any start."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from pretraining.benchmark.environments import environment
from pretraining.benchmark.exact import evaluate, policy_iteration


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Fewer and more states than the sparse form solves densely.
@pytest.mark.parametrize("name", ["Garnet-20-4-3", "Garnet-200-8-5"])
def test_dense_arrays_and_any_guess_give_the_same_values(name):
    env = environment(name, 0.9)
    args = (env.expected_reward, env.gamma)
    guess = rng().normal(size=env.n_states) * 100
    for transition in (env.transition, env.transition.toarray()):
        for start, n_sweeps in ((None, 50), (guess, 20), (guess, 0)):
            q = policy_iteration(transition, *args, start, n_sweeps)
            np.testing.assert_allclose(q, env.optimal_q, atol=1e-7)
        v = evaluate(transition, *args, env.uniform_policy)
        np.testing.assert_allclose(v, env.policy_value(env.uniform_policy))


def test_policy_iteration_finds_the_best_of_all_deterministic_policies():
    generator = rng()
    transition = generator.dirichlet(np.ones(4), size=(3, 2))[:, :, :3]
    reward, gamma = generator.normal(size=(3, 2)), 0.9
    values = []
    for actions in product(range(2), repeat=3):
        P, r = transition[range(3), actions], reward[range(3), actions]
        values.append(np.linalg.solve(np.eye(3) - gamma * P, r))
    q = policy_iteration(transition.reshape(6, 3), reward, gamma)
    np.testing.assert_allclose(q.max(axis=1), np.max(values, axis=0))


def test_a_guess_is_where_the_search_starts():
    # Undiscounted, staying costs 0.001 a step for ever, leaving costs 1 once. Staying
    # never ends, so only a guess that prefers to leave can be solved for.
    transition, reward = np.array([[1.0], [0.0]]), np.array([[-1e-3, -1.0]])
    q = policy_iteration(transition, reward, 1.0, np.array([-2.0]), n_sweeps=0)
    np.testing.assert_allclose(q, [[-1.001, -1.0]])
    with pytest.raises(np.linalg.LinAlgError):
        policy_iteration(transition, reward, 1.0, np.array([0.0]), n_sweeps=0)
