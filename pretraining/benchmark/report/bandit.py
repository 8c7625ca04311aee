"""Tables of the bandit benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pretraining.benchmark.parts.bandit import bayes_optimal_regret
from pretraining.benchmark.parts.online import TABRL
from pretraining.benchmark.report.intervals import estimate
from pretraining.benchmark.report.rows import Row
from pretraining.benchmark.report.table import Tables, table

# What no method can beat is computed for so many arms at most.
_EXACT_ARMS = 3
# For 10 arms and 500 pulls.
_PUBLISHED = {"Gittins-Whittle": 16.15}


def bandit_tables(rows: Sequence[Row], *, aggregates: bool = False) -> Tables:
    """Tables of the bandit benchmark; `aggregates` makes no difference to them.

    Parameters
    ----------
    rows : sequence of mappings
        From `pretraining.benchmark.parts.bandit`.
    aggregates : bool, default=False
        Not used.

    Returns
    -------
    dict of str to dict
        Tables by name.
    """
    del aggregates
    # Regret of each bandit, by method and setting.
    found: dict[str, dict[tuple[int, int], dict[tuple[int, int], float]]] = {}
    for row in rows:
        setting = row["arms"], row["horizon"]
        runs = found.setdefault(row["method"], {}).setdefault(setting, {})
        runs[row["seed"], row["run"]] = row["regret"]
    settings = list(next(iter(found.values())))
    columns = [f"K = {n_arms}, T = {horizon}" for n_arms, horizon in settings]

    def entry(regret: Sequence[float]) -> list[Any]:
        return [*estimate(np.array([regret])), f"{len(regret):,} bandits"]

    lines: list[list[Any]] = [
        [name, *(entry([*by_setting[setting].values()]) for setting in settings)]
        for name, by_setting in found.items()
    ]
    exact = [
        bayes_optimal_regret(*setting) if setting[0] <= _EXACT_ARMS else None
        for setting in settings
    ]
    lines.append(["Bayes-optimal, exact", *exact])
    for name, regret in _PUBLISHED.items():
        if (10, 500) in settings:
            numbers = [regret if s == (10, 500) else None for s in settings]
            lines.append([f"{name}, published", *numbers])
    tables = {
        "bandit": table(
            "Expected regret after T pulls of one of K Bernoulli arms with uniform "
            "means, in units of the reward: lower is better. Mean with bootstrap 95% "
            "interval.",
            ["method", *columns],
            lines,
            digits=2,
        )
    }
    if TABRL in found:
        differences = []
        for name in found:
            line: list[Any] = [name]
            for setting in settings:
                ours, others = found[TABRL][setting], found[name][setting]
                line.append(entry([ours[run] - others[run] for run in ours]))
            if name != TABRL:
                differences.append(line)
        tables["bandit-comparison"] = table(
            "tabrl's regret less that of each method on the same bandits: below 0, "
            "tabrl is better. Mean with bootstrap 95% interval.",
            ["compared with", *columns],
            differences,
            digits=2,
        )
    return tables
