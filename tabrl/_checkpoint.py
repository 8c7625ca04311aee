"""Checkpoints: find, verify and load the pretrained network.

A checkpoint is a folder with ``model.safetensors`` and ``config.json``. The latter
names the format, the architecture, its dimensions and the sha256 of the weights, and
is checked before the weights are read or downloaded. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tabrl._files import read_regular
from tabrl._network import EXPLORATION_RULE, Network, NetworkConfig

FORMAT = 1
# The versions of tabrl that read FORMAT, for whoever meets it in an older one.
READABLE_BY = ">=0.1.0"
ARCHITECTURE = "tabrl-posterior"
BUNDLED = Path(__file__).parent / "checkpoint"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
# Larger dimensions than these are a broken or hostile file, not a model of ours.
_MAX_DIMENSION = {
    "width": 4096,
    "n_layers": 64,
    "n_heads": 64,
    "mlp_ratio": 16,
}
_MAX_CONFIG_BYTES = 2**20

# Networks by sha256, dimensions, device and dtype; commits by repository and revision.
_loaded: dict[tuple, Network] = {}
_commits: dict[tuple[str, str], str] = {}
# Checked configs by the path, times, size and number of their file: reading one took a
# tenth of a small fit.
_configs: dict[tuple, dict[str, Any]] = {}
# A file that changed less than so many seconds ago may change again and show the same
# time and size; 2 seconds are the coarsest clock of a file system.
_SETTLED = 2.0
_locks: dict[str, threading.Lock] = {}
if hasattr(os, "register_at_fork"):
    # A lock that another thread holds during a fork would stay locked in the child.
    os.register_at_fork(after_in_child=_locks.clear)


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read or trusted."""


def load_network(
    checkpoint: str | os.PathLike[str],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    allow_download: bool = True,
) -> Network:
    """Return the network of a checkpoint, shared by all who ask for the same.

    Parameters
    ----------
    checkpoint : str or path
        "auto" for the bundled checkpoint; a local folder, or a weights file with its
        ``config.json`` beside it; else a repository of the Hugging Face Hub,
        "org/name" or "org/name@revision". A process looks up the commit of a
        repository once; later calls need no network.
    device : torch.device
        Where the weights go.
    dtype : torch.dtype, default=torch.float32
        Of the weights; float32 is what checkpoints hold.
    allow_download : bool, default=True
        False takes repositories from the cache of huggingface_hub alone, as does the
        environment variable HF_HUB_OFFLINE.

    Returns
    -------
    Network
        In evaluation mode, without gradients. Do not change it.

    Raises
    ------
    CheckpointError
        If it is missing, cannot be downloaded, or fails a check.
    """
    device = torch.empty(0, device=device).device  # "cuda" is "cuda:0", say
    with _opened(checkpoint, allow_download) as (source, config):
        shape = (*config["network"].items(), *config["optimism"])
        key = (config["sha256"], shape, str(device), dtype)
        if key not in _loaded:
            network = _build(source.path(source.weights), config)
            _loaded[key] = network.to(device, dtype)
        return _loaded[key]


def fetch_checkpoint(
    checkpoint: str | os.PathLike[str], allow_download: bool = True
) -> Path:
    """Return the folder of a checkpoint after all checks, downloaded if need be.

    Parameters
    ----------
    checkpoint : str or path
        As in `load_network`.
    allow_download : bool, default=True
        False takes repositories from the cache of huggingface_hub alone.

    Returns
    -------
    Path
        A folder that can be given as ``checkpoint``, where there is no network too.

    Raises
    ------
    CheckpointError
        If it is missing, cannot be downloaded, or fails a check.

    Examples
    --------
    >>> sorted(path.name for path in fetch_checkpoint("auto").glob("*.*s*"))
    ['config.json', 'model.safetensors']
    """
    with _opened(checkpoint, allow_download) as (source, config):
        path = source.path(source.weights)
        _build(path, config)
        return path.parent


