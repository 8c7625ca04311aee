"""Export the averaged weights of a run as a checkpoint folder.

python -m pretraining.export --run runs/base --out tabrl/checkpoint
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from tabrl._checkpoint import save_network
from tabrl._network import Network, NetworkConfig


def averaged_network(run: Path) -> Network:
    """Return the network with the averaged weights of a run."""
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    config = json.loads(state["config"])
    network = Network(NetworkConfig(**config["network"]))
    network.load_state_dict(state["average"])
    return network


def export(run: Path, out: Path) -> None:
    """Write the checkpoint of a run, its manifest and validation figures beside it."""
    about: dict[str, Any] = {
        "license": "BSD-3-Clause",
        "training": json.loads((run / "manifest.json").read_text()),
    }
    validation = run / "validation.json"
    if validation.exists():
        about["validation"] = json.loads(validation.read_text())
    save_network(averaged_network(run), out, about)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    arguments = parser.parse_args()
    export(arguments.run, arguments.out)


if __name__ == "__main__":
    main()
