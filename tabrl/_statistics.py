"""Sparse, additive sufficient statistics of transitions, counted in two ways.

`Statistics` counts a whole log at once, vectorised, and is what everything else reads.
`Tally` counts one transition at a time in constant time, as an agent needs it between
two actions, and gives the same `Statistics` at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

# In a `Tally`, an edge's key is ``pair * _SHIFT + next state``.
_SHIFT = 1 << 32
# A pair without visits, in a `Tally`.
_UNTRIED = (0, 0.0, 0.0, 0)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Counts and reward sums of the observed pairs, and of where they led.

    Everything is sparse: the size follows the number of distinct transitions, never
    ``n_states * n_actions * n_states``. Statistics of A plus statistics of B are those
    of A and B together, so merging workers, chunks or ``partial_fit`` is ``+``.

    Pairs are sorted by (state, action), edges by (state, action, next state). A
    terminated transition counts in `n`, in the reward sums and in `n_terminated`, and
    has no edge: nothing follows it. Hence
    ``n == n_terminated + (sum of edge_count over the pair's edges)``.

    Attributes
    ----------
    n_states, n_actions : int
        How many states and actions are known, observed or not.
    pair_state, pair_action : int64 array of shape (n_pairs,)
        The observed (state, action) pairs.
    n : array of shape (n_pairs,)
        Transitions that started with the pair. Floats, for expected counts.
    reward_sum, reward_sq_sum : array of shape (n_pairs,)
        Sum of the rewards and of their squares.
    n_terminated : array of shape (n_pairs,)
        How many of the `n` transitions terminated.
    edge_pair : int64 array of shape (n_edges,)
        The pair that each edge starts from: an index into the pairs.
    edge_next : int64 array of shape (n_edges,)
        The state that each edge leads to, by transitions that did not terminate.
    edge_count : array of shape (n_edges,)
        How many transitions took the edge.

    Examples
    --------
    >>> first = Statistics.from_codes(
    ...     [0, 0], [1, 1], [0.0, 1.0], [1, -1], [False, True], n_states=2, n_actions=2
    ... )
    >>> both = first + first
    >>> both.n, both.reward_sum, both.n_terminated, both.edge_next, both.edge_count
    (array([4.]), array([2.]), array([2.]), array([1]), array([2.]))
    """

    n_states: int
    n_actions: int
    pair_state: NDArray[np.int64]
    pair_action: NDArray[np.int64]
    n: NDArray[np.float64]
    reward_sum: NDArray[np.float64]
    reward_sq_sum: NDArray[np.float64]
    n_terminated: NDArray[np.float64]
    edge_pair: NDArray[np.int64]
    edge_next: NDArray[np.int64]
    edge_count: NDArray[np.float64]

    @classmethod
    def from_codes(
        cls,
        state: ArrayLike,
        action: ArrayLike,
        reward: ArrayLike,
        next_state: ArrayLike,
        terminated: ArrayLike,
        n_states: int,
        n_actions: int,
    ) -> Statistics:
        """Count transitions given as integer codes.

        Parameters
        ----------
        state, action : int array of shape (n,)
            Codes in ``0 .. n_states - 1`` and ``0 .. n_actions - 1``.
        reward : array of shape (n,)
            Finite rewards.
        next_state : int array of shape (n,)
            State codes; ignored (and free to be -1) where `terminated`.
        terminated : bool array of shape (n,)
            Where the process ended, so that nothing of value follows.
        n_states, n_actions : int
            How many states and actions are known.

        Returns
        -------
        Statistics
            Their statistics; the order of the transitions has no effect.

        Raises
        ------
        ValueError
            If the lengths differ or a code is out of range.
        """
        s, a, s_next = (
            np.asarray(codes, dtype=np.int64) for codes in (state, action, next_state)
        )
        r = np.asarray(reward, dtype=np.float64)
        ended = np.asarray(terminated, dtype=bool)
        shapes = [column.shape for column in (s, a, r, s_next, ended)]
        if s.ndim != 1 or len(set(shapes)) > 1:
            raise ValueError(f"The columns must be 1-D, of one length. Got {shapes}.")
        _check_codes("state", s, n_states)
        _check_codes("action", a, n_actions)

        key = s * n_actions
        key += a
        pair_key, pair = _group(key, n_states * n_actions)
        del key  # a large table's temporaries are what bounds its memory
        n_pairs = len(pair_key)
        n = _sum_by(pair, None, n_pairs)
        reward_sum = _sum_by(pair, r, n_pairs)
        reward_sq_sum = _sum_by(pair, r * r, n_pairs)
        n_terminated = _sum_by(pair[ended], None, n_pairs)

        if ended.any():
            pair, s_next = pair[~ended], s_next[~ended]
        _check_codes("next_state", s_next, n_states)
        # Sorting the keys themselves needs no argsort, and half the memory in int32.
        dtype = np.int32 if n_pairs * n_states < 2**31 else np.int64
        edge_key = pair.astype(dtype)
        np.multiply(edge_key, n_states, out=edge_key)
        np.add(edge_key, s_next.astype(dtype), out=edge_key)
        edge_key.sort()
        first = np.flatnonzero(np.diff(edge_key, prepend=-1))
        edge_count = np.diff(first, append=len(edge_key))
        edge_pair, edge_next = np.divmod(edge_key[first].astype(np.int64), n_states)
        return cls._of_keys(
            n_states,
            n_actions,
            pair_key,
            n=n,
            reward_sum=reward_sum,
            reward_sq_sum=reward_sq_sum,
            n_terminated=n_terminated,
            edge_pair=edge_pair,
            edge_next=edge_next,
            edge_count=edge_count.astype(np.float64),
        )

    @classmethod
    def from_counts(
        cls,
        state: NDArray[np.int64],
        action: NDArray[np.int64],
        next_state: NDArray[np.int64],
        terminated: NDArray[np.bool_],
        n: NDArray[np.float64],
        reward_sum: NDArray[np.float64],
        reward_sq_sum: NDArray[np.float64],
        n_states: int,
        n_actions: int,
    ) -> Statistics:
        """Sum rows that stand for several transitions each.

        Parameters
        ----------
        state, action, next_state, terminated : array of shape (n_rows,)
            As in `from_codes`.
        n, reward_sum, reward_sq_sum : array of shape (n_rows,)
            How many transitions a row stands for, the sum of their rewards, and of the
            squares of these.
        n_states, n_actions : int
            How many states and actions are known.

        Returns
        -------
        Statistics
            The order of the rows has no effect but for rounding.

        Raises
        ------
        ValueError
            If a code is out of range.
        """
        _check_codes("state", state, n_states)
        _check_codes("action", action, n_actions)
        _check_codes("next_state", next_state[~terminated], n_states)
        # Engines return groups in any order: sums must not depend on it.
        rows = np.lexsort((reward_sum, n, terminated, next_state, action, state))
        state, action, n = state[rows], action[rows], n[rows]
        ended = terminated[rows]
        goes_on = np.flatnonzero(~ended)
        part = cls(
            n_states,
            n_actions,
            pair_state=state,
            pair_action=action,
            n=n,
            reward_sum=reward_sum[rows],
            reward_sq_sum=reward_sq_sum[rows],
            n_terminated=np.where(ended, n, 0.0),
            edge_pair=goes_on,
            edge_next=next_state[rows][goes_on],
            edge_count=n[goes_on],
        )
        return _assemble(n_states, n_actions, part)

    @classmethod
    def _of_keys(
        cls,
        n_states: int,
        n_actions: int,
        pair_key: NDArray[np.int64],
        **arrays: NDArray,
    ) -> Statistics:
        """Return the statistics of pairs given as ``state * n_actions + action``."""
        return cls(
            n_states,
            n_actions,
            pair_key // n_actions,
            pair_key % n_actions,
            **arrays,
        )

    def __add__(self, other: Statistics) -> Statistics:
        """Return the statistics of both data sets together."""
        if not isinstance(other, Statistics):
            return NotImplemented
        sizes = (self.n_states, self.n_actions), (other.n_states, other.n_actions)
        if sizes[0] != sizes[1]:
            raise ValueError(
                "Only statistics over the same states and actions add. Got (n_states, "
                f"n_actions) = {sizes[0]} and {sizes[1]}: relabel them first."
            )
        return _assemble(*sizes[0], self, other)

    def relabel(
        self,
        state_map: ArrayLike,
        action_map: ArrayLike,
        n_states: int,
        n_actions: int,
    ) -> Statistics:
        """Return the same statistics under other codes, among more labels perhaps.

        Parameters
        ----------
        state_map : int array of shape (self.n_states,)
            The new code of each state; no two alike.
        action_map : int array of shape (self.n_actions,)
            The new code of each action; no two alike.
        n_states, n_actions : int
            How many states and actions are known afterwards.

        Returns
        -------
        Statistics
            Sorted by the new codes.

        Raises
        ------
        ValueError
            If a map has the wrong length, leaves the range, or repeats a code.

        Examples
        --------
        >>> old = Statistics.from_codes([0], [0], [2.0], [1], [False], 2, 1)
        >>> new = old.relabel([2, 0], [1], n_states=3, n_actions=2)
        >>> new.pair_state, new.pair_action, new.edge_next
        (array([2]), array([1]), array([0]))
        """
        to_state = np.asarray(state_map, dtype=np.int64)
        to_action = np.asarray(action_map, dtype=np.int64)
        for name, new, old_size, size in (
            ("state_map", to_state, self.n_states, n_states),
            ("action_map", to_action, self.n_actions, n_actions),
        ):
            if new.shape != (old_size,):
                raise ValueError(
                    f"{name} must have the shape ({old_size},). Got {new.shape}."
                )
            _check_codes(name, new, size)
            if len(np.unique(new)) != len(new):
                raise ValueError(f"{name} must not map two labels to one code.")
        renamed = replace(
            self,
            pair_state=to_state[self.pair_state],
            pair_action=to_action[self.pair_action],
            edge_next=to_state[self.edge_next],
        )
        return _assemble(n_states, n_actions, renamed)

    def compress(self, states: NDArray[np.int64]) -> Statistics:
        """Return the statistics over some states only, renumbered in their order.

        Parameters
        ----------
        states : int64 array
            Ascending codes; must hold all `active_states`.

        Returns
        -------
        Statistics
            With ``n_states == len(states)``.
        """
        to_state = np.full(self.n_states, -1)
        to_state[states] = np.arange(len(states))
        return replace(
            self,
            n_states=len(states),
            pair_state=to_state[self.pair_state],
            edge_next=to_state[self.edge_next],
        )

    @property
    def active_states(self) -> NDArray[np.bool_]:
        """Whether each state has an observed pair or was entered without terminating.

        A state that was only ever entered by terminating is not active: nothing is
        decided there.
        """
        active = np.zeros(self.n_states, dtype=bool)
        active[self.pair_state] = True
        active[self.edge_next] = True
        return active

    @property
    def encounters(self) -> NDArray[np.float64]:
        """How often each state was left, or entered if that is more, (S,)."""
        left = _sum_by(self.pair_state, self.n, self.n_states)
        entered = _sum_by(self.edge_next, self.edge_count, self.n_states)
        return np.maximum(left, entered)


