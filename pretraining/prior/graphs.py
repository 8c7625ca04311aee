"""Random graphs: the four geometries of the seed paper (arXiv 2606.18812).

Chain, grid, mesh or no geometry; outdegree 1..6 with probability proportional
to 1/o; Dirichlet concentration log-uniform 0.05..5; sparse signed rewards. Added
to the seed's ranges: terminal states, rewards on arrival, step costs, noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.prior._process import (
    Process,
    Rng,
    log_uniform,
    places,
    reward_noise,
    sparse_rows,
    start_distribution,
)

_NEIGHBOURS = {"chain": 3, "grid": 5, "mesh": 6}


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    geometry = str(rng.choice(["chain", "grid", "mesh", "random"]))
    candidates = _candidates(rng, geometry, S, A)
    k = candidates.shape[-1]
    degrees = np.arange(1, min(6, k) + 1)
    outdegree = rng.choice(degrees, (S, A), p=(1 / degrees) / (1 / degrees).sum())
    if rng.random() < 0.25:
        outdegree[:] = 1  # a deterministic world
    P = sparse_rows(rng, candidates, outdegree, S)

    terminal = np.zeros(S, bool)
    if S > 2 and rng.random() < 0.5:
        terminal[rng.choice(S, rng.integers(1, max(2, S // 6 + 1)), replace=False)] = (
            True
        )
    R = _sparse_rewards(rng, S, A, terminal)
    start = start_distribution(rng, ~terminal)
    return Process(P, R, terminal, start, reward_noise(rng, 1.0))


def _candidates(rng: Rng, geometry: str, S: int, A: int) -> NDArray:
    """Return the next states that each pair may have, (S, A, K)."""
    if geometry == "random":
        k = min(6, S)
        return rng.random((S, A, S)).argsort(-1)[..., :k]
    place = places(rng, geometry, S)
    distance = np.abs(place[:, None] - place[None]).sum(-1)
    nearest = distance.argsort(1, kind="stable")[:, : min(_NEIGHBOURS[geometry], S)]
    return np.broadcast_to(nearest[:, None], (S, A, nearest.shape[1]))


def _sparse_rewards(rng: Rng, S: int, A: int, terminal: NDArray) -> NDArray:
    """Draw mean rewards (S, A, S) on pairs, on arrival or both."""
    R = np.zeros((S, A, S))
    signs = [1.0] if rng.random() < 0.5 else [1.0, -1.0]
    where = rng.random()
    if where < 0.65:
        share = log_uniform(rng, 1 / (S * A), 0.7)
        R += _signed(rng, (S, A), share, signs)[..., None]
    if where > 0.35:
        R += _signed(rng, (S,), log_uniform(rng, 1 / S, max(0.4, 1 / S)), signs)
    if terminal.any() and rng.random() < 0.6:
        ends = rng.choice([1.0, 1.0, -1.0], S) * rng.uniform(0.3, 3)
        R += np.where(terminal, ends, 0.0)
    if rng.random() < 0.3:
        R -= log_uniform(rng, 0.01, 1)
    if rng.random() < 0.15:  # each action has its own price
        R -= rng.uniform(0, log_uniform(rng, 0.05, 2), A)[:, None]
    return R


def _signed(rng: Rng, shape: tuple[int, ...], share: float, signs: list) -> NDArray:
    size = rng.choice(signs, shape) * (
        1.0 if rng.random() < 0.4 else rng.uniform(0.05, 1, shape)
    )
    chosen = rng.random(shape) < share
    chosen.flat[rng.integers(chosen.size)] = True
    return np.where(chosen, size, 0.0)
