"""Sufficient statistics with their labels: counted anywhere, added, saved, planned on.

A worker that holds a part of a log sends these, and not its rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from tabrl._codes import factorise, label_kinds
from tabrl._columns import check_complete, choose
from tabrl._labels import as_labels, is_missing
from tabrl._lazy import count_lazily, is_lazy
from tabrl._next_states import warn_dropped
from tabrl._persistence import (
    read,
    statistics_from_arrays,
    statistics_to_arrays,
    whole,
    write,
)
from tabrl._statistics import Statistics
from tabrl._transitions import (
    MAX_REWARD,
    MIN_REWARD,
    Transitions,
    not_flags,
    read_transitions,
)

_COUNTS = ("n", "reward_sum", "reward_sq_sum")
_RANGE = ("reward_min", "reward_max")


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """All that a policy is made from: counts and reward sums of a log, with labels.

    They add. Workers can count parts of a log wherever these are, and one machine
    plans: ``OfflinePolicyEstimator().fit(first + second)`` gives the policy of one
    ``fit`` on all rows.

    Attributes
    ----------
    states : array of shape (n_states,)
        Labels of all states, as state or next state.
    actions : array of shape (n_actions,)
        Labels of all actions.
    statistics : Statistics
        Counts and reward sums by the positions of the labels.
    reward_low, reward_high : float
        Smallest and largest reward of one transition; of `from_counts` without
        ``reward_min`` and ``reward_max``, the smallest and largest mean of a row.
    state_names : list of str or None
        Names of the columns that make a state, where there are several with names.
    columns : dict of str to str or int
        Which column of the log was read as what.

    Examples
    --------
    >>> from tabrl import OfflinePolicyEstimator, SufficientStatistics
    >>> monday = {"state": [0, 0], "action": [0, 1], "reward": [1.0, 2.0],
    ...           "next_state": [0, 1], "terminated": [False, True]}
    >>> tuesday = monday | {"state": [0, 2]}
    >>> parts = map(SufficientStatistics.from_transitions, (monday, tuesday))
    >>> both = sum(parts, next(parts))
    >>> both.n_transitions, both.states
    (4, array([0, 1, 2]))
    >>> OfflinePolicyEstimator().fit(both).n_transitions_
    4
    """

    states: NDArray
    actions: NDArray
    statistics: Statistics
    reward_low: float
    reward_high: float
    state_names: list[str] | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_transitions(
        cls,
        transitions: Any,
        state_names: list[str] | None = None,
        progress_bar: bool = False,
    ) -> SufficientStatistics:
        """Count the transitions of a log.

        Parameters
        ----------
        transitions : table or lazy frame
            Any table that `OfflinePolicyEstimator.fit` takes. Lazy frames are counted
            by their engine, and never in memory as a whole.
        state_names : list of str, optional
            Names that a state's columns must have where they have any.
        progress_bar : bool, default=False
            Whether to show how much of a lazy frame has been read; needs tqdm. polars
            and pyarrow show rows, Dask its tasks; DuckDB, PySpark and Ibis do not tell
            how far they are, and a warning says so. Other tables are read at once.

        Returns
        -------
        SufficientStatistics

        Raises
        ------
        ValueError, TypeError
            If the log is not as described.

        Notes
        -----
        polars and DuckDB look for the files of a pattern when they count: one that
        is gone by then is not missed. Give them a list of files. DuckDB converts each
        column to its type in the first file, and so rounds 0.5 among integers; with
        ``union_by_name=True`` it takes a type that holds all. Of labels that are
        numbers in one file and text in another it makes text without a word.
        """
        if is_lazy(transitions):
            counted = count_lazily(transitions, state_names, progress_bar)
            return cls._of_counts(*counted)
        data = read_transitions(transitions, state_names=state_names)
        return cls(
            data.states,
            data.actions,
            count(data),
            *(float(data.reward.min()), float(data.reward.max())),
            *(data.state_names, data.columns),
        )

    @classmethod
    def from_counts(cls, counts: Any) -> SufficientStatistics:
        """Take what a group-by of any engine returned.

        Parameters
        ----------
        counts : data frame or mapping of columns
            Any number of rows for each kind of transition, with the columns

            - ``state, action, next_state, terminated``: what the rows have in common;
            - ``n``: how many there are, more than 0;
            - ``reward_sum, reward_sq_sum``: the sum of their rewards, and of the
              squares of these;
            - ``reward_min, reward_max``, optional: their smallest and largest reward,
              which `reward_range` of the estimator is checked against.

        Returns
        -------
        SufficientStatistics

        Raises
        ------
        ValueError, TypeError
            If a column is missing, or its values cannot be such counts and sums.

        Examples
        --------
        In SQL: ``SELECT state, action, next_state, terminated, COUNT(*) AS n,
        SUM(reward) AS reward_sum, SUM(reward * reward) AS reward_sq_sum,
        MIN(reward) AS reward_min, MAX(reward) AS reward_max FROM log GROUP BY ALL``.

        >>> counted = SufficientStatistics.from_counts({
        ...     "state": ["shop", "road"], "action": ["walk", "walk"],
        ...     "next_state": ["road", None], "terminated": [False, True],
        ...     "n": [30, 20], "reward_sum": [-30.0, 100.0],
        ...     "reward_sq_sum": [30.0, 500.0],
        ... })
        >>> counted.n_transitions
        50
        """
        table = counts
        if not isinstance(counts, Mapping):
            table = nw.from_native(counts, pass_through=True)
            if isinstance(table, nw.LazyFrame):
                table = table.collect()
            if not isinstance(table, nw.DataFrame):
                raise TypeError(
                    "counts must be a data frame or a mapping of columns. Got "
                    f"{type(counts).__name__}."
                )
        names = list(table if isinstance(table, Mapping) else table.columns)
        missing = [name for name in _COUNTS if name not in names]
        if missing:
            raise ValueError(
                f"Counts must have the columns {', '.join(map(repr, _COUNTS))}. "
                f"Missing: {', '.join(map(repr, missing))}."
            )
        sources = choose(names)
        sources.pop("reward", None)
        given = [name for name in (*_COUNTS, *_RANGE) if name in names]
        columns = {name: table[found] for name, found in sources.items()}
        check_complete({**columns, "reward": None}, names)
        return cls._of_counts(columns | {n: table[n] for n in given}, sources)

    @classmethod
    def _of_counts(
        cls,
        columns: dict[str, Any],
        sources: dict[str, Any],
        state_names: list[str] | None = None,
        first: Callable[[str, str], str] = lambda kind, name: "",
    ) -> SufficientStatistics:
        """Return the statistics of columns by canonical name, checked."""
        sums = {name: columns[name] for name in (*_COUNTS, *_RANGE) if name in columns}
        labels = {
            name: column
            for name, column in columns.items()
            if name not in (*sums, "episode", "step", "dropped")
        }
        n, total, squares, low, high = _read_sums(sums)
        _refuse_wrong(labels, n, first)
        labels["reward"] = np.zeros(len(n))  # checked above; of means too much is asked
        kept = slice(None)
        if "dropped" in columns:
            kept = as_labels(columns["dropped"]) == 0
            warn_dropped(n, kept)
            sums = {name: as_labels(column)[kept] for name, column in sums.items()}
            n, total, squares, low, high = _read_sums(sums)
        data = read_transitions(labels, state_names=state_names)
        statistics = Statistics.from_counts(
            *(data.state[kept], data.action[kept]),
            *(data.next_state[kept], data.terminated[kept]),
            *(n, total, squares),
            *(len(data.states), len(data.actions)),
        )
        return cls(
            *(data.states, data.actions, statistics, low, high),
            *(data.state_names or state_names, sources),
        )

    @property
    def n_transitions(self) -> int:
        """Number of transitions counted."""
        return int(self.statistics.n.sum())

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        """Return the statistics of both logs together, over the labels of both."""
        if not isinstance(other, SufficientStatistics):
            return NotImplemented
        names = [x.state_names for x in (self, other) if x.state_names is not None]
        self.check_state_names(other.state_names)
        for name in ("states", "actions"):
            _refuse_other_kinds(name, getattr(self, name), getattr(other, name))
        states, actions, statistics = merge(
            (self.states, self.actions, self.statistics),
            (other.states, other.actions, other.statistics),
        )
        return SufficientStatistics(
            *(states, actions, statistics),
            min(self.reward_low, other.reward_low),
            max(self.reward_high, other.reward_high),
            names[0] if names else None,
            other.columns,
        )

    def check_state_names(self, names: list[str] | None) -> None:
        """Refuse states of other columns, or of the same in another order.

        Parameters
        ----------
        names : list of str or None
            Names of the columns that make a state; None goes with any.

        Raises
        ------
        ValueError
            If they are not those of these statistics.
        """
        if names and self.state_names and names != self.state_names:
            raise ValueError(
                "Statistics that are added must have the same state columns in the "
                f"same order. Got {self.state_names} and {names}. Count one of them "
                "anew."
            )

    def check_reward_range(self, low: float, high: float) -> None:
        """Refuse rewards that lie outside of a range.

        Parameters
        ----------
        low, high : float
            The range that all of them must lie in.

        Raises
        ------
        ValueError
            If one does not.
        """
        if self.reward_low < low or self.reward_high > high:
            raise ValueError(
                f"Rewards must lie in reward_range ({low}, {high}). Found rewards from "
                f"{self.reward_low} to {self.reward_high}. Widen reward_range, or pass "
                "None."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics to one file that holds no pickle.

        Parameters
        ----------
        path : str or path
            Replaced if there is such a file; a failure leaves it as it was.

        Raises
        ------
        TypeError
            If a label is not a bool, int, float, string, date or a tuple of these.
        """
        arrays = {"states": self.states, "actions": self.actions}
        meta = {
            "rewards": [self.reward_low, self.reward_high],
            "state_names": self.state_names,
            "columns": self.columns,
        }
        arrays |= statistics_to_arrays(self.statistics)
        write(path, "SufficientStatistics", meta, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SufficientStatistics:
        """Read statistics that `save` wrote.

        Parameters
        ----------
        path : str or path
            The file.

        Returns
        -------
        SufficientStatistics

        Raises
        ------
        ValueError
            If the file holds no such statistics, or those of a newer format.
        """
        meta, arrays = read(path, "SufficientStatistics")
        with whole(path, "SufficientStatistics"):
            size = len(arrays["states"]), len(arrays["actions"])
            statistics = statistics_from_arrays(arrays, *size)
            low, high = map(float, meta["rewards"])
            names, columns = meta["state_names"], dict(meta["columns"])
            labels = arrays["states"], arrays["actions"]
            return cls(*labels, statistics, low, high, names, columns)


def count(data: Transitions | SufficientStatistics) -> Statistics:
    """Return the statistics of transitions, counted now unless they were before."""
    if isinstance(data, SufficientStatistics):
        return data.statistics
    return Statistics.from_codes(
        data.state,
        data.action,
        data.reward,
        data.next_state,
        data.terminated,
        len(data.states),
        len(data.actions),
    )


def merge(
    old: tuple[NDArray, NDArray, Statistics], new: tuple[NDArray, NDArray, Statistics]
) -> tuple[NDArray, NDArray, Statistics]:
    """Return labels and statistics of two data sets together.

    Parameters
    ----------
    old, new : tuple of states, actions and Statistics
        Labels, and what was counted of them.

    Returns
    -------
    states, actions : array
        Labels of both, in the order of `factorise`.
    statistics : Statistics
        Over these.
    """
    states, state_codes = factorise([old[0], new[0]])
    actions, action_codes = factorise([old[1], new[1]])
    size = (len(states), len(actions))
    first, second = (
        part[2].relabel(state, action, *size)
        for part, state, action in zip(
            (old, new), state_codes, action_codes, strict=True
        )
    )
    return states, actions, first + second


def _read_sums(
    columns: dict[str, Any],
) -> tuple[NDArray, NDArray, NDArray, float, float]:
    """Return counts, sums and squares, and the smallest and largest reward."""
    arrays = {}
    for name in (*_COUNTS, *_RANGE):
        if name not in columns:
            continue
        values = as_labels(columns[name])
        if values.dtype.kind == "O":  # integers beyond 64 bits, of a sum in DuckDB
            values = np.array([_number(name, x) for x in values.tolist()])
        if values.dtype.kind not in "iuf":
            raise TypeError(
                f"Column '{name}' must be numeric. Found dtype {values.dtype}."
            )
        arrays[name] = values.astype(np.float64)
        wrong = ~np.isfinite(arrays[name])
        if name in ("n", "reward_sq_sum"):
            least = "more than 0" if name == "n" else "0 or more"
            wrong |= (arrays[name] <= 0) if name == "n" else (arrays[name] < 0)
        if wrong.any():
            row = int(wrong.argmax())
            least = f" and {least}" if name in ("n", "reward_sq_sum") else ""
            raise ValueError(
                f"Column '{name}' must be finite{least}. Found {int(wrong.sum())} "
                f"other values, first at row {row} ({values[row]})."
            )
    n, total, squares = (arrays[name] for name in _COUNTS)
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError("All columns must have the same length.")
    if not len(n):
        raise ValueError("Transitions must have at least one row. Found none.")
    # The mean of squares is at least the square of the mean; sums are rounded.
    wrong = squares * (1 + 1e-9) < total * (total / n)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            "reward_sq_sum must be at least reward_sum**2 / n. Found "
            f"{int(wrong.sum())} rows where it is less, first row {row} "
            f"({squares[row]}). Sum the squares of the single rewards."
        )
    mean = total / n
    low = float(arrays.get("reward_min", mean).min())
    high = float(arrays.get("reward_max", mean).max())
    size = max(-low, high)
    if size >= MAX_REWARD or (size < MIN_REWARD and (low or high)):
        raise ValueError(
            f"Rewards must be 0 or between {MIN_REWARD:.0e} and {MAX_REWARD:.0e} in "
            f"size. Found {size}. Rescale the rewards before fit."
        )
    return n, total, squares, low, high


