"""How hard the environments are, by measures that do not know any method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment
from pretraining.benchmark.report.rows import foreign_names, world_group
from pretraining.benchmark.report.table import Table, table

# As in Colosseum (Conserva and Rauber 2022).
_MEASURES = {
    "diameter": "diameter",
    "suboptimality_gap": "sub-optimality gap",
    "value_norm": "value norm",
}


def hardness_table(names: Iterable[str], gamma: float = 0.99) -> Table | None:
    """Set out size and hardness of environments; None where nothing measures it.

    Parameters
    ----------
    names : iterable of str
        Names of environments; those of no group are left out.
    gamma : float, default=0.99
        Discount factor.
    """
    try:
        from pretraining.benchmark.environments.hardness import hardness
    except ImportError:
        return None
    known = foreign_names() | set(ENVIRONMENT_NAMES)
    lines: list[list[Any]] = []
    for name in filter(known.__contains__, names):
        env = environment(name, gamma)
        found = hardness(env)
        line: list[Any] = [name, world_group(name), env.n_states, env.n_actions]
        lines.append([*line, *(_measure(found, key) for key in _MEASURES)])
    if not lines:
        return None
    return table(
        "Hardness, as in Colosseum. Diameter: the most steps, in expectation, from one "
        "state to another by the fastest policy. Sub-optimality gap: the least loss by "
        "an action that is not optimal. Value norm: the largest standard deviation of "
        f"the optimal value after one step. Gamma {gamma:g}. Of a family of "
        "processes, the first.",
        ["environment", "group", "states", "actions", *_MEASURES.values()],
        lines,
    )


def _measure(found: Any, key: str) -> Any:
    value = found[key] if isinstance(found, dict) else getattr(found, key)
    return value if value is None or isinstance(value, str) else float(value)
