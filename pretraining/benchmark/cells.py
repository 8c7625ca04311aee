"""Score the cells of a benchmark, and go on where a killed run stopped.

A cell is a mapping of parameters: a part of the benchmark, an environment, a seed,
and so on. Its scores go to a file of JSON lines as soon as they are there:

- first a header ``{"header": {...}}``: what made the file (`provenance`) and the
  protocol;
- then the rows of each finished cell, one score a row, each with the parameters of
  its cell;
- after them ``{"finished": key}``, the key being a hash of the parameters.

Whatever follows the last such line was cut off by a kill, and is done again. A finished
file may be compressed with ``xz``, to be kept.

A cell depends on its own parameters alone, its seed among them: not on the cells that
ran before it, nor on how many processes share the work. The order of cells in a file
does depend on who finished first, so `sort_rows` comes before any statistic. Two runs
on one machine, with the same versions and one thread a process, give the same rows to
the last bit. Another machine may differ in three ways:

- sums in NumPy, SciPy and torch run in another order on other processors, which moves
  the last digits of a value, and a policy where two actions are almost equal;
- another version of these packages may do the same;
- the seconds and bytes of the speed part are measurements, and differ every time.

`Scores` rounds values to nine digits, so that the first kind seldom shows in a table.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from tqdm.auto import tqdm

Cell = Mapping[str, Any]
Row = dict[str, Any]

_ROOT = Path(__file__).parents[2]
_SOURCES = ("tabrl", "pretraining")
# What places a row: the parameters of its cell, its method, and its seed last.
_PLACE = (
    *("part", "gamma", "environment", "behaviour", "size", "package"),
    *("n_states", "arms", "horizon", "method", "constant", "seed", "run"),
)
_PACKAGES = (
    *("numpy", "scipy", "torch", "gymnasium", "joblib"),
    *("d3rlpy", "stable-baselines3", "quantecon", "pymdptoolbox", "rliable"),
    *("icu-sepsis", "xenoverse", "statisticalrl-learners"),
)


class ResultsError(ValueError):
    """A result file that cannot be read, or that something else has made."""


def provenance(checkpoint: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Say what makes the results: versions, code, checkpoint and machine.

    Parameters
    ----------
    checkpoint : str, path or None
        What tabrl's estimators take; None if tabrl is left out.

    Returns
    -------
    dict
        Of JSON values: `versions` (None for a package that is not installed),
        `commit`, `dirty` (whether the sources differ from the commit), `sources` (a
        hash of them), `checkpoint` (sha256 of the weights, or None) and `machine`.
    """
    import tabrl

    weights = None
    if checkpoint is not None:
        weights = tabrl.fetch_checkpoint(checkpoint) / "model.safetensors"
    sources = hashlib.sha256()
    for path in sorted(p for name in _SOURCES for p in (_ROOT / name).rglob("*.py")):
        sources.update(path.relative_to(_ROOT).as_posix().encode() + path.read_bytes())
    versions = {name: _version(name) for name in _PACKAGES}
    status = _git("status", "--porcelain", "--", *_SOURCES)
    return {
        "versions": {"python": platform.python_version(), "tabrl": tabrl.__version__}
        | versions,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else status != "",
        "sources": sources.hexdigest()[:16],
        "checkpoint": weights and hashlib.sha256(weights.read_bytes()).hexdigest(),
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of git, None where the sources are not in a repository."""
    try:
        return subprocess.run(
            ["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":")[1] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor()


def cell_key(cell: Cell) -> str:
    """Hash the parameters of a cell, which must be JSON values."""
    return hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:16]


def run_cells(
    cells: Sequence[Cell],
    score: Callable[[Cell], list[Row]],
    path: Path | None,
    header: Mapping[str, Any],
    jobs: int = 1,
    *,
    restart: bool = False,
    progress_bar: bool = True,
) -> list[Row]:
    """Score each cell that the file does not hold yet.

    Parameters
    ----------
    cells : sequence of mappings
        Parameters of each cell, JSON values, no two alike.
    score : callable
        Takes a cell and returns its scores, one or more mappings; the cell's own
        parameters are added to each. Runs in other processes if `jobs` is over 1.
    path : Path or None
        The result file, made if it is missing; None keeps the rows in memory.
    header : mapping
        What makes the results: `provenance` and the protocol, JSON values.
    jobs : int, default=1
        Parallel processes.
    restart : bool, default=False
        Start the file anew.
    progress_bar : bool, default=True
        Whether to show progress.

    Returns
    -------
    list of dict
        The rows in the order of `cells`, whatever `jobs` is.

    Raises
    ------
    ResultsError
        If the file was made with another header.
    """
    keys = [cell_key(cell) for cell in cells]
    if len(set(keys)) < len(keys):
        raise ValueError("Cells must differ in their parameters. Some are alike.")
    rows: dict[str, list[Row]] = {}
    if path is not None:
        # What JSON makes of it, so that tuples equal the lists read back.
        header = json.loads(json.dumps(header))
        if restart or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"header": header}) + "\n")
        found, rows, size = _read(path)
        _check_header(path, found, header)
        os.truncate(path, size)
    todo = [i for i, key in enumerate(keys) if key not in rows]
    # In the order in which they finish, so that a kill loses no finished cell.
    results = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_score)(score, cells[i], keys[i]) for i in todo
    )
    bar = tqdm(
        results, total=len(cells), initial=len(cells) - len(todo),
        disable=not progress_bar,
    )  # fmt: skip
    for key, cell_rows in bar:
        rows[key] = cell_rows
        if path is not None:
            lines = [*cell_rows, {"finished": key}]
            with path.open("a") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
    return [row for key in keys for row in rows[key]]


def run_part(
    part: str,
    protocol: Any,
    cells: Sequence[Cell],
    score: Callable[[Cell], list[Row]],
    output: Path | None = None,
    **options: Any,
) -> list[Row]:
    """Score the cells of a part of the benchmark, or what the file does not hold yet.

    Parameters
    ----------
    part : str
        Name of the part.
    protocol : dataclass
        What is run; it has a `checkpoint`.
    cells, score
        See `run_cells`.
    output : Path or None, default=None
        Result file, as in `run_cells`; None keeps the rows in memory.
    **options
        `jobs`, `restart` and `progress_bar` of `run_cells`.

    Returns
    -------
    list of dict
        The rows in the order of `cells`, whatever `jobs` is.

    Raises
    ------
    ResultsError
        See `run_cells`.
    """
    made_by = provenance(protocol.checkpoint)
    header = {"part": part, "protocol": asdict(protocol), **made_by}
    return run_cells(cells, score, output, header, **options)


def _score(
    score: Callable[[Cell], list[Row]], cell: Cell, key: str
) -> tuple[str, list[Row]]:
    return key, [{**cell, **row} for row in score(cell)]


def _check_header(path: Path, found: Row, header: Mapping[str, Any]) -> None:
    names = sorted(found.keys() | header.keys())
    different = [
        f"{name} is {found.get(name)!r} there and {header.get(name)!r} now"
        for name in names
        if found.get(name) != header.get(name)
    ]
    if different:
        raise ResultsError(
            f"The results in {str(path)!r} must come from the same code, checkpoint "
            f"and protocol to go on with them. Found that {'; '.join(different)}. "
            "Give another --output, or --restart to overwrite them."
        )


def _read(path: Path) -> tuple[Row, dict[str, list[Row]], int]:
    """Header, rows by key, and the number of bytes up to the last finished cell."""
    rows: dict[str, list[Row]] = {}
    pending: list[Row] = []
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        try:
            header = json.loads(file.readline())["header"]
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(
                f"The first line of {str(path)!r} must be a header of benchmark "
                "results. Give another --output, or --restart to overwrite it."
            ) from error
        end = size = file.tell()
        for number, line in enumerate(file, start=2):
            end += len(line)
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError as error:
                raise ResultsError(
                    f"Line {number} of {str(path)!r} must be JSON. Run again with "
                    "--restart, or remove the file from this line on."
                ) from error
            if row is None:  # cut off by a kill
                break
            if "finished" in row:
                rows[row["finished"]] = pending
                pending, size = [], end
            else:
                pending.append(row)
    return header, rows, size


def read_results(path: Path) -> tuple[Row, list[Row]]:
    """Read a result file, finished or not.

    Parameters
    ----------
    path : Path
        A file of `run_cells`, or one compressed with ``xz``.

    Returns
    -------
    header : dict
        What made the file.
    rows : list of dict
        The rows of its finished cells.

    Raises
    ------
    ResultsError
        If it is no such file.
    """
    try:
        header, rows, _ = _read(path)
    except (EOFError, lzma.LZMAError) as error:
        raise ResultsError(
            f"{str(path)!r} must be a whole file of xz. Found that it is not: {error}. "
            "Compress the results again, or run them again without it."
        ) from error
    return header, [row for cell_rows in rows.values() for row in cell_rows]


def sort_rows(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sort rows by cell, method, constant and seed, whatever order they came in.

    Numbers within names sort as numbers: Garnet-50 comes before Garnet-200.

    Parameters
    ----------
    rows : iterable of mappings
        From `run_cells` or `read_results`, of one file or of several.

    Examples
    --------
    >>> [row["seed"] for row in sort_rows([{"seed": 10}, {"seed": 2}])]
    [2, 10]
    """
    # Maps, for a report sorts some 300,000 rows.
    placed = [(tuple(map(_place, map(row.get, _PLACE))), row) for row in rows]
    placed.sort(key=lambda pair: pair[0])
    return [row for _, row in placed]


@lru_cache(maxsize=10_000)
def _place(value: float | str | None) -> tuple[Any, ...]:
    """Return what a parameter sorts by: None first, then numbers, then texts."""
    if value is None:
        return (0,)
    if not isinstance(value, str):
        return (1, value)
    # Texts and numbers alternate, so that like is compared with like.
    parts = re.split(r"(\d+)", value.casefold())
    numbered = (int(part) if i % 2 else part for i, part in enumerate(parts))
    return (2, *numbered, value)
