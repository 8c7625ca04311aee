"""Logs that their engine counts, and statistics with labels."""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
from functools import cache
from importlib.metadata import version

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tabrl import OfflinePolicyEstimator, SufficientStatistics
from tabrl._codes import Codebook, encode, factorise
from tabrl._labels import as_coded, as_labels, objects

# narwhals announces a package of its own for Dask; Dask and Ibis use old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dask support is moving:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index"),
]

N_ROWS = 300
LABELS = {
    "integers": int,
    "strings": lambda code: f"s{code}",
    "dates": lambda code: dt.datetime(2026, 1, 1) + dt.timedelta(days=int(code)),
    "structs": lambda code: {"y": f"p{code // 3}", "x": int(code) % 3},
}
# It takes minutes, and needs Java: pytest -m long tests/test_lazy.py
SPARK = pytest.param(
    "pyspark",
    marks=[pytest.mark.long, pytest.mark.filterwarnings("ignore::ResourceWarning")],
)
LAZY = ["polars lazy", "polars scan", "pyarrow dataset", "duckdb", "dask", "ibis"]
LAZY += [SPARK]


DROPS = pytest.mark.filterwarnings("ignore:Dropped .* rows")


def log_of(kind: str, seed: int = 0) -> dict[str, list]:
    """Return a log of whole rewards; no next state is known of an end."""
    rng = np.random.default_rng(seed)
    label = LABELS[kind]
    ended = rng.random(N_ROWS) < 0.1
    # All states occur as 'state', or a warning would say so.
    state = np.arange(N_ROWS) % 6
    successor = rng.integers(0, 6, N_ROWS)
    return {
        "action": [f"a{code}" for code in rng.integers(0, 3, N_ROWS)],
        "state": [label(code) for code in state],
        "next_state": [
            None if end else label(code)
            for code, end in zip(successor, ended, strict=True)
        ],
        "reward": rng.integers(-3, 4, N_ROWS).astype(float).tolist(),
        "terminated": ended.tolist(),
    }


def as_engine(engine: str, log, folder, split: int = 100):
    """Return a log in an engine, in two files where it reads files."""
    table = log if isinstance(log, pa.Table) else pl.DataFrame(log).to_arrow()
    if engine == "polars lazy":
        return pl.from_arrow(table).lazy()
    folder.mkdir(exist_ok=True)
    pq.write_table(table.slice(0, split), folder / "0.parquet")
    pq.write_table(table.slice(split), folder / "1.parquet")
    if engine == "polars scan":
        return pl.scan_parquet(folder / "*.parquet")
    if engine == "pyarrow dataset":
        return ds.dataset(folder)
    if engine == "duckdb":
        duckdb = pytest.importorskip("duckdb")
        return duckdb.read_parquet([str(folder / f"{i}.parquet") for i in (0, 1)])
    if engine == "ibis":
        ibis = pytest.importorskip("ibis")
        files = [folder / f"{i}.parquet" for i in (0, 1)]
        return ibis.duckdb.connect().read_parquet(files)
    if engine == "pyspark":
        return spark_session().read.parquet(str(folder))
    return pytest.importorskip("dask.dataframe").read_parquet(folder)


@cache
def spark_session():
    """Return Spark on two cores of this machine."""
    sql = pytest.importorskip("pyspark.sql")
    # Else the first python3 of the path runs the tasks, which may lack packages.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = sql.SparkSession.builder.master("local[2]")
    builder = builder.config("spark.ui.enabled", "false")
    # By default it would make 200 parts of each group-by.
    return builder.config("spark.sql.shuffle.partitions", "2").getOrCreate()


def count(log) -> SufficientStatistics:
    return SufficientStatistics.from_transitions(log)


def fit(log) -> OfflinePolicyEstimator:
    return OfflinePolicyEstimator(gamma=0.9, random_state=0).fit(log)


