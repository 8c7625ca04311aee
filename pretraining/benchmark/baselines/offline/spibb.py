"""SPIBB: safe policy improvement that falls back on the behaviour policy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.exact import action_values, evaluate, tolerance

_MAX_ITERATIONS = 1000


class SPIBB(Method):
    """Pi_b-SPIBB of Laroche, Trichelair and Tachet des Combes 2019 (arXiv 1712.06924).

    The best policy, for the observed frequencies and mean rewards, among those that
    give each action with fewer than `constant` visits its probability under the
    behaviour policy: policy iteration whose greedy step moves the rest of a state's
    probability to the best of the other actions (their algorithm 1).
    """

    name = "SPIBB"
    constants: ClassVar[tuple[float, ...]] = (5, 10, 20, 50, 100)  # of the paper

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the policy (S, A) for the visits `constant` that make a pair known."""
        known = data.n >= constant
        kept = np.where(known, 0.0, data.behaviour)
        free = np.where(known, data.behaviour, 0.0).sum(axis=1, keepdims=True)
        pi = data.behaviour
        for _ in range(_MAX_ITERATIONS):
            q = policy_action_values(data, pi)
            best = np.where(known, q, -np.inf).argmax(axis=1)
            improved = kept + free * np.eye(q.shape[1])[best]
            gain = ((improved - pi) * q).sum(axis=1)
            if (gain <= tolerance(q)).all():
                return pi
            pi = np.where((gain > tolerance(q))[:, None], improved, pi)
        raise RuntimeError(f"SPIBB took over {_MAX_ITERATIONS} iterations.")


def policy_action_values(
    data: LoggedData, pi: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the action values of `pi` for the observed frequencies, (S, A)."""
    v = evaluate(data.transition, data.mean_reward, data.gamma, pi)
    return action_values(data.transition, data.mean_reward, data.gamma, v)
