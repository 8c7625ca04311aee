"""Rows to 0.9: the size of log that a method needs, and how many times fewer.

A learning curve is the mean over logs by their size. A method *reaches* 0.9 at the
size from which on its curve stays at 0.9 of the optimum or above, up to the largest
size tried. The first crossing would do for a curve that rises; one that falls again is
not there yet, and noise crosses early more often than late. Between two sizes the
curve is a line in the logarithm of the size.

Two ends of the scale are cut off:

- a curve below 0.9 at the largest size is *censored*: it needs more than that, and the
  size is infinite;
- a curve at 0.9 from the smallest size on gets that size, though fewer rows might do.

A ratio is the peer's rows by tabrl's, so that 2 means that tabrl needs half as many.
Where both are censored there is no ratio: such cells are left out and counted. Where
one is, the largest size stands for it, and the ratio is a bound: at least so much where
the peer is censored, at most where tabrl is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.report.curves import World, learning_curves
from pretraining.benchmark.report.intervals import (
    Estimate,
    cell_draws,
    centred_interval,
)
from pretraining.benchmark.report.scores import Scores, family, is_tabrl
from pretraining.benchmark.report.table import Table, table

LEVEL = 0.9
# They learn no policy of their own, and do not come to 0.9 by more rows.
_NO_LEARNERS = ("behaviour policy", "behaviour cloning")
_N_WORST = 3


def rows_to_reach(
    sizes: Sequence[int], means: NDArray[np.float64], level: float = LEVEL
) -> NDArray[np.float64]:
    """Return the size of log from which on a curve stays at a level or above.

    Parameters
    ----------
    sizes : sequence of int
        Sizes of the logs, ascending.
    means : array of shape (sizes, ...)
        Mean score at each size, of one curve or of several.
    level : float, default=0.9
        The level.

    Returns
    -------
    array of shape (...)
        Sizes; infinite where the curve is below the level at the largest.

    Examples
    --------
    >>> round(float(rows_to_reach([16, 64, 256], np.array([0.0, 0.8, 1.0]))), 9)
    128.0
    """
    log_size = np.log(np.asarray(sizes, dtype=np.float64))
    if len(log_size) != len(means) or (np.diff(log_size) <= 0).any():
        raise ValueError(
            "sizes must ascend, one for each row of means. Got "
            f"{list(sizes)} for {len(means)} rows."
        )
    reached = means >= level
    stays = np.logical_and.accumulate(reached[::-1])[::-1]
    first = np.where(stays[-1], stays.argmax(axis=0), 0)
    above = np.take_along_axis(means, first[None], axis=0)[0]
    before = np.maximum(first - 1, 0)
    below = np.take_along_axis(means, before[None], axis=0)[0]
    rise = np.where(first > 0, above - below, 1.0)
    # From 0 at the size before to 1 at the first that stays.
    way = np.where(first > 0, (level - below) / rise, 1.0)
    size = np.exp(log_size[before] + way * (log_size[first] - log_size[before]))
    return np.where(stays[-1], size, np.inf)


def ratio(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], largest: float
) -> NDArray[np.float64]:
    """Return how many times fewer rows we need; NaN where both are censored.

    Parameters
    ----------
    ours, theirs : arrays of the same shape
        From `rows_to_reach`.
    largest : float
        The largest size, which stands for a censored one.

    Examples
    --------
    >>> ratio(np.array([64.0, np.inf]), np.array([np.inf, np.inf]), 256)
    array([ 4., nan])
    """
    both = np.isinf(ours) & np.isinf(theirs)
    found = np.minimum(theirs, largest) / np.minimum(ours, largest)
    return np.where(both, np.nan, found)


def geometric_mean(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Geometric mean over the first axis of the ratios that are there, NaN of none.

    Examples
    --------
    >>> round(float(geometric_mean(np.array([0.5, 8.0, np.nan]))), 9)
    2.0
    """
    there = ~np.isnan(ratios)
    n_there = there.sum(axis=0)
    logs = np.log(np.where(there, ratios, 1.0)).sum(axis=0) / np.maximum(n_there, 1)
    return np.where(n_there > 0, np.exp(logs), np.nan)


