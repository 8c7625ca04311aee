"""DeepSea: exploration that must be deep."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.process import Environment, Outcome, from_table


def deep_sea(size: int, gamma: float, mapping_seed: int = 0) -> Environment:
    """DeepSea of bsuite, deterministic, with its random action mapping.

    State ``row * size + column`` on a `size` x `size` grid, the start at the top left;
    each step goes down a row, and left or right a column. Which action is right
    differs from tile to tile (drawn from `mapping_seed`). Going right costs
    0.01 / size, and pays 1 from the bottom right tile. The episode terminates after
    `size` steps, in a last state of its own.
    """
    right = np.random.default_rng(mapping_seed).integers(2, size=(size, size))
    end = size * size

    def outcome(s: int, a: int) -> Outcome:
        if s == end:
            return (1.0, end, 0.0, True)
        row, column = divmod(s, size)
        goes_right = a == right[row, column]
        reward = -0.01 / size if goes_right else 0.0
        if goes_right and column == size - 1:
            reward += 1.0
        if row == size - 1:
            return (1.0, end, reward, True)
        column = min(max(column + (1 if goes_right else -1), 0), size - 1)
        return (1.0, (row + 1) * size + column, reward, False)

    table = [[[outcome(s, a)] for a in range(2)] for s in range(end + 1)]
    return from_table(f"DeepSea-{size}", table, np.eye(end + 1)[0], gamma)
