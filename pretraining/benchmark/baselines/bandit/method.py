"""What every bandit method is, and the methods that pull the arm of largest index."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


class BanditMethod:
    """A method that plays blocks of Bernoulli bandits.

    Attributes
    ----------
    name : str
        Name in cells, rows and tables.
    is_baseline : bool
        Whether the method is one of the index policies that tabrl is compared with.
    """

    name: ClassVar[str]
    is_baseline: ClassVar[bool] = True

    def play(
        self,
        means: NDArray[np.float64],
        rewards: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Play each bandit to its horizon.

        Parameters
        ----------
        means : array of shape (runs, K)
            Means of the arms.
        rewards : bool array of shape (runs, K, horizon)
            Reward of each pull of each arm.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        array of shape (runs,)
            The regret of each.
        """
        raise NotImplementedError


class IndexPolicy(BanditMethod):
    """Pulls the arm with the largest index, ties at random."""

    def index(
        self,
        n: NDArray[np.int64],
        successes: NDArray[np.int64],
        pull: int,
        horizon: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Return the index of each arm.

        Parameters
        ----------
        n, successes : int array of shape (runs, K)
            Pulls and successes of each arm.
        pull : int
            Number of the pull, from 1.
        horizon : int
            Number of the last pull.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        array of shape (runs, K)
            The largest of a row is pulled.
        """
        raise NotImplementedError

    def play(
        self,
        means: NDArray[np.float64],
        rewards: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Play all bandits side by side."""
        size, n_arms = means.shape
        horizon = rewards.shape[2]
        run = np.arange(size)
        n, successes = np.zeros((2, size, n_arms), dtype=np.int64)
        regret = np.zeros(size)
        for pull in range(1, horizon + 1):
            value = self.index(n, successes, pull, horizon, rng)
            # Equal up to rounding counts as a tie.
            best = value >= value.max(axis=1, keepdims=True) - 1e-12
            arm = np.where(best, rng.random(best.shape), -1.0).argmax(axis=1)
            successes[run, arm] += rewards[run, arm, n[run, arm]]
            n[run, arm] += 1
            regret += means.max(axis=1) - means[run, arm]
        return regret
