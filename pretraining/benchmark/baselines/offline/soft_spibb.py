"""Soft-SPIBB: the behaviour policy is left within a budget of estimation error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.baselines.offline.spibb import policy_action_values
from pretraining.benchmark.exact import tolerance

# Each iteration improves on the last, most end within ten: what is cut off is small.
_MAX_ITERATIONS = 50


@dataclass(frozen=True)
class SoftSPIBB(Method):
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
    delta : float, default=1
        Probability that an error bound fails; 1 in the paper's experiments.
    """

    delta: float = 1.0
    name = "Soft-SPIBB"
    constants: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # paper's

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the policy (S, A) for the budget `constant`, epsilon."""
        q = policy_action_values(data, data.behaviour)
        return improve_within_budget(
            q, data.behaviour, error_bound(data.n, self.delta), constant
        )


def error_bound(n: NDArray[np.float64], delta: float) -> NDArray[np.float64]:
    """Return Hoeffding's bound e(s, a) on the error of a pair, inf without visits."""
    with np.errstate(divide="ignore"):
        return np.sqrt(2 * np.log(2 * n.size / delta) / n)


def improve_within_budget(
    q: NDArray[np.float64],
    behaviour: NDArray[np.float64],
    error: NDArray[np.float64],
    epsilon: float,
    *,
    charge_losses: bool = True,
    advantage: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Move probability of the behaviour policy to better actions, within a budget.

    Parameters
    ----------
    q : array of shape (S, A)
        Action values to improve on.
    behaviour : array of shape (S, A)
        The policy to start from.
    error : array of shape (S, A)
        What moving probability 1 from or to an action costs; may be infinite.
    epsilon : float
        The budget of each state.
    charge_losses : bool, default=True
        Whether an action that loses probability costs its error too.
    advantage : array of shape (S, A), optional
        Other action values, by which no state may become worse on the way.

    Returns
    -------
    array of shape (S, A)
        The policy.
    """
    # Actions that are alike must not be told apart by rounding.
    unit = tolerance(q)
    q = np.round(q / unit) * unit
    s = np.arange(len(q))
    budget, gained = np.full(len(q), float(epsilon)), np.zeros(len(q))
    # Half of the budget at either end keeps the sum of both within it.
    share = 2 if charge_losses else 1
    pi = behaviour.copy()
    for low in np.argsort(q, axis=1, kind="stable").T:
        left = pi[s, low]
        if charge_losses:
            left = np.minimum(left, budget / (2 * error[s, low]))
        gain = (q - q[s, low][:, None]) / error
        for high in np.argsort(-gain, axis=1, kind="stable").T:
            better = gain[s, high] > 0
            if not better.any():  # nor do any of the actions after it
                break
            mass = np.minimum(left, budget / (share * error[s, high]))
            mass = np.where(better, mass, 0.0)
            if not mass.any():  # all budgets are spent here
                continue
            if advantage is not None:
                change = advantage[s, high] - advantage[s, low]
                loses = (change < 0) & (mass > 0)
                bound = np.divide(gained, -change, where=loses, out=mass.copy())
                mass = np.minimum(mass, bound)
                gained = np.maximum(gained + change * mass, 0.0)
            pi[s, low] -= mass
            pi[s, high] += mass
            left = left - mass
            cost = error[s, high]  # may be infinite, then mass is 0
            if charge_losses:
                cost = error[s, low] + cost
            spent = np.multiply(mass, cost, where=mass > 0, out=np.zeros(len(q)))
            budget = np.maximum(budget - spent, 0.0)
    return pi


def iterate_within_budget(
    data: LoggedData,
    epsilon: float,
    delta: float,
    *,
    charge_losses: bool = True,
    advantage: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Improve and evaluate in turns, for the observed frequencies.

    Each improvement starts from the behaviour policy and replaces the policy of a
    state only if it is better there, so that the values never fall.

    Parameters
    ----------
    data : LoggedData
        The log.
    epsilon, delta
        The budget, and the probability that an error bound fails.
    charge_losses, advantage
        As in `improve_within_budget`.

    Returns
    -------
    array of shape (S, A)
        The policy.
    """
    error, pi = error_bound(data.n, delta), data.behaviour
    for _ in range(_MAX_ITERATIONS):
        q = policy_action_values(data, pi)
        improved = improve_within_budget(
            q, data.behaviour, error, epsilon,
            charge_losses=charge_losses, advantage=advantage,
        )  # fmt: skip
        better = ((improved - pi) * q).sum(axis=1) > tolerance(q)
        if not better.any():
            break
        pi = np.where(better[:, None], improved, pi)
    return pi
