"""Odd tables and damaged files: each is refused with a reason, or read exactly.

`pytest -m long tests/test_fuzz.py` runs the long ones, `python tests/test_fuzz.py
TABLES FILES [SEED]` any number of each, and prints what became of them.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tabrl import OfflinePolicyEstimator, OnlineAgent
from tabrl._statistics import Statistics
from tabrl._transitions import read_transitions

ZONES = (dt.timezone.utc, dt.timezone(dt.timedelta(hours=2)))
# Kinds of labels, by name: lists of distinct ones, in Python's own types.
POOLS = {
    "ints": [0, 1, 2, -3, 7],
    "large ints": [2**53, 2**53 + 1, -(2**62), 2**60, 3],
    "beyond int64": [2**63, 2**63 + 1, 2**64 - 1, 5, 6],
    "beyond 64 bits": [10**30, 10**30 + 1, 2, 3, 10**400],
    "floats": [0.5, 0.25, -1.75, 3.0, 1e-300],
    "text": ["a", "b", "a ", "A", ""],
    "lines": ["a\rb", "a\nb", "a\r\nb", '"', ","],
    "numerals": ["1", "01", "1.0", "+1", "1e0"],
    "bools": [False, True],
    "days": [dt.date(2024, 1, i) for i in (1, 2, 3)] + [dt.date(3000, 1, 1)],
    "times": [dt.datetime(2024, 1, 1, i) for i in (0, 5)] + [dt.datetime(2024, 1, 2)],
    "aware": [dt.datetime(2024, 1, 1, i, tzinfo=ZONES[0]) for i in (0, 5)],
    "durations": [dt.timedelta(seconds=i) for i in (0, 5)] + [dt.timedelta(days=1)],
    "pairs": [(0, 1), (1, 0), (0, 0), ("a", 1)],
    "bytes": [b"a", b"b"],
    "decimals": [Decimal("0.5"), Decimal("1.25"), Decimal("7")],
}
# Values that no column may hold without a word.
ODD = [
    *(None, float("nan"), float("inf"), Decimal("sNaN"), Decimal("NaN"), 1j, 10**400),
    *(np.timedelta64(5, "s"), np.datetime64("NaT", "s"), np.complex64(1j), {}, {1}),
    *("x", np.bool_(True), True, b"x", (1, None), [1, 2], np.array(3), Fraction(1, 3)),
    *(pd.NA, pd.NaT, float(2**53), np.uint64(2**64 - 1), np.float32(0.1)),
]


def make_table(pool, actions, n, number):
    """Draw a right table as columns of Python's values."""
    rng = np.random.default_rng(number)
    labels, names = POOLS[pool], POOLS[actions][:3]

    def some(values):
        return [values[i] for i in rng.integers(len(values), size=n)]

    ended = (rng.random(n) < 0.3).tolist()
    following = [
        None if end and gone else label
        for label, end, gone in zip(
            some(labels), ended, rng.random(n) < 0.5, strict=True
        )
    ]
    return {
        "state": some(labels),
        "action": some(names),
        "reward": some([0.0, 1.0, -0.5, 2.5]),
        "next_state": following,
        "terminated": ended,
    }


def tables():
    return st.builds(
        make_table,
        st.sampled_from(sorted(POOLS)),
        st.sampled_from(["ints", "text", "bools", "pairs"]),
        st.integers(1, 12),
        st.integers(0, 2**32 - 1),
    )


def as_arrays(table):
    """Return columns as numpy makes them, but objects where it would change labels."""
    found = {}
    for name, column in table.items():
        kinds = set(map(type, column))
        plain = kinds in ({bool}, {float}) or (
            kinds == {int} and max(map(abs, column)) < 2**63
        )
        array = np.fromiter(column, object, len(column))
        found[name] = np.array(column) if plain else array
    return found


def as_datetime64(table):
    """Return times without a zone as arrays of datetime64."""

    def is_naive(column):
        times = [label for label in column if label is not None]
        return times and all(
            type(time) is dt.datetime and time.tzinfo is None for time in times
        )

    return {
        name: np.array(column, "M8[us]") if is_naive(column) else column
        for name, column in table.items()
    }


CONTAINERS = {
    "lists": lambda table: table,
    "arrays": as_arrays,
    "datetime64": as_datetime64,
    "rows": lambda table: list(zip(*table.values(), strict=True)),
    "pandas": pd.DataFrame,
    "pandas objects": lambda table: pd.DataFrame(table, dtype=object),
    "polars": pl.DataFrame,
    "pyarrow": lambda table: pa.table(dict(table)),
}


UNMADE = (Exception, getattr(pl.exceptions, "PanicException", Exception))