def _number(name: str, value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"Column '{name}' must be numeric. Found {value!r:.80}.")
    return np.nan if value is None else float(value)


def _refuse_wrong(
    columns: dict[str, Any],
    n: NDArray[np.float64],
    where_first: Callable[[str, str], str],
) -> None:
    """Refuse flags that are none and labels that are missing: count transitions."""
    flags = {}
    for name in ("terminated", "done", "truncated"):
        if name not in columns or isinstance(columns[name], bool):
            continue
        flags[name] = as_labels(columns[name])
        wrong = not_flags(flags[name])
        if wrong.any():
            first = flags[name][wrong].tolist()[0]
            raise ValueError(
                f"Column '{name}' must be boolean (or 0 and 1). Found "
                f"{int(n[wrong].sum())} other values ({first!r} for one)"
                f"{where_first('no flag', name)}. Convert it before fit."
            )
    ended = flags.get("terminated", flags.get("done"))
    if "terminated" not in flags and "truncated" in flags and ended is not None:
        ended = ended.astype(bool) & ~flags["truncated"].astype(bool)
    for name in ("state", "action", "next_state"):
        if name not in columns:
            continue
        gap = _missing(columns[name])
        where = ""
        if name == "next_state" and ended is not None:
            gap, where = gap & ~ended.astype(bool), " where 'terminated' is false"
        if gap.any():
            raise ValueError(
                f"Column '{name}' must not be missing{where}. Found "
                f"{int(n[gap].sum())} missing labels"
                f"{where_first('missing', name)}. Drop these rows before fit."
            )


def _missing(column: Any) -> NDArray[np.bool_]:
    labels = as_labels(column)
    if labels.dtype.kind in "mM":
        return np.isnat(labels)
    if labels.dtype.kind != "O":
        return labels != labels
    return np.fromiter(map(is_missing, labels), bool, len(labels))


def _refuse_other_kinds(name: str, first: NDArray, second: NDArray) -> None:
    """Refuse labels that have no kind in common: 3 in one part, "3" in another."""
    kinds = [_kinds(labels) for labels in (first, second)]
    if kinds[0].keys().isdisjoint(kinds[1]):
        (kind, label), *_ = kinds[0].items()
        (other, other_label), *_ = kinds[1].items()
        raise TypeError(
            "Statistics that are added must have the same kind of labels. Found "
            f"{kind} in the {name} of one ({label!r}) and {other} in those of the "
            f"other ({other_label!r}). Convert one of them before it is counted."
        )


def _kinds(labels: NDArray) -> dict[str, Any]:
    """Return the kinds of label present, from one of each where they share a dtype."""
    return label_kinds(labels.tolist() if labels.dtype.kind == "O" else labels[:1])
