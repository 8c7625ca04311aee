"""Online benchmark: exact regret of every episode, and episodes until solved.

``protocol`` says which cells there are, ``simulator`` plays episodes and ``scoring``
scores them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pretraining.benchmark.baselines.online import LEARNERS, Tabrl, dqn
from pretraining.benchmark.baselines.packages import missing
from pretraining.benchmark.cells import Row, run_part
from pretraining.benchmark.parts.online.protocol import QUICK, Protocol
from pretraining.benchmark.parts.online.scoring import score_cell

__all__ = ["QUICK", "TABRL", "Protocol", "run", "score_cell"]

TABRL = Tabrl.name


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`.

    Methods whose package is not installed are left out.
    """
    cells = protocol.cells()
    packages = {name: learner.package for name, learner in LEARNERS.items()}
    packages[dqn.DQN] = dqn.PACKAGE
    left_out = {
        method
        for method in dict.fromkeys(cell["method"] for cell in cells)
        if packages[method] and missing(packages[method], method)
    }
    cells = [cell for cell in cells if cell["method"] not in left_out]
    score = partial(
        score_cell, checkpoint=protocol.checkpoint, seed_model=protocol.seed_model
    )
    return run_part("online", protocol, cells, score, output, **options)
