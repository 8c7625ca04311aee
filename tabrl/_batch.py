"""Statistics of several data sets as tensors, and what follows from them directly.

Pretraining makes a `StatisticsBatch` of many simulated data sets, inference one of the
user's. Features and exploration read the scaled rewards and the outcomes made here.

Shapes: B data sets, S states, A actions, E observed (s, a, s') edges. Pairs are
numbered ``(b * S + s) * A + a`` and states ``b * S + s`` where they are flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tabrl._statistics import Statistics

# Below this share of the squared rewards a variance is rounding, about 1e-16 of them
# in float64 and 1e-7 in float32.
_ROUNDING = 1e-6
# Divides counts that may be zero where the result is not used.
NOT_ZERO = 1e-12


@dataclass(frozen=True)
class StatisticsBatch:
    """Statistics of B data sets with the same S and A, as tensors.

    Attributes
    ----------
    n, reward_sum, reward_sq_sum, n_terminated : Tensor of shape (B, S, A)
        Visits, sum and sum of squares of rewards, visits that terminated.
    edge_pair, edge_next : int64 Tensor of shape (E,)
        Flat pair and flat next state of each observed continuing transition.
    edge_count : Tensor of shape (E,)
        How often it was observed.
    known : bool Tensor of shape (B, S)
        States the agent knows to exist; the rest is padding.
    complete : bool Tensor of shape (B,)
        Whether no others exist, but for those that end episodes.
    allowed : bool Tensor of shape (B, S, A)
        Actions that each state has, at least one.
    gamma : Tensor of shape (B,)
    reward_range : Tensor of shape (B, 2)
        Smallest and largest reward the user declares; NaN where undeclared.
    """

    n: Tensor
    reward_sum: Tensor
    reward_sq_sum: Tensor
    n_terminated: Tensor
    edge_pair: Tensor
    edge_next: Tensor
    edge_count: Tensor
    known: Tensor
    complete: Tensor
    allowed: Tensor
    gamma: Tensor
    reward_range: Tensor

    @classmethod
    def from_statistics(
        cls,
        statistics: Statistics,
        gamma: float,
        reward_range: tuple[float, float] | None = None,
        allowed: np.ndarray | None = None,
        complete: bool = False,
    ) -> StatisticsBatch:
        """Return the batch of one data set, in float64 on the CPU.

        ``allowed`` (S, A) flags the actions of each state; None allows all.
        ``complete`` says that there are no states besides those of the statistics.
        """
        shape = (statistics.n_states, statistics.n_actions)
        if allowed is None:
            allowed = np.ones(shape, bool)
        flat_pair = statistics.pair_state * shape[1] + statistics.pair_action

        def dense(values: np.ndarray) -> Tensor:
            table = np.zeros(shape[0] * shape[1])
            table[flat_pair] = values
            return torch.from_numpy(table.reshape(1, *shape))

        declared = (np.nan, np.nan) if reward_range is None else reward_range
        return cls(
            n=dense(statistics.n),
            reward_sum=dense(statistics.reward_sum),
            reward_sq_sum=dense(statistics.reward_sq_sum),
            n_terminated=dense(statistics.n_terminated),
            edge_pair=torch.from_numpy(flat_pair[statistics.edge_pair]),
            edge_next=torch.from_numpy(statistics.edge_next),
            edge_count=torch.from_numpy(np.asarray(statistics.edge_count, float)),
            known=torch.ones(1, shape[0], dtype=torch.bool),
            complete=torch.tensor([complete]),
            allowed=torch.from_numpy(allowed[None]),
            gamma=torch.tensor([gamma], dtype=torch.float64),
            reward_range=torch.tensor([declared], dtype=torch.float64),
        )

    def to(self, device: torch.device | str) -> StatisticsBatch:
        """Return the same batch on another device."""
        return moved(self, device)


def decided_batch(
    statistics: Statistics,
    gamma: float,
    reward_range: tuple[float, float] | None,
    masks: np.ndarray | None,
    infers: bool,
) -> tuple[np.ndarray, StatisticsBatch]:
    """Return the states in which something is decided, and the batch of them alone.

    Nothing is decided in states that were only ever entered by terminating. The code
    after the last one is that of the states that are not in the log, if `infers`.
    """
    active = np.flatnonzero(statistics.active_states)
    decided = statistics.compress(active)
    allowed = None if masks is None else masks[active]
    if infers:
        n_actions = statistics.n_actions
        same = np.arange(len(active)), np.arange(n_actions)
        decided = decided.relabel(*same, len(active) + 1, n_actions)
        active = np.append(active, statistics.n_states)
        if allowed is not None:
            allowed = np.append(allowed, np.ones((1, n_actions), bool), axis=0)
    batch = StatisticsBatch.from_statistics(decided, gamma, reward_range, allowed)
    return active, batch


_Tensors = TypeVar("_Tensors")


def moved(tensors: _Tensors, device: torch.device | str) -> _Tensors:
    """Return a dataclass of tensors on another device."""
    of = {name: tensor.to(device) for name, tensor in vars(tensors).items()}
    return type(tensors)(**of)


def segment_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the sums of the rows of ``values`` that share an index, (size, ...)."""
    total = values.new_zeros((size, *values.shape[1:]))
    return total.index_add_(0, index, values)


