"""UCB-VI, with Hoeffding and with Bernstein bonuses on the rewards."""

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
    parts = ("regret", "convergence", "deep sea", "foreign")

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
        high = self.reward_range[1]
        reward = np.minimum(self.mean_reward + self.bonus(), high)
        return np.where(self.n > 0, reward, high / (1 - self.gamma))

    def bonus(self) -> NDArray[np.float64]:
        """Return the bonuses (S, A), in units of the rewards."""
        low, high = self.reward_range
        width = np.sqrt(self.log_term / (2 * np.maximum(self.n, 1)))
        return self.constant * (high - low) * width

    @property
    def log_term(self) -> float:
        """Logarithm of 2 S A / delta, in which the bounds hold for all pairs."""
        return np.log(2 * self.n_states * self.n_actions / self.delta)


class BernsteinUCBVI(UCBVI):
    r"""UCB-VI with Bernstein bonuses (Azar et al. 2017), discounted and stationary.

    The bonus of a pair is the bound of Maurer and Pontil (2009) on the mean of
    :math:`r + \gamma v(s')`, with :math:`L = \log(2 S A / \delta)`:

    .. math:: c \, \Bigl(\sqrt{2 L \, [\widehat{\mathrm{Var}}(r)
              + \gamma^2 \, \widehat{\mathrm{Var}}(v(s'))] / n(s, a)}
              + \tfrac{7}{3} (r_{max} - r_{min}) L / n(s, a)\Bigr).

    The values v are those of the last plan, 0 after termination. The variances are of
    the observed frequencies. As for UCB-VI, the range in the last term is that of the
    rewards, and rewards with the bonus are at most :math:`r_{max}`.
    """

    name = "UCB-VI, Bernstein"

    def bonus(self) -> NDArray[np.float64]:
        """Return the bonuses (S, A), in units of the rewards."""
        low, high = self.reward_range
        n = np.maximum(self.n, 1)
        square = self.table(self.statistics.reward_sq_sum) / n - self.mean_reward**2
        variance = np.maximum(square, 0) + self.gamma**2 * self.variance_of_values()
        slow = np.sqrt(2 * self.log_term * variance / n)
        fast = 7 / 3 * (high - low) * self.log_term / n
        return self.constant * (slow + fast)

    def variance_of_values(self) -> NDArray[np.float64]:
        """Return the variance (S, A) of the value of what follows each pair."""
        v = self._v_followed
        if v is None:  # before the first plan, when all states are worth the same
            return np.zeros((self.n_states, self.n_actions))
        transition = assemble(*self.frequencies(), (self.n_states, self.n_actions))
        mean, square = transition @ v, transition @ v**2
        return np.maximum(square - mean**2, 0).reshape(self.n_states, self.n_actions)
