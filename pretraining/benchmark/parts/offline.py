"""Offline benchmark: one policy from one log, scored exactly.

A cell is one log: an environment, a behaviour policy, a size, a discount factor and a
seed. Every method gets the same log. Of what a log cannot show they know the numbers
of states and of actions, and the SPIBB methods the behaviour policy as well. In states
that are not in the log tabrl infers a policy (`handle_unknown="infer"`), and those of
the others are uniform, with two exceptions: ties broken towards the first action give
action 0, and the SPIBB methods keep the behaviour policy.

The rows have the cell's parameters, `method`, `constant` (None where a method has
none), `value` (normalised and clipped below at -1) and `value_unclipped`; those of
methods that say how sure they are also `coverage`, `width` and `overshoot`, as from
`pretraining.benchmark.coverage`.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from pretraining.benchmark.coverage import coverage
from pretraining.benchmark.environments import (
    ENVIRONMENT_NAMES,
    FOREIGN_NAMES,
    environment,
)
from pretraining.benchmark.process import Environment

# The rows of tabrl, for those who read the results.

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
# Logs of up to a million rows are simulated in parts of this many.
_ROWS_AT_ONCE = 131_072
# For large logs: one that sees everything, one that resembles records of practice.
LARGE_BEHAVIOURS = ("uniform", "clinician")


@dataclass(frozen=True)
class Protocol:
    """What the offline benchmark runs.

    The main grid is every environment, behaviour and size with `n_seeds` logs each.
    Large logs take seconds each, so that they come in a grid of their own with fewer
    behaviours and seeds.

    Parameters
    ----------
    environments : sequence of str
        Names of the environments. In a family of tasks the seed picks the task too.
    behaviours : sequence of str
        Names of the behaviour policies, as for `behaviour_policy`.
    sizes : sequence of int
        Transitions of a log.
    n_seeds : int
        Logs of each environment, behaviour and size.
    seeds_of : mapping of str to int
        Other numbers of logs, for environments that are slow or are families.
    large_sizes, large_behaviours, n_large_seeds
        The grid of large logs.
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
    seeds_of: Mapping[str, int] = field(default_factory=dict)
    large_sizes: Sequence[int] = (65536, 262144, 1048576)
    large_behaviours: Sequence[str] = LARGE_BEHAVIOURS
    n_large_seeds: int = 2
    gammas: Sequence[float] = (0.99,)
    checkpoint: str | None = "auto"
    baselines: bool = True
    seed_model: str | None = None
    d3rlpy: bool = False
    seed: int = 0

    def cells(self) -> list[Row]:
        """Parameters of each cell."""
        large = self.large_behaviours, self.large_sizes
        cells: list[Row] = []
        for gamma, name in product(self.gammas, self.environments):
            n_seeds = self.seeds_of.get(name, self.n_seeds)
            fewer = min(self.n_large_seeds, n_seeds)
            cells += self._grid(gamma, name, self.behaviours, self.sizes, n_seeds)
            cells += self._grid(gamma, name, *large, fewer)
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

    def _grid(
        self,
        gamma: float,
        name: str,
        behaviours: Sequence[str],
        sizes: Sequence[int],
        n_seeds: int,
    ) -> list[Row]:
        seeds = range(self.seed, self.seed + n_seeds)
        return [
            {
                "part": "offline",
                "gamma": gamma,
                "environment": name,
                "behaviour": behaviour,
                "size": size,
                "seed": seed,
            }
            for behaviour, size, seed in product(behaviours, sizes, seeds)
        ]


QUICK = Protocol(
    environments=(
        *("gridworld-3x3", "FrozenLake-v1", "CliffWalking-v1"),
        *("RiverSwim-6", "DeepSea-10", "Garnet-20-4-3"),
    ),
    behaviours=("uniform", "epsilon 0.3", "epsilon 0.05", "softmax"),
    sizes=(64, 1024),
    n_seeds=5,
    large_sizes=(),
)
# Worlds that need no package beside gymnasium, one of them a family.
QUICK_FOREIGN = Protocol(
    environments=("Taxi-v4-fine-100", "queue-21", "RandomMDP-50-4"),
    behaviours=("uniform", "clinician"),
    sizes=(64, 1024),
    n_seeds=3,
    large_sizes=(),
)
# About half an hour on two cores. A sepsis cell takes ten seconds, so it has few logs.
FOREIGN = Protocol(
    environments=FOREIGN_NAMES,
    behaviours=("uniform", "epsilon 0.3", "clinician"),
    n_seeds=10,
    seeds_of={
        "ICU-Sepsis-v2": 3,
        **{f"AnyMDP-{n}": 100 for n in (16, 32, 64, 128)},
    },
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
    pi = behaviour_policy(env, behaviour)
    if size <= _ROWS_AT_ONCE:
        return env.simulate(pi, size, rng)
    starts = range(0, size, _ROWS_AT_ONCE)
    parts = [env.simulate(pi, min(_ROWS_AT_ONCE, size - i), rng) for i in starts]
    for part, before in zip(parts[1:], parts[:-1], strict=True):
        part["episode"] += before["episode"][-1] + 1
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


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
        `method`, `constant`, `value` and `value_unclipped`, and of methods that say
        how sure they are what `coverage` returns.
    """
    env = environment(cell["environment"], cell["gamma"], cell["seed"])
    behaviour, seed = cell["behaviour"], cell["seed"]
    log = simulate_log(env, behaviour, cell["size"], seed)
    data = LoggedData.from_log(log, env.gamma, behaviour_policy(env, behaviour), seed)
    return [
        row
        for method in methods(cell, protocol)
        for row in score_method(method, data, env)
    ]


def score_method(method: Method, data: LoggedData, env: Environment) -> list[Row]:
    """Score the policy of each of a method's constants, clipped below at -1 and not."""
    rows: list[Row] = []
    for constant in method.constants or (None,):
        value = env.normalised_value(method.policy(data, constant), clip=False)
        row = {"method": method.name, "constant": constant, "value": max(value, -1.0)}
        rows.append({**row, "value_unclipped": value})
    quantiles = method.quantiles(data)
    if quantiles is None:
        return rows
    found = coverage(quantiles, data.n > 0, env)
    return [row | found for row in rows]


def available(names: Sequence[str], gamma: float) -> list[str]:
    """Return the environments whose packages are installed; what is not is said."""
    found: list[str] = []
    for name in names:
        try:
            environment(name, gamma)
        except ModuleNotFoundError as error:
            sys.stderr.write(f"Left out: {name}. {error}\n")
        else:
            found.append(name)
    return found


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`."""
    there = available(protocol.environments, protocol.gammas[0])
    cells = [cell for cell in protocol.cells() if cell["environment"] in there]
    optional = [*BASELINES] if protocol.baselines else []
    optional += NEURAL if protocol.d3rlpy else []
    for package in sorted({m.package for m in optional if m.package is not None}):
        names = [method.name for method in optional if method.package == package]
        if missing(package, " and ".join(names)):
            cells = [cell for cell in cells if cell.get("package") != package]
    score_one = partial(score_cell, protocol=protocol)
    return run_part("offline", protocol, cells, score_one, output, **options)
