"""All tables of the benchmark's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pretraining.benchmark.cells import sort_rows
from pretraining.benchmark.report.bandit import bandit_tables
from pretraining.benchmark.report.offline import offline_tables
from pretraining.benchmark.report.online import online_tables
from pretraining.benchmark.report.rows import DEVELOPMENT, FOREIGN, Row, of_group
from pretraining.benchmark.report.speed import speed_tables
from pretraining.benchmark.report.table import Tables

_FOREIGN = (
    "Foreign environments, which nothing was chosen on; where a name is that of a "
    "family, each seed has a process of its own."
)


def part_tables(
    part: str, rows: Iterable[Mapping[str, Any]], *, aggregates: bool = False
) -> Tables:
    """Tables of a part of the benchmark, whatever order its rows come in.

    Parameters
    ----------
    part : str
        "offline", "online", "bandit" or "speed".
    rows : iterable of mappings
        All its rows.
    aggregates : bool, default=False
        Whether to add what needs rliable.

    Returns
    -------
    dict of str to dict
        Tables by name. Environments that development never saw have tables of their
        own, ``offline-foreign`` beside ``offline``.
    """
    ordered = sort_rows(rows)
    tables_of = PARTS[part]
    if not ordered or part not in ("offline", "online"):
        return tables_of(ordered, aggregates=aggregates)
    tables: Tables = {}
    for group in (DEVELOPMENT, FOREIGN):
        found: Sequence[Row] = of_group(ordered, group)
        if found:
            for name, table in tables_of(found, aggregates=aggregates).items():
                if group == FOREIGN:
                    table["caption"] = f"{_FOREIGN} {table['caption']}"
                tables[_name(name, part, group)] = table
    return tables


def _name(name: str, part: str, group: str) -> str:
    """``offline-sizes`` becomes ``offline-foreign-sizes``."""
    if group == DEVELOPMENT:
        return name
    head, middle, rest = name.partition(part)
    return f"{head}{middle}-{group}{rest}" if middle else f"{name}-{group}"


PARTS: dict[str, Callable[..., Tables]] = {
    "offline": offline_tables,
    "online": online_tables,
    "bandit": bandit_tables,
    "speed": speed_tables,
}
