"""UCB-VI: optimal for the observed frequencies with a bonus on the rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.online.value_iteration import (
    ValueIteration,
    assemble,
)


class UCBVI(ValueIteration):
    r"""UCB-VI with Hoeffding bonuses (Azar et al. 2017), discounted and stationary.

    Plans once an episode, at its start. Optimal for the observed frequencies with the
    rewards

    .. math:: \min\{\hat r(s, a) + c \, (r_{max} - r_{min})
              \sqrt{\log(2 S A / \delta) / (2 n(s, a))}, r_{max}\}.

    Pairs never tried are worth :math:`r_{max} / (1 - \gamma)`, which no other value
    exceeds. The scale is the range of the rewards, not of the returns, with which
    each of the usual constants explores for ever.

    Parameters
    ----------
    *args
        As for `Learner`; the constant is c, the scale of the bonus.
    delta : float, default=0.1
        Probability that a bound fails.
    """

    name = "UCB-VI"
    constants = (0.01, 0.1, 1.0)
    parts = ("regret", "convergence", "deep sea")

    def __init__(self, *args: Any, delta: float = 0.1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.delta = delta

    def begin(self) -> None:
        """Plan for the episode that begins."""
        shape = (self.n_states, self.n_actions)
        transition = assemble(*self.frequencies(), shape)
        self.plan_to_follow(transition, self.optimistic_reward())

    def optimistic_reward(self) -> NDArray[np.float64]:
        """Return mean rewards plus bonuses (S, A)."""
        low, high = self.reward_range
        n = self.n
        log_term = np.log(2 * n.size / self.delta)
        width = np.sqrt(log_term / (2 * np.maximum(n, 1)))
        bonus = self.constant * (high - low) * width
        reward = np.minimum(self.mean_reward + bonus, high)
        return np.where(n > 0, reward, high / (1 - self.gamma))