def read_config(
    checkpoint: str | os.PathLike[str] = "auto", allow_download: bool = True
) -> dict[str, Any]:
    """Return the checked ``config.json`` of a checkpoint, as `load_network` finds it.

    Examples
    --------
    >>> read_config("auto")["architecture"]
    'tabrl-posterior'
    """
    with _opened(checkpoint, allow_download) as (_, config):
        return copy.deepcopy(config)


def refuse_not_finite(checkpoint: str | os.PathLike[str], *tables: NDArray) -> None:
    """Refuse what a network of finite weights made that is not finite.

    Raises
    ------
    CheckpointError
        If a table holds NaN or infinity.
    """
    if not all(np.isfinite(table).all() for table in tables):
        raise CheckpointError(
            f"The network of checkpoint {os.fspath(checkpoint)!r} must give finite "
            "values. Found others: its weights are damaged, or were trained on "
            "something else. Use the bundled 'auto'."
        )


def save_network(network: Network, folder: Path, about: dict[str, Any]) -> None:
    """Write a checkpoint folder; ``about`` is kept in the config as it is."""
    state = {
        name: value.cpu().contiguous() for name, value in network.state_dict().items()
    }
    weights = save_tensors(state)
    config = {
        "format": FORMAT,
        "tabrl": READABLE_BY,
        "architecture": ARCHITECTURE,
        "network": asdict(network.config),
        "optimism": list(network.optimism),
        "sha256": hashlib.sha256(weights).hexdigest(),
        **about,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _WEIGHTS).write_bytes(weights)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")


