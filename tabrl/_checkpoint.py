"""Checkpoints: find, verify and load the pretrained network.

A checkpoint is a folder with ``model.safetensors`` and ``config.json``; the latter
names the format, the architecture, its dimensions and the sha256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tabrl._network import Network, NetworkConfig

FORMAT = 1
ARCHITECTURE = "tabrl-posterior"
BUNDLED = Path(__file__).parent / "checkpoint"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
# Larger dimensions than these are a broken or hostile file, not a model of ours.
_MAX_DIMENSION = {"width": 4096, "n_layers": 64, "n_heads": 64, "mlp_ratio": 16}

_lock = threading.Lock()
_loaded: dict[tuple[str, str], Network] = {}


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read or trusted."""


def load_network(checkpoint: str | os.PathLike[str], device: torch.device) -> Network:
    """Return the network of a checkpoint, shared by all who ask for the same.

    Parameters
    ----------
    checkpoint : str or path
        "auto" for the bundled checkpoint; a local folder, or a file in one; else
        a repository of the Hugging Face Hub, "org/name" or "org/name@revision".
    device : torch.device
        Where the weights go.

    Returns
    -------
    Network
        In evaluation mode, without gradients. Do not change it.

    Raises
    ------
    CheckpointError
        If it is missing, cannot be downloaded, or fails a check.
    """
    folder = _resolve(checkpoint)
    config = _read_config(folder / _CONFIG)
    key = (config["sha256"], str(device))
    with _lock:
        if key not in _loaded:
            _loaded[key] = _build(folder, config).to(device)
        return _loaded[key]


def read_config(checkpoint: str | os.PathLike[str] = "auto") -> dict[str, Any]:
    """Return the checked ``config.json`` of a checkpoint."""
    return _read_config(_resolve(checkpoint) / _CONFIG)


def save_network(network: Network, folder: Path, about: dict[str, Any]) -> None:
    """Write a checkpoint folder; ``about`` is kept in the config as it is."""
    state = {
        name: value.cpu().contiguous() for name, value in network.state_dict().items()
    }
    weights = save_tensors(state)
    config = {
        "format": FORMAT,
        "architecture": ARCHITECTURE,
        "network": vars(network.config),
        "sha256": hashlib.sha256(weights).hexdigest(),
        **about,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _WEIGHTS).write_bytes(weights)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _resolve(checkpoint: str | os.PathLike[str]) -> Path:
    if checkpoint == "auto":
        return BUNDLED
    path = Path(checkpoint)
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    name, _, revision = str(checkpoint).partition("@")
    if not isinstance(checkpoint, str) or name.count("/") != 1 or name[0] in "./~":
        raise CheckpointError(
            'checkpoint must be "auto", a local folder or file, or a Hub repository '
            f'"org/name[@revision]". Got {str(checkpoint)!r}, which is none of these.'
        )
    return _download(name, revision or None)


def _download(name: str, revision: str | None) -> Path:
    # Imported here: it takes a while, and the bundled checkpoint needs no network.
    from huggingface_hub import constants, hf_hub_download

    try:
        paths = [
            hf_hub_download(name, file, revision=revision)
            for file in (_CONFIG, _WEIGHTS)
        ]
    except Exception as error:  # the client's errors share no base class
        where = f"{name}@{revision}" if revision else name
        raise CheckpointError(
            f"Checkpoint {where!r} could not be had from the Hugging Face Hub "
            f"({type(error).__name__}: {error}). Cache: {constants.HF_HUB_CACHE}. "
            'Download it where there is a network and pass its folder, or use "auto".'
        ) from error
    return Path(paths[0]).parent


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} must be a readable JSON file: {error}."
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("sha256"), str):
        raise CheckpointError(f"{path} must hold a JSON object that names 'sha256'.")
    if config.get("format") != FORMAT or config.get("architecture") != ARCHITECTURE:
        raise CheckpointError(
            f"{path} must be of format {FORMAT}, architecture {ARCHITECTURE!r}. Got "
            f"{config.get('format')!r} and {config.get('architecture')!r}: another "
            "version of tabrl reads it."
        )
    sizes: Any = config.get("network")
    wrong = not isinstance(sizes, dict) or set(sizes) != set(_MAX_DIMENSION)
    if wrong or not all(
        type(sizes[name]) is int and 0 < sizes[name] <= most
        for name, most in _MAX_DIMENSION.items()
    ):
        raise CheckpointError(
            f"{path}: 'network' must give {', '.join(_MAX_DIMENSION)}, each a positive "
            f"integer of at most {list(_MAX_DIMENSION.values())}. Got {sizes!r}."
        )
    return config


def _build(folder: Path, config: dict[str, Any]) -> Network:
    path = folder / _WEIGHTS
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} must be a readable file: {error}.") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != config["sha256"]:
        raise CheckpointError(
            f"{path} must have the sha256 of its config.json, {config['sha256']}. Got "
            f"{found}: the file is damaged or not the one described. Fetch it again."
        )
    network = Network(NetworkConfig(**config["network"]))
    try:
        network.load_state_dict(load_tensors(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold this network: {error}") from error
    return network.eval().requires_grad_(False)