def truth(table):
    """Count a table on its own: by label, with dicts."""
    n, total, ends = Counter(), Counter(), Counter()
    edges = Counter()
    for s, a, r, after, end in zip(*table.values(), strict=True):
        n[s, a] += 1
        total[s, a] += r
        ends[s, a] += end
        if not end:
            edges[s, a, after] += 1
    return n, total, ends, edges


def key(label):
    """Return a label as `truth` has it: containers may change its type."""
    if isinstance(label, np.datetime64 | np.timedelta64):
        unit = np.datetime_data(label.dtype)[0]
        return (
            label.item()
            if unit == "D"
            else label.astype(f"{label.dtype.kind}8[us]").item()
        )
    if isinstance(label, np.generic):
        return label.item()
    return tuple(map(key, label)) if isinstance(label, tuple) else label


def counted(transitions):
    """Return what was read, by label."""
    t = transitions
    states, actions = [[key(x) for x in labels] for labels in (t.states, t.actions)]
    table = {
        "state": [states[i] for i in t.state],
        "action": [actions[i] for i in t.action],
        "reward": t.reward.tolist(),
        "next_state": [None if i < 0 else states[i] for i in t.next_state],
        "terminated": t.terminated.tolist(),
    }
    return table


def by_value_iteration(statistics, gamma=0.9):
    """Return the optimal values of observed counts, by a method of its own."""
    s, a = statistics.n_states, statistics.n_actions
    P, R = np.zeros((s, a, s)), np.full((s, a), -np.inf)
    at = statistics.pair_state, statistics.pair_action
    R[at] = statistics.reward_sum / statistics.n
    pair = statistics.edge_pair
    share = statistics.edge_count / statistics.n[pair]
    P[at[0][pair], at[1][pair], statistics.edge_next] = share
    v = np.zeros(s)
    for _ in range(400):
        q = R + gamma * P @ v
        v = np.where(np.isfinite(q).any(1), q.max(1), 0.0)
    return v


def refused(error):
    """See that an error is one of ours: it says what must hold."""
    words = ("must", "beyond", "Missing", "only", "needs", "is of format", "match")
    assert any(word in str(error) for word in words), repr(error)
    return "refused"


def check_table(table, container):
    """Read a right table; return what became of it."""
    try:
        frame = CONTAINERS[container](table)
    except UNMADE:  # the other library does not hold such a column
        return "not a table"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            transitions = read_transitions(frame)
        except (TypeError, ValueError) as error:
            return refused(error)
    found = counted(transitions)
    ours, theirs = truth(found), truth(table)
    assert ours[0] == theirs[0], (container, table)
    assert ours[2:] == theirs[2:], (container, table)
    for pair, total in theirs[1].items():
        assert ours[1][pair] == pytest.approx(total)
    labels = {x for x in table["state"] + table["next_state"] if x is not None}
    assert set(map(key, transitions.states)) == labels
    return "read"


def check_odd(table, column, row, value, container):
    """Read a table with one odd value; it is refused, or it is one label more."""
    row %= len(table["state"])
    odd = {name: list(values) for name, values in table.items()}
    odd[column][row] = value
    try:
        frame = CONTAINERS[container](odd)
    except UNMADE:  # the other library refuses it
        return "not a table"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            transitions = read_transitions(frame)
        except (TypeError, ValueError) as error:
            return refused(error)
    assert np.isfinite(transitions.reward).all()
    assert len(transitions.states) == len(set(map(key, transitions.states)))
    # polars drops the imaginary part before we see it; these keep what they are given.
    if column == "reward" and container in ("lists", "rows", "pandas objects"):
        numbers = int, float, Decimal, Fraction, np.uint64, np.float32, np.ndarray
        assert isinstance(value, numbers), (value, container)
        assert not isinstance(value, bool) or container != "lists"
    if column in ("state", "action"):
        assert value is not None
    return "read"


