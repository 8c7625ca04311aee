"""Rows of the benchmark's parts, from result files, in one order."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pretraining.benchmark import environments
from pretraining.benchmark.cells import read_results

Row = Mapping[str, Any]

DEVELOPMENT, FOREIGN = "development", "foreign"


def result_files(folder: Path, part: str) -> dict[str, Path]:
    """Return the result files of a part that a folder has, by name.

    Where a file is there compressed as well, that is older and left alone.
    """
    found = {
        path.name.split(".")[0]: path
        for ending in ("jsonl.xz", "jsonl")
        for pattern in (f"{part}.{ending}", f"{part}-*.{ending}")
        for path in folder.glob(pattern)
    }
    return dict(sorted(found.items()))


def read_part(folder: Path, part: str) -> tuple[dict[str, Row], list[Row]]:
    """Read all result files of a part of the benchmark.

    Parameters
    ----------
    folder : Path
        With the files.
    part : str
        Name of the part.

    Returns
    -------
    headers : dict of str to mapping
        What made each file, by the file's name.
    rows : list of mappings
        The rows of all files, in their order there.
    """
    headers: dict[str, Row] = {}
    rows: list[Row] = []
    for name, path in result_files(folder, part).items():
        headers[name], found = read_results(path)
        rows += found
    return headers, rows


def digest(path: Path) -> str:
    """Hash what a result file says, compressed or not; sha256, its first 16 digits."""
    data = path.read_bytes()
    content = lzma.decompress(data) if path.suffix == ".xz" else data
    return hashlib.sha256(content).hexdigest()[:16]


def world_group(environment: str) -> str:
    """Tell whether an environment is foreign, or was there during development."""
    return FOREIGN if environment in foreign_names() else DEVELOPMENT


def of_group(rows: Iterable[Row], group: str) -> list[Row]:
    """Return the rows of a group of environments."""
    foreign, wanted = foreign_names(), group == FOREIGN
    return [row for row in rows if (row["environment"] in foreign) == wanted]


def foreign_names() -> frozenset[str]:
    """Return the names of the environments that development never saw."""
    return frozenset(getattr(environments, "FOREIGN_NAMES", ()))
