"""The decision process that every family returns, and draws that they share.

Below all the families, which import from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator


@dataclass(frozen=True)
class Process:
    """A finite decision process.

    Attributes
    ----------
    P : float array of shape (S, A, S)
        Transition probabilities; rows sum to one.
    R : float array of shape (S, A, S)
        Mean reward of each transition.
    terminal : bool array of shape (S,)
        Entering such a state ends the episode.
    start : float array of shape (S,)
        Start distribution; zero on terminal states.
    noise : float
        Standard deviation of Gaussian reward noise.
    outcomes : (float, float) or None
        The two rewards, low and high, that every draw takes; their odds give the
        mean. None for Gaussian noise.
    allowed : bool array of shape (S, A) or None
        Actions that each state has, at least one; None for all. The rows of others
        repeat those of the state's first allowed action.
    """

    P: NDArray
    R: NDArray
    terminal: NDArray
    start: NDArray
    noise: float
    outcomes: tuple[float, float] | None = None
    allowed: NDArray | None = None


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Draw x with log x uniform between log ``low`` and log ``high``."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def sparse_rows(rng: Rng, candidates: NDArray, outdegree: NDArray, S: int) -> NDArray:
    """Draw P (S, A, S): Dirichlet weights on some of each state's candidates.

    ``candidates`` (S, A, K) next states without repetition, of which
    ``outdegree`` (S, A) are used; the concentration is log-uniform 0.05..5.
    """
    n_states, n_actions, _ = candidates.shape
    rank = rng.random(candidates.shape).argsort(-1)
    concentration = log_uniform(rng, 0.05, 5)
    weight = rng.standard_gamma(concentration, candidates.shape) + 1e-9
    weight *= rank < outdegree[..., None]
    weight /= weight.sum(-1, keepdims=True)
    P = np.zeros((n_states, n_actions, S))
    at = np.arange(n_states)[:, None, None], np.arange(n_actions)[:, None]
    np.add.at(P, (*at, candidates), weight)
    return P


def shuffle_actions(rng: Rng, rows: NDArray) -> NDArray:
    """Permute the actions of each state on their own; ``rows`` is (S, A, ...)."""
    order = rng.random(rows.shape[:2]).argsort(1)
    return rows[np.arange(len(rows))[:, None], order]


def reward_noise(rng: Rng, size: float) -> float:
    """Draw a noise level: none in 60 % of the processes."""
    return size * log_uniform(rng, 0.05, 1) if rng.random() < 0.4 else 0.0


def two_outcomes(rng: Rng, R: NDArray) -> tuple[float, float]:
    """Draw two rewards between which all mean rewards ``R`` lie."""
    return float(R.min()), float(R.max() + np.ptp(R) * rng.uniform(0, 2))


def places(rng: Rng, geometry: str, S: int) -> NDArray:
    """Return the coordinates (S, d) of states on a chain, a grid or, else, in a plane.

    Only the plane is random: its states are uniform in the unit square.
    """
    if geometry == "chain":
        return np.arange(S)[:, None].astype(float)
    if geometry == "grid":
        return np.stack(np.divmod(np.arange(S), int(np.ceil(np.sqrt(S)))), 1)
    return rng.random((S, 2))


def start_distribution(rng: Rng, allowed: NDArray) -> NDArray:
    """Draw a start distribution over allowed states (S,): one, some or all."""
    where = np.flatnonzero(allowed)
    kind = rng.random()
    if kind < 0.6:
        where = rng.choice(where, 1)
    elif kind < 0.8:
        where = rng.choice(where, rng.integers(1, len(where) + 1), replace=False)
    start = np.zeros(len(allowed))
    start[where] = 1 / len(where)
    return start