def assert_same(one: SufficientStatistics, other: SufficientStatistics) -> None:
    """Compare to the last bit: whole rewards are summed without rounding."""
    for name in ("states", "actions"):
        labels = [getattr(counted, name) for counted in (one, other)]
        assert labels[0].dtype == labels[1].dtype
        assert repr(labels[0].tolist()) == repr(labels[1].tolist())
    for name, value in vars(one.statistics).items():
        np.testing.assert_array_equal(value, getattr(other.statistics, name), name)
    assert (one.reward_low, one.reward_high) == (other.reward_low, other.reward_high)
    assert one.state_names == other.state_names


@pytest.mark.parametrize("engine", LAZY)
@pytest.mark.parametrize("kind", LABELS)
def test_engines_count_what_memory_does(engine, kind, tmp_path):
    if engine == "dask" and kind == "structs":
        pytest.skip("pandas has no structs")
    log = log_of(kind)
    lazy = as_engine(engine, log, tmp_path)
    eager = pl.DataFrame(log)
    assert_same(count(lazy), count(eager))
    policy, expected = fit(lazy), fit(eager)
    np.testing.assert_array_equal(policy._policy, expected._policy)
    np.testing.assert_array_equal(policy._values, expected._values)
    assert policy.columns_ == expected.columns_
    assert policy.state_names_ == expected.state_names_


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table, dict])
def test_tables_in_memory_have_the_same_statistics(frame):
    log = log_of("strings")
    assert_same(count(frame(log)), count(log))


def test_lazy_frames_are_not_collected_whole(monkeypatch):
    lazy = pl.LazyFrame(log_of("integers"))
    heights = []
    collect = pl.LazyFrame.collect

    def spy(self, *args, **kwargs):
        found = collect(self, *args, **kwargs)
        heights.append(found.height)
        return found

    monkeypatch.setattr(pl.LazyFrame, "collect", spy)
    count(lazy)
    assert heights
    assert max(heights) < N_ROWS


@pytest.mark.parametrize("engine", LAZY)
def test_partial_fit_adds_lazy_frames(engine, tmp_path):
    parts = [log_of("strings", seed) for seed in (0, 1)]
    policy = fit(pl.DataFrame(parts[0]))
    policy.partial_fit(as_engine(engine, parts[1], tmp_path))
    together = fit(pl.concat(map(pl.DataFrame, parts)))
    np.testing.assert_array_equal(policy._policy, together._policy)


# Faults: the message names the column and counts rows, and nothing is fitted


FAULTS = {
    "null state": ("state", None, r"'state' must not be missing.*Found 2 missing"),
    "null action": ("action", None, r"'action' must not be missing.*Found 2 missing"),
    "null next": ("next_state", None, r"'next_state' must not.*Found 2 missing"),
    "nan": ("reward", float("nan"), r"'reward' must be finite. Found 2 non-finite"),
    "null reward": ("reward", None, r"'reward' must be finite. Found 2 non-finite"),
    "infinite": ("reward", float("-inf"), r"'reward' must be finite. Found 2 non-fin"),
    "huge": ("reward", -1e150, r"'reward' must be below 1e\+140.*Found 2 larger"),
    "null flag": ("terminated", None, r"'terminated' must be boolean.*Found 2 other"),
}


@pytest.mark.parametrize("engine", LAZY)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_counted(engine, fault, tmp_path):
    column, value, message = FAULTS[fault]
    log = log_of("strings")
    rows = [row for row in range(N_ROWS) if not log["terminated"][row]]
    for row in (rows[3], rows[-3]):  # one in each file
        log[column][row] = value
    policy = OfflinePolicyEstimator()
    with pytest.raises(ValueError, match=message):
        policy.fit(as_engine(engine, log, tmp_path))
    assert not hasattr(policy, "states_")


WHERE = {
    "polars lazy": "first at row 150",
    "polars scan": "first at row 150",
    "pyarrow dataset": r"first at row 50 of .*1\.parquet",
    "duckdb": r"first at row 50 of .*1\.parquet",
    "dask": "first in partition 1",
    "pyspark": r"one of them in .*1\.parquet",
}


def where(engine):
    """Return the place of row 150 as the engine tells it."""
    if engine == "duckdb" and version("duckdb").startswith("1."):
        return ""  # the rows of a file have no numbers there
    return WHERE[engine]


