"""Batches of processes from the prior, with their exact optimal values.

First of the recipe: what the network is trained towards. It draws processes of one
size from the families, drops those in which nothing can be gained, and solves the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from pretraining.prior import (
    FAMILIES,
    Process,
    log_uniform,
    price_actions,
    restrict_actions,
)
from tabrl._planning import action_values, evaluate_actions, policy_iteration

# A process whose optimal and random values differ by less than this share of the
# largest value teaches nothing.
_MIN_GAIN = 0.01
# Share of the processes in which each state loses some of its actions.
_RESTRICTED = 0.1
# Share of the processes whose actions have prices besides, the same in every state:
# without it the network does not learn that an action may be good everywhere.
_PRICED = 0.15


@dataclass(frozen=True)
class ProcessBatch:
    """B processes with the same S and A; drawn and solved in float64 on the CPU.

    Attributes
    ----------
    P, R : Tensor of shape (B, S, A, S)
        Transition probabilities and mean rewards; terminal states included.
    terminal : bool Tensor of shape (B, S)
    start : Tensor of shape (B, S)
    allowed : bool Tensor of shape (B, S, A)
        Actions of each state; the rows of others repeat an allowed one.
    outcomes : Tensor of shape (B, 2)
        The two rewards that every draw takes; NaN where noise is Gaussian.
    noise, gamma : Tensor of shape (B,)
    q : Tensor of shape (B, S, A)
        Optimal action values; zero in terminal states.
    v_uniform : Tensor of shape (B, S)
        Values of the policy that is uniform over the allowed actions.
    """

    P: Tensor
    R: Tensor
    terminal: Tensor
    start: Tensor
    allowed: Tensor
    outcomes: Tensor
    noise: Tensor
    gamma: Tensor
    q: Tensor
    v_uniform: Tensor

    @property
    def continuing(self) -> Tensor:
        """P without the mass that enters terminal states, (B, S, A, S)."""
        return self.P * (~self.terminal)[:, None, None]

    @property
    def reward(self) -> Tensor:
        """Expected reward (B, S, A); zero in terminal states."""
        expected = (self.P * self.R).sum(-1)
        return expected * (~self.terminal)[..., None]

    def select(self, keep: Tensor) -> ProcessBatch:
        """Return the processes at ``keep``."""
        return ProcessBatch(
            **{f.name: getattr(self, f.name)[keep] for f in fields(self)}
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> ProcessBatch:
        """Return the batch on a device, its floats in ``dtype``."""
        moved = {}
        for f in fields(self):
            tensor = getattr(self, f.name).to(device)
            moved[f.name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        return ProcessBatch(**moved)

    @staticmethod
    def concatenate(batches: Sequence[ProcessBatch]) -> ProcessBatch:
        """Return one batch of all processes."""
        return ProcessBatch(
            **{
                f.name: torch.cat([getattr(batch, f.name) for batch in batches])
                for f in fields(ProcessBatch)
            }
        )


def solve(processes: Sequence[Process], gamma: np.ndarray) -> ProcessBatch:
    """Stack processes and solve each exactly."""

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(p, name) for p in processes]))

    terminal = stack("terminal")
    P, R = stack("P"), stack("R")
    allowed = torch.from_numpy(
        np.stack(
            [
                np.ones(p.P.shape[:2], bool) if p.allowed is None else p.allowed
                for p in processes
            ]
        )
    )
    gaussian = (math.nan, math.nan)
    alive = (~terminal).to(P)
    discount = torch.from_numpy(gamma)
    continuing = P * alive[:, None, None] * alive[..., None, None]
    reward = (P * R).sum(-1) * alive[..., None]
    action = policy_iteration(continuing, reward, discount)
    v = evaluate_actions(continuing, reward, discount, action)
    q = action_values(continuing, reward, discount[:, None, None], v)
    return ProcessBatch(
        P=P,
        R=R,
        terminal=terminal,
        start=stack("start"),
        allowed=allowed,
        outcomes=torch.tensor(
            [p.outcomes or gaussian for p in processes], dtype=torch.float64
        ),
        noise=torch.tensor([p.noise for p in processes], dtype=torch.float64),
        gamma=discount,
        q=q,
        v_uniform=evaluate_policy(
            continuing, reward, discount, uniform(allowed).double()
        ),
    )


def uniform(allowed: Tensor) -> Tensor:
    """Return equal shares (B, S, A) of the allowed actions of each state."""
    return allowed / allowed.sum(-1, keepdim=True)


def evaluate_policy(P: Tensor, r: Tensor, gamma: Tensor, pi: Tensor) -> Tensor:
    """Return the exact values (B, S) of stochastic policies ``pi`` (B, S, A)."""
    chosen = torch.einsum("bsa,bsat->bst", pi, P)
    reward = (pi * r).sum(-1)
    eye = torch.eye(P.shape[1], dtype=P.dtype, device=P.device)
    return torch.linalg.solve(
        eye - gamma[:, None, None] * chosen, reward[..., None]
    ).squeeze(-1)


def draw_processes(
    rng: np.random.Generator,
    n: int,
    n_states: int,
    n_actions: int,
    families: Sequence[str] = tuple(FAMILIES),
) -> ProcessBatch:
    """Draw ``n`` processes worth learning from, solved, families in equal shares.

    Of the families, only bandits have a single state.
    """
    if n_states == 1:
        families = ["bandits"]
    kept: list[ProcessBatch] = []
    missing = n
    while missing > 0:
        names = rng.choice(list(families), missing + 2)
        processes = [FAMILIES[name](rng, n_states, n_actions) for name in names]
        processes = [_varied(rng, process) for process in processes]
        gamma = np.array([1 - log_uniform(rng, 0.005, 0.2) for _ in names])
        batch = solve(processes, gamma)
        v = batch.q.amax(-1)
        gain = (batch.start * (v - batch.v_uniform)).sum(-1)
        size = torch.maximum(v.abs().amax(-1), batch.v_uniform.abs().amax(-1))
        batch = batch.select(gain > _MIN_GAIN * size.clamp(min=1e-3))
        batch = batch.select(torch.arange(min(missing, len(batch.gamma))))
        kept.append(batch)
        missing -= len(batch.gamma)
    return ProcessBatch.concatenate(kept)


def _varied(rng: np.random.Generator, process: Process) -> Process:
    """Return the process, at times with prices, at times with fewer actions."""
    if process.allowed is not None:
        return process
    if process.outcomes is None and rng.random() < _PRICED:
        process = price_actions(rng, process)
    if rng.random() < _RESTRICTED:
        process = restrict_actions(rng, process)
    return process
