"""Garnet processes: random successors and cut-point probabilities, no geometry.

Archibald, McKinnon and Thomas (1995), in the form of Bhatnagar, Sutton, Ghavamzadeh
and Lee (2009): each pair has the same number of distinct next states, drawn
uniformly, and the probabilities are the gaps between sorted uniform points.
Rewards are dense or sparse, on pairs, states or transitions.
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


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    limit = min(10, S)
    b = min(int(log_uniform(rng, 1, limit + 1)), limit)  # the branching factor
    order = rng.random((S, A, S), np.float32).argpartition(b - 1)
    next_state = order[..., :b]
    P, R = np.zeros((S, A, S)), np.zeros((S, A, S))
    np.put_along_axis(P, next_state, _probabilities(rng, (S, A, b)), -1)

    where = rng.choice(["pair", "departure", "arrival", "transition"])
    shape = {
        "pair": (S, A, 1),
        "departure": (S, 1, 1),
        "arrival": (S,),
        "transition": (S, A, b),
    }[where]
    reward, outcomes = _rewards(rng, shape)
    if where == "transition":
        np.put_along_axis(R, next_state, reward, -1)
    else:
        R += reward

    terminal = np.zeros(S, bool)
    if S > 2 and rng.random() < 0.15:
        n_ends = rng.integers(1, max(2, S // 6 + 1))
        terminal[rng.choice(S, n_ends, replace=False)] = True
        P[terminal] = np.eye(S)[terminal][:, None]
        R[terminal] = 0.0
    start = start_distribution(rng, ~terminal)
    noise = 0.0 if outcomes else reward_noise(rng, 1.0)
    return Process(P, R, terminal, start, noise, outcomes)


def _probabilities(rng: Rng, shape: tuple[int, int, int]) -> NDArray:
    """Draw the probabilities of each pair's next states."""
    if rng.random() < 1 / 3:
        weight = rng.standard_gamma(log_uniform(rng, 0.05, 5), shape) + 1e-9
        return weight / weight.sum(-1, keepdims=True)
    cuts = np.sort(rng.random((*shape[:2], shape[2] - 1)), -1)
    return np.diff(cuts, prepend=0.0, append=1.0)


def _rewards(
    rng: Rng, shape: tuple[int, ...]
) -> tuple[NDArray, tuple[float, float] | None]:
    """Draw mean rewards, and the two outcomes that give them if there are two."""
    kind = rng.choice(["gaussian", "uniform", "sparse"])
    if kind == "gaussian":
        return rng.normal(size=shape), None
    reward = rng.random(shape)
    if kind == "sparse":
        if rng.random() < 0.4:
            reward[:] = 1.0
        share = log_uniform(rng, 1 / reward.size, max(0.5, 1 / reward.size))
        chosen = rng.random(shape) < share
        chosen.flat[rng.integers(chosen.size)] = True
        reward[~chosen] = 0.0
    sign = -1.0 if rng.random() < 0.2 else 1.0
    outcomes = (min(sign, 0.0), max(sign, 0.0)) if rng.random() < 0.5 else None
    return sign * reward, outcomes
