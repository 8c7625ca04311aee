"""Behaviour policies: the clinician (the others are in test_benchmark.py)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pretraining.benchmark.behaviours import BEHAVIOURS, behaviour_policy, clinician
from pretraining.benchmark.environments import environment


@pytest.mark.parametrize(
    "name", ["FrozenLake-v1", "CliffWalking-v1", "Garnet-20-4-3", "Taxi-v4"]
)
def test_a_clinician_is_worth_065(name):
    env = environment(name, 0.99)
    pi = clinician(env)
    np.testing.assert_allclose(pi.sum(axis=1), 1)
    assert env.normalised_value(pi) == pytest.approx(0.65, abs=1e-6)


def test_a_clinician_has_habits_that_the_values_do_not_explain():
    env = environment("Garnet-200-8-5", 0.99)
    pi = behaviour_policy(env, "clinician")
    # In some states a worse action is preferred, which no softmax of the values does.
    wrong = pi.argmax(axis=1) != env.optimal_q.argmax(axis=1)
    assert 0.1 < wrong.mean() < 0.9
    # Sure in some states, undecided in others.
    entropy = -(pi * np.log(pi.clip(1e-300))).sum(axis=1)
    assert np.ptp(np.exp(entropy)) > 3
    # The noise is as in the records: 1.6 in the logarithm of the probabilities, for
    # actions alike in value, here all, as the temperature grows without bound.
    flat = dataclasses.replace(env, reward=np.zeros_like(env.reward))
    # Every policy is worth the same there, so its value is not defined.
    with np.errstate(invalid="ignore"):
        habit = np.log(clinician(flat))
    centred = habit - habit.mean(axis=1, keepdims=True)
    sd = np.sqrt((centred**2).sum() / (200 * 7))
    assert sd == pytest.approx(1.6, rel=5 / np.sqrt(2 * 200 * 7))


def test_a_clinician_is_drawn_once_for_a_process():
    env = environment("FrozenLake-v1", 0.99)
    np.testing.assert_array_equal(clinician(env), clinician(dataclasses.replace(env)))
    for change in ({"seed": 1}, {"name": "another lake"}):
        other = clinician(dataclasses.replace(env, **change))
        assert np.abs(other - clinician(env)).max() > 0.1


def test_a_state_of_equal_values_is_left_to_habit():
    env = environment("FrozenLake-v1", 0.99)
    hole = clinician(env)[5]
    assert 0 < hole.min() < hole.max() < 1


def test_every_behaviour_is_a_policy():
    env = environment("FrozenLake-v1", 0.99)
    for name in BEHAVIOURS:
        np.testing.assert_allclose(behaviour_policy(env, name).sum(axis=1), 1)
