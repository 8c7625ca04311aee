"""Pretrain the network on processes drawn from the prior.

    python -m pretraining.recipe.train --config pretraining/runs/base.json --out RUN

Sixth of the recipe, before the export. Training step i draws the same data whatever
came before: each group of processes is seeded by its place in the run alone, so that a
run that was killed resumes exactly, on any number of data workers. A group has one S
and one A, hence no padding.

Under ``torchrun`` the ranks share the groups of each step, and the steps are those of
one process but for the order of sums. On a CUDA device the network trains in
bfloat16, planning and losses in float32.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from tqdm import tqdm

from pretraining.recipe.groups import Group, Groups, TrainConfig, stream
from pretraining.recipe.loss import WEIGHTS, compute_losses
from pretraining.recipe.run import NotSaved, RunFolder, State, provenance
from pretraining.recipe.simulate import explore, exploring_policy, to_statistics
from tabrl._checkpoint import load_network, read_config
from tabrl._network import Network

__all__ = ["Diverged", "Group", "Groups", "NotSaved", "TrainConfig", "train"]


class Diverged(RuntimeError):
    """The loss or its gradient is not finite; the last checkpoint is good."""


def train(
    config: TrainConfig,
    out: Path,
    device: torch.device,
    n_workers: int,
    minutes: float = math.inf,
    checkpoint_every: int = 250,
    initial: str | None = None,
) -> bool:
    """Train, or resume what lies in ``out``, for at most ``minutes``.

    A new run begins with the weights of the checkpoint ``initial``, if one is given.
    Returns whether the run is complete. Writes what `pretraining.recipe.run` names.

    Raises
    ------
    Diverged
        If the loss or its gradient is not finite.
    NotSaved
        If a file cannot be written.
    ValueError
        If ``out`` holds a run of another configuration, or there are more ranks than
        groups in a step.
    """
    rank, n_ranks = _rank()
    if n_ranks > config.groups_per_step:
        raise ValueError(
            f"groups_per_step must be at least the number of ranks, {n_ranks}. Got "
            f"{config.groups_per_step}."
        )
    deadline = time.monotonic() + 60 * minutes
    folder = RunFolder(out, config, provenance(device, n_ranks))
    state = _initial_state(config, device, initial)
    folder.resume(state, device)
    if rank == 0:
        folder.drop_metrics_after(state.step)
    groups = stream(config, state.step, rank, n_ranks, n_workers)
    bar = tqdm(
        total=config.n_steps,
        initial=state.step,
        unit="step",
        smoothing=0.02,
        disable=rank > 0,
    )
    late = False
    with bar:
        while state.step < config.n_steps and not late:
            row, late = take_step(state, config, groups, device, deadline)
            bar.update()
            if state.step % 20 == 0:
                bar.set_postfix(regret=f"{row['regret']:.3f}")
            if rank == 0:
                folder.add_metrics(row)
                complete = state.step == config.n_steps
                if late or complete or state.step % checkpoint_every == 0:
                    folder.save(state)
    return state.step >= config.n_steps


def take_step(
    state: State,
    config: TrainConfig,
    groups: Iterator[Group],
    device: torch.device,
    deadline: float,
) -> tuple[dict[str, float], bool]:
    """Change ``state`` by one step; return its metrics and whether time is up.

    ``deadline`` is a time of `time.monotonic`. With several ranks, time is up for all
    of them once it is for one.
    """
    began = time.monotonic()
    rate = learning_rate(config, state.step)
    for optimizer in state.optimizers:
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
    row, n_processes = _add_gradients(state.network, config, groups, device)
    late = time.monotonic() > deadline
    if _rank()[1] > 1:
        _sum_gradients(state.network)
        sums = _sum_over_ranks([*row.values(), n_processes, late], device)
        *values, n_processes, late = sums
        row = dict(zip(row, values, strict=True))
    norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.clip_norm)
    if not (math.isfinite(row["total"]) and math.isfinite(norm)):
        raise Diverged(
            f"Loss {row['total']}, gradient norm {float(norm)} at step {state.step}. "
            "state.pt of the run holds the last good state; lower learning_rate."
        )
    for optimizer in state.optimizers:
        optimizer.step()
    state.step += 1
    # A short memory at first, so that the random first weights are soon forgotten.
    state.update_average(min(config.ema, state.step / (state.step + 10)))
    row |= {
        "step": state.step,
        "learning_rate": rate,
        "gradient_norm": float(norm),
        "processes": int(n_processes),
        "seconds": round(time.monotonic() - began, 4),
    }
    return row, bool(late)


def _initial_state(
    config: TrainConfig, device: torch.device, initial: str | None
) -> State:
    """Return the state of a run that has taken no step."""
    torch.manual_seed(config.seed)
    network = Network(config.network).to(device)
    origin = None
    if initial is not None:
        network.load_state_dict(load_network(initial, device).state_dict())
        origin = read_config(initial)["sha256"]
    if device.type == "cuda":
        use_bfloat16(network, device.type)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    return State(network, average, make_optimizers(network, config), origin=origin)


def _add_gradients(
    network: Network,
    config: TrainConfig,
    groups: Iterator[Group],
    device: torch.device,
) -> tuple[dict[str, float], int]:
    """Accumulate this rank's part of a step; return its losses and process count."""
    rank, n_ranks = _rank()
    n_groups = config.groups_per_step
    row: dict[str, float] = {}
    n_processes = 0
    for _ in range(rank, n_groups, n_ranks):
        group = next(groups)
        n_processes += len(group.only_active) * group.n_rounds
        for name, value in train_on_group(network, group, device, 1 / n_groups).items():
            row[name] = row.get(name, 0.0) + value / n_groups
    return row, n_processes


