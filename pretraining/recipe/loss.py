"""The losses: value of the policy, optimal actions, value quantiles, the process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pretraining.recipe.targets import ProcessBatch, evaluate_policy, uniform
from tabrl._features import StatisticsBatch, build_features
from tabrl._network import QUANTILES, Network, symlog
from tabrl._planning import dense_transitions, plan_dense

# What each loss counts in their sum.
WEIGHTS = {
    "regret": 1.0,
    "optimal": 0.3,
    "quantile": 0.5,
    "transition": 0.3,
    "reward": 1.0,
}
# The error of a value shrinks with the visits of its pair, and would hardly be felt
# where it says when to stop exploring: it counts sqrt(n + 1) times, up to this.
_MOST_OF_A_PAIR = 10.0
# Policies are trained for the states where episodes start, and a little everywhere:
# a user may ask about any state.
_EVERYWHERE = 0.2
# Normalised regrets above this grow only logarithmically in the loss.
_LINEAR_REGRET = 2.0
# No expected transition is less likely than this in the loss.
_LEAST = 1e-5


@dataclass(frozen=True)
class Losses:
    """Scalars to minimise or report; the policy and high plan's values (B, S, A).

    ``quantile`` counts all pairs of a state alike; in ``total`` those known well count
    more.
    """

    total: Tensor
    regret: Tensor
    optimal: Tensor
    quantile: Tensor
    transition: Tensor
    reward: Tensor
    coverage: Tensor
    brier: Tensor
    policy: Tensor
    q_high: Tensor


def compute_losses(
    network: Network, batch: ProcessBatch, statistics: StatisticsBatch
) -> Losses:
    """Run features, network, planning and policy; score them on the true process."""
    features = build_features(statistics)
    tokens, posterior = network(features)
    P = dense_transitions(posterior, features)
    q = plan_dense(posterior, features, P)
    decision = network.decide(tokens, features, q)

    asked = features.known & ~batch.terminal
    pi = torch.where(asked[..., None], decision.policy.exp(), uniform(batch.allowed))
    regret = normalised_regret(batch, pi)
    excess = (regret - _LINEAR_REGRET).clamp(min=0)
    bounded = torch.where(
        excess > 0, _LINEAR_REGRET + torch.log1p(excess), regret
    ).mean()

    weight = asked.to(q) / asked.sum().clamp(min=1)
    optimal = optimal_actions(batch).to(q)
    target = optimal / optimal.sum(-1, keepdim=True)
    brier = ((decision.optimal.exp() - target) ** 2).mean(-1)
    cross_entropy = -(target * decision.optimal).sum(-1)
    optimal_loss = (weight * cross_entropy).sum()

    # Pairs that count: actions that exist, each state alike.
    share = weight[..., None] * uniform(batch.allowed)
    truth = symlog((batch.q / features.scale[:, None, None]).clamp(-1e4, 1e4)).to(q)
    error = truth - symlog(q)
    levels = q.new_tensor(QUANTILES)[:, None, None, None]
    pinball = torch.maximum(levels * error, (levels - 1) * error).mean(0)
    missed = share * pinball
    felt = (features.n + 1).sqrt().clamp(max=_MOST_OF_A_PAIR)

    distance = divergence(batch, features.known, P, posterior.ended)
    transition = (share * distance).sum()
    mean = batch.reward / features.scale[:, None, None]
    # Squares above 1 grow only logarithmically: the scale may be far off.
    square = (posterior.mean_reward - mean.to(q)) ** 2
    reward = (share * (square.clamp(max=1) + square.clamp(min=1).log())).sum()

    below = (error <= 1e-6).to(q)  # (3, B, S, A)
    return Losses(
        total=WEIGHTS["regret"] * bounded
        + WEIGHTS["optimal"] * optimal_loss
        + WEIGHTS["quantile"] * (felt * missed).sum()
        + WEIGHTS["transition"] * transition
        + WEIGHTS["reward"] * reward,
        regret=regret.clamp(max=_LINEAR_REGRET).mean().detach(),
        optimal=optimal_loss.detach(),
        quantile=missed.sum().detach(),
        transition=transition.detach(),
        reward=reward.detach(),
        coverage=(share * below).sum((1, 2, 3)).detach(),
        brier=(weight * brier).sum().detach(),
        policy=pi.detach(),
        q_high=q[2].detach(),
    )


def divergence(batch: ProcessBatch, known: Tensor, P: Tensor, ended: Tensor) -> Tensor:
    """Return the divergence of expected transitions from the true ones, (B, S, A).

    In nats; least on average for the posterior mean. Next states are those that are
    ``known`` (B, S), of probability ``P`` (B, S, A, S); an end, of probability
    ``ended`` (B, S, A) besides that of the known terminal states; and all others.
    """
    ends = batch.terminal[:, None, None]
    inside = known[:, None, None] & ~ends

    def parts(P: Tensor, ended: Tensor | float) -> Tensor:
        ended = ended + (P * (known[:, None, None] & ends)).sum(-1)
        P = P * inside
        return torch.cat([P, torch.stack([ended, 1 - P.sum(-1) - ended], -1)], -1)

    unknown_ends = (batch.P * (ends & ~known[:, None, None])).sum(-1)
    true = parts(batch.P, unknown_ends).clamp(min=0)
    log = parts(P, ended).clamp(min=_LEAST).log()
    return (torch.special.xlogy(true, true) - true * log).sum(-1)


def normalised_regret(
    batch: ProcessBatch, pi: Tensor, everywhere: float = _EVERYWHERE
) -> Tensor:
    """Return (v* - v_pi) / (v* - v_uniform) from the start distribution, (B,)."""
    alive = (~batch.terminal).to(pi)
    anywhere = alive / alive.sum(-1, keepdim=True)
    rho = (1 - everywhere) * batch.start + everywhere * anywhere
    gain = (rho * (batch.q.amax(-1) - batch.v_uniform)).sum(-1)
    return (rho * loss_of_states(batch, pi)).sum(-1) / gain


def loss_of_states(batch: ProcessBatch, pi: Tensor) -> Tensor:
    """Return v* - v_pi, (B, S)."""
    v = evaluate_policy(batch.continuing, batch.reward, batch.gamma, pi)
    return batch.q.amax(-1) - v


def optimal_actions(batch: ProcessBatch) -> Tensor:
    """Return which actions are optimal, bool (B, S, A), rounding allowed for."""
    best = batch.q.amax(-1, keepdim=True)
    size = batch.q.abs().amax((1, 2), keepdim=True)
    return (batch.q >= best - 1e-5 * size) & batch.allowed
