"""The attention network: features of a data set to a posterior model and a policy.

The network never plans. It reads the statistics, says how much to trust them
(`Posterior`), and, once `tabrl._planning` has solved that posterior exactly,
turns the solved action values into a policy (`decide`). With n visits everywhere
the prior keeps a share n0 / (n + n0) and every learned correction of the policy
fades at least as fast, so that both tend to certainty equivalence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
# At inference so many pairs are computed at once: their temporaries, about a megabyte
# each, stay in a core's cache. Fewer cost calls, more cost memory and page faults.
_BLOCK_PAIRS = 4096
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


@dataclass(frozen=True)
class _Block:
    """A run of states whose pairs are computed at once, and what all layers need.

    Attributes
    ----------
    features : Features
        Of these states alone; ``edge_pair`` counts within the block, ``edge_next``
        over all states.
    rows : slice
        The states, of (B, S, ...).
    known, allowed, choices : Tensor of shape (B, s, 1), (B, s, A, 1), (B, s, A, 1)
        Which states are known, what they allow, and what the known ones allow.
    tried : int64 Tensor of shape (P,)
        The pairs that have a visit, the only ones that have anything to attend to.
    edge_at : int64 Tensor of shape (E,)
        The position in ``tried`` of each edge's pair.
    log_prob, log_end, ended : Tensor of shape (E, 1), (P, 1), (P, 1)
        Logarithm of the share of each edge, and of ends; whether there was an end.
    """

    features: Features
    rows: slice
    known: Tensor
    allowed: Tensor
    choices: Tensor
    tried: Tensor
    edge_at: Tensor
    log_prob: Tensor
    log_end: Tensor
    ended: Tensor


def _rows(features: Features) -> list[slice]:
    """Return the states in runs of about `_BLOCK_PAIRS` pairs.

    Batches of several data sets, and what has a gradient, are one run.
    """
    b, s, a = features.n.shape
    size = s
    if b == 1 and not torch.is_grad_enabled():
        size = max(1, _BLOCK_PAIRS // a)
    return [slice(i, min(i + size, s)) for i in range(0, s, size)]


def _blocks(features: Features, dtype: torch.dtype) -> list[_Block]:
    """Return the blocks of all states."""
    runs = _rows(features)
    if len(runs) == 1:
        return [_block(features, runs[0], dtype)]
    n_actions = features.n.shape[2]
    # Edges of one data set are sorted by their pair: see `tabrl._statistics`.
    ends = torch.tensor([run.stop * n_actions for run in runs]).to(features.edge_pair)
    last = torch.searchsorted(features.edge_pair, ends).tolist()
    of_states = ("pair", "state", "n", "reward", "terminated", "known", "allowed")
    blocks = []
    for run, start, stop in zip(runs, [0, *last], last, strict=False):
        part = replace(
            features,
            **{name: getattr(features, name)[:, run] for name in of_states},
            edge_pair=features.edge_pair[start:stop] - run.start * n_actions,
            edge_next=features.edge_next[start:stop],
            edge_prob=features.edge_prob[start:stop],
        )
        blocks.append(_block(part, run, dtype))
    return blocks


def _block(features: Features, rows: slice, dtype: torch.dtype) -> _Block:
    visited = features.n.flatten() > 0
    tried = visited.nonzero()[:, 0]
    position = visited.cumsum(0) - 1
    end = features.terminated.flatten()[tried, None].to(dtype)
    return _Block(
        features=features,
        rows=rows,
        known=features.known[..., None].to(dtype),
        allowed=features.allowed[..., None],
        choices=(features.known[..., None] & features.allowed)[..., None],
        tried=tried,
        edge_at=position[features.edge_pair],
        log_prob=features.edge_prob.to(dtype).clamp(min=1e-9).log()[:, None],
        log_end=end.clamp(min=1e-9).log(),
        ended=(end > 0).to(dtype),
    )


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

    def forward(
        self, pairs: list[Tensor], state: Tensor, data: Tensor, blocks: list[_Block]
    ) -> tuple[Tensor, Tensor]:
        """Return new tokens of states and data sets; replace those of the pairs."""
        h = self.state_norm(state)
        by_action = self.from_action(self._pool_actions(pairs, blocks))
        shared = by_action + self.from_data(data)[:, None]  # (B, A, d)
        key, value = self.key_value(h).chunk(2, -1)
        key = _unit(key.reshape(-1, key.shape[-1]), self.n_heads)
        value = value.reshape(-1, h.shape[-1])
        of_data = self.data_to_state(data)[:, None]
        states, sums, highest = [], [], []
        for i, block in enumerate(blocks):
            pair = pairs[i]
            attended = self._attend(self.pair_norm(pair), key, value, block)
            pair = pair + attended.view_as(pair)
            pair = pair + self.from_state(h[:, block.rows])[:, :, None]
            pair = pair + shared[:, None]
            pair = pair + self.pair_mlp(self.pair_mlp_norm(pair))
            pairs[i] = pair  # in place of the old one, for the sake of memory

            pooled = torch.cat(_mean_and_max(pair, block.allowed), -1)  # (B, s, 2 d)
            part = state[:, block.rows] + self.pool_pairs(pooled) + of_data
            part = part + self.state_mlp(self.state_mlp_norm(part))
            states.append(part)
            sums.append((part * block.known).sum(1))
            highest.append(part.masked_fill(block.known == 0, -1e9).amax(1))

        n_known = torch.stack([block.known.sum(1) for block in blocks]).sum(0)
        mean = torch.stack(sums).sum(0) / n_known.clamp(min=1)
        pooled = torch.cat([mean, torch.stack(highest).amax(0)], -1)
        data = data + self.pool_states(pooled)
        data = data + self.data_mlp(self.data_mlp_norm(data))
        return _joined(states), data

    def _pool_actions(self, pairs: list[Tensor], blocks: list[_Block]) -> Tensor:
        """Return the mean over the known states that allow each action, (B, A, d)."""
        sums, n_states = [], []
        for pair, block in zip(pairs, blocks, strict=True):
            choices, x = block.choices, self.pair_norm(pair)
            sums.append((x if choices.all() else x * choices).sum(1))
            n_states.append(choices.sum(1))
        return torch.stack(sums).sum(0) / torch.stack(n_states).sum(0).clamp(min=1)

    def _attend(self, x: Tensor, key: Tensor, value: Tensor, block: _Block) -> Tensor:
        """Hybrid Bellman attention of pairs over observed successors, (B s A, d).

        Queries and keys have unit length, so that logits are bounded and the
        softmax needs no maximum.
        """
        n_heads, d = self.n_heads, x.shape[-1]
        dim = d // n_heads
        x = x.flatten(0, 2)
        fixed = self.special[1].view(2, n_heads, dim)
        n_pairs, tried = len(x), block.tried
        if len(tried) < n_pairs:
            x = x.index_select(0, tried)
        sharpness = self.gain.clamp(-4, 4) * math.sqrt(dim)
        query = _unit(self.query(x), n_heads) * sharpness[:, None]
        special = _unit(self.special[0], n_heads)

        at_pair, at_next = block.edge_at, block.features.edge_next
        # index_select is twice as fast as indexing, and edges are many.
        logit = query.index_select(0, at_pair) * key.index_select(0, at_next)
        weight = torch.exp(logit.sum(-1) + self.beta * block.log_prob)  # (E, heads)
        extra = torch.einsum("phd,khd->pkh", query, special) + self.special_bias
        ended = (extra[:, 1] + self.beta * block.log_end).exp() * block.ended
        extra = torch.stack([extra[:, 0].exp(), ended], 1)  # (P, 2, heads)

        total = segment_sum(weight, at_pair, len(query)) + extra.sum(1)
        message = value.index_select(0, at_next).view(-1, n_heads, dim)
        message = (message * weight[..., None]).flatten(1)
        message = segment_sum(message, at_pair, len(query))
        message = message + torch.einsum("pkh,khd->phd", extra, fixed).flatten(1)
        out = self.attended(message / total.repeat_interleave(dim, -1))
        if len(tried) == n_pairs:
            return out
        # Where nothing was seen, all weight is on "something not seen yet".
        rest = self.attended(self.special[1, :1]).expand(n_pairs, d)
        return rest.index_copy(0, tried, out)


def _unit(x: Tensor, n_heads: int) -> Tensor:
    """Return the heads' parts (n, heads, d / heads) of rows (n, d), of length one."""
    return functional.normalize(x.unflatten(-1, (n_heads, -1)), dim=-1)


