"""Whether a network answers the same on another device as on the CPU.

Part of the validation: `validate --compare cuda` adds it to the report.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from pretraining.recipe.loss import compute_losses
from pretraining.validation.sets import validation_set
from tabrl._network import Network


def compare_devices(network: Network, device: str, n_per_cell: int) -> dict[str, Any]:
    """Return how far the network on another device is from that on the CPU.

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
