"""Variations that any family may take: prices of actions, and fewer of them.

The recipe applies them to a share of the processes, after a family has drawn them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pretraining.prior._process import Process, Rng, log_uniform


def restrict_actions(rng: Rng, process: Process) -> Process:
    """Take some actions away from each state; their rows repeat an allowed one."""
    shape = process.P.shape[:2]
    allowed = rng.random(shape) < rng.uniform(0.3, 0.95)
    allowed[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] = True
    stand_in = np.where(allowed, np.arange(shape[1]), allowed.argmax(1)[:, None])
    at = np.arange(shape[0])[:, None]
    return replace(
        process,
        P=process.P[at, stand_in],
        R=process.R[at, stand_in],
        allowed=allowed,
    )


def price_actions(rng: Rng, process: Process) -> Process:
    """Let each action cost or pay the same in every state, at times nothing else."""
    n_actions = process.P.shape[1]
    alive = ~process.terminal
    size = np.abs(process.R[alive]).max() * log_uniform(rng, 0.02, 2)
    kind = rng.choice(["normal", "cost", "one"])
    if kind == "normal":
        price = rng.normal(size=n_actions)
    elif kind == "cost":
        price = -rng.random(n_actions)
    else:
        price = rng.choice([-1.0, 1.0]) * np.eye(n_actions)[rng.integers(n_actions)]
    R = process.R * (rng.random() < 0.75) + size * price[:, None]
    return replace(process, R=R * alive[:, None, None])
