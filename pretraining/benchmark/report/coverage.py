"""How often the 80% interval of an action value holds the truth, and how wide it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pretraining.benchmark.baselines.offline.tabrl import GREEDY
from pretraining.benchmark.report.intervals import cell_draws, interval
from pretraining.benchmark.report.rows import Row
from pretraining.benchmark.report.table import Tables, table

# From the 0.1 to the 0.9 quantile of `action_values`.
STATED_COVERAGE = 0.8


def measured(rows: Sequence[Row], key: str) -> dict[str, dict[int, list[float]]]:
    """Return a mean over logs with its interval, by environment and size.

    Parameters
    ----------
    rows : sequence of mappings
        Of the offline benchmark. Those of "tabrl, greedy" may have `coverage`, the
        share of visited pairs whose optimal value the interval holds, and `width`, its
        mean width there by what the optimum has above the uniform policy from the
        start. Both may be None where
        nothing was visited.
    key : str
        "coverage" or "width".

    Returns
    -------
    dict of str to dict of int to list of float
        Behaviours count alike. Empty where no row has the key.
    """
    cells: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        if row["method"] == GREEDY and row.get(key) is not None:
            cells[row["environment"], row["size"]][row["behaviour"]].append(row[key])
    found: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for (environment, size), by_behaviour in cells.items():
        draws = [
            cell_draws(np.array(values), (environment, behaviour, size))
            for behaviour, values in by_behaviour.items()
        ]
        mean = float(np.mean([np.mean(values) for values in by_behaviour.values()]))
        found[environment][size] = [mean, *interval(np.stack(draws))]
    return dict(found)


def coverage_tables(rows: Sequence[Row]) -> Tables:
    """Set out coverage and width; no table where no row has them."""
    captions = {
        "coverage": "Share of the visited pairs whose optimal action value lies in the "
        f"{STATED_COVERAGE:.0%} interval, from the 0.1 to the 0.9 quantile: "
        f"{STATED_COVERAGE:g} is right, less is too sure.",
        "width": f"Mean width of the {STATED_COVERAGE:.0%} interval over the visited "
        "pairs, divided by what the optimal policy has above the uniform one from the "
        "start, v*(rho) - v_uniform(rho): narrower is better where the coverage is "
        "right.",
    }
    tables: Tables = {}
    for key, caption in captions.items():
        found = measured(rows, key)
        if not found:
            continue
        sizes = sorted({size for by_size in found.values() for size in by_size})
        lines: list[list[Any]] = [
            [name, *map(by_size.get, sizes)] for name, by_size in found.items()
        ]
        lines.append(["mean over environments", *_means(found, sizes)])
        tables[f"offline-{key}"] = table(
            f"{caption} Mean over logs with bootstrap 95% interval, by environment and "
            "number of transitions.",
            ["environment", *map("{:,}".format, sizes)],
            lines,
            digits=2,
        )
    return tables


def _means(
    found: Mapping[str, Mapping[int, list[float]]], sizes: Sequence[int]
) -> list[float]:
    """Mean over the environments that have a size."""
    return [
        float(
            np.mean([by_size[size][0] for by_size in found.values() if size in by_size])
        )
        for size in sizes
    ]
