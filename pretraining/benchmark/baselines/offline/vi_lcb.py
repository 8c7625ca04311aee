"""VI-LCB: value iteration with lower confidence bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import TIES, Method
from pretraining.benchmark.exact import greedy, policy_iteration


def penalised_reward(
    n: NDArray[np.float64],
    mean_reward: NDArray[np.float64],
    low: ArrayLike,
    high: ArrayLike,
    gamma: ArrayLike,
    c: ArrayLike,
    delta: float = 0.1,
) -> NDArray[np.float64]:
    r"""Return the rewards that VI-LCB plans with.

    .. math:: \hat r(s, a) - c \, (r_{max} - r_{min})
              \sqrt{\log(2 S A / \delta) / (2 \max(n(s, a), 1))},

    and for an unvisited pair the value of one visit that paid the lowest reward and
    stays where it is for ever.

    Parameters
    ----------
    n, mean_reward : arrays of shape (..., S, A)
        Visits and mean reward of each pair, for any number of data sets.
    low, high : float or array
        The range of the rewards, 0 included. An array has a shape that broadcasts
        against (..., S, A): (..., 1, 1) for one number a data set.
    gamma : float or array
        Discount factor in [0, 1), of such a shape.
    c : float or array
        Scale of the bonus, of such a shape.
    delta : float, default=0.1
        Probability that a bound fails.

    Returns
    -------
    array of shape (..., S, A)
        In the units of the rewards.
    """
    low, gamma = np.asarray(low), np.asarray(gamma)
    log_term = np.log(2 * n.shape[-2] * n.shape[-1] / delta)
    bonus = c * (high - low) * np.sqrt(log_term / (2 * np.maximum(n, 1)))
    unvisited = (low - bonus.max(axis=(-2, -1), keepdims=True)) / (1 - gamma)
    return np.where(n > 0, mean_reward - bonus, unvisited)


@dataclass(frozen=True)
class VILCB(Method):
    r"""Value iteration with lower confidence bounds, Hoeffding bonus.

    The policy is optimal for the observed frequencies with `penalised_reward`, the
    form of Rashidinejad et al. 2021 (arXiv 2103.12021, algorithm 3). Where their
    paper leaves a choice, or is made for a proof, this is the strongest of the forms
    we tried, so that the peer is a fair one:

    - the scale is the range of the rewards (0 included), not that over
      ``1 - gamma``, with which each of the published constants from 0.05 up gave
      lower values on the development environments;
    - values are not clipped at the lowest possible return: clipping makes ties,
      between visited and unvisited pairs too, while without it a large `c` stays on
      well-visited paths;
    - an unvisited pair is never preferred to a visited one.

    Parameters
    ----------
    ties : {"random", "first"}
        As in `CertaintyEquivalence`.
    delta : float, default=0.1
        Probability that a bound fails.
    """

    ties: str = "random"
    delta: float = 0.1
    constants: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.2, 0.5, 1.0)

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"VI-LCB, {TIES[self.ties]}"

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the greedy policy (S, A) for the scale `constant` of the bonus."""
        reward = penalised_reward(
            data.n, data.mean_reward, *data.reward_bounds, data.gamma, constant,
            self.delta,
        )  # fmt: skip
        return greedy(policy_iteration(data.transition, reward, data.gamma), self.ties)