@dataclass(frozen=True)
class Ratios:
    """How many times fewer rows a policy of ours needs than a family of peers.

    Attributes
    ----------
    method, peer : str
        The policy, and the family: of its methods the one that needs the fewest rows
        in a cell is compared.
    worlds : list of (gamma, environment, behaviour)
        The cells.
    values : array of shape (cells,)
        The ratios; NaN where both are censored.
    draws : array of shape (cells, 2000)
        Their draws.
    at_least, at_most : bool arrays of shape (cells,)
        Where the peer, or ours, is censored alone.
    """

    method: str
    peer: str
    worlds: list[World]
    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    at_least: NDArray[np.bool_]
    at_most: NDArray[np.bool_]

    def mean(self) -> Estimate:
        """Geometric mean with its interval, of resampled logs."""
        value = float(geometric_mean(self.values))
        drawn = geometric_mean(self.draws)
        ends = centred_interval(np.log(value), np.log(drawn[~np.isnan(drawn)]))
        return [value, *map(float, np.exp(ends))]

    def share(self, at_least: float) -> Estimate:
        """Share of the cells with a ratio that is at least so large."""

        def share(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
            there = ~np.isnan(ratios)
            return (ratios >= at_least).sum(axis=0) / np.maximum(there.sum(axis=0), 1)

        value = float(share(self.values))
        ends = np.clip(centred_interval(value, share(self.draws)), 0, 1)
        return [value, *map(float, ends)]


def compare_rows(groups: Sequence[Scores]) -> list[Ratios]:
    """Compare each policy of tabrl with each family of peers.

    Parameters
    ----------
    groups : sequence of Scores
        From `offline_scores`. The constants of peers are those chosen in hindsight.

    Returns
    -------
    list of Ratios
        By policy of tabrl, then in the order of the geometric means, the strongest
        peer first. A family is left out where there is no ratio at all.
    """
    needed: dict[str, dict[World, tuple[NDArray, NDArray]]] = {}
    largest: dict[World, int] = {}
    families: dict[str, list[str]] = {}
    for name in groups[0].methods:
        if name in _NO_LEARNERS:
            continue
        curves = learning_curves(groups, name)
        needed[name] = {}
        for world, cells in curves.items():
            sizes = list(cells)
            means = np.array([cells[size].mean() for size in sizes])
            draws = [cell_draws(cells[size], (*world, size)) for size in sizes]
            needed[name][world] = (
                rows_to_reach(sizes, means),
                rows_to_reach(sizes, np.stack(draws)),
            )
            largest[world] = sizes[-1]
        if not is_tabrl(name):
            families.setdefault(family(name), []).append(name)
    found = []
    for ours in filter(is_tabrl, needed):
        peers = [
            _compare(needed, largest, ours, peer, names)
            for peer, names in families.items()
        ]
        peers = [ratios for ratios in peers if not np.isnan(ratios.values).all()]
        found += sorted(peers, key=lambda ratios: ratios.mean()[0])
    return found


def _compare(
    needed: Mapping[str, Mapping[World, tuple[NDArray, NDArray]]],
    largest: Mapping[World, int],
    ours: str,
    peer: str,
    names: Sequence[str],
) -> Ratios:
    worlds = [w for w in needed[ours] if all(w in needed[name] for name in names)]
    values, draws, at_least, at_most = [], [], [], []
    for world in worlds:
        we, we_drawn = needed[ours][world]
        they = np.min([needed[name][world][0] for name in names], axis=0)
        they_drawn = np.min([needed[name][world][1] for name in names], axis=0)
        values.append(ratio(we, they, largest[world]))
        draws.append(ratio(we_drawn, they_drawn, largest[world]))
        at_least.append(np.isinf(they) and not np.isinf(we))
        at_most.append(np.isinf(we) and not np.isinf(they))
    return Ratios(
        *(ours, peer, worlds, np.array(values), np.stack(draws)),
        *(np.array(at_least), np.array(at_most)),
    )


def rows_table(comparisons: Sequence[Ratios]) -> Table:
    """Set out what `compare_rows` found."""
    lines = []
    for found in comparisons:
        order = np.argsort(found.values, kind="stable")  # NaN last
        worst = [i for i in order if found.values[i] < 1][:_N_WORST]
        lines.append(
            [
                *(found.method, found.peer, found.mean()),
                *(found.share(2.0), found.share(1.0)),
                f"{np.count_nonzero(~np.isnan(found.values))}, "
                f"{found.at_least.sum()}, {found.at_most.sum()}, "
                f"{np.isnan(found.values).sum()}",
                "; ".join(
                    f"{found.worlds[i][1]}, {found.worlds[i][2]}: {found.values[i]:.2f}"
                    for i in worst
                )
                or "none below 1",
            ]
        )
    return table(
        "Rows to 0.9: from how many transitions on the mean over logs stays at "
        f"{LEVEL:g} of the optimum. A ratio is the peer's rows by tabrl's: 2 means "
        "that tabrl needs half as many. A cell is an environment and a behaviour; the "
        "peer is the best of its kind in it, its constant chosen in hindsight. Cells "
        "in which neither gets there are left out of the ratio; where one does not, "
        "the largest size stands for its rows, and the ratio is a bound. Bootstrap "
        "95% intervals over logs.",
        [
            *("method", "compared with", "ratio, geometric mean"),
            *("share at 2 or more", "share at 1 or more"),
            "cells: compared, of which peer never, of which tabrl never; left out",
            "worst cells",
        ],
        lines,
        digits=2,
    )


def short_rows_table(comparisons: Sequence[Ratios], n_lines: int = 7) -> Table:
    """Set out what tabrl's first policy needs against the strongest peers."""
    first = comparisons[0].method
    chosen = [found for found in comparisons if found.method == first][:n_lines]
    lines = []
    for found in chosen:
        worst = int(np.nanargmin(found.values))
        _, environment, behaviour = found.worlds[worst]
        remark = f"{found.values[worst]:.2f}: {environment}, {behaviour}"
        lines.append([found.peer, found.mean(), found.share(2.0), remark])
    return table(
        f"How many times fewer rows {first} needs than each method to reach {LEVEL:g} "
        "of the optimum for good, constants chosen in hindsight. Below 1 it needs "
        "more. 95% intervals.",
        ["compared with", "ratio", "share of cells at 2 or more", "worst cell"],
        lines,
        digits=2,
    )


def ratios_table(comparisons: Sequence[Ratios]) -> Table:
    """Set out the ratios of tabrl's first policy cell by cell."""
    first = comparisons[0].method
    chosen = [found for found in comparisons if found.method == first]
    worlds = list(dict.fromkeys(w for found in chosen for w in found.worlds))
    lines = []
    for world in worlds:
        line: list[str | float | None] = [f"{world[1]}, {world[2]}"]
        for found in chosen:
            line.append(_entry(found, world))
        lines.append(line)
    return table(
        f"Ratio of rows to {LEVEL:g} of {first} in each environment and behaviour: "
        "'>' and '<' mark bounds, '-' that neither gets there.",
        ["environment, behaviour", *(found.peer for found in chosen)],
        lines,
        digits=2,
    )


def _entry(found: Ratios, world: World) -> str | None:
    if world not in found.worlds:
        return None
    i = found.worlds.index(world)
    if np.isnan(found.values[i]):
        return None
    sign = ">" if found.at_least[i] else "<" if found.at_most[i] else ""
    return f"{sign}{found.values[i]:.2f}"
