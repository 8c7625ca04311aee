"""Tables of the online benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pretraining.benchmark.report.comparison import (
    comparison_table,
    environment_rows,
    short_table,
)
from pretraining.benchmark.report.intervals import (
    estimate,
    interquartile_mean,
    upper_median,
)
from pretraining.benchmark.report.losses import loss_table
from pretraining.benchmark.report.rows import Row
from pretraining.benchmark.report.scores import (
    Scores,
    by_number_of_seeds,
    is_tabrl,
    tuned_name,
)
from pretraining.benchmark.report.table import STATED, Tables, table


def online_tables(rows: Sequence[Row], *, aggregates: bool = False) -> Tables:
    """Tables of the online benchmark.

    Parameters
    ----------
    rows : sequence of mappings
        From `pretraining.benchmark.parts.online`.
    aggregates : bool, default=False
        Whether to add what needs rliable.

    Returns
    -------
    dict of str to dict
        Tables by name.
    """
    tables: Tables = {}
    if any(row["part"] == "regret" for row in rows):
        tables |= _regret_tables(rows, aggregates=aggregates)
    seed_paper = [row for row in rows if row["part"] == "convergence"]
    if seed_paper:
        names = list(dict.fromkeys(row["environment"] for row in seed_paper))
        tables["online-convergence"] = table(
            "Episodes until the greedy policy is worth 0.95 of the optimum for 8 "
            "episodes in a row (the protocol of arXiv "
            f"2606.18812): median of {len({row['seed'] for row in seed_paper})} runs "
            "with bootstrap 95% interval.",
            ["method", *names],
            [
                [method, *map(episodes, groups)]
                for method, groups in _by_method(seed_paper, names).items()
            ],
        )
    deep = [row for row in rows if row["part"] == "deep sea"]
    if deep:
        names = list(dict.fromkeys(row["environment"] for row in deep))
        tables["online-deep-sea"] = table(
            "Episodes until the greedy policy has 0.95 of the optimal normalised value "
            f"for 8 episodes in a row: median of {len({row['seed'] for row in deep})} "
            "runs with bootstrap 95% interval. A run ends after 40 N episodes.",
            ["method", *names],
            [
                [method, *map(episodes, groups)]
                for method, groups in _by_method(deep, names).items()
            ],
        )
    return tables


def _by_method(
    rows: Iterable[Row], environments: Iterable[str]
) -> dict[str, list[list[Row]]]:
    """Rows of each method with its constant, a list an environment."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        name = tuned_name(row["method"], row["constant"])
        groups = found.setdefault(name, {key: [] for key in environments})
        groups[row["environment"]].append(row)
    return {name: list(groups.values()) for name, groups in found.items()}


def episodes(rows: Sequence[Row]) -> str | None:
    """Median of the episodes until solved, with its interval, as a text.

    Parameters
    ----------
    rows : sequence of mappings
        Runs of one method in one environment.

    Returns
    -------
    str or None
        None without runs.
    """
    if not rows:
        return None
    limit = rows[0]["episodes"]
    found = [limit + 1 if row["solved"] is None else row["solved"] for row in rows]
    numbers = estimate(np.array([found], dtype=np.float64), upper_median)
    if min(numbers) > limit:
        return f"over {limit:,}"
    value, low, high = (
        f"over {limit:,}" if number > limit else f"{number:,.0f}" for number in numbers
    )
    return f"{value} [{low}, {high}]"


def _regret_tables(rows: Sequence[Row], *, aggregates: bool) -> Tables:
    scores, *fewer = regret_scores(rows)
    n_episodes = scores.rows(scores.methods[0])[0]["episodes"]
    scale = (
        f"Regret over {n_episodes} episodes: lower is better, 0 is the optimal policy "
        f"throughout, {n_episodes} the uniform one."
    )
    main_rows = []
    for name in [*scores.methods, *scores.tuned]:
        row: list[Any] = [name, scores.estimate(name)]
        if aggregates:
            row.append(interquartile_mean(scores.values(name)))
        row += [scores.estimate(name, score=key) for key in ("is_solved", "gives_up")]
        main_rows.append(row)
    environments = environment_rows(scores, scores.methods)
    for few in fewer:
        for row in environment_rows(few, scores.methods):
            row[0] += f" ({len(few.seeds)} runs)"
            environments.append(row)
    tables = {
        "online": table(
            f"{scale} {len(scores.seeds)} runs on each of {len(scores.cells)} "
            "environments. Solved: the greedy policy has 0.95 of the optimal "
            "normalised value for 8 episodes in a row. Gave up: it has not in the end, "
            "though pairs are left untried that it knows how to reach. With "
            f"{STATED}.",
            [
                *("method", "mean regret"),
                *["interquartile mean"] * aggregates,
                *("share solved", "share that gave up"),
            ],
            main_rows,
            digits=2,
        ),
        "online-environments": table(
            f"{scale} Mean by environment, with {STATED}, and the constant of the "
            "lowest mean in the environment, chosen in hindsight.",
            ["environment", *scores.methods],
            environments,
            digits=1,
        ),
    }
    if any(map(is_tabrl, scores.methods)):
        tables["online-losses"] = loss_table(
            [scores, *fewer], ("environment",), scale, digits=1
        )
        tables["online-comparison"] = comparison_table(
            scores, f"Online. {scale}", aggregates=aggregates, digits=1
        )
        quartiles = {
            "interquartile mean": lambda name: interquartile_mean(scores.values(name))
        }
        solved = {
            "share solved": lambda name: scores.estimate(name, score="is_solved"),
        }
        tables["short-online"] = short_table(
            scores,
            f"{scale} {len(scores.seeds)} runs in each of {len(scores.cells)} "
            "environments. Solved: the greedy policy stays within 5% of the optimum "
            "for 8 episodes.",
            (quartiles if aggregates else {}) | solved,
            digits=2,
            tie=0.1,  # as in the comparison
        )
    return tables


def regret_scores(rows: Iterable[Row]) -> list[Scores]:
    """Arrange the regrets of the online benchmark.

    Parameters
    ----------
    rows : iterable of mappings
        From `pretraining.benchmark.parts.online`.

    Returns
    -------
    list of Scores
        A number of runs an environment each; that of most environments first.
    """
    # DQN says nothing of what it left untried.
    runs: list[Row] = [
        {"gives_up": None, **row, "is_solved": row["solved"] is not None}
        for row in rows
        if row["part"] == "regret"
    ]
    keys = ("gamma", "environment")
    return [
        Scores(part, keys, "regret", lower_is_better=True)
        for part in by_number_of_seeds(runs, keys)
    ]
