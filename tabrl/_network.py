"""The attention network: features of a data set to a posterior model and a policy.

The network never plans. It reads the statistics, says how much to trust them
(`Posterior`), and, once `tabrl._planning` has solved that posterior exactly,
turns the solved action values into a policy (`decide`). With n visits everywhere
the prior keeps a share n0 / (n + n0) and every learned correction of the policy
fades at least as fast, so that both tend to certainty equivalence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tabrl._batch import segment_sum
from tabrl._features import (
    DATA_FEATURES,
    PAIR_FEATURES,
    STATE_FEATURES,
    Features,
)

HEADS = ("low", "middle", "high")
QUANTILES = (0.1, 0.5, 0.9)  # of the optimal action value, one for each head
_SIGN = (-1.0, 0.0, 1.0)
# The high head exceeds the middle one by this multiple of 1 / sqrt(n + 1) at least, in
# units of the reward scale. The released weights were trained with it, so that it
# stays; what an agent explores by is `tabrl._exploration`, which reads the middle head.
_HIGH_FLOOR = 0.05
# Where no data are, no action falls further behind than this many logits: a policy
# that saturates early has no gradient left to learn to hedge from.
_REACH = 10.0
_PRIOR_PARTS = 6  # itself, siblings, predecessors, any known state, unseen, end
# Spread and weight of the bonus of `tabrl._exploration.draw_posterior`. The best of the
# rules that `python -m pretraining.validation.optimism` compares on the prior.
EXPLORATION_RULE = (0.7, 0.05)


@dataclass(frozen=True)
class NetworkConfig:
    """Dimensions of the network, all that is needed to rebuild it."""

    width: int = 64
    n_layers: int = 3
    n_heads: int = 4
    mlp_ratio: int = 2


@dataclass(frozen=True)
class Posterior:
    """Posterior mean process, with a bonus per head; continuation is sparse.

    With v the state values of a head,

    q(s, a) = reward(s, a) + gamma (sum over edges of edge_prob v(s')
    + itself v(s) + siblings sum N(s, s') v(s')
    + predecessors sum K(s, s') v(s') + anywhere mean v),

    where N and K are the edge shares of `Features`. What is missing to one
    ends the process, or leads to an unseen state whose value is in ``reward``.

    Attributes
    ----------
    reward : Tensor of shape (3, B, S, A)
        Mean reward of the low, middle and high head, in units of the scale.
    edge_prob : Tensor of shape (E,)
    itself, siblings, predecessors, anywhere : Tensor of shape (B, S, A)
        Probability of each part of the prior successor mixture.
    ended : Tensor of shape (B, S, A)
        Probability of an end; what is missing to one then is that of unseen states.
    mean_reward : Tensor of shape (B, S, A)
        Posterior mean of the reward, without what unseen states are worth.
    weight : Tensor of shape (2, B, S, A)
        Visits plus what the prior counts for, of the successors and of the reward.
    """

    reward: Tensor
    edge_prob: Tensor
    itself: Tensor
    siblings: Tensor
    predecessors: Tensor
    anywhere: Tensor
    ended: Tensor
    mean_reward: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Tokens:
    """Embeddings of pairs (B, S, A, d), states (B, S, d) and data sets (B, d)."""

    pair: Tensor
    state: Tensor
    data: Tensor


@dataclass(frozen=True)
class Decision:
    """Log-probabilities over actions, each of shape (B, S, A)."""

    policy: Tensor
    optimal: Tensor


def symlog(x: Tensor) -> Tensor:
    """Return sign(x) log(1 + |x|)."""
    return x.sign() * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """Return the inverse of `symlog`."""
    return x.sign() * torch.expm1(x.abs())


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


class _Layer(nn.Module):
    """Pairs attend to their successors; states, actions and the data set pool them."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d, hidden = config.width, config.width * config.mlp_ratio
        self.n_heads = config.n_heads
        self.pair_norm, self.state_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query = nn.Linear(d, d)
        self.key_value = nn.Linear(d, 2 * d)
        # Learned keys and values of "something not seen yet" and of the end.
        self.special = nn.Parameter(torch.randn(2, 2, d) / math.sqrt(d))
        self.special_bias = nn.Parameter(torch.zeros(2, config.n_heads))
        self.beta = nn.Parameter(torch.ones(config.n_heads))
        self.gain = nn.Parameter(torch.ones(config.n_heads))
        self.attended = nn.Linear(d, d)
        self.from_state = nn.Linear(d, d, bias=False)
        self.from_action = nn.Linear(d, d, bias=False)
        self.from_data = nn.Linear(d, d, bias=False)
        self.pair_mlp_norm = nn.LayerNorm(d)
        self.pair_mlp = _mlp(d, hidden, d)
        self.pool_pairs = nn.Linear(2 * d, d)
        self.data_to_state = nn.Linear(d, d, bias=False)
        self.state_mlp_norm = nn.LayerNorm(d)
        self.state_mlp = _mlp(d, hidden, d)
        self.pool_states = nn.Linear(2 * d, d)
        self.data_mlp_norm = nn.LayerNorm(d)
        self.data_mlp = _mlp(d, hidden, d)

    def forward(self, tokens: Tokens, features: Features) -> Tokens:
        pair, state, data = tokens.pair, tokens.state, tokens.data
        b, s, a, d = pair.shape
        h = self.state_norm(state)
        x = self.pair_norm(pair)
        known, allowed = features.known[..., None], features.allowed[..., None]
        n_known = known.sum(1).clamp(min=1)

        choices = known[:, :, None] & allowed
        by_action = (x * choices).sum(1) / choices.sum(1).clamp(min=1)  # (B, A, d)
        pair = (
            pair
            + self.attended(self._attend(x, h, features)).view(b, s, a, d)
            + self.from_state(h)[:, :, None]
            + self.from_action(by_action)[:, None]
            + self.from_data(data)[:, None, None]
        )
        pair = pair + self.pair_mlp(self.pair_mlp_norm(pair))

        average = (pair * allowed).sum(2) / allowed.sum(2).clamp(min=1)
        most = pair.masked_fill(~allowed, -1e9).amax(2)
        pooled = torch.cat([average, most], -1)  # (B, S, 2 d)
        state = state + self.pool_pairs(pooled) + self.data_to_state(data)[:, None]
        state = state + self.state_mlp(self.state_mlp_norm(state))

        mean = (state * known).sum(1) / n_known
        highest = state.masked_fill(~known, -1e9).amax(1)
        data = data + self.pool_states(torch.cat([mean, highest], -1))
        data = data + self.data_mlp(self.data_mlp_norm(data))
        return Tokens(pair, state, data)

    def _attend(self, x: Tensor, h: Tensor, features: Features) -> Tensor:
        """Hybrid Bellman attention of pairs over observed successors, (B S A, d).

        Queries and keys have unit length, so that logits are bounded and the
        softmax needs no maximum.
        """
        n_heads, d = self.n_heads, x.shape[-1]
        dim = d // n_heads
        sharpness = self.gain.clamp(-4, 4) * math.sqrt(dim)
        query = functional.normalize(self.query(x).view(-1, n_heads, dim), dim=-1)
        query = query * sharpness[:, None]
        key, value = self.key_value(h).chunk(2, -1)
        key = functional.normalize(key.reshape(-1, n_heads, dim), dim=-1)
        value = value.reshape(-1, d)
        special = functional.normalize(self.special[0].view(2, n_heads, dim), dim=-1)

        at_pair, at_next = features.edge_pair, features.edge_next
        # index_select is twice as fast as indexing, and edges are many.
        logit = query.index_select(0, at_pair) * key.index_select(0, at_next)
        logit = logit.sum(-1)  # (E, heads)
        log_prob = features.edge_prob.to(x).clamp(min=1e-9).log()
        weight = torch.exp(logit + self.beta * log_prob[:, None])
        extra = torch.einsum("phd,khd->pkh", query, special) + self.special_bias
        end = features.terminated.to(x).reshape(-1, 1, 1)
        open_end = self.beta * end.clamp(min=1e-9).log()  # (B S A, 1, heads)
        unseen, ended = extra[:, :1].exp(), (extra[:, 1:] + open_end).exp()
        extra = torch.cat([unseen, ended * (end > 0)], 1)  # (B S A, 2, heads)

        total = segment_sum(weight, at_pair, len(query)) + extra.sum(1)
        message = value.index_select(0, at_next).view(-1, n_heads, dim)
        message = (message * weight[..., None]).flatten(1)
        message = segment_sum(message, at_pair, len(query))
        fixed = self.special[1].view(2, n_heads, dim)
        message = message + torch.einsum("pkh,khd->phd", extra, fixed).flatten(1)
        return message / total.repeat_interleave(dim, -1)


class Network(nn.Module):
    """Learned posterior over decision processes, and a policy from its plans.

    ``optimism`` is the rule of `tabrl._exploration.draw_posterior`: chosen after
    training, kept with the weights.
    """

    def __init__(
        self,
        config: NetworkConfig,
        optimism: tuple[float, float] = EXPLORATION_RULE,
    ) -> None:
        super().__init__()
        self.config = config
        self.optimism = optimism
        d = config.width
        self.embed_pair = nn.Linear(len(PAIR_FEATURES), d)
        self.embed_state = nn.Linear(len(STATE_FEATURES), d)
        self.embed_data = nn.Linear(len(DATA_FEATURES), d)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.n_layers))
        self.pair_norm = nn.LayerNorm(d)
        self.state_norm = nn.LayerNorm(d)
        self.data_norm = nn.LayerNorm(d)
        # Two strengths, prior reward, successor mixture, low and high bonus.
        self.posterior_head = nn.Linear(d, 2 + 1 + _PRIOR_PARTS + 2)
        self.unseen_head = nn.Linear(d, len(HEADS))
        # Temperature, pace of the gate, share of the low plan; policy, optimal.
        self.state_head = nn.Linear(d, 2 * 3)
        self.residual_head = _mlp(d + 6, d, 2)
        for head in (self.posterior_head, self.unseen_head, self.state_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        for parameter in self.residual_head[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Features) -> tuple[Tokens, Posterior]:
        """Read the features; return the tokens and the posterior to plan in."""
        dtype = self.embed_pair.weight.dtype
        tokens = Tokens(
            self.embed_pair(features.pair.to(dtype)),
            self.embed_state(features.state.to(dtype)),
            self.embed_data(features.data.to(dtype)),
        )
        for layer in self.layers:
            tokens = layer(tokens, features)
        tokens = Tokens(
            self.pair_norm(tokens.pair),
            self.state_norm(tokens.state),
            self.data_norm(tokens.data),
        )
        return tokens, self._posterior(tokens, features)

    def _posterior(self, tokens: Tokens, features: Features) -> Posterior:
        """Shrink the empirical process towards the learned prior process."""
        dtype = features.n.dtype
        out = self.posterior_head(tokens.pair).to(dtype)
        n = features.n
        log_strength, prior_reward = out[..., :2].clamp(-8, 4), out[..., 2]
        strength = log_strength.exp()
        bonus = functional.softplus(out[..., -2:] - 1)  # (B, S, A, 2)
        trust = n / (n + strength[..., 0])
        reward_trust = n / (n + strength[..., 1])

        # A part of the mixture that the data leave empty gets no probability.
        def has(edges_state: Tensor) -> Tensor:
            flags = torch.zeros(n.shape[0] * n.shape[1], dtype=torch.bool)
            flags = flags.to(n.device)
            flags[edges_state] = True
            return flags.view(n.shape[0], n.shape[1], 1).expand_as(n)

        always = torch.ones_like(n, dtype=torch.bool)
        open_parts = torch.stack(
            [
                always,
                has(features.edge_pair // n.shape[2]),
                has(features.edge_next),
                always,
                always,
                always,
            ],
            -1,
        )
        mixture = out[..., 3 : 3 + _PRIOR_PARTS].masked_fill(~open_parts, -1e9)
        mixture = mixture.softmax(-1) * (1 - trust)[..., None]

        bound = 1 / (1 - features.gamma)[:, None]
        value = symexp(self.unseen_head(tokens.data).to(dtype).clamp(-6, 6))
        value = torch.maximum(torch.minimum(value, bound), -bound)  # (B, heads)
        unseen = (features.gamma[:, None] * value).T[:, :, None, None] * mixture[..., 4]

        mean = reward_trust * features.reward + (1 - reward_trust) * prior_reward
        root = torch.rsqrt(n + 1)
        heads = torch.stack(
            [
                _SIGN[0] * bonus[..., 0],
                torch.zeros_like(n),
                _SIGN[2] * (bonus[..., 1] + _HIGH_FLOOR),
            ]
        )
        edge_trust = trust.reshape(-1)[features.edge_pair]
        return Posterior(
            reward=mean + heads * root + unseen,
            edge_prob=edge_trust * features.edge_prob,
            itself=mixture[..., 0],
            siblings=mixture[..., 1],
            predecessors=mixture[..., 2],
            anywhere=mixture[..., 3],
            ended=trust * features.terminated + mixture[..., 5],
            mean_reward=mean,
            weight=n + strength.permute(3, 0, 1, 2),
        )

    def decide(self, tokens: Tokens, features: Features, q: Tensor) -> Decision:
        """Turn planned action values q (3, B, S, A) into policy log-probabilities.

        logits = g residual - x m / (x + m), with
        x = -((1 - g c) A_middle + g c A_low) / (temperature sqrt(g)), the drop behind
        the best action, A the advantages, m = 10 / sqrt(g) the most that it may be,
        and g = k / (k + n) for the least visited action of the state. As n goes to
        infinity, so does m, and what is left is the middle plan's greedy policy.
        Actions that are not allowed get probability zero; their values may not exceed
        those of the best allowed action.
        """
        dtype = tokens.pair.dtype
        advantage = q - q.amax(-1, keepdim=True)
        context = torch.cat(
            [
                tokens.pair,
                symlog(advantage).permute(1, 2, 3, 0).to(dtype),
                symlog(q).permute(1, 2, 3, 0).to(dtype),
            ],
            -1,
        )
        residual = self.residual_head(context).to(q.dtype)  # (B, S, A, 2)
        knobs = self.state_head(tokens.state).to(q.dtype)[:, :, None]  # (B, S, 1, 6)
        least = features.n.masked_fill(~features.allowed, math.inf)
        least = least.amin(-1, keepdim=True)
        logs = []
        for i in range(2):
            log_temperature, log_pace, share = knobs[..., 3 * i : 3 * i + 3].unbind(-1)
            pace = (log_pace + 2).clamp(-2, 5).exp()
            gate = pace / (pace + least)
            share = gate * torch.sigmoid(share)
            mixed = (1 - share) * advantage[1] + share * advantage[0]
            temperature = (log_temperature - 2).clamp(-7, 3).exp() * gate.sqrt()
            drop = -mixed / temperature
            reach = _REACH / gate.sqrt()
            logits = gate * residual[..., i] - drop * reach / (drop + reach)
            logits = logits.masked_fill(~features.allowed, -1e9)
            logs.append(logits.log_softmax(-1))
        return Decision(*logs)
