"""The summary of a folder of results: all tables as data, and what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretraining.benchmark.report.hardness import hardness_table
from pretraining.benchmark.report.intervals import require_rliable
from pretraining.benchmark.report.readme import ReportError
from pretraining.benchmark.report.rows import (
    Row,
    digest,
    read_part,
    result_files,
)
from pretraining.benchmark.report.table import Table, Tables, table
from pretraining.benchmark.report.tables import PARTS, part_tables

SUMMARY = Path(__file__).parents[1] / "results" / "summary.json"


def summarise(folder: Path) -> dict[str, Any]:
    """Make the summary of a folder of result files, of one or more parts.

    The classical methods do not depend on the checkpoint: their results may come from
    a file and a run of their own.

    Parameters
    ----------
    folder : Path
        Has ``offline.jsonl``, ``online.jsonl``, ``bandit.jsonl`` or ``speed.jsonl``, or
        several of a part, ``offline-baselines.jsonl`` and ``offline-tabrl.jsonl`` say;
        ``.jsonl.xz`` where they are compressed.

    Returns
    -------
    dict
        `provenance`, the header of each file and a `digest` of it; `checkpoint`, the
        sha256 that all have in common; and `tables`.

    Raises
    ------
    ReportError
        If there is no result file, or if they come from different checkpoints.
    """
    require_rliable()
    headers: dict[str, Row] = {}
    tables: Tables = {}
    names: list[str] = []
    for part in PARTS:
        found, rows = read_part(folder, part)
        files = result_files(folder, part)
        headers |= {
            name: _without_paths(header) | {"digest": digest(files[name])}
            for name, header in found.items()
        }
        if rows:
            tables |= part_tables(part, rows, aggregates=True)
        names += [row["environment"] for row in rows if "environment" in row]
    if not headers:
        expected = ", ".join(f"{part}.jsonl" for part in PARTS)
        raise ReportError(f"{str(folder)!r} must have one of {expected}. Found none.")
    checkpoints = {
        header["checkpoint"]
        for header in headers.values()
        if header["checkpoint"] is not None
    }
    if len(checkpoints) > 1:
        raise ReportError(
            "All parts must come from one checkpoint. Found "
            + "; ".join(f"{p}: {h['checkpoint']}" for p, h in headers.items())
            + ". Run those of the older one again."
        )
    hardness = hardness_table(dict.fromkeys(names))
    if hardness is not None:
        tables["hardness"] = hardness
    tables["provenance"] = provenance_table(headers)
    return {
        "checkpoint": checkpoints.pop() if checkpoints else None,
        "provenance": headers,
        "tables": tables,
    }


def _without_paths(header: Row) -> Row:
    """Leave out where the weights lay: their digest says which they are."""
    protocol = dict(header.get("protocol") or {})
    for name in ("checkpoint", "seed_model"):
        protocol.pop(name, None)
    return {**header, "protocol": protocol}


def provenance_table(headers: Mapping[str, Row]) -> Table:
    """Say which code, checkpoint, machine and versions made each part."""
    rows = []
    for part, header in headers.items():
        commit = (header["commit"] or "unknown")[:12]
        machine = header["machine"]
        found = header["versions"].items()
        rows.append(
            [
                part,
                f"{commit}{' and changes' if header['dirty'] else ''}",
                (header["checkpoint"] or "none")[:12],
                f"{machine['processor']}, {machine['cores']} cores",
                ", ".join(f"{name} {v}" for name, v in found if v is not None),
            ]
        )
    return table(
        "What made the figures.",
        ["part", "commit", "sha256 of the weights", "machine", "versions"],
        rows,
    )


def read_summary(path: Path = SUMMARY) -> dict[str, Any]:
    """Read a summary."""
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def write_summary(summary: Mapping[str, Any], path: Path = SUMMARY) -> None:
    """Write a summary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
