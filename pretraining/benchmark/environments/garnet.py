"""Garnet: processes drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretraining.benchmark.process import Environment


def garnet(
    n_states: int,
    n_actions: int,
    n_successors: int,
    gamma: float,
    seed: int | Sequence[int] = 0,
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
