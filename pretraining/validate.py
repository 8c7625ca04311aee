"""Score a checkpoint on processes of the prior that training never saw.

    python -m pretraining.validate --run runs/base

A fixed set, seeded apart from training: every family by data-set size. The control
is certainty equivalence with ties at random, and with the first of the ties.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pretraining.export import averaged_network
from pretraining.loss import compute_losses, greedy, normalised_regret
from pretraining.prior import FAMILIES, log_uniform
from pretraining.simulate import draw_reward_ranges, simulate, to_statistics
from pretraining.targets import ProcessBatch, draw_processes, uniform
from tabrl._features import StatisticsBatch
from tabrl._network import Network
from tabrl._planning import action_values, evaluate_actions, policy_iteration

_SEED = 2**32 - 1  # training groups are seeded (seed, index): no index gets here
SIZES = (16, 128, 1024, 8192)
_GROUP = 8


def validation_set(
    n_per_cell: int,
) -> Iterator[tuple[str, int, ProcessBatch, StatisticsBatch]]:
    """Yield family, size, processes and data sets, the same at every call."""
    for f, family in enumerate(FAMILIES):
        for size in SIZES:
            for i in range(n_per_cell // _GROUP):
                rng = np.random.default_rng((_SEED, f, size, i))
                n_states = round(log_uniform(rng, 2, 64))
                n_actions = int(rng.integers(2, 7))
                batch = draw_processes(rng, _GROUP, n_states, n_actions, [family])
                log = simulate(rng, batch, np.full(_GROUP, size))
                statistics = to_statistics(
                    batch,
                    log,
                    np.ones(_GROUP, bool),
                    draw_reward_ranges(rng, batch),
                )
                yield family, size, batch, statistics


def certainty_equivalence(statistics: StatisticsBatch) -> torch.Tensor:
    """Return the action values of the empirical processes, (B, S, A).

    Pairs without data are worth nothing.
    """
    n_sets, S, A = statistics.n.shape
    n = statistics.n.double().clamp(min=1)
    P = torch.zeros(n_sets * S * A * S, dtype=torch.float64)
    index = statistics.edge_pair * S + statistics.edge_next % S
    P[index] = statistics.edge_count.double()
    P = P.view(n_sets, S, A, S) / n[..., None]
    r = statistics.reward_sum.double() / n
    gamma = statistics.gamma.double()
    choices = r.masked_fill(~statistics.allowed, -1e9)
    v = evaluate_actions(P, r, gamma, policy_iteration(P, choices, gamma))
    return action_values(P, choices, gamma[:, None, None], v)


def validate(network: Network, n_per_cell: int) -> dict:
    """Return mean regrets from the start by family and size, and the calibration."""
    cells: dict[tuple[str, int], list[np.ndarray]] = {}
    coverage, brier = [], []
    total = len(FAMILIES) * len(SIZES) * (n_per_cell // _GROUP)
    for family, size, batch, statistics in tqdm(
        validation_set(n_per_cell), total=total
    ):
        exact = batch.to("cpu", torch.float32)
        with torch.inference_mode():
            losses = compute_losses(network, exact, statistics)
        ce = certainty_equivalence(statistics)
        first = torch.nn.functional.one_hot(ce.argmax(-1), ce.shape[-1]).double()
        policies = [
            losses.policy.double(),
            greedy(losses.policy.double()),
            greedy(ce),
            first,
        ]
        known = statistics.known[..., None]
        regrets = [
            normalised_regret(
                batch, torch.where(known, pi, uniform(batch.allowed)), everywhere=0.0
            )
            .clamp(max=2)
            .numpy()
            for pi in policies
        ]
        cells.setdefault((family, size), []).append(np.stack(regrets))
        coverage.append(losses.coverage.numpy())
        brier.append(float(losses.brier))

    names = ("sampled", "greedy", "ce_random_ties", "ce_first_tie")
    rows, everything = [], []
    for (family, size), parts in cells.items():
        scores = np.concatenate(parts, 1)  # (4, n)
        everything.append(scores)
        rows.append({"family": family, "size": size, **_summary(names, scores)})
    low, middle, high = np.mean(coverage, 0)
    return {
        "n_processes": int(sum(s.shape[1] for s in everything)),
        "overall": _summary(names, np.concatenate(everything, 1)),
        "cells": rows,
        "below_low": round(float(low), 4),
        "below_middle": round(float(middle), 4),
        "below_high": round(float(high), 4),
        "brier_optimal_action": round(float(np.mean(brier)), 4),
    }


def compare_devices(network: Network, device: str, n_per_cell: int) -> dict:
    """Return how far the network on another device is from the CPU.

    The share of states whose greedy actions agree, and the largest difference of
    the policy and of the high plan's values (relative to their size).
    """
    agree, policy, value = [], [0.0], [0.0]
    other = copy.deepcopy(network).to(device)
    for _, _, batch, statistics in validation_set(n_per_cell):
        exact = batch.to("cpu", torch.float32)
        with torch.inference_mode():
            here = compute_losses(network, exact, statistics)
            there = compute_losses(
                other, exact.to(device, torch.float32), statistics.to(device)
            )
        pi, q = there.policy.cpu(), there.q_high.cpu()
        agree.append(((greedy(here.policy) > 0) == (greedy(pi) > 0)).all(-1).ravel())
        policy.append(float((here.policy - pi).abs().max()))
        size = 1 + here.q_high.abs()
        value.append(float(((here.q_high - q).abs() / size).max()))
    return {
        "device": device,
        "greedy_agreement": round(float(torch.cat(agree).float().mean()), 5),
        "largest_policy_difference": max(policy),
        "largest_relative_value_difference": max(value),
    }


def _summary(names: tuple[str, ...], scores: np.ndarray) -> dict:
    """Return the mean regret of each method with a bootstrap 95 % interval."""
    rng = np.random.default_rng(0)
    draws = rng.integers(scores.shape[1], size=(1000, scores.shape[1]))
    means = scores[:, draws].mean(-1)  # (methods, 1000)
    ends = np.quantile(means, [0.025, 0.975], axis=1)
    return {
        name: [round(float(x), 4) for x in (scores[i].mean(), ends[0, i], ends[1, i])]
        for i, name in enumerate(names)
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--per-cell", type=int, default=128, help="processes a cell")
    parser.add_argument("--compare", help="also compare this device with the CPU")
    arguments = parser.parse_args()
    network = averaged_network(arguments.run).eval()
    report = validate(network, arguments.per_cell)
    if arguments.compare:
        report["devices"] = compare_devices(network, arguments.compare, _GROUP)
        print(report["devices"])
    (arguments.run / "validation.json").write_text(json.dumps(report, indent=2) + "\n")
    print("regret: mean [95 % interval]")
    for row in [{"family": "all", "size": ""} | report["overall"], *report["cells"]]:
        scores = "  ".join(
            f"{name} {row[name][0]:.3f} [{row[name][1]:.3f}, {row[name][2]:.3f}]"
            for name in ("sampled", "greedy", "ce_random_ties", "ce_first_tie")
        )
        print(f"{row['family']:>10} {row['size']!s:>5}  {scores}")
    shares = [report[f"below_{head}"] for head in ("low", "middle", "high")]
    print(f"Q* below low, middle, high: {shares} (nominal 0.1, 0.5, 0.9)")
    print(f"Brier score of the optimal-action head: {report['brier_optimal_action']}")


if __name__ == "__main__":
    main()
