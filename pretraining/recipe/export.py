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

This checkpoint turns a log of transitions of a finite decision process into a policy
and action values. Nothing is trained or tuned on the log. It needs tabrl {readable_by}.

```python
from tabrl import OfflinePolicyEstimator

policy = OfflinePolicyEstimator(gamma=0.99, checkpoint=folder_or_hub_name)
policy.fit(transitions).predict(states)
```

The network has {n_parameters:,} parameters in float32 ({network}). The weights are
safetensors, not pickles, and `config.json` has their sha256.

## What it was trained on

Synthetic decision processes only, with up to {max_states} states, up to {max_actions}
actions and discount factors from 0.8 to 0.995. Logs had up to {max_log_size:,.0f}
transitions. These families have equal shares:

{families}

## What it was not trained on

- Continuous states, or states that resemble each other: a state is a label.
- Hidden states, confounding, and processes or policies that change over time.
- Larger processes and longer logs than those above: results there are extrapolation.

## Training

Training took {steps:,} steps, {hours} hours on {hardware}. Commit: `{commit}`.
Versions: {versions}. `config.json` has the whole configuration.

## Validation

{validation}

## Benchmark

{benchmark}

## Known failures

{failures}
- A fixed policy repeats a wrong choice forever. Sample from `predict_proba` where data
  are scarce.
- The network cannot know of a reward that the log never shows.

## Licence and citation

The licence is {license}. Please cite the version and the sha256 of the weights:

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
        "The table shows the mean normalised regret: 0 is the optimal policy, 1 the "
        f"uniform one. It was measured on {report['n_processes']} processes of the "
        "prior that training never saw. Brackets are 95 % bootstrap intervals. Regrets "
        "are capped at 2. `size` is the number of transitions in the log. `control` "
        "is the best method in each row, chosen after seeing the scores, of certainty "
        "equivalence (ties broken at random, or by the first action) and VI-LCB with "
        "five constants.",
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
        "Calibration: the optimal action value lies below the 0.1, 0.5 and 0.9 "
        f"quantile in {shares[0]:.0f} %, {shares[1]:.0f} % and {shares[2]:.0f} % of "
        "the pairs; 10 %, 50 % and 90 % would be exact. The Brier score of the optimal "
        f"action is {report['brier_optimal_action']}.",
    ]
    if "near_expert" in report:
        narrow = report["near_expert"]["overall"]
        lines += [
            "",
            "On logs of near-expert policies the sampled policy has a regret of "
            f"{_interval(narrow['sampled'])}, the best control "
            f"{_interval(narrow[_CONTROL])}.",
        ]
    if "online" in report:
        online = report["online"]
        lines += [
            "",
            "As it explores, the agent's mean regret per episode is "
            f"{_interval(online['regret'])}, that of posterior sampling (PSRL) "
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
        "- In no row of the validation are both policies worse than the control."
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