class Tally:
    """Counts and reward sums that grow by one transition at a time, in constant time.

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
        self._pairs: dict[int, tuple[int, float, float, int]] = {}
        self._edges: dict[int, int] = {}

    def add(
        self, state: int, action: int, reward: float, next_state: int, terminated: bool
    ) -> int:
        """Count a transition; return how often its pair has been tried by now.

        ``next_state`` may be -1 where the process ended. An interrupt leaves nothing
        counted, or all: ``n_transitions`` tells which.
        """
        key = state * self.n_actions + action
        n, total, squares, ends = self._pairs.get(key, _UNTRIED)
        if terminated:
            edge = count = -1
            ends += 1
        else:
            edge = key * _SHIFT + next_state
            count = self._edges.get(edge, 0) + 1
        pair = n + 1, total + reward, squares + reward * reward, ends
        n_transitions = self.n_transitions + 1
        try:
            self._pairs[key] = pair
            if edge >= 0:
                self._edges[edge] = count
            if count < 2:  # else both were seen with the first
                self.seen.add(state)
                if next_state >= 0:
                    self.seen.add(next_state)
            self.n_transitions = n_transitions
        except BaseException:  # an interrupt half-way: to the end
            self._pairs[key] = pair
            if edge >= 0:
                self._edges[edge] = count
            self.seen.update(code for code in (state, next_state) if code >= 0)
            self.n_transitions = n_transitions
            raise
        return n + 1

    def visits(self, state: int, action: int) -> int:
        """Return how often a pair has been tried."""
        return self._pairs.get(state * self.n_actions + action, _UNTRIED)[0]

    def statistics(self, n_states: int) -> Statistics:
        """Return the statistics over states ``0 .. n_states - 1``."""
        key, table = _sorted(self._pairs)
        table = table.reshape(len(key), 4)
        edge, edge_count = _sorted(self._edges)
        return Statistics._of_keys(
            n_states,
            self.n_actions,
            key,
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
        tally._pairs = dict(zip(key.tolist(), rows, strict=True))
        edge = key[statistics.edge_pair] * _SHIFT + statistics.edge_next
        edge_count = statistics.edge_count.astype(np.int64).tolist()
        tally._edges = dict(zip(edge.tolist(), edge_count, strict=True))
        tally.seen = set(seen.tolist())
        tally.n_transitions = sum(n)
        return tally


def _assemble(n_states: int, n_actions: int, *parts: Statistics) -> Statistics:
    """Merge parts whose codes are right but whose pairs need sorting and summing."""

    def joined(name: str) -> NDArray:
        return np.concatenate([getattr(part, name) for part in parts])

    pair_key, pair = np.unique(
        joined("pair_state") * n_actions + joined("pair_action"), return_inverse=True
    )
    n_pairs = len(pair_key)
    # edge_pair counts within each part: shift it to positions in the joined pairs.
    offsets = np.cumsum([0] + [len(part.n) for part in parts[:-1]])
    old_pair = np.concatenate(
        [part.edge_pair + shift for part, shift in zip(parts, offsets, strict=True)]
    )
    edge_key, edge = np.unique(
        pair[old_pair] * n_states + joined("edge_next"), return_inverse=True
    )
    sums = {
        name: _sum_by(pair, joined(name), n_pairs)
        for name in ("n", "reward_sum", "reward_sq_sum", "n_terminated")
    }
    return Statistics._of_keys(
        n_states,
        n_actions,
        pair_key,
        edge_pair=edge_key // n_states,
        edge_next=edge_key % n_states,
        edge_count=_sum_by(edge, joined("edge_count"), len(edge_key)),
        **sums,
    )


def _group(
    key: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted distinct keys, all below `size`, and each key's position."""
    if size > 4 * len(key) + 2**16:
        return np.unique(key, return_inverse=True)
    seen = np.zeros(size, dtype=bool)
    seen[key] = True
    distinct = np.flatnonzero(seen)
    if len(distinct) == size:
        return distinct, key
    return distinct, (np.cumsum(seen) - 1)[key]


def _sum_by(
    group: NDArray[np.int64], values: NDArray[np.float64] | None, n_groups: int
) -> NDArray[np.float64]:
    """Return the sum of the values in each group, or its size."""
    return np.bincount(group, values, n_groups).astype(np.float64, copy=False)


def _check_codes(name: str, codes: NDArray[np.int64], size: int) -> None:
    if len(codes) and not (codes.min() >= 0 and codes.max() < size):
        raise ValueError(
            f"{name} must hold codes from 0 to {size - 1}. "
            f"Got {codes.min()} to {codes.max()}."
        )


def _sorted(counts: dict) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the keys in ascending order, and the values in theirs."""
    keys = np.fromiter(counts, np.int64, len(counts))
    order = np.argsort(keys)
    return keys[order], np.array(list(counts.values()), np.float64)[order]
