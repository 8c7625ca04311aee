"""The Bayes reference: what perfect inference would make of a log.

For process families with a conjugate prior alone: known rewards, and rows of the
transition probabilities from one Dirichlet distribution. It is slow, and knows the
prior, which no method does; `conjugate` measures how far methods are from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

_MAX_STEPS = 500  # of an ascent; most end long before
_N_STARTS = 10  # samples whose optimal policies an ascent starts from


def posterior_samples(
    counts: NDArray[np.float64],
    concentration: float | NDArray[np.float64],
    rng: np.random.Generator,
    n_samples: int,
) -> NDArray[np.float64]:
    """Draw transition probabilities (n_samples, S, A, S) from Dirichlet rows.

    Parameters
    ----------
    counts : array of shape (S, A, S)
        Observed transitions.
    concentration : float or array that broadcasts to (S, A, S)
        Of the prior; 0 makes a successor impossible.
    rng : numpy.random.Generator
        Source of randomness.
    n_samples : int
        Number of draws.

    Returns
    -------
    array of shape (n_samples, S, A, S)
        Probabilities.
    """
    weight = rng.standard_gamma(counts + concentration, (n_samples, *counts.shape))
    return weight / weight.sum(axis=-1, keepdims=True)


def inferred_mean(
    counts: NDArray[np.float64], concentrations: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the posterior mean of the transitions where the concentration is unknown.

    Parameters
    ----------
    counts : array of shape (S, A, S)
        Observed transitions.
    concentrations : array of shape (K,)
        Of symmetric Dirichlet rows, equally likely a priori: all rows have the same.

    Returns
    -------
    array of shape (S, A, S)
        Probabilities.
    """
    S = len(counts)
    a, n = concentrations, counts.sum(-1)[..., None]
    of_rows = gammaln(S * a) - gammaln(n + S * a)  # (S, A, K)
    of_counts = gammaln(counts[..., None] + a) - gammaln(a)  # (S, A, S, K)
    evidence = of_rows.sum((0, 1)) + of_counts.sum((0, 1, 2))
    weight = np.exp(evidence - evidence.max())
    mean = (counts[..., None] + a) / (n + S * a)[:, :, None]
    return mean @ (weight / weight.sum())


def bayes_reference(
    counts: NDArray[np.float64],
    reward: NDArray[np.float64],
    concentration: float | NDArray[np.float64],
    gamma: float,
    start: NDArray[np.float64],
    terminal: NDArray[np.bool_],
    rng: np.random.Generator,
    n_samples: int = 200,
) -> NDArray[np.float64]:
    """Find the stationary policy of the highest mean value over the posterior.

    Exact policy gradients of the mean over the samples, taken as exponentiated steps
    whose length doubles after each success and halves after each failure, so that no
    step makes it worse. The mean of values has local maxima, so the best of several
    ascents counts: from the uniform policy, and from the optimal policies of the
    posterior's mean and of some of the samples.

    Parameters
    ----------
    counts : array of shape (S, A, S)
        Observed transitions.
    reward : array of shape (S, A)
        The known expected rewards.
    concentration : float or array that broadcasts to (S, A, S)
        Of the prior's Dirichlet rows.
    gamma : float
        Discount factor in [0, 1).
    start : array of shape (S,)
        Start distribution.
    terminal : bool array of shape (S,)
        States in which the episode is over: worth 0.
    rng : numpy.random.Generator
        Source of randomness.
    n_samples : int, default=200
        Draws from the posterior, at least 100 for a reference worth its name.

    Returns
    -------
    array of shape (S, A)
        The policy, which may be stochastic.
    """
    P = posterior_samples(counts, concentration, rng, n_samples)
    P = P * ~terminal  # (n, S, A, S); what leads to a terminal state is worth 0
    reward = np.where(terminal[:, None], 0.0, reward)
    uniform = np.full(reward.shape, 1 / reward.shape[1])
    guesses = [P.mean(axis=0), *P[:_N_STARTS]]
    optima = [_ascend(p[None], reward, gamma, start, uniform)[0] for p in guesses]
    # A step multiplies probabilities, so that none may be 0.
    starts = [uniform] + [0.9 * pi + 0.1 * uniform for pi in optima]
    ascents = [_ascend(P, reward, gamma, start, pi) for pi in starts]
    return max(ascents, key=lambda ascent: ascent[1])[0]


def mean_value(
    P: NDArray[np.float64],
    reward: NDArray[np.float64],
    gamma: float,
    start: NDArray[np.float64],
    pi: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Mean over processes of a policy's exact value, and its advantages.

    Parameters
    ----------
    P : array of shape (n, S, A, S)
        Probabilities of the successors that do not end the episode.
    reward : array of shape (S, A)
        Expected rewards.
    gamma : float
        Discount factor in [0, 1).
    start : array of shape (S,)
        Start distribution.
    pi : array of shape (S, A)
        The policy.

    Returns
    -------
    value : float
        Mean of rho v^pi over the processes.
    advantage : array of shape (S, A)
        Mean of q^pi - v^pi in each state, weighted by how much each process visits
        it: the policy gradient over the mean occupancy.
    """
    P_pi = np.einsum("sa,nsat->nst", pi, P)
    system = np.eye(len(reward)) - gamma * P_pi  # (n, S, S)
    r_pi = (pi * reward).sum(axis=1)
    v = np.linalg.solve(system, np.broadcast_to(r_pi, P_pi.shape[:2])[..., None])
    rho = np.broadcast_to(start, P_pi.shape[:2])[..., None]
    occupancy = np.linalg.solve(system.swapaxes(1, 2), rho)[..., 0]  # (n, S)
    q = reward + gamma * np.einsum("nsat,nt->nsa", P, v[..., 0])
    weight = occupancy / np.maximum(occupancy.sum(axis=0), np.finfo(float).tiny)
    advantage = (weight[..., None] * (q - v)).sum(axis=0)
    return float((v[..., 0] @ start).mean()), advantage


def _ascend(
    P: NDArray[np.float64],
    reward: NDArray[np.float64],
    gamma: float,
    start: NDArray[np.float64],
    pi: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float]:
    """Raise the mean value from `pi` until no step helps; the policy and its value."""
    value, advantage = mean_value(P, reward, gamma, start, pi)
    scale = max(float(np.abs(advantage).max()), np.finfo(float).tiny)
    step = 1.0
    for _ in range(_MAX_STEPS):
        logits = np.log(np.maximum(pi, np.finfo(float).tiny))
        logits += step * advantage / scale
        candidate = np.exp(logits - logits.max(axis=1, keepdims=True))
        candidate /= candidate.sum(axis=1, keepdims=True)
        new_value, new_advantage = mean_value(P, reward, gamma, start, candidate)
        if new_value >= value:
            if np.abs(candidate - pi).max() < 1e-9:
                break
            pi, value, advantage = candidate, new_value, new_advantage
            step *= 2
        else:
            step /= 2
            if step < 1e-9:
                break
    return pi, value
