"""Offline benchmark: one policy from one log, scored exactly.

A cell is one log: an environment, a behaviour policy, a size, a discount factor and a
seed. Every method gets the same log. Of what a log cannot show they know the numbers
of states and of actions, and the SPIBB methods the behaviour policy as well. In states
that are not in the log tabrl infers a policy (`handle_unknown="infer"`), those of the
others are uniform, with the two exceptions of
`pretraining.benchmark.baselines.offline`.

The rows have the cell's parameters, `method`, `constant` (None where a method has
none), `value` (normalised and clipped below at -1) and `value_unclipped`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines import packages as peers
from pretraining.benchmark.baselines.offline import (
    behaviour_cloning,
    certainty_equivalence,
    count,
    soft_spibb,
    spibb,
    vi_lcb,
)
from pretraining.benchmark.behaviours import behaviour_policy
from pretraining.benchmark.cells import Cell, Row, run_part
from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment
from pretraining.benchmark.process import Environment

Log = Mapping[str, NDArray]
# Method, its constant, its policy of shape (S, A).
Policies = Iterator[tuple[str, float | None, NDArray[np.float64]]]

BEHAVIOURS = ("uniform", "epsilon 0.3", "epsilon 0.05", "softmax")
# The constants of the papers.
VI_LCB_CONSTANTS = (0.05, 0.1, 0.2, 0.5, 1.0)
SPIBB_CONSTANTS = (5, 10, 20, 50, 100)
SOFT_SPIBB_CONSTANTS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CQL_CONSTANTS = (0.1, 1.0)

TABRL_GREEDY, TABRL_SAMPLED = "tabrl, greedy", "tabrl, sampled"
BEHAVIOUR, CLONING = "behaviour policy", "behaviour cloning"
CE_FIRST = "certainty equivalence, argmax"
CE_RANDOM = "certainty equivalence, random ties"
VI_LCB_FIRST, VI_LCB_RANDOM = "VI-LCB, argmax", "VI-LCB, random ties"
SPIBB, SOFT_SPIBB = "SPIBB", "Soft-SPIBB"
CQL, BCQ = peers.D3RLPY_METHODS

# What d3rlpy's networks are trained on: 60 logs a gamma, about 17 s each.
D3RLPY_ENVIRONMENTS = (
    "gridworld-3x3",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "RiverSwim-6",
    "DeepSea-6",
)
D3RLPY_BEHAVIOURS = ("uniform", "epsilon 0.3")
D3RLPY_SIZES = (64, 1024)
D3RLPY_SEEDS = 3
D3RLPY_STEPS = 1000


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
        Whether to train d3rlpy's networks as well, on the logs that `D3RLPY_...` say.
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
            if cell["environment"] in D3RLPY_ENVIRONMENTS
            and cell["behaviour"] in D3RLPY_BEHAVIOURS
            and cell["size"] in D3RLPY_SIZES
            and cell["seed"] < self.seed + D3RLPY_SEEDS
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


def baseline_policies(log: Log, env: Environment, behaviour: str) -> Policies:
    """Fit every baseline, with every constant, to one log.

    Parameters
    ----------
    log : mapping of str to array
        The transitions.
    env : Environment
        Where the log comes from; gives the numbers of states and actions, and gamma.
    behaviour : str
        Name of the behaviour policy, for the SPIBB methods.

    Yields
    ------
    method, constant, policy
        The policy of shape (S, A).
    """
    counts, gamma = count(log, env.n_states, env.n_actions), env.gamma
    pi_b = behaviour_policy(env, behaviour)
    yield BEHAVIOUR, None, pi_b
    yield CLONING, None, behaviour_cloning(counts)
    yield CE_FIRST, None, certainty_equivalence(counts, gamma, ties="first")
    yield CE_RANDOM, None, certainty_equivalence(counts, gamma, ties="random")
    for c in VI_LCB_CONSTANTS:
        yield VI_LCB_FIRST, c, vi_lcb(counts, gamma, c, ties="first")
        yield VI_LCB_RANDOM, c, vi_lcb(counts, gamma, c, ties="random")
    for n_wedge in SPIBB_CONSTANTS:
        yield SPIBB, n_wedge, spibb(counts, gamma, pi_b, n_wedge)
    for epsilon in SOFT_SPIBB_CONSTANTS:
        yield SOFT_SPIBB, epsilon, soft_spibb(counts, gamma, pi_b, epsilon)


def d3rlpy_policies(log: Log, env: Environment, seed: int) -> Policies:
    """Train d3rlpy's networks on one log; arguments and results as for the others."""
    train = partial(
        peers.d3rlpy_policy, log=log, env=env, seed=seed, n_steps=D3RLPY_STEPS
    )
    for alpha in CQL_CONSTANTS:
        yield CQL, alpha, train(CQL, alpha=alpha)
    yield BCQ, None, train(BCQ)


