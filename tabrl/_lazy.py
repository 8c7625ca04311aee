"""Group-bys of logs that are not in memory: lazy frames, databases, folders of files.

The engine that holds the log counts; what comes back has one row for each kind of
transition: a state, an action, a next state, and whether it terminated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import narwhals as nw
import numpy as np

from tabrl._codes import label_kinds
from tabrl._columns import check_complete
from tabrl._engines import Dataset, Frame, is_dataset
from tabrl._labels import as_labels, in_order, is_missing, objects
from tabrl._next_states import DROPPED, NEXT, check_marks
from tabrl._transitions import MAX_REWARD

# What makes two transitions of one kind. The engine groups by these.
_KEYS = ("state", "action", "next_state", "terminated", "done", "truncated", "dropped")
# Engines do not group by these, or not all in the same way.
_NO_KEYS = (nw.List, nw.Array, nw.Object, nw.Unknown, nw.Binary)
_SUMS = ("n", "reward_sum", "reward_sq_sum", "reward_min", "reward_max")


def is_lazy(table: Any) -> bool:
    """Return whether a table is one that an engine can count without reading it whole.

    Parameters
    ----------
    table : Any
        Lazy are a polars LazyFrame, a DuckDB relation, a pyarrow Dataset, a Dask or
        PySpark data frame, an Ibis table, and a LazyFrame of narwhals.

    Returns
    -------
    bool
    """
    lazy = isinstance(nw.from_native(table, pass_through=True), nw.LazyFrame)
    return lazy or is_dataset(table)


def count_lazily(
    table: Any, state_names: list[str] | None = None, progress_bar: bool = False
) -> tuple[dict[str, Any], dict[str, str], list[str] | None, Callable[..., str]]:
    """Let the engine count the transitions of each kind.

    Parameters
    ----------
    table : lazy frame or pyarrow Dataset
        A log for which `is_lazy` holds.
    state_names : list of str, optional
        Names that the parts of a state must have; by default those of the states
        decide for the next states.
    progress_bar : bool, default=False
        Whether to show how much has been read.

    Returns
    -------
    columns : dict of str to series or array of tuples
        One row for each kind of transition: labels and flags by canonical name, and
        ``n, reward_sum, reward_sq_sum, reward_min, reward_max``. Of episodes without
        next states also ``dropped``, 1 where the next state is not known.
    sources : dict of str to str
        The name of each canonical column in the log.
    state_names : list of str or None
        Names of the parts of a state, where it has several.
    first : callable
        `Frame.first`: where the first row with a fault is.

    Raises
    ------
    ValueError, TypeError
        If a column is missing or of the wrong type, a reward is not finite, or the log
        has to be in memory. Errors of the engine, about a file that is not there for
        example, arrive as they are.
    """
    log = Dataset(table) if is_dataset(table) else Frame(table)
    names = list(log.schema)
    sources = log.sources
    check_complete(sources, names)
    if "allowed_actions" in names:
        raise ValueError(
            "A lazy table cannot hold allowed actions. Found the column "
            "'allowed_actions'. Drop it and give allowed_actions to fit, or call "
            "collect() (compute() in Dask) first."
        )
    _check_reward_type(sources["reward"], log.schema[sources["reward"]])
    shown = log.watch() if progress_bar else nullcontext()
    found, marks = dict(sources), []
    if "next_state" not in sources and "episode" in sources:
        marks = log.add_next_states()
        found |= {"next_state": NEXT, "dropped": DROPPED}
    fields: dict[str, list[str] | None] = {}
    for name in _KEYS:
        if name in found:
            parts = _parts(name, log.schema[found[name]])
            if parts and name in ("state", "next_state"):
                state_names = state_names or parts
                parts = list(in_order(parts, state_names))
            fields[name] = parts
    keys = {
        _alias(name, i): (found[name], part)
        for name, parts in fields.items()
        for i, part in enumerate(parts or [None])
    }
    with shown:
        grouped = log.group(keys, marks)
    _check_rewards(grouped, log)
    check_marks(grouped, marks)
    columns: dict[str, Any] = {name: grouped[name] for name in _SUMS}
    for name, parts in fields.items():
        columns[name] = grouped[_alias(name, 0)]
        if name in ("state", "action", "next_state"):
            _check_one_kind(name, columns[name])
        if parts:
            values = [grouped[_alias(name, i)].to_list() for i in range(len(parts))]
            columns[name] = objects(zip(*values, strict=True))
    several = fields["state"] is not None and len(fields["state"]) > 1
    return columns, sources, state_names if several else None, log.first


def _parts(name: str, dtype: Any) -> list[str] | None:
    """Return the names of the parts of a label, None for a label that has none."""
    fields = dtype.fields if isinstance(dtype, nw.Struct) else []
    for kind in [field.dtype for field in fields] or [dtype]:
        if isinstance(kind, (*_NO_KEYS, nw.Struct)):
            raise TypeError(
                f"Column '{name}' of a lazy table must hold numbers, strings, dates, "
                f"or structs of these. Found dtype {dtype}. Convert it, or call "
                "collect() (compute() in Dask) first."
            )
    return [field.name for field in fields] or None


def _alias(name: str, part: int) -> str:
    """Return the name of a part of a label that no engine has to quote."""
    return f"{name}_{part}"


def _check_reward_type(name: str, dtype: Any) -> None:
    if not dtype.is_numeric():
        raise TypeError(
            f"Column 'reward' must be numeric. Found dtype {dtype} in {name!r}. "
            "Convert it before fit."
        )


def _check_one_kind(name: str, column: Any) -> None:
    """Refuse labels of several kinds: engines that read files apart may return some."""
    labels = as_labels(column)
    if labels.dtype.kind != "O":
        return
    kinds = label_kinds(label for label in labels.tolist() if not is_missing(label))
    if len(kinds) > 1:
        (kind, label), (other, other_label), *_ = kinds.items()
        raise TypeError(
            f"Column '{name}' of a lazy table must hold one kind of labels. Found "
            f"{kind} ({label!r}) and {other} ({other_label!r}), of different files "
            "perhaps. Convert one of them before fit."
        )


def _check_rewards(grouped: Any, log: Frame | Dataset) -> None:
    """Refuse rewards that are missing, not finite or too large, and say how many."""
    n, n_rewards, total, low, high = (
        grouped[name].to_numpy()
        for name in ("n", "n_rewards", "reward_sum", "reward_min", "reward_max")
    )
    if (n_rewards < n).any() or not np.isfinite([total, low, high]).all():
        raise ValueError(
            f"Column 'reward' must be finite. Found {log.count_wrong('not finite')} "
            f"non-finite values{log.first('not finite', 'reward')}. Drop or impute "
            "them before fit."
        )
    if (np.maximum(-low, high) >= MAX_REWARD).any():
        raise ValueError(
            f"Column 'reward' must be below {MAX_REWARD} in size. Found "
            f"{log.count_wrong('too large')} larger values"
            f"{log.first('too large', 'reward')}. Rescale the rewards before fit."
        )
