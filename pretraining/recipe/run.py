"""What a training leaves in its folder, and how it goes on from there.

Fifth of the recipe, before the training that uses it. ``state.pt`` holds all that
resuming needs, ``metrics.jsonl`` a row a step, and ``manifest.json`` what was trained
where. A file is written whole or not at all, so that a run may be killed at any time.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretraining.recipe.groups import TrainConfig
from tabrl._network import Network


class NotSaved(RuntimeError):
    """The run could not be written, as on a full disk; the last checkpoint is good."""


@dataclass
class State:
    """All that the steps of a training change.

    Attributes
    ----------
    network : Network
        The weights that are trained.
    average : dict of str to Tensor
        Their exponential moving average, which is what is released.
    optimizers : tuple of torch.optim.Optimizer
        With their moments.
    step : int
        Steps taken.
    origin : str or None
        sha256 of the weights that the run began with; None for random ones.
    """

    network: Network
    average: dict[str, Tensor]
    optimizers: tuple[torch.optim.Optimizer, ...]
    step: int = 0
    origin: str | None = None

    def update_average(self, decay: float) -> None:
        """Move the average towards the weights by ``1 - decay``."""
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)


class RunFolder:
    """The folder of a run.

    Parameters
    ----------
    path : Path
        The folder; made if missing.
    config : TrainConfig
        Of the run.
    provenance : dict
        From `provenance`, for the manifest.
    """

    def __init__(
        self, path: Path, config: TrainConfig, provenance: dict[str, Any]
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._config = _plain(config)
        self._provenance = provenance
        self._state_path = path / "state.pt"
        self._metrics_path = path / "metrics.jsonl"
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self._saved_step = 0
        self._schedules: list[list[int]] = []  # from which step on, with which n_steps

    def resume(self, state: State, device: torch.device) -> None:
        """Load the saved state, if there is one, into ``state``.

        Raises
        ------
        ValueError
            If the run in the folder has another configuration.
        """
        if self._state_path.exists():
            saved = torch.load(self._state_path, map_location=device, weights_only=True)
            before = json.loads(saved["config"])
            self._check_config(before)
            state.network.load_state_dict(saved["network"])
            state.average = saved["average"]
            for optimizer, moments in zip(
                state.optimizers, saved["optimizers"], strict=True
            ):
                optimizer.load_state_dict(moments)
            state.step, state.origin = saved["step"], saved["origin"]
            self._seconds_before, self._saved_step = saved["seconds"], saved["step"]
            self._schedules = saved.get("schedules", [[0, before["n_steps"]]])
        n_steps = self._config["n_steps"]
        if not self._schedules or self._schedules[-1][1] != n_steps:
            self._schedules.append([state.step, n_steps])

    def drop_metrics_after(self, step: int) -> None:
        """Remove the rows that a killed run wrote after its last checkpoint."""
        with self._writing():
            path = self._metrics_path
            rows = path.read_text().splitlines() if path.exists() else []
            kept = [row for row in rows if _step_of(row) <= step]
            _write(path, "".join(row + "\n" for row in kept).encode())

    def add_metrics(self, row: dict[str, float]) -> None:
        """Append the row of a step."""
        with self._writing(), self._metrics_path.open("a") as metrics:
            metrics.write(json.dumps(row) + "\n")

    def save(self, state: State) -> None:
        """Write the state, and then the manifest."""
        seconds = self._seconds_before + time.monotonic() - self._began
        data = io.BytesIO()
        torch.save(
            {
                "config": json.dumps(self._config, sort_keys=True),
                "schedules": self._schedules,
                "origin": state.origin,
                "network": state.network.state_dict(),
                "average": state.average,
                "optimizers": [each.state_dict() for each in state.optimizers],
                "step": state.step,
                "seconds": seconds,
            },
            data,
        )
        with self._writing():
            _write(self._state_path, data.getvalue())
            manifest = json.dumps(self._manifest(state, seconds), indent=2) + "\n"
            _write(self._path / "manifest.json", manifest.encode())
        self._saved_step = state.step

    def _manifest(self, state: State, seconds: float) -> dict[str, Any]:
        """Return what was trained, for how long, by what code on what machine."""
        manifest = {"config": self._config, "steps": state.step, **self._provenance}
        if state.origin is not None:
            manifest["initial_sha256"] = state.origin
        if len(self._schedules) > 1:
            manifest["n_steps_from_step"] = self._schedules
        return manifest | {"hours": round(seconds / 3600, 3)}

    def _check_config(self, before: dict[str, Any]) -> None:
        if before | {"n_steps": 0} != self._config | {"n_steps": 0}:
            raise ValueError(
                f"{self._state_path} was made with another configuration. Give a new "
                "--out folder, or the configuration of its manifest.json; n_steps "
                "alone may change, and the manifest then says so."
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NotSaved(
                f"The run cannot be written: {error}. Make room in {self._path} and "
                "start again: it goes on from its last checkpoint, step "
                f"{self._saved_step}."
            ) from error


def _plain(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as JSON gives it back."""
    return json.loads(json.dumps(asdict(config)))


def provenance(device: torch.device, n_ranks: int) -> dict[str, Any]:
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
