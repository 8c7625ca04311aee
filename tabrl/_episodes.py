"""The episodes of a log: where they start, what they return, where they were cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._codes import factorise
from tabrl._labels import as_labels
from tabrl._persistence import check_array
from tabrl._transitions import Transitions

# So many rows tell of most shuffled logs that their rows do not follow each other.
_GLANCE = 1000


@dataclass(frozen=True, eq=False)
class Episodes:
    """What the value of the behaviour needs of the n episodes of a log.

    Attributes
    ----------
    start, last : int64 array of shape (n,)
        Code of the first state, and of the one that a cut episode led to; -1 where it
        terminated.
    total : array of shape (n,)
        Discounted sum of the rewards.
    discount : array of shape (n,)
        gamma to the power of the number of steps: what the last state's value counts.
    gamma : float
        The discount factor of both.
    log_weight : array of shape (n,), optional
        Logarithm of the importance weight: how likely the policy takes the actions of
        the episode, by how likely the behaviour does. None where the rows that a policy
        was fitted to are not at hand any more.
    """

    start: NDArray[np.int64]
    last: NDArray[np.int64]
    total: NDArray[np.float64]
    discount: NDArray[np.float64]
    gamma: float
    log_weight: NDArray[np.float64] | None = None

    def weighted(
        self,
        log_ratio: NDArray[np.float64],
        ordered: tuple[NDArray[np.int64], NDArray[np.int64]],
        data: Transitions,
    ) -> Episodes:
        """Return the same episodes with their importance weights.

        Parameters
        ----------
        log_ratio : array of shape (S, A)
            Log of the policy's probability of an action, by that of the behaviour.
        ordered : tuple
            What `order_episodes` returned.
        data : Transitions
            The rows of the episodes.
        """
        order, first = ordered
        of_row = log_ratio[data.state, data.action][order]
        return replace(self, log_weight=np.add.reduceat(of_row, first))

    def relabel(self, state_map: NDArray[np.int64]) -> Episodes:
        """Return the same episodes under other codes of the states."""
        last = np.where(self.last < 0, -1, state_map[self.last])
        return replace(self, start=state_map[self.start], last=last)

    def joined(self, other: Episodes) -> Episodes | None:
        """Return the episodes of both, None if their discount factors differ.

        They have no weights: those were of the policy that was fitted before.
        """
        if self.gamma != other.gamma:
            return None
        return Episodes(
            np.concatenate([self.start, other.start]),
            np.concatenate([self.last, other.last]),
            np.concatenate([self.total, other.total]),
            np.concatenate([self.discount, other.discount]),
            self.gamma,
        )

    def to_arrays(self) -> dict[str, NDArray]:
        """Return what a file holds of it."""
        arrays = {
            "_episode_start": self.start,
            "_episode_last": self.last,
            "_episode_total": self.total,
            "_episode_discount": self.discount,
            "_episode_gamma": np.array([self.gamma]),
        }
        if self.log_weight is not None:
            arrays["_episode_log_weight"] = self.log_weight
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray], n_states: int) -> Episodes | None:
        """Return what `to_arrays` packed, checked; None if it is not there."""
        if "_episode_start" not in arrays:
            return None
        n = len(arrays["_episode_start"])
        for name, dtype in (
            ("start", np.int64),
            ("last", np.int64),
            ("total", np.float64),
            ("discount", np.float64),
        ):
            check_array(name, arrays[f"_episode_{name}"], dtype, (n,))
        check_array("gamma", arrays["_episode_gamma"], np.float64, (1,))
        log_weight = arrays.get("_episode_log_weight")
        if log_weight is not None and (
            log_weight.dtype != np.float64
            or log_weight.shape != (n,)
            or not (log_weight < np.inf).all()  # -inf: the policy never does that
        ):
            raise ValueError("log_weight must be logarithms of weights")
        start, last = arrays["_episode_start"], arrays["_episode_last"]
        if not n or start.min() < 0 or last.min() < -1:
            raise ValueError("episodes must have states")
        if max(start.max(), last.max()) >= n_states:
            raise ValueError("a state that is not there")
        return cls(
            *(start, last),
            *(arrays["_episode_total"], arrays["_episode_discount"]),
            float(arrays["_episode_gamma"][0]),
            log_weight,
        )


def read_episodes(
    ordered: tuple[NDArray[np.int64], NDArray[np.int64]],
    data: Transitions,
    gamma: float,
) -> Episodes:
    """Return the episodes of a log.

    Parameters
    ----------
    ordered : tuple
        What `order_episodes` returned.
    data : Transitions
        What was read of the log.
    gamma : float
        Discount factor.

    Returns
    -------
    Episodes
        Without weights.
    """
    order, first = ordered
    step, length = steps_of(first, len(order))
    weight = gamma**step
    final = order[first + length - 1]
    ended = data.terminated[final]
    return Episodes(
        start=data.state[order[first]],
        last=np.where(ended, -1, data.next_state[final]),
        total=np.add.reduceat(weight * data.reward[order], first),
        discount=gamma ** length.astype(float),
        gamma=gamma,
    )


def steps_of(
    first: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the step of each of n rows in its episode, and the episodes' lengths.

    Examples
    --------
    >>> steps_of(np.array([0, 2]), 5)
    (array([0, 1, 0, 1, 2]), array([2, 3]))
    """
    length = np.diff(first, append=n)
    return np.arange(n) - np.repeat(first, length), length


