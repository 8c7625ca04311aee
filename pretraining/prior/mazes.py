"""Mazes: a random connected region of a grid with walls, slip, holes and goals.

In the spirit of the gridworlds of Sutton and Barto (2018), chapters 3, 6 and 8.
Goals end the episode, absorb, or send the agent back to the start; holes end it,
absorb, or send it back too; every step may cost something. Actions are the four
directions in any order; further ones repeat a direction, stay, jump two cells, or
do something that is of use at the goal alone and may be punished elsewhere.
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

_DIRECTIONS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    tool = int(rng.integers(A)) if A > 4 and S > 4 and rng.random() < 0.4 else None
    n_cells = S if tool is None else S - 1  # the last state then means "done"
    neighbour = neighbours(_region(rng, n_cells))  # (n_cells, 4)
    moves = _moves(rng, neighbour, A)  # (n_cells, A)
    goal, start = _goal_and_start(rng, neighbour)
    cells = np.arange(n_cells)
    if tool is not None:
        moves[:, tool] = cells
        start = np.append(start, 0.0)

    P = np.zeros((S, A, S))
    slip = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.7)
    P[cells[:, None], np.arange(A), moves] += 1 - slip
    if slip:
        # The slip goes in any direction, or as some other action would have gone.
        sideways = neighbour if rng.random() < 0.5 else moves
        for column in sideways.T:
            P[cells, :, column] += slip / sideways.shape[1]

    R = np.zeros((S, A, S))
    step_cost = 0.0 if rng.random() < 0.45 else log_uniform(rng, 0.005, 1)
    prize = 1.0 if rng.random() < 0.7 else rng.uniform(0, 10)
    if step_cost > 0.1 and rng.random() < 0.4:
        prize = 0.0  # to arrive soon is all that counts
    size = max(prize, step_cost)
    R -= step_cost
    if rng.random() < 0.1:
        R -= rng.uniform(0, size, A)[:, None]  # some actions cost more than others

    terminal = np.zeros(S, bool)
    if rng.random() < 0.5:
        hole = (rng.random(S) < rng.uniform(0, 0.35)) & (np.arange(S) < n_cells)
        hole[goal] = False
        hole &= start == 0
        R[:, :, hole] -= size * (0 if rng.random() < 0.4 else log_uniform(rng, 0.1, 10))
        fate = rng.choice(["end", "stay", "return"], p=[0.6, 0.2, 0.2])
        _end(fate, hole, P, terminal, start)
    if tool is not None:
        P[goal, tool] = np.eye(S)[-1]
        misuse = size * log_uniform(rng, 0.1, 10) * (rng.random() < 0.7)
        R[np.arange(S) != goal, tool] -= misuse
        goal = S - 1
    R[np.arange(S) != goal, :, goal] += prize
    R[goal] = 0.0
    fate = rng.choice(["end", "stay", "return"], p=[0.55, 0.25, 0.2])
    _end(fate, np.arange(S) == goal, P, terminal, start)
    noise = reward_noise(rng, 0.3 * size) * (rng.random() < 0.3)
    return Process(P, R, terminal, start, noise)


def _end(fate: str, at: NDArray, P: NDArray, terminal: NDArray, start: NDArray) -> None:
    """Make the states ``at`` end the episode, absorb, or send back to the start."""
    if fate == "end":
        terminal |= at
        P[at] = np.eye(len(at))[at][:, None]
    elif fate == "stay":
        P[at] = np.eye(len(at))[at][:, None]
    else:
        P[at] = start


def _region(rng: Rng, S: int) -> NDArray:
    """Return S distinct connected cells of a grid, (S, 2)."""
    width = int(np.clip(round(np.sqrt(S) * log_uniform(rng, 0.5, 2)), 1, S))
    if rng.random() < 0.4:
        return np.stack(np.divmod(np.arange(S), width), 1)
    height = int(np.ceil(S / width * rng.uniform(1.1, 2.0)))
    box = (max(height, -(-S // width)), width)
    depth_first = rng.random() < 0.5  # winding corridors, else a blob with gaps
    cells = [(int(rng.integers(box[0])), int(rng.integers(box[1])))]
    seen = set(cells)
    frontier = list(cells)
    while len(cells) < S:
        i = len(frontier) - 1 if depth_first else int(rng.integers(len(frontier)))
        row, column = frontier[i]
        free = [
            (row + d, column + e)
            for d, e in _DIRECTIONS.tolist()
            if 0 <= row + d < box[0]
            and 0 <= column + e < box[1]
            and (row + d, column + e) not in seen
        ]
        if not free:
            frontier.pop(i)
            continue
        cell = free[int(rng.integers(len(free)))]
        seen.add(cell)
        cells.append(cell)
        frontier.append(cell)
    return np.array(cells)


def neighbours(cells: NDArray) -> NDArray:
    """Return the state that each direction leads to, (S, 4); a wall means stay."""
    index = np.full(cells.max(0) + 2, -1)
    index[tuple(cells.T)] = np.arange(len(cells))
    to = cells[:, None] + _DIRECTIONS
    neighbour = index[to[..., 0], to[..., 1]]
    return np.where(neighbour < 0, np.arange(len(cells))[:, None], neighbour)


def _moves(rng: Rng, neighbour: NDArray, A: int) -> NDArray:
    """Return where each action leads when it does not slip, (S, A)."""
    S = len(neighbour)
    columns = [neighbour[:, i] for i in rng.permutation(4)]
    while len(columns) < A:
        step = neighbour[:, rng.integers(4)]
        extra = [step, np.arange(S), step[step]][rng.integers(3)]
        columns.insert(int(rng.integers(len(columns) + 1)), extra)
    return np.stack(columns[:A], 1)


def _goal_and_start(rng: Rng, neighbour: NDArray) -> tuple[int, NDArray]:
    """Return a goal and a start distribution, far apart in most mazes."""
    S = len(neighbour)
    goal = int(rng.integers(S))
    distance = np.full(S, S)
    distance[goal], reached = 0, [goal]
    for cell in reached:
        for step in neighbour[cell].tolist():
            if distance[step] == S and step != cell:
                distance[step] = distance[cell] + 1
                reached.append(step)
    allowed = distance > 0
    if rng.random() < 0.7:
        allowed &= distance >= np.quantile(distance, rng.uniform(0.3, 1))
    return goal, start_distribution(rng, allowed)
