"""Boltzmann exploration on certainty equivalence."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.baselines.online.value_iteration import ValueIteration


class Boltzmann(ValueIteration):
    """Follows the Boltzmann policy of the optimal values of observed frequencies.

    Plans once an episode, at its start. The temperature, in units of the rewards, is
    0.3. With it this control, which explores by chance alone, is faster than UCB-VI in
    the seed paper's grids (arXiv 2606.18812).
    """

    name = "Boltzmann + VI"
    temperature = 0.3

    def begin(self) -> None:
        """Plan for the episode that begins."""
        q = self.greedy_values()
        weight = np.exp((q - q.max(axis=1, keepdims=True)) / self.temperature)
        self.follow(weight / weight.sum(axis=1, keepdims=True))
