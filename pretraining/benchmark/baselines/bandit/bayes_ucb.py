"""Bayes-UCB (Kaufmann et al. 2012) with uniform priors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from pretraining.benchmark.baselines.bandit.method import IndexPolicy


class BayesUCB(IndexPolicy):
    """Bayes-UCB (Kaufmann et al. 2012) with uniform priors."""

    name = "Bayes-UCB"

    def index(
        self,
        n: NDArray[np.int64],
        successes: NDArray[np.int64],
        pull: int,
        horizon: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Return the quantiles 1 - 1 / t of the posteriors (Kaufmann et al. 2012)."""
        # The same few counts occur in many runs, and the quantile is slow.
        pairs, inverse = np.unique(n * (horizon + 1) + successes, return_inverse=True)
        tried, won = np.divmod(pairs, horizon + 1)
        quantile = betaincinv(1.0 + won, 1.0 + tried - won, 1 - 1 / pull)
        return quantile[inverse].reshape(n.shape)
