"""The scores of each method, arranged by cell and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.report.intervals import (
    Estimate,
    Statistic,
    bootstrap,
    interquartile_means,
    interval,
    mean,
)
from pretraining.benchmark.report.rows import Row

Cell = tuple[Any, ...]

_HINDSIGHT = "best per environment in hindsight"
# What the papers call the constants.
_SYMBOLS = {
    "VI-LCB": "c",
    "UCB-VI": "c",
    "SPIBB": "n",
    "Soft-SPIBB": "epsilon",
    "Lower-Soft-SPIBB": "epsilon",
    "Adv-Soft-SPIBB": "epsilon",
    "DUIPI": "xi",
    "RaMDP": "kappa",
    "DPRL": "N",
    "DiscreteCQL": "alpha",
}
# Below this difference two scores are the same policy's, but for rounding.
_DIGITS = 9


def tuned_name(method: str, constant: float | None) -> str:
    """Name a method with its constant, if it has one."""
    if constant is None:
        return method
    return f"{method}, {symbol(method)} = {constant:g}"


def symbol(method: str) -> str:
    """Return the letter of a method's constant."""
    return _SYMBOLS.get(method.split(",")[0], "constant")


def hindsight_name(method: str) -> str:
    """Name a method whose constant was chosen after seeing the scores."""
    return f"{method}, {symbol(method)} {_HINDSIGHT}"


def family(name: str) -> str:
    """Name a method without the ways it is run in: ``VI-LCB``, say."""
    return name.split(",")[0]


def by_number_of_seeds(rows: Iterable[Row], keys: Sequence[str]) -> list[list[Row]]:
    """Part the rows by how many seeds their cell has, the part of most cells first.

    Parameters
    ----------
    rows : iterable of mappings
        Rows with `seed` and the keys.
    keys : sequence of str
        What makes a cell.
    """
    cells: dict[Cell, list[Row]] = defaultdict(list)
    for row in rows:
        cells[tuple(row[key] for key in keys)].append(row)
    parts: dict[int, list[list[Row]]] = defaultdict(list)
    for found in cells.values():
        parts[len({row["seed"] for row in found})].append(found)
    order = sorted(parts, key=lambda n: (-len(parts[n]), -n))
    return [[row for found in parts[n] for row in found] for n in order]


