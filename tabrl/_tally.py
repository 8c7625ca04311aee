"""Statistics that grow by one transition at a time, in constant time each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tabrl._statistics import Statistics

# An edge's key is ``pair * _SHIFT + next state``.
_SHIFT = 1 << 32


class Tally:
    """Counts and reward sums of coded transitions, as `Statistics` has them.

    Memory follows the number of distinct transitions. States may be added as they
    appear: a pair's key is ``state * n_actions + action``, whatever states there are.

    Parameters
    ----------
    n_actions : int
        How many actions there are.

    Attributes
    ----------
    seen : set of int
        States that a transition started from or led to, by terminating too.
    n_transitions : int
        How many transitions were added.

    Examples
    --------
    >>> tally = Tally(n_actions=2)
    >>> tally.add(0, 1, 0.5, 2, False), tally.add(0, 1, 0.5, -1, True)
    (1, 2)
    >>> statistics = tally.statistics(n_states=3)
    >>> statistics.n, statistics.reward_sum, statistics.n_terminated
    (array([2.]), array([1.]), array([1.]))
    """

    def __init__(self, n_actions: int) -> None:
        self.n_actions = n_actions
        self.seen: set[int] = set()
        self.n_transitions = 0
        # n, reward_sum, reward_sq_sum and n_terminated of each pair.
        self._pairs: dict[int, list[float]] = {}
        self._edges: dict[int, int] = {}

    def add(
        self, state: int, action: int, reward: float, next_state: int, terminated: bool
    ) -> int:
        """Count a transition; return how often its pair has been tried by now.

        ``next_state`` may be -1 where the process ended.
        """
        key = state * self.n_actions + action
        pair = self._pairs.get(key)
        if pair is None:
            pair = self._pairs[key] = [0, 0.0, 0.0, 0]
        n = int(pair[0]) + 1
        pair[0] = n
        pair[1] += reward
        pair[2] += reward * reward
        if terminated:
            pair[3] += 1
        else:
            edge = key * _SHIFT + next_state
            self._edges[edge] = self._edges.get(edge, 0) + 1
        self.seen.add(state)
        if next_state >= 0:
            self.seen.add(next_state)
        self.n_transitions += 1
        return n

    def statistics(self, n_states: int) -> Statistics:
        """Return the statistics over states ``0 .. n_states - 1``."""
        key, table = _sorted(self._pairs)
        table = table.reshape(len(key), 4)
        edge, edge_count = _sorted(self._edges)
        return Statistics(
            n_states=n_states,
            n_actions=self.n_actions,
            pair_state=key // self.n_actions,
            pair_action=key % self.n_actions,
            n=table[:, 0],
            reward_sum=table[:, 1],
            reward_sq_sum=table[:, 2],
            n_terminated=table[:, 3],
            edge_pair=np.searchsorted(key, edge // _SHIFT),
            edge_next=edge % _SHIFT,
            edge_count=edge_count,
        )

    @classmethod
    def from_statistics(cls, statistics: Statistics, seen: NDArray[np.int64]) -> Tally:
        """Return the tally that `statistics` came from."""
        tally = cls(statistics.n_actions)
        key = statistics.pair_state * tally.n_actions + statistics.pair_action
        sums = statistics.reward_sum.tolist(), statistics.reward_sq_sum.tolist()
        n, n_terminated = (
            counts.astype(np.int64).tolist()
            for counts in (statistics.n, statistics.n_terminated)
        )
        rows = zip(n, *sums, n_terminated, strict=True)
        tally._pairs = dict(zip(key.tolist(), map(list, rows), strict=True))
        edge = key[statistics.edge_pair] * _SHIFT + statistics.edge_next
        edge_count = statistics.edge_count.astype(np.int64).tolist()
        tally._edges = dict(zip(edge.tolist(), edge_count, strict=True))
        tally.seen = set(seen.tolist())
        tally.n_transitions = sum(n)
        return tally


def _sorted(counts: dict) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the keys in ascending order, and the values in theirs."""
    keys = np.fromiter(counts, np.int64, len(counts))
    order = np.argsort(keys)
    return keys[order], np.array(list(counts.values()), np.float64)[order]
