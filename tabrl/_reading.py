"""Logs as files, for the command line: every format, a part at a time, in one type.

A text file says nothing of types, so it is read twice: once to see what its columns
hold, once in parts. Labels stay text where a number would not be written back as it
stands in the file: leading zeros, dates and times, integers beyond 64 bits.
"""

from __future__ import annotations

import ast
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabrl._allowed import COLUMN as ALLOWED
from tabrl._columns import ALIASES, check_complete, choose

# Rows that are in memory at once.
BATCH_ROWS = 1_000_000
# Bytes of columns that are counted at once: some 600,000 rows.
_PART_BYTES = 2**24
# Bytes of text that are parsed at once. pyarrow reads up to 32 such blocks ahead.
_BLOCK_BYTES = 2**21
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
_ENDINGS = (
    *(".csv", ".parquet", ".tsv", ".jsonl", ".ndjson", ".feather", ".arrow"),
    *(".csv.gz", ".csv.zst"),
)
# As pandas, polars and others write them; the rest are pyarrow's own.
_NULLS = ("None", "NaT", "<NA>")
_KNOWN = {alias for name, others in ALIASES.items() for alias in (name, *others)}
_LABELS = ("state", "action", "next_state", "episode")
# What is written back as it was read.
_INTEGER = r"^(0|-?[1-9][0-9]*)$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$"


def read_batches(path: Path, encoding: str = "utf-8") -> Iterator[Any]:
    """Yield a log as pyarrow tables, a part at a time where rows stand alone.

    Parameters
    ----------
    path : Path
        A file whose ending says its format, a folder of parquet files, or "-" for
        standard input: parquet, or text, compressed perhaps.
    encoding : str, default="utf-8"
        Of text.

    Yields
    ------
    pyarrow.Table
        Of the columns that a policy is made from. The whole log is one where rows do
        not stand alone: without next states, or with ``allowed_actions``, which must
        agree in all rows of a state.

    Raises
    ------
    ValueError
        If it is not what its ending says, or columns are missing.
    FileNotFoundError
        If it is not there.
    """
    with _opened(path) as (source, ending):
        name = "standard input" if str(path) == "-" else str(path)
        kind = "a CSV file" if ending in (".csv", ".tsv") else f"a {ending[1:]} file"
        with _readable(name, kind, encoding):
            if ending == ".parquet":
                yield from _parquet(source)
            elif ending in (".jsonl", ".ndjson"):
                yield from _sliced(_json(source))
            elif ending in (".feather", ".arrow"):
                yield from _sliced(_feather(source))
            else:
                yield from _csv(source, encoding)


@dataclass
class _Source:
    """Files to read, each as often as one likes."""

    files: list[Path]
    compression: str | None = None

    def open(self) -> Any:
        """Open the only file, decompressed."""
        import pyarrow as pa

        return pa.input_stream(str(self.files[0]), compression=self.compression)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Source, str]]:
    """Find what to read, and the ending that says how."""
    if str(path) == "-":
        with tempfile.NamedTemporaryFile() as file:  # it is read twice
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
            yield _sniffed(Path(file.name))
        return
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
        if not files:
            raise FileNotFoundError(
                f"A folder must hold parquet files. Found none in {path}."
            )
        yield _Source(files), ".parquet"
        return
    if not path.exists():
        raise FileNotFoundError(f"LOG must be a file. Found none at {path}.")
    *_, ending = ["", *path.suffixes]
    compression = _COMPRESSIONS.get(ending.lower())
    if compression:
        *_, ending = ["", *path.suffixes[:-1]]
    if ending.lower() not in _ENDINGS or (compression and ending == ".parquet"):
        raise ValueError(
            "LOG must end in .csv or .parquet, or in one of "
            f"{', '.join(_ENDINGS[2:])}. Got {path}."
        )
    if path.is_file():
        yield _Source([path], compression), ending.lower()
        return
    with tempfile.NamedTemporaryFile() as file:  # a pipe can be read only once
        with path.open("rb") as pipe:
            shutil.copyfileobj(pipe, file)
        file.flush()
        yield _Source([Path(file.name)], compression), ending.lower()


