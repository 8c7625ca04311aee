"""Banded processes: a line of states to be climbed step by step, past pitfalls.

In the manner of AnyMDP (arXiv 2502.02869): each pair leads to states within a band
around its own, with a drift of its own; the far end pays, pitfalls end the episode
or send the agent back, and small rewards for the place, distractions and step costs
add up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.prior._process import (
    Process,
    Rng,
    log_uniform,
    reward_noise,
    shuffle_actions,
    two_outcomes,
)


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    width = int(np.clip(round(log_uniform(rng, 1, max(1, S / 4))), 1, S - 1))
    P = _within_band(rng, S, A, width)

    goal = np.arange(S) >= S - rng.integers(1, max(1, S // 10) + 1)
    start = np.zeros(S)
    start[: rng.integers(1, max(1, S // 8) + 1)] = 1.0
    start /= start.sum()
    pit = np.zeros(S, bool)
    if width > 1 and rng.random() < 0.6:  # a band of one cannot step over a pit
        pit = (rng.random(S) < log_uniform(rng, 0.02, 0.5)) & (start == 0) & ~goal
        pit[1:] &= ~pit[:-1]

    prize = log_uniform(rng, 0.5, 3)
    R = np.zeros((S, A, S))
    if rng.random() < 0.6:
        size = prize * log_uniform(rng, 0.001, 0.1)
        place = np.arange(S)
        if rng.random() < 0.5:
            R += size * place / (S - 1)
        else:  # for progress
            R += size * np.clip((place - place[:, None]) / width, -1, 1)[:, None]
    if rng.random() < 0.3:
        R -= prize * log_uniform(rng, 0.001, 0.1)
    if rng.random() < 0.4:  # distractions
        n = rng.integers(1, 4)
        at = rng.integers(S, size=n), rng.integers(A, size=n)
        R[at] += prize * log_uniform(rng, 0.01, 0.5)
    R[:, :, goal] += prize * rng.uniform(rng.uniform(0.2, 1), 1, goal.sum())
    if rng.random() < 0.6:
        R[:, :, pit] -= prize * log_uniform(rng, 0.02, 1)

    terminal = np.zeros(S, bool)
    for region in (goal, pit):
        R[region] = 0.0
        if rng.random() < 0.55:
            terminal |= region
            P[region] = np.eye(S)[region][:, None]
        else:
            P[region] = start
    if rng.random() < 0.2:
        return Process(P, R, terminal, start, 0.0, two_outcomes(rng, R))
    return Process(P, R, terminal, start, reward_noise(rng, 0.3))


def _within_band(rng: Rng, S: int, A: int, width: int) -> NDArray:
    """Draw P (S, A, S), zero beyond ``width``; the ends keep what would pass them."""
    drift = rng.normal(rng.uniform(-0.8, 0.2), 0.4, A)
    drift[0] = rng.uniform(0.1, 1)  # one action makes headway
    drift = drift[rng.permutation(A)]
    own = rng.normal(size=(S, A)) * log_uniform(rng, 0.01, 1)
    drift = np.clip(drift + own, -1, 1)
    if rng.random() < 0.5:  # an action means something else in every state
        drift = shuffle_actions(rng, drift)

    shift = np.arange(-width, width + 1)
    if rng.random() < 0.6:  # a few Gaussian bumps
        n_bumps = int(rng.integers(1, 4))
        weight = np.zeros((S, A, len(shift)))
        for share in rng.dirichlet(np.ones(n_bumps)):
            spread = rng.normal(size=(S, A)) * log_uniform(rng, 0.01, 0.5)
            centre = width * np.clip(drift + spread, -1, 1)
            scale = log_uniform(rng, 0.15, width)
            distance = (shift - centre[..., None]) / scale
            weight += share * np.exp(-0.5 * distance**2)
        weight[weight < 0.01 * weight.max(-1, keepdims=True)] = 0.0
    else:
        concentration = log_uniform(rng, 0.05, 5)
        weight = rng.standard_gamma(concentration, (S, A, len(shift))) + 1e-9
        pull = drift * log_uniform(rng, 0.5, 5)
        weight *= np.exp(pull[..., None] * shift / width)
    weight /= weight.sum(-1, keepdims=True)

    to = np.arange(S)[:, None] + np.arange(len(shift))
    wide = np.zeros((S, A, S + 2 * width))
    wide[np.arange(S)[:, None, None], np.arange(A)[:, None], to[:, None]] = weight
    P = wide[..., width:-width].copy()
    P[..., 0] += wide[..., :width].sum(-1)
    P[..., -1] += wide[..., -width:].sum(-1)
    return P