def _mean_and_max(pair: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return both over the actions that are allowed, (B, s, d)."""
    if allowed.all():  # which saves two copies of the largest tensor
        return pair.mean(2), pair.amax(2)
    mean = (pair * allowed).sum(2) / allowed.sum(2).clamp(min=1)
    return mean, pair.masked_fill(~allowed, -1e9).amax(2)


def _joined(parts: list[Tensor], dim: int = 1) -> Tensor:
    """Return the blocks side by side; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _joined_posterior(parts: list[Posterior]) -> Posterior:
    """Return the posterior of all blocks together."""
    dims = {"edge_prob": 0, "reward": 2, "weight": 2}
    fields = {
        name: _joined([getattr(part, name) for part in parts], dims.get(name, 1))
        for name in vars(parts[0])
    }
    return Posterior(**fields)


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
        blocks = _blocks(features, dtype)
        pairs = [self.embed_pair(block.features.pair.to(dtype)) for block in blocks]
        state = self.embed_state(features.state.to(dtype))
        data = self.embed_data(features.data.to(dtype))
        for layer in self.layers:
            state, data = layer(pairs, state, data, blocks)
        state, data = self.state_norm(state), self.data_norm(data)
        shape = features.known.shape
        entered = features.known.new_zeros(shape.numel())
        entered[features.edge_next] = True
        entered = entered.view(shape)
        parts = []
        for i, block in enumerate(blocks):
            pairs[i] = self.pair_norm(pairs[i])
            into = entered[:, block.rows]
            parts.append(self._posterior(pairs[i], data, into, block.features))
        return Tokens(_joined(pairs), state, data), _joined_posterior(parts)

    def _posterior(
        self, pair: Tensor, data: Tensor, entered: Tensor, features: Features
    ) -> Posterior:
        """Shrink the empirical process of a block towards the learned prior process.

        ``entered`` (B, s) tells which states were.
        """
        dtype = features.n.dtype
        out = self.posterior_head(pair).to(dtype)
        n = features.n
        log_strength, prior_reward = out[..., :2].clamp(-8, 4), out[..., 2]
        strength = log_strength.exp()
        bonus = functional.softplus(out[..., -2:] - 1)  # (B, s, A, 2)
        trust = n / (n + strength[..., 0])
        reward_trust = n / (n + strength[..., 1])

        # A part of the mixture that the data leave empty gets no probability.
        left = torch.zeros_like(entered).view(-1)
        left[features.edge_pair // n.shape[2]] = True
        always = torch.ones_like(entered)
        open_parts = torch.stack(
            [always, left.view_as(entered), entered, always, always, always], -1
        )[:, :, None]
        mixture = out[..., 3 : 3 + _PRIOR_PARTS].masked_fill(~open_parts, -1e9)
        mixture = mixture.softmax(-1) * (1 - trust)[..., None]

        bound = 1 / (1 - features.gamma)[:, None]
        value = symexp(self.unseen_head(data).to(dtype).clamp(-6, 6))
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
        decisions = [
            self._decide(
                *(tokens.pair[:, rows], tokens.state[:, rows], q[:, :, rows]),
                *(features.n[:, rows], features.allowed[:, rows]),
            )
            for rows in _rows(features)
        ]
        policy, optimal = map(list, zip(*decisions, strict=True))
        return Decision(_joined(policy), _joined(optimal))

    def _decide(
        self, pair: Tensor, state: Tensor, q: Tensor, n: Tensor, allowed: Tensor
    ) -> list[Tensor]:
        """Return both log-probabilities of a run of states."""
        dtype = pair.dtype
        advantage = q - q.amax(-1, keepdim=True)
        both = symlog(torch.cat([advantage, q])).permute(1, 2, 3, 0)  # (B, s, A, 6)
        context = torch.cat([pair, both.to(dtype)], -1)
        residual = self.residual_head(context).to(q.dtype)  # (B, s, A, 2)
        knobs = self.state_head(state).to(q.dtype)[:, :, None]  # (B, s, 1, 6)
        least = n.masked_fill(~allowed, math.inf)
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
            logits = logits.masked_fill(~allowed, -1e9)
            logs.append(logits.log_softmax(-1))
        return logs
