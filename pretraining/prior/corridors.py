"""Corridors: a far reward behind an adverse current, a small one at hand.

After the chains of Strehl and Littman (2008), with every probability random. Each
action has its own odds of stepping back, staying and stepping forward; the far end
pays for ever, once, or sends the agent back.
"""

from __future__ import annotations

import numpy as np

from pretraining.prior._process import (
    Process,
    Rng,
    log_uniform,
    reward_noise,
    shuffle_actions,
)


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    odds = rng.dirichlet([0.6, 0.6, 0.4], A)  # back, stay, forward
    odds[0] = rng.dirichlet([0.3, 1.0, 1.0])  # one action makes headway
    if rng.random() < 0.25:
        odds = np.eye(3)[odds.argmax(1)]
    odds = odds[rng.permutation(A)]
    odds = np.broadcast_to(odds, (S, A, 3))
    if rng.random() < 0.3:  # which action is which differs between states
        odds = shuffle_actions(rng, odds)
    P = np.zeros((S, A, S))
    at = np.arange(S)
    for shift, share in zip((-1, 0, 1), np.moveaxis(odds, 2, 0), strict=True):
        to = np.clip(at + shift, 0, S - 1)
        if shift < 0 and rng.random() < 0.15:
            to = np.zeros_like(at)  # falling back means starting over
        P[at, :, to] += share

    R = np.zeros((S, A, S))
    terminal = np.zeros(S, bool)
    start = np.zeros(S)
    start[: rng.integers(1, max(2, S // 4) + 1)] = 1.0
    if rng.random() < 0.15:
        start[:-1] = 1.0
    start[-1] = 0.0
    start /= start.sum()
    fate = rng.random()
    if fate < 0.5:
        R[-1, :, -1] = 1.0
    elif fate < 0.8:
        R[:, :, -1] = 1.0
        terminal[-1] = True
    else:
        R[:-1, :, -1] = 1.0
        P[-1] = start
    if rng.random() < 0.6:
        small = log_uniform(rng, 0.001, 0.3)
        if rng.random() < 0.5:
            R[0, rng.integers(A)] += small
        else:
            R[0, :, 0] += small
    if rng.random() < 0.25:
        R -= log_uniform(rng, 0.001, 0.1)
    return Process(P, R, terminal, start, reward_noise(rng, 0.3))
