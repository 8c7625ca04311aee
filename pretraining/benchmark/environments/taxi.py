"""Taxi with a fine that hurts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pretraining.benchmark.environments.toy_text import toy_text
from pretraining.benchmark.process import Environment


def taxi_with_fine(fine: float, gamma: float) -> Environment:
    """Taxi-v4 of gymnasium, where a wrong pick-up or drop-off costs `fine`, not 10."""
    env = toy_text("Taxi-v4", gamma)
    return replace(env, reward=np.where(env.reward == -10, -fine, env.reward))