def check_plan(table):
    """Fit a right table; the plan in its counts is that of value iteration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        t = read_transitions(table)
        policy = OfflinePolicyEstimator(0.9, random_state=0).fit(table)
    codes = t.state, t.action, t.reward, t.next_state, t.terminated
    statistics = Statistics.from_codes(*codes, len(t.states), len(t.actions))
    for name in ("n", "reward_sum", "edge_count", "edge_next"):
        np.testing.assert_array_equal(
            getattr(policy.statistics_, name), getattr(statistics, name)
        )
    np.testing.assert_allclose(policy.predict_proba(policy.states_).sum(1), 1)
    many = statistics
    for _ in range(50):  # 2^50 times as many: nothing is left to doubt
        many = many + many
    values = policy._plan(t.states, t.actions, many).action_values(policy.states_)
    tried = np.zeros(values.shape, bool)
    tried[many.pair_state, many.pair_action] = True
    everywhere = tried.any(1).all() and tried[many.pair_state].all()
    if everywhere:
        np.testing.assert_allclose(values.max(1), by_value_iteration(many), atol=1e-3)
    return "solved" if everywhere else "finite"


# Files


def make_files(folder):
    """Save one policy and one agent; return their contents and classes."""
    policy = OfflinePolicyEstimator(random_state=np.random.RandomState(0)).fit(
        {
            "state": ["a", "b", "a", "b"],
            "action": [0, 1, 1, 0],
            "reward": [0.0, 1.0, 0.5, 0.0],
            "next_state": ["b", "a", "b", None],
            "terminated": [False, False, False, True],
        }
    )
    policy.save(folder / "policy")
    agent = OnlineAgent(None, 2, random_state=0)
    for i in range(9):
        agent.act(i % 3, [1, i % 2])
        agent.observe(i % 3, 0, float(i), (i + 1) % 3, i == 8)
    agent.save(folder / "agent")
    return [
        ((folder / "policy").read_bytes(), OfflinePolicyEstimator),
        ((folder / "agent").read_bytes(), OnlineAgent),
    ]


def damaged(data, rng):
    """Return a file after one of the accidents that happen to files."""
    data = bytearray(data)
    how = rng.integers(6)
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 64))
    if how < 2:
        data[at] ^= 1 << int(rng.integers(8))
    elif how == 2:
        del data[at:]
    elif how == 3:
        data[at : at + size] = rng.bytes(len(data[at : at + size]))
    elif how == 4:
        del data[at : at + size]
    else:
        data[at:at] = data[:size]
    return bytes(data)


def check_file(path, data, cls, rng):
    """Load a damaged file: it is refused, or was not changed where it matters."""
    path.write_bytes(damaged(data, rng))
    try:
        loaded = cls.load(path)
    except ValueError as error:
        return refused(error)
    loaded.save(path)
    assert path.read_bytes() == data
    return "the same"


# The short ones: 2,000 tables in all

short = settings(max_examples=1000, suppress_health_check=list(HealthCheck))


@seed(0)
@settings(short, max_examples=1000)
@given(tables(), st.sampled_from(sorted(CONTAINERS)))
def test_right_tables(table, container):
    check_table(table, container)


@seed(0)
@settings(short, max_examples=950)
@given(
    tables(),
    st.sampled_from(["state", "action", "reward", "next_state", "terminated"]),
    st.integers(0, 99),
    st.sampled_from(range(len(ODD))),
    st.sampled_from(sorted(CONTAINERS)),
)
def test_tables_with_an_odd_value(table, column, row, value, container):
    check_odd(table, column, row, ODD[value], container)


@seed(0)
@settings(short, max_examples=50)
@given(tables())
def test_plans(table):
    check_plan(table)


def test_damaged_files(tmp_path):
    rng = np.random.default_rng(0)
    for data, cls in make_files(tmp_path):
        found = Counter(
            check_file(tmp_path / "file", data, cls, rng) for _ in range(200)
        )
        assert found["refused"] > 190


def main(n_tables, n_files, first=0):
    """Try that many tables and files; print what became of them."""
    found: Counter = Counter()
    long = settings(
        max_examples=n_tables // 2,
        suppress_health_check=list(HealthCheck),
        database=None,
        deadline=None,
    )
    names = sorted(CONTAINERS)
    columns = ["state", "action", "reward", "next_state", "terminated"]

    @seed(first)
    @settings(long, derandomize=False)
    @given(tables(), st.sampled_from(names))
    def right(table, container):
        found["right table " + check_table(table, container)] += 1

    @seed(first)
    @settings(long, derandomize=False)
    @given(
        tables(),
        st.sampled_from(columns),
        st.integers(0, 99),
        st.sampled_from(range(len(ODD))),
        st.sampled_from(names),
    )
    def odd(table, column, row, value, container):
        outcome = check_odd(table, column, row, ODD[value], container)
        found[f"odd table {outcome}"] += 1

    right()
    odd()
    rng = np.random.default_rng(first)
    with tempfile.TemporaryDirectory() as folder:
        for data, cls in make_files(Path(folder)):
            for _ in range(n_files // 2):
                outcome = check_file(Path(folder) / "file", data, cls, rng)
                found[f"{cls.__name__} file {outcome}"] += 1
    for name, count in sorted(found.items()):
        print(f"{name}: {count}")


@pytest.mark.long
def test_many_tables_and_files():
    """In a process of its own: a crash of the interpreter would be an exit code."""
    command = [sys.executable, __file__, "100000", "100000", "1"]
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
