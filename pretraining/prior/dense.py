"""Dense processes: any action may lead to any state, with rows of one Dirichlet.

The conjugate prior of Bayesian reinforcement learning (Dearden, Friedman and Andre
1999; Strens 2000). Concentrations are those of uniform rows or of 1 / S a state, or
are drawn; some states may be likelier than others whatever is done.
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
    two_outcomes,
)


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    concentration = np.full(S, _concentration(rng, S))
    if rng.random() < 0.25:
        concentration *= S * rng.dirichlet(np.ones(S))
    P = rng.dirichlet(concentration, (S, A))

    terminal = np.zeros(S, bool)
    if S > 2 and rng.random() < 0.15:
        terminal[rng.integers(S)] = True
        P[terminal] = np.eye(S)[terminal]
    R, outcomes = _rewards(rng, S, A)
    R[terminal] = 0.0
    noise = 0.0 if outcomes else reward_noise(rng, 1.0)
    start = start_distribution(rng, ~terminal)
    return Process(P, R, terminal, start, noise, outcomes)


def _concentration(rng: Rng, n_states: int) -> float:
    kind = rng.random()
    if kind < 0.4:
        return 1.0
    return 1 / n_states if kind < 0.6 else log_uniform(rng, 0.05, 5)


def _rewards(rng: Rng, S: int, A: int) -> tuple[NDArray, tuple[float, float] | None]:
    """Draw mean rewards (S, A, S), and the two outcomes that give them if two do."""
    shape = [(S, A, 1), (S, A, 1), (S, 1, 1), (1, 1, S)][rng.integers(4)]
    mean = rng.normal(size=shape) if rng.random() < 0.6 else rng.random(shape)
    if rng.random() < 0.2:
        mean = mean * (rng.random(shape) < rng.uniform(0.1, 0.5))
    outcomes = two_outcomes(rng, mean) if rng.random() < 0.25 else None
    return np.broadcast_to(mean, (S, A, S)).copy(), outcomes