@dataclass(frozen=True)
class ScaledRewards:
    """Rewards of the pairs in units of the scale.

    Attributes
    ----------
    scale : Tensor of shape (B,)
        As in `Features`.
    mean, variance : Tensor of shape (B, S, A)
        Of the rewards seen; the variance divides by n, and is zero where it is no
        more than rounding.
    declared : bool Tensor of shape (B,)
        Whether the user declared a reward range.
    low, high : Tensor of shape (B,)
        The declared range in the user's units; zero where there is none.
    """

    scale: Tensor
    mean: Tensor
    variance: Tensor
    declared: Tensor
    low: Tensor
    high: Tensor


def scaled_rewards(batch: StatisticsBatch) -> ScaledRewards:
    """Return means and variances of the rewards in units of the scale."""
    visited, n_safe = batch.n > 0, batch.n.clamp(min=NOT_ZERO)
    mean = torch.where(visited, batch.reward_sum / n_safe, 0.0)
    # Rewards that cancel leave rounding, which depends on the order of the rows.
    root_mean_square = (batch.reward_sq_sum / n_safe).sqrt()
    mean = torch.where(mean.abs() > 1e-12 * root_mean_square, mean, 0.0)
    declared = torch.isfinite(batch.reward_range).all(-1)
    low, high = torch.nan_to_num(batch.reward_range).unbind(-1)
    largest_declared = torch.maximum(low.abs(), high.abs())
    scale = torch.where(declared, largest_declared, mean.abs().amax((1, 2)))
    scale = torch.where(scale > 0, scale, 1.0)
    per_pair = scale[:, None, None]
    mean = mean / per_pair
    second_moment = batch.reward_sq_sum / (n_safe * per_pair**2)
    variance = torch.where(visited, second_moment - mean**2, 0.0)
    variance = torch.where(variance > _ROUNDING * second_moment, variance, 0.0)
    return ScaledRewards(scale, mean, variance, declared, low, high)


def two_valued_variance(
    batch: StatisticsBatch, rewards: ScaledRewards
) -> tuple[Tensor, Tensor]:
    """Return the variance of rewards that take only the ends of the declared range.

    It is (mean - low) (high - mean), shape (B, S, A). The second result tells, bool
    (B, S, A), in which of the visited pairs the mean lies inside the range.
    """
    low, high = rewards.low / rewards.scale, rewards.high / rewards.scale
    possible = (batch.n > 0) & rewards.declared[:, None, None]
    room = (rewards.mean - low[:, None, None]) * (high[:, None, None] - rewards.mean)
    room = torch.where(possible, room.clamp(min=0), 0.0)
    return room, room > _ROUNDING * ((high - low) ** 2)[:, None, None]


@dataclass(frozen=True)
class Outcomes:
    """Empirical outcomes of the pairs: next states, or the end.

    ``edge_prob`` is of shape (E,), all others are (B, S, A): the share of visits that
    terminated or stayed in the state, the number of outcomes, the share of the most
    frequent one, and the sum of their squared shares.
    """

    edge_prob: Tensor
    terminated: Tensor
    stayed: Tensor
    n_outcomes: Tensor
    largest: Tensor
    sum_of_squares: Tensor


def outcomes_of(batch: StatisticsBatch) -> Outcomes:
    """Return the empirical outcomes of all pairs."""
    n_pairs, n_actions = batch.n.numel(), batch.n.shape[2]
    n_safe = batch.n.clamp(min=NOT_ZERO)
    terminated = torch.where(batch.n > 0, batch.n_terminated / n_safe, 0.0)
    edge_prob = batch.edge_count / n_safe.view(-1)[batch.edge_pair]
    stays = (batch.edge_pair // n_actions == batch.edge_next).to(edge_prob.dtype)
    stayed = segment_sum(edge_prob * stays, batch.edge_pair, n_pairs)
    largest = torch.zeros_like(edge_prob.new_empty(n_pairs)).scatter_reduce(
        0, batch.edge_pair, edge_prob, "amax"
    )
    squares = segment_sum(edge_prob**2, batch.edge_pair, n_pairs)
    return Outcomes(
        edge_prob=edge_prob,
        terminated=terminated,
        stayed=stayed.view_as(batch.n),
        n_outcomes=count_outcomes(batch),
        largest=torch.maximum(largest.view_as(batch.n), terminated),
        sum_of_squares=squares.view_as(batch.n) + terminated**2,
    )


def count_outcomes(batch: StatisticsBatch) -> Tensor:
    """Return how many outcomes each pair had, the end being one, (B, S, A)."""
    each = torch.ones_like(batch.edge_count)
    n_next = segment_sum(each, batch.edge_pair, batch.n.numel())
    return n_next.view_as(batch.n) + (batch.n_terminated > 0)


def count_arrivals(batch: StatisticsBatch) -> Tensor:
    """Return how often each state was entered, (B, S)."""
    n_flat_states = batch.known.numel()
    arrivals = segment_sum(batch.edge_count, batch.edge_next, n_flat_states)
    return arrivals.view_as(batch.known)


def behaviour_of(batch: StatisticsBatch) -> Tensor:
    """Return the behaviour policy: its share of each action in a state, (B, S, A)."""
    return batch.n / batch.n.sum(-1, keepdim=True).clamp(min=NOT_ZERO)
