"""Bernoulli bandits: one state, one step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretraining.benchmark.process import Environment, from_table


def bernoulli_bandit(means: Sequence[float], gamma: float) -> Environment:
    """One state, an action an arm: pays 1 with the arm's mean, and ends."""
    table = [[[(mean, 0, 1.0, True), (1 - mean, 0, 0.0, True)] for mean in means]]
    return from_table(f"bandit-{len(means)}", table, np.ones(1), gamma)
