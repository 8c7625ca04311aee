"""Thompson sampling from uniform priors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.bandit.method import IndexPolicy


class Thompson(IndexPolicy):
    """Thompson sampling from uniform priors."""

    name = "Thompson"

    def index(
        self,
        n: NDArray[np.int64],
        successes: NDArray[np.int64],
        pull: int,
        horizon: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Draw from the posteriors."""
        return rng.beta(1 + successes, 1 + n - successes)
