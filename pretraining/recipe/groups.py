"""The configuration of a run, and the stream of data that it decides.

Fourth of the recipe, after the losses: it says which processes, of which size, with
which data sets, each step of a training sees.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pretraining.prior import FAMILIES, log_uniform
from pretraining.recipe.simulate import Log, draw_reward_ranges, simulate
from pretraining.recipe.targets import ProcessBatch, draw_processes
from tabrl._network import NetworkConfig

# Share of the groups that are bandits with one state; random sizes add a few more.
_ONE_STATE = 0.12


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run, except the machine."""

    seed: int = 0
    n_steps: int = 10_000
    groups_per_step: int = 3
    pairs_per_group: int = 3_000
    max_states: int = 64
    large_share: float = 0.12
    largest_states: int = 256
    max_actions: int = 16
    max_log_size: float = 1e5
    exploring_share: float = 0.35
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.998
    families: tuple[str, ...] = tuple(FAMILIES)
    network: NetworkConfig = field(default_factory=NetworkConfig)

    @classmethod
    def from_json(cls, path: Path) -> TrainConfig:
        """Read a configuration; unknown keys are errors."""
        values = json.loads(path.read_text())
        values["network"] = NetworkConfig(**values.get("network", {}))
        if "families" in values:
            values["families"] = tuple(values["families"])
        return cls(**values)


@dataclass
class Group:
    """Processes of one size, a first data set of each, and what to do with it."""

    batch: ProcessBatch
    log: Log
    only_active: np.ndarray
    reward_range: np.ndarray
    n_rounds: int
    seed: tuple[int, ...]


class Groups(Dataset):
    """The stream of groups of a run; item i depends on the seed and on i alone."""

    def __init__(self, config: TrainConfig, n_groups: int) -> None:
        self.config = config
        self.n_groups = n_groups

    def __len__(self) -> int:
        return self.n_groups

    def __getitem__(self, index: int) -> Group:
        config = self.config
        rng = np.random.default_rng((config.seed, index))
        families = config.families
        if rng.random() < config.large_share:
            n_states = round(log_uniform(rng, config.max_states, config.largest_states))
        else:
            n_states = round(log_uniform(rng, 1, config.max_states))
        if rng.random() < _ONE_STATE:
            n_states = 1
        one_pull = n_states == 1 and rng.random() < 0.5
        if one_pull:  # the second state is terminal
            n_states, families = 2, ("bandits",)
        n_actions = round(log_uniform(rng, 2, config.max_actions))
        n = int(np.clip(config.pairs_per_group // (n_states * n_actions), 2, 256))
        batch = draw_processes(rng, n, n_states, n_actions, families)
        explores = rng.random() < config.exploring_share
        largest = math.log(300 if explores else config.max_log_size)
        size = np.exp(rng.uniform(0, largest, n)).astype(np.int64)
        return Group(
            batch=batch,
            log=simulate(rng, batch, size),
            only_active=rng.random(n) < (0.2 if explores else 0.6),
            reward_range=draw_reward_ranges(rng, batch),
            n_rounds=int(rng.integers(2, 4)) if explores else 1,
            seed=(config.seed, index, 1),
        )


def stream(
    config: TrainConfig, step: int, rank: int, n_ranks: int, n_workers: int
) -> Iterator[Group]:
    """Yield a rank's groups from a step on; rank r has every n-th of a step."""
    n_groups = config.groups_per_step
    total = config.n_steps * n_groups
    loader = DataLoader(
        Groups(config, total),
        sampler=[
            first + i
            for first in range(step * n_groups, total, n_groups)
            for i in range(rank, n_groups, n_ranks)
        ],
        batch_size=None,
        num_workers=n_workers,
        worker_init_fn=_one_thread,
    )
    return iter(loader)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
