"""Network of the seed's model: weight-tied attention from statistics to a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from tabrl._batch import segment_sum
from tabrl._features import (
    DATA_FEATURES,
    PAIR_FEATURES,
    STATE_FEATURES,
    Features,
    StatisticsBatch,
    build_features,
)
from tabrl._network import NetworkConfig

WEIGHTS, MANIFEST = "seed_model.safetensors", "seed_model.json"


class _Edges(NamedTuple):
    """Successors of the pairs; over the edges of a pair, exp(log_prob) sums to one."""

    pair: Tensor  # (E,)
    next: Tensor  # (E,)
    log_prob: Tensor  # (E,)


class _Layer(nn.Module):
    """Hybrid Bellman operator: pairs read their successors, states their pairs.

    The logits of the attention are q k + beta log P. With q k = 0 and beta = 1 it
    averages over the successors, as Bellman's operator does.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d, hidden = config.width, config.width * config.mlp_ratio
        self.n_heads = config.n_heads
        self.pair_norm, self.state_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        # What stands for the successor of untried pairs, and for the end.
        self.special = nn.Parameter(torch.randn(2, d))
        self.query = nn.Linear(d, d)
        self.key_value = nn.Linear(d, 2 * d)
        self.beta = nn.Parameter(torch.ones(config.n_heads))
        self.sharpness = nn.Parameter(torch.ones(config.n_heads))
        self.attended = nn.Linear(d, d)
        self.from_state = nn.Linear(d, d, bias=False)
        self.pair_mlp = _mlp(d, hidden)
        self.pool = nn.Linear(2 * d, d)
        self.state_mlp = _mlp(d, hidden)

    def forward(
        self, given: Tensor, pair: Tensor, state: Tensor, edges: _Edges, allowed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next pairs (B, S, A, d) and states (B, S, d).

        ``given`` are the pairs as they were before the first layer.
        """
        b, s, a, d = pair.shape
        h = self.state_norm(state)
        message = self._attend(
            self.pair_norm(pair).view(-1, d), h.reshape(-1, d), edges
        )
        pair = given + self.attended(message).view(b, s, a, d)
        pair = pair + self.from_state(h)[:, :, None]
        pair = pair + self.pair_mlp(pair)
        mean = (pair * allowed[..., None]).sum(2) / allowed.sum(2, keepdim=True)
        most = pair.masked_fill(~allowed[..., None], -1e9).amax(2)
        state = state + self.pool(torch.cat([mean, most], -1))
        return pair, state + self.state_mlp(state)

    def _attend(self, x: Tensor, h: Tensor, edges: _Edges) -> Tensor:
        """Return what pairs x (P, d) read from states h (N, d), (P, d).

        Queries and keys have unit length, so that the softmax needs no maximum.
        """
        heads = (-1, self.n_heads, x.shape[1] // self.n_heads)
        query = functional.normalize(self.query(x).view(heads), dim=-1)
        key, value = self.key_value(torch.cat([h, self.special])).chunk(2, -1)
        key = functional.normalize(key.reshape(heads), dim=-1)
        logit = query.index_select(0, edges.pair) * key.index_select(0, edges.next)
        logit = 4 * self.sharpness.clamp(-3, 3) * logit.sum(-1)  # (E, heads)
        weight = torch.exp(logit + self.beta * edges.log_prob[:, None])
        message = value.reshape(heads).index_select(0, edges.next) * weight[..., None]
        message = segment_sum(message, edges.pair, len(x))
        total = segment_sum(weight, edges.pair, len(x))
        return (message / total[..., None]).flatten(1)


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Linear(hidden, width),
    )


class SeedModel(nn.Module):
    """Weight-tied attention over successors, from statistics to a policy.

    Parameters
    ----------
    config : NetworkConfig
        ``n_layers`` is how often the one layer is applied.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.embed_pair = nn.Linear(len(PAIR_FEATURES), d)
        self.embed_state = nn.Linear(len(STATE_FEATURES), d)
        self.embed_data = nn.Linear(len(DATA_FEATURES), d)
        self.layer = _Layer(config)
        self.head = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 1))

    def forward(self, features: Features) -> Tensor:
        """Return the log-probabilities of the actions, (B, S, A)."""
        dtype = self.embed_data.weight.dtype
        data = self.embed_data(features.data.to(dtype))
        given = self.embed_pair(features.pair.to(dtype)) + data[:, None, None]
        pair = given
        state = self.embed_state(features.state.to(dtype)) + data[:, None]
        edges = _edges(features, dtype)
        for _ in range(self.config.n_layers):
            pair, state = self.layer(given, pair, state, edges, features.allowed)
        logits = self.head(pair).squeeze(-1)
        return logits.masked_fill(~features.allowed, -1e9).log_softmax(-1)


def _edges(features: Features, dtype: torch.dtype) -> _Edges:
    """Add to the observed successors the end, and one for pairs never tried."""
    untried = (features.n == 0).flatten().nonzero()[:, 0]
    terminated = features.terminated.flatten()
    ending = terminated.nonzero()[:, 0]
    n_states = features.known.numel()
    prob = torch.cat(
        [features.edge_prob, torch.ones_like(terminated)[untried], terminated[ending]]
    )
    return _Edges(
        torch.cat([features.edge_pair, untried, ending]),
        torch.cat(
            [
                features.edge_next,
                torch.full_like(untried, n_states),
                torch.full_like(ending, n_states + 1),
            ]
        ),
        prob.to(dtype).log(),
    )


def load(folder: str | Path) -> SeedModel:
    """Load a model in double precision, in which equal actions stay equal.

    Parameters
    ----------
    folder : str or Path
        Where `training.train` has put it.

    Returns
    -------
    SeedModel
        Without gradients.

    Raises
    ------
    ValueError
        If it was trained on other features.
    """
    manifest = json.loads((Path(folder) / MANIFEST).read_text())
    model = SeedModel(NetworkConfig(**manifest["config"]["network"]))
    weights = load_file(Path(folder) / WEIGHTS)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            "The seed's model must have been trained on the features of this code. "
            f"Those of {str(folder)!r} are of commit {manifest['commit']}. Train anew."
        ) from error
    return model.double().requires_grad_(False)


def read_policy(model: SeedModel, statistics: StatisticsBatch) -> NDArray[np.float64]:
    """Return the policy (S, A) for a batch of one data set."""
    return model(build_features(statistics))[0].exp().numpy()
