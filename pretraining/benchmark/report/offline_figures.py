"""Pictures of the offline benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter, ScalarFormatter

from pretraining.benchmark.report.coverage import STATED_COVERAGE, measured
from pretraining.benchmark.report.curves import find_falls, learning_curves
from pretraining.benchmark.report.intervals import performance_profile
from pretraining.benchmark.report.rows import Row
from pretraining.benchmark.report.scores import Scores, family, is_tabrl
from pretraining.benchmark.report.style import (
    OTHERS,
    OURS,
    legend_below,
    new_panels,
    short_name,
    styles,
)
from pretraining.benchmark.report.thresholds import LEVEL, Ratios

# Peers of the small panels: more lines cannot be told from each other there.
_N_PEERS = 4
# The peers of README's picture, one of each idea.
_OVERVIEW = ("VI-LCB", "Soft-SPIBB", "certainty equivalence")


def score_by_size(groups: Sequence[Scores]) -> Figure:
    """Offline score against the size of the log, a panel a behaviour."""
    scores = groups[0]
    sizes, behaviours = sorted(scores.levels("size")), scores.levels("behaviour")
    figure, panels = new_panels(len(behaviours), 2, (5.0, 3.4))
    styled = styles(scores.methods)
    for axes, behaviour in zip(panels, behaviours, strict=True):
        for name, style in styled.items():
            found = [
                scores.estimate(name, behaviour=behaviour, size=size) for size in sizes
            ]
            value, low, high = np.array(found).T
            axes.plot(sizes, value, **style)
            axes.fill_between(sizes, low, high, color=style["color"], alpha=0.15, lw=0)
        axes.set(xscale="log", title=f"behaviour: {behaviour}")
        axes.set(xlabel="transitions", ylabel="normalised value")
        axes.grid(alpha=0.3)
    legend_below(figure, panels[0], 2)
    return figure


def best_peers(scores: Scores, n: int = _N_PEERS) -> list[str]:
    """Return the best method by mean of each of the n best families of peers."""
    found: dict[str, str] = {}
    peers = [name for name in scores.methods if not is_tabrl(name)]
    for name in sorted(
        peers, key=lambda name: -scores.sign * scores.values(name).mean()
    ):
        found.setdefault(family(name), name)
    return list(found.values())[:n]


def curves_by_environment(groups: Sequence[Scores]) -> Figure:
    """Learning curve of every environment, averaged over behaviours and logs.

    A cross marks a size that a sure fall of tabrl's first policy leads to, under some
    behaviour.
    """
    scores = groups[0]
    names = [*filter(is_tabrl, scores.methods), *best_peers(scores)]
    styled = styles(names)
    curves = {name: learning_curves(groups, name) for name in names}
    falls = [fall for fall in find_falls(curves[names[0]]) if fall.is_sure]
    environments = list(dict.fromkeys(world[1] for world in curves[names[0]]))
    figure, panels = new_panels(len(environments), 5, (2.6, 2.1))
    for axes, environment in zip(panels, environments, strict=True):
        for name, style in styled.items():
            means = _mean_by_size(curves[name], environment)
            label = style["label"] if axes is panels[0] else None
            axes.plot(list(means), list(means.values()), **{**style, "label": label})
            if name == names[0]:
                fell = {f.sizes[1] for f in falls if f.world[1] == environment}
                places = [size for size in means if size in fell]
                values = [means[size] for size in places]
                axes.plot(places, values, "x", color="red", ms=8, mew=2, zorder=5)
        axes.axhline(LEVEL, color="0.7", lw=0.8, zorder=0)
        _log_sizes(axes)
        axes.set_title(environment, fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in panels:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel("normalised value", fontsize=8)
    for axes in panels[-5:]:
        axes.set_xlabel("transitions in the log", fontsize=8)
    legend_below(figure, panels[0], 3)
    return figure


def _mean_by_size(curves: Mapping[Any, Any], environment: str) -> dict[int, float]:
    by_size: dict[int, list[float]] = {}
    for (_, name, _), curve in curves.items():
        if name == environment:
            for size, values in curve.items():
                by_size.setdefault(size, []).append(float(values.mean()))
    return {size: float(np.mean(means)) for size, means in sorted(by_size.items())}


def _log_sizes(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)


def ratio_profiles(found: Sequence[Ratios]) -> Figure:
    """Share of cells by how many times fewer rows tabrl's first policy needs."""
    first = found[0].method
    figure, (axes,) = new_panels(1, 1, (7.5, 5.0))
    chosen = [ratios for ratios in found if ratios.method == first]
    for ratios, style in zip(
        chosen, styles([ratios.peer for ratios in chosen]).values(), strict=True
    ):
        there = np.sort(ratios.values[~np.isnan(ratios.values)])[::-1]
        share = np.arange(1, len(there) + 1) / len(there)
        mean = ratios.mean()[0]
        label = f"{ratios.peer}: {mean:.2f} (geometric mean)"
        axes.step(there, share, where="post", **{**style, "label": label, "lw": 1.8})
    axes.axvline(1, color="0.4", lw=1)
    axes.set(xscale="log", ylim=(0, 1.02))
    ticks = [1 / 64, 1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16, 64]
    low, high = axes.get_xlim()
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [f"{t:g}" if t >= 1 else f"1/{1 / t:g}" for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(f"rows of the peer by rows of {first}, to {LEVEL:g} of the optimum")
    axes.set_ylabel("share of cells with at least that ratio")
    axes.annotate(
        f"right of the line {first} needs fewer rows",
        (0.98, 0.97),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=9,
    )
    axes.grid(alpha=0.3)
    legend_below(figure, axes, 2)
    return figure


def coverage_by_size(rows: Sequence[Row]) -> Figure:
    """Coverage of the 80% interval by size: a line an environment, and their mean."""
    found = measured(rows, "coverage")
    sizes = sorted({size for by_size in found.values() for size in by_size})
    means = [
        np.mean([by_size[size][0] for by_size in found.values() if size in by_size])
        for size in sizes
    ]
    # Those farthest from what is stated are named.
    distance = {
        name: max(abs(x[0] - STATED_COVERAGE) for x in by_size.values())
        for name, by_size in found.items()
    }
    named = sorted(distance, key=lambda name: -distance[name])[: len(OTHERS) - 1]
    figure, (axes,) = new_panels(1, 1, (7.5, 5.0))
    for name, by_size in found.items():
        line = [by_size[size][0] for size in sorted(by_size)]
        colour = OTHERS[named.index(name)] if name in named else "0.8"
        label = name if name in named else None
        zorder = 2 if name in named else 1
        axes.plot(sorted(by_size), line, color=colour, label=label, lw=1, zorder=zorder)
    axes.plot(sizes, means, color=OURS[0], lw=2.5, label="mean", zorder=3)
    axes.axhline(STATED_COVERAGE, color=OURS[1], ls="--", label="stated")
    _log_sizes(axes)
    axes.set(ylim=(0, 1.02), xlabel="transitions in the log")
    axes.set_ylabel("visited pairs whose optimal value is inside")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    legend_below(figure, axes, 3)
    return figure


def overview(sizes: Mapping[str, Any]) -> Figure:
    """Mean learning curve of tabrl and of the best peers, README's picture.

    Parameters
    ----------
    sizes : mapping
        The table ``offline-sizes``.
    """
    columns = [int(column) for column in sizes["columns"][1:]]
    lines = {
        row[0]: np.array([entry[:3] for entry in row[1:]]) for row in sizes["rows"]
    }
    ours = next(filter(is_tabrl, lines))
    best: dict[str, str] = {}
    peers = [name for name in lines if not is_tabrl(name)]
    for name in sorted(peers, key=lambda name: -lines[name][:, 0].mean()):
        best.setdefault(family(name), name)
    names = [ours, *[best[kind] for kind in _OVERVIEW if kind in best]]
    figure, (axes,) = new_panels(1, 1, (7.2, 4.2))
    for name, style in styles(names).items():
        value, low, high = lines[name].T
        label = "tabrl, as it comes" if name == ours else short_name(name)
        axes.plot(columns, value, **{**style, "label": label, "marker": "o", "ms": 4})
        axes.fill_between(columns, low, high, color=style["color"], alpha=0.2, lw=0)
    axes.set_xscale("log")
    axes.set_xticks(columns, [f"{size:,}" for size in columns])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("transitions in the log")
    axes.set_ylabel("value of the policy\n(0: random, 1: optimal)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    return figure


def profiles(groups: Sequence[Scores]) -> Figure:
    """Share of the logs on which each method scores more than a threshold."""
    scores = groups[0]
    thresholds = np.linspace(-1, 1, 41)
    figure, (axes,) = new_panels(1, 1, (7.0, 5.5))
    for name, style in styles(scores.methods).items():
        values = scores.values(name)
        share, low, high = performance_profile(values, thresholds - 1e-9)
        axes.plot(thresholds, share, **style)
        axes.fill_between(thresholds, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.set(xlabel="normalised value", ylabel="share of logs with at least that")
    axes.grid(alpha=0.3)
    legend_below(figure, axes, 2)
    return figure


def calibration(validation: Mapping[str, Any]) -> Figure:
    """Share of optimal action values below each quantile, on the prior's processes.

    Parameters
    ----------
    validation : mapping
        Of a checkpoint's ``config.json``.
    """
    stated = [0.1, 0.5, 0.9]
    found = [validation[f"below_{head}"] for head in ("low", "middle", "high")]
    figure, (axes,) = new_panels(1, 1, (4.5, 4.2))
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    axes.plot(stated, found, "o-", color=OURS[1])
    for x, y in zip(stated, found, strict=True):
        axes.annotate(f"{y:.2f}", (x, y), (6, -10), textcoords="offset points")
    axes.set(xlabel="stated quantile of the optimal action value")
    axes.set(ylabel="share of optimal action values below")
    axes.grid(alpha=0.3)
    return figure
