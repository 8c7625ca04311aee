"""Tables of the speed benchmark."""

from __future__ import annotations

import math
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
    large: dict[tuple[int, int, int], list[Row]] = {}
    engines: dict[tuple[int, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        kind = row.get("kind")
        if kind == "sizes":
            size = row["n_states"], row["n_actions"], row["n_tried"]
            large.setdefault(size, []).append(row)
        elif kind == "engines":
            place = row["n_rows"], row["labels"], row["engine"]
            ways = engines.setdefault(place, {})
            ways.setdefault(row["method"], []).append(row)
        else:
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
    if large:
        tables["speed-sizes"] = _sizes(large)
    if engines:
        tables["speed-engines"] = _engines(engines)
    return tables


def _sizes(found: Mapping[tuple[int, int, int], Sequence[Row]]) -> Table:
    """Set out the fits of large processes, and the exponent of their growth."""
    lines = []
    before: tuple[tuple[int, int, int], float] | None = None
    for size, runs in sorted(found.items(), key=lambda item: (*item[0][1:], item[0])):
        seconds = _spread([run["seconds"] for run in runs])
        exponent = None
        if before is not None and before[0][1:] == size[1:]:
            growth = math.log(seconds[0] / before[1])
            exponent = growth / math.log(size[0] / before[0][0])
        before = size, seconds[0]
        memory = None
        if runs[0]["bytes"] is not None:
            memory = _spread([run["bytes"] / 2**20 for run in runs])
        lines.append([*(f"{n:,}" for n in size), seconds, exponent, memory])
    return table(
        "From statistics to a policy: seconds of the processor on one thread, median "
        "of repeats [lowest, highest]. Exponent: e where seconds grow as states**e, "
        "from the size before.",
        ["states", "actions", "tried in a state", "seconds", "exponent", "MiB"],
        lines,
    )


def _engines(
    found: Mapping[tuple[int, str, str], Mapping[str, Sequence[Row]]],
) -> Table:
    """Set out tabrl's counting beside the bare group-by of each engine."""
    lines = []
    for (n_rows, labels, engine), ways in sorted(found.items()):
        ours = ways[TABRL]
        line: list[Any] = [f"{n_rows:,}", labels, engine]
        if ours[0]["reason"] is not None:
            lines.append([*line, f"left out: {ours[0]['reason']}", None, None, None])
            continue
        (theirs,) = (runs for method, runs in ways.items() if method != TABRL)
        line += [_spread([run["seconds"] for run in runs]) for runs in (ours, theirs)]
        line.append(_ratio(ours, theirs, "seconds"))
        memory = [run["bytes"] for run in ours if run["bytes"] is not None]
        line.append(_spread([n / 2**20 for n in memory]) if memory else None)
        lines.append(line)
    return table(
        "From parquet files, or a frame in memory for pandas and polars, to "
        "statistics: seconds of the processor in all threads, median of repeats "
        "[lowest, highest]. The statistics of all engines are the same to the last "
        "bit.",
        [
            *("transitions", "labels", "engine", "tabrl, seconds"),
            *("bare group-by, seconds", "ratio", "tabrl, MiB"),
        ],
        lines,
    )


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
