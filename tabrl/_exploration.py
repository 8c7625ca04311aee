"""What an agent plans for that explores: a draw from the posterior, and hope."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tabrl._features import Features, segment_sum
from tabrl._network import Posterior

# Visits of a state that is on the way, once a large reward was found.
_NEAR = 64


def draw_posterior(
    posterior: Posterior,
    features: Features,
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
    nothing. `hope` comes on top.
    """
    spread, untried = rule
    hoped = untried * hope(features)
    worth = posterior.reward[1] - posterior.mean_reward  # of unseen states
    if spread == 0:
        return replace(posterior, reward=(posterior.mean_reward + worth + hoped)[None])

    def gamma(concentration: Tensor) -> Tensor:
        drawn = rng.standard_gamma(concentration.clamp(min=0).cpu().numpy())
        return torch.from_numpy(drawn).to(concentration)

    n_states = features.known.sum(-1).clamp(min=1)
    narrowed = spread * (1 - (1 - features.noisy) ** 4)
    narrowed = narrowed / (1 + n_states.log2() / 4).sqrt()
    width = narrowed.clamp(min=1e-3)[:, None, None]
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
    # Next to no visits may leave numbers too small to be told from zero.
    drawn = total > torch.finfo(total.dtype).tiny * 1e6
    total = torch.where(drawn, total, 1.0)
    parts = torch.where(drawn, drawn_parts[:-1] / total, parts)
    edges = drawn_edges / total.view(-1)[features.edge_pair]
    edges = torch.where(drawn.view(-1)[features.edge_pair], edges, posterior.edge_prob)
    more = torch.where(drawn, drawn_parts[-1] / total / unseen.clamp(min=1e-9), 1.0)

    noise = torch.from_numpy(rng.standard_normal(features.n.shape)).to(features.n)
    deviation = (features.variance / (posterior.weight[1] + 1)).sqrt()
    mean = posterior.mean_reward + width * deviation * noise
    return replace(
        posterior,
        reward=(mean + worth * more + hoped)[None],
        edge_prob=edges,
        itself=parts[0],
        siblings=parts[1],
        predecessors=parts[2],
        anywhere=parts[3],
        ended=parts[4],
    )


def hope(features: Features) -> Tensor:
    """Return what a pair may give besides, for all that is known of it, (B, S, A).

    In units of what a pair without a visit may give in a step: for such a pair, the
    horizon 1 / (1 - gamma (1 - N t)) times the span of the rewards, so that none that
    can be reached stays untried for good; N is the share of the pairs that had more
    than one outcome, t that of the steps that terminated. (Where one try tells all,
    hope for the whole horizon finds what is far, and half of it is enough.)
    Where a first try may have been bad luck it is repeated: after n visits the same is
    divided by n^3 and multiplied by N, and by 1 + log(1 + m), m the mean number of
    visits of a pair, as long as nothing was found and there may be states that were
    never reached, for those bad luck may hide for good; else by 0.6, though never for
    less than the reward of two steps.
    Once a large reward was found, what is off the way to it can wait: all hope is
    multiplied by (1 + m + the visits of the state) / 64, as long as that is less than
    one.
    """
    asked = features.known[..., None] & features.allowed
    n_steps = features.n.sum((1, 2))
    visits = n_steps / asked.sum((1, 2)).clamp(min=1)
    ends = (features.n * features.terminated).sum((1, 2)) / n_steps.clamp(min=1)
    horizon = 1 / (1 - features.gamma * (1 - features.noisy * ends))
    lost = features.hidden & ~features.found
    again = (0.6 * horizon).clamp(min=2)
    again = torch.where(lost, (1 + visits.log1p()) * horizon, again)
    again = (features.noisy * again)[:, None, None] / features.n.clamp(min=1) ** 3
    first = ((1 + features.noisy) / 2 * horizon)[:, None, None]
    here = 1 + visits[:, None, None] + features.n.sum(-1, keepdim=True)
    near = torch.where(features.found[:, None, None], here / _NEAR, 1.0).clamp(max=1)
    hoped = near * torch.where(features.n > 0, again, first)
    return features.span[:, None, None] * hoped
