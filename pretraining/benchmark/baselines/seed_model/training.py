"""Training of the seed's model on random graphs, on the CPU."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from pretraining.benchmark.baselines.seed_model.model import (
    MANIFEST,
    WEIGHTS,
    SeedModel,
)
from pretraining.benchmark.cells import provenance
from pretraining.recipe.loss import optimal_actions
from pretraining.recipe.simulate import to_statistics
from pretraining.recipe.train import Group, Groups, TrainConfig, learning_rate
from tabrl._features import build_features
from tabrl._network import NetworkConfig

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
# Steps between two copies on the disk: about two minutes on one core.
_SAVE_EVERY = 250


def cross_entropy(model: SeedModel, group: Group) -> Tensor:
    """Return the mean cross-entropy to equal shares of the optimal actions."""
    statistics = to_statistics(
        group.batch, group.log, group.only_active, group.reward_range
    )
    features = build_features(statistics)
    log_policy = model(features)
    optimal = optimal_actions(group.batch).to(log_policy)
    target = optimal / optimal.sum(-1, keepdim=True)
    counted = features.known & ~group.batch.terminal
    loss = -(target * log_policy).sum(-1)
    return (loss * counted).sum() / counted.sum().clamp(min=1)


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
    save_file(model.state_dict(), folder / WEIGHTS)
    manifest = {
        "config": asdict(config),
        "parameters": sum(p.numel() for p in model.parameters()),
        **{name: round(value, 4) for name, value in budget.items()},
        **provenance(None),
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (folder / MANIFEST).write_text(text)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pretraining.benchmark.baselines.seed_model",
        description=__doc__,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after, if not done"
    )
    parser.add_argument("--steps", type=int, default=CONFIG.n_steps)
    parser.add_argument("--seed", type=int, default=CONFIG.seed)
    arguments = parser.parse_args()
    config = replace(CONFIG, n_steps=arguments.steps, seed=arguments.seed)
    train(config, arguments.out, arguments.minutes)
