"""Bernoulli bandits with uniform priors: expected regret, and the Bayes optimum.

A cell is a method with a block of bandits whose means are uniform draws. Each pull of
an arm is an episode of one step that terminates. The regret of a run is the sum over
pulls of what the best mean exceeds the mean of the arm by: no noise of rewards is in
it. All methods face the same bandits, and the i-th pull of an arm gives all of them
the same reward.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.bandit import BANDITS, BanditMethod, Tabrl
from pretraining.benchmark.cells import Cell, Row, run_part


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
            runs = []
            for name, method in BANDITS.items():
                if method.is_baseline and self.baselines:
                    runs += [(name, block) for block in range(setting.n_blocks)]
                elif not method.is_baseline and self.checkpoint is not None:
                    runs += [(name, block) for block in range(n_blocks)]
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
    kind = BANDITS[cell["method"]]
    if kind is Tabrl:
        if checkpoint is None:
            raise ValueError("tabrl needs a checkpoint. Got None.")
        method: BanditMethod = Tabrl(checkpoint)
    else:
        method = kind()
    regret = method.play(means, rewards, rng)
    return [{"run": run, "regret": float(value)} for run, value in enumerate(regret)]


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`."""
    score = partial(score_cell, checkpoint=protocol.checkpoint)
    return run_part("bandit", protocol, protocol.cells(), score, output, **options)
