"""DUIPI: value minus a multiple of its propagated standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.exact import tolerance

# Policies move by 1 / iteration: after so many, a state that still alternates
# between two actions has shares that change by 0.05 or less.
_MAX_ITERATIONS = 20
# Below this number of states a dense solve is faster than a sparse one.
_DENSE_STATES = 128


@dataclass(frozen=True)
class DUIPI(Method):
    r"""Diagonal uncertainty-incorporating policy iteration.

    Schneegass, Hans and Udluft 2010, "Uncertainty in reinforcement learning:
    awareness, quantisation, and control" (Robot Learning, chapter 4). The policy
    moves towards the actions of the largest q - xi sd, where the variance of q comes
    from Gauss's propagation of errors without covariances:

    .. math:: \sigma^2(s, a) = \sum_{s'} \gamma^2 P(s')^2 \sigma_v^2(s')
              + \mathrm{Var}[P(s')] (r + \gamma v(s'))^2 + \mathrm{Var}[r].

    P and its variance are those of a Dirichlet posterior. Following Scholl et al.
    2022 (arXiv 2201.12175), a pair that was never visited is never chosen. A state
    without any visit keeps the uniform policy. The paper iterates the equations; we
    solve them for each policy, which has the same fixed points.

    Parameters
    ----------
    alpha : float, default=0.001
        Prior pseudo-count of each outcome. Those experiments have 0.1, which is much
        for many states: on 60 logs of the development environments, with the best
        xi, the mean value is 0.50 for 0.1, 0.58 for 0.01 and 0.62 for 0.001.
    """

    alpha: float = 0.001
    name = "DUIPI"
    # xi, from the same experiments.
    constants: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.5, 1.0, 2.0)

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the policy (S, A) for the weight `constant` of the deviation, xi."""
        posterior = Posterior(data, self.alpha)
        known = data.n > 0
        decided = known.any(axis=1)
        pi = np.full(data.n.shape, 1 / data.n_actions)
        for iteration in range(1, _MAX_ITERATIONS + 1):
            q, variance = posterior.evaluate(pi)
            lower = np.where(known, q - constant * np.sqrt(variance), -np.inf)
            target = np.eye(data.n_actions)[lower.argmax(axis=1)]
            moved = np.where(decided[:, None], _step(pi, target, 1 / iteration), pi)
            if iteration > 1:  # from then on no unvisited action is ever taken
                best = lower.max(axis=1, keepdims=True)
                worse = decided[:, None] & (pi > 0) & (lower < best - tolerance(q))
                if not worse.any():
                    return pi
            pi = moved
        return pi


def _step(
    pi: NDArray[np.float64], target: NDArray[np.float64], size: float
) -> NDArray[np.float64]:
    """Add up to `size` of probability to the target action, and rescale the rest."""
    old = (pi * target).sum(axis=1, keepdims=True)
    new = np.minimum(old + size, 1.0)
    rest = np.divide(1 - new, 1 - old, where=old < 1, out=np.zeros_like(old))
    return np.where(target > 0, new, pi * rest)


class Posterior:
    """Dirichlet posterior of the transitions, and the values that it implies.

    The prior reaches every state, and the end if the log shows one. It is kept apart
    from the sparse counts: as a constant, it adds multiples of sums over all states.

    Parameters
    ----------
    data : LoggedData
        The log.
    alpha : float
        Prior pseudo-count of each outcome.
    """

    def __init__(self, data: LoggedData, alpha: float) -> None:
        self.data, self.alpha = data, alpha
        self.ended = data.table(data.statistics.n_terminated)
        self.n_outcomes = data.n_states + bool(self.ended.any())
        self.total = data.n + alpha * self.n_outcomes  # (S, A)

    @cached_property
    def squares(self) -> sparse.csr_array:
        """The squared counts of the successors, (S * A, S)."""
        return self.data.counts.power(2)

    @cached_property
    def transition(self) -> sparse.csr_array:
        """Posterior mean of the transitions less the prior's part, (S * A, S)."""
        scale = sparse.diags_array(1 / self.total.ravel())
        return sparse.csr_array(scale @ self.data.counts)

    @cached_property
    def square_transition(self) -> sparse.csr_array:
        """Squares of the posterior mean less the prior's part, (S * A, S)."""
        scale = sparse.diags_array(1 / self.total.ravel() ** 2)
        return sparse.csr_array(
            scale @ (self.squares + 2 * self.alpha * self.data.counts)
        )

    def evaluate(
        self, pi: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the action values of a policy and their variances, (S, A) each."""
        gamma = self.data.gamma
        prior = self.alpha / self.total  # the prior's chance of each state
        v = _solve(self.transition, self.data.mean_reward, gamma, pi, prior)
        expected = self._apply(self.transition, v) + prior * v.sum()
        q = self.data.mean_reward + gamma * expected
        local = self._transition_variance(v) + self._reward_variance()
        variance_v = _solve(self.square_transition, local, gamma**2, pi**2, prior**2)
        passed = self._apply(self.square_transition, variance_v)
        passed += prior**2 * variance_v.sum()
        return q, local + gamma**2 * passed

    def _apply(
        self, matrix: sparse.csr_array, v: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return (matrix @ v).reshape(self.total.shape)

    def _transition_variance(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of Var[P(s')] (r + gamma v(s'))^2 over the outcomes, (S, A).

        Var[P(s')] = a (total - a) / (total^2 (total + 1)) for a = count + alpha.
        """
        alpha, total, r = self.alpha, self.total, self.data.mean_reward
        gamma = self.data.gamma

        def moment(matrix: sparse.csr_array, ended: NDArray) -> NDArray:
            """Weighted sum of (r + gamma v)^2, where the end has the value 0."""
            weight = self._apply(matrix, np.ones_like(v)) + ended
            first, second = self._apply(matrix, v), self._apply(matrix, v**2)
            return weight * r**2 + 2 * gamma * r * first + gamma**2 * second

        plain = self.n_outcomes * r**2 + 2 * gamma * r * v.sum()
        plain = plain + gamma**2 * (v**2).sum()
        counted = moment(self.data.counts, self.ended)
        linear = counted + alpha * plain
        square = moment(self.squares, self.ended**2)
        square = square + 2 * alpha * counted + alpha**2 * plain
        return np.maximum(total * linear - square, 0.0) / (total**2 * (total + 1))

    def _reward_variance(self) -> NDArray[np.float64]:
        """Squared standard error of the mean reward of each pair, (S, A)."""
        n = np.maximum(self.data.n, 1)
        mean_square = self.data.table(self.data.statistics.reward_sq_sum) / n
        return np.maximum(mean_square - self.data.mean_reward**2, 0.0) / n


def _solve(
    transition: sparse.csr_array,
    reward: NDArray[np.float64],
    gamma: float,
    pi: NDArray[np.float64],
    prior: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Solve v = pi (reward + gamma transition v + gamma prior sum(v)), (S,).

    The prior's part has rank one: Sherman and Morrison's formula, with both solves on
    one factorisation.
    """
    n_states, n_actions = pi.shape
    columns = np.arange(n_states * n_actions)
    starts = np.arange(0, n_states * n_actions + 1, n_actions)
    mix = sparse.csr_array((pi.ravel(), columns, starts))  # (S, S * A)
    mixed = gamma * (mix @ transition)
    right = np.stack([mix @ reward.ravel(), gamma * (mix @ prior.ravel())], axis=1)
    if n_states <= _DENSE_STATES:
        v, spread = np.linalg.solve(np.eye(n_states) - mixed.toarray(), right).T
    else:
        system = sparse.eye_array(n_states) - mixed
        v, spread = splu(sparse.csc_array(system)).solve(right).T
    return v + spread * v.sum() / (1 - spread.sum())
