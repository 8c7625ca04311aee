"""Layered graphs: finite-horizon problems unrolled in time.

Every episode passes the layers in order, so that returns are bounded by the rewards
on one path: scheduling, staged treatment, games of a fixed length. Actions lead to
next-layer states nearby, or anywhere; the last layer ends, or begins again.
"""

from __future__ import annotations

import numpy as np

from pretraining.prior._process import (
    Process,
    Rng,
    log_uniform,
    reward_noise,
    shuffle_actions,
    sparse_rows,
)


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = max(n_states, 2), n_actions
    end = S - 1
    n_layers = int(np.clip(round(log_uniform(rng, 1, S)), 1, S - 1))
    layer = np.arange(end) * n_layers // end
    members = [np.flatnonzero(layer == i) for i in range(n_layers)]
    local = rng.random() < 0.5
    degree = 1 if rng.random() < 0.4 else 3
    P = np.zeros((S, A, S))
    for i, here in enumerate(members[:-1]):
        there = members[i + 1]
        k = min(degree, len(there))
        if local:
            # Neighbouring columns: action a shifts by its own offset.
            column = (here - here[0]) * len(there) // len(here)
            shift = np.arange(A) - A // 2
            first = np.clip(column[:, None] + shift, 0, len(there) - k)
            candidates = there[first[..., None] + np.arange(k)]
        else:
            order = rng.random((len(here), A, len(there))).argsort(-1)
            candidates = there[order[..., :k]]
        outdegree = rng.integers(1, k + 1, (len(here), A))
        P[here] = sparse_rows(rng, candidates, outdegree, S)
    if rng.random() < 0.5:  # an action means something else in every state
        P = shuffle_actions(rng, P)
    P[members[-1], :, end] = 1.0
    P[end, :, end] = 1.0
    terminal = np.zeros(S, bool)
    start = np.zeros(S)
    start[members[0] if rng.random() < 0.4 else members[0][:1]] = 1.0
    start /= start.sum()
    if rng.random() < 0.75:
        terminal[end] = True
    else:
        P[end] = start

    R = np.zeros((S, A, S))
    last = members[-1]
    if rng.random() < 0.7:  # one prize, at one place of the last layer
        R[rng.choice(last)] += 1.0
    else:
        R[last] += rng.normal(size=(len(last), A, 1))
    if rng.random() < 0.5:  # small costs or rewards on the way
        size = log_uniform(rng, 0.001, 0.3) * rng.choice([-1, 1])
        R += size * (rng.random((S, A, 1)) < rng.uniform(0.1, 0.9))
    R[end] = 0.0
    return Process(P, R, terminal, start, reward_noise(rng, 0.5))
