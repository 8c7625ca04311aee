"""Bandits: one state, or contexts that come whatever the agent does.

The K-armed bandit of Robbins (1952) and its contextual form, with fixed odds of each
context (Lattimore and Szepesvari, 2020, chapter 18). Some end after every pull.
Most rewards have two outcomes; others are Gaussian or certain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.prior._process import Process, Rng, log_uniform


def sample(rng: Rng, n_states: int, n_actions: int) -> Process:
    """Draw a process of the family."""
    S, A = n_states, n_actions
    ends = S > 1 and rng.random() < (0.75 if S == 2 else 0.5)
    n_contexts = S - 1 if ends else S
    start = np.zeros(S)
    start[:n_contexts] = 1 / n_contexts
    if rng.random() < 0.5:
        concentration = log_uniform(rng, 0.3, 5)
        start[:n_contexts] = rng.dirichlet(np.full(n_contexts, concentration))
    terminal = np.zeros(S, bool)
    terminal[n_contexts:] = True
    following = terminal.astype(float) if ends else start
    P = np.tile(following, (S, A, 1))

    mean, noise, outcomes = _rewards(rng, n_contexts, A)
    R = np.zeros((S, A, S))
    R[:n_contexts] = mean[..., None]
    return Process(P, R, terminal, start, noise, outcomes)


def _rewards(
    rng: Rng, n_contexts: int, n_arms: int
) -> tuple[NDArray, float, tuple[float, float] | None]:
    """Draw means (n_contexts, n_arms), the noise and the two outcomes, if two."""
    kind = rng.choice(["outcomes", "gaussian", "certain"], p=[0.6, 0.3, 0.1])
    if kind == "outcomes":
        low, high = 0.0, 1.0
        if rng.random() < 0.3:
            pairs = [(-1.0, 1.0), (-1.0, 0.0), (0.0, log_uniform(rng, 0.1, 10))]
            low, high = pairs[rng.integers(3)]
        odds = _odds(rng, n_contexts, n_arms)
        return low + (high - low) * odds, 0.0, (low, high)
    mean = _scores(rng, n_contexts, n_arms)
    if rng.random() < 0.3:
        mean += 3 * rng.normal()
    return mean, log_uniform(rng, 0.1, 3) if kind == "gaussian" else 0.0, None


def _odds(rng: Rng, n_contexts: int, n_arms: int) -> NDArray:
    """Draw the probability of the higher outcome, (n_contexts, n_arms)."""
    if n_contexts == 1 or rng.random() < 0.5:
        a = b = 1.0
        if rng.random() < 0.3:
            a, b = log_uniform(rng, 0.3, 10), log_uniform(rng, 0.3, 10)
        return rng.beta(a, b, (n_contexts, n_arms))
    # 1.7 times a standard normal, through the logistic, is close to uniform.
    return 1 / (1 + np.exp(-1.7 * _scores(rng, n_contexts, n_arms)))


def _scores(rng: Rng, n_contexts: int, n_arms: int) -> NDArray:
    """Draw scores of unit variance: independent, additive or of low rank."""
    kind = rng.choice(["independent", "additive", "low rank"])
    if kind == "independent" or n_contexts == 1:
        return rng.normal(size=(n_contexts, n_arms))
    if kind == "additive":
        share = rng.random()
        context, arm = rng.normal(size=(n_contexts, 1)), rng.normal(size=n_arms)
        return np.sqrt(share) * context + np.sqrt(1 - share) * arm
    rank = int(rng.integers(1, 4))
    context, arm = rng.normal(size=(n_contexts, rank)), rng.normal(size=(rank, n_arms))
    return context @ arm / np.sqrt(rank)
