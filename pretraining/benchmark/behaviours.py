"""Behaviour policies: who writes the logs of the offline benchmark."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.exact import greedy
from pretraining.benchmark.process import Environment

# A clinician is as good as the middle of what is usual: worse than protocol-driven
# care, which the optimum stands for, and better than the half-optimal softmax.
_CLINICIAN_VALUE = 0.65
# Standard deviation of the logarithms of a clinician's action probabilities within a
# state that come from habit alone: that of the policy estimated from the records of
# MIMIC-III (`expert_policy` of icu-sepsis 2.0.1), over the actions taken, is 1.6.
_HABIT = 1.6
# How much the noise level differs between states: by a factor of e**0.5 = 1.6 at one
# standard deviation, so that some states are treated almost well and some almost
# by habit alone.
_HETEROGENEITY = 0.5

BEHAVIOURS = ("uniform", "epsilon 0.3", "epsilon 0.05", "softmax", "clinician")


@lru_cache(maxsize=512)
def behaviour_policy(env: Environment, behaviour: str) -> NDArray[np.float64]:
    """Build a behaviour policy by its name.

    - "uniform";
    - "epsilon <share>": optimal, uniform over the best actions, but for the share of
      the steps, which is uniform over all;
    - "softmax": softmax of the optimal action values, at the temperature that makes
      the normalised value one half;
    - "clinician": see `clinician`.

    Parameters
    ----------
    env : Environment
        The process.
    behaviour : str
        One of the names above.

    Returns
    -------
    array of shape (S, A)
        The policy.

    Raises
    ------
    ValueError
        If there is no such behaviour.
    """
    if behaviour == "uniform":
        return env.uniform_policy
    if behaviour == "softmax":
        return _half_optimal_softmax(env)
    if behaviour == "clinician":
        return clinician(env)
    kind, _, share = behaviour.partition(" ")
    if kind != "epsilon":
        raise ValueError(
            "behaviour must be 'uniform', 'softmax', 'clinician' or "
            f"'epsilon <share>'. Got {behaviour!r}."
        )
    epsilon = float(share)
    return (1 - epsilon) * greedy(env.optimal_q) + epsilon * env.uniform_policy


def _half_optimal_softmax(env: Environment) -> NDArray[np.float64]:
    advantage = env.optimal_q - env.optimal_q.max(axis=1, keepdims=True)
    scale = np.abs(advantage).max()

    def policy(log_temperature: float) -> NDArray[np.float64]:
        return _softmax(advantage / (scale * np.exp(log_temperature)))

    return _policy_worth(env, policy, 0.5)


def clinician(env: Environment) -> NDArray[np.float64]:
    """Softmax of noisy optimal values, drawn once for a process.

    A clinician follows beliefs about the actions that are wrong in places, always in
    the same way, and is less sure in some states than in others. The action values of
    a state, scaled to [-1, 0], get normal noise of standard deviation ``k(s)``; the
    temperature is ``k(s) / 1.6``. The levels ``k(s)`` are log-normal, with the median
    that makes the normalised value 0.65, or the largest tried where habit alone is
    worth more than that. The noise depends on the name and the seed of the process
    alone.

    Parameters
    ----------
    env : Environment
        The process.

    Returns
    -------
    array of shape (S, A)
        The policy.
    """
    names = [zlib.crc32(name.encode()) for name in (env.name, "clinician")]
    rng = np.random.default_rng([*names, env.seed])
    noise = rng.standard_normal(env.optimal_q.shape)
    spread = np.exp(_HETEROGENEITY * rng.standard_normal((env.n_states, 1)))
    gap = env.optimal_q - env.optimal_q.max(axis=1, keepdims=True)
    worst = -gap.min(axis=1, keepdims=True)
    utility = gap / np.where(worst > 0, worst, 1.0)

    def policy(log_level: float) -> NDArray[np.float64]:
        level = spread * np.exp(log_level)
        return _softmax(_HABIT * (utility / level + noise))

    return _policy_worth(env, policy, _CLINICIAN_VALUE)


def _softmax(utility: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax of each row; the largest of a row must not be far above 0."""
    weight = np.exp(utility)
    return weight / weight.sum(axis=1, keepdims=True)


def _policy_worth(
    env: Environment,
    policy: Callable[[float], NDArray[np.float64]],
    value: float,
) -> NDArray[np.float64]:
    """Bisect the logarithm of a temperature for a normalised value."""
    low, high = -20.0, 10.0  # from all but optimal to all but uniform
    for _ in range(60):
        middle = (low + high) / 2
        if env.normalised_value(policy(middle)) > value:
            low = middle
        else:
            high = middle
    return policy(low)