def tabrl_policies(log: Log, env: Environment, checkpoint: str, seed: int) -> Policies:
    """Fit tabrl's public estimator: its choices, and its distribution over actions.

    States that the log does not show get what the network infers of them, actions
    that it does not show probability 0.

    Parameters
    ----------
    log : mapping of str to array
        The transitions.
    env : Environment
        Where the log comes from; gives the numbers of states and actions, and gamma.
    checkpoint : str
        What `OfflinePolicyEstimator` takes.
    seed : int
        Its `random_state`.

    Yields
    ------
    method, constant, policy
        The policy of shape (S, A).
    """
    # Imported here, so that the baselines run without torch and a checkpoint.
    from tabrl import OfflinePolicyEstimator

    estimator = OfflinePolicyEstimator(
        gamma=env.gamma,
        checkpoint=checkpoint,
        random_state=seed,
        handle_unknown="infer",
    )
    estimator.fit(dict(log))
    states = np.arange(env.n_states)
    actions = np.asarray(estimator.actions_, dtype=np.int64)
    choice = np.asarray(estimator.predict(states), dtype=np.int64)
    yield TABRL_GREEDY, None, np.eye(env.n_actions)[choice]
    sampled = np.zeros((env.n_states, env.n_actions))
    sampled[:, actions] = estimator.predict_proba(states)
    yield TABRL_SAMPLED, None, sampled


def score_cell(
    cell: Cell,
    checkpoint: str | None,
    baselines: bool = True,
    seed_model: str | None = None,
) -> list[Row]:
    """Score every method on the log of one cell; one row a method and constant.

    Parameters
    ----------
    cell : mapping
        An item of `Protocol.cells`.
    checkpoint : str or None
        For tabrl; None leaves it out.
    baselines : bool
        Whether to score the classical methods.
    seed_model : str or None
        Folder of the seed's model; None leaves it out.

    Returns
    -------
    list of dict
        `method`, `constant`, `value` and `value_unclipped`.
    """
    env = environment(cell["environment"], cell["gamma"], cell["seed"])
    behaviour, seed = cell["behaviour"], cell["seed"]
    log = simulate_log(env, behaviour, cell["size"], seed)
    found: list[tuple[str, float | None, NDArray[np.float64]]] = []
    if "package" in cell:
        found += d3rlpy_policies(log, env, seed)
    else:
        if baselines:
            found += baseline_policies(log, env, behaviour)
        if checkpoint is not None:
            found += tabrl_policies(log, env, checkpoint, seed)
        if seed_model is not None:
            from pretraining.benchmark.baselines.seed_model import load, policies

            found += policies(log, env, load(seed_model))
    rows: list[Row] = []
    for method, constant, pi in found:
        value = env.normalised_value(pi, clip=False)
        row = {"method": method, "constant": constant, "value": max(value, -1.0)}
        rows.append({**row, "value_unclipped": value})
    return rows


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`."""
    cells = protocol.cells()
    if protocol.d3rlpy and peers.missing("d3rlpy", "DiscreteCQL and DiscreteBCQ"):
        cells = [cell for cell in cells if "package" not in cell]
    score = partial(
        score_cell,
        checkpoint=protocol.checkpoint,
        baselines=protocol.baselines,
        seed_model=protocol.seed_model,
    )
    return run_part("offline", protocol, cells, score, output, **options)
