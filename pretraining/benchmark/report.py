"""Tables of benchmark results: means, bootstrap intervals and tail means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# One row of the results: environment, behaviour, size, seed, gamma, method, value.
Row = Mapping[str, Any]
_CELL_KEYS = ("gamma", "environment", "behaviour", "size")
HINDSIGHT = "VI-LCB, best c per cell in hindsight"
_VI_LCB = "VI-LCB, c = "
_INTERVAL_SEED = 0


def vi_lcb_name(c: float) -> str:
    """Name VI-LCB with the constant `c` in the results."""
    return f"{_VI_LCB}{c:g}"


class Results:
    """The values of each method, one array of shape (cells, seeds) a method.

    A cell is an environment, a behaviour, a size and a discount factor.

    Parameters
    ----------
    rows : iterable of mappings
        Rows with `environment`, `behaviour`, `size`, `seed`, `gamma`, `method` and
        `value`. Each method needs the same cells and seeds.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        table: dict[str, dict[tuple, dict[int, float]]] = {}
        for row in rows:
            cells = table.setdefault(row["method"], defaultdict(dict))
            cell = tuple(row[key] for key in _CELL_KEYS)
            cells[cell][row["seed"]] = row["value"]
        if not table:
            raise ValueError("There must be at least one row of results. Got none.")
        self.cells = list(next(iter(table.values())))
        seeds = list(next(iter(table.values()))[self.cells[0]])
        expected = {(cell, seed) for cell in self.cells for seed in seeds}
        for method, cells in table.items():
            found = {(cell, seed) for cell, values in cells.items() for seed in values}
            if found != expected:
                raise ValueError(
                    "Every method needs every cell and seed once. Method "
                    f"{method!r} has {len(found)} of {len(expected)}; first one that "
                    f"differs: {min(found ^ expected)}."
                )
        self.values: dict[str, NDArray[np.float64]] = {
            method: np.array([[cells[cell][s] for s in seeds] for cell in self.cells])
            for method, cells in table.items()
        }
        constants = [name for name in self.values if name.startswith(_VI_LCB)]
        if constants:
            self._add_hindsight(constants)

    def _add_hindsight(self, constants: Sequence[str]) -> None:
        by_constant = np.stack([self.values[name] for name in constants])
        best = by_constant.mean(axis=2).argmax(axis=0)
        self.values[HINDSIGHT] = by_constant[best, np.arange(len(self.cells))]

    def levels(self, key: str) -> list:
        """Return the distinct values of a cell key, in the order of the rows."""
        index = _CELL_KEYS.index(key)
        return list(dict.fromkeys(cell[index] for cell in self.cells))

    def where(self, **conditions: object) -> NDArray[np.bool_]:
        """Mark the cells whose keys have the given values."""
        wanted = [(_CELL_KEYS.index(key), value) for key, value in conditions.items()]
        return np.array([all(c[i] == v for i, v in wanted) for c in self.cells])

    def best_constant(self) -> str | None:
        """Name VI-LCB with the constant of the highest mean over all cells."""
        means = {
            name: values.mean()
            for name, values in self.values.items()
            if name.startswith(_VI_LCB) and name != HINDSIGHT
        }
        return max(means, key=means.__getitem__) if means else None


def bootstrap_interval(
    values: NDArray[np.float64], level: float = 0.95, n_resamples: int = 2000
) -> tuple[float, float]:
    """Stratified bootstrap interval of the mean over cells of the mean over seeds.

    Seeds are resampled within each cell, as in Agarwal et al. 2021 (arXiv
    2108.13264), so that the cells are fixed and their differences do not widen it.

    Parameters
    ----------
    values : array of shape (cells, seeds)
        One value a data set.
    level : float, default=0.95
        Probability that the interval covers.
    n_resamples : int, default=2000
        Number of bootstrap samples.

    Returns
    -------
    low, high : float
        Percentile interval.

    Examples
    --------
    >>> bootstrap_interval(np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]))
    (2.0, 2.0)
    """
    rng = np.random.default_rng(_INTERVAL_SEED)
    n_cells, n_seeds = values.shape
    total = np.zeros(n_resamples)
    for cell in values:
        drawn = rng.integers(n_seeds, size=(n_resamples, n_seeds))
        total += cell[drawn].mean(axis=1)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(total / n_cells, tails)
    return float(low), float(high)


