"""In-context peer: the seed's model, which learns to plan instead of planning.

    python -m pretraining.benchmark.baselines.seed_model --out runs/seed --minutes 60

Written from the description in "Reinforcement Learning Foundation Models Should
Already Be A Thing" (Zighem and Vie, arXiv 2606.18812), without its code: layers of
attention from pairs to their successors, all with the same weights, read the counts
of a data set and end in a policy, which soft cross-entropy trains towards the optimal
actions of processes that are random graphs. Features and contexts are those of our
own pretraining: a quarter of the contexts are independent draws, as all of the
paper's are, the others logs. Groups with one state, about a sixth of the stream, are
bandits.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from pretraining.benchmark.baselines.online import ValueIteration
from pretraining.benchmark.cells import provenance
from pretraining.benchmark.exact import greedy
from pretraining.benchmark.parts.offline import Policies
from pretraining.benchmark.process import Environment
from pretraining.recipe.loss import optimal_actions
from pretraining.recipe.simulate import to_statistics
from pretraining.recipe.train import Group, Groups, TrainConfig, learning_rate
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
from tabrl._statistics import Statistics

SEED_GREEDY, SEED_SAMPLED = "seed model, greedy", "seed model, sampled"
# The paper's sizes and family. About as many processes as it saw, 128,000.
CONFIG = TrainConfig(
    n_steps=1700,
    warmup_steps=50,
    groups_per_step=1,
    large_share=0.0,
    exploring_share=0.0,
    learning_rate=1e-3,
    families=("graphs",),
    network=NetworkConfig(width=64, n_layers=20),
)
_SAVE_EVERY = 250


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


def cross_entropy(model: SeedModel, group: Group) -> Tensor:
    """Return the mean cross-entropy to equal shares of the optimal actions."""
    statistics = to_statistics(
        group.batch, group.log, group.only_active, group.reward_range
    )
    features = build_features(statistics)
    log_policy = model(features)
    optimal = optimal_actions(group.batch).to(log_policy)
    target = optimal / optimal.sum(-1, keepdim=True)
    asked = features.known & ~group.batch.terminal
    loss = -(target * log_policy).sum(-1)
    return (loss * asked).sum() / asked.sum().clamp(min=1)


def train(config: TrainConfig, out: Path, minutes: float = math.inf) -> SeedModel:
    """Train on the CPU for ``config.n_steps`` steps, or at most for ``minutes``.

    Writes what `load` reads: the running average of the weights, and a manifest that
    says how much training they had.
    """
    torch.manual_seed(config.seed)
    model = SeedModel(config.network)
    average = SeedModel(config.network).requires_grad_(False)
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    groups = Groups(config, config.n_steps * config.groups_per_step)
    n_processes, recent = 0, 0.0
    began = time.monotonic()
    bar = tqdm(range(1, config.n_steps + 1), unit="step")
    for step in bar:
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(config, step - 1)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for i in range(config.groups_per_step):
            group = groups[(step - 1) * config.groups_per_step + i]
            loss = cross_entropy(model, group) / config.groups_per_step
            loss.backward()
            total += loss.item()
            n_processes += len(group.only_active)
        nn.utils.clip_grad_norm_(
            model.parameters(), config.clip_norm, error_if_nonfinite=True
        )
        optimizer.step()
        decay = min(config.ema, step / (step + 10))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        recent += (total - recent) / min(step, 100)
        bar.set_postfix(cross_entropy=f"{recent:.3f}", refresh=False)
        spent = (time.monotonic() - began) / 60
        if spent > minutes or step == config.n_steps or step % _SAVE_EVERY == 0:
            budget = {"steps": step, "processes": n_processes, "minutes": spent}
            _save(average, config, out, {**budget, "cross_entropy": recent})
        if spent > minutes:
            break
    return average


def _save(
    model: SeedModel, config: TrainConfig, folder: Path, budget: Mapping[str, float]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "seed_model.safetensors")
    manifest = {
        "config": asdict(config),
        "parameters": sum(p.numel() for p in model.parameters()),
        **{name: round(value, 4) for name, value in budget.items()},
        **provenance(None),
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (folder / "seed_model.json").write_text(text)


def load(folder: str | Path) -> SeedModel:
    """Load a model in double precision, in which equal actions stay equal.

    Raises
    ------
    ValueError
        If it was trained on other features.
    """
    manifest = json.loads((Path(folder) / "seed_model.json").read_text())
    model = SeedModel(NetworkConfig(**manifest["config"]["network"]))
    weights = load_file(Path(folder) / "seed_model.safetensors")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            "The seed's model must have been trained on the features of this code. "
            f"Those of {str(folder)!r} are of commit {manifest['commit']}. Train anew."
        ) from error
    return model.double().requires_grad_(False)


def _policy(model: SeedModel, statistics: StatisticsBatch) -> NDArray[np.float64]:
    """Return the policy (S, A) for one data set."""
    return model(build_features(statistics))[0].exp().numpy()


def policies(
    log: Mapping[str, NDArray], env: Environment, model: SeedModel
) -> Policies:
    """Read the policy from one log: its most probable actions, and as it is.

    Both are uniform in states without data, whose actions the model cannot tell
    apart.

    Parameters
    ----------
    log : mapping of str to array
        The transitions.
    env : Environment
        Where the log comes from; gives the numbers of states and actions, and gamma.
    model : SeedModel
        From `load`.

    Yields
    ------
    method, constant, policy
        The policy of shape (S, A).
    """
    statistics = Statistics.from_codes(
        state=log["state"],
        action=log["action"],
        reward=log["reward"],
        next_state=log["next_state"],
        terminated=log["terminated"],
        n_states=env.n_states,
        n_actions=env.n_actions,
    )
    batch = StatisticsBatch.from_statistics(statistics, env.gamma)
    known = torch.from_numpy(statistics.active_states[None])
    pi = _policy(model, replace(batch, known=known))
    yield SEED_GREEDY, None, greedy(pi)
    yield SEED_SAMPLED, None, pi


class SeedLearner(ValueIteration):
    """Draws each action from the policy that the model reads in the counts.

    It is read anew for each episode, and within one whenever the visits of a pair
    reach a power of two.

    Parameters
    ----------
    *args
        As for `Learner`.
    model : SeedModel
        From `load`.
    """

    def __init__(self, *args: Any, model: SeedModel) -> None:
        super().__init__(*args)
        self.model = model
        self._is_current = False

    def begin(self) -> None:
        """Read the policy in all counts so far."""
        if not self._is_current:
            self.follow(_policy(self.model, self._statistics()))
            self._is_current = True

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Count a transition."""
        super().observe(state, action, reward, next_state, terminated, truncated)
        self._is_current = False
        # Reading after every step would take minutes, and more visits of what was
        # seen often change little.
        if math.log2(self.n[state, action]).is_integer():
            self.begin()

    def exploit(self) -> NDArray[np.float64]:
        """Return the most probable actions (S, A)."""
        self.begin()
        return greedy(self.pi)

    def _statistics(self) -> StatisticsBatch:
        pair, successor, count = self._observed()
        going_on = np.bincount(pair, count, self.n.size).reshape(self.n.shape)

        def tensor(values: Any) -> Tensor:
            return torch.from_numpy(np.array(values, dtype=np.float64)[None])

        return StatisticsBatch(
            n=tensor(self.n),
            reward_sum=tensor(self._reward_sum),
            reward_sq_sum=tensor(self._square_sum),
            n_terminated=tensor(self.n - going_on),
            edge_pair=torch.from_numpy(pair),
            edge_next=torch.from_numpy(successor),
            edge_count=torch.from_numpy(count),
            known=torch.ones(1, len(self.n), dtype=torch.bool),
            complete=torch.tensor([True]),
            allowed=torch.ones(1, *self.n.shape, dtype=torch.bool),
            gamma=tensor(self.gamma),
            reward_range=tensor(self.reward_range),
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after, if not done"
    )
    parser.add_argument("--steps", type=int, default=CONFIG.n_steps)
    parser.add_argument("--seed", type=int, default=CONFIG.seed)
    arguments = parser.parse_args()
    config = replace(CONFIG, n_steps=arguments.steps, seed=arguments.seed)
    train(config, arguments.out, arguments.minutes)


if __name__ == "__main__":
    main()