class Scores:
    """The scores of each method, by cell and seed.

    A method with constants has a name for each of them, and one more with the
    constant of the best mean in each environment, chosen in hindsight.

    Parameters
    ----------
    rows : iterable of mappings
        Rows with `environment`, `seed`, `method`, `constant` and what follows, sorted
        by `sort_rows`: the draws of intervals follow their order.
    keys : sequence of str
        What makes a cell, `environment` among it.
    score : str
        What is scored.
    lower_is_better : bool, default=False
        Whether a low score is a good one.

    Attributes
    ----------
    methods : list of str
        Names of the methods scored on every cell and seed, tabrl's first, then those
        tuned in hindsight.
    partial : list of str
        Names of those scored on some cells and seeds only.
    tuned : list of str
        Names with each constant, of methods scored everywhere.
    chosen : dict of str to dict of str to float
        For a method tuned in hindsight, the constant of each environment.
    cells : list of tuples
        All cells.
    seeds : list of int
        All seeds.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        keys: Sequence[str],
        score: str,
        *,
        lower_is_better: bool = False,
    ) -> None:
        self.keys = list(keys)
        self.sign = -1 if lower_is_better else 1
        self.score = score
        self._table: dict[str, dict[Cell, dict[int, Row]]] = defaultdict(dict)
        constants: dict[str, dict[str, float]] = defaultdict(dict)
        for row in rows:
            method, constant = row["method"], row["constant"]
            name = tuned_name(method, constant)
            if constant is not None:
                constants[method][name] = constant
            cell = tuple(row[key] for key in keys)
            seeds = self._table[name].setdefault(cell, {})
            if row["seed"] in seeds:
                raise ValueError(
                    "Each method needs one score a cell and seed. Found two of "
                    f"{name!r} for {cell}, seed {row['seed']}."
                )
            seeds[row["seed"]] = row
        if not self._table:
            raise ValueError("There must be at least one row of results. Got none.")
        for name in self._table:
            self._check_complete(name)
        self.chosen: dict[str, dict[str, float]] = {}
        for method, its_constants in constants.items():
            self._choose(method, its_constants)
        largest = max(self._table, key=self._n_scores)
        self.cells = list(self._table[largest])
        self.seeds = list(self._table[largest][self.cells[0]])
        n_scores = self._n_scores(largest)
        whole = [name for name in self._table if self._n_scores(name) == n_scores]
        for name in whole:
            seeds = next(iter(self._table[name].values())).keys()
            if self._table[name].keys() != set(self.cells) or seeds != set(self.seeds):
                raise ValueError(
                    "All methods need the same cells and seeds. Those of "
                    f"{name!r} and {largest!r} differ: run the benchmark of one again."
                )
        tuned = set().union(*constants.values())
        self.tuned = [name for name in whole if name in tuned]
        names = [name for name in self._table if name not in tuned]
        names.sort(key=lambda name: (not is_tabrl(name), name not in self.chosen))
        self.methods = [name for name in names if name in whole]
        self.partial = [name for name in names if name not in whole]
        self._values: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._draws: dict[tuple[str, Statistic, str], NDArray[np.float64]] = {}
        self._middles: dict[str, Estimate] = {}

    def _n_scores(self, name: str) -> int:
        return sum(map(len, self._table[name].values()))

    def _check_complete(self, name: str) -> None:
        cells = self._table[name]
        seeds = set().union(*cells.values())
        for cell, found in cells.items():
            if found.keys() != seeds:
                raise ValueError(
                    "Each method needs the same seeds in each of its cells. "
                    f"{name!r} has {len(found)} of {len(seeds)} for {cell}: run the "
                    "benchmark to its end."
                )

    def _choose(self, method: str, names: Mapping[str, float]) -> None:
        """Add the method with the best constant of each environment."""
        tables = [self._table[name] for name in names]
        if any(table.keys() != tables[0].keys() for table in tables):
            raise ValueError(
                f"Each constant of {method!r} needs the same cells: run the benchmark "
                "to its end."
            )
        best: dict[Cell, dict[int, Row]] = {}
        chosen: dict[str, float] = {}
        for environment in self.levels("environment", list(tables[0])):
            cells = list(tables[0])
            part = self.where(cells, environment=environment)
            cells = [cell for cell, taken in zip(cells, part, strict=True) if taken]
            means = {name: self._array(name, cells).mean() for name in names}
            name = max(names, key=lambda name: self.sign * means[name])
            chosen[environment] = names[name]
            best |= {cell: self._table[name][cell] for cell in cells}
        # In the order of the rows, whatever the order of the environments.
        self._table[hindsight_name(method)] = {cell: best[cell] for cell in tables[0]}
        self.chosen[hindsight_name(method)] = chosen

    def _array(
        self,
        name: str,
        cells: Iterable[Cell],
        seeds: Iterable[int] | None = None,
        score: str | None = None,
    ) -> NDArray[np.float64]:
        table, score = self._table[name], score or self.score
        seeds = list(next(iter(table.values())) if seeds is None else seeds)
        scores = [[table[cell][seed][score] for seed in seeds] for cell in cells]
        return np.asarray(scores, dtype=np.float64).round(_DIGITS)

    def levels(self, key: str, cells: Sequence[Cell] | None = None) -> list[Any]:
        """Return the distinct values of a key in some or all cells, in their order."""
        index = self.keys.index(key)
        cells = self.cells if cells is None else cells
        return list(dict.fromkeys(cell[index] for cell in cells))

    def where(self, cells: Sequence[Cell], **conditions: Any) -> NDArray[np.bool_]:
        """Mark the cells whose keys have the given values."""
        wanted = [(self.keys.index(key), value) for key, value in conditions.items()]
        return np.array([all(c[i] == v for i, v in wanted) for c in cells], dtype=bool)

    def values(self, name: str, score: str | None = None) -> NDArray[np.float64]:
        """Return the scores (cells, seeds) of a method scored everywhere.

        Parameters
        ----------
        name : str
            The method.
        score : str, optional
            Another score of its rows than the one by which constants were chosen.
        """
        key = name, score or self.score
        if key not in self._values:
            self._values[key] = self._array(name, self.cells, self.seeds, score)
            self._values[key].flags.writeable = False
        return self._values[key]

    def by_cell(self, name: str) -> dict[Cell, NDArray[np.float64]]:
        """Return the scores (seeds,) of a method in each of its cells."""
        cells = list(self._table[name])
        return dict(zip(cells, self._array(name, cells), strict=True))

    def rows(self, name: str, **conditions: Any) -> list[Row]:
        """Return the rows of a method in the cells whose keys have the given values."""
        cells = list(self._table[name])
        part = self.where(cells, **conditions)
        taken = [cell for cell, take in zip(cells, part, strict=True) if take]
        return [row for cell in taken for row in self._table[name][cell].values()]

    def common(
        self, x: str, y: str
    ) -> tuple[list[Cell], NDArray[np.float64], NDArray[np.float64]]:
        """Return the cells that two methods have in common, and their scores there."""
        a, b = self._table[x], self._table[y]
        cells = [cell for cell in a if cell in b]
        seeds = [seed for seed in a[cells[0]] if seed in b[cells[0]]]
        return cells, self._array(x, cells, seeds), self._array(y, cells, seeds)

    def estimate(
        self,
        name: str,
        statistic: Statistic = mean,
        score: str | None = None,
        **conditions: Any,
    ) -> Estimate:
        """Return the mean over cells of a statistic over seeds, with its interval.

        Parameters
        ----------
        name : str
            A method scored everywhere.
        statistic : callable, default=mean
            Statistic over the last axis.
        score : str, optional
            As for `values`.
        **conditions
            Values of the keys of the cells to take.
        """
        key = name, statistic, score or self.score
        values = self.values(name, score)
        if key not in self._draws:
            self._draws[key] = bootstrap(values, statistic, centred=True)
        mask = self.where(self.cells, **conditions)
        low, high = interval(self._draws[key][mask])
        return [float(statistic(values[mask]).mean()), low, high]

    def subsets(self) -> list[Scores]:
        """Return the scores anew on the cells and seeds of the partial methods.

        Returns
        -------
        list of Scores
            One for each set of cells and seeds. All methods that were scored on the
            whole of a set are compared on it, and constants are those of the best
            mean in it.
        """
        parts: dict[tuple[tuple[Cell, ...], tuple[int, ...]], None] = {}
        for name in self.partial:
            table = self._table[name]
            cells = tuple(cell for cell in self.cells if cell in table)
            if cells:
                seeds = tuple(seed for seed in self.seeds if seed in table[cells[0]])
                parts[cells, seeds] = None
        names = [name for name in self._table if name not in self.chosen]
        return [
            Scores(
                [
                    self._table[name][cell][seed]
                    for name in names
                    for cell in cells
                    for seed in seeds
                    if seed in self._table[name].get(cell, {})
                ],
                self.keys,
                self.score,
                lower_is_better=self.sign < 0,
            )
            for cells, seeds in parts
            if seeds
        ]

    def interquartile_mean(self, name: str) -> Estimate:
        """Return the mean of the middle half of a method's scores, with its interval.

        Parameters
        ----------
        name : str
            A method scored everywhere.
        """
        if not self._middles:
            names = [*self.methods, *self.tuned]
            found = interquartile_means(np.stack([self.values(n) for n in names]))
            self._middles = dict(zip(names, found, strict=True))
        return self._middles[name]


def is_tabrl(name: str) -> bool:
    """Tell whether a method is ours."""
    return name.startswith("tabrl")
