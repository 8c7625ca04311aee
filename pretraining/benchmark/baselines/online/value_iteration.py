"""Certainty equivalence: the optimal policy of the observed frequencies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pretraining.benchmark.baselines.online.learner import Learner
from pretraining.benchmark.exact import Transition, greedy, policy_iteration
from tabrl._statistics import Statistics, Tally

# Up to this number of states dense arrays are faster than sparse ones.
_DENSE_STATES = 128
# Plans start from the values of the last episode's, so a few sweeps are enough.
_SWEEPS = 20


class ValueIteration(Learner):
    """Counts transitions, acts uniformly at random, and plans on what was observed.

    Pairs never tried lead anywhere, each state alike, for a reward of 0: what
    untrained code with ``1 / n_states`` in empty rows does.
    """

    name = "random + VI"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tally = Tally(self.n_actions)
        self._statistics: Statistics | None = None
        self._greedy_values: NDArray[np.float64] | None = None
        # Where the next plans start from: those of the last episode.
        self._v_greedy: NDArray[np.float64] | None = None
        self._v_followed: NDArray[np.float64] | None = None

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Count a transition."""
        self.count(state, action, reward, next_state, terminated)

    def count(
        self, state: int, action: int, reward: float, next_state: int, terminated: bool
    ) -> int:
        """Count a transition; return how often its pair was tried by now."""
        self._statistics = self._greedy_values = None
        return self._tally.add(state, action, reward, next_state, terminated)

    @property
    def statistics(self) -> Statistics:
        """Statistics of all transitions so far."""
        if self._statistics is None:
            self._statistics = self._tally.statistics(self.n_states)
        return self._statistics

    @property
    def n(self) -> NDArray[np.float64]:
        """How often each pair was tried, (S, A)."""
        return self.table(self.statistics.n)

    @property
    def mean_reward(self) -> NDArray[np.float64]:
        """Mean reward of each pair (S, A), 0 where it was not tried."""
        return self.table(self.statistics.reward_sum) / np.maximum(self.n, 1)

    def table(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Spread values of the observed pairs over all pairs (S, A), 0 elsewhere."""
        full = np.zeros((self.n_states, self.n_actions))
        full[self.statistics.pair_state, self.statistics.pair_action] = values
        return full

    def frequencies(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return pair, successor and frequency of all that did not terminate.

        Pairs are ``state * n_actions + action``.
        """
        observed = self.statistics
        pair = observed.pair_state * self.n_actions + observed.pair_action
        frequency = observed.edge_count / observed.n[observed.edge_pair]
        return pair[observed.edge_pair], observed.edge_next, frequency

    def exploit(self) -> NDArray[np.float64]:
        """Return the greedy policy (S, A), ties at random."""
        return greedy(self.greedy_values())

    def greedy_values(self) -> NDArray[np.float64]:
        """Return the optimal action values (S, A) of the observed frequencies."""
        if self._greedy_values is None:
            self._greedy_values = self._plan()
        return self._greedy_values

    def _plan(self) -> NDArray[np.float64]:
        n_states, n_actions = self.n_states, self.n_actions
        untried = np.flatnonzero(self.n == 0)
        pair, successor, frequency = self.frequencies()
        # Empty rows lead to one more state, whose value is the mean of all others:
        # the same as rows of 1 / S, and sparse. It takes no time, so undo a discount.
        anywhere = np.arange(n_states * n_actions, (n_states + 1) * n_actions)
        spread = 1 / (n_states * self.gamma)
        transition = assemble(
            np.concatenate([pair, untried, np.repeat(anywhere, n_states)]),
            np.concatenate(
                [
                    successor,
                    np.full(len(untried), n_states),
                    np.tile(np.arange(n_states), n_actions),
                ]
            ),
            np.concatenate(
                [
                    frequency,
                    np.ones(len(untried)),
                    np.full(n_states * n_actions, spread),
                ]
            ),
            (n_states + 1, n_actions),
        )
        reward = np.vstack([self.mean_reward, np.zeros(n_actions)])
        q = policy_iteration(transition, reward, self.gamma, self._v_greedy, _SWEEPS)
        self._v_greedy = q.max(axis=1)
        return q[:-1]

    def plan_to_follow(
        self, transition: Transition, reward: NDArray[np.float64]
    ) -> None:
        """Follow the optimal policy of a process from now on, ties at random.

        Parameters
        ----------
        transition : array or csr_array of shape (S * A, S)
            Probabilities of the successors that do not end the episode.
        reward : array of shape (S, A)
            Expected rewards.
        """
        q = policy_iteration(transition, reward, self.gamma, self._v_followed, _SWEEPS)
        self._v_followed = q.max(axis=1)
        self.follow(greedy(q))


def assemble(
    pair: NDArray[np.int64],
    successor: NDArray[np.int64],
    probability: NDArray[np.float64],
    shape: tuple[int, int],
) -> Transition:
    """Make a transition matrix, dense if it is small.

    Parameters
    ----------
    pair, successor : int array of shape (n,)
        Rows and columns of the entries, no two alike.
    probability : array of shape (n,)
        The entries.
    shape : (int, int)
        Numbers of states and of actions.

    Returns
    -------
    array or csr_array of shape (S * A, S)
        The matrix.
    """
    n_states, n_actions = shape
    size = (n_states * n_actions, n_states)
    if n_states > _DENSE_STATES:
        return sparse.csr_array((probability, (pair, successor)), shape=size)
    dense = np.zeros(size)
    dense[pair, successor] = probability
    return dense
