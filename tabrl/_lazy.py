"""Group-bys of logs that are not in memory: lazy frames, databases, folders of files.

The engine that holds the log counts; what comes back has one row for each kind of
transition: a state, an action, a next state, and whether it terminated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import narwhals as nw
import numpy as np

from tabrl._codes import label_kinds
from tabrl._columns import check_complete, choose
from tabrl._labels import as_labels, in_order, is_missing, objects
from tabrl._next_states import DROPPED, NEXT, add_next_states, check_marks
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
    return lazy or _is_dataset(table)


def count_lazily(
    table: Any, state_names: list[str] | None = None
) -> tuple[dict[str, Any], dict[str, str], list[str] | None]:
    """Let the engine count the transitions of each kind.

    Parameters
    ----------
    table : lazy frame or pyarrow Dataset
        A log for which `is_lazy` holds.
    state_names : list of str, optional
        Names that the parts of a state must have; by default those of the states
        decide for the next states.

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

    Raises
    ------
    ValueError, TypeError
        If a column is missing or of the wrong type, a reward is not finite, or the log
        has to be in memory. Errors of the engine, about a file that is not there for
        example, arrive as they are.
    """
    log = _Dataset(table) if _is_dataset(table) else _Frame(table)
    names = list(log.schema)
    sources = choose(names)
    check_complete(sources, names)
    if "allowed_actions" in names:
        raise ValueError(
            "A lazy table cannot hold allowed actions. Found the column "
            "'allowed_actions'. Drop it and give allowed_actions to fit, or call "
            "collect() (compute() in Dask) first."
        )
    _check_reward_type(sources["reward"], log.schema[sources["reward"]])
    found, marks = dict(sources), []
    if "next_state" not in sources and "episode" in sources:
        marks = log.add_next_states(sources)
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
    grouped = log.group(keys, sources["reward"], marks)
    _check_rewards(grouped, lambda kind: log.count_wrong(sources["reward"], kind))
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
    return columns, sources, state_names if several else None


class _Frame:
    """A lazy frame of any library that narwhals knows."""

    def __init__(self, table: Any) -> None:
        self.frame: nw.LazyFrame = nw.from_native(table)
        self.schema = dict(self.frame.collect_schema())

    def add_next_states(self, sources: dict[str, str]) -> list[str]:
        """Look at the next rows of the episodes; return the names of the marks."""
        if self.frame.implementation.is_dask():
            _refuse_episodes("Dask")
        self.frame, marks = add_next_states(self.frame, sources)
        self.schema = dict(self.frame.collect_schema())
        return marks

    def group(
        self, keys: dict[str, tuple[str, str | None]], reward: str, marks: list[str]
    ) -> Any:
        """Return the counts, the sums and those of the marks by the keys, in memory."""
        labels = [
            (nw.col(name) if part is None else nw.col(name).struct.field(part)).alias(
                alias
            )
            for alias, (name, part) in keys.items()
        ]
        value = nw.col(reward).cast(nw.Float64)
        grouped = (
            self.frame.select(*labels, value.alias("reward"), *marks)
            .with_columns((nw.col("reward") * nw.col("reward")).alias("square"))
            .group_by(*keys)
            .agg(
                nw.len().alias("n"),
                nw.col("reward").count().alias("n_rewards"),
                nw.col("reward").sum().alias("reward_sum"),
                nw.col("square").sum().alias("reward_sq_sum"),
                nw.col("reward").min().alias("reward_min"),
                nw.col("reward").max().alias("reward_max"),
                *(nw.col(mark).sum() for mark in marks),
            )
        )
        # The other engine of polars reads all rows of these columns into memory.
        if self.frame.implementation.is_polars():
            return grouped.collect(engine="streaming")
        return grouped.collect()

    def count_wrong(self, reward: str, kind: str) -> int:
        """Return how many rewards are wrong, of a log where some are."""
        value = nw.col("reward")
        wrong = {
            "not finite": value.is_null() | ~value.is_finite(),
            "too large": (value >= MAX_REWARD) | (value <= -MAX_REWARD),
        }
        rewards = self.frame.select(nw.col(reward).cast(nw.Float64).alias("reward"))
        return int(rewards.filter(wrong[kind]).select(nw.len()).collect().item())


class _Dataset:
    """A dataset of pyarrow: files in a folder, as many as there are."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        empty = dataset.schema.empty_table()
        choose(empty.column_names)  # repeated names: narwhals would refuse them
        self.schema = dict(nw.from_native(empty).schema)

    def add_next_states(self, sources: dict[str, str]) -> list[str]:
        """Refuse: there are no window functions."""
        _refuse_episodes("A pyarrow Dataset")

    def group(
        self, keys: dict[str, tuple[str, str | None]], reward: str, marks: list[str]
    ) -> Any:
        """Return the counts and sums by the keys, in memory."""
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import acero

        labels = []
        for name, part in keys.values():
            kind = self.dataset.schema.field(name).type
            label = pc.field(name)
            if part is not None:
                label, kind = pc.field(name, part), kind.field(part).type
            if pa.types.is_dictionary(
                kind
            ):  # each file may have a dictionary of its own
                label = label.cast(kind.value_type)
            labels.append(label)
        value = pc.field(reward).cast(pa.float64())
        columns = list(dict.fromkeys([name for name, _ in keys.values()] + [reward]))
        plan = [
            acero.Declaration(
                "scan", acero.ScanNodeOptions(self.dataset, columns=columns)
            ),
            acero.Declaration(
                "project",
                acero.ProjectNodeOptions(
                    [*labels, value, pc.multiply(value, value)],
                    [*keys, "reward", "square"],
                ),
            ),
            acero.Declaration(
                "aggregate",
                acero.AggregateNodeOptions(
                    [
                        ([], "hash_count_all", None, "n"),
                        ("reward", "hash_count", None, "n_rewards"),
                        ("reward", "hash_sum", None, "reward_sum"),
                        ("square", "hash_sum", None, "reward_sq_sum"),
                        ("reward", "hash_min", None, "reward_min"),
                        ("reward", "hash_max", None, "reward_max"),
                    ],
                    keys=list(keys),
                ),
            ),
        ]
        try:
            return nw.from_native(acero.Declaration.from_sequence(plan).to_table())
        except pa.ArrowInvalid as error:  # it names neither column nor file
            self._refuse_drift(columns, error)
            raise

    def _refuse_drift(self, columns: list[str], error: Exception) -> None:
        """Say which file has a column of another type, if one has."""
        for fragment in self.dataset.get_fragments():
            for name in columns:
                place = fragment.physical_schema.get_field_index(name)
                kind = self.dataset.schema.field(name).type
                if place >= 0 and fragment.physical_schema.field(place).type != kind:
                    raise TypeError(
                        f"Column '{name}' must have one type in all files. Found "
                        f"{fragment.physical_schema.field(place).type} in "
                        f"{fragment.path}, where others have {kind}: {error}. Write "
                        "that file anew."
                    ) from error

    def count_wrong(self, reward: str, kind: str) -> int:
        """Return how many rewards are wrong, of a log where some are."""
        import pyarrow as pa
        import pyarrow.compute as pc

        value = pc.field(reward).cast(pa.float64())
        if kind == "not finite":
            finite = pc.coalesce(pc.is_finite(value), pc.scalar(False))
            return self.dataset.count_rows(filter=~finite)
        return self.dataset.count_rows(filter=pc.abs(value) >= MAX_REWARD)


