"""Labels to integer codes: equal labels have one code, all others have another."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._labels import (
    MAX_EXACT,
    Coded,
    as_labels,
    is_missing,
    objects,
    python_values,
    refuse_unhashable,
)
from tabrl._times import all_times, as_python, as_times, common_unit, has_zone

_ROUNDED = (
    "Labels beyond 2**53 must not be floats beside integers: they are rounded. "
    "Use an integer column that can be null ('Int64' in pandas), or strings."
)

# To look up so many takes a dict 10 microseconds; a table of 1,000 states as much.
_FEW = 100
# Where one of these equals a label in a dict, it is that label.
_EXACT = {int, bool, str}


def encode(
    labels: Any, known: NDArray, names: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Return the position of each label in `known`, -1 where it is not there.

    Labels match when they are equal and hash alike, as in a dict: 1, 1.0 and True do.
    Dates match when they are the same instant, in whatever unit or type.

    Parameters
    ----------
    labels : array-like
        Anything `as_labels` takes.
    known : array of shape (n_known,)
        Distinct labels, in any order.
    names : sequence of str, optional
        As in `as_labels`.

    Returns
    -------
    int64 array of shape (n,)
        Positions in `known`, or -1.

    Raises
    ------
    ValueError
        If floats are so large that they may be other integers, rounded.

    Examples
    --------
    >>> encode([30, 10, 99], np.array([10, 20, 30]))
    array([ 2,  0, -1])
    """
    labels = as_labels(labels, names)
    if not len(known):
        return np.full(len(labels), -1)
    both = {labels.dtype.kind, known.dtype.kind}
    if labels.dtype.kind == "f" and _is_rounded(labels) and _large_integers([known]):
        raise ValueError(_ROUNDED)
    if "M" in both and both <= {"M", "O"}:
        times, known_times = _as_times(labels), _all_as_times(known)
        if times is None:
            return np.full(len(labels), -1)
        if known_times is not None:
            return _encode_sorted(*common_unit([times, known_times]))
    if both <= {"i", "b"}:
        codes = _encode_integers(labels.astype(np.int64), known.astype(np.int64))
        if codes is not None:
            return codes
    # Comparing int64 with float64 or uint64 rounds large integers: a dict does not.
    if both <= {"i", "b"} or (len(both) == 1 and both != {"O"}):
        if both <= {"m", "M"}:
            labels, known = common_unit([labels, known])
        return _encode_sorted(labels, known)
    place = {_plain(label): i for i, label in enumerate(python_values(known))}
    values = _values(labels)
    try:
        code = {label: place.get(_plain(label), -1) for label in dict.fromkeys(values)}
    except TypeError:
        refuse_unhashable(values)
        raise
    return np.fromiter(map(code.__getitem__, values), np.int64, len(values))


class Codebook:
    """Known labels in which a few are looked up, again and again.

    Parameters
    ----------
    known : array of shape (n_known,)
        As `encode` takes it.
    """

    def __init__(self, known: NDArray) -> None:
        self.known = known

    @cached_property
    def _place(self) -> dict[Any, int]:
        # Dates are looked up by what they mean, which takes more than a dict.
        labels = [] if self.known.dtype.kind in "mM" else python_values(self.known)
        return {_plain(label): i for i, label in enumerate(labels)}

    def encode(self, labels: NDArray) -> NDArray[np.int64]:
        """Return what ``encode(labels, known)`` does, of few labels much sooner.

        Parameters
        ----------
        labels : array of shape (n,)
            Made by `as_labels`.

        Returns
        -------
        int64 array of shape (n,)
        """
        if len(labels) <= _FEW and labels.dtype.kind in "ibO":
            few = labels.tolist()
            if _EXACT.issuperset(map(type, few)):
                codes = [self._place.get(label, -1) for label in few]
                if -1 not in codes:
                    return np.array(codes, np.int64)
        return encode(labels, self.known)


def factorise(
    columns: Sequence[NDArray | Coded],
) -> tuple[NDArray, list[NDArray[np.int64]]]:
    """Return the distinct labels of all columns together, and each column's codes.

    Parameters
    ----------
    columns : sequence of arrays or Coded
        Made by `as_labels` or `as_coded`.

    Returns
    -------
    labels : array of shape (n_labels,)
        Sorted where the labels can be compared, else in order of appearance.
    codes : list of int64 arrays
        One array for each column, indices into `labels`; -1 where a label is missing.
        They may share memory with the columns: do not write to them.

    Raises
    ------
    ValueError
        If floats are so large that they may be other integers, rounded; or if dates
        do not fit one unit.
    """
    labels, codes = _factorise(
        [column.distinct if isinstance(column, Coded) else column for column in columns]
    )
    for i, column in enumerate(columns):
        if isinstance(column, Coded):
            codes[i] = np.append(codes[i], -1)[column.codes]  # -1 takes the last
    return labels, codes


