"""How time and memory of tabrl grow: with states, with actions, with rows.

Two kinds of cells of the speed benchmark:

- *sizes*: a fit of S states x A actions on statistics that are counted already, in
  which each state has tried some of the actions, five rows of each;
- *engines*: the same rows in parquet files, counted by an engine through tabrl, and
  grouped by the engine in its own words, in turns.

Seconds are those of the processor, in all threads: other work on the machine does not
count. Spark is left out, as it works in a process of its own.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.packages import missing
from pretraining.benchmark.cells import Cell, Row
from pretraining.benchmark.parts.measure import measure
from pretraining.benchmark.parts.online import TABRL

GAMMA, N_SUCCESSORS = 0.99, 5
# States, actions, and how many of these each state has tried.
SIZES = ((1000, 10, 10), (10_000, 10, 10), (100_000, 10, 10), (1000, 1000, 3))
# The rows of the engines are of so many states and actions, in so many files.
ENGINE_SIZE, N_FILES = (10_000, 10), 10
ENGINES = ("pandas", "polars", "polars lazy", "pyarrow Dataset", "DuckDB", "Dask")
LABELS = ("integers", "text")
_KEYS = ["state", "action", "next_state", "terminated"]
_AGGREGATES = ("count", "sum", "min", "max")


def pairs_table(n_states: int, n_actions: int, n_tried: int) -> dict[str, NDArray]:
    """Draw the rows of a log, one a successor: each state tries its own actions."""
    rng = np.random.default_rng(0)
    shape = (n_states, n_tried, N_SUCCESSORS)
    state = np.arange(n_states)[:, None, None]
    # All actions are tried somewhere where there are enough states.
    action = (n_tried * state + np.arange(n_tried)[:, None]) % n_actions
    columns = {
        "state": state,
        "action": action,
        "reward": rng.normal(size=(n_states, n_tried, 1)) + rng.normal(size=shape),
        "next_state": rng.integers(n_states, size=shape),
        "terminated": np.zeros(shape, bool),
    }
    return {
        name: np.broadcast_to(column, shape).ravel() for name, column in columns.items()
    }


def score_size(cell: Cell, checkpoint: str, n_repeats: int) -> list[Row]:
    """Measure a fit on statistics: network and planning alone."""
    from tabrl import OfflinePolicyEstimator, SufficientStatistics

    size = cell["n_states"], cell["n_actions"], cell["n_tried"]
    counted = SufficientStatistics.from_transitions(pairs_table(*size))
    policy = OfflinePolicyEstimator(gamma=GAMMA, checkpoint=checkpoint)
    rows: list[Row] = []
    for repeat in range(n_repeats):
        seconds, n_bytes = measure(partial(policy.fit, counted), time.process_time)
        row = {"method": TABRL, "constant": None, "seed": repeat}
        rows.append({**row, "seconds": seconds, "bytes": n_bytes})
    return rows


def write_files(folder: Path, n_rows: int, labels: str) -> None:
    """Write a log as parquet files; rewards are whole, so that sums are exact."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    n_states, n_actions = ENGINE_SIZE
    successors = rng.integers(n_states, size=(n_states, n_actions, N_SUCCESSORS))
    n = n_rows // N_FILES
    for part in range(N_FILES):
        state, action = rng.integers(n_states, size=n), rng.integers(n_actions, size=n)
        which = rng.integers(N_SUCCESSORS, size=n)
        columns = {
            "state": state,
            "action": action,
            "reward": rng.integers(-5, 6, size=n).astype(float),
            "next_state": successors[state, action, which],
            "terminated": rng.random(n) < 0.01,
        }
        if labels == "text":
            names = np.array([f"state-{i:05}" for i in range(n_states)])
            columns |= {x: names[columns[x]] for x in ("state", "next_state")}
        pq.write_table(pa.table(columns), folder / f"{part}.parquet")


def open_files(engine: str, files: list[Path]) -> Any:
    """Open the files in an engine; pandas and polars read them now."""
    names = list(map(str, files))
    if engine == "pandas":
        pd = importlib.import_module("pandas")
        return pd.concat(map(pd.read_parquet, names), ignore_index=True)
    if engine == "polars":
        return importlib.import_module("polars").read_parquet(names)
    if engine == "polars lazy":
        return importlib.import_module("polars").scan_parquet(names)
    if engine == "pyarrow Dataset":
        return importlib.import_module("pyarrow.dataset").dataset(names)
    if engine == "DuckDB":
        return importlib.import_module("duckdb").read_parquet(names)
    return importlib.import_module("dask.dataframe").read_parquet(names)


def bare_group_by(engine: str, log: Any) -> Any:
    """Group as an engine's manual does, with the sums that tabrl needs."""
    if engine == "pandas":
        log = log.assign(square=log["reward"] ** 2)
        sums = {"reward": list(_AGGREGATES), "square": ["sum"]}
        return log.groupby(_KEYS, sort=False).agg(sums)
    if engine.startswith("polars"):
        pl = importlib.import_module("polars")
        reward = pl.col("reward")
        sums = [getattr(reward, name)().alias(name) for name in _AGGREGATES]
        grouped = log.group_by(_KEYS).agg(*sums, square=(reward**2).sum())
        return grouped.collect(engine="streaming") if "lazy" in engine else grouped
    if engine == "pyarrow Dataset":
        pc = importlib.import_module("pyarrow.compute")
        table = log.to_table()
        square = pc.multiply(table["reward"], table["reward"])
        table = table.append_column("square", square)
        sums = [("reward", name) for name in _AGGREGATES] + [("square", "sum")]
        return table.group_by(_KEYS).aggregate(sums)
    if engine == "DuckDB":
        sums = ", ".join(f"{name}(reward)" for name in _AGGREGATES)
        keys = ", ".join(_KEYS)
        return log.aggregate(f"{keys}, {sums}, sum(reward * reward)").fetchnumpy()
    log = log.assign(square=log["reward"] ** 2)
    return (
        log.groupby(_KEYS, sort=False)
        .agg({"reward": list(_AGGREGATES), "square": ["sum"]})
        .compute()
    )


def score_engine(cell: Cell, n_repeats: int) -> list[Row]:
    """Measure tabrl's counting beside the bare group-by, in turns.

    Raises
    ------
    AssertionError
        If an engine counts otherwise than pyarrow does in memory.
    """
    from tabrl import SufficientStatistics

    count = SufficientStatistics.from_transitions
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        write_files(Path(scratch), cell["n_rows"], cell["labels"])
        files = sorted(Path(scratch).iterdir())
        expected = None
        for engine in ENGINES:
            package = {"pyarrow Dataset": "pyarrow"}.get(engine, engine.split()[0])
            row = {"engine": engine, "constant": None}
            if missing(package.lower(), engine):
                left_out = {"seconds": None, "bytes": None, "reason": "not installed"}
                rows.append({**row, "method": TABRL, "seed": 0, **left_out})
                continue
            log = open_files(engine, files)
            ways: dict[str, Callable[[], Any]] = {
                TABRL: lambda log=log: count(log),
                "bare group-by": lambda log=log, e=engine: bare_group_by(e, log),
            }
            found = count(log).statistics  # loads what is not loaded yet
            expected = expected or found
            for name, value in vars(expected).items():
                assert np.array_equal(value, getattr(found, name)), (engine, name)
            for repeat in range(n_repeats):
                for method, way in ways.items():
                    seconds, n_bytes = measure(way, time.process_time)
                    figures = {"seconds": seconds, "bytes": n_bytes, "reason": None}
                    rows.append({**row, "method": method, "seed": repeat, **figures})
            del log, ways
    return rows
