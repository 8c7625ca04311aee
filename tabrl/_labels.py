"""Labels of states and actions: from any container to arrays, and to integer codes."""

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import repeat
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

# Integers beyond this size are not all distinct as float64.
_MAX_EXACT = 2**53


def as_labels(values: Any) -> NDArray:
    """Return one label per row, whatever the container.

    Parameters
    ----------
    values : array-like, series, data frame or sparse matrix
        One row per label. Rows of several columns become tuples; a single column is
        taken as it is.

    Returns
    -------
    array of shape (n,)
        Numbers, booleans and dates keep their dtype; everything else is an object
        array, so that text is `str` wherever it came from. A missing label is None,
        or the dtype's own NaN or NaT.

    Raises
    ------
    TypeError
        If `values` is a single label or has no order.
    ValueError
        If `values` has no columns or more than two dimensions.

    Examples
    --------
    >>> as_labels([3, 1])
    array([3, 1])
    >>> as_labels([[0, 1], [2, 3]])
    array([(0, 1), (2, 3)], dtype=object)
    >>> as_labels(["left", 7])
    array(['left', 7], dtype=object)
    """
    values = nw.from_native(values, pass_through=True, allow_series=True)
    if isinstance(values, nw.LazyFrame):
        values = values.collect()
    if isinstance(values, nw.DataFrame):
        columns = [
            _from_series(column) for column in map(values.get_column, values.columns)
        ]
        if not columns:
            raise ValueError("Labels need at least one column. Got a frame with none.")
        return columns[0] if len(columns) == 1 else _objects(_rows(columns))
    if isinstance(values, nw.Series):
        return _from_series(values)
    if hasattr(values, "toarray"):  # scipy's sparse matrices and arrays
        values = values.toarray()
    if hasattr(values, "__array__"):
        return _from_array(np.asanyarray(values))
    single = isinstance(values, str | bytes) or not isinstance(values, Iterable)
    if single or isinstance(values, Mapping | Set):
        raise TypeError(
            "Labels must be a list, an array, a series or a data frame. Got "
            f"{values!r:.80}. Put a single label in a list."
        )
    return _from_list(list(values))


def encode(labels: Any, known: NDArray) -> NDArray[np.int64]:
    """Return the position of each label in `known`, -1 where it is not there.

    Labels match when they are equal and hash alike, as in a dict: 1, 1.0 and True do.

    Parameters
    ----------
    labels : array-like
        Anything `as_labels` takes.
    known : array of shape (n_known,)
        Distinct labels, in any order.

    Returns
    -------
    int64 array of shape (n,)
        Positions in `known`, or -1.

    Examples
    --------
    >>> encode([30, 10, 99], np.array([10, 20, 30]))
    array([ 2,  0, -1])
    """
    labels = as_labels(labels)
    if known.dtype.kind in "mM" and labels.dtype.kind == "O":
        try:
            labels = labels.astype(known.dtype)  # a list of datetime or Timestamp
        except (TypeError, ValueError):
            return np.full(len(labels), -1)
    both = {labels.dtype.kind, known.dtype.kind}
    if len(known) and both <= {"i", "b"}:
        codes = _encode_integers(labels.astype(np.int64), known.astype(np.int64))
        if codes is not None:
            return codes
    # Comparing int64 with float64 or uint64 rounds large integers: a dict does not.
    if len(known) and (both <= {"i", "b"} or (len(both) == 1 and both != {"O"})):
        order = np.argsort(known, kind="stable")
        ordered = known[order]
        position = np.searchsorted(ordered, labels)
        position[position == len(known)] = 0
        return np.where(ordered[position] == labels, order[position], -1)
    code = {label: i for i, label in enumerate(_python_values(known))}
    values = _python_values(labels)
    try:
        return np.fromiter(map(code.get, values, repeat(-1)), np.int64, len(values))
    except TypeError:
        _refuse_unhashable(values)
        raise


