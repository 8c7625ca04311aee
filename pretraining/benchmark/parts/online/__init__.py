"""Online benchmark: exact regret of every episode, and episodes until solved.

``protocol`` says which cells there are, ``simulator`` plays episodes and ``scoring``
scores them.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from pretraining.benchmark.baselines.online import LEARNERS, Tabrl, dqn
from pretraining.benchmark.baselines.packages import missing
from pretraining.benchmark.cells import Row, run_part
from pretraining.benchmark.environments import environment
from pretraining.benchmark.parts.online.protocol import QUICK, Protocol
from pretraining.benchmark.parts.online.scoring import score_cell

__all__ = ["QUICK", "TABRL", "Protocol", "run", "score_cell"]

TABRL = Tabrl.name


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`.

    Methods and environments whose package is not installed are left out.
    """
    cells = protocol.cells()
    absent = _absent_methods(cells) | _absent_environments(cells)
    cells = [c for c in cells if absent.isdisjoint((c["method"], c["environment"]))]
    score = partial(
        score_cell, checkpoint=protocol.checkpoint, seed_model=protocol.seed_model
    )
    return run_part("online", protocol, cells, score, output, **options)


def _absent_methods(cells: list[Row]) -> set[str]:
    packages = {name: learner.package for name, learner in LEARNERS.items()}
    packages[dqn.DQN] = dqn.PACKAGE
    return {
        method
        for method in dict.fromkeys(cell["method"] for cell in cells)
        if (package := packages[method]) and missing(package, method)
    }


def _absent_environments(cells: list[Row]) -> set[str]:
    absent = set()
    for name in dict.fromkeys(cell["environment"] for cell in cells):
        try:
            environment(name, 0.99)
        except ModuleNotFoundError as error:
            sys.stderr.write(f"Left out: {name}. {error}\n")
            absent.add(name)
    return absent
