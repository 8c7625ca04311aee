"""Tables of the offline benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pretraining.benchmark.report.comparison import (
    comparison_table,
    environment_rows,
    short_table,
)
from pretraining.benchmark.report.coverage import coverage_tables
from pretraining.benchmark.report.curves import falls_table
from pretraining.benchmark.report.intervals import (
    Estimate,
    tail_mean,
    worst_share,
)
from pretraining.benchmark.report.losses import loss_table
from pretraining.benchmark.report.rows import Row
from pretraining.benchmark.report.scores import Scores, by_number_of_seeds, is_tabrl
from pretraining.benchmark.report.table import STATED, Tables, joined, table
from pretraining.benchmark.report.thresholds import (
    compare_rows,
    ratios_table,
    rows_table,
    short_rows_table,
)

_KEYS = ("gamma", "environment", "behaviour", "size")
_SCALE = "Normalised value: 0 is the uniform policy, 1 the optimal one."
# From here on data should speak louder than any prior, so a loss weighs more.
_LARGE = 1024
_TAIL = "10%-CVaR is the mean of the worst tenth of the logs of each cell."
_POOLED_TAIL = (
    "1%-CVaR is the mean of the worst hundredth of the logs of all environments "
    "together, for each behaviour and size: a cell has too few logs for that."
)


def offline_scores(rows: Iterable[Row]) -> list[Scores]:
    """Arrange the rows of the offline benchmark.

    Parameters
    ----------
    rows : iterable of mappings
        From `pretraining.benchmark.parts.offline`, sorted.

    Returns
    -------
    list of Scores
        A number of logs a cell each; that of most cells first.
    """
    parts = by_number_of_seeds(rows, _KEYS)
    return [Scores(part, _KEYS, "value") for part in parts]


def pooled_tail_mean(scores: Scores, name: str) -> Estimate:
    """Mean of the worst hundredth of a method's logs, pooled over environments.

    The logs of one behaviour and one size are pooled: what somebody risks who has so
    many rows, and does not know how hard the process is.
    """
    values = scores.values(name)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, (gamma, _, behaviour, size) in enumerate(scores.cells):
        groups.setdefault((gamma, behaviour, size), []).append(i)
    return worst_share([values[members] for members in groups.values()])


def offline_tables(rows: Sequence[Row], *, aggregates: bool = False) -> Tables:
    """Tables of the offline benchmark.

    Parameters
    ----------
    rows : sequence of mappings
        From `pretraining.benchmark.parts.offline`, sorted.
    aggregates : bool, default=False
        Whether to add what needs rliable.

    Returns
    -------
    dict of str to dict
        Tables by name.
    """
    groups = offline_scores(rows)
    scores, *fewer = groups
    behaviours, sizes = scores.levels("behaviour"), sorted(scores.levels("size"))
    stated = (
        f"{_SCALE} Gamma {joined(scores.levels('gamma'))}; "
        f"{len(scores.levels('environment'))} environments; logs of {joined(sizes)} "
        f"transitions; {len(scores.seeds)} logs in each of {len(scores.cells):,} cells."
    )

    def main_row(name: str) -> list[Any]:
        row: list[Any] = [name, scores.estimate(name)]
        if aggregates:
            row.append(scores.interquartile_mean(name))
        row.append(scores.estimate(name, tail_mean))
        return row + [scores.estimate(name, behaviour=level) for level in behaviours]

    columns = ["method", "mean", *["interquartile mean"] * aggregates, "10%-CVaR"]
    columns += [f"mean, {level}" for level in behaviours]
    environments = environment_rows(scores, scores.methods)
    for few in fewer:
        for row in environment_rows(few, scores.methods):
            environments.append([f"{row[0]} ({len(few.seeds)} logs)", *row[1:]])
    tables = {
        "offline": table(
            f"{stated} {_TAIL} {_POOLED_TAIL} With {STATED}.",
            [*columns, "1%-CVaR"],
            [
                [*main_row(name), pooled_tail_mean(scores, name)]
                for name in scores.methods
            ],
        ),
        "offline-constants": table(
            f"{_SCALE} Each constant, the same in all environments. {_TAIL} With "
            f"{STATED}.",
            columns,
            map(main_row, scores.tuned),
        ),
        "offline-sizes": table(
            f"{_SCALE} Mean by number of transitions, with {STATED}.",
            ["method", *map(str, sizes)],
            [
                [name, *(scores.estimate(name, size=size) for size in sizes)]
                for name in scores.methods
            ],
        ),
        "offline-environments": table(
            f"{_SCALE} Mean by environment, with {STATED}, and the constant of the "
            "best mean in the environment, chosen in hindsight.",
            ["environment", *scores.methods],
            environments,
        ),
    }
    if any(map(is_tabrl, scores.methods)):
        tables |= _tables_of_tabrl(groups, aggregates=aggregates)
    return tables | coverage_tables(rows)


def _tables_of_tabrl(groups: Sequence[Scores], *, aggregates: bool) -> Tables:
    """Tables that compare tabrl with the others, and with itself on fewer rows."""
    scores = groups[0]
    ratios = compare_rows(groups)
    tables = {
        "offline-losses": loss_table(groups, ("environment", "behaviour"), _SCALE),
        "offline-losses-large": loss_table(
            groups,
            ("environment", "behaviour", "size"),
            f"{_SCALE} Logs of {_LARGE:,} transitions and more.",
            least_size=_LARGE,
        ),
        "offline-falls": falls_table(groups),
    }
    if ratios:
        tables |= {
            "offline-rows": rows_table(ratios),
            "offline-ratios": ratios_table(ratios),
            "short-rows": short_rows_table(ratios),
        }
    tables["offline-comparison"] = comparison_table(
        scores, f"Offline. {_SCALE}", aggregates=aggregates
    )
    tails = {"10%-CVaR": lambda name: scores.estimate(name, tail_mean)}
    quartiles = {"interquartile mean": lambda name: scores.interquartile_mean(name)}
    tables["short-offline"] = short_table(
        scores,
        f"{_SCALE} {len(scores.levels('environment'))} environments, "
        f"{np.prod(scores.values(scores.methods[0]).shape):,} logs. 10%-CVaR: mean of "
        "the worst tenth of the logs of each cell.",
        (quartiles if aggregates else {}) | tails,
    )
    return tables
