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
    upper_median,
)
from pretraining.benchmark.report.losses import loss_table
from pretraining.benchmark.report.rows import Row
from pretraining.benchmark.report.scores import (
    Scores,
    by_number_of_seeds,
    family,
    is_tabrl,
    tuned_name,
)
from pretraining.benchmark.report.table import STATED, Tables, table

# What makes a run.
_RUN = ("gamma", "environment", "method", "constant", "seed")
# Parts in which every run lasts as long; the second is of foreign environments.
_WHOLE_RUNS = ("regret", "foreign")
_SOLVED = (
    "Solved: the greedy policy has 0.95 of the optimal normalised value for 8 episodes "
    "in a row. Gave up: it has not in the end, though pairs are left untried that it "
    "knows how to reach."
)


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
    if any(row["part"] in _WHOLE_RUNS for row in rows):
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
    columns = ["mean regret", *["interquartile mean"] * aggregates]
    columns += ["share solved", "share that gave up"]
    environments = environment_rows(scores, scores.methods)
    for few in fewer:
        for row in environment_rows(few, scores.methods):
            row[0] += f" ({len(few.seeds)} runs)"
            environments.append(row)
    tables = {
        "online": table(
            f"{scale} {len(scores.seeds)} runs on each of {len(scores.cells)} "
            f"environments. {_SOLVED} With {STATED}.",
            ["method", *columns],
            [
                [name, *_figures(scores, name, aggregates=aggregates)]
                for name in [*scores.methods, *scores.tuned]
            ],
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
    tables |= _subset_tables([scores, *fewer], scale, columns, aggregates=aggregates)
    if any(map(is_tabrl, scores.methods)):
        tables["online-losses"] = loss_table(
            [scores, *fewer], ("environment",), scale, digits=1
        )
        tables["online-comparison"] = comparison_table(
            scores, f"Online. {scale}", aggregates=aggregates, digits=1
        )
        quartiles = {"interquartile mean": lambda name: scores.interquartile_mean(name)}
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


def _figures(scores: Scores, name: str, *, aggregates: bool) -> list[Any]:
    """Regret of a method, the share of its runs that solve and that give up."""
    figures: list[Any] = [scores.estimate(name)]
    if aggregates:
        figures.append(scores.interquartile_mean(name))
    for key in ("is_solved", "gives_up"):
        missing = np.isnan(scores.values(name, key)).any()
        figures.append(None if missing else scores.estimate(name, score=key))
    return figures


def _subset_tables(
    groups: Sequence[Scores], scale: str, columns: Sequence[str], *, aggregates: bool
) -> Tables:
    """Set out the methods that ran in some environments or with fewer runs.

    Beside each stand tabrl and the variants of UCB-VI, on the same runs.
    """
    compared: list[tuple[Scores, list[str]]] = []
    for whole in groups:
        for scores in whole.subsets():
            names = [
                name
                for name in scores.methods
                if is_tabrl(name) or family(name) == "UCB-VI" or name in whole.partial
            ]
            compared.append((scores, names))
    if not compared:
        return {}
    said = (
        f"{scale} Methods that ran in some environments alone, or with fewer runs. On "
        "the same runs: tabrl, and UCB-VI with the constant that is best on them."
    )
    shown = list(dict.fromkeys(name for _, names in compared for name in names))
    by_environment = []
    for scores, names in compared:
        remark = f" ({len(scores.seeds)} runs)"
        some = [name if name in names else "" for name in shown]
        for row in environment_rows(scores, some):
            by_environment.append([row[0] + remark, *row[1:]])
    return {
        "online-some-runs": table(
            f"{said} {_SOLVED} With {STATED}.",
            ["scored in", "method", *columns],
            [
                [
                    f"{len(scores.cells)} environments x {len(scores.seeds)} runs",
                    name,
                    *_figures(scores, name, aggregates=aggregates),
                ]
                for scores, names in compared
                for name in names
            ],
            digits=2,
        ),
        "online-some-runs-environments": table(
            f"{said} Mean by environment, with {STATED}. A line is the environments "
            "and runs that a method has in common with the others; '-': it did not "
            "run in them.",
            ["environment", *shown],
            by_environment,
            digits=1,
        ),
    }


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
    # DQN says nothing of what it left untried. A run that both parts have is the same
    # in both.
    runs = {
        tuple(row[key] for key in _RUN): {
            "gives_up": None,
            **row,
            "is_solved": row["solved"] is not None,
        }
        for row in rows
        if row["part"] in _WHOLE_RUNS
    }
    keys = ("gamma", "environment")
    return [
        Scores(part, keys, "regret", lower_is_better=True)
        for part in by_number_of_seeds(runs.values(), keys)
    ]
