"""Q-learning with an optimistic start, which learns at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.online.learner import Learner
from pretraining.benchmark.exact import greedy, tolerance


class QLearning(Learner):
    """Q-learning that starts with the highest return possible, and acts greedily.

    The learning rate is (H + 1) / (H + n) with H = 1 / (1 - gamma), as in Jin et al.
    (2018), n being how often the pair was tried.
    """

    name = "Q-learning"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        shape = (self.n_states, self.n_actions)
        self.q = np.full(shape, self.reward_range[1] / (1 - self.gamma))
        self._n_tried = np.zeros(shape, dtype=int)

    def learning_rate(self, n_tried: int) -> float:
        """Return the rate of the update after `n_tried` trials of the pair."""
        horizon = 1 / (1 - self.gamma)
        return (horizon + 1) / (horizon + n_tried)

    def policy(self) -> NDArray[np.float64]:
        """Return the greedy policy (S, A), ties at random, as of now."""
        return greedy(self.q)

    exploit = policy

    def act(self, state: int) -> int:
        """Take a best action, ties at random."""
        values = self.q[state]
        best = np.flatnonzero(values >= values.max() - tolerance(self.q))
        return int(best[int(self.rng.random() * len(best))])

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Move the value of the pair towards its target."""
        self._n_tried[state, action] += 1
        rate = self.learning_rate(self._n_tried[state, action])
        following = 0.0 if terminated else self.gamma * self.q[next_state].max()
        self.q[state, action] += rate * (reward + following - self.q[state, action])


class FixedRateQLearning(QLearning):
    """Q-learning at a rate of 0.1: what the seed paper (arXiv 2606.18812) runs."""

    name = "Q-learning, rate 0.1"
    parts = ("convergence",)

    def learning_rate(self, n_tried: int) -> float:
        """Return 0.1."""
        return 0.1
