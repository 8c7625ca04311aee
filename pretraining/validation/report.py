"""The validation report as text and as a figure.

What `validate` writes as numbers, for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("sampled", "greedy", "ce_random_ties", "ce_first_tie", "vi_lcb")


def table(report: dict[str, Any]) -> str:
    """Return the report as text, one row a cell."""
    lines = [*_cell_lines(report), "", *_overall_lines(report)]
    if "bayes" in report:
        lines.append(_bayes_line(report["bayes"]))
    if "online" in report:
        online = report["online"]
        for name, scores in (("tabrl", online), ("PSRL", online["psrl"])):
            lines.append(_online_line(name, scores, online["n_processes"]))
    return "\n".join(lines)


def _text(x: list[float]) -> str:
    return f"{x[0]:.3f} [{x[1]:.3f}, {x[2]:.3f}]"


def _cell_lines(report: dict[str, Any]) -> list[str]:
    """Return a row for each cell, and for the mean of all."""

    def row(context: str, family: str, size: Any, cell: Mapping[str, Any]) -> str:
        constant = cell.get("vi_lcb_constant", "best")
        scores = "  ".join(f"{cell[name][0]:8.3f}" for name in METHODS)
        return (
            f"{context:<11}  {family:<10} {size!s:>5}  {scores} ({constant!s:>4})"
            f"  {_text(cell['ratio'])}"
        )

    near = report["near_expert"]
    titles = ("sampled", "greedy", "CE ties", "CE first", "VI-LCB")
    head = "  ".join(f"{title:>8}" for title in titles)
    return [
        "Normalised regret, 0 optimal, 1 uniform; ratio of sampled to the best control",
        f"{'logs':<11}  {'family':<10} {'size':>5}  {head} (best)  ratio [95 %]",
        *(row("mixed", c["family"], c["size"], c) for c in report["cells"]),
        *(row("near-expert", c["family"], c["size"], c) for c in near["cells"]),
        row("mixed", "all", "", report["overall"] | {"ratio": report["ratio"]}),
        row("near-expert", "all", "", near["overall"] | {"ratio": near["ratio"]}),
    ]


def _overall_lines(report: dict[str, Any]) -> list[str]:
    """Return the means over all cells as sentences."""
    by_family = ", ".join(
        f"{family} {row['coverage'][0]:.3f}"
        for family, row in report["by_family"].items()
    )
    below = ", ".join(
        f"{report[f'below_{head}']:.3f}" for head in ("low", "middle", "high")
    )
    return [
        f"Processes: {report['n_processes']}, and {report['n_near_expert']} with "
        "near-expert logs.",
        f"Sampled, all: {_text(report['overall']['sampled'])}; best control of each "
        f"cell: {_text(report['overall']['best_control'])}.",
        f"Of {len(report['cells'])} cells, not surely worse than the best control in "
        f"{report['wins']}, surely better in {report['better']}.",
        f"[low, high] covers Q*: {_text(report['coverage'])} (aim 0.8), near-expert "
        f"{_text(report['near_expert']['coverage'])}; by family: {by_family}.",
        f"Q* below low, middle, high: {below} (aim 0.1, 0.5, 0.9).",
        f"Optimal-action probability: reliability error "
        f"{_text(report['reliability_error'])}, Brier score {_text(report['brier'])}.",
    ]


def _bayes_line(bayes: dict[str, Any]) -> str:
    return (
        f"Excess over the Bayes reference, {bayes['n_processes']} conjugate "
        f"processes: sampled {_text(bayes['excess_sampled'])}, greedy "
        f"{_text(bayes['excess_greedy'])}, CE ties "
        f"{_text(bayes['excess_ce_random_ties'])}; plans for the posterior mean, "
        f"known prior {_text(bayes['excess_told_prior'])}, known family alone "
        f"{_text(bayes['excess_told_family'])}."
    )


def _online_line(name: str, scores: dict[str, Any], n_processes: int) -> str:
    return (
        f"Online {name}, {n_processes} processes, 30 episodes of 50 "
        f"steps: regret {_text(scores['regret'])}, of the last ten "
        f"{_text(scores['last'])}; gave up in {_text(scores['give_ups'])}."
    )


def draw_figure(report: dict[str, Any], path: Path) -> None:
    """Draw regret by size, reliability and coverage by family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4), layout="constrained"
    )
    rows = report["by_size"].values()
    sizes = [int(size) for size in report["by_size"]]
    for name, label in (("sampled", "tabrl"), ("best_control", "best control")):
        mean, low, high = np.array([row[name] for row in rows]).T
        left.plot(sizes, mean, marker="o", label=label)
        left.fill_between(sizes, low, high, alpha=0.25)
    left.set(xscale="log", xlabel="Transitions", ylabel="Normalised regret")
    left.set(ylim=(0, None), title="Regret, mean of all families")
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.minorticks_off()
    left.legend(frameon=False)

    bins = [row for row in report["reliability"] if row["mass"] > 0]
    mean, low, high = np.array([row["optimal"] for row in bins]).T
    middle.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    middle.errorbar(
        [row["probability"] for row in bins],
        mean,
        np.maximum([mean - low, high - mean], 0),
        marker="o",
        capsize=3,
    )
    error = report["reliability_error"][0]
    middle.set(xlabel="Probability to be optimal", ylabel="Share of optimal actions")
    middle.set(title=f"Reliability, error {error:.3f}", xlim=(0, 1), ylim=(0, 1))

    names = ["all", *report["by_family"]]
    shares = [row["coverage"] for row in report["by_family"].values()]
    mean, low, high = np.array([report["coverage"], *shares]).T
    right.axvspan(0.75, 0.85, color="0.9")
    right.axvline(0.8, color="0.6", linestyle="--", linewidth=1)
    spread = np.maximum([mean - low, high - mean], 0)
    right.errorbar(mean, names, xerr=spread, fmt="o", capsize=3)
    right.invert_yaxis()
    right.set(xlabel="Share of Q* in [low, high]", title="Coverage, nominal 0.8")
    figure.savefig(path, dpi=150)
    plt.close(figure)
