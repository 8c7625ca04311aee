"""Sufficient statistics to tensors: the one place where features are made.

Pretraining calls this module on batches of simulated data sets, inference on
the single data set of the user, so the two cannot drift apart.

Shapes: B data sets, S states, A actions, E observed (s, a, s') edges. Pairs are
numbered ``(b * S + s) * A + a`` and states ``b * S + s`` where they are flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tabrl._batch import (
    NOT_ZERO,
    Outcomes,
    ScaledRewards,
    StatisticsBatch,
    behaviour_of,
    count_arrivals,
    moved,
    outcomes_of,
    scaled_rewards,
    segment_sum,
    two_valued_variance,
)

# Columns of `Features.pair`, `Features.state` and `Features.data`, in this order: the
# released weights read them by position, so that a new one comes last.
PAIR_FEATURES = (
    "log_visits",
    "inverse_root_visits",
    "visited",
    "reward",
    "reward_standard_error",
    "reward_deviation",
    "self_transition",
    "terminated",
    "most_frequent_outcome",
    "log_outcomes",
    "rewarded",
    "forbidden",
    "reward_at_range_end",
    "behaviour",
)
STATE_FEATURES = (
    "log_visits",
    "log_arrivals",
    "visited",
    "share_of_actions_tried",
    "known",
    "most_frequent_behaviour",
)
DATA_FEATURES = (
    "log_horizon",
    "range_declared",
    "lowest_declared",
    "highest_declared",
    "share_of_pairs_tried",
    "mean_log_visits",
    "log_steps",
    "log_states",
    "log_actions",
    "mean_reward",
    "reward_spread",
    "share_rewarded",
    "share_of_steps_terminated",
    "share_repeated",
    "share_with_one_outcome",
    "share_with_random_reward",
    "share_inside_range",
    "two_valued_reward",
    "behaviour_concentration",
    "flow_imbalance",
    "complete",
    "agreement",
    "agreement_spread",
)
# Shrinks logarithms of counts to about the size of the other features.
_LOG_SHARE = 0.3


@dataclass(frozen=True)
class Features:
    """What the network reads and what the posterior is made from.

    Rewards are in units of ``scale``: the largest absolute end of the declared
    reward range, else the largest absolute mean reward of a pair, so that
    rewards times c give the same features and values times c.

    Attributes
    ----------
    pair : Tensor of shape (B, S, A, len(PAIR_FEATURES))
    state : Tensor of shape (B, S, len(STATE_FEATURES))
    data : Tensor of shape (B, len(DATA_FEATURES))
    n, reward, terminated : Tensor of shape (B, S, A)
        Visits, mean reward / scale and share of visits that terminated.
    edge_pair, edge_next : int64 Tensor of shape (E,)
    edge_prob : Tensor of shape (E,)
        Empirical P(s' | s, a).
    edge_sibling : Tensor of shape (E,)
        The edge's share of the successors of its state under any tried action;
        sums to one over the edges that leave a state.
    edge_predecessor : Tensor of shape (E,)
        The edge's share of the arrivals in its next state; sums to one over
        the edges that enter a state.
    known : bool Tensor of shape (B, S)
    allowed : bool Tensor of shape (B, S, A)
    gamma, scale : Tensor of shape (B,)
    """

    pair: Tensor
    state: Tensor
    data: Tensor
    n: Tensor
    reward: Tensor
    terminated: Tensor
    edge_pair: Tensor
    edge_next: Tensor
    edge_prob: Tensor
    edge_sibling: Tensor
    edge_predecessor: Tensor
    known: Tensor
    allowed: Tensor
    gamma: Tensor
    scale: Tensor

    def to(self, device: torch.device | str) -> Features:
        """Return the same features on another device."""
        return moved(self, device)


def build_features(batch: StatisticsBatch) -> Features:
    """Turn statistics into features; every quantity is invariant to reward units."""
    rewards = scaled_rewards(batch)
    outcomes = outcomes_of(batch)
    n_flat_states = batch.known.numel()
    edge_from = batch.edge_pair // batch.n.shape[2]
    leaving = segment_sum(outcomes.edge_prob, edge_from, n_flat_states)
    entering = segment_sum(outcomes.edge_prob, batch.edge_next, n_flat_states)
    data = {
        **_task_columns(batch, rewards),
        **_coverage_columns(batch),
        **_reward_columns(batch, rewards),
        **_randomness_columns(batch, rewards, outcomes),
        **_behaviour_columns(batch),
        **_agreement_columns(batch, outcomes),
    }
    return Features(
        pair=_stack(PAIR_FEATURES, _pair_columns(batch, rewards, outcomes)),
        state=_stack(STATE_FEATURES, _state_columns(batch)),
        data=_stack(DATA_FEATURES, data),
        n=batch.n,
        reward=rewards.mean,
        terminated=outcomes.terminated,
        edge_pair=batch.edge_pair,
        edge_next=batch.edge_next,
        edge_prob=outcomes.edge_prob,
        edge_sibling=outcomes.edge_prob / leaving[edge_from],
        edge_predecessor=outcomes.edge_prob / entering[batch.edge_next],
        known=batch.known,
        allowed=batch.allowed,
        gamma=batch.gamma,
        scale=rewards.scale,
    )


def _stack(names: tuple[str, ...], columns: dict[str, Tensor]) -> Tensor:
    """Return the named columns side by side, (..., len(names))."""
    return torch.stack([columns[name] for name in names], dim=-1)


# -- the columns of pairs and states --------------------------------------------------


def _pair_columns(
    batch: StatisticsBatch, rewards: ScaledRewards, outcomes: Outcomes
) -> dict[str, Tensor]:
    """Return the columns of `PAIR_FEATURES`, each (B, S, A)."""
    visited = batch.n > 0
    _, inside = two_valued_variance(batch, rewards)
    at_end = visited & rewards.declared[:, None, None] & ~inside
    standard_error = (rewards.variance / batch.n.clamp(min=NOT_ZERO)).sqrt()
    return {
        "log_visits": _LOG_SHARE * torch.log1p(batch.n),
        "inverse_root_visits": torch.rsqrt(batch.n + 1),
        "visited": visited.to(rewards.mean),
        "reward": rewards.mean.clamp(-2, 2),
        "reward_standard_error": standard_error.clamp(max=2),
        "reward_deviation": rewards.variance.sqrt().clamp(max=2),
        "self_transition": outcomes.stayed,
        "terminated": outcomes.terminated,
        "most_frequent_outcome": outcomes.largest,
        "log_outcomes": torch.log1p(outcomes.n_outcomes),
        "rewarded": (rewards.mean != 0).to(rewards.mean),
        "forbidden": (~batch.allowed).to(rewards.mean),
        "reward_at_range_end": at_end.to(rewards.mean),
        "behaviour": behaviour_of(batch),
    }


def _state_columns(batch: StatisticsBatch) -> dict[str, Tensor]:
    """Return the columns of `STATE_FEATURES`, each (B, S)."""
    visits = batch.n.sum(-1)
    n_tried = (batch.n > 0).to(batch.n).sum(-1)
    return {
        "log_visits": _LOG_SHARE * torch.log1p(visits),
        "log_arrivals": _LOG_SHARE * torch.log1p(count_arrivals(batch)),
        "visited": (visits > 0).to(visits),
        "share_of_actions_tried": n_tried / batch.allowed.sum(-1).clamp(min=1),
        "known": batch.known.to(visits),
        "most_frequent_behaviour": behaviour_of(batch).amax(-1),
    }


# -- the columns of the data set, each (B,) -------------------------------------------


def _n_tried(batch: StatisticsBatch) -> Tensor:
    """Return the number of pairs tried, at least one, (B,)."""
    return (batch.n > 0).sum((1, 2)).clamp(min=1).to(batch.n)


def _task_columns(batch: StatisticsBatch, rewards: ScaledRewards) -> dict[str, Tensor]:
    """Return what the user says, and how large the process is."""
    declared, scale = rewards.declared, rewards.scale
    n_known = batch.known.sum(-1).clamp(min=1).to(scale)
    n_actions = batch.n.shape[2]
    return {
        "log_horizon": torch.log(1 / (1 - batch.gamma)),
        "range_declared": declared.to(scale),
        "lowest_declared": torch.where(declared, rewards.low / scale, 0.0),
        "highest_declared": torch.where(declared, rewards.high / scale, 0.0),
        "log_states": _LOG_SHARE * torch.log(n_known),
        "log_actions": torch.full_like(n_known, float(np.log(n_actions))),
        "complete": batch.complete.to(scale),
    }


def _coverage_columns(batch: StatisticsBatch) -> dict[str, Tensor]:
    """Return how much of the process was tried, and how often."""
    n_pairs = (batch.known[..., None] & batch.allowed).sum((1, 2)).clamp(min=1)
    n_tried = _n_tried(batch)
    n_repeated = (batch.n >= 2).sum((1, 2)).to(batch.n)
    log_visits = _LOG_SHARE * torch.log1p(batch.n).sum((1, 2))
    return {
        "share_of_pairs_tried": n_tried / n_pairs,
        "mean_log_visits": log_visits / n_tried,
        "log_steps": _LOG_SHARE * torch.log1p(batch.n.sum((1, 2))),
        "share_repeated": n_repeated / n_tried,
    }


def _reward_columns(
    batch: StatisticsBatch, rewards: ScaledRewards
) -> dict[str, Tensor]:
    """Return how the rewards of the pairs differ, and how they fill their range."""
    n_tried = _n_tried(batch)
    mean = rewards.mean.sum((1, 2)) / n_tried
    spread = (rewards.mean**2).sum((1, 2)) / n_tried - mean**2
    room, inside = two_valued_variance(batch, rewards)
    n_room = (batch.n * room).sum((1, 2))
    two_valued = (batch.n * rewards.variance * inside).sum((1, 2))
    return {
        "mean_reward": mean,
        "reward_spread": spread.clamp(min=0).sqrt(),
        "share_rewarded": (rewards.mean != 0).sum((1, 2)) / n_tried,
        "share_inside_range": inside.sum((1, 2)) / n_tried,
        # One where rewards take the two ends of the range only, zero without noise.
        "two_valued_reward": (two_valued / n_room.clamp(min=1e-9)).clamp(max=2),
    }


def _randomness_columns(
    batch: StatisticsBatch, rewards: ScaledRewards, outcomes: Outcomes
) -> dict[str, Tensor]:
    """Return which share of the pairs tried twice or more looks random."""
    repeated = batch.n >= 2
    n_repeated = repeated.sum((1, 2)).to(batch.n).clamp(min=1)
    one_outcome = (repeated & (outcomes.n_outcomes == 1)).sum((1, 2))
    random_reward = ((rewards.variance > 0) & repeated).sum((1, 2))
    return {
        "share_with_one_outcome": one_outcome / n_repeated,
        "share_with_random_reward": random_reward / n_repeated,
    }


def _behaviour_columns(batch: StatisticsBatch) -> dict[str, Tensor]:
    """Return how the steps were made."""
    n_steps = batch.n.sum((1, 2)).clamp(min=1)
    usual = batch.n.amax(-1).sum(-1)
    imbalance = (batch.n.sum(-1) - count_arrivals(batch)).abs().sum(-1)
    return {
        "share_of_steps_terminated": batch.n_terminated.sum((1, 2)) / n_steps,
        # One for a behaviour that never varies.
        "behaviour_concentration": usual / n_steps,
        # On paths, a state is left as often as it is entered, but for starts and ends.
        "flow_imbalance": imbalance / n_steps,
    }


def _agreement_columns(batch: StatisticsBatch, outcomes: Outcomes) -> dict[str, Tensor]:
    """Return mean and spread of the agreement: how random transitions are.

    That of a pair is the chance that two of its visits, not the same, ended alike.
    Pairs are weighted by degrees of freedom, n - 1.
    """
    degrees = (batch.n - 1).clamp(min=0)
    agreement = (batch.n * outcomes.sum_of_squares - 1) / degrees.clamp(min=1)
    total = degrees.sum((1, 2)).clamp(min=1)
    mean = (degrees * agreement).sum((1, 2)) / total
    squares = degrees * (agreement - mean[:, None, None]) ** 2
    return {
        "agreement": mean,
        "agreement_spread": (squares.sum((1, 2)) / total).sqrt(),
    }
