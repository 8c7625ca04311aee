"""Statistics of scores, and how sure they are: stratified bootstrap intervals.

Scores have the shape (cells, seeds). Seeds are resampled within each cell, as in
Agarwal et al. 2021 (arXiv 2108.13264): the cells are fixed, so that what differs
between them does not widen an interval. Interquartile means and probabilities of
improvement are those of rliable, their paper's package.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

# Maps scores (..., seeds) to (...).
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Estimate = list[float]  # value, low, high

_SEED = 0
_N_RESAMPLES = 2000
_TAILS = (0.025, 0.975)


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over seeds."""
    return values.mean(axis=-1)


def tail_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the worst tenth of the seeds, rounded up: the 10%-CVaR.

    Examples
    --------
    >>> float(tail_mean(np.arange(20.0)))
    0.5
    """
    return _lowest(values, -(-values.shape[-1] // 10))


def upper_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over seeds; of two in the middle the higher."""
    half = values.shape[-1] // 2
    return np.partition(values, half, axis=-1)[..., half]


def bootstrap(
    values: NDArray[np.float64], statistic: Statistic = mean, *, centred: bool = False
) -> NDArray[np.float64]:
    """Draw a statistic of each cell from its bootstrap distribution.

    Parameters
    ----------
    values : array of shape (cells, seeds)
        Scores.
    statistic : callable, default=mean
        Statistic over the last axis.
    centred : bool, default=False
        Whether to take the bootstrap's bias from the draws. The worst of a resample
        is seldom as bad as the worst of the sample, so that without it the interval
        of a tail mean need not even hold its estimate.

    Returns
    -------
    array of shape (cells, 2000)
        The draws, independent from cell to cell. Those of a cell depend on its place
        and the number of seeds alone.
    """
    n_cells, n_seeds = values.shape
    resamples = _Resamples.of(n_seeds)
    draws = np.empty((n_cells, _N_RESAMPLES))
    for cell in range(n_cells):
        if statistic is mean:  # several times as fast by counts
            draws[cell] = _mean_of_resamples(values[cell], resamples.counts(cell))
        else:
            draws[cell] = statistic(values[cell, resamples.seeds(cell)])
    if centred:
        draws += (statistic(values) - draws.mean(axis=1))[:, None]
    return draws


def cell_draws(values: NDArray[np.float64], cell: object) -> NDArray[np.float64]:
    """Draw the mean over the seeds of one cell from its bootstrap distribution.

    The seeds that are drawn depend on the cell's name alone. So methods that were
    scored on the same logs are resampled together, and the draws of a cell stay as
    they are when other cells join the results.

    Parameters
    ----------
    values : array of shape (..., seeds)
        Scores in the cell, of one method or of several.
    cell : object
        Names the cell, by its `repr`.

    Returns
    -------
    array of shape (..., 2000)
        The draws.
    """
    return _mean_of_resamples(values, _counts_by_name(repr(cell), values.shape[-1]))


@lru_cache(maxsize=2048)  # 80 kB each for 20 seeds
def _counts_by_name(cell: str, n_seeds: int) -> NDArray[np.int16]:
    rng = np.random.default_rng([_SEED, zlib.crc32(cell.encode())])
    return _counts(rng.integers(n_seeds, size=(_N_RESAMPLES, n_seeds)))


def _counts(drawn: NDArray[np.integer]) -> NDArray[np.int16]:
    """How often each seed is drawn (seeds, resamples), from the seeds transposed."""
    n_resamples, n_seeds = drawn.shape
    places = drawn + n_seeds * np.arange(n_resamples)[:, None]
    counts = np.bincount(places.ravel(), minlength=drawn.size)
    return counts.reshape(drawn.shape).T.astype(np.int16)


def _mean_of_resamples(
    values: NDArray[np.float64], counts: NDArray[np.int16]
) -> NDArray[np.float64]:
    """Mean over the seeds of each resample, (..., seeds) to (..., resamples)."""
    return values @ counts.astype(np.float64) / values.shape[-1]


