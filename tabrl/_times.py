"""Dates and times as labels: one instant is one label, however it is written.

Units meet in numpy's common unit, by casting there and back: what does not come back
does not fit. A time with a zone is never one without.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._labels import is_missing


def common_unit(columns: Sequence[NDArray]) -> list[NDArray]:
    """Return arrays of dates (or of durations) in one unit.

    Parameters
    ----------
    columns : sequence of arrays
        All datetime64, or all timedelta64, in any units.

    Returns
    -------
    list of arrays
        Of one dtype.

    Raises
    ------
    ValueError
        If a date does not fit the unit that they have in common.
    """
    dtype = np.result_type(*columns)
    return [_cast(column, dtype) for column in columns]


def _cast(column: NDArray, dtype: np.dtype) -> NDArray:
    if column.dtype == dtype:
        return column
    try:
        cast = column.astype(dtype)
        back = cast.astype(column.dtype)
    except OverflowError:  # recent versions of numpy look
        cast, back = column, ~np.isnat(column)
    wrong = (back != column) & ~np.isnat(column)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            "Dates must fit the finest unit among them. Found "
            f"{int(wrong.sum())} of {column.dtype} that do not fit {dtype}, first "
            f"{column[first]}. Give all of them in one unit, 'datetime64[us]' say."
        )
    return cast


def as_times(labels: Sequence[Any]) -> NDArray | None:
    """Return Python's dates without a zone as one datetime64 array.

    Parameters
    ----------
    labels : sequence
        Of any kind.

    Returns
    -------
    array of shape (n,) or None
        None where no label is a date. NaT where a label is something else: that
        equals nothing.

    Raises
    ------
    ValueError
        If they do not fit one unit.
    """
    parts: dict[np.dtype, tuple[list[int], list]] = {}
    for row, label in enumerate(labels):
        time = _as_datetime64(label)
        if time is not None:
            rows, times = parts.setdefault(time.dtype, ([], []))
            rows.append(row)
            times.append(time)
    if not parts:
        return None
    columns = [np.array(times, dtype) for dtype, (_, times) in parts.items()]
    columns = common_unit(columns)
    found = np.full(len(labels), "NaT", columns[0].dtype)
    for (rows, _), column in zip(parts.values(), columns, strict=True):
        found[rows] = column
    return found


def _as_datetime64(label: Any) -> np.datetime64 | None:
    if isinstance(label, np.datetime64):
        return label
    if isinstance(label, dt.datetime):
        if label.tzinfo is not None or label != label:  # pandas.NaT is a datetime
            return None
        if getattr(label, "nanosecond", 0):  # pandas.Timestamp
            return label.to_datetime64()  # type: ignore[attr-defined]
        return np.datetime64(label.replace(tzinfo=None), "us")
    return np.datetime64(label) if isinstance(label, dt.date) else None


def as_python(time: np.datetime64 | np.timedelta64) -> Any:
    """Return Python's date, datetime or timedelta where it is exactly the same.

    They are hashed by what they mean; numpy's by how they are stored.

    Examples
    --------
    >>> as_python(np.datetime64("2026-01-02T03", "ns"))
    datetime.datetime(2026, 1, 2, 3, 0)
    >>> str(as_python(np.datetime64("2026-01-02T03:04:05.000000001")))
    '2026-01-02T03:04:05.000000001'
    """
    if np.isnat(time):
        return None
    unit = np.datetime_data(time.dtype)[0]
    if time.dtype.kind == "m" and unit in ("Y", "M", "generic"):
        return time  # months have no length
    if unit == "D" and time.dtype.kind == "M":
        return time.item()
    try:
        whole = time.astype(f"{time.dtype.kind}8[us]")
        back = whole.astype(time.dtype)
    except OverflowError:  # recent versions of numpy look
        return time
    value = whole.item()
    return value if back == time and not isinstance(value, int) else time


def all_times(labels: Iterable[Any]) -> bool:
    """Return whether all labels but missing ones are dates without a zone."""
    return all(
        is_missing(label) or _as_datetime64(label) is not None for label in labels
    )


def has_zone(label: Any) -> bool:
    """Return whether a label is a time that knows its zone."""
    return isinstance(label, dt.datetime) and label.tzinfo is not None
