"""The gambler's problem: what to stake on a coin."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.process import Environment, Outcome, from_table

# With 0.4 or less it is best to stake all, which limits on stakes make most actions do.
_HEADS = 0.55


def gambler(goal: int, gamma: float) -> Environment:
    """Stake on heads until ruined or in possession of `goal`.

    Example 4.3 of Sutton and Barto (2018) with the coin of their exercise 4.9: heads
    have probability 0.55 and win the stake. The least stakes are the safest and the
    slowest, so that discounting makes the best ones neither least nor largest. The
    state is the capital, 0 to `goal`, and action a stakes a + 1, or as much
    as there is or is missing. Reaching the goal pays 1; ruin, too, ends the episode.
    The start is uniform over the capitals between.
    """

    def outcomes(capital: int, action: int) -> list[Outcome]:
        if capital in (0, goal):
            return [(1.0, capital, 0.0, True)]
        stake = min(action + 1, capital, goal - capital)
        up, down = capital + stake, capital - stake
        won = up == goal
        return [(_HEADS, up, float(won), won), (1 - _HEADS, down, 0.0, down == 0)]

    table = [[outcomes(s, a) for a in range(goal // 2)] for s in range(goal + 1)]
    start = np.full(goal + 1, 1 / (goal - 1))
    start[[0, goal]] = 0.0
    return from_table(f"gambler-{goal}", table, start, gamma)