def _refuse_episodes(engine: str) -> NoReturn:
    raise ValueError(
        f"{engine} must have the column 'next_state'. Found 'episode' instead, whose "
        "next row it cannot tell. Open the log with polars or DuckDB, which can, add "
        "'next_state', or read it into memory first."
    )


def _is_dataset(table: Any) -> bool:
    dataset = sys.modules.get("pyarrow.dataset")  # else nobody can have made one
    return dataset is not None and isinstance(table, dataset.Dataset)


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


def _check_rewards(grouped: Any, count: Callable[[str], int]) -> None:
    """Refuse rewards that are missing, not finite or too large, and say how many."""
    n, n_rewards, total, low, high = (
        grouped[name].to_numpy()
        for name in ("n", "n_rewards", "reward_sum", "reward_min", "reward_max")
    )
    if (n_rewards < n).any() or not np.isfinite([total, low, high]).all():
        raise ValueError(
            f"Column 'reward' must be finite. Found {count('not finite')} non-finite "
            "values. Drop or impute them before fit."
        )
    if (np.maximum(-low, high) >= MAX_REWARD).any():
        raise ValueError(
            f"Column 'reward' must be below {MAX_REWARD} in size. Found "
            f"{count('too large')} larger values. Rescale the rewards before fit."
        )
