"""UCB1 (Auer et al. 2002)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.bandit.method import IndexPolicy


class UCB1(IndexPolicy):
    """UCB1 (Auer et al. 2002)."""

    name = "UCB1"

    def index(
        self,
        n: NDArray[np.int64],
        successes: NDArray[np.int64],
        pull: int,
        horizon: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Return upper confidence bounds; each arm is pulled once first."""
        tried = np.maximum(n, 1)
        bound = successes / tried + np.sqrt(2 * np.log(pull) / tried)
        return np.where(n > 0, bound, np.inf)
