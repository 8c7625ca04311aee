"""Behaviour policies: who made the log."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.exact import greedy
from pretraining.benchmark.process import Environment

BEHAVIOURS = ("uniform", "epsilon 0.3", "epsilon 0.05", "softmax")


@lru_cache(maxsize=256)
def behaviour_policy(env: Environment, behaviour: str) -> NDArray[np.float64]:
    """Build a behaviour policy (S, A) by its name.

    - "uniform";
    - "epsilon <share>": optimal, uniform over the best actions, but for the share of
      the steps, which is uniform over all;
    - "softmax": softmax of the optimal action values, at the temperature that makes
      the normalised value one half.
    """
    if behaviour == "uniform":
        return env.uniform_policy
    if behaviour == "softmax":
        return _half_optimal_softmax(env)
    kind, _, share = behaviour.partition(" ")
    if kind != "epsilon":
        raise ValueError(
            "behaviour must be 'uniform', 'softmax' or 'epsilon <share>'. "
            f"Got {behaviour!r}."
        )
    epsilon = float(share)
    return (1 - epsilon) * greedy(env.optimal_q) + epsilon * env.uniform_policy


def _half_optimal_softmax(env: Environment) -> NDArray[np.float64]:
    advantage = env.optimal_q - env.optimal_q.max(axis=1, keepdims=True)
    scale = np.abs(advantage).max()

    def softmax(log_temperature: float) -> NDArray[np.float64]:
        weight = np.exp(advantage / (scale * np.exp(log_temperature)))
        return weight / weight.sum(axis=1, keepdims=True)

    low, high = -20.0, 10.0  # from all but optimal to all but uniform
    for _ in range(60):
        middle = (low + high) / 2
        if env.normalised_value(softmax(middle)) > 0.5:
            low = middle
        else:
            high = middle
    return softmax(low)
