"""Offline benchmark: one policy from one log, scored exactly.

A cell is one log: an environment, a behaviour policy, a size, a discount factor and a
seed. Every method gets the same log. Of what a log cannot show they know the numbers
of states and of actions, and the SPIBB methods the behaviour policy as well. In states
that are not in the log tabrl infers a policy (`handle_unknown="infer"`), and those of
the others are uniform, with two exceptions: ties broken towards the first action give
action 0, and the SPIBB methods keep the behaviour policy.

The rows have the cell's parameters, `method`, `constant` (None where a method has
none), `value` (normalised and clipped below at -1) and `value_unclipped`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline import (
    BASELINES,
    NEURAL,
    LoggedData,
    Method,
    seed_models,
    tabrls,
)
from pretraining.benchmark.baselines.packages import is_installed, missing
from pretraining.benchmark.behaviours import BEHAVIOURS, behaviour_policy
from pretraining.benchmark.cells import Cell, Row, run_part
from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment
from pretraining.benchmark.process import Environment

# What the neural methods are trained on: 60 logs a gamma, about a minute each.
NEURAL_ENVIRONMENTS = (
    "gridworld-3x3",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "RiverSwim-6",
    "DeepSea-6",
)
NEURAL_BEHAVIOURS = ("uniform", "epsilon 0.3")
NEURAL_SIZES = (64, 1024)
NEURAL_SEEDS = 3


@dataclass(frozen=True)
class Protocol:
    """What the offline benchmark runs.

    Parameters
    ----------
    environments : sequence of str
        Names of the environments.
    behaviours : sequence of str
        Names of the behaviour policies, as for `behaviour_policy`.
    sizes : sequence of int
        Transitions of a log.
    n_seeds : int
        Logs of each environment, behaviour and size.
    gammas : sequence of float
        Discount factors.
    checkpoint : str or None
        What `OfflinePolicyEstimator` takes; None leaves tabrl out.
    baselines : bool
        Whether to run what is not tabrl.
    seed_model : str or None
        Folder of `pretraining.benchmark.baselines.seed_model`; None leaves that out.
    d3rlpy : bool
        Whether to train d3rlpy's networks as well, on the logs that `NEURAL_...` say.
    seed : int
        Seed of the first log; the others follow.
    """

    environments: Sequence[str] = ENVIRONMENT_NAMES
    behaviours: Sequence[str] = BEHAVIOURS
    sizes: Sequence[int] = (16, 64, 256, 1024, 4096, 16384)
    n_seeds: int = 20
    gammas: Sequence[float] = (0.99,)
    checkpoint: str | None = "auto"
    baselines: bool = True
    seed_model: str | None = None
    d3rlpy: bool = False
    seed: int = 0

    def cells(self) -> list[Row]:
        """Parameters of each cell."""
        seeds = range(self.seed, self.seed + self.n_seeds)
        grid = product(
            self.gammas, self.environments, self.behaviours, self.sizes, seeds
        )
        names = ("gamma", "environment", "behaviour", "size", "seed")
        cells: list[Row] = [
            {"part": "offline", **dict(zip(names, values, strict=True))}
            for values in grid
        ]
        if not self.d3rlpy:
            return cells
        neural = [
            {**cell, "package": "d3rlpy"}
            for cell in cells
            if cell["environment"] in NEURAL_ENVIRONMENTS
            and cell["behaviour"] in NEURAL_BEHAVIOURS
            and cell["size"] in NEURAL_SIZES
            and cell["seed"] < self.seed + NEURAL_SEEDS
        ]
        return cells + neural


QUICK = Protocol(
    environments=(
        *("gridworld-3x3", "FrozenLake-v1", "CliffWalking-v1"),
        *("RiverSwim-6", "DeepSea-10", "Garnet-20-4-3"),
    ),
    sizes=(64, 1024),
    n_seeds=5,
)


def simulate_log(
    env: Environment, behaviour: str, size: int, seed: int
) -> dict[str, NDArray]:
    """Simulate the log of one data set, the same in every run and on any worker.

    Parameters
    ----------
    env : Environment
        The process.
    behaviour : str
        Name of the behaviour policy.
    size : int
        Number of transitions.
    seed : int
        Number of the data set.

    Returns
    -------
    dict of arrays
        As from `Environment.simulate`.
    """
    names = [zlib.crc32(name.encode()) for name in (env.name, behaviour)]
    rng = np.random.default_rng([*names, size, seed])
    return env.simulate(behaviour_policy(env, behaviour), size, rng)


def methods(cell: Cell, protocol: Protocol) -> list[Method]:
    """Return what is run on a cell: those methods whose packages are installed."""
    if "package" in cell:
        return [method for method in NEURAL if method.package == cell["package"]]
    found = [m for m in BASELINES if protocol.baselines and is_installed(m.package)]
    if protocol.checkpoint is not None:
        found += tabrls(protocol.checkpoint)
    if protocol.seed_model is not None:
        found += seed_models(protocol.seed_model)
    return found


def score_cell(cell: Cell, protocol: Protocol) -> list[Row]:
    """Score every method on the log of one cell; one row a method and constant.

    Parameters
    ----------
    cell : mapping
        An item of `Protocol.cells`.
    protocol : Protocol
        Says which methods are run.

    Returns
    -------
    list of dict
        `method`, `constant`, `value` and `value_unclipped`.
    """
    env = environment(cell["environment"], cell["gamma"], cell["seed"])
    behaviour, seed = cell["behaviour"], cell["seed"]
    log = simulate_log(env, behaviour, cell["size"], seed)
    data = LoggedData.from_log(log, env.gamma, behaviour_policy(env, behaviour), seed)
    return [
        {"method": method.name, "constant": constant, **score(pi, env)}
        for method in methods(cell, protocol)
        for constant in method.constants or (None,)
        for pi in [method.policy(data, constant)]
    ]


def score(pi: NDArray[np.float64], env: Environment) -> Row:
    """Return the normalised value of a policy (S, A), clipped below at -1 and not."""
    value = env.normalised_value(pi, clip=False)
    return {"value": max(value, -1.0), "value_unclipped": value}


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`."""
    cells = protocol.cells()
    optional = [*BASELINES] if protocol.baselines else []
    optional += NEURAL if protocol.d3rlpy else []
    for package in sorted({m.package for m in optional if m.package is not None}):
        names = [method.name for method in optional if method.package == package]
        if missing(package, " and ".join(names)):
            cells = [cell for cell in cells if cell.get("package") != package]
    score_one = partial(score_cell, protocol=protocol)
    return run_part("offline", protocol, cells, score_one, output, **options)
