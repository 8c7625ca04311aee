"""What each part of the recipe is worth: short trainings of equal length without it.

    python -m pretraining.validation.ablations --out runs/ablations

Every variant trains from scratch on the seed of `runs/base.json`. It is scored by its
losses on validation processes of all families, and by the value of its sampled policy
on logs of the quick offline benchmark. Prints a Markdown table; the rows "as it is"
differ by their seed alone. Variants whose result is in ``--out`` are not run again. It
stands beside the report of `validate`, which judges one checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

import pretraining.recipe.loss
import pretraining.recipe.train
from pretraining.benchmark.baselines.offline.tabrl import SAMPLED
from pretraining.benchmark.parts import offline
from pretraining.recipe.export import averaged_network
from pretraining.recipe.loss import WEIGHTS, compute_losses
from pretraining.recipe.train import TrainConfig, train
from pretraining.validation.sets import validation_set
from tabrl._checkpoint import save_network
from tabrl._features import Features
from tabrl._network import Network, Posterior
from tabrl._planning import action_values

_CPU = torch.device("cpu")
_CONFIG = Path(__file__).parents[1] / "runs" / "base.json"
_BACKUPS = 5


@dataclass(frozen=True)
class Variant:
    """Changes of the configuration, and what takes the place of module attributes."""

    config: Callable[[TrainConfig], TrainConfig] = lambda config: config
    instead: dict[tuple[Any, str], Any] = field(default_factory=dict)


def variants(families: tuple[str, ...]) -> dict[str, Variant]:
    """Return every variant by its name."""

    def network(**sizes: int) -> Variant:
        return Variant(lambda c: replace(c, network=replace(c.network, **sizes)))

    def without(family: str) -> Variant:
        rest = tuple(name for name in families if name != family)
        return Variant(lambda c: replace(c, families=rest))

    def weightless(loss: str) -> Variant:
        return Variant(
            instead={(pretraining.recipe.loss, "WEIGHTS"): {**WEIGHTS, loss: 0.0}}
        )

    optimizers = (pretraining.recipe.train, "make_optimizers")
    plan = (pretraining.recipe.loss, "plan_dense")
    return {
        "as it is": Variant(),
        "as it is, seed 3": Variant(lambda c: replace(c, seed=3)),
        "as it is, seed 4": Variant(lambda c: replace(c, seed=4)),
        **{f"without {family}": without(family) for family in families},
        **{f"without the loss {loss}": weightless(loss) for loss in WEIGHTS},
        "five backups, no exact plan": Variant(instead={plan: plan_roughly}),
        "without its own exploration": Variant(lambda c: replace(c, exploring_share=0)),
        "AdamW alone": Variant(instead={optimizers: _adamw}),
        "one layer": network(n_layers=1),
        "six layers": network(n_layers=6),
        "width 32": network(width=32),
        "width 128": network(width=128),
    }


def plan_roughly(posterior: Posterior, features: Features, P: Tensor) -> Tensor:
    """Return the action values (3, B, S, A) of a few backups in place of a plan."""
    discount = features.gamma[:, None, None]
    v = torch.zeros_like(posterior.reward[..., 0])
    for _ in range(1 + _BACKUPS):
        q = action_values(P, posterior.reward, discount, v)
        v = q.masked_fill(~features.allowed, -torch.inf).amax(-1)
    return torch.minimum(q, v[..., None])


def _adamw(network: Network, config: TrainConfig) -> tuple[torch.optim.Optimizer]:
    parameters = network.parameters()
    rate, decay = config.learning_rate, config.weight_decay
    return (torch.optim.AdamW(parameters, rate, weight_decay=decay),)


def run(variant: Variant, config: TrainConfig, out: Path) -> dict[str, float]:
    """Train a variant in ``out`` and score it."""
    with ExitStack() as stack:
        for (module, name), value in variant.instead.items():
            stack.enter_context(mock.patch.object(module, name, value))
        train(variant.config(config), out, _CPU, n_workers=0)
        network = averaged_network(out).eval()
        save_network(network, out / "checkpoint", {})
        return validation_losses(network) | development_value(out / "checkpoint")


def validation_losses(network: Network, n_per_cell: int = 8) -> dict[str, float]:
    """Return the mean losses over the validation set."""
    losses: dict[str, list[float]] = {}
    for _, _, batch, statistics in validation_set(n_per_cell):
        with torch.inference_mode():
            of_set = compute_losses(network, batch.to(_CPU, torch.float32), statistics)
        for name in WEIGHTS:
            losses.setdefault(name, []).append(float(getattr(of_set, name)))
    return {name: float(np.mean(values)) for name, values in losses.items()}


def development_value(checkpoint: Path) -> dict[str, float]:
    """Return the mean normalised value of the sampled policy, and its error."""
    protocol = replace(offline.QUICK, checkpoint=str(checkpoint), baselines=False)
    rows = offline.run(protocol, progress_bar=False)
    values = [row["value"] for row in rows if row["method"] == SAMPLED]
    error = np.std(values) / np.sqrt(len(values))
    return {"value": float(np.mean(values)), "value_error": float(error)}


def table(results: dict[str, dict[str, float]]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"| variant | {' | '.join(WEIGHTS)} | value on logs, +- standard error |",
        f"| --- {'| ---: ' * (len(WEIGHTS) + 1)}|",
    ]
    lines += [
        f"| {name} | {' | '.join(f'{r[loss]:.3f}' for loss in WEIGHTS)} | "
        f"{r['value']:.3f} +- {r['value_error']:.3f} |"
        for name, r in results.items()
    ]
    return "\n".join(lines)


def kept_result(variant: Variant, config: TrainConfig, out: Path) -> dict[str, float]:
    """Return the result kept in ``out``, or run the variant, on one thread."""
    torch.set_num_threads(1)
    path = out / "result.json"
    if not path.exists():
        path.write_text(json.dumps(run(variant, config, out)) + "\n")
    return json.loads(path.read_text())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    arguments = parser.parse_args()
    config = TrainConfig.from_json(_CONFIG)
    config = replace(config, n_steps=arguments.steps, warmup_steps=50, ema=0.98)
    every = variants(config.families)
    results = Parallel(n_jobs=arguments.jobs)(
        delayed(kept_result)(
            variant, config, arguments.out / name.replace(" ", "-").replace(",", "")
        )
        for name, variant in every.items()
    )
    print(table(dict(zip(every, results, strict=True))))


if __name__ == "__main__":
    main()
