"""Score a checkpoint on processes of the prior that training never saw.

    python -m pretraining.validation.validate --run runs/base --figure validation.png
    python -m pretraining.validation.validate --checkpoint auto

A fixed set, seeded apart from training: every family by data-set size, and logs of
near-experts as cells of their own. The policy of the model is the sampled one; its
control in a cell is the best, in hindsight, of certainty equivalence (first tie, or
ties at random) and VI-LCB with each of its constants. Then calibration, how far the
model is from the Bayes reference, and its exploration online, with the same weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pretraining.prior import FAMILIES, log_uniform
from pretraining.recipe.export import averaged_network
from pretraining.recipe.loss import compute_losses, normalised_regret, optimal_actions
from pretraining.recipe.simulate import (
    draw_reward_ranges,
    experts,
    simulate,
    to_statistics,
    walk,
    with_rewards,
)
from pretraining.recipe.targets import ProcessBatch, draw_processes, uniform
from pretraining.validation.bootstrap import Scores, average, interval, resample
from pretraining.validation.conjugate import bayes_comparison
from pretraining.validation.controls import (
    CONSTANTS,
    certainty_equivalence,
    first_best,
    greedy,
    vi_lcb,
)
from pretraining.validation.exploration import online_scores
from pretraining.validation.report import METHODS, draw_figure, table
from tabrl._checkpoint import load_network
from tabrl._features import StatisticsBatch, build_features
from tabrl._network import Network
from tabrl._planning import plan_dense

_SEED = 2**32 - 1  # training groups are seeded (seed, index): no index gets here
SIZES = (16, 128, 1024, 8192)
NEAR_EXPERT_SIZES = (128, 1024)
_CONTROLS = METHODS[2:]
_GROUP = 8
_N_BINS = 10  # of the reliability curve
_CPU = torch.device("cpu")


# -- the set -----------------------------------------------------------------


def validation_set(
    n_per_cell: int, near_expert: bool = False
) -> Iterator[tuple[str, int, ProcessBatch, StatisticsBatch]]:
    """Yield family, size, processes and data sets, the same at every call.

    The behaviour is drawn as in training, or epsilon-greedy on one optimal policy with
    epsilon log-uniform in 0.02..0.1.
    """
    for f, family in enumerate(FAMILIES):
        for size in NEAR_EXPERT_SIZES if near_expert else SIZES:
            for i in range(n_per_cell // _GROUP):
                key = (_SEED, f, size, i)
                rng = np.random.default_rng((*key, 1) if near_expert else key)
                fewest = 1 if family == "bandits" else 2
                n_states = round(log_uniform(rng, fewest, 64))
                n_actions = round(log_uniform(rng, 2, 10))
                batch = draw_processes(rng, _GROUP, n_states, n_actions, [family])
                sizes = np.full(_GROUP, size)
                if near_expert:
                    counts = walk(rng, batch, near_experts(rng, batch), sizes)
                    log = with_rewards(rng, batch, counts)
                else:
                    log = simulate(rng, batch, sizes)
                offline = np.ones(_GROUP, bool)
                ranges = draw_reward_ranges(rng, batch)
                yield family, size, batch, to_statistics(batch, log, offline, ranges)


def near_experts(rng: np.random.Generator, batch: ProcessBatch) -> NDArray:
    """Draw narrow policies (B, S, A): one optimal action a state, all but always."""
    expert = experts(rng, batch)
    epsilon = np.exp(rng.uniform(np.log(0.02), np.log(0.1), (len(expert), 1, 1)))
    return (1 - epsilon) * expert + epsilon * uniform(batch.allowed).numpy()


# -- scores of each process --------------------------------------------------


def infer(network: Network, statistics: StatisticsBatch) -> tuple[Tensor, ...]:
    """Return policy, chances to be optimal (B, S, A) and action values (3, B, S, A).

    In float64 outside the network, as `tabrl.OfflinePolicyEstimator` infers.
    """
    moved = {}
    for f in fields(statistics):
        tensor = getattr(statistics, f.name)
        moved[f.name] = tensor.double() if tensor.is_floating_point() else tensor
    with torch.inference_mode():
        features = build_features(StatisticsBatch(**moved))
        tokens, posterior = network(features)
        planned = plan_dense(posterior, features)
        decision = network.decide(tokens, features, planned)
    q = planned * features.scale[:, None, None]
    q[0] = torch.minimum(q[0], q[1])
    q[2] = torch.maximum(q[2], q[1])
    horizon = 1 / (1 - features.gamma)[:, None]
    low, high = (horizon * moved["reward_range"]).unbind(-1)  # NaN where undeclared
    low, high = low.clamp(max=0).nan_to_num(-math.inf), high.clamp(min=0)
    high = high.nan_to_num(math.inf)
    q = q.clamp(low[:, None, None], high[:, None, None])
    return decision.policy.exp(), decision.optimal.exp(), q


def score(network: Network, batch: ProcessBatch, statistics: StatisticsBatch) -> Scores:
    """Return regrets from the start and calibration of each process, (n, ...).

    In states that the log does not show all policies are uniform. Calibration is a mean
    over the states that it shows, then over their actions; with k optimal actions in a
    state, the share 1 / k is what each one's probability should be.
    """
    policy, chance, q = infer(network, statistics)
    ce, lcb = certainty_equivalence(statistics), vi_lcb(statistics)
    policies = {
        "sampled": policy,
        "greedy": greedy(policy),
        "ce_random_ties": greedy(ce),
        "ce_first_tie": first_best(ce),
    }
    policies |= {f"vi_lcb {c}": greedy(lcb[i]) for i, c in enumerate(CONSTANTS)}
    known = statistics.known[..., None]
    even = uniform(batch.allowed).double()
    scores = {
        name: normalised_regret(batch, torch.where(known, pi, even), everywhere=0.0)
        for name, pi in policies.items()
    }
    scores = {name: regret.clamp(max=2) for name, regret in scores.items()}

    asked = (statistics.known & ~batch.terminal).double()
    share = asked / asked.sum(-1, keepdim=True).clamp(min=1)
    share = share[..., None] * even

    def mean(values: Tensor) -> Tensor:
        return (share * values).sum((1, 2))

    slack = 1e-6 * batch.q.abs().amax((1, 2), keepdim=True)
    for head, values in zip(("low", "middle", "high"), q, strict=True):
        scores[f"below_{head}"] = mean(batch.q <= values + slack)
    inside = (batch.q >= q[0] - slack) & (batch.q <= q[2] + slack)
    scores["coverage"] = mean(inside)
    optimal = optimal_actions(batch).double()
    target = optimal / optimal.sum(-1, keepdim=True)
    scores["brier"] = mean((chance - target) ** 2)
    bins = (_N_BINS * chance).long().clamp(max=_N_BINS - 1)
    bins = torch.nn.functional.one_hot(bins, _N_BINS) * share[..., None]
    for name, values in (("chance", chance), ("share", target)):
        scores[f"bin_{name}"] = (bins * values[..., None]).sum((1, 2))
    scores["bin_mass"] = bins.sum((1, 2))
    return {name: values.numpy() for name, values in scores.items()}


# -- means and intervals -----------------------------------------------------


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
    sizes = NEAR_EXPERT_SIZES if near_expert else SIZES
    total = len(FAMILIES) * len(sizes) * (n_per_cell // _GROUP)
    for family, size, batch, statistics in tqdm(
        validation_set(n_per_cell, near_expert), total=total
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
    return rows, cells, total * _GROUP


def validate(network: Network, n_per_cell: int) -> dict[str, Any]:
    """Return regrets and calibration with 95 % intervals, offline."""
    rows, cells, n = score_set(network, n_per_cell)
    near_rows, near_cells, n_near = score_set(network, n_per_cell, near_expert=True)
    everything = average(list(cells.values()))
    near = average(list(near_cells.values()))

    def summary(key: int, value: Any) -> dict[str, Any]:
        means = average([m for cell, m in cells.items() if cell[key] == value])
        return {
            "sampled": interval(means["sampled"]),
            "best_control": interval(means["best_control"]),
            "ratio": ratio(means),
            "coverage": interval(means["coverage"]),
            "reliability_error": interval(reliability_error(means)),
        }

    mass = everything["bin_mass"]
    curve = {}
    for name in ("chance", "share"):
        sums = everything[f"bin_{name}"]
        curve[name] = np.divide(sums, mass, where=mass > 0, out=np.zeros_like(mass))
    return {
        "n_processes": n,
        "n_near_expert": n_near,
        "overall": _regrets(everything),
        "ratio": ratio(everything),
        # Against the best control: surely better, and not surely worse.
        "better": sum(row["difference"][2] < 0 for row in rows),
        "wins": sum(row["difference"][1] <= 0 for row in rows),
        "cells": rows,
        "by_size": {str(size): summary(1, size) for size in SIZES},
        "by_family": {family: summary(0, family) for family in FAMILIES},
        "near_expert": {
            "overall": _regrets(near),
            "ratio": ratio(near),
            "coverage": interval(near["coverage"]),
            "cells": near_rows,
        },
        "coverage": interval(everything["coverage"]),
        **{
            f"below_{head}": interval(everything[f"below_{head}"])[0]
            for head in ("low", "middle", "high")
        },
        "brier_optimal_action": interval(everything["brier"])[0],
        "brier": interval(everything["brier"]),
        "reliability_error": interval(reliability_error(everything)),
        "reliability": [
            {
                "mass": round(float(mass[0, i]), 4),
                "probability": round(float(curve["chance"][0, i]), 4),
                "optimal": interval(curve["share"][:, i]),
            }
            for i in range(_N_BINS)
        ],
    }


# -- devices -----------------------------------------------------------------


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
        agree.append((here.policy.argmax(-1) == pi.argmax(-1)).ravel())
        policy.append(float((here.policy - pi).abs().max()))
        size = 1 + here.q_high.abs()
        value.append(float(((here.q_high - q).abs() / size).max()))
    return {
        "device": device,
        "greedy_agreement": round(float(torch.cat(agree).float().mean()), 5),
        "largest_policy_difference": max(policy),
        "largest_relative_value_difference": max(value),
    }


def main() -> None:
    """Run the command line."""
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
    if n < _GROUP or n % _GROUP:
        parser.error(f"--per-cell must be a multiple of {_GROUP}. Got {n}.")
    if arguments.run:
        network = averaged_network(arguments.run).eval()
    else:
        network = load_network(arguments.checkpoint, _CPU)
    report = validate(network, n)
    report["bayes"] = bayes_comparison(lambda data: infer(network, data)[0], 2 * n)
    report["online"] = online_scores(network, n // _GROUP)
    if arguments.compare:
        report["devices"] = compare_devices(network, arguments.compare, _GROUP)
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