def tail_mean(values: NDArray[np.float64], share: float = 0.1) -> float:
    """Mean over cells of the mean of each cell's worst data sets (CVaR).

    Parameters
    ----------
    values : array of shape (cells, seeds)
        One value a data set.
    share : float, default=0.1
        The share of the data sets of a cell that counts as its tail, rounded up.

    Returns
    -------
    float
        Conditional value at risk, in the units of `values`.

    Examples
    --------
    >>> tail_mean(np.arange(20.0).reshape(1, 20))
    0.5
    """
    n_worst = int(np.ceil(round(share * values.shape[1], 9)))
    return float(np.sort(values, axis=1)[:, :n_worst].mean())


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Set out a Markdown table, its first column left and the others right."""
    table = [list(header), ["---", *["---:"] * (len(header) - 1)]]
    table += [list(row) for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def aggregate_table(results: Results, mask: NDArray[np.bool_]) -> str:
    """Mean with interval and tail mean of each method, by behaviour and overall.

    Parameters
    ----------
    results : Results
        All results.
    mask : bool array of shape (cells,)
        The cells to include.

    Returns
    -------
    str
        A Markdown table, one method a row.
    """
    behaviours = results.levels("behaviour")
    parts = [mask] + [mask & results.where(behaviour=b) for b in behaviours]
    header = ["method", "overall", "10%-CVaR"]
    for behaviour in behaviours:
        header += [str(behaviour), "10%-CVaR"]
    rows = []
    for method, values in results.values.items():
        row = [method]
        for part in parts:
            low, high = bootstrap_interval(values[part])
            row.append(f"{values[part].mean():.3f} [{low:.3f}, {high:.3f}]")
            row.append(f"{tail_mean(values[part]):.3f}")
        rows.append(row)
    return markdown(header, rows)


def environment_table(
    results: Results, mask: NDArray[np.bool_], methods: Sequence[str]
) -> str:
    """Mean normalised value of some methods on each environment.

    Parameters
    ----------
    results : Results
        All results.
    mask : bool array of shape (cells,)
        The cells to include.
    methods : sequence of str
        The columns.

    Returns
    -------
    str
        A Markdown table, one environment a row.
    """
    rows = []
    for name in results.levels("environment"):
        part = mask & results.where(environment=name)
        means = [results.values[method][part].mean() for method in methods]
        rows.append([str(name), *[f"{mean:.3f}" for mean in means]])
    return markdown(["environment", *methods], rows)


def report(results: Results, preferred: Sequence[str] = ()) -> str:
    """All tables as Markdown: over everything, then for each discount factor.

    Parameters
    ----------
    results : Results
        All results.
    preferred : sequence of str
        Methods for the tables by environment, next to VI-LCB's best; those without
        results are left out.

    Returns
    -------
    str
        Markdown text.
    """
    best = results.best_constant()
    columns = [method for method in preferred if method in results.values]
    columns += [best, HINDSIGHT] if best is not None else []
    n_seeds = next(iter(results.values.values())).shape[1]
    gammas = results.levels("gamma")
    sections = [(f"gamma = {gamma:g}", {"gamma": gamma}) for gamma in gammas]
    if len(gammas) > 1:
        joined = " and ".join(f"{gamma:g}" for gamma in gammas)
        sections.insert(0, (f"gamma = {joined} together", {}))
    lines = []
    for title, conditions in sections:
        mask = results.where(**conditions)
        lines += [
            f"### Offline, {title}",
            "",
            f"Normalised value, 0 = uniform and 1 = optimal policy: mean of "
            f"{mask.sum()} cells of {n_seeds} data sets, with stratified bootstrap "
            "95% interval, and the mean of each cell's worst tenth.",
            "",
            aggregate_table(results, mask),
            "",
        ]
        if columns:
            lines += [environment_table(results, mask, columns), ""]
    return "\n".join(lines)
