"""What an engine does with a log that is not in memory: group it, look for a fault.

Engines differ in what they can tell. Each has one class with the same methods.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import reduce
from operator import or_
from typing import Any, NoReturn

import narwhals as nw

from tabrl._columns import choose
from tabrl._next_states import add_next_states
from tabrl._progress import bar
from tabrl._transitions import MAX_REWARD

# Engines that do not tell how far they are, and how to make them show it themselves.
_OWN_BARS = {
    "duckdb": "DuckDB has a bar of its own: SET enable_progress_bar = true.",
    "pyspark": "Spark has a bar of its own: spark.ui.showConsoleProgress.",
}
# Where a fault is, in terms of the engine.
_ROW = "_tabrl_row"
# Files of these formats say themselves of which types their columns are.
_TYPED = ("parquet", "arrow", "feather", "orc")
_N_THREADS = 16  # files wait for a disk or a network, not for each other


class Frame:
    """A lazy frame of any library that narwhals knows.

    Attributes
    ----------
    schema : dict of str to dtype
        The log's columns.
    sources : dict of str to str
        The name of each canonical column in the log.
    """

    def __init__(self, table: Any) -> None:
        self.shown: Any = None
        self.log: nw.LazyFrame = nw.from_native(table)
        self.frame = self.log  # with columns that are added
        self.schema = dict(self.frame.collect_schema())
        self.sources = choose(list(self.schema))

    def watch(self) -> AbstractContextManager[Any]:
        """Return a context in which `group` shows how much has been read."""
        engine = self.log.implementation
        if engine.is_dask():
            return _task_bar()
        if not engine.is_polars():
            warnings.warn(
                f"progress_bar=True has no effect on {engine.value}, which does not "
                "tell how far it is. " + _OWN_BARS.get(engine.value, ""),
                UserWarning,
                stacklevel=6,  # whoever called fit
            )
            return nullcontext()

        def count(part: Any) -> Any:
            self.shown.update(part.height)
            return part

        # Else all columns of the log would be read.
        used = self.frame.select(*self.sources.values()).to_native()
        self.frame = nw.from_native(used.map_batches(count, streamable=True))
        return self._row_bar()

    @contextmanager
    def _row_bar(self) -> Iterator[None]:
        # How many rows there are is not known before they are read.
        with bar(unit="row", unit_scale=True) as self.shown:
            yield

    def add_next_states(self) -> list[str]:
        """Look at the next rows of the episodes; return the names of the marks."""
        if self.frame.implementation.is_dask():
            _refuse_episodes("Dask")
        self.frame, marks = add_next_states(self.frame, self.sources)
        self.schema = dict(self.frame.collect_schema())
        return marks

    def group(self, keys: dict[str, tuple[str, str | None]], marks: list[str]) -> Any:
        """Return the counts, the sums and those of the marks by the keys, in memory."""
        labels = [
            (nw.col(name) if part is None else nw.col(name).struct.field(part)).alias(
                alias
            )
            for alias, (name, part) in keys.items()
        ]
        value = nw.col(self.sources["reward"]).cast(nw.Float64)
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

    def count_wrong(self, kind: str) -> int:
        """Return how many rewards are wrong, of a log where some are."""
        wrong = self.log.filter(self._wrong(kind, "reward"))
        return int(wrong.select(nw.len()).collect().item())

    def first(self, kind: str, name: str) -> str:
        """Say where the first row with a fault is, as far as the engine can tell.

        Parameters
        ----------
        kind : {"missing", "no flag", "not finite", "too large"}
            The fault, which a row of the log has.
        name : str
            Canonical name of the column.

        Returns
        -------
        str
            As ", first at row 3", or empty.
        """
        try:
            return self._first(self._wrong(kind, name))
        except Exception:  # of any engine: the fault itself has to be told
            return ""

    def _first(self, wrong: nw.Expr) -> str:
        engine = self.log.implementation
        if engine.is_polars():
            rows = nw.from_native(self.log.to_native().with_row_index(_ROW))
            found = rows.filter(wrong).select(nw.col(_ROW).min())
            row = found.collect(engine="streaming").item()
            return "" if row is None else f", first at row {row}"
        native = self.log.filter(wrong).to_native()
        if engine.is_dask():
            n = native.map_partitions(len, meta=("n", "int64")).compute()
            return f", first in partition {int((n.to_numpy() > 0).argmax())}"
        if engine.is_duckdb():  # an error where the relation reads no files
            files = native.project("filename, file_row_number")
            ((path, row),) = (
                files.order("filename, file_row_number").limit(1).fetchall()
            )
            return f", first at row {row} of {path}"
        if engine.is_pyspark():
            (path,) = native.selectExpr("input_file_name()").first()
            return path and f", one of them in {path}"
        return ""

    def _wrong(self, kind: str, name: str) -> nw.Expr:
        """Return where a row has a fault."""
        source = self.sources[name]
        column, number = nw.col(source), nw.col(source).cast(nw.Float64)
        if kind == "not finite":
            return number.is_null() | ~number.is_finite()
        if kind == "too large":
            return (number >= MAX_REWARD) | (number <= -MAX_REWARD)
        if kind == "no flag":
            return number.is_null() | ((number != 0) & (number != 1))
        dtype = self.schema[source]
        parts = [(column, dtype)]
        if isinstance(dtype, nw.Struct):
            parts += [(column.struct.field(x.name), x.dtype) for x in dtype.fields]
        gap = reduce(
            or_,
            (
                part.is_null() | part.is_nan() if kind.is_float() else part.is_null()
                for part, kind in parts
            ),
        )
        if name == "next_state":
            ended = nw.col(self.sources.get("terminated") or self.sources["done"])
            gap = gap & (ended.cast(nw.Float64) != 1)
        return gap


@contextmanager
def _task_bar() -> Iterator[None]:
    """Show how many of its tasks Dask has done; those of a cluster it does not see."""
    from dask.callbacks import Callback

    with bar(unit="task") as shown:

        def start(graph: Any, state: Any) -> None:
            del graph
            kinds = ("ready", "waiting", "running", "finished")
            shown.reset(total=sum(len(state[kind]) for kind in kinds))

        with Callback(start_state=start, posttask=lambda *_: shown.update()):
            yield


class Dataset:
    """A dataset of pyarrow: files in a folder, as many as there are.

    Attributes
    ----------
    schema, sources
        As in `Frame`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.shown: Any = None
        empty = dataset.schema.empty_table()
        # Before narwhals refuses names that are repeated.
        self.sources = choose(empty.column_names)
        self.schema = dict(nw.from_native(empty).schema)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Return a context in which `group` shows how much has been read."""
        # Of other formats it would have to read all rows to count them.
        parquet = getattr(self.dataset, "format", None)
        known = getattr(parquet, "default_extname", None) == "parquet"
        total = self.dataset.count_rows() if known else None
        with bar(total=total, unit="row", unit_scale=True) as self.shown:
            yield

    def add_next_states(self) -> NoReturn:
        """Refuse: there are no window functions."""
        _refuse_episodes("A pyarrow Dataset")

    def group(self, keys: dict[str, tuple[str, str | None]], marks: list[str]) -> Any:
        """Return the counts and sums by the keys, in memory."""
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import acero

        del marks
        labels = []
        for name, part in keys.values():
            kind = self.dataset.schema.field(name).type
            label = pc.field(name)
            if part is not None:
                label, kind = pc.field(name, part), kind.field(part).type
            # Each file may have a dictionary of its own.
            if pa.types.is_dictionary(kind):
                label = label.cast(kind.value_type)
            labels.append(label)
        reward = self.sources["reward"]
        value = pc.field(reward).cast(pa.float64())
        columns = list(dict.fromkeys([name for name, _ in keys.values()] + [reward]))
        self._check_files(columns)
        plan = [
            acero.Declaration(
                "scan", acero.ScanNodeOptions(self._counted(columns), columns=columns)
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
            self._check_files(columns, error)
            raise

    def _counted(self, columns: list[str]) -> Any:
        """Return the dataset, whose rows are counted as they are read if watched."""
        if self.shown is None:
            return self.dataset
        import pyarrow as pa
        import pyarrow.dataset as ds

        scanner = self.dataset.scanner(columns=columns)

        def batches() -> Iterator[Any]:
            for batch in scanner.to_batches():
                self.shown.update(len(batch))
                yield batch

        schema = scanner.projected_schema
        return ds.InMemoryDataset(pa.RecordBatchReader.from_batches(schema, batches()))

    def _check_files(self, columns: list[str], error: Exception | None = None) -> None:
        """Refuse files that lack a column, or hold other labels than the first file.

        pyarrow would fill the column with nulls, and make the text "7" of the number 7.
        With an error of the engine the types must be alike, not only of one kind.
        """
        import pyarrow.dataset as ds

        files = [
            fragment
            for fragment in self.dataset.get_fragments()
            if isinstance(fragment, ds.FileFragment)
            and fragment.format.default_extname in _TYPED
        ]
        with ThreadPoolExecutor(_N_THREADS) as pool:
            schemas = pool.map(lambda file: file.physical_schema, files)
        found: dict[str, tuple[Any, str]] = {}
        for file, schema in zip(files, schemas, strict=True):
            folders = ds.get_partition_keys(file.partition_expression)
            for name in (x for x in columns if x not in folders):
                place = schema.get_field_index(name)
                if place < 0:
                    raise ValueError(
                        f"Column '{name}' must be in all files. {file.path} has none. "
                        "Write that file anew."
                    )
                kind = schema.field(place).type
                first, path = found.setdefault(name, (kind, file.path))
                if kind == first if error else _family(kind) == _family(first):
                    continue
                raise TypeError(
                    f"Column '{name}' must have one type in all files. Found {kind} in "
                    f"{file.path}, and {first} in {path}"
                    f"{f': {error}' if error else ''}. Write one of them anew."
                ) from error

    def count_wrong(self, kind: str) -> int:
        """Return how many rewards are wrong, of a log where some are."""
        return self.dataset.count_rows(filter=self._wrong(kind, "reward"))

    def first(self, kind: str, name: str) -> str:
        """Say where the first row with a fault is, as `Frame.first` does."""
        import pyarrow.compute as pc

        row = 0
        columns = {"wrong": self._wrong(kind, name)}
        for fragment in self.dataset.get_fragments():
            path = getattr(fragment, "path", None)
            row = 0 if path else row  # a fragment in memory follows the one before
            for batch in fragment.to_batches(self.dataset.schema, columns=columns):
                place = pc.index(batch["wrong"], True).as_py()
                if place >= 0:
                    where = f" of {path}" if path else ""
                    return f", first at row {row + place}{where}"
                row += len(batch)
        return ""

    def _wrong(self, kind: str, name: str) -> Any:
        """Return where a row has a fault."""
        import pyarrow as pa
        import pyarrow.compute as pc

        source = self.sources[name]
        column, dtype = pc.field(source), self.dataset.schema.field(source).type
        number = column.cast(pa.float64()) if kind != "missing" else None
        if kind == "not finite":
            return ~pc.coalesce(pc.is_finite(number), pc.scalar(False))
        if kind == "too large":
            return pc.abs(number) >= MAX_REWARD
        if kind == "no flag":
            return ~pc.coalesce((number == 0) | (number == 1), pc.scalar(False))
        gap = column.is_null(nan_is_null=True)
        if pa.types.is_struct(dtype):
            for part in dtype:
                gap |= pc.field(source, part.name).is_null(nan_is_null=True)
        if name == "next_state":
            ended = pc.field(self.sources.get("terminated") or self.sources["done"])
            gap &= pc.coalesce(ended.cast(pa.float64()), pc.scalar(0.0)) != 1
        return gap


def is_dataset(table: Any) -> bool:
    """Return whether a table is a Dataset of pyarrow."""
    dataset = sys.modules.get("pyarrow.dataset")  # else nobody can have made one
    return dataset is not None and isinstance(table, dataset.Dataset)


def _family(kind: Any) -> str:
    """Return what types have in common whose labels can be equal."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "numbers"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    return "times" if types.is_timestamp(kind) else str(kind)


def _refuse_episodes(engine: str) -> NoReturn:
    raise ValueError(
        f"{engine} must have the column 'next_state'. Found 'episode' instead, whose "
        "next row it cannot tell. Open the log with polars or DuckDB, which can, add "
        "'next_state', or read it into memory first."
    )
