"""Export the averaged weights of a run as a release folder, and publish it.

    python -m pretraining.recipe.export --run runs/base --out tabrl/checkpoint

Last of the recipe. The folder holds the weights, config.json with the training manifest
and validation figures, and a model card. With ``--push-to-hub org/name`` it goes to a
repository of the Hugging Face Hub too, with the token of ``hf auth login`` or HF_TOKEN.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from pretraining.prior import FAMILIES
from tabrl._checkpoint import CheckpointError, fetch_checkpoint, save_network
from tabrl._network import Network, NetworkConfig

_FILES = ("model.safetensors", "config.json", "README.md")
_POLICIES = ("sampled", "greedy")
_CONTROL = "best_control"
_CARD = """\
---
license: bsd-3-clause
library_name: tabrl
tags: [reinforcement-learning, tabular, in-context-learning]
---

# A tabrl checkpoint

Turns the transition log of a finite decision process into a policy and action values,
without tuning. Needs tabrl {readable_by}.

```python
from tabrl import OfflinePolicyEstimator

policy = OfflinePolicyEstimator(gamma=0.99, checkpoint=folder_or_hub_name)
policy.fit(transitions).predict(states)
```

{n_parameters:,} parameters in float32; dimensions {network}. No pickle: weights in
safetensors, whose sha256 is in `config.json`.

## What the prior holds

Decision processes of up to {max_states} states and {max_actions} actions, discount
factors from 0.8 to 0.995, logs of up to {max_log_size:,.0f} transitions, from these
families in equal shares:

{families}

## What it does not hold

Continuous states, or states that have anything in common but their transitions: to
the network they are labels. Hidden state, confounding, and processes or policies that
change over time. Larger processes and longer logs than those above are extrapolation.

## Training

{steps:,} steps, {hours} hours on {hardware}; commit `{commit}`; {versions}. The whole
configuration is in `config.json`.

## Validation

{validation}

## Benchmark

{benchmark}

## Known failures

{failures}
- A policy that cannot adapt repeats one wrong choice for ever. Where data are thin,
  `predict_proba` is meant to be sampled from.
- A reward that the log never shows is not known, however likely it is.

## Licence and citation

{license}. Please cite the software with the version and the sha256 of the weights:

