"""How hard the environments are, by measures that do not know any method.

The measures are kept in a file beside the results: they take a while for the largest
environments, and some environments need packages that may be missing where the report
is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.benchmark.environments import (
    ENVIRONMENT_NAMES,
    FOREIGN_NAMES,
    environment,
)
from pretraining.benchmark.hardness import hardness
from pretraining.benchmark.report.rows import world_group
from pretraining.benchmark.report.table import Table, table

FILE = Path(__file__).parents[1] / "results" / "hardness.json"
_GAMMA = 0.99
# As in Colosseum (Conserva and Rauber 2022).
_MEASURES = {
    "diameter": "diameter",
    "suboptimality_gap": "sub-optimality gap",
    "value_norm": "value norm",
}
Measures = dict[str, dict[str, Any]]


def measure(name: str) -> dict[str, Any]:
    """Measure an environment; of a family, the process of seed 0.

    Returns
    -------
    dict
        JSON values: `n_states`, `n_actions` and what `Hardness` has, in six digits,
        None where that is infinite.
    """
    env = environment(name, _GAMMA)
    found = hardness(env)
    values = {key: float(getattr(found, key)) for key in _MEASURES}
    return {"n_states": env.n_states, "n_actions": env.n_actions} | {
        key: float(f"{value:.6g}") if np.isfinite(value) else None
        for key, value in values.items()
    }


def read_hardness(names: Iterable[str], path: Path = FILE) -> Measures:
    """Return the measures of environments; those that the file lacks are added to it.

    Parameters
    ----------
    names : iterable of str
        Names of environments; those that are not registered are left out.
    path : Path
        File of JSON, made if it is missing.

    Raises
    ------
    ModuleNotFoundError
        If an environment that the file lacks comes from a package that is missing.
    """
    kept: Measures = json.loads(path.read_text()) if path.exists() else {}
    known = {*ENVIRONMENT_NAMES, *FOREIGN_NAMES}
    wanted = [name for name in dict.fromkeys(names) if name in known]
    missing = [name for name in wanted if name not in kept]
    if missing:
        kept |= {name: measure(name) for name in missing}
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(kept[k])}" for k in kept)
        path.write_text(f"{{\n{lines}\n}}\n")
    return {name: kept[name] for name in wanted}


def hardness_table(names: Iterable[str], path: Path = FILE) -> Table | None:
    """Set out size and hardness of environments; None where none is registered.

    Parameters
    ----------
    names, path
        See `read_hardness`.
    """
    found = read_hardness(names, path)
    if not found:
        return None
    return table(
        "Hardness, as in Colosseum, over the states that can be reached. Diameter: the "
        "largest expected number of steps, over pairs of different states, that the "
        "fastest policy takes from one to the other; a step that terminates leads back "
        "to the start. Sub-optimality gap: the smallest positive loss v*(s) - q*(s, a) "
        "of an action. Value norm: the largest standard deviation of the optimal value "
        "of the successor, over pairs. The last two are in units of reward. Large "
        "diameters and small gaps are hard. "
        f"Gamma {_GAMMA:g}. Of a family of processes, the first.",
        ["environment", "group", "states", "actions", *_MEASURES.values()],
        [
            [name, world_group(name), measures["n_states"], measures["n_actions"]]
            + [_text(measures[key]) for key in _MEASURES]
            for name, measures in found.items()
        ],
    )


def _text(value: float | None) -> str:
    """Write a measure in four digits: gaps go down to 1e-6, norms up to 1e3."""
    return "infinite" if value is None else f"{value:.4g}"
