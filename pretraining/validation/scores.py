"""Scores of a network on each process of a validation set: regret and calibration.

Second of the validation, after the sets and controls: `validate` averages these scores.
"""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from torch import Tensor

from pretraining.recipe.loss import normalised_regret, optimal_actions
from pretraining.recipe.targets import ProcessBatch, uniform
from pretraining.validation.bootstrap import Scores
from pretraining.validation.controls import (
    CONSTANTS,
    certainty_equivalence,
    first_best,
    uniform_over_best,
    vi_lcb,
)
from tabrl._features import StatisticsBatch, build_features
from tabrl._network import Network
from tabrl._planning import plan_dense

HEADS = ("low", "middle", "high")
N_BINS = 10  # of the reliability curve
# Twice the regret of the uniform policy; else a few processes would decide a mean.
MAX_REGRET = 2.0


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
    scores = _regrets(batch, statistics, policy)
    scored = (statistics.known & ~batch.terminal).double()
    share = scored / scored.sum(-1, keepdim=True).clamp(min=1)
    share = share[..., None] * uniform(batch.allowed).double()  # (B, S, A), sums to 1
    scores |= _value_calibration(batch, q, share)
    scores |= _action_calibration(batch, chance, share)
    return {name: values.numpy() for name, values in scores.items()}


def _regrets(
    batch: ProcessBatch, statistics: StatisticsBatch, policy: Tensor
) -> dict[str, Tensor]:
    """Return the regret (B,) of the network's policies and of the controls."""
    ce, lcb = certainty_equivalence(statistics), vi_lcb(statistics)
    policies = {
        "sampled": policy,
        "greedy": uniform_over_best(policy),
        "ce_random_ties": uniform_over_best(ce),
        "ce_first_tie": first_best(ce),
    }
    policies |= {
        f"vi_lcb {c}": uniform_over_best(lcb[i]) for i, c in enumerate(CONSTANTS)
    }
    known = statistics.known[..., None]
    even = uniform(batch.allowed).double()
    return {
        name: normalised_regret(
            batch, torch.where(known, pi, even), everywhere=0.0
        ).clamp(max=MAX_REGRET)
        for name, pi in policies.items()
    }


def _value_calibration(
    batch: ProcessBatch, q: Tensor, share: Tensor
) -> dict[str, Tensor]:
    """Return the share (B,) of optimal values below each head and in the interval."""
    slack = 1e-6 * batch.q.abs().amax((1, 2), keepdim=True)  # rounding of float32
    below = {
        f"below_{head}": _mean(batch.q <= values + slack, share)
        for head, values in zip(HEADS, q, strict=True)
    }
    inside = (batch.q >= q[0] - slack) & (batch.q <= q[2] + slack)
    return below | {"coverage": _mean(inside, share)}


def _action_calibration(
    batch: ProcessBatch, chance: Tensor, share: Tensor
) -> dict[str, Tensor]:
    """Return Brier score (B,) and reliability bins (B, N_BINS) of ``chance``.

    ``chance`` (B, S, A) is the probability of each action to be the optimal one.
    """
    optimal = optimal_actions(batch).double()
    target = optimal / optimal.sum(-1, keepdim=True)
    bins = (N_BINS * chance).long().clamp(max=N_BINS - 1)
    bins = torch.nn.functional.one_hot(bins, N_BINS) * share[..., None]
    return {
        "brier": _mean((chance - target) ** 2, share),
        "bin_chance": (bins * chance[..., None]).sum((1, 2)),
        "bin_share": (bins * target[..., None]).sum((1, 2)),
        "bin_mass": bins.sum((1, 2)),
    }


def _mean(values: Tensor, share: Tensor) -> Tensor:
    return (share * values).sum((1, 2))
