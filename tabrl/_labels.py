"""Labels of states and actions: from any container to arrays of one label per row."""

import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

# Integers beyond this size are not all distinct as float64.
MAX_EXACT = 2**53


# What numpy has no array of, or none that keeps all of it.
_AS_LISTS = (
    *(nw.List, nw.Array, nw.String, nw.Categorical, nw.Enum, nw.Int128, nw.UInt128),
    nw.Decimal,
)


def as_labels(values: Any, names: Sequence[str] | None = None) -> NDArray:
    """Return one label per row, whatever the container.

    Parameters
    ----------
    values : array-like, series, data frame or sparse matrix
        One row per label. Rows of several columns become tuples; a single column is
        taken as it is.
    names : sequence of str, optional
        The names that several columns must have, where they have any: they are put in
        this order.

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
        If `values` has no columns, columns of other names, or more than two
        dimensions.

    Examples
    --------
    >>> as_labels([3, 1])
    array([3, 1])
    >>> as_labels([[0, 1], [2, 3]])
    array([(0, 1), (2, 3)], dtype=object)
    >>> as_labels(["left", 7])
    array(['left', 7], dtype=object)
    """
    if not isinstance(values, list | tuple | np.ndarray):  # it would take a while
        values = nw.from_native(values, pass_through=True, allow_series=True)
    if isinstance(values, nw.LazyFrame):
        values = values.collect()
    if isinstance(values, nw.DataFrame):
        order = in_order(values.columns, names)
        columns = [_from_series(column) for column in map(values.get_column, order)]
        if not columns:
            raise ValueError("Labels need at least one column. Got a frame with none.")
        return columns[0] if len(columns) == 1 else objects(_rows(columns))
    if isinstance(values, nw.Series):
        return _from_series(values, names)
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


@dataclass(frozen=True, eq=False)
class Coded:
    """Labels by their codes: the same few strings over many rows.

    Attributes
    ----------
    distinct : array of shape (n_distinct,)
        What `as_labels` gives, each label once, in order of appearance.
    codes : int64 array of shape (n,)
        Positions in `distinct`, -1 where a label is missing.
    """

    distinct: NDArray
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.codes)


def as_coded(values: Any, names: Sequence[str] | None = None) -> NDArray | Coded:
    """Return one label per row as `as_labels` does, text by its codes.

    The library that holds a column of text hashes it where it is. To make a Python
    string of each row takes many times longer.

    Parameters
    ----------
    values, names
        As in `as_labels`.

    Returns
    -------
    array of shape (n,) or Coded
    """
    series = nw.from_native(values, pass_through=True, allow_series=True)
    if isinstance(series, nw.Series) and isinstance(
        series.dtype, nw.String | nw.Categorical | nw.Enum
    ):
        if series.implementation.is_pandas_like():
            codes, distinct = series.to_native().factorize()
            return Coded(objects(distinct.tolist()), codes.astype(np.int64))
        if series.implementation.is_polars():
            return _polars_codes(series)
        if series.implementation.is_pyarrow() and series.dtype == nw.String:
            encoded = series.to_native().dictionary_encode().combine_chunks()
            codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            distinct = objects(encoded.dictionary.to_pylist())
            return Coded(distinct, codes.astype(np.int64))
    return as_labels(values, names)


def _polars_codes(series: nw.Series) -> Coded:
    text = series.to_native()
    if series.dtype == nw.String:
        series = series.cast(nw.Categorical)
    # A category may have any number: other columns have some of them.
    number = series.to_native().to_physical()
    gap = number.is_null().to_numpy()
    number = number.fill_null(0).to_numpy().astype(np.int64)
    rows = np.flatnonzero(~gap)
    first = np.full(int(number.max(initial=0)) + 1, -1)
    first[number[rows[::-1]]] = rows[::-1]  # of rows with one number the first stays
    where = np.sort(first[first >= 0])
    place = np.full(len(first), -1)
    place[number[where]] = np.arange(len(where))
    codes = place[number]
    codes[gap] = -1
    return Coded(objects(text.gather(where).to_list()), codes)


def label_names(values: Any) -> list[str] | None:
    """Return the names of the columns that make one label, None where there are none.

    Parameters
    ----------
    values : Any
        Anything `as_labels` takes.

    Returns
    -------
    list of str or None
        Of a frame with several columns, or of the fields of a series of structs.
    """
    values = nw.from_native(values, pass_through=True, allow_series=True)
    names: list = []
    if isinstance(values, nw.DataFrame | nw.LazyFrame):
        names = list(values.collect_schema())
    elif isinstance(values, nw.Series) and isinstance(values.dtype, nw.Struct):
        names = [field.name for field in values.dtype.fields]
    several = len(names) > 1 and all(isinstance(name, str) for name in names)
    return names if several else None


