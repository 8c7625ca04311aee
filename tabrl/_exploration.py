"""What an agent that explores plans for: a draw from the posterior, and a bonus."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tabrl._batch import (
    StatisticsBatch,
    count_arrivals,
    count_outcomes,
    moved,
    scaled_rewards,
    segment_sum,
)
from tabrl._features import Features
from tabrl._network import Posterior

# Once a large reward was seen, a state has its whole bonus after so many visits.
_FULL_BONUS_VISITS = 64


@dataclass(frozen=True)
class ExplorationFeatures:
    """What exploration reads of the statistics, and the network does not.

    Attributes
    ----------
    reward_span : Tensor of shape (B,)
        Largest less smallest reward, in units of the scale: declared, else seen.
    reward_variance : Tensor of shape (B, S, A)
        In units of scale^2: unbiased, from n - 1 degrees of freedom and one more of
        the variance of all pairs of the state, which has one more of that of all pairs
        of the data set, which has one more of a quarter of reward_span^2.
    random_share : Tensor of shape (B,)
        Share of the pairs tried twice or more that had more than one outcome, be it
        state, end or reward; 1 where no pair was tried twice.
    may_have_unseen_states : bool Tensor of shape (B,)
        Whether there may be states that were never reached.
    large_reward_seen : bool Tensor of shape (B,)
        Whether means and variances prove that a reward was seen of half the largest
        one declared or more.
    """

    reward_span: Tensor
    reward_variance: Tensor
    random_share: Tensor
    may_have_unseen_states: Tensor
    large_reward_seen: Tensor

    def to(self, device: torch.device | str) -> ExplorationFeatures:
        """Return the same features on another device."""
        return moved(self, device)


def exploration_features(batch: StatisticsBatch) -> ExplorationFeatures:
    """Turn statistics into what exploration reads of them."""
    rewards = scaled_rewards(batch)
    # A reward of zero is always possible: nothing follows an end.
    seen = rewards.mean.amax((1, 2)).clamp(min=0)
    seen = seen - rewards.mean.amin((1, 2)).clamp(max=0)
    declared = (rewards.high - rewards.low) / rewards.scale
    span = torch.where(rewards.declared, declared, seen)
    repeated = batch.n >= 2
    certain = repeated & (count_outcomes(batch) == 1) & ~(rewards.variance > 0)
    n_repeated = repeated.sum((1, 2)).to(batch.n).clamp(min=1)
    never_reached = batch.known & (batch.n.sum(-1) + count_arrivals(batch) == 0)
    # A variance is at most (largest - mean) (mean - smallest), Bhatia and Davis 2000,
    # so that the largest reward of a pair is this or more.
    low, high = rewards.low / rewards.scale, rewards.high / rewards.scale
    above = (rewards.mean - low[:, None, None]).clamp(min=1e-9)
    largest = (rewards.mean + rewards.variance / above).amax((1, 2))
    large = largest >= (0.5 - 1e-6) * high  # 1e-6 for rounding
    return ExplorationFeatures(
        reward_span=span,
        reward_variance=_pooled_variance(batch, rewards.variance, span),
        random_share=1 - certain.sum((1, 2)) / n_repeated,
        may_have_unseen_states=never_reached.any(-1) | ~batch.complete,
        large_reward_seen=rewards.declared & (rewards.high > 0) & large,
    )


def _pooled_variance(batch: StatisticsBatch, variance: Tensor, span: Tensor) -> Tensor:
    """Return `ExplorationFeatures.reward_variance`, (B, S, A)."""
    degrees = (batch.n - 1).clamp(min=0)
    squares = batch.n * variance
    of_all = (squares.sum((1, 2)) + span**2 / 4) / (degrees.sum((1, 2)) + 1)
    of_state = squares.sum(-1) + of_all[:, None]
    of_state = of_state / (degrees.sum(-1) + 1)
    return (squares + of_state[..., None]) / batch.n.clamp(min=1)


def draw_posterior(
    posterior: Posterior,
    features: Features,
    exploration: ExplorationFeatures,
    rule: tuple[float, float],
    rng: np.random.Generator,
) -> Posterior:
    """Return a process to plan in, with the rewards (1, B, S, A) to plan for.

    As in posterior sampling (Strens 2000), an agent plans for a process that may be the
    true one, and so tries what may be best as often as it may be. ``rule`` is (spread,
    untried). The next states of a pair are from a Dirichlet distribution of their
    posterior mean and (n + n0) / spread^2 visits, n0 being what the prior counts for;
    the mean reward from a normal one, of spread times the deviation of a mean of
    n + n0 + 1 draws. A spread of 1 is what the posterior says. Less is enough for an
    agent that draws anew for every plan, the less the more states there are, for the
    plan goes where the draws of any of them are good: with S known states spread is
    divided by sqrt(1 + log2(S) / 4). It is multiplied by the chance that of four pairs
    at least one had more than one outcome, for repeating what is certain teaches
    nothing. `exploration_bonus` comes on top.
    """
    spread, untried = rule
    bonus = untried * exploration_bonus(features, exploration)
    worth = posterior.reward[1] - posterior.mean_reward  # of unseen states
    if spread == 0:
        return replace(posterior, reward=(posterior.mean_reward + worth + bonus)[None])

    n_states = features.known.sum(-1).clamp(min=1)
    narrowed = spread * (1 - (1 - exploration.random_share) ** 4)
    narrowed = narrowed / (1 + n_states.log2() / 4).sqrt()
    width = narrowed.clamp(min=1e-3)[:, None, None]
    drawn = draw_process(posterior, features, exploration, width, rng)
    return replace(drawn, reward=drawn.reward + bonus)


def draw_process(
    posterior: Posterior,
    features: Features,
    exploration: ExplorationFeatures,
    width: Tensor,
    rng: np.random.Generator,
) -> Posterior:
    """Return a process drawn from the posterior, its rewards of shape (1, B, S, A).

    ``width`` broadcasts to (B, S, A) and multiplies the standard deviations, as
    ``spread`` does in `draw_posterior`: 1 is what the posterior says.
    """
    worth = posterior.reward[1] - posterior.mean_reward  # of unseen states

    def gamma(concentration: Tensor) -> Tensor:
        drawn = rng.standard_gamma(concentration.clamp(min=0).cpu().numpy())
        return torch.from_numpy(drawn).to(concentration)

    visits = posterior.weight[0] / width**2
    parts = torch.stack(
        [
            posterior.itself,
            posterior.siblings,
            posterior.predecessors,
            posterior.anywhere,
            posterior.ended,
        ]
    )
    n_pairs = features.n.numel()
    of_edges = segment_sum(posterior.edge_prob, features.edge_pair, n_pairs)
    unseen = 1 - parts.sum(0) - of_edges.view_as(features.n)
    drawn_parts = gamma(torch.cat([parts, unseen[None]]) * visits)
    drawn_edges = gamma(posterior.edge_prob * visits.view(-1)[features.edge_pair])
    total = segment_sum(drawn_edges, features.edge_pair, n_pairs)
    total = total.view_as(features.n) + drawn_parts.sum(0)
    # Next to no visits may leave numbers that are zero but for rounding.
    drawn = total > torch.finfo(total.dtype).tiny * 1e6
    total = torch.where(drawn, total, 1.0)
    parts = torch.where(drawn, drawn_parts[:-1] / total, parts)
    edges = drawn_edges / total.view(-1)[features.edge_pair]
    edges = torch.where(drawn.view(-1)[features.edge_pair], edges, posterior.edge_prob)
    more = torch.where(drawn, drawn_parts[-1] / total / unseen.clamp(min=1e-9), 1.0)

    noise = torch.from_numpy(rng.standard_normal(features.n.shape)).to(features.n)
    deviation = (exploration.reward_variance / (posterior.weight[1] + 1)).sqrt()
    mean = posterior.mean_reward + width * deviation * noise
    return replace(
        posterior,
        reward=(mean + worth * more)[None],
        edge_prob=edges,
        itself=parts[0],
        siblings=parts[1],
        predecessors=parts[2],
        anywhere=parts[3],
        ended=parts[4],
    )


def exploration_bonus(features: Features, exploration: ExplorationFeatures) -> Tensor:
    """Return the bonus of each pair, in units of the scale, (B, S, A).

    It is a multiple of the largest gain of a step, the span of the rewards.

    - A pair without a visit has the horizon 1 / (1 - gamma (1 - N t)) by (1 + N) / 2,
      so that none that can be reached stays untried for good. N is the share of the
      pairs that had more than one outcome, t that of the steps that terminated. (Where
      one try tells all, N = 0, half of the horizon is enough to reach what is far.)
    - After n visits it is N / n^3 times the horizon, for a first try may have been bad
      luck: times 1 + log(1 + m), m the mean number of visits of a pair, as long as no
      large reward was seen and there may be unseen states, which bad luck may conceal
      for good; else times 0.6, though never less than two steps.
    - Once a large reward was seen, other states can wait: all is multiplied by
      (1 + m + the visits of the state) / 64 as long as that is less than one.
    """
    candidates = features.known[..., None] & features.allowed
    n_steps = features.n.sum((1, 2))
    visits = n_steps / candidates.sum((1, 2)).clamp(min=1)
    ends = (features.n * features.terminated).sum((1, 2)) / n_steps.clamp(min=1)
    horizon = 1 / (1 - features.gamma * (1 - exploration.random_share * ends))
    searching = exploration.may_have_unseen_states & ~exploration.large_reward_seen
    again = (0.6 * horizon).clamp(min=2)
    again = torch.where(searching, (1 + visits.log1p()) * horizon, again)
    again = (exploration.random_share * again)[:, None, None]
    again = again / features.n.clamp(min=1) ** 3
    first = ((1 + exploration.random_share) / 2 * horizon)[:, None, None]
    here = 1 + visits[:, None, None] + features.n.sum(-1, keepdim=True)
    seen = exploration.large_reward_seen[:, None, None]
    share = torch.where(seen, here / _FULL_BONUS_VISITS, 1.0).clamp(max=1)
    steps = share * torch.where(features.n > 0, again, first)
    return exploration.reward_span[:, None, None] * steps