def _factorise(
    columns: Sequence[NDArray],
) -> tuple[NDArray, list[NDArray[np.int64]]]:
    """Factorise arrays."""
    kinds = {column.dtype.kind for column in columns}
    if kinds <= {"i", "u", "b", "f"}:
        if "f" in kinds:
            return _factorise_floats(columns)
        if _beyond_int64(columns):
            return _factorise_objects(columns)
        labels, codes = _factorise_integers(
            [column.astype(np.int64, copy=False) for column in columns]
        )
        return (labels.astype(bool) if kinds == {"b"} else labels), codes
    if kinds == {"M", "O"}:
        times = [_all_as_times(column) for column in columns]
        if all(column is not None for column in times):
            columns, kinds = [c for c in times if c is not None], {"M"}
    if kinds in ({"M"}, {"m"}):
        columns = common_unit(columns)
        missing = [np.isnat(column) for column in columns]
        labels, codes = _factorise_present(
            [column.view(np.int64) for column in columns], missing
        )
        return labels.view(columns[0].dtype), codes
    return _factorise_objects(columns)


def label_kinds(labels: Iterable) -> dict[str, Any]:
    """Return the kinds of label present, each with an example.

    Parameters
    ----------
    labels : iterable
        Labels of any kind.

    Returns
    -------
    dict of str to label
        Kinds are 'numbers', 'text', 'times', 'times with a zone', 'dates', 'tuples of
        2', or the name of a type.
    """
    kinds: dict[str, Any] = {}
    for label in labels:
        if isinstance(label, str):
            kind = "text"
        elif isinstance(label, np.timedelta64 | dt.timedelta):
            kind = "durations"
        elif isinstance(label, int | float | np.number | np.bool_):
            kind = "numbers"
        elif isinstance(label, tuple):
            kind = f"tuples of {len(label)}"
        elif isinstance(label, dt.datetime | np.datetime64):
            kind = "times with a zone" if has_zone(label) else "times"
        elif isinstance(label, dt.date):
            kind = "dates"
        else:
            kind = type(label).__name__
        kinds.setdefault(kind, label)
    return kinds


def _as_times(column: NDArray) -> NDArray | None:
    """Return the dates of a column, NaT where another label is; None without dates."""
    return column if column.dtype.kind == "M" else as_times(column.tolist())


def _all_as_times(column: NDArray) -> NDArray | None:
    """Return a column of dates as datetime64, None where another label is in it."""
    if column.dtype.kind == "M":
        return column
    if not all_times(column.tolist()):
        return None
    times = _as_times(column)
    # The coarsest unit, so that nothing but missing labels leaves the other's alone.
    return np.full(len(column), "NaT", "M8[Y]") if times is None else times


def _is_rounded(column: NDArray) -> bool:
    """Return whether a column of floats has one that may stand for other integers."""
    return bool((abs(column) >= MAX_EXACT).any())


def _large_integers(columns: Sequence[NDArray]) -> bool:
    """Return whether there are integers that floats cannot hold."""
    for column in columns:
        kind = column.dtype.kind
        if kind in "iu" and len(column):
            if column.max() >= MAX_EXACT or column.min() <= -MAX_EXACT:
                return True
        elif kind == "O" and any(
            isinstance(label, int) and abs(label) >= MAX_EXACT
            for label in _flat(python_values(column))
        ):
            return True
    return False


def _flat(labels: Iterable) -> Iterable:
    """Yield labels, and the parts of those that are tuples."""
    for label in labels:
        if isinstance(label, tuple):
            yield from _flat(label)
        else:
            yield label


def _encode_sorted(labels: NDArray, known: NDArray) -> NDArray[np.int64]:
    """Encode numbers or dates of one kind by sorting."""
    order = np.argsort(known, kind="stable")
    ordered = known[order]
    position = np.searchsorted(ordered, labels)
    position[position == len(known)] = 0
    return np.where(ordered[position] == labels, order[position], -1)


