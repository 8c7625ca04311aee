"""Certainty equivalence: plan as if the observed frequencies were the process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import TIES, Method
from pretraining.benchmark.exact import greedy, policy_iteration


@dataclass(frozen=True)
class CertaintyEquivalence(Method):
    """Optimal policy of the observed frequencies and mean rewards.

    A pair that was never visited is worth 0, as value iteration on zero counts has
    it: optimistic where each step costs, pessimistic where a goal pays.

    Parameters
    ----------
    ties : {"random", "first"}
        Uniform over the best actions, or the first of them. So a state that was
        never seen gets the uniform policy, or action 0.
    """

    ties: str = "random"

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"certainty equivalence, {TIES[self.ties]}"

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the greedy policy, (S, A)."""
        q = policy_iteration(data.transition, data.mean_reward, data.gamma)
        return greedy(q, self.ties)
