"""The losses: regret of the policy, optimal actions, value quantiles, the posterior.

Third of the recipe, after the simulation: it scores what the network makes of
simulated data sets against the process that they came from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pretraining.recipe.targets import ProcessBatch, evaluate_policy, uniform
from tabrl._features import Features, StatisticsBatch, build_features
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
# The error of a value shrinks as 1 / sqrt(n) with the visits of its pair. So that the
# loss does not ignore well-known pairs, where exploration must stop, the error counts
# sqrt(n + 1) times, at most this often.
_MAX_PAIR_WEIGHT = 10.0
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

    ``quantile`` weighs all pairs of a state equally, so that runs compare whatever
    their data; in ``total`` a pair weighs sqrt(n + 1) times that, at most 10 times.
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

    scored = features.known & ~batch.terminal  # states in which there is a choice
    pi = torch.where(scored[..., None], decision.policy.exp(), uniform(batch.allowed))
    regret = normalised_regret(batch, pi)
    # Every scored state weighs the same, and in it every action that exists.
    weight = scored.to(q) / scored.sum().clamp(min=1)
    share = weight[..., None] * uniform(batch.allowed)

    optimal, brier = _optimal_action_losses(batch, decision.optimal)
    optimal = (weight * optimal).sum()
    pinball, below = _quantile_losses(batch, features, q)
    quantile = share * pinball
    pair_weight = (features.n + 1).sqrt().clamp(max=_MAX_PAIR_WEIGHT)
    distance = divergence(batch, features.known, P, posterior.ended)
    transition = (share * distance).sum()
    reward = (share * _reward_loss(batch, features, posterior.mean_reward)).sum()
    return Losses(
        total=WEIGHTS["regret"] * _bounded(regret).mean()
        + WEIGHTS["optimal"] * optimal
        + WEIGHTS["quantile"] * (pair_weight * quantile).sum()
        + WEIGHTS["transition"] * transition
        + WEIGHTS["reward"] * reward,
        regret=regret.clamp(max=_LINEAR_REGRET).mean().detach(),
        optimal=optimal.detach(),
        quantile=quantile.sum().detach(),
        transition=transition.detach(),
        reward=reward.detach(),
        coverage=(share * below).sum((1, 2, 3)).detach(),
        brier=(weight * brier).sum().detach(),
        policy=pi.detach(),
        q_high=q[2].detach(),
    )


def _bounded(regret: Tensor) -> Tensor:
    """Let regrets grow only logarithmically above `_LINEAR_REGRET`."""
    excess = (regret - _LINEAR_REGRET).clamp(min=0)
    return torch.where(excess > 0, _LINEAR_REGRET + torch.log1p(excess), regret)


def _optimal_action_losses(
    batch: ProcessBatch, log_chance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and Brier score of each state, (B, S).

    ``log_chance`` (B, S, A): log-probability of each action to be the optimal one.
    """
    optimal = optimal_actions(batch).to(log_chance)
    target = optimal / optimal.sum(-1, keepdim=True)
    brier = ((log_chance.exp() - target) ** 2).mean(-1)
    return -(target * log_chance).sum(-1), brier


def _quantile_losses(
    batch: ProcessBatch, features: Features, q: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean pinball loss (B, S, A) and which heads cover (3, B, S, A).

    Of values in units of the scale, through `tabrl._network.symlog`.
    """
    truth = symlog((batch.q / features.scale[:, None, None]).clamp(-1e4, 1e4)).to(q)
    error = truth - symlog(q)
    levels = q.new_tensor(QUANTILES)[:, None, None, None]
    pinball = torch.maximum(levels * error, (levels - 1) * error).mean(0)
    return pinball, (error <= 1e-6).to(q)  # rounding of equal values in float32


def _reward_loss(batch: ProcessBatch, features: Features, mean: Tensor) -> Tensor:
    """Return the loss of the posterior's mean rewards in units of the scale, (B, S, A).

    Squares above 1 grow only logarithmically: the scale may be far off.
    """
    truth = batch.reward / features.scale[:, None, None]
    square = (mean - truth.to(mean)) ** 2
    return square.clamp(max=1) + square.clamp(min=1).log()


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
