"""Tables of the speed benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pretraining.benchmark.parts.online import TABRL
from pretraining.benchmark.parts.speed import QUANTECON
from pretraining.benchmark.report.rows import Row
from pretraining.benchmark.report.table import Table, Tables, table


def speed_tables(rows: Sequence[Row], *, aggregates: bool = False) -> Tables:
    """Tables of the speed benchmark; `aggregates` makes no difference to them."""
    del aggregates
    found: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["n_states"], row["method"]), []).append(row)
    lines = []
    for (n_states, method), runs in found.items():
        steps = runs[0]["steps"]
        label = method if steps is None else f"{method}, {steps:,} steps"
        line: list[Any] = [f"{n_states:,}", f"{runs[0]['n_rows']:,}", label]
        reason = runs[0]["reason"]
        if reason is not None:
            lines.append([*line, f"left out: {reason}", None, None, None])
            continue
        ours = found[n_states, TABRL]
        line.append(_spread([run["seconds"] for run in runs]))
        line.append(_ratio(ours, runs, "seconds"))
        if runs[0]["bytes"] is None:
            line += [None, None]
        else:
            line.append(_spread([run["bytes"] / 2**20 for run in runs]))
            line.append(_ratio(ours, runs, "bytes"))
        lines.append(line)
    tables = {
        "speed": table(
            "From a log to an action for each state, in one process on one thread: "
            "median of repeats [lowest, highest]. A ratio is tabrl's figure by the "
            "method's, repeat by repeat: over 1, tabrl takes more.",
            [
                *("states", "transitions", "method", "seconds", "tabrl's by this"),
                *("MiB", "tabrl's by this"),
            ],
            lines,
        )
    }
    if any(method == TABRL for _, method in found):
        tables["short-speed"] = _short(found)
    return tables


def _short(found: Mapping[tuple[int, str], Sequence[Row]]) -> Table:
    """Set out tabrl beside QuantEcon's policy iteration, the fastest of the others."""
    lines = []
    for (n_states, method), ours in found.items():
        if method != TABRL:
            continue
        line: list[Any] = [f"{n_states:,}", f"{ours[0]['n_rows']:,}"]
        line.append(_spread([run["seconds"] for run in ours]))
        theirs = found.get((n_states, QUANTECON), [])
        if theirs and theirs[0]["reason"] is None:
            line.append(_spread([run["seconds"] for run in theirs]))
            line.append(_ratio(ours, theirs, "seconds"))
        else:
            reason = theirs[0]["reason"] if theirs else "not run"
            line += [f"left out: {reason}", None]
        lines.append(line)
    return table(
        "From a log to an action for each state, in one process on one thread: median "
        "of repeats [lowest, highest]. A ratio over 1: tabrl takes longer.",
        [
            *("states", "transitions", "tabrl, seconds"),
            *("policy iteration of QuantEcon, seconds", "ratio"),
        ],
        lines,
    )


def _ratio(ours: Sequence[Row], others: Sequence[Row], key: str) -> list[float] | None:
    if others is ours:
        return None
    # A page of memory, so that what needs no new one does not divide by 0.
    least = 4096 if key == "bytes" else 0
    pairs = zip(ours, others, strict=True)
    return _spread([max(x[key], least) / max(y[key], least) for x, y in pairs])


def _spread(numbers: Sequence[float]) -> list[float]:
    return [statistics.median(numbers), min(numbers), max(numbers)]
