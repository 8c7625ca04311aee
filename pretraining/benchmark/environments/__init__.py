"""The development environments of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import gymnasium
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


def toy_text(name: str, gamma: float, **options: Any) -> Environment:
    """One of gymnasium's toy-text environments, from its own table of outcomes."""
    env: Any = gymnasium.make(name, **options).unwrapped
    table = [[env.P[s][a] for a in sorted(env.P[s])] for s in sorted(env.P)]
    return from_table(name, table, env.initial_state_distrib, gamma)


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


def garnet(
    n_states: int, n_actions: int, n_successors: int, gamma: float, seed: int = 0
) -> Environment:
    """Draw a Garnet process, as in Bhatnagar et al. (2009, section 7).

    Each pair has `n_successors` different successors, drawn uniformly, whose
    probabilities are the lengths between sorted uniform cuts of [0, 1]. The reward of
    a pair is a standard normal number. The process starts anywhere and goes on for
    ever.
    """
    rng = np.random.default_rng(seed)
    shape = (n_states, n_actions)
    order = rng.permuted(np.tile(np.arange(n_states), (*shape, 1)), axis=2)
    cuts = np.sort(rng.random((*shape, n_successors - 1)), axis=2)
    reward = np.broadcast_to(
        rng.standard_normal(shape)[:, :, None], (*shape, n_successors)
    )
    return Environment(
        name=f"Garnet-{n_states}-{n_actions}-{n_successors}",
        next_state=order[:, :, :n_successors],
        prob=np.diff(cuts, axis=2, prepend=0.0, append=1.0),
        reward=reward,
        terminated=np.zeros(reward.shape, dtype=bool),
        start=np.full(n_states, 1 / n_states),
        gamma=gamma,
    )


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


def bernoulli_bandit(means: Sequence[float], gamma: float) -> Environment:
    """One state, an action an arm: pays 1 with the arm's mean, and ends."""
    table = [[[(mean, 0, 1.0, True), (1 - mean, 0, 0.0, True)] for mean in means]]
    return from_table(f"bandit-{len(means)}", table, np.ones(1), gamma)


_BUILDERS: dict[str, Callable[[float], Environment]] = {
    "gridworld-3x3": lambda gamma: gridworld(3, gamma),
    "gridworld-5x5": lambda gamma: gridworld(5, gamma),
    "slippery-lake": slippery_lake,
    "FrozenLake-v1": lambda gamma: toy_text("FrozenLake-v1", gamma),
    "FrozenLake-v1-not-slippery": lambda gamma: replace(
        toy_text("FrozenLake-v1", gamma, is_slippery=False),
        name="FrozenLake-v1-not-slippery",
    ),
    "FrozenLake8x8-v1": lambda gamma: toy_text("FrozenLake8x8-v1", gamma),
    "CliffWalking-v1": lambda gamma: toy_text("CliffWalking-v1", gamma),
    "Taxi-v4": lambda gamma: toy_text("Taxi-v4", gamma),
    "two-rooms": two_room_maze,
    "RiverSwim-6": lambda gamma: river_swim(6, gamma),
    "RiverSwim-12": lambda gamma: river_swim(12, gamma),
    "DeepSea-6": lambda gamma: deep_sea(6, gamma),
    "DeepSea-10": lambda gamma: deep_sea(10, gamma),
    "DeepSea-20": lambda gamma: deep_sea(20, gamma),
    "DeepSea-30": lambda gamma: deep_sea(30, gamma),
    "DeepSea-50": lambda gamma: deep_sea(50, gamma),
    "Garnet-20-4-3": lambda gamma: garnet(20, 4, 3, gamma),
    "Garnet-50-4-4": lambda gamma: garnet(50, 4, 4, gamma),
    "Garnet-200-8-5": lambda gamma: garnet(200, 8, 5, gamma),
    "forest-10": lambda gamma: forest(10, gamma),
    "bandit-10": lambda gamma: bernoulli_bandit(
        np.random.default_rng(0).random(10).tolist(), gamma
    ),
}
ENVIRONMENT_NAMES = tuple(_BUILDERS)


@lru_cache(maxsize=64)
def environment(name: str, gamma: float) -> Environment:
    """Build the development environment called `name` at the discount `gamma`."""
    return _BUILDERS[name](gamma)


def environments(gamma: float) -> list[Environment]:
    """Build all development environments at the discount `gamma`."""
    return [environment(name, gamma) for name in ENVIRONMENT_NAMES]
