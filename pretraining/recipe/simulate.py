"""Data sets from processes: independent draws, behaviour logs, own exploration.

A data set is a table of counts (B, S, A, S) with its reward sums. Logs of up to
``_WALKED`` transitions are walked step by step, because a short log is a path;
longer ones are drawn from the occupancy of the behaviour, made Poisson.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.prior import log_uniform
from pretraining.recipe.targets import ProcessBatch, uniform
from tabrl._exploration import draw_posterior, exploration_features
from tabrl._features import StatisticsBatch, build_features
from tabrl._network import Network
from tabrl._planning import greedy, plan_dense

_WALKED = 3000
_EPISODE = 100


@dataclass
class Log:
    """Counts of transitions and sums of rewards of B data sets."""

    counts: NDArray  # (B, S, A, S)
    reward_sum: NDArray  # (B, S, A)
    reward_sq_sum: NDArray  # (B, S, A)

    def __add__(self, other: Log) -> Log:
        return Log(
            self.counts + other.counts,
            self.reward_sum + other.reward_sum,
            self.reward_sq_sum + other.reward_sq_sum,
        )


def simulate(rng: np.random.Generator, batch: ProcessBatch, size: NDArray) -> Log:
    """Draw one data set of about ``size`` (B,) transitions from each process."""
    independent = rng.random(len(size)) < 0.25
    by_path = ~independent & (size <= _WALKED)
    by_occupancy = ~independent & (size > _WALKED)
    counts = np.zeros(batch.P.shape)
    for chosen, draw in (
        (independent, _independent_counts),
        (by_path, _walked_counts),
        (by_occupancy, _occupancy_counts),
    ):
        if chosen.any():
            part = batch.select(torch.from_numpy(np.flatnonzero(chosen)))
            counts[chosen] = draw(rng, part, size[chosen])
    return with_rewards(rng, batch, counts)


def explore(
    rng: np.random.Generator, batch: ProcessBatch, pi: NDArray, size: NDArray
) -> Log:
    """Walk the policies ``pi`` (B, S, A) for ``size`` (B,) transitions each."""
    return with_rewards(rng, batch, walk(rng, batch, pi, size))


def exploring_policy(
    network: Network, statistics: StatisticsBatch, rng: np.random.Generator
) -> Tensor:
    """Return the plan (B, S, A) of an agent that explores, ties in equal shares."""
    with torch.no_grad():
        features = build_features(statistics)
        _, posterior = network(features)
        exploration = exploration_features(statistics)
        drawn = draw_posterior(posterior, features, exploration, network.optimism, rng)
        q = plan_dense(drawn, features)[0]
        return greedy(q.masked_fill(~statistics.allowed, -torch.inf)).double()


def with_rewards(rng: np.random.Generator, batch: ProcessBatch, counts: NDArray) -> Log:
    """Draw reward sums and sums of squares for given transition counts."""
    low, high = batch.outcomes.numpy()[:, :, None, None].swapaxes(0, 1)
    two_valued = np.isfinite(low)
    R, noise = batch.R.numpy(), batch.noise.numpy()[:, None, None]
    n = counts.sum(-1)
    highs = np.zeros_like(n)
    at = np.nonzero(counts * two_valued[..., None])
    if len(at[0]):
        span = (high - low)[at[0], 0, 0]
        odds = (R[at] - low[at[0], 0, 0]) / span
        drawn = rng.binomial(counts[at].astype(np.int64), odds.clip(0, 1))
        np.add.at(highs, at[:3], drawn)
    mean_sum = (counts * R).sum(-1)
    noise_sum = noise * np.sqrt(n) * rng.standard_normal(n.shape)
    # Chi-square with n - 1 degrees of freedom, beside the part of the mean.
    rest = noise**2 * 2 * rng.standard_gamma(np.maximum(n - 1, 0) / 2)
    n_safe = np.maximum(n, 1)
    squares = (counts * R**2).sum(-1) + 2 * mean_sum / n_safe * noise_sum
    squares += noise_sum**2 / n_safe + rest
    return Log(
        counts,
        np.where(two_valued, highs * high + (n - highs) * low, mean_sum + noise_sum),
        np.where(two_valued, highs * high**2 + (n - highs) * low**2, squares),
    )


def behaviour_policies(rng: np.random.Generator, batch: ProcessBatch) -> NDArray:
    """Draw policies (B, S, A) from random to near-optimal; most are narrow."""
    q = batch.q.numpy()
    n_sets, _, n_actions = q.shape
    allowed = batch.allowed.numpy()
    random = uniform(batch.allowed).numpy()
    expert = experts(rng, batch)
    advantage = q - q.max(-1, keepdims=True)
    spread = np.abs(advantage).mean((1, 2), keepdims=True) + 1e-12
    pi = np.empty_like(q)
    for b in range(n_sets):
        kind = rng.random()
        if kind < 0.2:
            pi[b] = random[b]
        elif kind < 0.75:
            narrow = rng.random() < 0.75
            epsilon = log_uniform(rng, 0.01, 0.5) if narrow else rng.uniform(0, 1)
            pi[b] = (1 - epsilon) * expert[b] + epsilon * random[b]
        elif kind < 0.9:
            logits = advantage[b] / spread[b] * log_uniform(rng, 0.3, 10)
            pi[b] = np.exp(logits)
        else:
            pi[b] = rng.dirichlet(np.full(n_actions, 0.5), len(q[b]))
    pi *= allowed
    pi += 1e-12 * random  # where every allowed action has underflown
    return pi / pi.sum(-1, keepdims=True)


def experts(rng: np.random.Generator, batch: ProcessBatch) -> NDArray:
    """Draw one optimal action a state, (B, S, A): an expert does not mix its ties."""
    q = batch.q.numpy()
    best = (q >= q.max(-1, keepdims=True) - 1e-9) & batch.allowed.numpy()
    return np.eye(q.shape[-1])[(best * rng.random(q.shape)).argmax(-1)]


def _independent_counts(
    rng: np.random.Generator, batch: ProcessBatch, size: NDArray
) -> NDArray:
    """Draw visits of each pair independently of the others."""
    alive = ~batch.terminal.numpy()[..., None] & batch.allowed.numpy()
    shape = batch.q.shape
    evenness = np.exp(rng.uniform(np.log(0.1), np.log(10), (shape[0], 1, 1)))
    share = rng.standard_gamma(np.broadcast_to(evenness, shape)) + 1e-12
    share *= alive
    share /= share.sum((1, 2), keepdims=True)
    return rng.multinomial(rng.poisson(size[:, None, None] * share), _rows(batch))


def _occupancy_counts(
    rng: np.random.Generator, batch: ProcessBatch, size: NDArray
) -> NDArray:
    """Draw Poisson visits from the occupancy of a behaviour that starts over."""
    pi = behaviour_policies(rng, batch)
    P = batch.continuing.numpy()
    chosen = np.einsum("bsa,bsat->bst", pi, P)
    system = np.eye(P.shape[1]) - (1 - 1 / _EPISODE) * chosen
    occupancy = np.linalg.solve(system.swapaxes(1, 2), batch.start.numpy()[..., None])
    share = occupancy.clip(0) * pi
    share /= share.sum((1, 2), keepdims=True)
    return rng.multinomial(rng.poisson(size[:, None, None] * share), _rows(batch))


def _walked_counts(
    rng: np.random.Generator, batch: ProcessBatch, size: NDArray
) -> NDArray:
    return walk(rng, batch, behaviour_policies(rng, batch), size)


def _rows(batch: ProcessBatch) -> NDArray:
    """Transition rows that sum to at most one for the multinomial sampler."""
    P = batch.P.numpy()
    return P / P.sum(-1, keepdims=True)


def walk(
    rng: np.random.Generator, batch: ProcessBatch, pi: NDArray, size: NDArray
) -> NDArray:
    """Count the transitions of episodes of at most 100 steps under ``pi``.

    All episodes of all data sets advance together, one step at a time; each
    data set gets exactly ``size`` (B,) transitions.
    """
    n_sets, S, A, _ = batch.P.shape
    horizon = int(rng.integers(10, _EPISODE + 1))
    walkers = -(-size // horizon)
    of_set = np.repeat(np.arange(n_sets), walkers)
    first = np.cumsum(walkers) - walkers
    steps_left = np.minimum(
        horizon, size[of_set] - horizon * (np.arange(len(of_set)) - first[of_set])
    )
    cumulative_start = batch.start.numpy().cumsum(-1)
    cumulative_pi = pi.cumsum(-1)
    cumulative_P = _rows(batch).cumsum(-1)
    terminal = batch.terminal.numpy()

    state = draw(rng, cumulative_start[of_set])
    counts = np.zeros(batch.P.numel(), np.int64)
    for step in range(int(steps_left.max(initial=0))):
        going = steps_left > step
        if not going.all():
            of_set, state, steps_left = of_set[going], state[going], steps_left[going]
        action = draw(rng, cumulative_pi[of_set, state])
        following = draw(rng, cumulative_P[of_set, state, action])
        flat = ((of_set * S + state) * A + action) * S + following
        np.add.at(counts, flat, 1)
        ended = terminal[of_set, following]
        state = following
        if ended.any():
            state[ended] = draw(rng, cumulative_start[of_set[ended]])
    return counts.reshape(batch.P.shape)


def draw(rng: np.random.Generator, cumulative: NDArray) -> NDArray:
    """Draw an index (n,) for each row (n, K) of cumulative probabilities."""
    u = rng.random(len(cumulative)) * cumulative[:, -1]
    return (cumulative <= u[:, None]).sum(-1)


def to_statistics(
    batch: ProcessBatch,
    log: Log,
    only_active: NDArray,
    reward_range: NDArray,
) -> StatisticsBatch:
    """Return what an agent knows of each data set, in float32.

    ``only_active`` (B,): the agent knows only states with data (an offline log);
    otherwise all S states are known to exist, and that there are no others. A terminal
    state counts as one that was never reached until an episode ended there, and as none
    after that; beside a single other state, as in a bandit, it never counts.
    ``reward_range`` (B, 2) is NaN where undeclared.
    """
    _, S, A, _ = log.counts.shape
    terminal = batch.terminal.numpy()
    ending = terminal[:, None, None]
    continuing = np.where(ending, 0, log.counts)
    n = log.counts.sum(-1)
    index = np.flatnonzero(continuing)
    pair, following = np.divmod(index, S)
    active = (n.sum(-1) > 0) | (continuing.sum((1, 2)) > 0)
    entered = log.counts.sum((1, 2)) > 0
    shown = ~terminal | (~entered & ((~terminal).sum(-1, keepdims=True) > 1))
    known = active | ~only_active[:, None] & shown

    def tensor(values: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values)).to(torch.float32)

    return StatisticsBatch(
        n=tensor(n),
        reward_sum=tensor(log.reward_sum),
        reward_sq_sum=tensor(log.reward_sq_sum),
        n_terminated=tensor((log.counts * ending).sum(-1)),
        edge_pair=torch.from_numpy(pair),
        edge_next=torch.from_numpy(pair // (S * A) * S + following),
        edge_count=tensor(continuing.ravel()[index]),
        known=torch.from_numpy(known),
        complete=torch.from_numpy(~only_active),
        allowed=batch.allowed,
        gamma=batch.gamma.to(torch.float32),
        reward_range=tensor(reward_range),
    )


def reward_ranges(batch: ProcessBatch) -> NDArray:
    """Return the smallest and the largest possible mean reward, (B, 2)."""
    possible = batch.P.numpy() > 0
    possible &= ~batch.terminal.numpy()[..., None, None]
    R = batch.R.numpy()
    low = np.where(possible, R, np.inf).min((1, 2, 3))
    high = np.where(possible, R, -np.inf).max((1, 2, 3))
    outcomes = batch.outcomes.numpy()
    two_valued = np.isfinite(outcomes[:, 0])
    low = np.where(two_valued, outcomes[:, 0], low)
    high = np.where(two_valued, outcomes[:, 1], high)
    return np.stack([low, high], -1)


def draw_reward_ranges(rng: np.random.Generator, batch: ProcessBatch) -> NDArray:
    """Draw what users declare as reward range: nothing in half of the cases."""
    low, high = reward_ranges(batch).T
    # Many users declare the range from zero.
    from_zero = rng.random(len(low)) < 0.5
    low = np.where(from_zero, np.minimum(low, 0), low)
    high = np.where(from_zero, np.maximum(high, 0), high)
    declared = np.stack([low, high], -1)
    declared[rng.random(len(low)) < 0.5] = np.nan
    return declared
