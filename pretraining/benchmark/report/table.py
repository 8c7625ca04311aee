"""A table of results as data, and as Markdown.

A table is a dictionary with `caption`, `columns`, `rows` and `digits`. An entry of a
row is a text, a whole number, a float, None, or a list of a value and the ends of its
interval, and perhaps a remark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Table = dict[str, Any]
Tables = dict[str, Table]

STATED = "95% interval from a bootstrap stratified by cell"


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 3
) -> Table:
    """Make a table as data."""
    return {
        "caption": caption,
        "columns": list(columns),
        "rows": [_round(list(row), digits) for row in rows],
        "digits": digits,
    }


def _round(value: Any, digits: int) -> Any:
    """Round floats, to two digits more than a table shows."""
    if isinstance(value, float):
        return round(value, digits + 2)
    if isinstance(value, list):
        return [_round(item, digits) for item in value]
    return value


def joined(values: Iterable[Any]) -> str:
    """Write values in a line, with commas."""
    texts = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
    return ", ".join(texts)


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
