"""Controls of the validation, for batches of data sets.

Certainty equivalence and VI-LCB in the form of
`pretraining.benchmark.baselines.offline`, with all the data sets and constants of a
batch at once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
    r"""Return action values (C, B, S, A) with lower confidence bounds, in float64.

    Those of the observed frequencies with the rewards

    .. math:: \hat r(s, a) - c \, (r_{max} - r_{min})
              \sqrt{\log(2 S A / \delta) / (2 \max(n(s, a), 1))}

    for each constant c. An unvisited pair counts as one visit that paid the lowest
    reward and stays where it is. See `pretraining.benchmark.baselines.offline.vi_lcb`.
    """
    n = statistics.n.double()
    low, high = (end[:, None, None] for end in reward_range(statistics))
    c = torch.tensor(constants, dtype=torch.float64)[:, None, None, None]
    log_term = math.log(2 * n[0].numel() / delta)
    bonus = c * (high - low) * (log_term / (2 * n.clamp(min=1))).sqrt()
    horizon = 1 / (1 - statistics.gamma.double())[:, None, None]
    unvisited = horizon * (low - bonus.amax((-2, -1), keepdim=True))
    reward = torch.where(n > 0, _mean_reward(statistics) - bonus, unvisited)
    return _optimal_values(statistics, reward)


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


def greedy(q: Tensor) -> Tensor:
    """Return the greedy policy (..., S, A), ties up to rounding in equal shares."""
    size = q.masked_fill(q == -math.inf, 0).abs().amax((-2, -1), keepdim=True)
    best = (q >= q.amax(-1, keepdim=True) - 1e-9 * size).double()
    return best / best.sum(-1, keepdim=True)


def first_best(q: Tensor) -> Tensor:
    """Return the policy (..., S, A) that takes the first of the best actions."""
    ties = greedy(q) > 0
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
