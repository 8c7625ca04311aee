"""RiverSwim: exploration against the current."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.process import Environment, Outcome, from_table


def river_swim(n_states: int, gamma: float) -> Environment:
    """Swim right against the current for 1, or rest at the left end for 0.005.

    The process of Strehl and Littman (2008) with the probabilities and rewards of
    Osband, Russo and Van Roy (2013, figure 1), which most code uses: moving right
    succeeds with probability 0.35, stays with 0.6 and drifts back with 0.05 (0.6 and
    0.4 stay at the left end; 0.6 stay and 0.4 back at the right end). Moving left
    always succeeds. The process goes on for ever, and starts at the left end.
    """
    last = n_states - 1

    def outcomes(s: int, a: int) -> list[Outcome]:
        if a == 0:
            return [(1.0, max(s - 1, 0), 0.005 if s == 0 else 0.0, False)]
        if s == 0:
            return [(0.4, 0, 0.0, False), (0.6, 1, 0.0, False)]
        if s == last:
            return [(0.4, s - 1, 1.0, False), (0.6, s, 1.0, False)]
        return [
            (0.05, s - 1, 0.0, False),
            (0.6, s, 0.0, False),
            (0.35, s + 1, 0.0, False),
        ]

    table = [[outcomes(s, a) for a in range(2)] for s in range(n_states)]
    return from_table(f"RiverSwim-{n_states}", table, np.eye(n_states)[0], gamma)
