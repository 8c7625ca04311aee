"""tabrl's public estimator as a method of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from tabrl import OfflinePolicyEstimator

GREEDY, SAMPLED = "tabrl, greedy", "tabrl, sampled"


@dataclass(frozen=True)
class Tabrl(Method):
    """`tabrl.OfflinePolicyEstimator`: its choices, or its distribution over actions.

    States that the log does not show get what the network infers of them, actions
    that it does not show probability 0.

    Parameters
    ----------
    name : {GREEDY, SAMPLED}
        Which of the two policies.
    checkpoint : str
        What the estimator takes.
    """

    name: str
    checkpoint: str = "auto"

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the policy, (S, A)."""
        estimator = _fit(data, self.checkpoint)
        states = np.arange(data.n_states)
        if self.name == GREEDY:
            choice = np.asarray(estimator.predict(states), dtype=np.int64)
            return np.eye(data.n_actions)[choice]
        sampled = np.zeros((data.n_states, data.n_actions))
        sampled[:, _actions(estimator)] = estimator.predict_proba(states)
        return sampled

    def quantiles(self, data: LoggedData) -> NDArray[np.float64]:
        """Return quantiles 0.1, 0.5, 0.9 of the optimal action values, (3, S, A).

        NaN for actions that the log does not show.
        """
        estimator = _fit(data, self.checkpoint)
        values = np.full((3, data.n_states, data.n_actions), np.nan)
        for level, table in zip((0.1, 0.5, 0.9), values, strict=True):
            found = estimator.action_values(np.arange(data.n_states), level)
            table[:, _actions(estimator)] = found
        return values


# Both policies are those of one fit.
@lru_cache(maxsize=1)
def _fit(data: LoggedData, checkpoint: str) -> OfflinePolicyEstimator:
    estimator = OfflinePolicyEstimator(
        gamma=data.gamma,
        checkpoint=checkpoint,
        random_state=data.seed,
        handle_unknown="infer",
    )
    return estimator.fit(dict(data.log))


def _actions(estimator: OfflinePolicyEstimator) -> NDArray[np.int64]:
    return np.asarray(estimator.actions_, dtype=np.int64)