class _BadFileError(CheckpointError):
    """A file that must not be trusted, and what is wrong with it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.path = path


@dataclass
class _Folder:
    """A checkpoint in a local folder."""

    folder: Path
    weights: str = _WEIGHTS

    def path(self, file: str) -> Path:
        return self.folder / file

    def keep(self) -> None:
        """Nothing to remember."""

    def explain(self, error: CheckpointError) -> str:
        """Say how to mend it."""
        bad = isinstance(error, _BadFileError)
        return (
            f"{error} Fetch it again, or use the bundled 'auto'." if bad else str(error)
        )


@dataclass
class _Repository:
    """A checkpoint on the Hugging Face Hub, in the cache of its client."""

    name: str
    revision: str
    allow_download: bool
    weights: str = _WEIGHTS

    def __post_init__(self) -> None:
        # All files must come from one commit, whatever happens to the branch.
        self.commit = _commits.get((self.name, self.revision))

    def path(self, file: str) -> Path:
        # Imported here: the bundled checkpoint needs no network.
        from huggingface_hub import constants, hf_hub_download

        try:
            path = hf_hub_download(
                self.name,
                file,
                revision=self.commit or self.revision,
                local_files_only=constants.HF_HUB_OFFLINE or not self.allow_download,
                library_name="tabrl",
            )
        except Exception as error:  # the client's errors share no base class
            known, reason = self._reason(error, file)
            raise CheckpointError(
                f"Checkpoint {self.name!r} (file {file!r}, revision "
                f"{self.revision!r}) must be on the Hugging Face Hub or in its cache: "
                f"{reason} {self._cache()}"
            ) from (None if known else error)
        self.commit = Path(path).parent.name
        return Path(path)

    def keep(self) -> None:
        """Remember the commit for later calls."""
        if self.commit:
            _commits[self.name, self.revision] = self.commit

    def explain(self, error: CheckpointError) -> str:
        _commits.pop((self.name, self.revision), None)
        if not isinstance(error, _BadFileError):
            return str(error)
        # A later call must not stumble over it for ever. Which of the two is wrong, a
        # sha256 that differs does not tell.
        files = {error.path, error.path.with_name(_CONFIG)}
        removed = all([_remove_with_targets(path) for path in files])
        return (
            f"Checkpoint {self.name!r} (file {error.path.name!r}, revision "
            f"{self.revision!r}) is broken: {error} "
            f"{'It was removed from' if removed else 'Remove it from'} the cache: "
            "try again; if that does not help, tell its publisher or choose another "
            f"revision. {self._cache()}"
        )

    def _cache(self) -> str:
        from huggingface_hub import constants

        return (
            f'Cache folder: {constants.HF_HUB_CACHE}. checkpoint="auto" needs no '
            "network."
        )

    def _reason(self, error: Exception, file: str) -> tuple[bool, str]:
        """Return whether the error is one that we know, and what it means."""
        from huggingface_hub import constants, errors

        status = getattr(getattr(error, "response", None), "status_code", None)
        cause: BaseException = error
        if isinstance(error, errors.GatedRepoError):
            return True, (
                "access to it must be granted. Ask for it on its page, then log in "
                "with 'hf auth login' or set HF_TOKEN."
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return True, "it has no such revision. Its page lists those there are."
        if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
            return True, (
                "there is none of this name, or it is private, nor is there a local "
                "folder of this name. Check the name, or log in with 'hf auth login' "
                "or set HF_TOKEN."
            )
        if isinstance(error, errors.LocalEntryNotFoundError):
            if constants.HF_HUB_OFFLINE or not self.allow_download:
                return True, (
                    "it is not in the cache, and allow_download=False or "
                    "HF_HUB_OFFLINE forbids to download it. Run 'tabrl download "
                    f"{self.name}@{self.revision}' where that is allowed."
                )
            cause = error.__cause__ or error
        elif isinstance(error, errors.EntryNotFoundError):
            return True, f"it has no {file!r}, so it is not a checkpoint of tabrl."
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        return False, (
            f"the download from {constants.ENDPOINT} failed ({text}). Check the "
            "network, proxies and HF_ENDPOINT, and try again."
        )


@contextlib.contextmanager
def _opened(
    checkpoint: str | os.PathLike[str], allow_download: bool
) -> Iterator[tuple[_Folder | _Repository, dict[str, Any]]]:
    """Find a checkpoint and read its config, one caller at a time."""
    name = os.fspath(checkpoint) if isinstance(checkpoint, os.PathLike) else checkpoint
    if not isinstance(name, str):
        raise TypeError(f"checkpoint must be a string or a path. Got {checkpoint!r}.")
    with _locks.setdefault(name, threading.Lock()):
        source = _find(name, allow_download)
        try:
            yield source, _read_config(source.path(_CONFIG))
        except CheckpointError as error:
            raise CheckpointError(source.explain(error)) from error.__cause__
        source.keep()


def _find(name: str, allow_download: bool) -> _Folder | _Repository:
    if name == "auto":
        return _Folder(BUNDLED)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _Folder(path)
    if path.is_file():
        if path.name == _CONFIG:
            return _Folder(path.parent)
        if path.suffix == ".safetensors":
            return _Folder(path.parent, path.name)
    elif match := re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./+-]*))?", name):
        if ".." not in name:  # git has no such names; paths do
            return _Repository(match[1], match[2] or "main", allow_download)
    raise CheckpointError(
        'checkpoint must be "auto", a local folder with config.json and '
        "model.safetensors, one of these two files, or a repository of the Hugging "
        f'Face Hub, "org/name" or "org/name@revision". Got {name!r}, which is '
        f"{'another file' if path.is_file() else 'none of these'}."
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Return the checked config, the same object as long as the file is the same."""
    try:
        file = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} must be a readable file: {error}.") from None
    key = (str(path), file.st_mtime_ns, file.st_ctime_ns, file.st_size, file.st_ino)
    if key in _configs:
        return _configs[key]
    config = _parse_config(path)
    if time.time() - max(file.st_mtime, file.st_ctime) > _SETTLED:
        _configs[key] = config
    return config


