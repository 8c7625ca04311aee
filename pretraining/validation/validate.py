"""Score a checkpoint on processes of the prior that training does not draw.

    python -m pretraining.validation.validate --checkpoint auto

Every family by data-set size, and logs of near-experts as cells of their own. The
policy of the network is the sampled one; its control in a cell is the best, in
hindsight, of certainty equivalence (first tie, or ties at random) and VI-LCB with each
of its constants. Then calibration, how far the network is from the Bayes reference, and
its exploration online, with the same weights. It is the last of the validation's order,
and writes the report that the model card shows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pretraining.prior import FAMILIES
from pretraining.recipe.export import averaged_network
from pretraining.validation import sets
from pretraining.validation.bootstrap import Scores, average, interval, resample
from pretraining.validation.conjugate import bayes_comparison
from pretraining.validation.controls import CONSTANTS
from pretraining.validation.devices import compare_devices
from pretraining.validation.exploration import online_scores
from pretraining.validation.report import METHODS, draw_figure, table
from pretraining.validation.scores import HEADS, N_BINS, infer, score
from pretraining.validation.sets import GROUP
from tabrl._checkpoint import load_network
from tabrl._network import Network

_CONTROLS = METHODS[2:]


def ratio(means: Scores) -> list[float]:
    """Return the regret of the model over that of the best control.

    Both plus 0.001, so that cells where both are all but optimal come out near one.
    """
    return interval((means["sampled"] + 1e-3) / (means["best_control"] + 1e-3))


def reliability_error(means: Scores) -> NDArray:
    """Return how far the shares of optimal actions are from their probabilities."""
    return np.abs(means["bin_chance"] - means["bin_share"]).sum(-1)


def _controlled(means: Scores) -> tuple[float, Scores]:
    """Find the best constant and the best control of a cell, in hindsight."""
    constant = min(CONSTANTS, key=lambda c: means[f"vi_lcb {c}"][0])
    means = means | {"vi_lcb": means[f"vi_lcb {constant}"]}
    best = min(_CONTROLS, key=lambda name: means[name][0])
    means["best_control"] = means[best]
    return constant, means


def _regrets(means: Scores) -> dict[str, list[float]]:
    return {name: interval(means[name]) for name in (*METHODS, "best_control")}


def score_set(
    network: Network, n_per_cell: int, near_expert: bool = False
) -> tuple[list[dict], dict[tuple[str, int], Scores], int]:
    """Score a validation set: the rows of its cells, their means and its size."""
    parts: dict[tuple[str, int], list[Scores]] = {}
    sizes = sets.NEAR_EXPERT_SIZES if near_expert else sets.SIZES
    total = len(FAMILIES) * len(sizes) * (n_per_cell // GROUP)
    for family, size, batch, statistics in tqdm(
        sets.validation_set(n_per_cell, near_expert), total=total
    ):
        scores = score(network, batch, statistics)
        parts.setdefault((family, size), []).append(scores)
    rng = np.random.default_rng(0)
    rows, cells = [], {}
    for (family, size), groups in parts.items():
        scores = {
            name: np.concatenate([group[name] for group in groups])
            for name in groups[0]
        }
        constant, means = _controlled(resample(rng, scores))
        cells[family, size] = means
        difference = interval(means["sampled"] - means["best_control"])
        row = {"family": family, "size": size, **_regrets(means)}
        row |= {"vi_lcb_constant": constant, "ratio": ratio(means)}
        rows.append(row | {"difference": difference})
    return rows, cells, total * GROUP


def validate(network: Network, n_per_cell: int) -> dict[str, Any]:
    """Return regrets and calibration with 95 % intervals, offline."""
    rows, cells, n = score_set(network, n_per_cell)
    near_rows, near_cells, n_near = score_set(network, n_per_cell, near_expert=True)
    everything = average(list(cells.values()))
    near = average(list(near_cells.values()))
    return {
        "n_processes": n,
        "n_near_expert": n_near,
        "overall": _regrets(everything),
        "ratio": ratio(everything),
        # Against the best control: surely better, and not surely worse.
        "better": sum(row["difference"][2] < 0 for row in rows),
        "wins": sum(row["difference"][1] <= 0 for row in rows),
        "cells": rows,
        "by_size": {str(size): _summary(cells, 1, size) for size in sets.SIZES},
        "by_family": {family: _summary(cells, 0, family) for family in FAMILIES},
        "near_expert": {
            "overall": _regrets(near),
            "ratio": ratio(near),
            "coverage": interval(near["coverage"]),
            "cells": near_rows,
        },
        "coverage": interval(everything["coverage"]),
        **{f"below_{h}": interval(everything[f"below_{h}"])[0] for h in HEADS},
        "brier_optimal_action": interval(everything["brier"])[0],
        "brier": interval(everything["brier"]),
        "reliability_error": interval(reliability_error(everything)),
        "reliability": _reliability_curve(everything),
    }


def _summary(
    cells: dict[tuple[str, int], Scores], key: int, value: str | int
) -> dict[str, Any]:
    """Average the cells of one family (key 0) or one size (key 1)."""
    means = average([m for cell, m in cells.items() if cell[key] == value])
    return {
        "sampled": interval(means["sampled"]),
        "best_control": interval(means["best_control"]),
        "ratio": ratio(means),
        "coverage": interval(means["coverage"]),
        "reliability_error": interval(reliability_error(means)),
    }


def _reliability_curve(means: Scores) -> list[dict[str, Any]]:
    """Return the share of optimal actions by their probability, a row a bin."""
    mass = means["bin_mass"]
    chance, share = (
        np.divide(means[f"bin_{name}"], mass, where=mass > 0, out=np.zeros_like(mass))
        for name in ("chance", "share")
    )
    return [
        {
            "mass": round(float(mass[0, i]), 4),
            "probability": round(float(chance[0, i]), 4),
            "optimal": interval(share[:, i]),
        }
        for i in range(N_BINS)
    ]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--run", type=Path, help="folder of the run, which gets the report"
    )
    source.add_argument(
        "--checkpoint", help="folder or name of a checkpoint, or 'auto'"
    )
    parser.add_argument(
        "--per-cell", type=int, default=64, help="processes a cell, a multiple of 8"
    )
    parser.add_argument("--figure", type=Path, help="PNG to write")
    parser.add_argument("--compare", help="also compare this device with the CPU")
    arguments = parser.parse_args()
    n = arguments.per_cell
    if n < GROUP or n % GROUP:
        parser.error(f"--per-cell must be a multiple of {GROUP}. Got {n}.")
    return arguments


def main() -> None:
    """Run the command line."""
    arguments = _parse_arguments()
    n = arguments.per_cell
    if arguments.run:
        network = averaged_network(arguments.run).eval()
    else:
        network = load_network(arguments.checkpoint, torch.device("cpu"))
    report = validate(network, n)
    report["bayes"] = bayes_comparison(lambda data: infer(network, data)[0], 2 * n)
    report["online"] = online_scores(network, n // GROUP)
    if arguments.compare:
        report["devices"] = compare_devices(network, arguments.compare, GROUP)
    if arguments.run:
        path = arguments.run / "validation.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.figure:
        draw_figure(report, arguments.figure)
    print(table(report))
    if "devices" in report:
        print(report["devices"])


if __name__ == "__main__":
    main()
