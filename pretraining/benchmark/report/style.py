"""Colours, lines and panels that the pictures share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretraining.benchmark.report.scores import Scores, is_tabrl

# Safe for the colour-blind (Wong 2011), black and the vermilion for tabrl.
OURS = ("#000000", "#d55e00")
OTHERS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
MARKERS = "osD^vPX*"


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and line of each method, the same in every panel of a picture."""
    styles: dict[str, dict[str, Any]] = {}
    n_ours = n_others = 0
    for name in names:
        if is_tabrl(name):
            colour, line = OURS[n_ours % len(OURS)], "-"
            n_ours += 1
        else:
            colour = OTHERS[n_others % len(OTHERS)]
            line = ("--", ":", "-.")[n_others // len(OTHERS) % 3]
            n_others += 1
        width = 2.2 if is_tabrl(name) else 1.4
        label = short_name(name)
        styles[name] = {"color": colour, "ls": line, "lw": width, "label": label}
    return styles


def short_name(name: str) -> str:
    """Shorten what a legend says of a constant chosen in hindsight."""
    return re.sub(r"(\w+) best per environment in hindsight", r"\1 in hindsight", name)


def legend_below(figure: Figure, axes: Axes, n_columns: int) -> None:
    """Put one legend below all panels, from the handles of one of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncol=n_columns, frameon=False
    )


def new_panels(
    n: int, n_columns: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Make a figure of n panels of a size in inches, at most `n_columns` in a row."""
    n_columns = min(n, n_columns)
    n_rows = -(-n // n_columns)
    figure = Figure((size[0] * n_columns, size[1] * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
    for empty in axes[n:]:
        empty.set_axis_off()
    return figure, axes[:n]


def headline(scores: Scores, label: str, digits: int) -> Figure:
    """Mean of each method over all cells, with its interval."""
    names = sorted(scores.methods, key=lambda n: scores.sign * scores.values(n).mean())
    figure, (axes,) = new_panels(1, 1, (8.0, 0.6 + 0.36 * len(names)))
    for place, name in enumerate(names):
        value, low, high = scores.estimate(name)
        colour = OURS[1] if is_tabrl(name) else OTHERS[0]
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
    axes.set_yticks(range(len(names)), [short_name(name) for name in names])
    axes.set_ylim(-0.7, len(names) - 0.2)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    return figure
