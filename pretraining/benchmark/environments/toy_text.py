"""The toy-text environments of gymnasium, from their own tables."""

from __future__ import annotations

from typing import Any

import gymnasium

from pretraining.benchmark.process import Environment, from_table


def toy_text(name: str, gamma: float, **options: Any) -> Environment:
    """One of gymnasium's toy-text environments, from its own table of outcomes."""
    env: Any = gymnasium.make(name, **options).unwrapped
    table = [[env.P[s][a] for a in sorted(env.P[s])] for s in sorted(env.P)]
    return from_table(name, table, env.initial_state_distrib, gamma)
