"""Offline benchmark: one policy from one log, scored exactly."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pretraining.benchmark.baselines import (
    behaviour_cloning,
    certainty_equivalence,
    count,
    vi_lcb,
)
from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment
from pretraining.benchmark.exact import greedy
from pretraining.benchmark.process import Environment
from pretraining.benchmark.report import vi_lcb_name

Log = Mapping[str, NDArray]

VI_LCB_CONSTANTS = (0.05, 0.1, 0.2, 0.5, 1.0)
TABRL_GREEDY, TABRL_SAMPLED = "tabrl, greedy", "tabrl, sampled"
CLONING = "behaviour cloning"
CE_FIRST = "certainty equivalence, argmax"
CE_RANDOM = "certainty equivalence, random ties"
# Columns of the tables by environment.
PREFERRED = (TABRL_GREEDY, TABRL_SAMPLED, CE_FIRST, CE_RANDOM)


@dataclass(frozen=True)
class Protocol:
    """What the offline benchmark runs.

    Parameters
    ----------
    environments : sequence of str
        Names of the environments.
    epsilons : sequence of float
        Behaviours: epsilon-greedy on the optimal policy; 1 is the uniform policy.
    sizes : sequence of int
        Transitions of a log.
    n_seeds : int
        Logs of each environment, behaviour and size.
    gammas : sequence of float
        Discount factors.
    checkpoint : str or None
        What `OfflinePolicyEstimator` takes; None leaves tabrl out.
    """

    environments: Sequence[str] = ENVIRONMENT_NAMES
    epsilons: Sequence[float] = (1.0, 0.3, 0.05)
    sizes: Sequence[int] = (64, 256, 1024, 4096)
    n_seeds: int = 10
    gammas: Sequence[float] = (0.99, 0.95)
    checkpoint: str | None = "auto"

    def cells(self) -> list[tuple[float, str, float, int]]:
        """Each gamma, environment, epsilon and size."""
        return list(product(self.gammas, self.environments, self.epsilons, self.sizes))


QUICK = Protocol(
    environments=("gridworld-3x3", "FrozenLake-v1", "RiverSwim-6", "DeepSea-10"),
    sizes=(64, 1024),
    n_seeds=2,
)


def behaviour_name(epsilon: float) -> str:
    """Name of a behaviour in the tables."""
    return "uniform" if epsilon == 1 else f"epsilon {epsilon:g}"


def behaviour_policy(env: Environment, epsilon: float) -> NDArray[np.float64]:
    """Epsilon-greedy on the optimal policy, which takes each best action alike."""
    return (1 - epsilon) * greedy(env.optimal_q) + epsilon * env.uniform_policy


def simulate_log(
    env: Environment, epsilon: float, size: int, seed: int
) -> dict[str, NDArray]:
    """Simulate the log of one data set, the same in every run and on any worker.

    Parameters
    ----------
    env : Environment
        The process.
    epsilon : float
        Behaviour: epsilon-greedy on the optimal policy.
    size : int
        Number of transitions.
    seed : int
        Number of the data set.

    Returns
    -------
    dict of arrays
        As from `Environment.simulate`.
    """
    entropy = [zlib.crc32(env.name.encode()), round(1000 * epsilon), size, seed]
    rng = np.random.default_rng(entropy)
    return env.simulate(behaviour_policy(env, epsilon), size, rng)


def tabrl_policies(
    log: Log, env: Environment, checkpoint: str, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Fit tabrl's public estimator: its choices, and its distribution over actions.

    States that the log does not show get the uniform policy, actions that it does
    not show probability 0.

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

    Returns
    -------
    dict of arrays of shape (S, A)
        Policies by the names `TABRL_GREEDY` and `TABRL_SAMPLED`.
    """
    # Imported here, so that the baselines run without torch and a checkpoint.
    from tabrl import OfflinePolicyEstimator

    estimator = OfflinePolicyEstimator(
        gamma=env.gamma, checkpoint=checkpoint, random_state=seed
    )
    estimator.fit(dict(log))
    states = np.asarray(estimator.states_, dtype=np.int64)
    actions = np.asarray(estimator.actions_, dtype=np.int64)
    sampled = env.uniform_policy.copy()
    sampled[states] = 0
    sampled[np.ix_(states, actions)] = estimator.predict_proba(estimator.states_)
    chosen = env.uniform_policy.copy()
    choice = np.asarray(estimator.predict(estimator.states_), dtype=np.int64)
    chosen[states] = np.eye(env.n_actions)[choice]
    return {TABRL_GREEDY: chosen, TABRL_SAMPLED: sampled}


def policies(
    log: Log, env: Environment, checkpoint: str | None, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Fit every method to one log.

    Parameters
    ----------
    log : mapping of str to array
        The transitions.
    env : Environment
        Where the log comes from; gives the numbers of states and actions, and gamma.
    checkpoint : str or None
        For tabrl; None leaves it out.
    seed : int
        For tabrl.

    Returns
    -------
    dict of arrays of shape (S, A)
        Policies by the name of the method.
    """
    counts = count(log, env.n_states, env.n_actions)
    found = {
        CLONING: behaviour_cloning(counts),
        CE_FIRST: certainty_equivalence(counts, env.gamma, ties="first"),
        CE_RANDOM: certainty_equivalence(counts, env.gamma, ties="random"),
    }
    for c in VI_LCB_CONSTANTS:
        found[vi_lcb_name(c)] = vi_lcb(counts, env.gamma, c)
    if checkpoint is not None:
        found.update(tabrl_policies(log, env, checkpoint, seed))
    return found


def run_cell(
    gamma: float,
    name: str,
    epsilon: float,
    size: int,
    *,
    n_seeds: int,
    checkpoint: str | None,
) -> list[dict[str, Any]]:
    """Score every method on every log of one cell; one row a log and method."""
    env = environment(name, gamma)
    rows: list[dict[str, Any]] = []
    for seed in range(n_seeds):
        log = simulate_log(env, epsilon, size, seed)
        for method, pi in policies(log, env, checkpoint, seed).items():
            row = {
                "gamma": gamma,
                "environment": name,
                "behaviour": behaviour_name(epsilon),
                "size": size,
                "seed": seed,
                "method": method,
                "value": env.normalised_value(pi),
            }
            rows.append(row)
    return rows


def run(
    protocol: Protocol,
    output: Path | None = None,
    n_jobs: int = 2,
    progress_bar: bool = True,
) -> list[dict[str, Any]]:
    """Run the benchmark.

    Parameters
    ----------
    protocol : Protocol
        What to run.
    output : Path or None, default=None
        File of JSON lines, one row a line, written as the results come.
    n_jobs : int, default=2
        Parallel processes.
    progress_bar : bool, default=True
        Whether to show progress.

    Returns
    -------
    list of dict
        The rows, in an order that does not depend on `n_jobs`.
    """
    tasks = [
        delayed(run_cell)(
            *cell, n_seeds=protocol.n_seeds, checkpoint=protocol.checkpoint
        )
        for cell in protocol.cells()
    ]
    parallel = Parallel(n_jobs=n_jobs, return_as="generator")
    rows: list[dict[str, Any]] = []
    with nullcontext() if output is None else output.open("w") as file:
        cells = tqdm(parallel(tasks), total=len(tasks), disable=not progress_bar)
        for cell_rows in cells:
            rows += cell_rows
            if file is not None:
                file.writelines(json.dumps(row) + "\n" for row in cell_rows)
                file.flush()
    return rows
