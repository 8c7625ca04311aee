"""Rooms: a grid cut by walls into rooms that single-cell doors connect.

After the four rooms of Sutton, Precup and Singh (1999), with the number of rooms,
their sizes and their doors random. Goals end the episode, pay for ever, or send the
agent back to the start; moves slip. Further actions repeat a move, stay, or are
what collects the prize at a goal. With fewer than four actions each cell has some
of its open directions; in some processes a cell has no moves into walls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.prior._process import (
    Process,
    Rng,
    log_uniform,
    reward_noise,
    start_distribution,
)
from pretraining.prior.mazes import neighbours


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    neighbour = neighbours(_cells(rng, S))
    moves, is_move = _moves(rng, neighbour, A)
    cells = np.arange(S)
    goals, start = _goals_and_start(rng, moves)
    goal = np.isin(cells, goals)

    slip = rng.uniform(0, 0.5) if rng.random() < 0.7 else 0.0
    P = np.zeros((S, A, S))
    P[cells[:, None], np.arange(A), moves] = 1 - slip
    if slip:
        # The slip goes in any direction, or as some other action would have gone.
        sideways = neighbour if rng.random() < 0.5 else moves
        for column in sideways.T:
            P[cells, :, column] += slip / sideways.shape[1]

    prize = log_uniform(rng, 0.5, 3)
    prizes = prize * np.append(1, rng.uniform(0.05, 1, len(goals) - 1))
    # Without slip there is a cost, so that no known maze is ever drawn.
    cost = prize * log_uniform(rng, 0.001, 0.3) * (slip == 0 or rng.random() < 0.5)
    R = np.full((S, A, S), -cost)
    terminal = np.zeros(S, bool)
    fate = rng.choice(["end", "stay", "return"], p=[0.5, 0.25, 0.25])
    if fate != "end" and not is_move.all() and rng.random() < 0.5:
        collect = rng.choice(np.flatnonzero(~is_move))
        R[goals, collect] += prizes[:, None]
        P[goals, collect] = start if fate == "return" else np.eye(S)[goals]
    else:
        R[:, :, goals] += prizes
        if fate == "end":
            terminal = goal
        if fate != "stay":
            R[goal] = 0.0
        P[goals] = start if fate == "return" else np.eye(S)[goals][:, None]

    allowed = None
    if rng.random() < 0.25:
        allowed = (moves != cells[:, None]) | ~is_move
        first = allowed.argmax(1)
        P = np.where(allowed[..., None], P, P[cells, first][:, None])
        R = np.where(allowed[..., None], R, R[cells, first][:, None])
    noise = reward_noise(rng, 0.3) * (rng.random() < 0.3)
    return Process(P, R, terminal, start, noise, allowed=allowed)


def _cells(rng: Rng, S: int) -> NDArray:
    """Return the S connected free cells, (S, 2), of a grid cut into rooms."""
    n_rooms = 1 + round(log_uniform(rng, 1, max(1, S / 8)))
    side = 2 if S > 12 and rng.random() < 0.7 else 1
    aspect = log_uniform(rng, 0.5, 2)
    extra_doors = int(rng.integers(1, 5)) if rng.random() < 0.5 else 0
    area = S
    free = np.zeros((0, 0), bool)
    while free.sum() < S:
        height = max(1, round(np.sqrt(area * aspect)))
        free = _walls(rng, height, -(-area // height), n_rooms, side)
        area += max(1, (S - free.sum()) // 2)
    for _ in range(extra_doors):
        across = free[1:-1, :-2] & free[1:-1, 2:] & ~free[:-2, 1:-1] & ~free[2:, 1:-1]
        along = free[:-2, 1:-1] & free[2:, 1:-1] & ~free[1:-1, :-2] & ~free[1:-1, 2:]
        where = np.argwhere((across | along) & ~free[1:-1, 1:-1])
        if len(where):
            free[tuple(1 + where[rng.integers(len(where))])] = True
    cells = np.argwhere(free)
    # The cells nearest to one of them are connected.
    distance = _distance(neighbours(cells), int(rng.integers(len(cells))))
    return cells[distance.argsort(kind="stable")[:S]]


def _walls(rng: Rng, height: int, width: int, n_rooms: int, side: int) -> NDArray:
    """Return which cells are free, with a border, of a box cut room by room.

    Each wall has one door, and no wall meets another's door.
    """
    free = np.zeros((height + 2, width + 2), bool)
    free[1:-1, 1:-1] = True
    rooms = [(1, 1, height, width)]  # first row and column, last row and column
    for _ in range(4 * n_rooms):
        if len(rooms) == n_rooms:
            break
        area = [(c - a + 1) * (d - b + 1) for a, b, c, d in rooms]
        top, left, bottom, right = rooms[i := int(rng.choice(np.argsort(area)[-2:]))]
        upright = right - left > bottom - top
        if upright:
            grid, (low, high), (one, two) = free, (left, right), (top, bottom)
        else:
            grid, (low, high), (one, two) = free.T, (top, bottom), (left, right)
        if high - low < 2 * side:
            continue
        at = int(rng.integers(low + side, high - side + 1))
        if grid[one - 1, at] or grid[two + 1, at]:
            continue
        grid[one : two + 1, at] = False
        grid[rng.integers(one, two + 1), at] = True
        if upright:
            rooms[i] = (top, left, bottom, at - 1)
            rooms.append((top, at + 1, bottom, right))
        else:
            rooms[i] = (top, left, at - 1, right)
            rooms.append((at + 1, left, bottom, right))
    return free


def _distance(moves: NDArray, goal: int) -> NDArray:
    """Return the number of moves that each state needs to the goal, (S,), or S."""
    distance = np.full(len(moves), len(moves))
    distance[goal] = 0
    while True:
        nearer = np.minimum(distance, distance[moves].min(1) + 1)
        if np.array_equal(nearer, distance):
            return distance
        distance = nearer


def _moves(rng: Rng, neighbour: NDArray, A: int) -> tuple[NDArray, NDArray]:
    """Return where each action leads (S, A), and which actions are moves (A,)."""
    S = len(neighbour)
    if A < 4:
        walled = neighbour == np.arange(S)[:, None]
        order = (rng.random((S, 4)) + walled).argsort(1)[:, :A]
        return np.take_along_axis(neighbour, order, 1), np.ones(A, bool)
    columns = np.append(neighbour, np.arange(S)[:, None], 1)  # the last one stays
    # Further actions all stay, or repeat any.
    kind = np.append(np.arange(4), rng.integers(rng.choice([0, 4]), 5, A - 4))
    rng.shuffle(kind)
    return columns[:, kind], kind < 4


def _goals_and_start(rng: Rng, moves: NDArray) -> tuple[NDArray, NDArray]:
    """Return goals and a start distribution, in most draws far from the first goal."""
    S = len(moves)
    entered = np.flatnonzero(np.bincount(moves[moves != np.arange(S)[:, None]]))
    first = int(rng.choice(entered))
    n_goals = int(rng.integers(1, 4)) if S > 8 and rng.random() < 0.4 else 1
    goals = np.append(first, rng.choice(S - 1, n_goals - 1, replace=False))
    goals[1:] += goals[1:] >= first
    distance = _distance(moves, first)
    far = ~np.isin(np.arange(S), goals) & (distance < S)
    if not far.any():  # the other goals are all that reaches the first
        goals, far = goals[:1], (distance > 0) & (distance < S)
    if rng.random() < 0.8:
        far &= distance >= np.quantile(distance[far], rng.uniform(0.3, 1))
    return goals, start_distribution(rng, far)