def _sniffed(path: Path) -> tuple[_Source, str]:
    """Return what a file without a name holds."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, compression in _MAGIC.items():
        if start.startswith(magic):
            return _Source([path], compression), ".csv"
    if start[:4] == b"PAR1":
        return _Source([path]), ".parquet"
    if start == b"ARROW1":
        return _Source([path]), ".feather"
    return _Source([path]), ".jsonl" if start[:1] == b"{" else ".csv"


@contextmanager
def _readable(name: str, kind: str, encoding: str) -> Iterator[None]:
    """Say of any error of a reader what the file must be."""
    import pyarrow as pa

    try:
        yield
    except UnicodeError as error:
        raise _not_encoded(name, encoding, error) from error
    except LookupError as error:
        if "encoding" not in str(error):
            raise
        raise ValueError(f"--encoding must be one of Python's: {error}.") from error
    except pa.ArrowException as error:
        if "UTF8" in str(error) or "UTF-8" in str(error):
            raise _not_encoded(name, encoding, error) from error
        raise ValueError(f"{name} must be {kind}: {error}") from error
    except OSError as error:
        raise OSError(f"{name} must be {kind} that can be read: {error}") from error


def _not_encoded(name: str, encoding: str, error: Exception) -> ValueError:
    return ValueError(
        f"{name} must be text in {encoding}. Found other bytes ({error}). Give "
        "--encoding: latin-1 or cp1252, for example."
    )


def _parquet(source: _Source) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(source.files[0]) as file:
        names = file.schema_arrow.names
    chosen = _choose(names)
    check_complete(chosen, names)

    def batches() -> Iterator[Any]:
        for path in source.files:
            with parquet.ParquetFile(path) as file:
                columns = list(chosen.values())
                for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                    yield pa.Table.from_batches([batch])

    yield from _joined(batches(), chosen)


def _json(source: _Source) -> Any:
    import pyarrow as pa
    from pyarrow import json

    with source.open() as file:
        table = json.read_json(file)
    chosen = _choose(table.column_names)
    # pyarrow takes text that looks like a date for one, and writes it in another way.
    names = [chosen[name] for name in (*_LABELS, ALLOWED) if name in chosen]
    kinds = {name: table.schema.field(name).type for name in names}
    dates = {
        name: pa.list_(pa.string()) if pa.types.is_list(kind) else pa.string()
        for name, kind in kinds.items()
        if pa.types.is_temporal(kind.value_type if pa.types.is_list(kind) else kind)
    }
    if dates:
        schema = pa.schema(dates)
        options = json.ParseOptions(explicit_schema=schema)
        with source.open() as file:
            table = json.read_json(file, parse_options=options)
    return table


def _feather(source: _Source) -> Any:
    from pyarrow import feather

    table = feather.read_table(str(source.files[0]))
    table.validate(full=True)  # offsets that are damaged end the process otherwise
    return table


def _sliced(table: Any) -> Iterator[Any]:
    """Yield the columns of a table in parts."""
    chosen = _choose(table.column_names)
    check_complete(chosen, table.column_names)
    table = table.select(list(chosen.values()))
    parts = (
        table.slice(start, BATCH_ROWS) for start in range(0, len(table), BATCH_ROWS)
    )
    yield from _joined(parts, chosen)


def _choose(names: list) -> dict[str, Any]:
    """Return which columns to read, by canonical name."""
    return choose(names) | ({ALLOWED: ALLOWED} if ALLOWED in names else {})


def _joined(tables: Iterator[Any], chosen: dict[str, Any]) -> Iterator[Any]:
    """Yield tables as they are, or as one where rows do not stand alone."""
    import pyarrow as pa

    # Without next_state a transition needs the row that follows it.
    if "next_state" in chosen and ALLOWED not in chosen:
        yield from tables
        return
    whole = list(tables)
    if whole:
        yield pa.concat_tables(whole)


# -- text --------------------------------------------------------------------


def _csv(source: _Source, encoding: str) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv

    with source.open() as file:
        header = _first_line(file, encoding)
    if not header:
        raise pa.ArrowInvalid("its first line must hold the names of the columns")
    delimiter, names = _split(header)
    chosen = _choose(names)
    columns = list(chosen.values())
    nulls = [*csv.ConvertOptions().null_values, *_NULLS]

    def batches(types: dict[str, Any]) -> Iterator[Any]:
        with source.open() as file:
            reader = csv.open_csv(
                file,
                csv.ReadOptions(block_size=_BLOCK_BYTES, encoding=encoding),
                csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                csv.ConvertOptions(
                    column_types=types,
                    include_columns=columns,
                    null_values=nulls,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            yield from _gathered(reader)

    # Lists of actions are text until the type of the actions is known.
    seen = {name: _Seen() for name in chosen}
    for table in batches(dict.fromkeys(columns, pa.string())):
        for name, column in chosen.items():
            seen[name].add(table[column])
    check_complete(chosen, names)
    types = _types(seen)
    typed = batches({chosen[name]: kind for name, kind in types.items()})
    for table in _joined(typed, chosen):
        yield _with_lists(table, types["action"]) if ALLOWED in chosen else table


def _gathered(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield record batches as few tables, since each is merged into all counts."""
    import pyarrow as pa

    held: list[Any] = []
    for batch in batches:
        held.append(batch)
        if sum(part.nbytes for part in held) >= _PART_BYTES:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _with_lists(table: Any, kind: Any) -> Any:
    """Return the table with lists of actions of type `kind` in place of their text."""
    import pyarrow as pa

    encoded = table[ALLOWED].combine_chunks().dictionary_encode()
    lists = []
    for text in encoded.dictionary.to_pylist():
        try:
            lists.append(pa.array(_members(text), pa.string()).cast(kind))
        except (pa.ArrowException, SyntaxError, TypeError, ValueError) as error:
            raise ValueError(
                f"Column '{ALLOWED}' of a text file must hold actions of the log, as "
                f"a|b or ['a', 'b']. Found {text!r:.80} ({error})."
            ) from error
    lists = pa.array([array.to_pylist() for array in lists], pa.list_(kind))
    place = table.column_names.index(ALLOWED)
    return table.set_column(place, ALLOWED, lists.take(encoded.indices))


