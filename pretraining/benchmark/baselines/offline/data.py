"""What every offline method gets: a log and what is known beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pretraining.benchmark.process import Environment
from tabrl._statistics import Statistics


@dataclass(frozen=True, eq=False)
class LoggedData:
    """A log, its statistics, and what the methods know beside it.

    Parameters
    ----------
    log : mapping of str to array of shape (n,)
        The transitions, as from `Environment.simulate`.
    statistics : Statistics
        Their counts and reward sums.
    reward_range : tuple of float
        The lowest and the highest reward seen.
    gamma : float
        Discount factor in [0, 1).
    behaviour : array of shape (S, A)
        The true behaviour policy, for the methods that start from it.
    seed : int
        For the methods that draw random numbers.
    """

    log: Mapping[str, NDArray]
    statistics: Statistics
    reward_range: tuple[float, float]
    gamma: float
    behaviour: NDArray[np.float64]
    seed: int = 0

    @classmethod
    def from_log(
        cls,
        log: Mapping[str, NDArray],
        gamma: float,
        behaviour: NDArray[np.float64],
        seed: int = 0,
    ) -> LoggedData:
        """Count a log.

        Parameters
        ----------
        log : mapping of str to array of shape (n,)
            At least `state`, `action`, `reward`, `next_state` and `terminated`.
        gamma : float
            Discount factor in [0, 1).
        behaviour : array of shape (S, A)
            The true behaviour policy; gives the numbers of states and actions, which
            no log shows.
        seed : int, default=0
            For the methods that draw random numbers.

        Returns
        -------
        LoggedData
            The log with its statistics.
        """
        columns = ("state", "action", "reward", "next_state", "terminated")
        statistics = Statistics.from_codes(
            *(log[name] for name in columns), *behaviour.shape
        )
        reward_range = float(log["reward"].min()), float(log["reward"].max())
        return cls(log, statistics, reward_range, gamma, behaviour, seed)

    @property
    def n_states(self) -> int:
        """Number of states, S."""
        return self.statistics.n_states

    @property
    def n_actions(self) -> int:
        """Number of actions, A."""
        return self.statistics.n_actions

    @cached_property
    def n(self) -> NDArray[np.float64]:
        """Visits of each pair, (S, A)."""
        return self.table(self.statistics.n)

    @cached_property
    def mean_reward(self) -> NDArray[np.float64]:
        """Mean reward of each pair, 0 where there are no visits, (S, A)."""
        return self.table(self.statistics.reward_sum) / np.maximum(self.n, 1)

    @cached_property
    def counts(self) -> sparse.csr_array:
        """Transitions to each state that did not terminate, (S * A, S)."""
        found = self.statistics
        pair = (found.pair_state * found.n_actions + found.pair_action)[found.edge_pair]
        entries = (found.edge_count, (pair, found.edge_next))
        shape = (found.n_states * found.n_actions, found.n_states)
        return sparse.csr_array(sparse.coo_array(entries, shape=shape))

    @cached_property
    def transition(self) -> sparse.csr_array:
        """Observed frequencies of the successors, rows of 0 without visits."""
        per_pair = sparse.diags_array(1 / np.maximum(self.n, 1).ravel())
        return sparse.csr_array(per_pair @ self.counts)

    @cached_property
    def reward_bounds(self) -> tuple[float, float]:
        """The range of the rewards seen, widened to hold 0."""
        low, high = self.reward_range
        return min(low, 0.0), max(high, 0.0)

    def table(self, per_pair: NDArray[np.float64]) -> NDArray[np.float64]:
        """Spread a column of the statistics over all pairs, 0 elsewhere, (S, A)."""
        found = self.statistics
        values = np.zeros((found.n_states, found.n_actions))
        values[found.pair_state, found.pair_action] = per_pair
        return values


def expected_data(
    env: Environment, n: float, behaviour: NDArray[np.float64] | None = None
) -> LoggedData:
    """Return what `n` visits of each pair give on average: the limit of much data.

    Parameters
    ----------
    env : Environment
        The process.
    n : float
        Visits of each pair, at least 0.
    behaviour : array of shape (S, A), optional
        The behaviour policy; the uniform one by default.

    Returns
    -------
    LoggedData
        With an empty log, as no whole transitions give these statistics.
    """
    possible = env.reward[env.prob > 0]
    seen = np.full(env.n_states * env.n_actions, n > 0)
    pair = np.flatnonzero(seen)
    visits = np.full(len(pair), float(n))
    edges = sparse.coo_array(n * env.transition)
    moved = edges.data > 0
    edge_pair, edge_next = (index[moved] for index in edges.coords)
    square = (env.prob * env.reward**2).sum(axis=2)
    statistics = Statistics(
        n_states=env.n_states,
        n_actions=env.n_actions,
        pair_state=pair // env.n_actions,
        pair_action=pair % env.n_actions,
        n=visits,
        reward_sum=visits * env.expected_reward.ravel()[seen],
        reward_sq_sum=visits * square.ravel()[seen],
        n_terminated=visits * (1 - env.transition.sum(axis=1))[seen],
        edge_pair=edge_pair.astype(np.int64),
        edge_next=edge_next.astype(np.int64),
        edge_count=edges.data[moved],
    )
    return LoggedData(
        log={},
        statistics=statistics,
        reward_range=(float(possible.min()), float(possible.max())),
        gamma=env.gamma,
        behaviour=env.uniform_policy if behaviour is None else behaviour,
    )
