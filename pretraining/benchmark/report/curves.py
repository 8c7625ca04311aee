"""Learning curves, and where more rows made the policy worse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.report.intervals import Estimate, cell_draws, interval
from pretraining.benchmark.report.scores import Scores, is_tabrl
from pretraining.benchmark.report.table import Table, table

FALL = 0.02
# A fall is looked for from one size to one so many times as large.
STEP = 4

World = tuple[float, str, str]  # gamma, environment, behaviour
Curve = Mapping[int, NDArray[np.float64]]  # scores (seeds,) by size


def learning_curves(groups: Sequence[Scores], name: str) -> dict[World, Curve]:
    """Return the scores of a method by size, for each environment and behaviour.

    Parameters
    ----------
    groups : sequence of Scores
        From `offline_scores`.
    name : str
        The method.

    Returns
    -------
    dict of (gamma, environment, behaviour) to dict of int to array of shape (seeds,)
        The sizes ascend.
    """
    found: dict[World, dict[int, NDArray[np.float64]]] = defaultdict(dict)
    for scores in groups:
        if name in scores.methods:
            for (gamma, environment, behaviour, size), x in scores.by_cell(
                name
            ).items():
                found[gamma, environment, behaviour][size] = x
    return {world: dict(sorted(curve.items())) for world, curve in found.items()}


@dataclass(frozen=True)
class Fall:
    """A mean that is lower with four times as many rows.

    Attributes
    ----------
    world : (gamma, environment, behaviour)
        Where.
    sizes : (int, int)
        The smaller size and the larger.
    means : (float, float)
        The means at the two.
    amount : list of float
        How much lower the second is, with its bootstrap interval.
    """

    world: World
    sizes: tuple[int, int]
    means: tuple[float, float]
    amount: Estimate

    @property
    def is_sure(self) -> bool:
        """Whether the interval is beyond 0."""
        return self.amount[1] > 0


def find_falls(curves: Mapping[World, Curve], least: float = FALL) -> list[Fall]:
    """Find where a mean falls by more than `least` from a size to four times it.

    The logs of the two sizes are resampled independently, as they were drawn.

    Returns
    -------
    list of Fall
        The largest first.
    """
    falls = []
    for world, curve in curves.items():
        for size, before in curve.items():
            after = curve.get(STEP * size)
            if after is None or not before.mean() - after.mean() > least:
                continue
            draws = cell_draws(before, (*world, size))
            draws = draws - cell_draws(after, (*world, STEP * size))
            means = float(before.mean()), float(after.mean())
            amount = [means[0] - means[1], *interval(draws[None])]
            falls.append(Fall(world, (size, STEP * size), means, amount))
    return sorted(falls, key=lambda fall: -fall.amount[0])


def falls_table(groups: Sequence[Scores], n_shown: int = 30) -> Table:
    """Set out the falls of tabrl's policies, the sure ones first."""
    lines, counts = [], []
    for name in filter(is_tabrl, groups[0].methods):
        curves = learning_curves(groups, name)
        n_steps = sum(
            STEP * size in curve for curve in curves.values() for size in curve
        )
        falls = find_falls(curves)
        sure = [fall for fall in falls if fall.is_sure]
        counts.append(f"{name}: {len(falls)} of {n_steps} steps, {len(sure)} surely")
        lines += [
            [
                *(name, fall.world[1], fall.world[2], *map("{:,}".format, fall.sizes)),
                *(*fall.means, fall.amount, "yes" if fall.is_sure else "no"),
            ]
            for fall in falls
        ]
    lines.sort(key=lambda line: (line[-1] == "no", -line[-2][0]))
    return table(
        f"Falls: the mean over logs is lower by more than {FALL:g} with {STEP} times "
        f"as many rows. {'; '.join(counts)}. Sure is a fall whose bootstrap 95% "
        f"interval lies above 0. Sure falls first, {min(n_shown, len(lines))} of "
        f"{len(lines)} shown.",
        [
            *("method", "environment", "behaviour", "from rows", "to rows"),
            *("mean", "mean after", "fall", "sure"),
        ],
        lines[:n_shown],
    )