def _members(text: str) -> list[str]:
    """Return the actions in a cell: as pandas or JSON write a list, or parted by |.

    Examples
    --------
    >>> _members("left|right"), _members("['left', 'right']"), _members("[0, 1]")
    (['left', 'right'], ['left', 'right'], ['0', '1'])
    """
    if text[:1] not in ("[", "(", "{"):
        return [action.strip() for action in text.split("|")]
    members = ast.literal_eval(text)
    if not isinstance(members, list | tuple | set):
        raise TypeError("not a list")
    return [action if isinstance(action, str) else repr(action) for action in members]


def _first_line(file: Any, encoding: str) -> str:
    text = file.read(2**16).decode(encoding, errors="replace")
    return text.lstrip("\ufeff").partition("\n")[0].rstrip("\r")


def _split(header: str) -> tuple[str, list[str]]:
    """Return the delimiter of a header, and its names: most that we know."""

    def names(delimiter: str) -> list[str]:
        return [name.strip('"') for name in header.split(delimiter)]

    def known(delimiter: str) -> int:
        return len(_KNOWN.intersection(names(delimiter)))

    best = max((",", ";", "\t", "|"), key=known)
    return best, names(best)


@dataclass
class _Seen:
    """What the values of a text column all are, so far."""

    integer: bool = True
    number: bool = True
    flag: bool = True
    low: int = 0
    high: int = 0

    def add(self, column: Any) -> None:
        """Look at some more values."""
        import pyarrow.compute as pc

        values = column.unique().drop_null()
        self.flag = self.flag and _all(
            pc.match_substring_regex(values, "^(true|false|True|False|TRUE|FALSE)$")
        )
        self.number = self.number and _all(pc.match_substring_regex(values, _NUMBER))
        whole = pc.match_substring_regex(values, _INTEGER)
        self.integer = self.integer and _all(whole)
        # Few are long, and only those may be beyond 64 bits or a float.
        long = values.filter(pc.and_(whole, pc.greater(pc.utf8_length(values), 15)))
        numbers = [int(text) for text in long.to_pylist()]
        self.low = min([self.low, *numbers])
        self.high = max([self.high, *numbers])


def _all(flags: Any) -> bool:
    import pyarrow.compute as pc

    return pc.all(flags).as_py() is not False


def _types(seen: dict[str, _Seen]) -> dict[str, Any]:
    """Return the type in which to read each column; both states are alike."""
    import pyarrow as pa

    types = {name: _type(name, column) for name, column in seen.items()}
    pair = [name for name in ("state", "next_state") if name in types]
    if pa.string() in {types[name] for name in pair}:  # "3" here, "end" there
        types.update(dict.fromkeys(pair, pa.string()))
    return types


def _type(name: str, column: _Seen) -> Any:
    import pyarrow as pa

    if name == ALLOWED:
        return pa.string()
    if column.integer and -(2**63) <= column.low and column.high < 2**63:
        return pa.int64()
    if column.integer and 0 <= column.low and column.high < 2**64:
        return pa.uint64()
    label = name in _LABELS
    rounded = max(-column.low, column.high) >= 2**53
    if column.number and not (label and (rounded or column.integer)):
        return pa.float64()
    if column.flag and not label:
        return pa.bool_()
    return pa.timestamp("us") if name == "step" else pa.string()