class _Resamples:
    """The seeds that `bootstrap` draws for each cell, drawn once for all methods.

    One generator draws for the first cell, then for the second, and so on.
    """

    def __init__(self, n_seeds: int) -> None:
        self._n_seeds = n_seeds
        self._rng = np.random.default_rng(_SEED)
        self._seeds: list[NDArray[np.int16]] = []
        self._counts: dict[int, NDArray[np.int16]] = {}

    @staticmethod
    @lru_cache(maxsize=8)  # the results have as many numbers of seeds
    def of(n_seeds: int) -> _Resamples:
        """Return the resamples for a number of seeds."""
        return _Resamples(n_seeds)

    def seeds(self, cell: int) -> NDArray[np.int16]:
        """Return the seeds (resamples, seeds) that are drawn for a cell."""
        while len(self._seeds) <= cell:
            shape = _N_RESAMPLES, self._n_seeds
            drawn = self._rng.integers(self._n_seeds, size=shape)
            self._seeds.append(drawn.astype(np.int16))
        return self._seeds[cell]

    def counts(self, cell: int) -> NDArray[np.int16]:
        """Return how often each seed is drawn for a cell (seeds, resamples)."""
        if cell not in self._counts:
            self._counts[cell] = _counts(self.seeds(cell))
        return self._counts[cell]


def centred_interval(value: float, draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% interval of a value, the bootstrap's bias taken from its draws.

    Parameters
    ----------
    value : float
        The value itself.
    draws : array of shape (2000,)
        Its draws.
    """
    low, high = np.quantile(draws, _TAILS) + value - draws.mean()
    return float(low), float(high)


def worst_share(groups: Sequence[NDArray[np.float64]], share: float = 0.01) -> Estimate:
    """Mean of the lowest scores of all cells of a group together: a pooled CVaR.

    Parameters
    ----------
    groups : sequence of arrays of shape (cells, seeds)
        Scores. They are pooled over the cells and seeds of each group.
    share : float, default=0.01
        Share of the pooled scores to take, rounded up to a whole number of them.

    Returns
    -------
    list of float
        Mean over groups, and its interval. Seeds are resampled within each cell, and
        the bootstrap's bias is taken from the draws, see `bootstrap`.

    Examples
    --------
    >>> worst_share([np.arange(200.0).reshape(10, 20)])[0]
    0.5
    """
    rng = np.random.default_rng(_SEED)
    found, draws = [], []
    for scores in groups:
        n_cells, n_seeds = scores.shape
        n_worst = math.ceil(round(share * scores.size, 9))
        seeds = rng.integers(n_seeds, size=(_N_RESAMPLES, n_cells, n_seeds))
        pooled = scores[np.arange(n_cells)[:, None], seeds].reshape(_N_RESAMPLES, -1)
        found.append(_lowest(scores.ravel(), n_worst))
        drawn = _lowest(pooled, n_worst)
        draws.append(drawn + found[-1] - drawn.mean())
    low, high = interval(np.stack(draws))
    return [float(np.mean(found)), low, high]


def _lowest(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Mean of the n lowest over the last axis."""
    return np.partition(values, n - 1, axis=-1)[..., :n].mean(axis=-1)


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% percentile interval of the mean over cells.

    Parameters
    ----------
    draws : array of shape (cells, resamples)
        From `bootstrap`.

    Examples
    --------
    >>> interval(bootstrap(np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])))
    (2.0, 2.0)
    """
    low, high = np.quantile(draws.mean(axis=0), _TAILS)
    return float(low), float(high)


def estimate(values: NDArray[np.float64], statistic: Statistic = mean) -> Estimate:
    """Return the mean over cells of a statistic over seeds, with its interval."""
    low, high = interval(bootstrap(values, statistic))
    return [float(statistic(values).mean()), low, high]


def require_rliable() -> None:
    """Raise an error that says how to install rliable if it is missing."""
    if find_spec("rliable") is None:
        raise ModuleNotFoundError(
            "The report needs rliable, which needs pandas before 3. Run "
            'pretraining/benchmark/install.sh, or pip install rliable "pandas<3".'
        )


def interquartile_means(values: NDArray[np.float64]) -> list[Estimate]:
    """Mean of the middle half of all scores of each method, by rliable's bootstrap.

    Parameters
    ----------
    values : array of shape (methods, cells, seeds)
        Scores.

    Returns
    -------
    list of list of float
        The mean of each method, and its interval.
    """
    n_methods, n_cells, n_seeds = values.shape
    flat = values.transpose(0, 2, 1).reshape(n_methods, -1)

    # What is resampled are places, so that one bootstrap serves all methods.
    def of_places(places: NDArray[np.int64]) -> NDArray[np.float64]:
        return _middle_mean(flat[:, places.ravel()])

    return _rliable(np.arange(flat.shape[1]).reshape(n_seeds, n_cells), of_places)


def _middle_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the middle half over the last axis; rliable's own is far slower."""
    n = values.shape[-1]
    cut = n // 4
    middle = np.partition(values, (cut, n - cut - 1), axis=-1)[..., cut : n - cut]
    return middle.mean(axis=-1)


