"""Offline baselines: cloning, certainty equivalence, VI-LCB, SPIBB and Soft-SPIBB.

Each turns the counts of a log into a policy of shape (S, A). They are told the
number of states and of actions, which no log shows.

In a state that the log does not show, all of them are uniform, with two exceptions
that lie in what they are: ``ties="first"`` takes action 0, and the SPIBB methods keep
the behaviour policy, which they are told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from pretraining.benchmark.exact import (
    action_values,
    evaluate,
    greedy,
    policy_iteration,
    tolerance,
)
from pretraining.benchmark.process import Environment

_MAX_ITERATIONS = 1000


@dataclass(frozen=True, eq=False)
class Counts:
    """The sufficient statistics of a log.

    Parameters
    ----------
    n : array of shape (S, A)
        Visits of each pair.
    reward_sum : array of shape (S, A)
        Sum of the rewards of each pair.
    successor : csr_array of shape (S * A, S)
        Transitions from the pair ``s * A + a`` to each state that did not terminate.
    reward_range : tuple of float
        The lowest and the highest reward seen.
    """

    n: NDArray[np.float64]
    reward_sum: NDArray[np.float64]
    successor: sparse.csr_array
    reward_range: tuple[float, float]

    @property
    def mean_reward(self) -> NDArray[np.float64]:
        """Mean reward of each pair, 0 where there are no visits, (S, A)."""
        return self.reward_sum / np.maximum(self.n, 1)

    @property
    def transition(self) -> sparse.csr_array:
        """Observed frequencies of the successors, rows of 0 without visits."""
        per_pair = sparse.diags_array(1 / np.maximum(self.n, 1).ravel())
        return sparse.csr_array(per_pair @ self.successor)


def count(log: Mapping[str, NDArray], n_states: int, n_actions: int) -> Counts:
    """Count the transitions of a log.

    Parameters
    ----------
    log : mapping of str to array of shape (n,)
        At least `state`, `action`, `reward`, `next_state` and `terminated`.
    n_states, n_actions : int
        Numbers of states and of actions of the process.

    Returns
    -------
    Counts
        The statistics of the log.
    """
    shape = (n_states, n_actions)
    pair = log["state"] * n_actions + log["action"]
    size = n_states * n_actions
    goes_on = ~log["terminated"]
    successor = sparse.coo_array(
        (np.ones(goes_on.sum()), (pair[goes_on], log["next_state"][goes_on])),
        shape=(size, n_states),
    )
    reward_sum = np.bincount(pair, log["reward"], minlength=size)
    return Counts(
        n=np.bincount(pair, minlength=size).reshape(shape).astype(np.float64),
        reward_sum=reward_sum.reshape(shape).astype(np.float64),
        successor=sparse.csr_array(successor),
        reward_range=(float(log["reward"].min()), float(log["reward"].max())),
    )


def expected_counts(env: Environment, n: float) -> Counts:
    """Count what `n` visits of each pair give on average: the limit of much data."""
    possible = env.reward[env.prob > 0]
    return Counts(
        n=np.full((env.n_states, env.n_actions), float(n)),
        reward_sum=n * env.expected_reward,
        successor=sparse.csr_array(n * env.transition),
        reward_range=(float(possible.min()), float(possible.max())),
    )


def behaviour_cloning(counts: Counts) -> NDArray[np.float64]:
    """Observed frequencies of the actions; uniform in states never seen."""
    n_actions = counts.n.shape[1]
    visits = counts.n.sum(axis=1, keepdims=True)
    return np.where(visits > 0, counts.n / np.maximum(visits, 1), 1 / n_actions)


def certainty_equivalence(
    counts: Counts, gamma: float, ties: str = "random"
) -> NDArray[np.float64]:
    """Optimal policy of the observed frequencies and mean rewards.

    A pair that was never visited is worth 0, as value iteration on zero counts has
    it: optimistic where each step costs, pessimistic where a goal pays.

    Parameters
    ----------
    counts : Counts
        Statistics of the log.
    gamma : float
        Discount factor in [0, 1).
    ties : {"random", "first"}
        Uniform over the best actions, or the first of them. So a state that was
        never seen gets the uniform policy, or action 0.

    Returns
    -------
    array of shape (S, A)
        The policy.
    """
    q = policy_iteration(counts.transition, counts.mean_reward, gamma)
    return greedy(q, ties)


def penalised_reward(
    n: NDArray[np.float64],
    mean_reward: NDArray[np.float64],
    low: ArrayLike,
    high: ArrayLike,
    gamma: ArrayLike,
    c: ArrayLike,
    delta: float = 0.1,
) -> NDArray[np.float64]:
    r"""Return the rewards that VI-LCB plans with.

    .. math:: \hat r(s, a) - c \, (r_{max} - r_{min})
              \sqrt{\log(2 S A / \delta) / (2 \max(n(s, a), 1))},

    and for an unvisited pair the value of one visit that paid the lowest reward and
    stays where it is for ever.

    Parameters
    ----------
    n, mean_reward : arrays of shape (..., S, A)
        Visits and mean reward of each pair, for any number of data sets.
    low, high : float or array
        The range of the rewards, 0 included. An array has a shape that broadcasts
        against (..., S, A): (..., 1, 1) for one number a data set.
    gamma : float or array
        Discount factor in [0, 1), of such a shape.
    c : float or array
        Scale of the bonus, of such a shape.
    delta : float, default=0.1
        Probability that a bound fails.

    Returns
    -------
    array of shape (..., S, A)
        In the units of the rewards.
    """
    low, gamma = np.asarray(low), np.asarray(gamma)
    log_term = np.log(2 * n.shape[-2] * n.shape[-1] / delta)
    bonus = c * (high - low) * np.sqrt(log_term / (2 * np.maximum(n, 1)))
    unvisited = (low - bonus.max(axis=(-2, -1), keepdims=True)) / (1 - gamma)
    return np.where(n > 0, mean_reward - bonus, unvisited)


def vi_lcb(
    counts: Counts,
    gamma: float,
    c: float,
    delta: float = 0.1,
    ties: str = "random",
) -> NDArray[np.float64]:
    r"""Value iteration with lower confidence bounds, Hoeffding bonus.

    The policy is optimal for the observed frequencies with the rewards

    .. math:: \hat r(s, a) - c \, (r_{max} - r_{min})
              \sqrt{\log(2 S A / \delta) / (2 \max(n(s, a), 1))},

    the form of Rashidinejad et al. 2021 (arXiv 2103.12021, algorithm 3). Where their
    paper leaves a choice, or is made for a proof, this is the strongest of the forms
    we tried, so that the peer is a fair one:

    - the scale is the range of the rewards (0 included), not that over
      ``1 - gamma``, with which each of the published constants from 0.05 up gave
      lower values on the development environments;
    - values are not clipped at the lowest possible return: clipping makes ties,
      between visited and unvisited pairs too, while without it a large `c` stays on
      well-visited paths;
    - an unvisited pair counts as one visit that paid the lowest reward and stays
      where it is for ever, so that it is never preferred to a visited one.

    Parameters
    ----------
    counts : Counts
        Statistics of the log.
    gamma : float
        Discount factor in [0, 1).
    c : float
        Scale of the bonus, at least 0; 0.05, 0.1, 0.2, 0.5 and 1 are usual.
    delta : float, default=0.1
        Probability that a bound fails.
    ties : {"random", "first"}
        As in `certainty_equivalence`.

    Returns
    -------
    array of shape (S, A)
        The policy.
    """
    low, high = min(counts.reward_range[0], 0.0), max(counts.reward_range[1], 0.0)
    reward = penalised_reward(counts.n, counts.mean_reward, low, high, gamma, c, delta)
    return greedy(policy_iteration(counts.transition, reward, gamma), ties)


def spibb(
    counts: Counts, gamma: float, behaviour: NDArray[np.float64], n_wedge: float
) -> NDArray[np.float64]:
    """Pi_b-SPIBB of Laroche, Trichelair and Tachet des Combes 2019 (arXiv 1712.06924).

    The best policy, for the observed frequencies and mean rewards, among those that
    give each action with fewer than `n_wedge` visits its probability under the
    behaviour policy: policy iteration whose greedy step moves the rest of a state's
    probability to the best of the other actions (their algorithm 1).

    Parameters
    ----------
    counts : Counts
        Statistics of the log.
    gamma : float
        Discount factor in [0, 1).
    behaviour : array of shape (S, A)
        The true behaviour policy.
    n_wedge : float
        Visits, at least 1; 5 to 100 in the paper.

    Returns
    -------
    array of shape (S, A)
        The policy.
    """
    known = counts.n >= n_wedge
    kept = np.where(known, 0.0, behaviour)
    free = np.where(known, behaviour, 0.0).sum(axis=1, keepdims=True)
    transition, reward = counts.transition, counts.mean_reward
    pi = behaviour
    for _ in range(_MAX_ITERATIONS):
        q = _policy_action_values(transition, reward, gamma, pi)
        best = np.where(known, q, -np.inf).argmax(axis=1)
        improved = kept + free * np.eye(q.shape[1])[best]
        gain = ((improved - pi) * q).sum(axis=1)
        if (gain <= tolerance(q)).all():
            return pi
        pi = np.where((gain > tolerance(q))[:, None], improved, pi)
    raise RuntimeError(f"SPIBB took over {_MAX_ITERATIONS} iterations.")


def soft_spibb(
    counts: Counts,
    gamma: float,
    behaviour: NDArray[np.float64],
    epsilon: float,
    delta: float = 1.0,
) -> NDArray[np.float64]:
    r"""Approx-Soft-SPIBB, 1 step, of Nadjahi et al. 2019 (arXiv 1907.05079).

    One step of policy improvement on the behaviour policy's action values q, for the
    observed frequencies and mean rewards, within a budget in each state:

    .. math:: \sum_a e(s, a) |\pi(a | s) - \pi_b(a | s)| \le \epsilon, \quad
              e(s, a) = \sqrt{2 \log(2 S A / \delta) / n(s, a)}.

    Their algorithm 1 spends it greedily: from the worst action upwards, it moves
    probability to the actions with most improvement per error. An unvisited pair has
    an infinite error and keeps its probability.

    Parameters
    ----------
    counts : Counts
        Statistics of the log.
    gamma : float
        Discount factor in [0, 1).
    behaviour : array of shape (S, A)
        The true behaviour policy.
    epsilon : float
        The budget; 0.1 to 5 in the paper.
    delta : float, default=1
        Probability that an error bound fails; 1 in the paper's experiments.

    Returns
    -------
    array of shape (S, A)
        The policy.
    """
    q = _policy_action_values(counts.transition, counts.mean_reward, gamma, behaviour)
    # Actions that are alike must not be told apart by rounding.
    unit = tolerance(q)
    q = np.round(q / unit) * unit
    s = np.arange(len(q))
    with np.errstate(divide="ignore"):
        error = np.sqrt(2 * np.log(2 * q.size / delta) / counts.n)
    budget = np.full(len(q), float(epsilon))
    pi = behaviour.copy()
    for low in np.argsort(q, axis=1, kind="stable").T:
        left = np.minimum(pi[s, low], budget / (2 * error[s, low]))
        gain = (q - q[s, low][:, None]) / error
        for high in np.argsort(-gain, axis=1, kind="stable").T:
            mass = np.minimum(left, budget / (2 * error[s, high]))
            mass = np.where(gain[s, high] > 0, mass, 0.0)
            pi[s, low] -= mass
            pi[s, high] += mass
            left -= mass
            cost = error[s, low] + error[s, high]  # may be infinite, then mass is 0
            spent = np.multiply(mass, cost, where=mass > 0, out=np.zeros(len(q)))
            budget = np.maximum(budget - spent, 0.0)
    return pi


def _policy_action_values(
    transition: sparse.csr_array,
    reward: NDArray[np.float64],
    gamma: float,
    pi: NDArray[np.float64],
) -> NDArray[np.float64]:
    v = evaluate(transition, reward, gamma, pi)
    return action_values(transition, reward, gamma, v)
