"""Controls of the validation: certainty equivalence and VI-LCB, for batches.

The methods are those of `pretraining.benchmark.baselines.offline`, with all the data
sets and constants of a batch at once: thousands of small processes are planned in, too
many for the benchmark's planner, which takes one. The scores compare a network with
them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pretraining.benchmark.baselines.offline.vi_lcb import penalised_reward
from tabrl._features import StatisticsBatch
from tabrl._planning import (
    NEVER,
    action_values,
    evaluate_actions,
    policy_iteration,
)

CONSTANTS = (0.05, 0.1, 0.2, 0.5, 1.0)


def certainty_equivalence(statistics: StatisticsBatch) -> Tensor:
    """Return the action values (B, S, A) of the observed frequencies, in float64.

    Pairs without visits are worth nothing, actions that are not allowed -inf.
    """
    return _optimal_values(statistics, _mean_reward(statistics))


def vi_lcb(
    statistics: StatisticsBatch,
    constants: tuple[float, ...] = CONSTANTS,
    delta: float = 0.1,
) -> Tensor:
    """Return action values (C, B, S, A) with lower confidence bounds, in float64.

    Those of the observed frequencies and the benchmark's `penalised_reward`, for each
    of C constants.
    """
    ends = (*reward_range(statistics), statistics.gamma.double())
    low, high, gamma = (end[:, None, None].numpy() for end in ends)
    reward = penalised_reward(
        statistics.n.double().numpy(),
        _mean_reward(statistics).numpy(),
        low,
        high,
        gamma,
        np.array(constants)[:, None, None, None],
        delta,
    )
    return _optimal_values(statistics, torch.from_numpy(reward))


def reward_range(statistics: StatisticsBatch) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest reward seen, (B,) each, 0 included.

    Statistics keep moments alone: for a pair whose rewards differ, the ends are its
    mean less and plus one standard deviation.
    """
    mean = _mean_reward(statistics)
    square = statistics.reward_sq_sum.double() / statistics.n.double().clamp(min=1)
    variance = square - mean**2
    # Below that it is what float32 leaves of equal rewards.
    deviation = torch.where(variance > 1e-6 * square, variance, 0.0).sqrt()
    low = (mean - deviation).amin((1, 2)).clamp(max=0)
    return low, (mean + deviation).amax((1, 2)).clamp(min=0)


def uniform_over_best(q: Tensor) -> Tensor:
    """Return the greedy policy (..., S, A), ties up to rounding in equal shares.

    Beside `tabrl._planning.greedy`, which allows for the rounding of float32: values
    here are exact in float64, and a control must not mix actions that differ by 1e-6 of
    their size.
    """
    size = q.masked_fill(q == -math.inf, 0).abs().amax((-2, -1), keepdim=True)
    best = (q >= q.amax(-1, keepdim=True) - 1e-9 * size).double()
    return best / best.sum(-1, keepdim=True)


def first_best(q: Tensor) -> Tensor:
    """Return the policy (..., S, A) that takes the first of the best actions."""
    ties = uniform_over_best(q) > 0
    return torch.nn.functional.one_hot(ties.int().argmax(-1), q.shape[-1]).double()


def _mean_reward(statistics: StatisticsBatch) -> Tensor:
    return statistics.reward_sum.double() / statistics.n.double().clamp(min=1)


def _optimal_values(statistics: StatisticsBatch, reward: Tensor) -> Tensor:
    """Plan for the observed frequencies and rewards (..., B, S, A)."""
    n_sets, S, A = statistics.n.shape
    P = torch.zeros(n_sets * S * A * S, dtype=torch.float64)
    index = statistics.edge_pair * S + statistics.edge_next % S
    P[index] = statistics.edge_count.double()
    n = statistics.n.double().clamp(min=1)
    P = P.view(n_sets, S, A, S) / n[..., None]
    gamma = statistics.gamma.double()
    # Policy iteration tells ties from improvements in absolute terms.
    size = reward.abs().amax((-2, -1), keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    choices = (reward / size).masked_fill(~statistics.allowed, NEVER)
    action = policy_iteration(P, choices, gamma)
    v = evaluate_actions(P, choices, gamma, action)
    q = size * action_values(P, choices, gamma[:, None, None], v)
    return q.masked_fill(~statistics.allowed, -math.inf)