def probabilities_of_improvement(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> list[Estimate]:
    """Probability that a score of x exceeds one of y of its cell; ties count half.

    rliable's bootstrap, around the same statistic as its own function, which is
    about a thousand times slower.

    Parameters
    ----------
    pairs : sequence of (x, y)
        Scores of two methods on the same cells, arrays of shape (cells, seeds).

    Returns
    -------
    list of list of float
        For each pair the mean over cells, and its interval.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, (x, _) in enumerate(pairs):
        by_shape.setdefault(x.shape, []).append(i)
    found: dict[int, Estimate] = {}
    for members in by_shape.values():
        x, y = (np.stack([pairs[i][side] for i in members]) for side in (0, 1))
        found |= dict(zip(members, _probabilities(x, y), strict=True))
    return [found[i] for i in range(len(pairs))]


def _probabilities(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[Estimate]:
    """Probabilities for scores of the shape (pairs, cells, seeds)."""
    n_pairs, n_cells, n_seeds = x.shape
    sign = np.sign(x[:, :, :, None] - y[:, :, None]).reshape(n_pairs, -1)
    # Sums of whole numbers below 2^24 are exact in single precision, in any order.
    sign = sign.astype(np.float32 if sign.shape[1] < 2**24 else np.float64)
    rows = n_seeds * np.arange(n_cells)

    def counts(seeds: NDArray[np.int64]) -> NDArray[np.float64]:
        drawn = np.bincount((seeds + rows).ravel(), minlength=n_cells * n_seeds)
        return drawn.reshape(n_cells, n_seeds).astype(sign.dtype)

    # Seeds are resampled, so that one bootstrap serves all pairs.
    def of_seeds(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        times = counts(a)[:, :, None] * counts(b)[:, None]
        mean_sign = (sign @ times.ravel()).astype(np.float64) / sign.shape[1]
        return (mean_sign + 1) / 2

    seeds = np.tile(np.arange(n_seeds)[:, None], n_cells)
    return _rliable([seeds, seeds], of_seeds)


def performance_profile(
    values: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of the scores above each threshold, by rliable.

    Parameters
    ----------
    values : array of shape (cells, seeds)
        Scores.
    thresholds : array of shape (n,)
        Thresholds.

    Returns
    -------
    array of shape (3, n)
        Share, and its interval.
    """
    from rliable.library import create_performance_profile

    with _seeded():
        share, bounds = create_performance_profile({"": values.T}, thresholds, reps=200)
    return np.stack([share[""], *bounds[""]])


def _rliable(scores: object, statistic: Callable[..., NDArray]) -> list[Estimate]:
    from rliable.library import get_interval_estimates

    with _seeded():
        value, bounds = get_interval_estimates(
            {"": scores}, statistic, reps=_N_RESAMPLES
        )
    return np.stack([value[""], *bounds[""]], axis=1).tolist()


@contextmanager
def _seeded() -> Iterator[None]:
    # rliable draws from NumPy's global generator, whatever random state it is given.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(_SEED)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
