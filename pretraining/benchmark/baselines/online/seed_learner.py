"""The seed's model online: it reads its policy anew as the counts grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.online.value_iteration import ValueIteration
from pretraining.benchmark.baselines.seed_model.model import (
    SeedModel,
    load,
    read_policy,
)
from pretraining.benchmark.exact import greedy
from tabrl._features import StatisticsBatch


class SeedLearner(ValueIteration):
    """Draws each action from the policy that the model reads in the counts.

    It is read anew for each episode, and within one whenever the visits of a pair
    reach a power of two.

    Parameters
    ----------
    *args
        As for `Learner`.
    seed_model : str, Path or SeedModel
        The trained model, or its folder.
    """

    name = "seed model"
    needs = ("seed_model",)
    is_baseline = False

    def __init__(
        self, *args: Any, seed_model: str | Path | SeedModel, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        if not isinstance(seed_model, SeedModel):
            seed_model = load(seed_model)
        self.model = seed_model
        self._is_current = False

    def begin(self) -> None:
        """Read the policy in all counts so far."""
        if not self._is_current:
            batch = StatisticsBatch.from_statistics(
                self.statistics, self.gamma, self.reward_range, complete=True
            )
            self.follow(read_policy(self.model, batch))
            self._is_current = True

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Count a transition."""
        n = self.count(state, action, reward, next_state, terminated)
        self._is_current = False
        # Reading after every step would take minutes, and more visits of what was
        # seen often change little.
        if n & (n - 1) == 0:
            self.begin()

    def exploit(self) -> NDArray[np.float64]:
        """Return the most probable actions (S, A)."""
        self.begin()
        return greedy(self.pi)