def _encode_integers(
    labels: NDArray[np.int64], known: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Encode by a table over the range of `known`, or return None if it is too wide."""
    low, high = int(known.min()), int(known.max())
    width = high - low + 1
    if width > 4 * (len(labels) + len(known)) + 2**16:
        return None
    code = np.full(width + 1, -1)  # the last entry is for labels out of range
    code[known - low] = np.arange(len(known))
    inside = (labels >= low) & (labels <= high)
    return code[np.where(inside, labels - low, width)]


def _factorise_integers(
    columns: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Factorise by a table over the range of values: much faster than by sorting."""
    filled = [column for column in columns if len(column)]
    if not filled:
        return np.empty(0, np.int64), list(columns)
    low = min(int(column.min()) for column in filled)
    width = max(int(column.max()) for column in filled) - low + 1
    if width > 4 * sum(map(len, filled)) + 2**16:
        labels = np.unique(np.concatenate(filled))
        return labels, [np.searchsorted(labels, column) for column in columns]
    # Shifting twice takes a pass more, and a third less memory than keeping the result.
    seen = np.zeros(width, dtype=bool)
    for column in columns:
        seen[column - low if low else column] = True
    labels = np.flatnonzero(seen)
    if len(labels) == width:
        return labels + low, [column - low if low else column for column in columns]
    code = np.cumsum(seen) - 1
    return labels + low, [code[column - low if low else column] for column in columns]


def _factorise_present(
    columns: Sequence[NDArray[np.int64]], missing: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Factorise integers of which some stand for a missing value."""
    labels, present_codes = _factorise_integers(
        [column[~gap] for column, gap in zip(columns, missing, strict=True)]
    )
    codes = [np.full(len(column), -1) for column in columns]
    for code, gap, present in zip(codes, missing, present_codes, strict=True):
        code[~gap] = present
    return labels, codes


def _factorise_floats(
    columns: Sequence[NDArray],
) -> tuple[NDArray, list[NDArray[np.int64]]]:
    """Factorise numbers of which at least one column is of floats.

    A float column beside an integer one holds integers that a data frame turned into
    floats to have room for NaN, so the labels are integers.
    """
    missing = [np.isnan(column) for column in columns]
    floats = [
        column[~gap]
        for column, gap in zip(columns, missing, strict=True)
        if column.dtype.kind == "f"
    ]
    others = [column for column in columns if column.dtype.kind != "f"]
    large = any(map(_is_rounded, floats))
    if large and others:
        raise ValueError(_ROUNDED)
    whole = not large and all((part == np.floor(part)).all() for part in floats)
    if _beyond_int64(others):
        return _factorise_objects(
            [
                _as_objects(column) if whole and column.dtype.kind == "f" else column
                for column in columns
            ]
        )
    if whole:
        integers = [
            np.where(gap, 0, column).astype(np.int64)
            for column, gap in zip(columns, missing, strict=True)
        ]
        labels, codes = _factorise_present(integers, missing)
        return (labels if others else labels.astype(np.float64)), codes
    if others:
        return _factorise_objects(columns)
    distinct = np.unique(np.concatenate(floats))
    codes = [np.searchsorted(distinct, column) for column in columns]
    for code, gap in zip(codes, missing, strict=True):
        code[gap] = -1
    return distinct, codes


def _as_objects(column: NDArray) -> NDArray:
    """Return floats that are integers, or missing, as Python's integers and None."""
    return objects(None if x != x else int(x) for x in column.tolist())


def _beyond_int64(columns: Sequence[NDArray]) -> bool:
    return any(c.dtype.kind == "u" and (c >= 2**63).any() for c in columns)


def _factorise_objects(
    columns: Sequence[NDArray],
) -> tuple[NDArray, list[NDArray[np.int64]]]:
    """Factorise labels of any hashable kind through a dict."""
    values = [_values(column) for column in columns]
    found: dict[Any, None] = {}
    for column in values:
        try:
            found.update(dict.fromkeys(column))
        except TypeError:
            refuse_unhashable(column)
            raise
    plain = {label: _plain(label) for label in found}
    labels = [x for x in dict.fromkeys(plain.values()) if not is_missing(x)]
    _refuse_rounded(labels)
    try:
        ordered = sorted(labels)
    except (TypeError, ValueError):  # labels of several kinds have no order
        ordered = labels
    place = {label: i for i, label in enumerate(ordered)}
    code = {label: place.get(twin, -1) for label, twin in plain.items()}
    codes = [
        np.fromiter(map(code.__getitem__, column), np.int64, len(column))
        for column in values
    ]
    return _narrow(ordered), codes


def _values(column: NDArray) -> list:
    """Return the labels of a column as a dict can tell them apart."""
    values = python_values(column)
    # To numpy before version 2 five seconds equal the number five, hash and all.
    if any(issubclass(kind, np.timedelta64) for kind in set(map(type, values))):
        return [_plain(label) for label in values]
    return values


def _plain(label: Any) -> Any:
    """Return Python's own number, text or date in place of numpy's."""
    if isinstance(label, np.datetime64 | np.timedelta64):
        return as_python(label)
    if isinstance(label, tuple):
        return tuple(map(_plain, label))
    return label.item() if isinstance(label, np.generic) else label


def _refuse_rounded(labels: list) -> None:
    """Refuse floats that may be integers, beside integers that they may be."""
    large = {
        type(part)
        for part in _flat(labels)
        if isinstance(part, int | float) and MAX_EXACT <= abs(part) != np.inf
    }
    if large >= {int, float}:
        raise ValueError(_ROUNDED)


def _narrow(labels: list) -> NDArray:
    """Return an array of integers, floats or booleans if the labels are all that."""
    types = set(map(type, labels))
    for kind, dtype in ((bool, np.bool_), (int, np.int64), (float, np.float64)):
        if labels and all(issubclass(one, kind) for one in types):
            try:
                return np.array(labels, dtype=dtype)
            except OverflowError:
                break
    return objects(labels)
