"""Exact policy evaluation and policy iteration on a known finite process.

This is the oracle of the benchmark, and independent on purpose: it shares no code with
the planner of tabrl, so that a fault of that planner cannot hide in its own judgement.

A process is a pair of a transition matrix of shape (S * A, S), dense or sparse, whose
row ``s * A + a`` holds the probabilities of the successors of ``(s, a)``, and expected
rewards of shape (S, A). Rows may sum to less than one: what is missing ends the
episode, and is worth nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

# Probabilities of the successors that do not end the episode, (S * A, S).
Transition = NDArray[np.float64] | sparse.csr_array

# Below this number of states a dense solve is faster than a sparse one.
_DENSE_STATES = 128
# The first policy is then near the optimum: at gamma 0.99 the environments of the
# benchmark take 5 solves at most, and most of them 1.
_SWEEPS = 50
# A bound against cycles that rounding might cause, far above what a search takes.
_MAX_ITERATIONS = 1000


def evaluate(
    transition: Transition,
    reward: NDArray[np.float64],
    gamma: float,
    pi: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Solve (I - gamma P_pi) v = r_pi.

    Parameters
    ----------
    transition : array or csr_array of shape (S * A, S)
        Probabilities of the successors that do not end the episode.
    reward : array of shape (S, A)
        Expected rewards.
    gamma : float
        Discount factor in [0, 1).
    pi : array of shape (S, A)
        The policy, one distribution over actions a row.

    Returns
    -------
    array of shape (S,)
        State values, in units of `reward`.

    Examples
    --------
    One state that pays 1 for ever is worth 1 / (1 - gamma):

    >>> stay = sparse.csr_array(np.ones((1, 1)))
    >>> evaluate(stay, np.ones((1, 1)), 0.75, np.ones((1, 1)))
    array([4.])
    """
    n_states, n_actions = reward.shape
    # Row s of `mix` holds pi[s] in the columns of the pairs of s: (S, S * A).
    mix = sparse.csr_array(
        (
            np.ravel(pi),
            np.arange(n_states * n_actions),
            np.arange(0, n_states * n_actions + 1, n_actions),
        ),
        shape=(n_states, n_states * n_actions),
    )
    return _solve(mix @ transition, (pi * reward).sum(axis=1), gamma)


def _solve(
    transition: Transition, reward: NDArray[np.float64], gamma: float
) -> NDArray[np.float64]:
    n_states = len(reward)
    if sparse.issparse(transition) and n_states <= _DENSE_STATES:
        transition = transition.toarray()
    if isinstance(transition, np.ndarray):
        dense = np.eye(n_states) - gamma * transition
        return np.linalg.solve(dense, reward).astype(np.float64, copy=False)
    system = sparse.eye_array(n_states, format="csc") - gamma * transition.tocsc()
    return spsolve(system, reward)


def action_values(
    transition: Transition,
    reward: NDArray[np.float64],
    gamma: float,
    v: NDArray[np.float64],
) -> NDArray[np.float64]:
    """One Bellman backup, q(s, a) = r(s, a) + gamma sum_s' P(s' | s, a) v(s')."""
    return reward + gamma * (transition @ v).reshape(reward.shape)


def policy_iteration(
    transition: Transition,
    reward: NDArray[np.float64],
    gamma: float,
    guess: NDArray[np.float64] | None = None,
    n_sweeps: int = _SWEEPS,
) -> NDArray[np.float64]:
    """Optimal action values by Howard's policy iteration.

    Some sweeps of value iteration give the first policy. An action is replaced only
    by one that is better by more than rounding, so that ties cannot cycle.

    Parameters
    ----------
    transition : array or csr_array of shape (S * A, S)
        Probabilities of the successors that do not end the episode.
    reward : array of shape (S, A)
        Expected rewards.
    gamma : float
        Discount factor in [0, 1). It may be 1 where every policy met on the way ends
        the episode for certain.
    guess : array of shape (S,), optional
        State values that the sweeps start from, in units of `reward`; the best
        expected rewards by default. A good guess saves solves and changes the result
        by rounding alone.
    n_sweeps : int, default=50
        Sweeps of value iteration.

    Returns
    -------
    array of shape (S, A)
        Optimal action values, in units of `reward`.

    Raises
    ------
    RuntimeError
        If 1000 iterations do not find the optimum.
    """
    n_states, n_actions = reward.shape
    states = np.arange(n_states)
    v = reward.max(axis=1) if guess is None else guess
    for _ in range(n_sweeps):
        v = action_values(transition, reward, gamma, v).max(axis=1)
    q = action_values(transition, reward, gamma, v)
    action = q.argmax(axis=1)
    for _ in range(_MAX_ITERATIONS):
        v = _solve(
            transition[states * n_actions + action], reward[states, action], gamma
        )
        q = action_values(transition, reward, gamma, v)
        better = q.max(axis=1) > q[states, action] + tolerance(q)
        if not better.any():
            return q
        action = np.where(better, q.argmax(axis=1), action)
    raise RuntimeError(f"policy iteration took over {_MAX_ITERATIONS} iterations.")


def tolerance(q: NDArray[np.float64]) -> float:
    """Below this difference two action values count as equal."""
    return 1e-9 * max(1e-3, float(np.abs(q).max()))


def greedy(q: NDArray[np.float64], ties: str = "random") -> NDArray[np.float64]:
    """Choose greedily by action values.

    Other packages of the project have a rule like this one. The oracle has its own on
    purpose, so that it judges them without sharing their code.

    Parameters
    ----------
    q : array of shape (S, A)
        Action values.
    ties : {"random", "first"}
        Uniform over the actions that are best up to rounding, or the first of them.

    Returns
    -------
    array of shape (S, A)
        The policy.
    """
    best = q >= q.max(axis=1, keepdims=True) - tolerance(q)
    if ties == "first":
        return np.eye(q.shape[1])[best.argmax(axis=1)]
    if ties == "random":
        return best / best.sum(axis=1, keepdims=True)
    raise ValueError(f"ties must be 'random' or 'first'. Got {ties!r}.")
