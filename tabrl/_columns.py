"""The columns of a transition table, by canonical name, from any container."""

from collections.abc import Iterable, Mapping
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

_COLUMNS = ("state", "action", "reward", "next_state", "terminated")
ALIASES = {
    "state": ("obs", "observation", "observations", "s"),
    "action": ("actions", "a"),
    "reward": ("rewards", "r", "rew"),
    "next_state": (
        *("next_obs", "next_observation", "next_observations"),
        *("new_obs", "sp", "ns"),
    ),
    "terminated": (
        *("terminal", "terminals", "terminateds", "terminations"),
        "is_terminal",
    ),
    "truncated": ("timeout", "timeouts", "truncateds", "truncations"),
    "done": ("dones",),
    "episode": (),
    "step": (),
}
# What to add where columns without names are wrong.
ORDER = " Columns without names are read in the order " + ", ".join(_COLUMNS) + "."
# Fewer rows than these do not show what a column holds.
_FEW = 10
# The columns of an episode of minari, which is no mapping of them.
_EPISODE = ("observations", "actions", "rewards", "terminations", "truncations")


def table_columns(table: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a table by their canonical names.

    Parameters
    ----------
    table : data frame, mapping, structured array, 2-D array or list of rows
        As `read_transitions` takes it.

    Returns
    -------
    columns : dict of str to array-like
        At least the columns without which nothing can be learnt.
    sources : dict of str to str or int
        The name of each in the table, or its position where columns have no names.

    Raises
    ------
    ValueError, TypeError
        If a column is missing or there twice, or `table` is not a table.
    """
    if all(hasattr(table, name) for name in _EPISODE):
        table = {name: getattr(table, name) for name in _EPISODE}
    names = _column_names(table)
    choose(names)  # repeated names: narwhals would refuse them in its own words
    if not isinstance(table, Mapping | np.ndarray):
        table = nw.from_native(table, pass_through=True)
        if isinstance(table, nw.LazyFrame):
            table = table.collect()
        if isinstance(table, nw.DataFrame):
            names = table.columns
    if not (isinstance(table, Mapping | nw.DataFrame) or names):
        columns = _positional_columns(table)
        return columns, {name: i for i, name in enumerate(_COLUMNS)}
    sources = choose(names)
    columns = {name: table[found] for name, found in sources.items()}
    check_complete(columns, names)
    return columns, sources


def refuse_whole_table(X: Any) -> None:
    """Refuse a whole table in place of the states.

    Its rewards and next states would make nearly every row a state of its own.

    Parameters
    ----------
    X : Any
        What was passed as the states, with actions in `y`.

    Raises
    ------
    ValueError
        If `X` has a column that is not of the state.
    """
    extra = [
        name
        for name in _column_names(X)
        if isinstance(name, str) and name in ("reward", "next_state", "terminated")
    ]
    if extra:
        raise ValueError(
            f"With y, X must hold the states alone. Found {_listed(extra)} in X. "
            "Pass the table without y, or the state columns as X."
        )


def check_complete(
    columns: dict[str, Any], names: list, apart: bool = False, final: bool = False
) -> None:
    """Refuse columns that are not enough, and say how to get the others.

    Parameters
    ----------
    columns : dict
        Columns by canonical name.
    names : list
        The names that arrived, for the message.
    apart : bool, default=False
        Whether they are arguments, one by one, and not a table.
    final : bool, default=False
        Whether next states are needed for sure: where all rows terminate, or with one
        observation more than there are actions, they are not.

    Raises
    ------
    ValueError
        If a column is missing and no other can stand in for it.
    """
    stands_in = {"next_state": "episode", "terminated": "done"}
    missing = [
        name
        for name in _COLUMNS
        if name not in columns and stands_in.get(name) not in columns
    ]
    if not missing or (missing == ["next_state"] and not final):
        return
    remedies = {
        "next_state": " Without 'next_state', give 'episode' (and 'step').",
        "terminated": " If the task never ends, 'terminated' is False everywhere.",
    }
    if apart:
        remedies["next_state"] = (
            " Pass next_state, or the whole table without y: there the next row of an "
            "'episode' gives it."
        )
    raise ValueError(
        f"Transitions must have the columns {_listed(_COLUMNS)}. Missing: "
        f"{_listed(missing)}. Found: {_listed(names) or 'none'}."
        + "".join(text for name, text in remedies.items() if name in missing)
    )


def _column_names(table: Any) -> list:
    if isinstance(table, Mapping):
        return list(table)
    if isinstance(table, np.ndarray):
        return list(table.dtype.names or ())
    if hasattr(table, "collect_schema"):  # asking a lazy frame for columns warns
        return list(table.collect_schema())
    # pyarrow has its names in column_names, and the data in columns.
    return list(getattr(table, "column_names", getattr(table, "columns", ())))


def refuse_swapped(arrays: dict[str, NDArray], terminated: NDArray[np.bool_]) -> None:
    """Refuse columns without names that look like state, action, next state, reward.

    Parameters
    ----------
    arrays : dict
        The columns as arrays, named in the order of the package.
    terminated : bool array of shape (n,)
        The last of them, read.

    Raises
    ------
    ValueError
        If the third column holds states, and the fourth does not; or if it leads from
        row to row, as next states do, and the fourth does not.
    """
    state, third, fourth = (
        _numbers(arrays[name]) for name in ("state", "reward", "next_state")
    )
    if state is None or third is None or fourth is None:
        return  # of text, for which a reward is an error anyway
    among = [float(np.isin(column, state).mean()) for column in (third, fourth)]
    goes_on = (~terminated & (third != fourth))[:-1]
    leads = [column[:-1][goes_on] == state[1:][goes_on] for column in (third, fourth)]
    n_on = int(goes_on.sum())
    chained = n_on >= _FEW and leads[0].mean() > 0.8 and leads[1].mean() < 0.5
    apart = len(state) >= _FEW and among[0] > 0.9 and among[1] < 0.5
    if chained or apart:
        raise ValueError(
            "Columns without names must be state, action, reward, next_state, "
            "terminated, in this order. Found states in the third column and others in "
            "the fourth. Swap them, or name the columns."
        )


def _numbers(column: NDArray) -> NDArray[np.float64] | None:
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError, ArithmeticError):
        return None


def choose(names: list) -> dict[str, Any]:
    """Return which of `names` stands for each column, by canonical name.

    Raises
    ------
    ValueError
        If two of them stand for the same.
    """
    chosen = {}
    for name, aliases in ALIASES.items():
        present = [found for found in names if found in (name, *aliases)]
        if len(present) > 1:
            raise ValueError(
                f"Column '{name}' must be given once. Found {_listed(present)}. "
                "Keep one of them."
            )
        if present:
            chosen[name] = present[0]
    return chosen


def _positional_columns(table: Any) -> dict[str, Any]:
    """Return the columns of rows without names."""
    must = (
        "Transitions must be a data frame, a mapping of columns, a structured array, "
        f"or rows of exactly 5 columns ({', '.join(_COLUMNS)}); or pass y. "
    )
    if isinstance(table, np.ndarray):
        if table.ndim != 2 or table.shape[1] != len(_COLUMNS):
            raise ValueError(f"{must}Got an array of shape {table.shape}.")
        return dict(zip(_COLUMNS, table.T, strict=True))
    if not isinstance(table, list | tuple):
        raise TypeError(f"{must}Got {type(table).__name__}.")
    for number, row in enumerate(table):
        if not isinstance(row, list | tuple | np.ndarray):
            raise TypeError(f"{must}Row {number} is a {type(row).__name__}.")
        if len(row) != len(_COLUMNS):
            raise ValueError(f"{must}Row {number} has {len(row)}.")
    values = zip(*table, strict=True) if table else ((),) * len(_COLUMNS)
    return dict(zip(_COLUMNS, map(list, values), strict=True))


def _listed(names: Iterable) -> str:
    return ", ".join(repr(name) for name in names)