def warn_without_names(
    name: str, values: Any, names: Sequence[str] | None, stacklevel: int
) -> None:
    """Warn of columns without names where there should be some, as scikit-learn does.

    Their order may be another one, which nothing would show.

    Parameters
    ----------
    name : str
        The argument, for the message.
    values : Any
        Anything `as_labels` takes. Tuples are whole labels and need no names.
    names : sequence of str or None
        As in `as_labels`.
    stacklevel : int
        As in `warnings.warn`, seen from the caller.

    Warns
    -----
    UserWarning
    """
    if names is None or hasattr(values, "columns"):
        return
    rows = isinstance(values, list) and values and isinstance(values[0], list)
    if rows or getattr(values, "ndim", 1) == 2:
        warnings.warn(
            f"{name} does not have valid feature names, but OfflinePolicyEstimator was "
            "fitted with feature names",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def in_order(found: Sequence[str], names: Sequence[str] | None) -> Sequence[str]:
    """Return the columns in the order of `names`, refusing others.

    Parameters
    ----------
    found : sequence of str
        Names of the columns that there are.
    names : sequence of str or None
        Names that there must be; any if None.

    Returns
    -------
    sequence of str

    Raises
    ------
    ValueError
        If one is missing or was not expected.
    """
    if names is None or (len(found) < 2 and len(names) < 2):
        return found
    unseen = [name for name in found if name not in names]
    missing = [name for name in names if name not in found]
    if unseen or missing:
        lines = ["The feature names should match those that were passed during fit."]
        for title, wrong in (
            ("Feature names unseen at fit time:", unseen),
            ("Feature names seen at fit time, yet now missing:", missing),
        ):
            if wrong:
                lines += [title, *(f"- {name}" for name in wrong[:5])]
                lines += ["- ..."] if len(wrong) > 5 else []
        raise ValueError("\n".join(lines) + "\n")
    return names


def _from_series(series: nw.Series, names: Sequence[str] | None = None) -> NDArray:
    dtype = series.dtype
    if isinstance(dtype, nw.Struct):
        order = in_order([field.name for field in dtype.fields], names)
        rows = series.to_list()
        return objects(tuple(row[n] for n in order) if row else row for row in rows)
    if isinstance(dtype, _AS_LISTS):
        return _from_array(objects(series.to_list()))
    if isinstance(dtype, nw.Datetime) and dtype.time_zone is not None:
        return _with_zone(series)
    if not series.null_count():
        return _from_array(series.to_numpy())
    present = _from_array(series.drop_nulls().to_numpy())
    kind = present.dtype.kind
    if kind in "iuf" and (kind == "f" or (abs(present) < MAX_EXACT).all()):
        labels = np.full(len(series), np.nan)
    elif kind in "mM":
        labels = np.full(len(series), "NaT", present.dtype)
    else:
        labels = np.full(len(series), None, object)
    labels[~series.is_null().to_numpy()] = present
    return labels


def _with_zone(series: nw.Series) -> NDArray:
    """Return times that keep their zone; numpy's forget it."""
    unknown = series.is_null()
    if bool((series.filter(~unknown).dt.nanosecond() % 1000 != 0).any()):
        raise ValueError(
            "Times with a zone must be whole microseconds. Found others. Convert them "
            "to UTC without a zone, or to integers."
        )
    times = objects(series.to_list())
    times[unknown.to_numpy()] = None
    return times


def _from_array(array: NDArray) -> NDArray:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        gaps = np.ma.getmaskarray(array)
        array = array.data.astype(object)
        array[gaps] = None
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1]:
        return objects(_rows(array.T))
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
    nested = any(kind is list or _is_array(kind) for kind in set(map(type, values)))
    if nested:
        return objects(map(_frozen, values))
    return array if array.dtype.kind == "O" else objects(values)


def _from_list(values: list) -> NDArray:
    if any(map(_is_array, set(map(type, values)))):  # tensors of one number, say
        values = [
            value.tolist() if _is_array(type(value)) else value for value in values
        ]
    types = set(map(type, values))
    if not values:
        return np.empty(0, np.int64)
    # Among numbers True would become 1, without a word.
    flags = {kind for kind in types if issubclass(kind, bool | np.bool_)}
    if all(map(_is_number, types)) and flags in (set(), types):
        try:
            array = np.array(values)
        except OverflowError:  # an integer beyond all floats, among floats
            return objects(values)
        rounded = array.dtype.kind == "f" and not types <= {float, np.float64}
        if rounded and (abs(array) >= MAX_EXACT).any():
            return objects(values)
        return _from_array(array)
    # Rows of one column are labels; of tuples, nobody knows which were meant as rows.
    if types == {list} and {np.size(row) for row in values} == {1}:
        return _from_list([np.ravel(row).tolist()[0] for row in values])
    return _from_array(objects(values))


def _is_number(kind: type) -> bool:
    """Return whether values of a type may share an array of numbers."""
    # timedelta64 is an integer to numpy, and complex numbers have no order.
    return issubclass(kind, int | float | np.integer | np.floating | np.bool_) and (
        not issubclass(kind, np.timedelta64)
    )


def _is_array(kind: type) -> bool:
    """Return whether values of a type are arrays, or tensors of any library."""
    array_like = hasattr(kind, "tolist") and hasattr(kind, "ndim")
    return array_like and not issubclass(kind, np.generic)


def objects(values: Iterable) -> NDArray:
    """Return a 1-D object array: np.array would take tuples for a second dimension."""
    values = list(values)
    return np.fromiter(values, dtype=object, count=len(values))


def _rows(columns: Iterable[NDArray]) -> Iterable[tuple]:
    return zip(*map(python_values, columns), strict=True)


def python_values(array: NDArray) -> list:
    # tolist() would turn datetime64[ns] into bare integers.
    return list(array) if array.dtype.kind in "mM" else array.tolist()


def _frozen(value: Any) -> Any:
    """Return lists and arrays as tuples: polars and pyarrow have no other tuples."""
    if _is_array(type(value)):
        value = value.tolist()
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def refuse_unhashable(values: list) -> None:
    for row, value in enumerate(values):
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"Labels must be hashable. Found a {type(value).__name__} at row {row} "
                f"({value!r}). Use numbers, strings or tuples."
            ) from None


def is_missing(label: Any) -> bool:
    """Return whether a label is None, NaN, NaT or NA, or a tuple that holds one."""
    if isinstance(label, tuple):
        return any(map(is_missing, label))
    if label is None:
        return True
    # pandas.NA equals nothing, and answers neither yes nor no when asked.
    try:
        differs = label != label
    except ArithmeticError:  # a signalling NaN, which cannot be hashed either
        return False
    return not isinstance(differs, bool | np.bool_) or bool(differs)