```bibtex
@software{{tabrl,
  title = {{tabrl: policies from transition logs by a pretrained network}},
  author = {{the tabrl maintainers}},
  note = {{Checkpoint {sha256}}}
}}
```
"""


def averaged_network(run: Path) -> Network:
    """Return the network with the averaged weights and the optimism of a run."""
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    config = json.loads(state["config"])
    network = Network(NetworkConfig(**config["network"]))
    network.load_state_dict(state["average"])
    chosen = run / "optimism.json"
    if chosen.exists():
        network.optimism = tuple(json.loads(chosen.read_text())["optimism"])
    return network


def export(run: Path, out: Path, benchmark: Path | None = None) -> None:
    """Write the release folder of a run.

    Parameters
    ----------
    run : Path
        Folder of the run, with ``validation.json`` if there are such figures and
        ``optimism.json`` if `pretraining.validation.optimism` has chosen one.
    out : Path
        Folder to write.
    benchmark : Path, optional
        Markdown with benchmark figures, for the model card.
    """
    about: dict[str, Any] = {
        "license": "BSD-3-Clause",
        "training": json.loads((run / "manifest.json").read_text()),
    }
    validation = run / "validation.json"
    if validation.exists():
        about["validation"] = json.loads(validation.read_text())
    network = averaged_network(run)
    save_network(network, out, about)
    config = json.loads((out / "config.json").read_text())
    n_parameters = sum(p.numel() for p in network.parameters())
    figures = benchmark.read_text().strip() if benchmark else None
    card = model_card(config, n_parameters, figures)
    (out / "README.md").write_text(card, encoding="utf-8")
    fetch_checkpoint(out)  # what is released passes all the checks


def model_card(
    config: dict[str, Any], n_parameters: int, benchmark: str | None = None
) -> str:
    """Return the model card of a checkpoint, every figure taken from its config."""
    training = config["training"]
    validation = config.get("validation")
    families = {name: sys.modules[f.__module__] for name, f in FAMILIES.items()}
    versions = (f"{name} {version}" for name, version in training["versions"].items())
    network = (f"{name} {size}" for name, size in config["network"].items())
    return _CARD.format(
        readable_by=config["tabrl"],
        n_parameters=n_parameters,
        network=", ".join(network),
        families="\n".join(
            f"- {' '.join((families[name].__doc__ or name).split())}"
            for name in training["config"]["families"]
        ),
        validation=_validation(validation) if validation else "Not validated.",
        benchmark=benchmark or "Not benchmarked.",
        failures=_failures(validation),
        license=config["license"],
        sha256=config["sha256"],
        versions=", ".join(versions),
        max_states=max(
            training["config"]["max_states"],
            training["config"].get("largest_states", 0),
        ),
        max_actions=training["config"]["max_actions"],
        max_log_size=training["config"]["max_log_size"],
        **{key: training[key] for key in ("steps", "hours", "hardware", "commit")},
    )


def _validation(report: dict[str, Any]) -> str:
    """Return the figures of validation.json as Markdown."""
    rows = [{"family": "all", "size": "all"} | report["overall"], *report["cells"]]
    shares = [100 * report[f"below_{head}"] for head in ("low", "middle", "high")]
    lines = [
        "Normalised regret (0: optimal, 1: uniform policy, capped at 2) on "
        f"{report['n_processes']} processes of the prior that training never saw, "
        "mean with 95 % bootstrap interval; `size` is the length of the log. The "
        "control is the best in each cell, chosen afterwards, of certainty equivalence "
        "(ties at random, or to the first action) and VI-LCB with five constants.",
        "",
        "| family | size | sampled | greedy | control |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {row['family']} | {row['size']} | "
            + " | ".join(_interval(row[name]) for name in (*_POLICIES, _CONTROL))
            + " |"
            for row in rows
        ),
        "",
        "Optimal action values below the low, middle and high estimate: "
        f"{shares[0]:.0f} %, {shares[1]:.0f} %, {shares[2]:.0f} % (aim: 10 %, 50 %, "
        f"90 %). Brier score of the optimal action: {report['brier_optimal_action']}.",
    ]
    if "near_expert" in report:
        narrow = report["near_expert"]["overall"]
        lines += [
            "",
            f"Near-expert logs: {_interval(narrow['sampled'])}, best control "
            f"{_interval(narrow[_CONTROL])}.",
        ]
    if "online" in report:
        online = report["online"]
        lines += [
            "",
            "Exploring, regret of an episode: "
            f"{_interval(online['regret'])}, posterior sampling "
            f"{_interval(online['psrl']['regret'])}.",
        ]
    return "\n".join(lines)


def _failures(report: dict[str, Any] | None) -> str:
    """List the cells in which both policies are worse than the control on average."""
    if report is None:
        return "- Unknown: not validated."
    worse = [
        f"- {cell['family']}, logs of {cell['size']}: regret "
        f"{_interval(min(cell[name] for name in _POLICIES))} against "
        f"{_interval(cell[_CONTROL])} for the best control."
        for cell in report["cells"]
        if min(cell[name][0] for name in _POLICIES) > cell[_CONTROL][0]
    ]
    return "\n".join(worse) or (
        "- In no cell of the validation are both policies worse than the control."
    )


def _interval(score: list[float]) -> str:
    mean, low, high = (round(end, 3) + 0.0 for end in score)  # no minus zero
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def push_to_hub(folder: Path, repository: str) -> str:
    """Publish a release folder; return the name that users give as checkpoint.

    Parameters
    ----------
    folder : Path
        As `export` wrote it.
    repository : str
        "org/name"; made if there is none.

    Returns
    -------
    str
        "org/name@commit".

    Raises
    ------
    CheckpointError
        If the folder fails a check, which is done first, or the Hub refuses it.
    """
    from huggingface_hub import HfApi

    fetch_checkpoint(folder)
    api = HfApi(library_name="tabrl")
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(_FILES),
            commit_message="Publish a tabrl checkpoint",
        )
    except Exception as error:  # the client's errors share no base class
        raise CheckpointError(
            f"{folder} could not be published as {repository!r} at {api.endpoint} "
            f"({type(error).__name__}: {' '.join(str(error).split())}). Log in with "
            "'hf auth login', or set HF_TOKEN, with a token that may write there."
        ) from error
    return f"{repository}@{commit.oid}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--benchmark", type=Path, help="figures for the card, Markdown")
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="publish it too")
    arguments = parser.parse_args()
    export(arguments.run, arguments.out, arguments.benchmark)
    if arguments.push_to_hub:
        print(f"Published {push_to_hub(arguments.out, arguments.push_to_hub)}")


if __name__ == "__main__":
    main()