@pytest.mark.parametrize("engine", [name for name in LAZY if name != "ibis"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_fault_is_found_where_the_engine_can(engine, fault, tmp_path):
    column, value, message = FAULTS[fault]
    log = log_of("strings")
    # A next state that is not known of an end is no fault.
    log |= {"terminated": [row < 150 for row in range(N_ROWS)]}
    log["next_state"][:150] = [None] * 150
    log["next_state"][150:] = ["s0"] * 150
    for row in (150, 151):
        log[column][row] = value
    lazy = as_engine(engine, log, tmp_path)
    with pytest.raises(ValueError, match=f"{message}.*{where(engine)}"):
        count(lazy)


@pytest.mark.parametrize("engine", ["polars lazy", "pyarrow dataset", "duckdb"])
def test_a_gap_in_a_part_of_a_state_is_found(engine, tmp_path):
    log = log_of("structs")
    log["state"][150] = {"y": "p0", "x": None}
    lazy = as_engine(engine, log, tmp_path)
    with pytest.raises(ValueError, match=f"'state' must not.*{where(engine)}"):
        count(lazy)


def test_faults_of_datasets_in_memory_are_numbered_throughout():
    log = log_of("strings")
    log["state"][150] = None
    table = pa.table(log)
    dataset = ds.InMemoryDataset([table.slice(0, 100), table.slice(100)])
    with pytest.raises(ValueError, match=r"missing labels, first at row 150\. Drop"):
        count(dataset)


@pytest.mark.parametrize("engine", [name for name in LAZY if name != "ibis"])
def test_progress_shows_all_that_is_read(engine, tmp_path, capsys):
    log = log_of("strings")
    lazy = as_engine(engine, log, tmp_path)
    if engine in ("duckdb", "pyspark"):
        with pytest.warns(
            UserWarning, match="no effect on .* has a bar of its own"
        ) as w:
            OfflinePolicyEstimator().fit(lazy, progress_bar=True)
        assert [one.filename for one in w if "no effect" in str(one.message)] == [
            __file__
        ]
        return
    assert_same(
        count(lazy), SufficientStatistics.from_transitions(lazy, progress_bar=True)
    )
    shown = capsys.readouterr().err
    if engine == "dask":
        assert re.search(r"100%.* (\d+)/\1 \[", shown)
    else:
        assert "300/300" in shown if engine == "pyarrow dataset" else "300row" in shown
    policy = OfflinePolicyEstimator().fit(lazy)
    assert capsys.readouterr().err == ""
    policy.partial_fit(lazy, progress_bar=True)
    assert policy.n_transitions_ == 2 * N_ROWS
    assert "row" in (err := capsys.readouterr().err) or "task" in err


@pytest.mark.parametrize(
    "lazily",
    [lambda log: log.lazy(), lambda log: ds.dataset(log.to_arrow())],
    ids=["polars", "pyarrow"],
)
def test_no_bar_is_opened_for_a_log_that_is_refused(lazily, capsys):
    log = pl.DataFrame(log_of("structs")).with_columns(
        next_state=pl.struct(x=0, z=pl.lit("p"))
    )
    with pytest.raises(ValueError, match="names should match"):
        SufficientStatistics.from_transitions(lazily(log), progress_bar=True)
    assert capsys.readouterr().err == ""


def test_progress_reads_no_column_more(monkeypatch):
    frame = pl.DataFrame(log_of("integers")).with_columns(other=0)
    seen = []
    map_batches = pl.LazyFrame.map_batches

    def spy(self, *args, **kwargs):
        seen.append(self.collect_schema().names())
        return map_batches(self, *args, **kwargs)

    monkeypatch.setattr(pl.LazyFrame, "map_batches", spy)
    SufficientStatistics.from_transitions(frame.lazy(), progress_bar=True)
    assert [sorted(names) for names in seen] == [
        ["action", "next_state", "reward", "state", "terminated"]
    ]


@DROPS
def test_progress_of_episodes_shows_rows(capsys):
    log = episodes_of("integers")
    shown = SufficientStatistics.from_transitions(pl.LazyFrame(log), progress_bar=True)
    assert_same(shown, count(log))
    assert "300row" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_workers_of_dask_count_and_one_that_fails_is_heard(tmp_path):
    distributed = pytest.importorskip("distributed")
    log = log_of("strings")
    lazy = as_engine("dask", log, tmp_path)

    def fail(part):
        raise RuntimeError("no disk left")

    workers = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.Client(**workers):
        assert_same(count(lazy), count(log))
        policy = OfflinePolicyEstimator()
        with pytest.raises(RuntimeError, match="no disk left"):
            policy.fit(lazy.map_partitions(fail, meta=lazy._meta))
    assert not hasattr(policy, "states_")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas")
def test_a_task_of_spark_that_fails_is_heard(tmp_path):
    lazy = as_engine("pyspark", log_of("strings"), tmp_path)

    def fail(parts):
        raise RuntimeError("no disk left")
        yield

    policy = OfflinePolicyEstimator()
    with pytest.raises(Exception, match="no disk left"):
        policy.fit(lazy.mapInPandas(fail, lazy.schema))
    assert not hasattr(policy, "states_")


def test_a_flag_of_two_is_none():
    log = pl.DataFrame(log_of("integers")).with_columns(pl.col("terminated").cast(int))
    assert_same(count(log.lazy()), count(log_of("integers")))
    wrong = (log["terminated"] == 0).sum()  # they become 2
    message = rf"'terminated' must be boolean.*Found {wrong} other values \(2 "
    with pytest.raises(ValueError, match=message):
        count(log.lazy().with_columns(terminated=2 - pl.col("terminated")))


@pytest.mark.parametrize("engine", LAZY)
def test_other_kinds_of_labels_in_next_states_are_refused(engine, tmp_path):
    log = log_of("strings") | {"next_state": [7] * N_ROWS}
    with pytest.raises(TypeError, match="must hold the same kind of labels"):
        fit(as_engine(engine, log, tmp_path))


@pytest.mark.parametrize("engine", LAZY)
def test_rewards_of_text_are_refused(engine, tmp_path):
    log = log_of("integers") | {"reward": ["1"] * N_ROWS}
    with pytest.raises(TypeError, match="'reward' must be numeric"):
        fit(as_engine(engine, log, tmp_path))


def episodes_of(kind: str) -> dict[str, list]:
    """Return a shuffled log of episodes of 1 to 20 steps, of which some were cut."""
    log = log_of(kind)
    del log["next_state"]
    rng = np.random.default_rng(1)
    last = rng.random(N_ROWS) < 0.15
    last[-1] = True
    log["terminated"] = (last & (rng.random(N_ROWS) < 0.5)).tolist()
    # The only row of an action that no other takes is dropped; its label stays.
    log["terminated"][-1], log["action"][-1] = False, "rare"
    start = np.flatnonzero(np.append(True, last[:-1]))
    length = np.diff(start, append=N_ROWS)
    log["episode"] = [f"e{i}" for i in np.repeat(np.arange(len(start)), length)]
    log["step"] = (np.arange(N_ROWS) - np.repeat(start, length)).tolist()
    order = rng.permutation(N_ROWS)
    return {name: [column[row] for row in order] for name, column in log.items()}


WINDOWS = ["polars lazy", "polars scan", "duckdb", "ibis", SPARK]


@DROPS
@pytest.mark.parametrize("engine", WINDOWS)
@pytest.mark.parametrize("kind", LABELS)
def test_engines_find_the_next_rows_of_episodes(engine, kind, tmp_path):
    log = episodes_of(kind)
    lazy, eager = as_engine(engine, log, tmp_path), pl.DataFrame(log)
    assert_same(count(lazy), count(eager))
    policy, expected = fit(lazy), fit(eager)
    np.testing.assert_array_equal(policy._policy, expected._policy)
    assert policy.columns_ == expected.columns_
    assert "rare" in policy.actions_
    if kind == "structs":
        assert policy.state_names_ == expected.state_names_ == ["y", "x"]


@pytest.mark.parametrize("engine", WINDOWS)
def test_rows_without_next_state_are_counted_and_dropped(engine, tmp_path):
    log = episodes_of("integers")
    log["reward"][log["action"].index("rare")] = 1e9  # and so is its reward
    with pytest.warns(UserWarning, match=r"Dropped (\d+) of 300 rows") as told:
        counted = count(as_engine(engine, log, tmp_path))
    assert counted.reward_high < 1e9
    with pytest.warns(UserWarning, match="Dropped") as eager:
        count(log)
    said = [
        {str(one.message).split()[1] for one in seen if "Dropped" in str(one.message)}
        for seen in (told, eager)
    ]
    assert len(said[0]) == 1
    assert said[0] == said[1]


@DROPS
@pytest.mark.filterwarnings("ignore:Column 'done' is read as 'terminated'")
@pytest.mark.parametrize("engine", WINDOWS)
def test_steps_of_any_kind_and_flags_by_any_name(engine, tmp_path):
    log = episodes_of("strings")
    expected = count(log)
    times = [dt.datetime(2026, 1, 1) + dt.timedelta(days=2 * x) for x in log["step"]]
    halves = [x / 2 for x in log["step"]]
    ones = [int(ended) for ended in log["terminated"]]
    cut = [False] * N_ROWS
    for changed in (
        log | {"step": times},
        log | {"step": halves},
        log | {"terminated": ones},
        {("done" if name == "terminated" else name): log[name] for name in log},
        {("done" if name == "terminated" else name): log[name] for name in log}
        | {"truncated": cut},
    ):
        assert_same(count(as_engine(engine, changed, tmp_path)), expected)


def first_row(log, **values) -> int:
    """Return a row in which columns have values."""
    columns = [log[name] for name in values]
    return list(zip(*columns, strict=True)).index(tuple(values.values()))


EPISODE_FAULTS = {
    "repeated": ({"step": 1}, {"step": 0}, r"once in an episode. Found \d repeated"),
    "gap": ({"step": 1}, {"step": 99.0}, r"must be consecutive .* Found \d gaps"),
    "no episode": ({"step": 1}, {"episode": None}, "'episode' must not .* Found 1 mis"),
    "no step": ({"step": 1}, {"step": None}, "'step' must not be missing. Found 1 mis"),
    "early": (
        {"step": 0, "terminated": False},
        {"terminated": True},
        "Only the last row of an episode may be terminated. Found 1 earlier",
    ),
    "null flag": ({"step": 1}, {"terminated": None}, "'terminated' must be boolean"),
}


@pytest.mark.parametrize("engine", WINDOWS)
@pytest.mark.parametrize("fault", EPISODE_FAULTS)
def test_faults_of_episodes_are_counted(engine, fault, tmp_path):
    where, values, message = EPISODE_FAULTS[fault]
    log = episodes_of("integers")
    lengths = pd.Series(log["episode"]).value_counts()
    longest = lengths.index[0]  # what is wrong in it is not at its end
    row = first_row(log, episode=longest, **where)
    for name, value in values.items():
        log[name][row] = value
    if isinstance(values.get("step"), float):
        log["step"] = [float(step) for step in log["step"]]
    table = pa.table(log)
    with pytest.raises(ValueError, match=message):
        fit(as_engine(engine, table, tmp_path))
    with pytest.raises(ValueError, match=message):
        fit(table)


@pytest.mark.parametrize("engine", WINDOWS)
def test_an_early_time_limit_is_refused(engine, tmp_path):
    log = episodes_of("integers")
    log["truncated"] = [step == 0 for step in log["step"]]
    with pytest.raises(ValueError, match=r"may be truncated\. Found"):
        fit(as_engine(engine, log, tmp_path))


@pytest.mark.parametrize("engine", WINDOWS)
def test_episodes_of_single_rows_tell_nothing(engine, tmp_path):
    log = episodes_of("integers")
    log |= {"terminated": [False] * N_ROWS, "episode": list(range(N_ROWS))}
    with pytest.raises(ValueError, match="Found none: all 300 rows end an episode"):
        fit(as_engine(engine, log, tmp_path))


@pytest.mark.parametrize("engine", WINDOWS)
def test_steps_and_flags_of_text_are_refused(engine, tmp_path):
    log = episodes_of("integers")
    with pytest.raises(TypeError, match="'step' must hold numbers or times"):
        fit(as_engine(engine, log | {"step": list(map(str, log["step"]))}, tmp_path))
    flags = list(map(str, log["terminated"]))
    with pytest.raises(TypeError, match="'terminated' must be boolean"):
        fit(as_engine(engine, log | {"terminated": flags}, tmp_path))
    del log["step"]
    with pytest.raises(ValueError, match=r"must have 'episode' and 'step'.*collect\("):
        fit(as_engine(engine, log, tmp_path))


@pytest.mark.parametrize("engine", ["pyarrow dataset", "dask"])
def test_engines_without_windows_need_next_states(engine, tmp_path):
    with pytest.raises(ValueError, match=r"must have the column 'next_state'.*memory"):
        fit(as_engine(engine, episodes_of("integers"), tmp_path))


def test_allowed_actions_are_given_to_fit():
    log = log_of("integers")
    lazy = pl.LazyFrame(log | {"allowed_actions": [1] * N_ROWS})
    with pytest.raises(ValueError, match=r"'allowed_actions'.*collect\(\)"):
        fit(lazy)
    allowed = {state: ["a0", "a1", "a2"] for state in range(100)}
    one, other = (
        OfflinePolicyEstimator().fit(table, allowed_actions=allowed)
        for table in (pl.LazyFrame(log), log)
    )
    np.testing.assert_array_equal(one.allowed_actions_, other.allowed_actions_)


def test_lists_have_to_be_collected():
    log = log_of("integers")
    lists = log | {name: [[x] for x in log[name]] for name in ("state", "next_state")}
    with pytest.raises(TypeError, match=r"'state' of a lazy table.*collect\(\)"):
        fit(pl.LazyFrame(lists))


@pytest.mark.parametrize("engine", LAZY[1:])
def test_a_file_that_went_is_an_error(engine, tmp_path):
    lazy = as_engine(engine, log_of("integers"), tmp_path)
    (tmp_path / "1.parquet").unlink()
    if engine == "polars scan":  # it looks for files only now, and finds one
        lazy = pl.scan_parquet([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    policy = OfflinePolicyEstimator()
    with pytest.raises(Exception, match=r"1\.parquet"):
        policy.fit(lazy)
    assert not hasattr(policy, "states_")


@pytest.mark.parametrize("engine", LAZY[1:])
@pytest.mark.parametrize("column", ["state", "reward"])
def test_files_of_another_schema_are_an_error(engine, column, tmp_path):
    log = log_of("integers")
    lazy = as_engine(engine, log, tmp_path)
    second = pl.DataFrame(log)[100:]
    if column == "reward":
        second = second.drop("reward")
    else:
        second = second.with_columns(
            pl.format("s{}", name).alias(name) for name in ("state", "next_state")
        )
    second.write_parquet(tmp_path / "1.parquet")
    # pyarrow keeps what it knew of a file when it was opened.
    lazy = ds.dataset(tmp_path) if engine == "pyarrow dataset" else lazy
    policy = OfflinePolicyEstimator()
    with pytest.raises(Exception, match=column) as told:
        policy.fit(lazy)
    assert not hasattr(policy, "states_")
    if engine == "pyarrow dataset" and column == "state":
        assert re.search(r"string in \S*1\.parquet, and int64 in", str(told.value))
    if engine == "pyarrow dataset" and column == "reward":
        assert "1.parquet has none" in str(told.value)


def test_numbers_among_text_in_another_file_are_not_read_as_text(tmp_path):
    log = pl.DataFrame(log_of("strings"))
    numbers = pl.col("state", "next_state").str.slice(1).cast(int)
    log[:100].write_parquet(tmp_path / "0.parquet")
    log[100:].with_columns(numbers).write_parquet(tmp_path / "1.parquet")
    with pytest.raises(TypeError, match=r"int64 in \S*1\.parquet, and .*string in"):
        count(ds.dataset(tmp_path))
    # Whoever says of what type they are is heard, where all files are alike.
    log[:100].with_columns(numbers).write_parquet(tmp_path / "0.parquet")
    schema = ds.dataset(tmp_path).schema
    for name in ("state", "next_state"):
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.string()))
    assert count(ds.dataset(tmp_path, schema=schema)).states.tolist() == list("012345")


def test_a_column_may_be_the_name_of_a_folder(tmp_path):
    log = pl.DataFrame(log_of("integers"))
    for action in ("a0", "a1", "a2"):
        (tmp_path / f"action={action}").mkdir()
        part = log.filter(pl.col("action") == action).drop("action")
        part.write_parquet(tmp_path / f"action={action}" / "0.parquet")
    parts = ds.partitioning(pa.schema([("action", pa.string())]), flavor="hive")
    dataset = ds.dataset(tmp_path, partitioning=parts)
    assert_same(count(dataset), count(log))
    assert_same(
        SufficientStatistics.from_transitions(dataset, progress_bar=True), count(log)
    )


@pytest.mark.parametrize("engine", LAZY)
def test_rewards_must_lie_in_the_range_one_by_one(engine, tmp_path):
    log = log_of("integers")
    policy = OfflinePolicyEstimator(reward_range=(-3, 2.5))
    # The means of all pairs lie inside.
    with pytest.raises(ValueError, match=r"Found rewards from -3\.0 to 3\.0"):
        policy.fit(as_engine(engine, log, tmp_path))


# Statistics


def test_statistics_of_parts_add_over_other_labels():
    log = pl.DataFrame(log_of("strings"))
    first, second = (
        log.filter(pl.col("state") < "s4"),
        log.filter(pl.col("action") < "a2"),
    )
    assert_same(count(first) + count(second.lazy()), count(pl.concat([first, second])))


def test_labels_of_other_kinds_do_not_add():
    with pytest.raises(TypeError, match=r"same kind of labels.* numbers in the states"):
        count(log_of("integers")) + count(log_of("strings"))


def test_states_of_other_columns_do_not_add():
    log = pl.DataFrame(log_of("structs"))
    swapped = log.with_columns(
        pl.struct(pl.col(name).struct[part] for part in "xy").alias(name)
        for name in ("state", "next_state")
    )
    with pytest.raises(ValueError, match="same state columns in the same order"):
        count(log) + count(swapped)
    with pytest.raises(ValueError, match="same state columns in the same order"):
        fit(log).partial_fit(count(swapped))
    policy = fit(log).partial_fit(swapped.lazy())  # the engine puts them in order
    assert policy.n_transitions_ == 2 * N_ROWS
    assert len(policy.states_) == 6


def test_a_group_by_of_any_engine_is_enough():
    log = pl.DataFrame(log_of("strings"))
    reward = pl.col("reward")
    counts = log.group_by("state", "action", "next_state", "terminated").agg(
        n=pl.len(),
        reward_sum=reward.sum(),
        reward_sq_sum=(reward**2).sum(),
        reward_min=reward.min(),
        reward_max=reward.max(),
    )
    for table in (counts, counts.lazy(), counts.to_pandas(), counts.to_dict()):
        assert_same(SufficientStatistics.from_counts(table), count(log))


ONE = {
    "state": ["a"],
    "action": [0],
    "next_state": ["a"],
    "terminated": [False],
    "n": [4],
    "reward_sum": [8.0],
    "reward_sq_sum": [20.0],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": [0]}, "'n' must be finite and more than 0. Found 1 .* row 0"),
        ({"n": [float("nan")]}, "'n' must be finite"),
        ({"reward_sum": [float("inf")]}, "'reward_sum' must be finite"),
        ({"reward_sq_sum": [8.0]}, r"at least reward_sum\*\*2 / n. Found 1 rows"),
        ({"state": [None]}, "'state' must not be missing. Found 4 missing"),
        ({"terminated": [3]}, "'terminated' must be boolean .* Found 4 other"),
        ({name: [] for name in ONE}, "at least one row"),
    ],
)
def test_counts_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SufficientStatistics.from_counts(ONE | change)


def test_counts_need_their_columns():
    for name in ("n", "reward_sum", "state", "terminated"):
        rest = {key: value for key, value in ONE.items() if key != name}
        with pytest.raises(ValueError, match=f"Missing: '{name}'"):
            SufficientStatistics.from_counts(rest)


@pytest.mark.parametrize("kind", LABELS)
def test_files_hold_all_of_it(kind, tmp_path):
    counted = count(pl.DataFrame(log_of(kind)))
    counted.save(tmp_path / "part")
    loaded = SufficientStatistics.load(tmp_path / "part")
    assert_same(loaded, counted)
    assert_same(loaded + counted, counted + counted)
    with pytest.raises(ValueError, match="must be a file written by"):
        OfflinePolicyEstimator.load(tmp_path / "part")


# Text


TEXT = {
    "pandas": pd.Series,
    "pandas objects": lambda values: pd.Series(values, dtype=object),
    "pandas categories": lambda values: pd.Series(values, dtype="category"),
    "pandas integers as categories": lambda values: pd.Series(
        [ord(x) if x else None for x in values], dtype="Int64"
    ).astype("category"),
    "polars": pl.Series,
    "polars categories": lambda values: pl.Series(values, dtype=pl.Categorical),
    "polars enum": lambda values: pl.Series(
        values, dtype=pl.Enum(list("zyxcba") + [""])
    ),
    "pyarrow": lambda values: pa.chunked_array([values[:3], values[3:]]),
    "pyarrow dictionary": lambda values: pa.chunked_array(
        [
            pa.array(values[:3]).dictionary_encode(),
            pa.array(values[3:]).dictionary_encode(),
        ]
    ),
    "no rows": lambda values: pl.Series([], dtype=pl.String),
    "nulls": lambda values: pl.Series([None, None], dtype=pl.String),
}


@pytest.mark.parametrize("container", TEXT)
def test_text_has_the_codes_of_its_strings(container):
    pl.Series(["b", "q", "a"], dtype=pl.Categorical)  # takes the first numbers
    values = ["b", "a", None, "b", "", "c", "a"]
    column = TEXT[container](values)
    coded = as_coded(column)
    labels, (codes,) = factorise([coded])
    expected, (expected_codes,) = factorise([as_labels(column)])
    assert labels.dtype == expected.dtype
    assert labels.tolist() == expected.tolist()
    assert codes.tolist() == expected_codes.tolist()
    # Beside labels that have no order with text, that of appearance stays.
    mixed = objects([(1, 2), 7])
    labels, _ = factorise([coded, mixed])
    expected, _ = factorise([as_labels(column), mixed])
    assert labels.tolist() == expected.tolist()


KNOWN = {
    "integers": [3, 1, 2],
    "booleans": [True, False],
    "numbers": [1.5, 2.0, 2.0**60],
    "text": ["1", "a", ""],
    "tuples": [("a", 1), ("b", 2)],
    "several kinds": [1, "1", (1,), dt.datetime(2026, 1, 1), 2**70],
    "dates": np.array(["2026-01-01", "1970-01-03"], "M8[D]"),
    "durations": np.array([1, 2], "m8[s]"),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_codebook_finds_what_encode_does(kind):
    known = as_labels(KNOWN[kind])
    book = Codebook(known)
    for asked in KNOWN.values():
        for labels in (asked, asked[:1], [*asked, *asked] * 30):
            try:
                expected = encode(as_labels(labels), known)
            except ValueError as error:  # rounded integers
                with pytest.raises(ValueError, match=re.escape(str(error))):
                    book.encode(as_labels(labels))
                continue
            assert book.encode(as_labels(labels)).tolist() == expected.tolist()
    assert book.encode(known).tolist() == list(range(len(known)))


def test_predict_knows_the_states_that_partial_fit_added():
    log = log_of("strings")
    policy = fit(log)
    policy.predict(["s1"])
    more = log | {
        name: [label and f"a{label}" for label in log[name]]
        for name in ("state", "next_state")
    }
    policy.partial_fit(more)
    states = policy.states_[[0, -1]].tolist()
    assert states == ["as0", "s5"]
    expected = policy._greedy[[0, len(policy.states_) - 1]]
    assert policy.predict(states).tolist() == policy.actions_[expected].tolist()
