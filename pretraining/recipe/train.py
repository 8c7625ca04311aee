"""Pretrain the network on processes drawn from the prior.

    python -m pretraining.recipe.train --config pretraining/runs/base.json --out RUN

Training step i draws the same data whatever came before: each group of processes is
seeded by its place in the run alone, so that a run that was killed resumes exactly,
on any number of data workers. A group has one S and one A, hence no padding.

Under ``torchrun`` the ranks share the groups of each step, and the steps are those of
one process but for the order of sums. On a CUDA device the network trains in
bfloat16, planning and losses in float32.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pretraining.prior import FAMILIES, log_uniform
from pretraining.recipe.loss import WEIGHTS, compute_losses
from pretraining.recipe.simulate import (
    Log,
    draw_reward_ranges,
    explore,
    exploring_policy,
    simulate,
    to_statistics,
)
from pretraining.recipe.targets import ProcessBatch, draw_processes
from tabrl._checkpoint import load_network, read_config
from tabrl._network import Network, NetworkConfig

# Share of the groups that are bandits with one state; random sizes add a few more.
_ONE_STATE = 0.12


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run, apart from the machine."""

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


def train_on_group(
    network: Network, group: Group, device: torch.device, weight: float
) -> dict[str, float]:
    """Accumulate the gradient of one group, over its rounds of exploration.

    After each round but the last, the model explores every process as an agent does,
    and the data set grows by what it saw.
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


class Diverged(RuntimeError):
    """The loss or its gradient is not finite; the last checkpoint is good."""


class NotSaved(RuntimeError):
    """The run could not be written, as on a full disk; the last checkpoint is good."""


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
    Returns whether the run is complete. Writes ``state.pt`` (all that resuming
    needs), ``metrics.jsonl`` and ``manifest.json``.
    """
    rank, n_ranks = _rank()
    if n_ranks > config.groups_per_step:
        raise ValueError(
            f"groups_per_step must be at least the number of ranks, {n_ranks}. Got "
            f"{config.groups_per_step}."
        )
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    network = Network(config.network).to(device)
    origin = None  # digest of the weights that the run began with
    if initial is not None:
        network.load_state_dict(load_network(initial, device).state_dict())
        origin = read_config(initial)["sha256"]
    if device.type == "cuda":
        use_bfloat16(network, device.type)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    optimizers = make_optimizers(network, config)
    step, saved, seconds = 0, 0, 0.0
    schedules: list[list[int]] = []  # from which step on, with which n_steps
    state_path, metrics_path = out / "state.pt", out / "metrics.jsonl"
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        before = json.loads(state["config"])
        if before | {"n_steps": 0} != _plain(config) | {"n_steps": 0}:
            raise ValueError(
                f"{state_path} was made with another configuration. Give a new --out "
                "folder, or the configuration of its manifest.json; n_steps alone may "
                "change, and the manifest then says so."
            )
        network.load_state_dict(state["network"])
        average = state["average"]
        for optimizer, moments in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        step, seconds, origin = state["step"], state["seconds"], state["origin"]
        saved = step
        schedules = state.get("schedules", [[0, before["n_steps"]]])

    if not schedules or schedules[-1][1] != config.n_steps:
        schedules.append([step, config.n_steps])

    def save() -> None:
        spent = seconds + time.monotonic() - began
        state = {
            "config": json.dumps(_plain(config), sort_keys=True),
            "schedules": schedules,
            "origin": origin,
            "network": network.state_dict(),
            "average": average,
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
            "seconds": spent,
        }
        data = io.BytesIO()
        torch.save(state, data)
        _write(state_path, data.getvalue())
        manifest = {"config": _plain(config), "steps": step, **provenance}
        if origin is not None:
            manifest["initial_sha256"] = origin
        if len(schedules) > 1:
            manifest["n_steps_from_step"] = schedules
        manifest["hours"] = round(spent / 3600, 3)
        text = json.dumps(manifest, indent=2) + "\n"
        _write(out / "manifest.json", text.encode())

    def not_saved(error: OSError) -> NotSaved:
        return NotSaved(
            f"The run cannot be written: {error}. Make room in {out} and start again: "
            f"it goes on from its last checkpoint, step {saved}."
        )

    if rank == 0:
        try:
            _drop_metrics_after(metrics_path, step)
        except OSError as error:
            raise not_saved(error) from error
    began = time.monotonic()
    provenance = _provenance(device, n_ranks)
    n_groups = config.groups_per_step
    stream = _stream(config, step, n_workers)
    bar = tqdm(
        total=config.n_steps,
        initial=step,
        unit="step",
        smoothing=0.02,
        disable=rank > 0,
    )
    with bar:
        while step < config.n_steps:
            step_began = time.monotonic()
            rate = learning_rate(config, step)
            for optimizer in optimizers:
                for parameters in optimizer.param_groups:
                    parameters["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
            row: dict[str, float] = {}
            n_processes = 0
            for _ in range(rank, n_groups, n_ranks):
                group = next(stream)
                n_processes += len(group.only_active) * group.n_rounds
                for name, value in train_on_group(
                    network, group, device, 1 / n_groups
                ).items():
                    row[name] = row.get(name, 0.0) + value / n_groups
            late = time.monotonic() - began > 60 * minutes
            if n_ranks > 1:
                _sum_gradients(network)
                sums = torch.tensor(
                    [*row.values(), n_processes, late], dtype=torch.float64
                ).to(device)
                distributed.all_reduce(sums)
                *values, n_processes, late = sums.tolist()
                row = dict(zip(row, values, strict=True))
            norm = torch.nn.utils.clip_grad_norm_(
                network.parameters(), config.clip_norm
            )
            if not (math.isfinite(row["total"]) and math.isfinite(norm)):
                raise Diverged(
                    f"Loss {row['total']}, gradient norm {float(norm)} at step {step}. "
                    f"{state_path} holds the last good state; lower learning_rate."
                )
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            decay = min(config.ema, step / (step + 10))
            with torch.no_grad():
                for name, value in network.state_dict().items():
                    average[name].lerp_(value, 1 - decay)
            row |= {
                "step": step,
                "learning_rate": rate,
                "gradient_norm": float(norm),
                "processes": int(n_processes),
                "seconds": round(time.monotonic() - step_began, 4),
            }
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(regret=f"{row['regret']:.3f}")
            due = step % checkpoint_every == 0 or step == config.n_steps or late
            if rank == 0:
                try:
                    with metrics_path.open("a") as metrics:
                        metrics.write(json.dumps(row) + "\n")
                    if due:
                        save()
                        saved = step
                except OSError as error:
                    raise not_saved(error) from error
            if late:
                break
    return step >= config.n_steps


def _rank() -> tuple[int, int]:
    """Return the rank of this process and the number of ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _sum_gradients(network: Network) -> None:
    """Replace each gradient by its sum over the ranks, all in one message."""
    # Every group has a gradient for every parameter, so no rank lacks any.
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _stream(config: TrainConfig, step: int, n_workers: int) -> Iterator[Group]:
    """Yield this rank's groups from a step on; rank r has every n-th of a step."""
    rank, n_ranks = _rank()
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


def _drop_metrics_after(path: Path, step: int) -> None:
    """Remove the rows that a killed run wrote after its last checkpoint."""
    rows = path.read_text().splitlines() if path.exists() else []
    kept = [row for row in rows if _step_of(row) <= step]
    _write(path, "".join(row + "\n" for row in kept).encode())


def _write(path: Path, data: bytes) -> None:
    """Replace a file by one that is complete, or not at all."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _step_of(row: str) -> float:
    try:
        return float(json.loads(row)["step"])
    except (json.JSONDecodeError, KeyError):
        return math.inf  # half a line, cut off by the kill


def _plain(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as JSON gives it back."""
    return json.loads(json.dumps(asdict(config)))


def _provenance(device: torch.device, n_ranks: int) -> dict[str, Any]:
    """Return what code and what machine train."""
    return {
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "hardware": (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{os.cpu_count()} CPU cores"
        ),
        "ranks": n_ranks,
    }


def _commit() -> str:
    """Return the commit of the code, "unknown" outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        here = Path(__file__).parent
        return subprocess.check_output(command, cwd=here, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    """Run the command line."""
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
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if "LOCAL_RANK" in os.environ:  # started by torchrun
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
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
