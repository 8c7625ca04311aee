"""Sufficient statistics to tensors: the one place where features are made.

Pretraining calls this module on batches of simulated data sets, inference on
the single data set of the user, so the two cannot drift apart.

Shapes: B data sets, S states, A actions, E observed (s, a, s') edges. Pairs are
numbered ``(b * S + s) * A + a`` and states ``b * S + s`` where they are flat.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tabrl._statistics import Statistics

PAIR_FEATURES = 14
STATE_FEATURES = 6
DATA_FEATURES = 23


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
        return _moved(self, device)


@dataclass(frozen=True)
class Features:
    """What the network reads and what the posterior is made from.

    Rewards are in units of ``scale``: the largest absolute end of the declared
    reward range, else the largest absolute mean reward of a pair, so that
    rewards times c give the same features and values times c.

    Attributes
    ----------
    pair : Tensor of shape (B, S, A, PAIR_FEATURES)
    state : Tensor of shape (B, S, STATE_FEATURES)
    data : Tensor of shape (B, DATA_FEATURES)
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
    span : Tensor of shape (B,)
        Largest less smallest reward, in units of the scale: declared, else seen.
    variance : Tensor of shape (B, S, A)
        Of the reward, in units of scale^2: unbiased, from n - 1 degrees of freedom and
        one more of the variance of all pairs of the state, which has one more of that
        of all pairs of the data set, which has one more of a quarter of span^2.
    noisy : Tensor of shape (B,)
        Share of the pairs tried twice or more that had more than one outcome, be it
        state, end or reward; 1 where no pair was tried twice.
    hidden : bool Tensor of shape (B,)
        Whether there may be states that were never reached.
    found : bool Tensor of shape (B,)
        Whether means and variances prove that a reward was seen of half the largest
        one declared or more.
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
    span: Tensor
    variance: Tensor
    noisy: Tensor
    hidden: Tensor
    found: Tensor

    def to(self, device: torch.device | str) -> Features:
        """Return the same features on another device."""
        return _moved(self, device)


_Tensors = TypeVar("_Tensors", StatisticsBatch, Features)


def _moved(tensors: _Tensors, device: torch.device | str) -> _Tensors:
    moved = {f.name: getattr(tensors, f.name).to(device) for f in fields(tensors)}
    return type(tensors)(**moved)


