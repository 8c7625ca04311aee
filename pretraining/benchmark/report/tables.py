"""Tables of the benchmark's parts, as data.

A table is a dictionary with `caption`, `columns`, `rows` and `digits`. An entry of a
row is a text, a whole number, a float, None, or a list of a value and the ends of its
interval, and perhaps a remark.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from pretraining.benchmark.parts.bandit import bayes_optimal_regret
from pretraining.benchmark.parts.online import TABRL
from pretraining.benchmark.report.intervals import (
    estimate,
    interquartile_mean,
    probability_of_improvement,
    tail_mean,
    upper_median,
)
from pretraining.benchmark.report.scores import Scores, is_tabrl, symbol, tuned_name

Row = Mapping[str, Any]
# What no method can beat is computed for so many arms at most.
_EXACT_ARMS = 3
# For 10 arms and 500 pulls.
_PUBLISHED = {"Gittins-Whittle": 16.15}
Table = dict[str, Any]
Tables = dict[str, Table]

_STATED = "95% interval from a bootstrap stratified by cell"


def _round(value: Any, digits: int) -> Any:
    """Round floats, to two digits more than a table shows."""
    if isinstance(value, float):
        return round(value, digits + 2)
    if isinstance(value, list):
        return [_round(item, digits) for item in value]
    return value


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


def _joined(values: Iterable[Any]) -> str:
    texts = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
    return ", ".join(texts)


def comparison_table(
    scores: Scores, caption: str, *, aggregates: bool, digits: int = 3
) -> Table:
    """Compare each of tabrl's policies with every other method, on the same data.

    Parameters
    ----------
    scores : Scores
        All scores.
    caption : str
        What is compared.
    aggregates : bool
        Whether to add rliable's probability of improvement.
    digits : int, default=3
        Decimals of the scores.

    Returns
    -------
    dict
        One row a policy of tabrl and peer.
    """
    columns = ["method", "compared with", "cells", "mean", "mean of the other"]
    columns += ["difference", *["probability of improvement"] * aggregates]
    columns += ["environments won, tied, lost"]
    ours = [name for name in scores.methods if is_tabrl(name)]
    peers = [name for name in scores.methods + scores.partial if not is_tabrl(name)]
    tie = 10**-digits  # less does not show in the tables
    rows = []
    for name, peer in product(ours, peers):
        cells, x, y = scores.common(name, peer)
        row = [name, peer, len(cells), float(x.mean()), float(y.mean())]
        row.append(estimate(x - y))
        if aggregates:
            row.append(probability_of_improvement(scores.sign * x, scores.sign * y))
        won = lost = 0
        environments = scores.levels("environment", cells)
        for environment in environments:
            part = scores.where(cells, environment=environment)
            gain = scores.sign * (x[part] - y[part])
            _, low, high = estimate(gain)
            won += low > tie
            lost += high < -tie
        tied = len(environments) - won - lost
        rows.append([*row, f"{won}, {tied}, {lost}"])
    return table(
        f"{caption} Differences are seed by seed, with {_STATED}. An environment "
        "counts as won or lost where the interval of its difference lies beyond "
        f"{tie:g}.",
        columns,
        rows,
        digits,
    )


def environment_rows(scores: Scores, methods: Sequence[str]) -> list[list[Any]]:
    """Mean score of each method on each environment, with the constants chosen."""
    rows = []
    for environment in scores.levels("environment"):
        row: list[Any] = [environment]
        for name in methods:
            found: list[Any] | None = None
            if name in scores.methods:
                found = [*scores.estimate(name, environment=environment)]
            if found and name in scores.chosen:
                constant = scores.chosen[name][environment]
                found.append(f"{symbol(name)} = {constant:g}")
            row.append(found)
        rows.append(row)
    return rows


# Offline


def offline_scores(rows: Iterable[Row]) -> Scores:
    """Arrange the rows of the offline benchmark."""
    return Scores(rows, ("gamma", "environment", "behaviour", "size"), "value")


def offline_tables(rows: Sequence[Row], *, aggregates: bool = False) -> Tables:
    """Tables of the offline benchmark.

    Parameters
    ----------
    rows : sequence of mappings
        From `pretraining.benchmark.parts.offline`.
    aggregates : bool, default=False
        Whether to add what needs rliable.

    Returns
    -------
    dict of str to dict
        Tables by name.
    """
    scores = offline_scores(rows)
    behaviours, sizes = scores.levels("behaviour"), scores.levels("size")
    scale = "Normalised value: 0 is the uniform policy, 1 the optimal one."
    stated = (
        f"{scale} Gamma {_joined(scores.levels('gamma'))}; "
        f"{len(scores.levels('environment'))} environments; logs of {_joined(sizes)} "
        f"transitions; {len(scores.seeds)} logs in each of {len(scores.cells):,} cells."
    )
    cvar = "10%-CVaR is the mean of the worst tenth of the logs of each cell."

    def main_row(name: str) -> list[Any]:
        row: list[Any] = [name, scores.estimate(name)]
        if aggregates:
            row.append(interquartile_mean(scores.values(name)))
        row.append(scores.estimate(name, tail_mean))
        return row + [scores.estimate(name, behaviour=level) for level in behaviours]

    columns = ["method", "mean", *["interquartile mean"] * aggregates, "10%-CVaR"]
    columns += [f"mean, {behaviour}" for behaviour in behaviours]
    tables = {
        "offline": table(
            f"{stated} {cvar} With {_STATED}.", columns, map(main_row, scores.methods)
        ),
        "offline-constants": table(
            f"{scale} Each constant, the same in all environments. {cvar} With "
            f"{_STATED}.",
            columns,
            map(main_row, scores.tuned),
        ),
        "offline-sizes": table(
            f"{scale} Mean by number of transitions, with {_STATED}.",
            ["method", *map(str, sizes)],
            [
                [name, *(scores.estimate(name, size=size) for size in sizes)]
                for name in scores.methods
            ],
        ),
        "offline-environments": table(
            f"{scale} Mean by environment, with {_STATED}, and the constant of the "
            "best mean in the environment, chosen in hindsight.",
            ["environment", *scores.methods],
            environment_rows(scores, scores.methods),
        ),
    }
    if any(map(is_tabrl, scores.methods)):
        tables["offline-comparison"] = comparison_table(
            scores, f"Offline. {scale}", aggregates=aggregates
        )
    return tables


# Online


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
            f"{_STATED}.",
            [
                *("method", "mean regret"),
                *["interquartile mean"] * aggregates,
                *("share solved", "share that gave up"),
            ],
            main_rows,
            digits=2,
        ),
        "online-environments": table(
            f"{scale} Mean by environment, with {_STATED}, and the constant of the "
            "lowest mean in the environment, chosen in hindsight.",
            ["environment", *scores.methods],
            environments,
            digits=1,
        ),
    }
    if any(map(is_tabrl, scores.methods)):
        tables["online-comparison"] = comparison_table(
            scores, f"Online. {scale}", aggregates=aggregates, digits=1
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
        Of the environments with most runs first, then of those with fewer.
    """
    runs: dict[str, list[Row]] = {}
    for row in rows:
        if row["part"] == "regret":
            # DQN says nothing of what it left untried.
            row = {"gives_up": None, **row, "is_solved": row["solved"] is not None}
            runs.setdefault(row["environment"], []).append(row)
    groups: dict[int, list[Row]] = {}
    for found in runs.values():
        groups.setdefault(len({row["seed"] for row in found}), []).extend(found)
    return [
        Scores(groups[n], ("gamma", "environment"), "regret", lower_is_better=True)
        for n in sorted(groups, reverse=True)
    ]


# Bandits


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


# Speed


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
    return {
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


def _ratio(ours: Sequence[Row], others: Sequence[Row], key: str) -> list[float] | None:
    if others is ours:
        return None
    # A page of memory, so that what needs no new one does not divide by 0.
    least = 4096 if key == "bytes" else 0
    pairs = zip(ours, others, strict=True)
    return _spread([max(x[key], least) / max(y[key], least) for x, y in pairs])


def _spread(numbers: Sequence[float]) -> list[float]:
    return [statistics.median(numbers), min(numbers), max(numbers)]


PARTS: dict[str, Callable[..., Tables]] = {
    "offline": offline_tables,
    "online": online_tables,
    "bandit": bandit_tables,
    "speed": speed_tables,
}
