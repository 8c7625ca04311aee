"""Tables of benchmark results: first as data, `summary.json`, then as Markdown.

The Markdown is a function of the summary alone, so that a clone without the raw
results can check that README shows what was measured. README has the tables between
``<!-- benchmark: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretraining.benchmark.cells import read_results
from pretraining.benchmark.report.intervals import require_rliable
from pretraining.benchmark.report.tables import PARTS, Row, Table, Tables, table

SUMMARY = Path(__file__).parents[1] / "results" / "summary.json"
CHECKPOINT = Path(__file__).parents[3] / "tabrl" / "checkpoint" / "config.json"
_BLOCK = re.compile(r"(<!-- benchmark: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


class ReportError(ValueError):
    """Results, summary and README that do not belong together."""


def markdown(table: Table) -> str:
    """Set out a table and its caption, its first column left and the others right."""
    columns = table["columns"]
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[_text(entry, table["digits"]) for entry in row] for row in table["rows"]]
    return "\n".join(
        [table["caption"], "", *(f"| {' | '.join(line)} |" for line in lines)]
    )


def _text(entry: Any, digits: int) -> str:
    if entry is None:
        return "-"
    if isinstance(entry, str):
        return entry
    if isinstance(entry, int):
        return f"{entry:,}"
    if isinstance(entry, float):
        # Adding 0 turns -0 into 0.
        return f"{round(entry, digits) + 0:,.{digits}f}"
    value, low, high = (_text(float(number), digits) for number in entry[:3])
    remark = f" ({entry[3]})" if len(entry) > 3 else ""
    return f"{value} [{low}, {high}]{remark}"


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
        `provenance`, the header of each file, `checkpoint`, the sha256 that all have
        in common, and `tables`.

    Raises
    ------
    ReportError
        If there is no result file, or if they come from different checkpoints.
    """
    require_rliable()
    files = {part: result_files(folder, part) for part in PARTS}
    if not any(files.values()):
        expected = ", ".join(f"{part}.jsonl" for part in PARTS)
        raise ReportError(f"{str(folder)!r} must have one of {expected}. Found none.")
    headers: dict[str, Row] = {}
    tables: Tables = {}
    for part, paths in files.items():
        rows: list[Row] = []
        for name, path in paths.items():
            header, found = read_results(path)
            headers[name] = _without_paths(header)
            rows += found
        if rows:
            tables |= PARTS[part](rows, aggregates=True)
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
    tables["provenance"] = provenance_table(headers)
    return {
        "checkpoint": checkpoints.pop() if checkpoints else None,
        "provenance": headers,
        "tables": tables,
    }


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


# README


def fill(text: str, summary: Mapping[str, Any]) -> str:
    """Put the tables of a summary between the markers of a text.

    Parameters
    ----------
    text : str
        Markdown with ``<!-- benchmark: NAME -->`` and ``<!-- end -->`` lines.
    summary : mapping
        From `summarise`.

    Returns
    -------
    str
        The text with its tables.

    Raises
    ------
    ReportError
        If a name is unknown, or a marker has no end.
    """
    tables = summary["tables"]

    def block(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name not in tables:
            known = ", ".join(tables)
            raise ReportError(f"A marker must name one of {known}. Got {name!r}.")
        return f"{start}\n{markdown(tables[name])}\n\n{end}"

    found = _BLOCK.findall(text)
    n_starts = text.count("<!-- benchmark: ")
    # A block that swallows the start of another has lost its own end.
    swallowed = any("<!-- benchmark: " in body for _, _, body, _ in found)
    if len(found) != n_starts or swallowed:
        raise ReportError(
            "Each <!-- benchmark: NAME --> needs its <!-- end -->. Found "
            f"{n_starts} of the first and {len(found)} whole blocks."
        )
    return _BLOCK.sub(block, text)


def check(text: str, summary: Mapping[str, Any]) -> None:
    """Require that a text shows the summary, and that it is of the bundled weights.

    Parameters
    ----------
    text : str
        Markdown with the tables.
    summary : mapping
        From `summarise`.

    Raises
    ------
    ReportError
        If not.
    """
    bundled = json.loads(CHECKPOINT.read_text())["sha256"]
    if summary["checkpoint"] != bundled:
        raise ReportError(
            f"The results must be of the bundled checkpoint, {bundled}. They are of "
            f"{summary['checkpoint']}: run the benchmark again."
        )
    expected = fill(text, summary)
    if text == expected:
        return
    pairs = zip(text.splitlines(), expected.splitlines(), strict=False)
    number, (found, wanted) = next(
        (i, pair) for i, pair in enumerate(pairs, start=1) if pair[0] != pair[1]
    )
    raise ReportError(
        f"Line {number} must be {wanted!r} by the results. Found {found!r}. Run "
        "python -m pretraining.benchmark report --readme README.md."
    )


def read_summary(path: Path = SUMMARY) -> dict[str, Any]:
    """Read a summary."""
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def write_summary(summary: Mapping[str, Any], path: Path = SUMMARY) -> None:
    """Write a summary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