def train_on_group(
    network: Network, group: Group, device: torch.device, weight: float
) -> dict[str, float]:
    """Accumulate the gradient of one group, over its rounds of exploration.

    After each round but the last, the network explores every process as an agent does,
    and the data set grows by these transitions. Returns the mean of each loss over the
    rounds.
    """
    batch = group.batch.to(device, torch.float32)
    rng = np.random.default_rng(group.seed)
    sums: dict[str, float] = {}
    for i in range(group.n_rounds):
        statistics = to_statistics(
            group.batch, group.log, group.only_active, group.reward_range
        )
        losses = compute_losses(network, batch, statistics.to(device))
        (losses.total * (weight / group.n_rounds)).backward()
        for name in ("total", *WEIGHTS):
            value = getattr(losses, name).item() / group.n_rounds
            sums[name] = sums.get(name, 0.0) + value
        for head, share in zip(("low", "middle", "high"), losses.coverage, strict=True):
            name = f"coverage_{head}"
            sums[name] = sums.get(name, 0.0) + share.item() / group.n_rounds
        if i + 1 < group.n_rounds:
            pi = exploring_policy(network, statistics.to(device), rng).cpu().numpy()
            size = np.exp(rng.uniform(1, 7, len(pi))).astype(np.int64)
            group.log = group.log + explore(rng, group.batch, pi, size)
    return sums


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate at a step: linear warm-up, then cosine down to 2 %."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.n_steps - config.warmup_steps)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizers(
    network: Network, config: TrainConfig
) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the matrices within the layers and AdamW for all else.

    Muon (Jordan et al., 2024) makes the momentum of a matrix orthogonal; scaled to the
    size of an AdamW step (Liu et al., 2025), it shares rate and decay with AdamW.
    """
    linear = torch.nn.Linear
    matrices = [m.weight for m in network.layers.modules() if isinstance(m, linear)]
    inside = {id(p) for p in matrices}
    rest = [p for p in network.parameters() if id(p) not in inside]
    rate, decay = config.learning_rate, config.weight_decay
    return (
        torch.optim.Muon(
            matrices, rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, rate, weight_decay=decay),
    )


def use_bfloat16(network: Network, device_type: str) -> None:
    """Let the network compute in bfloat16; its weights and outputs stay float32."""
    autocast = torch.autocast(device_type, torch.bfloat16)
    for name in ("forward", "decide"):
        setattr(network, name, autocast(getattr(network, name)))


def _rank() -> tuple[int, int]:
    """Return the rank of this process and the number of ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Return the sum of each value over the ranks."""
    sums = torch.tensor(values, dtype=torch.float64).to(device)
    distributed.all_reduce(sums)
    return sums.tolist()


def _sum_gradients(network: Network) -> None:
    """Replace each gradient by its sum over the ranks, all in one message."""
    # Every group has a gradient for every parameter, so no rank lacks any.
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--steps", type=int, help="n_steps in place of the configuration's"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--workers", type=int, default=1, help="data processes")
    parser.add_argument("--threads", type=int, help="torch threads of the trainer")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after; resumes later"
    )
    parser.add_argument(
        "--initial", help="checkpoint whose weights a new run begins with"
    )
    return parser.parse_args()


def _join_ranks(name: str) -> torch.device:
    """Join the ranks of torchrun, if there are any; return this process's device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if "LOCAL_RANK" in os.environ:  # started by torchrun
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def main() -> None:
    """Run the command line."""
    arguments = _parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = _join_ranks(arguments.device)
    config = TrainConfig.from_json(arguments.config)
    if arguments.steps is not None:
        config = replace(config, n_steps=arguments.steps)
    try:
        train(
            config,
            arguments.out,
            device,
            arguments.workers,
            arguments.minutes,
            initial=arguments.initial,
        )
    except (Diverged, NotSaved) as error:
        sys.exit(str(error))
    if "LOCAL_RANK" in os.environ:
        distributed.barrier()  # rank 0 may still be writing
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
