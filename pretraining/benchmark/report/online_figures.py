"""Pictures of the online benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pretraining.benchmark.report.intervals import bootstrap, interval
from pretraining.benchmark.report.online import regret_scores
from pretraining.benchmark.report.rows import Row
from pretraining.benchmark.report.scores import tuned_name
from pretraining.benchmark.report.style import MARKERS, legend_below, new_panels, styles


def regret_curves(rows: Sequence[Row]) -> Figure:
    """Cumulative regret by episode, a panel an environment."""
    scores, *_ = regret_scores(rows)
    environments = scores.levels("environment")
    figure, panels = new_panels(len(environments), 4, (3.2, 2.6))
    styled = styles(scores.methods)
    for axes, environment in zip(panels, environments, strict=True):
        for name, style in styled.items():
            found = scores.rows(name, environment=environment)
            curves = np.array([row["curve"] for row in found])  # (runs, points, 2)
            episode, regret = curves[0, :, 0], curves[:, :, 1]
            label = style["label"] if axes is panels[0] else None
            axes.plot(episode, regret.mean(axis=0), **{**style, "label": label})
            band = np.array([interval(bootstrap(point[None])) for point in regret.T])
            axes.fill_between(episode, *band.T, color=style["color"], alpha=0.15, lw=0)
        uniform = "uniform policy" if axes is panels[0] else None
        axes.plot(episode, episode, color="0.7", lw=1, zorder=0, label=uniform)
        axes.set_title(environment, fontsize=10)
        axes.set_xlabel("episode", fontsize=9)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("cumulative regret", fontsize=9)
        axes.set_ylim(0, None)
        axes.grid(alpha=0.3)
    legend_below(figure, panels[0], 3)
    return figure


def deep_sea(rows: Sequence[Row]) -> Figure:
    """Episodes until DeepSea is solved, by its size."""
    runs: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        if row["part"] == "deep sea":
            size = int(row["environment"].removeprefix("DeepSea-"))
            name = tuned_name(row["method"], row["constant"])
            runs.setdefault(name, {}).setdefault(size, []).append(row)
    figure, (axes,) = new_panels(1, 1, (6.5, 5.0))
    for i, (name, style) in enumerate(styles(list(runs)).items()):
        marker = MARKERS[i % len(MARKERS)]
        for size, found in runs[name].items():
            for row in found:
                solved = row["solved"] is not None
                # Runs that never solved it are hollow, where they were stopped.
                axes.plot(
                    size,
                    row["solved"] if solved else row["episodes"],
                    marker,
                    color=style["color"],
                    mfc=style["color"] if solved else "none",
                    ms=6,
                    alpha=0.8,
                )
        medians = [
            np.median([row["solved"] or np.inf for row in found])
            for found in runs[name].values()
        ]
        axes.plot(list(runs[name]), medians, marker=marker, ms=0, **style)
    sizes = np.array(sorted({size for found in runs.values() for size in found}))
    axes.plot(sizes, sizes**2, color="0.6", lw=1, label="$N^2$ episodes")
    axes.plot(
        sizes,
        40 * sizes,
        color="0.8",
        lw=1,
        label="end of a run, 40 N; unsolved: hollow",
    )
    axes.set(xscale="log", yscale="log", xlabel="N")
    axes.set(ylabel="episodes until the greedy policy solves it")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    legend_below(figure, axes, 2)
    return figure
