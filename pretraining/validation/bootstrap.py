"""Means over processes with bootstrap intervals.

Below all the validation's scores. Beside `pretraining.benchmark.report.intervals`,
which resamples one score at a time: here one draw serves all the scores of a process,
so that ratios and differences of means are paired, and as all are means, counts from a
multinomial distribution and one matrix product are enough.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_N_RESAMPLES = 1000  # which puts an interval's ends to 4 % of its half-width

Scores = dict[str, NDArray]  # of n processes (n, ...), or their means resampled


def resample(rng: np.random.Generator, scores: Scores) -> Scores:
    """Return means over processes (1001, ...): as they are, then bootstrapped."""
    n = len(next(iter(scores.values())))
    drawn = rng.multinomial(n, np.full(n, 1 / n), _N_RESAMPLES)
    weights = np.concatenate([np.ones((1, n)), drawn]) / n
    return {name: np.tensordot(weights, v, 1) for name, v in scores.items()}


def average(cells: list[Scores]) -> Scores:
    """Return the means over cells, each of them alike."""
    return {name: np.mean([cell[name] for cell in cells], 0) for name in cells[0]}


def interval(means: NDArray) -> list[float]:
    """Return a mean with the ends of its bootstrap 95 % interval."""
    ends = np.quantile(means[1:], [0.025, 0.975])
    return [round(float(x), 4) for x in (means[0], *ends)]