def order_episodes(
    columns: Mapping[str, Any], data: Transitions
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the rows in the order of episodes, and where each of them begins.

    Parameters
    ----------
    columns : mapping of str to array-like
        Those of the log that there are of ``episode``, ``step`` and ``truncated``.
    data : Transitions
        What was read of it.

    Returns
    -------
    (order, first) or None
        Row numbers in `data`, (n,), and positions in `order`, (n_episodes,), int64.
        Episodes are known from the column ``episode``, in the order of ``step``
        where there is one; else where some row terminated or was truncated, and each
        other one leads to the state of the next. They must be whole: None where a row
        within an episode does not lead to the next one.
    """
    n = len(data.state)
    if "episode" in columns:
        order = _sorted_rows(*(_used(columns, name, data) for name in _SORT_BY))
        episode = _used(columns, "episode", data)
        assert episode is not None
        last = np.append(_changes(episode[order]), True)
    else:
        order = np.arange(n)
        last = data.terminated.copy()
        truncated = _used(columns, "truncated", data)
        if truncated is not None:
            last |= truncated == 1
        if not last.any():
            return None
        last[-1] = True
        if not _follows(data, order[:_GLANCE], last[:_GLANCE]):
            return None
    if not _follows(data, order, last):
        return None
    return order, np.flatnonzero(np.append(True, last[:-1]))


_SORT_BY = ("episode", "step")


def _used(columns: Mapping[str, Any], name: str, data: Transitions) -> NDArray | None:
    """Return a column of the rows that were used, None if there is none."""
    if name not in columns:
        return None
    labels = as_labels(columns[name])
    labels = labels if data.rows is None else labels[data.rows]
    return labels if len(labels) == len(data.state) else None


def _sorted_rows(episode: NDArray | None, step: NDArray | None) -> NDArray[np.int64]:
    """Return the rows sorted by episode and step, as they are if they are sorted."""
    assert episode is not None
    begins = np.flatnonzero(np.append(True, _changes(episode)))
    whole = len(factorise([episode[begins]])[0]) == len(begins)
    if whole and step is None:
        return np.arange(len(episode))
    rank = np.arange(len(episode)) if step is None else factorise([step])[1][0]
    if whole:
        rises = np.diff(rank) > 0
        rises[begins[1:] - 1] = True
        if rises.all():
            return np.arange(len(episode))
    return np.lexsort((rank, factorise([episode])[1][0]))


def _changes(labels: NDArray) -> NDArray[np.bool_]:
    """Return where a label differs from the one before it."""
    return np.asarray(labels[1:] != labels[:-1], bool)


def _follows(
    data: Transitions, order: NDArray[np.int64], last: NDArray[np.bool_]
) -> bool:
    """Tell whether each row that is not the last of its episode leads to the next."""
    before = order[:-1]
    leads = data.next_state[before] == data.state[order[1:]]
    return bool((last[:-1] | (leads & ~data.terminated[before])).all())


def shares_of(log_weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights so that they sum to one, or zeros if all are zero."""
    largest = log_weight.max()
    if largest == -np.inf:
        return np.zeros(len(log_weight))
    weight = np.exp(log_weight - largest)
    return weight / weight.sum()


def effective_size(weight: NDArray[np.float64]) -> float:
    """Return the effective sample size of weights (Kish 1965), 0 if all are zero.

    Examples
    --------
    >>> effective_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0
