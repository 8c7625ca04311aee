"""tabrl beside every other method, over all data and environment by environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from pretraining.benchmark.report.intervals import (
    estimate,
    probabilities_of_improvement,
)
from pretraining.benchmark.report.scores import (
    Scores,
    family,
    is_tabrl,
    symbol,
)
from pretraining.benchmark.report.table import STATED, Table, table

_SHORT = 7  # lines of a table that README shows


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
    rows, pairs = [], []
    for name, peer in product(ours, peers):
        cells, x, y = scores.common(name, peer)
        means = float(x.mean()), float(y.mean())
        rows.append([name, peer, len(cells), *means, estimate(x - y)])
        pairs.append((scores.sign * x, scores.sign * y))
    if aggregates:
        for row, probability in zip(
            rows, probabilities_of_improvement(pairs), strict=True
        ):
            row.append(probability)
    for row in rows:
        row.append(won_tied_lost(scores, row[0], row[1], tie))
    return table(
        f"{caption} Differences are seed by seed, with {STATED}. An environment "
        "counts as won or lost where the interval of its difference lies beyond "
        f"{tie:g}.",
        columns,
        rows,
        digits,
    )


def won_tied_lost(scores: Scores, name: str, peer: str, tie: float) -> str:
    """Count the environments that a method wins, ties and loses against another.

    One counts as won or lost where the interval of its difference, seed by seed, lies
    beyond `tie`.
    """
    cells, x, y = scores.common(name, peer)
    won = lost = 0
    environments = scores.levels("environment", cells)
    for environment in environments:
        part = scores.where(cells, environment=environment)
        gain = scores.sign * (x[part] - y[part])
        _, low, high = estimate(gain)
        won += low > tie
        lost += high < -tie
    return f"{won}, {len(environments) - won - lost}, {lost}"


def short_table(
    scores: Scores,
    caption: str,
    columns: Mapping[str, Callable[[str], Any]],
    digits: int = 3,
    tie: float = 1e-3,
) -> Table:
    """Set out tabrl and the best peers, seven lines at most, for README.

    Parameters
    ----------
    scores : Scores
        All scores.
    caption : str
        What is scored.
    columns : mapping of str to callable
        What to show of a method beside its mean, by the column's name.
    digits : int, default=3
        Decimals.
    tie : float, default=1e-3
        For `won_tied_lost`.

    Returns
    -------
    dict
        tabrl's policies, then the best of each family of peers, the best mean first.
    """
    ours = [name for name in scores.methods if is_tabrl(name)]
    means = {name: scores.sign * scores.values(name).mean() for name in scores.methods}
    peers: dict[str, str] = {}
    for name in sorted(means, key=lambda name: -means[name]):
        if not is_tabrl(name):
            peers.setdefault(family(name), name)
    first = ours[0]
    rows = []
    for name in [*ours, *list(peers.values())[: _SHORT - len(ours)]]:
        row = [name.replace(" best per environment in", " in"), scores.estimate(name)]
        row += [column(name) for column in columns.values()]
        counts = None if name in ours else won_tied_lost(scores, first, name, tie)
        rows.append([*row, counts])
    return table(
        f"{caption} Constants of the others are the best in each environment, chosen "
        f"in hindsight. Won, tied, lost: environments of {first} against the method. "
        "95% intervals.",
        ["method", "mean", *columns, "won, tied, lost"],
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
