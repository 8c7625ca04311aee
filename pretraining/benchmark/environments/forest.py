"""Forest management: when to cut."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.process import Environment, Outcome, from_table


def forest(n_states: int, gamma: float) -> Environment:
    """Wait or cut: pymdptoolbox's ``forest(n_states)``, with its default figures.

    A forest grows one year older with probability 0.9, up to the oldest class, and
    burns down otherwise. Waiting in the oldest class pays 4. Cutting makes it young
    and pays 0 in the youngest class, 2 in the oldest and 1 in the others. The start
    is young, and it goes on for ever.
    """
    last = n_states - 1

    def outcomes(s: int, a: int) -> list[Outcome]:
        if a == 1:
            reward = 0.0 if s == 0 else 2.0 if s == last else 1.0
            return [(1.0, 0, reward, False)]
        reward = 4.0 if s == last else 0.0
        return [(0.1, 0, reward, False), (0.9, min(s + 1, last), reward, False)]

    table = [[outcomes(s, a) for a in range(2)] for s in range(n_states)]
    return from_table(f"forest-{n_states}", table, np.eye(n_states)[0], gamma)
