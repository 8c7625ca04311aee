"""Pictures of the benchmark's results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretraining.benchmark.cells import read_results
from pretraining.benchmark.report.intervals import (
    bootstrap,
    interval,
    performance_profile,
)
from pretraining.benchmark.report.scores import Row, Scores, is_tabrl, tuned_name
from pretraining.benchmark.report.summary import CHECKPOINT, result_files
from pretraining.benchmark.report.tables import offline_scores, regret_scores

# Safe for the colour-blind (Wong 2011), black and the vermilion for tabrl.
_OURS = ("#000000", "#d55e00")
_OTHERS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_MARKERS = "osD^vPX*"


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and line of each method, the same in every panel of a picture."""
    styles: dict[str, dict[str, Any]] = {}
    n_ours = n_others = 0
    for name in names:
        if is_tabrl(name):
            colour, line = _OURS[n_ours % len(_OURS)], "-"
            n_ours += 1
        else:
            colour = _OTHERS[n_others % len(_OTHERS)]
            line = ("--", ":", "-.")[n_others // len(_OTHERS) % 3]
            n_others += 1
        width = 2.2 if is_tabrl(name) else 1.4
        label = _short(name)
        styles[name] = {"color": colour, "ls": line, "lw": width, "label": label}
    return styles


def _short(name: str) -> str:
    return re.sub(r"(\w+) best per environment in hindsight", r"\1 in hindsight", name)


def _legend_below(figure: Figure, axes: Axes, n_columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncol=n_columns, frameon=False
    )


def _panels(n: int, n_columns: int, size: tuple[float, float]) -> tuple[Figure, list]:
    n_columns = min(n, n_columns)
    n_rows = -(-n // n_columns)
    figure = Figure((size[0] * n_columns, size[1] * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
    for empty in axes[n:]:
        empty.set_axis_off()
    return figure, axes[:n]


def score_by_size(rows: Sequence[Row]) -> Figure:
    """Offline score against the size of the log, a panel a behaviour."""
    scores = offline_scores(rows)
    sizes, behaviours = scores.levels("size"), scores.levels("behaviour")
    figure, panels = _panels(len(behaviours), 2, (5.0, 3.4))
    styles = _styles(scores.methods)
    for axes, behaviour in zip(panels, behaviours, strict=True):
        for name, style in styles.items():
            found = [
                scores.estimate(name, behaviour=behaviour, size=size) for size in sizes
            ]
            value, low, high = np.array(found).T
            axes.plot(sizes, value, **style)
            axes.fill_between(sizes, low, high, color=style["color"], alpha=0.15, lw=0)
        axes.set(xscale="log", title=f"behaviour: {behaviour}")
        axes.set(xlabel="transitions", ylabel="normalised value")
        axes.grid(alpha=0.3)
    _legend_below(figure, panels[0], 2)
    return figure


def profiles(rows: Sequence[Row]) -> Figure:
    """Share of the logs on which each method scores more than a threshold."""
    scores = offline_scores(rows)
    thresholds = np.linspace(-1, 1, 41)
    figure, (axes,) = _panels(1, 1, (7.0, 5.5))
    for name, style in _styles(scores.methods).items():
        values = scores.values(name)
        share, low, high = performance_profile(values, thresholds - 1e-9)
        axes.plot(thresholds, share, **style)
        axes.fill_between(thresholds, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.set(xlabel="normalised value", ylabel="share of logs with at least that")
    axes.grid(alpha=0.3)
    _legend_below(figure, axes, 2)
    return figure


def regret_curves(rows: Sequence[Row]) -> Figure:
    """Cumulative regret by episode, a panel an environment."""
    scores, *_ = regret_scores(rows)
    environments = scores.levels("environment")
    figure, panels = _panels(len(environments), 4, (3.2, 2.6))
    styles = _styles(scores.methods)
    for axes, environment in zip(panels, environments, strict=True):
        for name, style in styles.items():
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
    _legend_below(figure, panels[0], 3)
    return figure


def deep_sea(rows: Sequence[Row]) -> Figure:
    """Episodes until DeepSea is solved, by its size."""
    runs: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        if row["part"] == "deep sea":
            size = int(row["environment"].removeprefix("DeepSea-"))
            name = tuned_name(row["method"], row["constant"])
            runs.setdefault(name, {}).setdefault(size, []).append(row)
    figure, (axes,) = _panels(1, 1, (6.5, 5.0))
    for i, (name, style) in enumerate(_styles(list(runs)).items()):
        marker = _MARKERS[i % len(_MARKERS)]
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
    _legend_below(figure, axes, 2)
    return figure


def headline(scores: Scores, label: str, digits: int) -> Figure:
    """Mean of each method over all cells, with its interval."""
    names = sorted(scores.methods, key=lambda n: scores.sign * scores.values(n).mean())
    figure, (axes,) = _panels(1, 1, (8.0, 0.6 + 0.36 * len(names)))
    for place, name in enumerate(names):
        value, low, high = scores.estimate(name)
        colour = _OURS[1] if is_tabrl(name) else _OTHERS[0]
        axes.plot([low, high], [place, place], color=colour)
        axes.plot(value, place, "o", color=colour)
        axes.annotate(
            f"{value:.{digits}f}",
            (value, place),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(-0.7, len(names) - 0.2)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
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
    figure, (axes,) = _panels(1, 1, (4.5, 4.2))
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    axes.plot(stated, found, "o-", color=_OURS[1])
    for x, y in zip(stated, found, strict=True):
        axes.annotate(f"{y:.2f}", (x, y), (6, -10), textcoords="offset points")
    axes.set(xlabel="stated quantile of the optimal action value")
    axes.set(ylabel="share of optimal action values below")
    axes.grid(alpha=0.3)
    return figure


def draw(folder: Path, out: Path) -> list[Path]:
    """Draw the pictures of a folder of result files, and the bundled calibration.

    Parameters
    ----------
    folder : Path
        With the result files.
    out : Path
        Folder for the pictures, PNG.

    Returns
    -------
    list of Path
        The pictures.
    """
    figures: dict[str, Callable[[], Figure]] = {}
    logs = _rows(folder, "offline")
    if logs:
        figures["offline"] = lambda: headline(
            offline_scores(logs), "normalised value, mean over all logs", digits=3
        )
        figures["offline-sizes"] = lambda: score_by_size(logs)
        figures["offline-profiles"] = lambda: profiles(logs)
    runs = _rows(folder, "online")
    if runs:
        parts = {row["part"] for row in runs}
        if "regret" in parts:
            figures["online"] = lambda: headline(
                regret_scores(runs)[0],
                "regret, mean over environments (less is better)",
                digits=1,
            )
            figures["online-regret"] = lambda: regret_curves(runs)
        if "deep sea" in parts:
            figures["online-deep-sea"] = lambda: deep_sea(runs)
    config = json.loads(CHECKPOINT.read_text())
    if "below_low" in config.get("validation", {}):
        figures["calibration"] = lambda: calibration(config["validation"])
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        for name, make in figures.items():
            paths.append(out / f"{name}.png")
            make().savefig(paths[-1], dpi=130, bbox_inches="tight")
    return paths


def _rows(folder: Path, part: str) -> list[Row]:
    """Return the rows of all result files of a part."""
    paths = result_files(folder, part).values()
    return [row for path in paths for row in read_results(path)[1]]
