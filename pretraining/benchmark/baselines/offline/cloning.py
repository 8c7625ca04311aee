"""The behaviour policy itself, and its copy from the log."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method


class BehaviourPolicy(Method):
    """The policy that made the log: what each method should improve on."""

    name = "behaviour policy"

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the true behaviour policy, (S, A)."""
        return data.behaviour


class BehaviourCloning(Method):
    """Observed frequencies of the actions; uniform in states never seen."""

    name = "behaviour cloning"

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the frequencies, (S, A)."""
        visits = data.n.sum(axis=1, keepdims=True)
        frequency = data.n / np.maximum(visits, 1)
        return np.where(visits > 0, frequency, 1 / data.n_actions)
