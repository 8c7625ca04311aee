"""Grids of the literature on in-context agents: gridworlds, a lake, two rooms."""

from __future__ import annotations

import numpy as np

from pretraining.benchmark.process import Environment, Outcome, from_table

# left, down, right, up: the order of gymnasium's FrozenLake.
_MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
_LAKE_HOLES = frozenset({5, 7, 11, 12})


def _move(state: int, action: int, size: int) -> int:
    """Find the tile reached on a `size` x `size` grid; a wall keeps one in place."""
    row, column = divmod(state, size)
    down, right = _MOVES[action]
    row = min(max(row + down, 0), size - 1)
    column = min(max(column + right, 0), size - 1)
    return row * size + column


def gridworld(size: int, gamma: float) -> Environment:
    """Deterministic grid: -1 a step, +10 on reaching the goal, which absorbs.

    Start at the top left, goal at the bottom right. The goal does not terminate: it
    pays 0 for ever, as in the seed paper (arXiv 2606.18812). Running into a wall
    costs a step.
    """
    goal = size * size - 1

    def outcome(s: int, a: int) -> Outcome:
        if s == goal:
            return (1.0, goal, 0.0, False)
        successor = _move(s, a, size)
        return (1.0, successor, 10.0 if successor == goal else -1.0, False)

    table = [[[outcome(s, a)] for a in range(4)] for s in range(size * size)]
    return from_table(f"gridworld-{size}x{size}", table, np.eye(goal + 1)[0], gamma)


def slippery_lake(gamma: float, slip: float = 0.2) -> Environment:
    """Build the seed paper's lake: a share `slip` of the moves is random.

    Such a move is uniform over all four actions, the one meant included. The holes
    of FrozenLake's 4x4 map cost 1, the goal pays 1; both terminate.
    """

    def outcome(prob: float, s: int, a: int) -> Outcome:
        successor = _move(s, a, 4)
        reward = 1.0 if successor == 15 else -1.0 if successor in _LAKE_HOLES else 0.0
        return (prob, successor, reward, reward != 0)

    def outcomes(s: int, a: int) -> list[Outcome]:
        if s == 15 or s in _LAKE_HOLES:
            return [(1.0, s, 0.0, True)]
        return [
            outcome(slip / 4 + (1 - slip) * (taken == a), s, taken)
            for taken in range(4)
        ]

    table = [[outcomes(s, a) for a in range(4)] for s in range(16)]
    return from_table("slippery-lake", table, np.eye(16)[0], gamma)


def two_room_maze(gamma: float) -> Environment:
    """Cross from one 5x5 room to another through the door in the wall between.

    Start at the top left of the left room; the goal at the bottom right of the right
    room pays 1 and terminates. Moves are deterministic and free.
    """
    rows = (".....#.....", ".....#.....", "...........", ".....#.....", ".....#....G")
    free = [(i, j) for i, row in enumerate(rows) for j in range(11) if row[j] != "#"]
    number = {tile: s for s, tile in enumerate(free)}
    goal = len(free) - 1

    def outcome(s: int, a: int) -> Outcome:
        if s == goal:
            return (1.0, s, 0.0, True)
        row, column = free[s]
        down, right = _MOVES[a]
        successor = number.get((row + down, column + right), s)
        return (1.0, successor, float(successor == goal), successor == goal)

    table = [[[outcome(s, a)] for a in range(4)] for s in range(len(free))]
    return from_table("two-rooms", table, np.eye(len(free))[0], gamma)