def factorise(
    columns: Sequence[NDArray],
) -> tuple[NDArray, list[NDArray[np.int64]]]:
    """Return the distinct labels of all columns together, and each column's codes.

    Parameters
    ----------
    columns : sequence of arrays
        Made by `as_labels`.

    Returns
    -------
    labels : array of shape (n_labels,)
        Sorted where the labels can be compared, else in order of appearance.
    codes : list of int64 arrays
        One array for each column, indices into `labels`; -1 where a label is missing.
        They may share memory with the columns: do not write to them.
    """
    kinds = {column.dtype.kind for column in columns}
    if any(c.dtype.kind == "u" and (c >= 2**63).any() for c in columns):
        return _factorise_objects(columns)
    if kinds <= {"i", "u", "b"}:
        labels, codes = _factorise_integers(
            [column.astype(np.int64, copy=False) for column in columns]
        )
        return (labels.astype(bool) if kinds == {"b"} else labels), codes
    if kinds <= {"i", "u", "b", "f"}:
        return _factorise_floats(columns)
    if kinds in ({"M"}, {"m"}):
        dtype = np.result_type(*columns)
        columns = [column.astype(dtype, copy=False) for column in columns]
        missing = [np.isnat(column) for column in columns]
        labels, codes = _factorise_present(
            [column.view(np.int64) for column in columns], missing
        )
        return labels.view(dtype), codes
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
        Kinds are 'numbers', 'text', 'tuples of 2', or the name of a type.
    """
    kinds: dict[str, Any] = {}
    for label in labels:
        if isinstance(label, str):
            kind = "text"
        elif isinstance(label, int | float | np.number | np.bool_):
            kind = "numbers"
        elif isinstance(label, tuple):
            kind = f"tuples of {len(label)}"
        else:
            kind = type(label).__name__
        kinds.setdefault(kind, label)
    return kinds


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
    beside_integers = len(floats) < len(columns)
    large = any((abs(column) >= _MAX_EXACT).any() for column in floats)
    if large and beside_integers:
        raise ValueError(
            "Labels beyond 2**53 must not be floats beside integers: they are rounded. "
            "Use an integer column that can be null ('Int64' in pandas), or strings."
        )
    if not large and all((column == np.floor(column)).all() for column in floats):
        integers = [
            np.where(gap, 0, column).astype(np.int64)
            for column, gap in zip(columns, missing, strict=True)
        ]
        labels, codes = _factorise_present(integers, missing)
        return (labels if beside_integers else labels.astype(np.float64)), codes
    if beside_integers:
        return _factorise_objects(columns)
    distinct = np.unique(np.concatenate(floats))
    codes = [np.searchsorted(distinct, column) for column in columns]
    for code, gap in zip(codes, missing, strict=True):
        code[gap] = -1
    return distinct, codes


def _factorise_objects(
    columns: Sequence[NDArray],
) -> tuple[NDArray, list[NDArray[np.int64]]]:
    """Factorise labels of any hashable kind through a dict."""
    values = [_python_values(column) for column in columns]
    distinct: dict[Any, None] = {}
    for column in values:
        try:
            distinct.update(dict.fromkeys(column))
        except TypeError:
            _refuse_unhashable(column)
            raise
    labels = [label for label in distinct if not _is_missing(label)]
    try:
        labels.sort()
    except TypeError:  # labels of several kinds have no order: that of appearance
        labels = [label for label in distinct if not _is_missing(label)]
    code = {label: -1 for label in distinct}
    code.update((label, i) for i, label in enumerate(labels))
    codes = [
        np.fromiter(map(code.__getitem__, column), np.int64, len(column))
        for column in values
    ]
    return _narrow(labels), codes


def _from_series(series: nw.Series) -> NDArray:
    dtype = series.dtype
    if isinstance(dtype, nw.Struct):
        rows = (tuple(row.values()) if row else row for row in series.to_list())
        return _objects(rows)
    if isinstance(dtype, nw.List | nw.Array | nw.String | nw.Categorical | nw.Enum):
        return _from_array(_objects(series.to_list()))
    if not series.null_count():
        return _from_array(series.to_numpy())
    present = _from_array(series.drop_nulls().to_numpy())
    kind = present.dtype.kind
    if kind in "iuf" and (kind == "f" or (abs(present) < _MAX_EXACT).all()):
        labels = np.full(len(series), np.nan)
    elif kind in "mM":
        labels = np.full(len(series), "NaT", present.dtype)
    else:
        labels = np.full(len(series), None, object)
    labels[~series.is_null().to_numpy()] = present
    return labels


def _from_array(array: NDArray) -> NDArray:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        gaps = np.ma.getmaskarray(array)
        array = array.data.astype(object)
        array[gaps] = None
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1]:
        return _objects(_rows(array.T))
    if array.ndim != 1:
        raise ValueError(
            "Labels must be an array of one label per row, or of one row of columns "
            f"per label. Got an array of shape {array.shape}."
        )
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    if array.dtype.kind in "biumM":
        return array
    values = array.tolist()
    if {list, np.ndarray}.isdisjoint(map(type, values)):
        return array if array.dtype.kind == "O" else _objects(values)
    return _objects(map(_frozen, values))


def _from_list(values: list) -> NDArray:
    types = set(map(type, values))
    if not values:
        return np.empty(0, np.int64)
    if all(issubclass(kind, int | float | np.number | np.bool_) for kind in types):
        array = np.array(values)
        rounded = array.dtype.kind == "f" and not types <= {float, np.float64}
        if rounded and (abs(array) >= _MAX_EXACT).any():
            return _objects(values)
        return _from_array(array)
    # Rows of one column are labels; of tuples, nobody knows which were meant as rows.
    if types <= {list, np.ndarray} and {np.size(row) for row in values} == {1}:
        return _from_list([np.ravel(row).tolist()[0] for row in values])
    return _from_array(_objects(values))


def _narrow(labels: list) -> NDArray:
    """Return an array of integers, floats or booleans if the labels are all that."""
    types = set(map(type, labels))
    for kinds, dtype in (
        ((bool, np.bool_), np.bool_),
        ((int, np.integer), np.int64),
        ((float, np.floating), np.float64),
    ):
        if labels and all(issubclass(kind, kinds) for kind in types):
            try:
                return np.array(labels, dtype=dtype)
            except OverflowError:
                break
    return _objects(labels)


def _objects(values: Iterable) -> NDArray:
    """Return a 1-D object array: np.array would take tuples for a second dimension."""
    values = list(values)
    return np.fromiter(values, dtype=object, count=len(values))


def _rows(columns: Iterable[NDArray]) -> Iterable[tuple]:
    return zip(*map(_python_values, columns), strict=True)


def _python_values(array: NDArray) -> list:
    # tolist() would turn datetime64[ns] into bare integers.
    return list(array) if array.dtype.kind in "mM" else array.tolist()


def _frozen(value: Any) -> Any:
    """Return lists and arrays as tuples: polars and pyarrow have no other tuples."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _refuse_unhashable(values: list) -> None:
    for row, value in enumerate(values):
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"Labels must be hashable. Found a {type(value).__name__} at row {row} "
                f"({value!r}). Use numbers, strings or tuples."
            ) from None


def _is_missing(label: Any) -> bool:
    """Return whether a label is None, NaN, NaT or NA, or a tuple that holds one."""
    if isinstance(label, tuple):
        return any(map(_is_missing, label))
    if label is None:
        return True
    # pandas.NA equals nothing, and answers neither yes nor no when asked.
    differs = label != label
    return not isinstance(differs, bool | np.bool_) or bool(differs)