def _parse_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_regular(path, _MAX_CONFIG_BYTES).decode())
    except OSError as error:
        raise CheckpointError(f"{path} must be a readable file: {error}.") from None
    except (ValueError, RecursionError) as error:
        raise _BadFileError(path, f"must be a JSON file: {error}.") from None
    if not isinstance(config, dict) or type(config.get("format")) is not int:
        raise _BadFileError(path, "must hold a JSON object with a number 'format'.")
    if config["format"] > FORMAT:
        reader = re.fullmatch(r"[\d.,<>=!~ ]{1,40}", str(config.get("tabrl")))
        raise CheckpointError(
            f"{path} is of format {config['format']!r:.20}; this version of tabrl "
            f"reads format {FORMAT}. Upgrade: pip install -U "
            f"'tabrl{reader[0] if reader else ''}'."
        )
    if config["format"] != FORMAT or config.get("architecture") != ARCHITECTURE:
        raise _BadFileError(
            path,
            f"must be of format {FORMAT} and architecture {ARCHITECTURE!r}. Got "
            f"{config['format']!r:.20} and {config.get('architecture')!r:.80}.",
        )
    if not re.fullmatch(r"[0-9a-f]{64}", str(config.get("sha256"))):
        got = f"{config.get('sha256')!r:.80}"
        raise _BadFileError(path, f"must give the sha256 of the weights. Got {got}.")
    sizes: Any = config.get("network")
    wrong = not isinstance(sizes, dict) or set(sizes) != set(_MAX_DIMENSION)
    if (
        wrong
        or not all(
            type(sizes[name]) is int and 0 < sizes[name] <= most
            for name, most in _MAX_DIMENSION.items()
        )
        or sizes["width"] % sizes["n_heads"]
    ):
        most = ", ".join(f"{name} <= {m}" for name, m in _MAX_DIMENSION.items())
        raise _BadFileError(
            path,
            f"must give in 'network' positive integers {most}, n_heads dividing width. "
            f"Got {sizes!r:.200}.",
        )
    rule: Any = config.setdefault("optimism", list(EXPLORATION_RULE))
    two = isinstance(rule, list) and len(rule) == 2
    if not (two and all(type(x) in (int, float) and 0 <= x <= 100 for x in rule)):
        raise _BadFileError(
            path,
            f"must give in 'optimism' two numbers from 0 to 100. Got {rule!r:.80}.",
        )
    return config


def _build(path: Path, config: dict[str, Any]) -> Network:
    """Read and verify the weights; memory is bounded by the size of the file."""
    sizes = config["network"]
    # The MLPs alone hold this much; all of a layer is at most 18 times as much.
    least = 4 * sizes["n_layers"] * sizes["width"] ** 2 * sizes["mlp_ratio"]
    try:
        n_bytes = path.stat().st_size
        if not least <= n_bytes <= 32 * least + 2**20:
            raise _BadFileError(
                path, f"must have the size that {_CONFIG} implies. Got {n_bytes} bytes."
            )
        weights = read_regular(path, n_bytes)
    except OSError as error:
        raise CheckpointError(f"{path} must be a readable file: {error}.") from None
    except ValueError as error:
        raise _BadFileError(path, f"is not a weights file: {error}") from None
    found = hashlib.sha256(weights).hexdigest()
    if found != config["sha256"]:
        raise _BadFileError(
            path,
            f"must have the sha256 that {_CONFIG} gives, {config['sha256']}. Got "
            f"{found}: the file is damaged, or another one.",
        )
    try:
        tensors = load_tensors(weights)
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        # Types that the reader does not know, F4 for example, are a KeyError in it.
        raise _BadFileError(
            path, f"must be a safetensors file of float32: {error!r:.200}."
        ) from None
    with torch.random.fork_rng(devices=[]):  # the initial weights draw numbers
        network = Network(NetworkConfig(**sizes), tuple(config["optimism"]))
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != given:
        parts = {
            "missing": wanted.keys() - given.keys(),
            "unknown": given.keys() - wanted.keys(),
            "of another shape": {
                name for name in wanted.keys() & given if wanted[name] != given[name]
            },
        }
        raise _BadFileError(
            path,
            "must hold exactly the tensors of the network. "
            + " ".join(
                f"{len(names)} {what}, for example {min(names)!r:.80}."
                for what, names in parts.items()
                if names
            ),
        )
    if not all(
        t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values()
    ):
        raise _BadFileError(path, "must hold finite numbers of type float32.")
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def _remove_with_targets(path: Path) -> bool:
    """Remove a file of the cache, and the files that it is a symbolic link to."""
    try:
        while path.is_symlink():
            target = path.parent / os.readlink(path)
            path.unlink()
            path = target
        path.unlink(missing_ok=True)
    except OSError:  # a cache that is not ours to write
        return False
    return True