def segment_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the sums of the rows of ``values`` that share an index, (size, ...)."""
    total = values.new_zeros((size, *values.shape[1:]))
    return total.index_add_(0, index, values)


def build_features(batch: StatisticsBatch) -> Features:
    """Turn statistics into features; every quantity is invariant to reward units."""
    n_sets, n_states, n_actions = batch.n.shape
    n_flat_pairs, n_flat_states = batch.n.numel(), n_sets * n_states
    visited = batch.n > 0
    n_safe = batch.n.clamp(min=1e-12)

    mean_reward = torch.where(visited, batch.reward_sum / n_safe, 0.0)
    # Rewards that cancel leave rounding, which depends on the order of the rows.
    rms_reward = (batch.reward_sq_sum / n_safe).sqrt()
    mean_reward = torch.where(mean_reward.abs() > 1e-12 * rms_reward, mean_reward, 0.0)
    declared = torch.isfinite(batch.reward_range).all(-1)
    low, high = torch.nan_to_num(batch.reward_range).unbind(-1)
    scale = torch.where(
        declared,
        torch.maximum(low.abs(), high.abs()),
        mean_reward.abs().amax((1, 2)),
    )
    scale = torch.where(scale > 0, scale, 1.0)
    per_pair = scale[:, None, None]
    reward = mean_reward / per_pair
    second_moment = batch.reward_sq_sum / (n_safe * per_pair**2)
    variance = torch.where(visited, second_moment - reward**2, 0.0)
    # Rounding leaves about 1e-16 of the second moment; below that it is noise-free.
    variance = torch.where(variance > 1e-6 * second_moment, variance, 0.0)
    terminated = torch.where(visited, batch.n_terminated / n_safe, 0.0)
    # Rewards that only take the two ends of the declared range have this variance.
    ends = torch.stack([low, high]) / scale
    room = (reward - ends[0, :, None, None]) * (ends[1, :, None, None] - reward)
    room = torch.where(visited & declared[:, None, None], room.clamp(min=0), 0.0)
    inside = room > 1e-6 * ((ends[1] - ends[0]) ** 2)[:, None, None]
    at_end = visited & declared[:, None, None] & ~inside

    edge_prob = batch.edge_count / n_safe.view(-1)[batch.edge_pair]
    edge_from = batch.edge_pair // n_actions
    leaving = segment_sum(edge_prob, edge_from, n_flat_states)
    entering = segment_sum(edge_prob, batch.edge_next, n_flat_states)
    is_self = (edge_from == batch.edge_next).to(edge_prob.dtype)
    self_share = segment_sum(edge_prob * is_self, batch.edge_pair, n_flat_pairs)
    n_next = segment_sum(torch.ones_like(edge_prob), batch.edge_pair, n_flat_pairs)
    n_next = n_next.view_as(batch.n) + (terminated > 0)
    largest = torch.zeros_like(edge_prob.new_empty(n_flat_pairs)).scatter_reduce(
        0, batch.edge_pair, edge_prob, "amax"
    )
    largest = torch.maximum(largest.view_as(batch.n), terminated)
    sum_of_squares = segment_sum(edge_prob**2, batch.edge_pair, n_flat_pairs)
    sum_of_squares = sum_of_squares.view_as(batch.n) + terminated**2
    arrivals = segment_sum(batch.edge_count, batch.edge_next, n_flat_states)
    arrivals = arrivals.view(n_sets, n_states)
    state_visits = batch.n.sum(-1)
    # What the behaviour policy was like: its share of each action in a state.
    behaviour = batch.n / state_visits.clamp(min=1e-12)[..., None]

    pair = torch.stack(
        [
            0.3 * torch.log1p(batch.n),
            torch.rsqrt(batch.n + 1),
            visited.to(reward),
            reward.clamp(-2, 2),
            (variance / n_safe).sqrt().clamp(max=2),
            variance.sqrt().clamp(max=2),
            self_share.view_as(batch.n),
            terminated,
            largest,
            torch.log1p(n_next),
            (reward != 0).to(reward),
            (~batch.allowed).to(reward),
            at_end.to(reward),
            behaviour,
        ],
        dim=-1,
    )
    state = torch.stack(
        [
            0.3 * torch.log1p(state_visits),
            0.3 * torch.log1p(arrivals),
            (state_visits > 0).to(reward),
            visited.to(reward).sum(-1) / batch.allowed.sum(-1).clamp(min=1),
            batch.known.to(reward),
            behaviour.amax(-1),
        ],
        dim=-1,
    )

    n_known = batch.known.sum(-1).clamp(min=1).to(reward)
    n_pairs = (batch.known[..., None] & batch.allowed).sum((1, 2)).clamp(min=1)
    n_visited = visited.sum((1, 2)).clamp(min=1).to(reward)
    repeated = batch.n >= 2
    n_repeated = repeated.sum((1, 2)).to(reward)
    constant = (repeated & (n_next == 1)).sum((1, 2)) / n_repeated.clamp(min=1)
    mean_of_means = reward.sum((1, 2)) / n_visited
    spread = (reward**2).sum((1, 2)) / n_visited - mean_of_means**2
    noisy = (variance > 0) & repeated
    certain = (repeated & (n_next == 1) & ~noisy).sum((1, 2))
    n_room = (batch.n * room).sum((1, 2))
    two_valued = (batch.n * variance * inside).sum((1, 2)) / n_room.clamp(min=1e-9)
    # Agreement: the chance that two visits of a pair, not the same, ended alike; over
    # pairs by degrees of freedom. It tells how random the transitions of a process are.
    degrees = (batch.n - 1).clamp(min=0)
    agreement = (batch.n * sum_of_squares - 1) / degrees.clamp(min=1)
    n_degrees = degrees.sum((1, 2))
    agreed = (degrees * agreement).sum((1, 2)) / n_degrees.clamp(min=1)
    apart = degrees * (agreement - agreed[:, None, None]) ** 2
    # Narrow: one for a behaviour that never varies. Unpaired: on paths, a state is left
    # as often as it is entered, but for starts and ends.
    n_steps = batch.n.sum((1, 2)).clamp(min=1)
    narrow = batch.n.amax(-1).sum(-1) / n_steps
    unpaired = (state_visits - arrivals).abs().sum(-1) / n_steps
    data = torch.stack(
        [
            torch.log(1 / (1 - batch.gamma)),
            declared.to(reward),
            torch.where(declared, low / scale, 0.0),
            torch.where(declared, high / scale, 0.0),
            n_visited / n_pairs,
            0.3 * torch.log1p(batch.n).sum((1, 2)) / n_visited,
            0.3 * torch.log1p(batch.n.sum((1, 2))),
            0.3 * torch.log(n_known),
            torch.full_like(n_known, float(np.log(n_actions))),
            mean_of_means,
            spread.clamp(min=0).sqrt(),
            (reward != 0).sum((1, 2)) / n_visited,
            batch.n_terminated.sum((1, 2)) / n_steps,
            n_repeated / n_visited,
            constant,
            noisy.sum((1, 2)) / n_repeated.clamp(min=1),
            inside.sum((1, 2)) / n_visited,
            two_valued.clamp(max=2),
            narrow,
            unpaired,
            batch.complete.to(reward),
            agreed,
            (apart.sum((1, 2)) / n_degrees.clamp(min=1)).sqrt(),
        ],
        dim=-1,
    )
    # A reward of zero is always possible: nothing follows an end.
    seen = reward.amax((1, 2)).clamp(min=0) - reward.amin((1, 2)).clamp(max=0)
    span = torch.where(declared, (high - low) / scale, seen)
    of_all = ((batch.n * variance).sum((1, 2)) + span**2 / 4) / (n_degrees + 1)
    of_state = (batch.n * variance).sum(-1) + of_all[:, None]
    of_state = of_state / (degrees.sum(-1) + 1)
    # A variance is at most (largest - mean) (mean - smallest), Bhatia and Davis 2000,
    # so that the largest reward of a pair is this or more.
    above = (reward - ends[0, :, None, None]).clamp(min=1e-9)
    best = (reward + variance / above).amax((1, 2))
    return Features(
        pair=pair,
        state=state,
        data=data,
        n=batch.n,
        reward=reward,
        terminated=terminated,
        edge_pair=batch.edge_pair,
        edge_next=batch.edge_next,
        edge_prob=edge_prob,
        edge_sibling=edge_prob / leaving[edge_from],
        edge_predecessor=edge_prob / entering[batch.edge_next],
        known=batch.known,
        allowed=batch.allowed,
        gamma=batch.gamma,
        scale=scale,
        span=span,
        variance=(batch.n * variance + of_state[..., None]) / batch.n.clamp(min=1),
        noisy=1 - certain / n_repeated.clamp(min=1),
        found=declared & (high > 0) & (best >= (0.5 - 1e-6) * ends[1]),
        hidden=(batch.known & (state_visits + arrivals == 0)).any(-1) | ~batch.complete,
    )
