"""Bernoulli bandits with uniform priors: expected regret, and the Bayes optimum.

A cell is a method with a block of bandits whose means are uniform draws. Each pull of
an arm is an episode of one step that terminates. The regret of a run is the sum over
pulls of what the best mean exceeds the mean of the arm by: no noise of rewards is in
it. All methods face the same bandits, and the i-th pull of an arm gives all of them
the same reward.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from pretraining.benchmark.cells import Cell, Row, run_part

TABRL = "tabrl"
GAMMA = 0.99

# Pulls and successes of each arm, (runs, K) both, the number of the pull from 1, the
# horizon and a source of randomness; gives the index of each arm, the largest of
# which is pulled.
Index = Callable[
    [NDArray[np.int64], NDArray[np.int64], int, int, np.random.Generator],
    NDArray[np.float64],
]


def thompson(
    n: NDArray[np.int64],
    successes: NDArray[np.int64],
    pull: int,
    horizon: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw from the posteriors."""
    return rng.beta(1 + successes, 1 + n - successes)


def bayes_ucb(
    n: NDArray[np.int64],
    successes: NDArray[np.int64],
    pull: int,
    horizon: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the quantiles 1 - 1 / t of the posteriors (Kaufmann et al. 2012)."""
    # The same few counts occur in many runs, and the quantile is slow.
    pairs, inverse = np.unique(
        n * (horizon + 1) + successes, return_inverse=True, sorted=False
    )
    tried, won = np.divmod(pairs, horizon + 1)
    quantile = betaincinv(1.0 + won, 1.0 + tried - won, 1 - 1 / pull)
    return quantile[inverse].reshape(n.shape)


def ucb1(
    n: NDArray[np.int64],
    successes: NDArray[np.int64],
    pull: int,
    horizon: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the upper bounds of Auer et al. (2002); each arm is pulled once first."""
    tried = np.maximum(n, 1)
    bound = successes / tried + np.sqrt(2 * np.log(pull) / tried)
    return np.where(n > 0, bound, np.inf)


INDICES: dict[str, Index] = {
    "Bayes-UCB": bayes_ucb,
    "Thompson": thompson,
    "UCB1": ucb1,
}
METHODS = (TABRL, *INDICES)


def bayes_optimal_regret(n_arms: int, horizon: int) -> float:
    """Return the least expected regret that any method can have.

    By dynamic programming over the counts of all arms, on arrays of
    ``horizon ** (2 * n_arms - 1)`` entries at most.

    Examples
    --------
    One pull of one of two arms, with means 1/2 each, where the better has 2/3:

    >>> round(bayes_optimal_regret(2, 1), 6)
    0.166667
    """
    # Axes: pulls of all arms but the last, whose pulls are the rest, and successes.
    value = np.zeros((horizon + 1,) * (2 * n_arms - 1))
    for pulled in reversed(range(horizon)):
        shape = (pulled + 1,) * value.ndim
        counts = np.ogrid[tuple(slice(size) for size in shape)]
        n = [*counts[: n_arms - 1]]
        n.append(np.maximum(pulled - sum(n), 0))
        best = np.full(shape, -np.inf)
        for arm, successes in enumerate(counts[n_arms - 1 :]):
            axes = {n_arms - 1 + arm} | ({arm} if arm < n_arms - 1 else set())
            won = tuple(
                slice(1, None) if axis in axes else slice(-1)
                for axis in range(value.ndim)
            )
            axes = {arm} if arm < n_arms - 1 else set()
            lost = tuple(
                slice(1, None) if axis in axes else slice(-1)
                for axis in range(value.ndim)
            )
            # More successes than pulls cannot be, and have no effect on what can.
            p = np.minimum((1 + successes) / (2 + n[arm]), 1.0)
            best = np.maximum(best, p * (1 + value[won]) + (1 - p) * value[lost])
        value = best
    return horizon * n_arms / (n_arms + 1) - float(value.ravel()[0])


@dataclass(frozen=True)
class Setting:
    """Bandits of `n_arms` arms, `horizon` pulls each, `n_blocks` x `size` of them."""

    n_arms: int
    horizon: int
    n_blocks: int
    size: int


@dataclass(frozen=True)
class Protocol:
    """What the bandit benchmark runs.

    Parameters
    ----------
    settings : sequence of Setting
        Bandits for the index methods.
    tabrl_blocks : sequence of int
        How many blocks of each setting tabrl runs, the first ones.
    checkpoint : str or None
        What `OnlineAgent` takes; None leaves tabrl out.
    baselines : bool
        Whether to run what is not tabrl.
    seed : int
        Seed of the first block; the others follow.
    """

    settings: Sequence[Setting] = (
        Setting(2, 100, n_blocks=20, size=100),
        Setting(3, 25, n_blocks=20, size=100),
        Setting(10, 500, n_blocks=40, size=50),
    )
    tabrl_blocks: Sequence[int] = (4, 10, 4)
    checkpoint: str | None = "auto"
    baselines: bool = True
    seed: int = 0

    def cells(self) -> list[Row]:
        """Parameters of each cell."""
        cells: list[Row] = []
        for setting, n_blocks in zip(self.settings, self.tabrl_blocks, strict=True):
            indices = INDICES if self.baselines else ()
            runs = [*product(indices, range(setting.n_blocks))]
            if self.checkpoint is not None:
                runs = [*product((TABRL,), range(n_blocks)), *runs]
            cells += [
                {
                    "part": "bandit",
                    "arms": setting.n_arms,
                    "horizon": setting.horizon,
                    "size": setting.size,
                    "method": method,
                    "seed": self.seed + block,
                }
                for method, block in runs
            ]
        return cells


QUICK = Protocol(
    settings=(Setting(2, 25, 1, 20), Setting(3, 10, 1, 40), Setting(10, 100, 1, 5)),
    tabrl_blocks=(1, 1, 1),
)


def draw_bandits(
    n_arms: int, horizon: int, size: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw means (size, K), and the rewards (size, K, horizon) of the pulls to come."""
    rng = np.random.default_rng([n_arms, horizon, seed])
    means = rng.random((size, n_arms))
    return means, rng.random((size, n_arms, horizon)) < means[:, :, None]


def index_regret(
    index: Index,
    means: NDArray[np.float64],
    rewards: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Play bandits by an index, ties at random; returns the regret of each, (runs,)."""
    size, n_arms = means.shape
    horizon = rewards.shape[2]
    run = np.arange(size)
    n, successes = np.zeros((2, size, n_arms), dtype=np.int64)
    regret = np.zeros(size)
    for pull in range(1, horizon + 1):
        value = index(n, successes, pull, horizon, rng)
        best = value >= value.max(axis=1, keepdims=True) - 1e-12
        arm = np.where(best, rng.random(best.shape), -1.0).argmax(axis=1)
        successes[run, arm] += rewards[run, arm, n[run, arm]]
        n[run, arm] += 1
        regret += means.max(axis=1) - means[run, arm]
    return regret


def tabrl_regret(
    means: NDArray[np.float64],
    rewards: NDArray[np.bool_],
    checkpoint: str,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Play bandits by tabrl's agent, which plans before each pull.

    Parameters
    ----------
    means : array of shape (runs, K)
        Means of the arms.
    rewards : bool array of shape (runs, K, horizon)
        Reward of each pull of each arm.
    checkpoint : str
        What `OnlineAgent` takes.
    rng : numpy.random.Generator
        Seeds the agents.

    Returns
    -------
    array of shape (runs,)
        The regret of each.
    """
    from tabrl import OnlineAgent

    n_arms, horizon = rewards.shape[1:]
    regret = np.zeros(len(means))
    for run, (mean, reward) in enumerate(zip(means, rewards, strict=True)):
        agent = OnlineAgent(
            *(1, n_arms, GAMMA, (0, 1), checkpoint),
            random_state=int(rng.integers(2**31)),
        )
        n_pulls = [0] * n_arms
        for _ in range(horizon):
            arm = agent.act(0)
            agent.observe(0, arm, float(reward[arm, n_pulls[arm]]), None, True)
            n_pulls[arm] += 1
            regret[run] += mean.max() - mean[arm]
    return regret


def score_cell(cell: Cell, checkpoint: str | None) -> list[Row]:
    """Play one block of bandits.

    Parameters
    ----------
    cell : mapping
        An item of `Protocol.cells`.
    checkpoint : str or None
        For tabrl.

    Returns
    -------
    list of dict
        One row a bandit: `run`, its number, and `regret`.
    """
    shape = (cell["arms"], cell["horizon"], cell["size"])
    means, rewards = draw_bandits(*shape, cell["seed"])
    rng = np.random.default_rng([zlib.crc32(cell["method"].encode()), cell["seed"]])
    if cell["method"] != TABRL:
        regret = index_regret(INDICES[cell["method"]], means, rewards, rng)
    elif checkpoint is None:
        raise ValueError("tabrl needs a checkpoint. Got None.")
    else:
        regret = tabrl_regret(means, rewards, checkpoint, rng)
    return [{"run": run, "regret": float(value)} for run, value in enumerate(regret)]


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`."""
    score = partial(score_cell, checkpoint=protocol.checkpoint)
    return run_part("bandit", protocol, protocol.cells(), score, output, **options)
