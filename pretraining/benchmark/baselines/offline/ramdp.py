"""RaMDP: rewards are lowered by a penalty for few visits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.exact import greedy, policy_iteration


class RaMDP(Method):
    r"""Reward-adjusted MDP of Petrik, Ghavamzadeh and Chow 2016 (arXiv 1607.03842).

    The optimal policy of the observed frequencies with the rewards

    .. math:: \hat r(s, a) - \kappa \, (r_{max} - r_{min}) / \sqrt{n(s, a)}.

    An unvisited pair has the value of the lowest reward for ever. The range of the
    rewards seen, 0 included, makes the constant mean the same in any unit; the paper
    has rewards of range 1. VI-LCB has the same form with a factor that grows with the
    number of pairs, and another value for unvisited ones.
    """

    name = "RaMDP"
    # From the experiments of Scholl et al. 2022 (arXiv 2201.12175).
    constants: ClassVar[tuple[float, ...]] = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0)

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the greedy policy (S, A) for the penalty `constant`, kappa."""
        low, high = data.reward_bounds
        penalty = constant * (high - low) / np.sqrt(np.maximum(data.n, 1))
        unvisited = (low - penalty.max()) / (1 - data.gamma)
        reward = np.where(data.n > 0, data.mean_reward - penalty, unvisited)
        return greedy(policy_iteration(data.transition, reward, data.gamma))
