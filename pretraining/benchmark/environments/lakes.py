"""Frozen lakes: one with a hole that costs, and maps drawn at random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

from pretraining.benchmark.environments.toy_text import toy_text
from pretraining.benchmark.process import Environment

# The hole in the second row, next to the way from the start to the goal.
_COSTLY_HOLE = 5


def lake_with_costly_hole(cost: float, gamma: float) -> Environment:
    """FrozenLake-v1 of gymnasium, slippery, where hole 5 costs `cost` and others 0.

    The goal still pays 1. Hole 5 has four neighbours, of which state 1 and state 4 are
    next to the start.
    """
    env = toy_text("FrozenLake-v1", gamma)
    falls = (env.next_state == _COSTLY_HOLE) & (env.prob > 0)
    falls[_COSTLY_HOLE] = False
    return replace(env, reward=np.where(falls, -cost, env.reward))


def random_lake(size: int, gamma: float, seed: int) -> Environment:
    """Draw a slippery FrozenLake-v1 of `size` x `size` tiles by gymnasium's generator.

    A tile is frozen with probability 0.8, its default; the goal can be reached.
    """
    tiles = generate_random_map(size, seed=seed)
    return toy_text("FrozenLake-v1", gamma, desc=tiles)
