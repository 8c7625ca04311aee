"""Reading transition tables: every container, every kind of label, every error."""

import datetime
import tracemalloc
from decimal import Decimal

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from tabrl._statistics import Statistics
from tabrl._transitions import as_labels, encode, read_transitions

TABLE = {
    "state": [3, 1, 3, 2],
    "action": ["right", "left", "left", "right"],
    "reward": [0.5, -1.0, 0.0, 2.0],
    "next_state": [1, 3, 2, 7],
    "terminated": [False, False, False, True],
}


def from_polars(columns):
    return pl.DataFrame(columns, strict=False)


@pytest.fixture(params=[pd.DataFrame, from_polars, pa.table])
def frame(request):
    """Make a data frame of each library from a dict of columns."""
    return request.param


def changed(**columns):
    return {**TABLE, **columns}


def without(*names):
    return {name: column for name, column in TABLE.items() if name not in names}


def triples(transitions):
    """Return the transitions in the user's labels, row by row."""
    successors = [
        None if code < 0 else transitions.states[code]
        for code in transitions.next_state
    ]
    return list(
        zip(
            transitions.states[transitions.state].tolist(),
            transitions.actions[transitions.action].tolist(),
            successors,
            strict=True,
        )
    )


# Containers


def check_table(transitions):
    assert transitions.states.tolist() == [1, 2, 3, 7]
    assert transitions.actions.tolist() == ["left", "right"]
    assert transitions.state.tolist() == [2, 0, 2, 1]
    assert transitions.action.tolist() == [1, 0, 0, 1]
    assert transitions.reward.tolist() == [0.5, -1.0, 0.0, 2.0]
    assert transitions.next_state.tolist() == [0, 2, 1, 3]
    assert transitions.terminated.tolist() == [False, False, False, True]
    for codes in (transitions.state, transitions.action, transitions.next_state):
        assert codes.dtype == np.int64
    assert transitions.reward.dtype == np.float64
    assert transitions.terminated.dtype == bool
    assert transitions.states.dtype == np.int64
    assert transitions.actions.dtype == object


def test_frames_of_any_library(frame):
    check_table(read_transitions(frame(TABLE)))


def test_lazy_frame():
    check_table(read_transitions(pl.LazyFrame(TABLE)))


def test_dict_of_arrays_and_of_lists():
    check_table(read_transitions(TABLE))
    check_table(read_transitions({name: np.array(col) for name, col in TABLE.items()}))


def test_structured_array():
    check_table(read_transitions(pd.DataFrame(TABLE).to_records(index=False)))


def test_list_of_rows():
    check_table(read_transitions(list(zip(*TABLE.values(), strict=True))))


def test_states_and_actions_apart(frame):
    table = frame(TABLE)
    rest = {name: table[name] for name in ("reward", "next_state", "terminated")}
    check_table(read_transitions(table["state"], table["action"], **rest))


def test_array_of_five_columns():
    array = np.array([[0, 1, 0.5, 2, 0], [2, 0, 1.0, np.nan, 1]])
    transitions = read_transitions(array)
    assert transitions.states.tolist() == [0.0, 2.0]
    assert transitions.actions.tolist() == [0.0, 1.0]
    assert transitions.reward.tolist() == [0.5, 1.0]
    assert transitions.next_state.tolist() == [1, -1]
    assert transitions.terminated.tolist() == [False, True]
    assert encode([2], transitions.states).tolist() == [1]


def test_one_boolean_for_all_rows():
    rest = {name: TABLE[name] for name in ("reward", "next_state")}
    transitions = read_transitions(
        TABLE["state"], TABLE["action"], terminated=False, **rest
    )
    assert transitions.terminated.tolist() == [False] * 4


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("state", "obs"),
        ("state", "observation"),
        ("state", "observations"),
        ("state", "s"),
        ("action", "a"),
        ("action", "actions"),
        ("reward", "r"),
        ("reward", "rewards"),
        ("next_state", "next_obs"),
        ("next_state", "next_observation"),
        ("next_state", "next_observations"),
        ("terminated", "terminal"),
        ("terminated", "terminals"),
    ],
)
def test_aliases(frame, name, alias):
    check_table(read_transitions(frame({**without(name), alias: TABLE[name]})))


def test_other_columns_are_ignored(frame):
    check_table(read_transitions(frame(changed(note=["x", None, "y", "z"]))))


# Labels


def test_null_next_state_where_terminated_keeps_integers(frame):
    transitions = read_transitions(frame(changed(next_state=[1, 3, 2, None])))
    assert transitions.states.dtype == np.int64
    assert transitions.states.tolist() == [1, 2, 3]
    assert transitions.next_state.tolist() == [0, 2, 1, -1]


def test_large_integers_with_nulls_stay_exact():
    big = 2**60
    columns = {"state": [big, big + 1], "next_state": [big + 1, None]}
    rest = {"action": [0, 0], "reward": [0.0, 1.0], "terminated": [False, True]}
    for table in (
        {**columns, **rest},
        pl.DataFrame({**columns, **rest}),
        pa.table({**columns, **rest}),
        pd.DataFrame(
            {**columns, **rest, "next_state": pd.array([big + 1, None], dtype="Int64")}
        ),
    ):
        transitions = read_transitions(table)
        assert transitions.states.tolist() == [big, big + 1]
        assert transitions.next_state.tolist() == [1, -1]
    with pytest.raises(ValueError, match=r"beyond 2\*\*53 must not be floats"):
        read_transitions({**columns, "next_state": [float(big), np.nan], **rest})


def test_null_text_where_terminated(frame):
    table = changed(state=list("cacb"), next_state=["a", "c", "b", None])
    transitions = read_transitions(frame(table))
    assert transitions.states.tolist() == ["a", "b", "c"]
    assert transitions.next_state.tolist() == [0, 2, 1, -1]


@pytest.mark.parametrize(
    "labels",
    [
        [(0, 1), (0, 2), (1, 0), (5, 5)],
        [False, True, True, False],
        [0.5, 1.0, -2.0, 7.25],
        [-(2**62), 0, 2**62, 5],
        [2**63, 0, 2**64 - 1, 5],
        [10**30, 0, 1, 2],
        ["a", 1, (2, 3), frozenset({4})],
        [datetime.date(2024, 1, day) for day in (1, 2, 3, 4)],
        np.array(["2024-01-02", "2024-01-01", "2024-01-04", "2024-01-05"], "M8[ns]"),
        np.array([3, 250, 7, 0], dtype=np.uint8),
        np.array([-128, 127, 0, 1], dtype=np.int8),
        pd.Categorical(["b", "a", "b", "c"]),
        [b"x", b"y", b"z", b"x"],
    ],
    ids=repr,
)
def test_labels_of_any_hashable_kind(labels):
    successor = labels[::-1]
    transitions = read_transitions(changed(state=labels, next_state=successor))
    states = transitions.states
    assert len(set(states.tolist())) == len(states)
    assert np.array_equal(transitions.state, encode(labels, states))
    assert np.array_equal(transitions.next_state, encode(successor, states))
    assert (transitions.state >= 0).all()
    assert list(states[transitions.state]) == list(as_labels(labels))


def test_labels_are_sorted_when_they_can_be_compared():
    table = changed(state=["b", "a", 1, "b"], next_state=[1, "a", "b", "c"])
    assert read_transitions(table).states.tolist() == ["b", "a", 1, "c"]
    table = changed(state=list("badb"), next_state=list("cccc"))
    assert read_transitions(table).states.tolist() == ["a", "b", "c", "d"]


def test_pairs_in_a_column_are_tuples(frame):
    pairs = [(0, 1), (1, 1), (0, 1), (2, 0)]
    states = read_transitions(frame(changed(state=pairs, next_state=pairs))).states
    assert states.tolist() == [(0, 1), (1, 1), (2, 0)]


def test_states_of_several_columns(frame):
    X = {"x": [0, 0, 1], "y": ["u", "v", "u"]}
    X_next = {"x": [0, 1, 5], "y": ["v", "u", "u"]}
    transitions = read_transitions(
        frame(X),
        [0, 1, 0],
        reward=[0, 0, 1],
        next_state=frame(X_next),
        terminated=[0, 0, 1],
    )
    assert transitions.states.tolist() == [(0, "u"), (0, "v"), (1, "u"), (5, "u")]
    assert transitions.next_state.tolist() == [1, 2, 3]
    assert encode(frame(X), transitions.states).tolist() == [0, 1, 2]


def test_two_dimensional_arrays_inside_a_dict():
    states = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
    transitions = read_transitions(changed(state=states, next_state=states[::-1]))
    assert transitions.states.tolist() == [(0.0, 1.0), (1.0, 1.0), (2.0, 0.0)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1, 2]),
        ([[1], [2]], [1, 2]),
        (np.array([[1], [2]]), [1, 2]),
        ([[1, 2], [3, 4]], [(1, 2), (3, 4)]),
        (np.array([[1, 2], [3, 4]]), [(1, 2), (3, 4)]),
        ([(1, 2), (3, 4)], [(1, 2), (3, 4)]),
        ([(1,), (2,)], [(1,), (2,)]),
        ([1, "a"], [1, "a"]),
        ([2**60 + 1, 0.5], [2**60 + 1, 0.5]),
        (sparse.csr_matrix([[1, 0], [0, 2]]), [(1, 0), (0, 2)]),
        (pd.DataFrame({"state": [1, 2]}), [1, 2]),
        (pd.Index(["a", "b"]), ["a", "b"]),
        (range(3), [0, 1, 2]),
        ([], []),
        (np.ma.array([1, 2], mask=[False, True]), [1, None]),
        (pl.Series([{"x": 1, "y": 2}]), [(1, 2)]),
    ],
    ids=repr,
)
def test_as_labels(values, expected):
    labels = as_labels(values)
    assert labels.ndim == 1
    assert labels.tolist() == expected


@pytest.mark.parametrize("values", ["left", 3, {"a": [1]}, {1, 2}])
def test_labels_must_be_in_rows(values):
    with pytest.raises(TypeError, match="Put a single label in a list"):
        as_labels(values)


@pytest.mark.parametrize("shape", [(), (2, 0), (2, 2, 2)])
def test_labels_must_have_one_or_two_dimensions(shape):
    with pytest.raises(ValueError, match="one label per row"):
        as_labels(np.zeros(shape))


@pytest.mark.parametrize(
    ("labels", "known", "expected"),
    [
        ([1, 5, 3], np.array([1, 3]), [0, -1, 1]),
        ([1, 3], np.array([3, 2, 1]), [2, 0]),
        ([5, 4, -(2**63), 2**63 - 1], np.array([4, 5]), [1, 0, -1, -1]),
        ([4, 2**62, 3], np.array([2**62, 4, -(2**62)]), [1, 0, -1]),
        (np.array([-128, 127], np.int8), np.array([127, 1000]), [-1, 0]),
        ([1.0, 1.5], np.array([1, 3]), [0, -1]),
        ([1, 2], np.array([1.0, 3.0]), [0, -1]),
        ([True], np.array([0, 1]), [1]),
        ([2**53 + 1], np.array([float(2**53)]), [-1]),
        ([np.nan, None, 1], np.array([1, 3]), [-1, -1, 0]),
        (np.array(["b", "z"]), as_labels(["a", "b"]), [1, -1]),
        (["1"], np.array([1]), [-1]),
        ([(0, 1), (9, 9)], as_labels([(0, 1)]), [0, -1]),
        ([pd.Timestamp("2024-01-01")], np.array(["2024-01-01"], "M8[ns]"), [0]),
        (["soon"], np.array(["2024-01-01"], "M8[ns]"), [-1]),
        ([], np.array([1]), []),
        ([1, 2], np.array([], dtype=np.int64), [-1, -1]),
    ],
)
def test_encode(labels, known, expected):
    codes = encode(labels, known)
    assert codes.tolist() == expected
    assert codes.dtype == np.int64


def test_encode_names_what_cannot_be_hashed():
    with pytest.raises(TypeError, match=r"hashable. Found a set at row 1 \(\{3\}\)"):
        encode([1, {3}], np.array([1]))


scalars = st.one_of(
    st.integers(-3, 3), st.text("ab", max_size=2), st.booleans(), st.just(10**25)
)


@pytest.mark.filterwarnings("ignore:.* True or False among numbers:UserWarning")
@given(st.lists(scalars | st.tuples(scalars, scalars), min_size=1))
def test_reading_and_encoding_agree_with_a_dict(labels):
    transitions = read_transitions(
        labels,
        labels,
        reward=np.zeros(len(labels)),
        next_state=labels[::-1],
        terminated=False,
    )
    assert len(transitions.states) == len(set(labels))
    for codes, truth in (
        (transitions.state, labels),
        (transitions.next_state, labels[::-1]),
        (encode(labels, transitions.states), labels),
    ):
        assert transitions.states[codes].tolist() == truth


@given(st.lists(st.tuples(*[st.integers(-5, 5)] * 3), min_size=1), st.randoms())
def test_order_of_rows_is_kept_and_labels_do_not_depend_on_it(rows, random):
    def read(rows):
        state, action, successor = map(list, zip(*rows, strict=True))
        return read_transitions(
            state, action, reward=state, next_state=successor, terminated=False
        )

    first = read(rows)
    assert triples(first) == rows
    shuffled = random.sample(rows, len(rows))
    second = read(shuffled)
    assert triples(second) == shuffled
    assert np.array_equal(first.states, second.states)
    assert np.array_equal(first.actions, second.actions)


# Episodes

EPISODES = {
    "episode": ["x", "y", "x", "y", "x"],
    "step": [1, 0, 0, 1, 2],
    "state": [10, 20, 11, 21, 12],
    "action": [0, 0, 1, 0, 1],
    "reward": [1.0, 2.0, 3.0, 4.0, 5.0],
    "terminated": [False, False, False, True, False],
    "truncated": [False, False, False, False, True],
}


def test_next_state_from_episode_and_step(frame):
    with pytest.warns(UserWarning, match="Dropped 1 of 5 rows, first row 4"):
        transitions = read_transitions(frame(EPISODES))
    assert triples(transitions) == [
        (10, 0, 12),
        (20, 0, 21),
        (11, 1, 10),
        (21, 0, None),
    ]
    assert transitions.reward.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert transitions.terminated.tolist() == [False, False, False, True]


def test_rows_of_an_episode_in_given_order_without_step(frame):
    table = {name: col for name, col in EPISODES.items() if name != "step"}
    with pytest.warns(UserWarning, match="Dropped 1 of 5"):
        transitions = read_transitions(frame(table))
    assert triples(transitions) == [
        (10, 0, 11),
        (20, 0, 21),
        (11, 1, 12),
        (21, 0, None),
    ]


def test_next_state_from_episode_by_keyword():
    table = dict(EPISODES)
    del table["truncated"]
    state, action = table.pop("state"), table.pop("action")
    with pytest.warns(UserWarning, match="Dropped 1 of 5"):
        transitions = read_transitions(state, action, **table)
    assert triples(transitions)[0] == (10, 0, 12)


def test_given_next_state_goes_before_episode():
    table = {**EPISODES, "next_state": [1, 2, 3, 4, 5]}
    assert triples(read_transitions(table))[4] == (12, 1, 5)


def test_dropped_rows_still_tell_states_and_actions():
    table = {
        "episode": [0, 0, 1],
        "state": [0, 1, 2],
        "action": [0, 0, 5],
        "reward": [0, 1, 2],
        "terminated": [False, True, False],
    }
    with pytest.warns(UserWarning, match="Dropped 1 of 3"):
        transitions = read_transitions(table)
    assert transitions.states.tolist() == [0, 1, 2]
    assert transitions.actions.tolist() == [0, 5]


def test_steps_that_are_times_need_not_be_consecutive(frame):
    step = [datetime.datetime(2024, 1, day) for day in (5, 1, 2, 4, 9)]
    with pytest.warns(UserWarning, match="Dropped 1 of 5"):
        transitions = read_transitions(frame({**EPISODES, "step": step}))
    assert triples(transitions)[0] == (10, 0, 12)


def test_no_row_with_a_next_state():
    table = {**EPISODES, "episode": list("abcde"), "terminated": [False] * 5}
    with pytest.raises(ValueError, match="all 5 rows end an episode without"):
        read_transitions(table)


@pytest.mark.parametrize("ended", ["terminated", "truncated"])
def test_end_in_the_middle_of_an_episode(frame, ended):
    table = {**EPISODES, "terminated": [False] * 5, "truncated": [False] * 5}
    table[ended] = [True, False, True, False, False]
    with pytest.raises(
        ValueError, match=f"may be {ended}. Found 2 earlier ones, first at row 0"
    ):
        read_transitions(frame(table))


def test_repeated_step(frame):
    table = {**EPISODES, "step": [1, 0, 0, 1, 1]}
    with pytest.raises(ValueError, match="Found 1 repeated, first at row 4"):
        read_transitions(frame(table))


@pytest.mark.parametrize("step", [[1, 0, 0, 1, 3], [1.0, 0.0, 0.0, 1.0, 3.0]])
def test_missing_step(frame, step):
    with pytest.raises(ValueError, match="Found 1 gaps, first before row 4"):
        read_transitions(frame({**EPISODES, "step": step}))


def test_steps_must_be_numbers_or_times(frame):
    with pytest.raises(TypeError, match="'step' must hold numbers or times"):
        read_transitions(frame({**EPISODES, "step": list("badce")}))


@pytest.mark.parametrize("name", ["episode", "step"])
def test_missing_episode_or_step(frame, name):
    column = [*EPISODES[name][:3], None, EPISODES[name][4]]
    with pytest.raises(ValueError, match=f"'{name}' must not be missing. .* at row 3"):
        read_transitions(frame({**EPISODES, name: column}))


# Terminated, truncated, done


def test_truncated_is_an_ordinary_transition(frame):
    plain = read_transitions(frame(TABLE))
    truncated = read_transitions(frame(changed(timeouts=[False, True, False, False])))
    assert triples(truncated) == triples(plain)
    assert truncated.terminated.tolist() == plain.terminated.tolist()


def test_truncated_needs_its_next_state(frame):
    table = changed(next_state=[1, None, 2, 7], truncated=[False, True, False, False])
    with pytest.raises(
        ValueError,
        match=r"where 'terminated' is false. Found 1 missing labels, first "
        "at row 1. A truncated transition has a next state too",
    ):
        read_transitions(frame(table))


def test_done_is_read_as_terminated_with_a_warning(frame):
    table = {**without("terminated"), "done": TABLE["terminated"]}
    with pytest.warns(UserWarning, match="time limit cut an episode"):
        check_table(read_transitions(frame(table)))


def test_done_beside_truncated(frame):
    table = {
        **without("terminated"),
        "done": [False, True, False, True],
        "truncated": [False, True, False, False],
    }
    with pytest.warns(UserWarning, match="where 'truncated' is false"):
        check_table(read_transitions(frame(table)))


def test_done_beside_terminated_is_ignored(frame):
    check_table(read_transitions(frame(changed(done=[True] * 4))))


@pytest.mark.parametrize(
    "terminated", [[0, 0, 0, 1], [0.0, 0.0, 0.0, 1.0], [False, False, False, True]]
)
def test_boolean_like_terminated(frame, terminated):
    check_table(read_transitions(frame(changed(terminated=terminated))))


@pytest.mark.parametrize(
    ("terminated", "error", "found"),
    [
        ([0, 2, 3, 1], ValueError, r"Found 2 other values, first at row 1 \(2\)"),
        ([0.0, 0.5, 0.0, 1.0], ValueError, r"first at row 1 \(0.5\)"),
        ([True, False, None, True], ValueError, r"first at row 2 \(None\)"),
        ([0, 0, None, 1], ValueError, r"first at row 2 \(nan\)"),
        (["no", "no", "no", "yes"], TypeError, r"first at row 0 \('no'\)"),
    ],
)
def test_terminated_must_be_boolean_like(frame, terminated, error, found):
    with pytest.raises(error, match=f"'terminated' must be boolean.*{found}"):
        read_transitions(frame(changed(terminated=terminated)))


def test_memory_stays_below_twice_the_table():
    rng = np.random.default_rng(0)
    n = 200_000
    table = pd.DataFrame(
        {
            "state": rng.integers(1, 100, n),
            "action": rng.integers(0, 10, n),
            "reward": rng.normal(size=n),
            "next_state": rng.integers(1, 100, n),
            "terminated": rng.random(n) < 0.01,
        }
    )
    tracemalloc.start()
    try:
        t = read_transitions(table)
        Statistics.from_codes(
            t.state, t.action, t.reward, t.next_state, t.terminated, 99, 10
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * table.memory_usage().sum()


# Errors


@pytest.mark.parametrize("name", ["state", "action", "reward"])
def test_missing_column(frame, name):
    with pytest.raises(ValueError, match=f"Missing: '{name}'. Found: '.*'terminated'"):
        read_transitions(frame(without(name)))


def test_missing_columns_with_a_remedy(frame):
    with pytest.raises(ValueError, match=r"Missing: 'next_state'.*give 'episode'"):
        read_transitions(frame(without("next_state")))
    with pytest.raises(ValueError, match="never ends, 'terminated' is False"):
        read_transitions(frame(without("terminated")))
    with pytest.raises(ValueError, match="Missing: 'reward', 'next_state', 'termin"):
        read_transitions([1, 2], [0, 1])
    with pytest.raises(ValueError, match=r"Missing: 'state', .*Found: none"):
        read_transitions({})


def test_column_given_twice(frame):
    with pytest.raises(ValueError, match=r"'state' must be given once. .*'state', 's'"):
        read_transitions(frame(changed(s=TABLE["state"])))


@pytest.mark.parametrize("library", [pd, pa])
def test_repeated_column(library):
    if library is pd:
        table = pd.DataFrame([[0] * 6], columns=[*TABLE, "reward"])
    else:
        table = pa.Table.from_arrays([pa.array([0])] * 6, names=[*TABLE, "reward"])
    with pytest.raises(ValueError, match="'reward' must be given once"):
        read_transitions(table)


def test_no_rows(frame):
    with pytest.raises(ValueError, match=r"at least one row. Found none"):
        read_transitions(frame({name: [] for name in TABLE}))
    with pytest.raises(ValueError, match="at least one row"):
        read_transitions([])
    with pytest.raises(ValueError, match="at least one row"):
        read_transitions(np.empty((0, 5)))


@pytest.mark.parametrize(
    ("reward", "found"),
    [
        ([0.0, np.nan, np.inf, 1.0], r"Found 2 non-finite values, first at row 1 \(na"),
        ([0.0, 1.0, -np.inf, 1.0], r"Found 1 non-finite values, first at row 2 \(-inf"),
        ([0, None, 1, 2], r"Found 1 non-finite values, first at row 1 \(nan\)"),
    ],
)
def test_reward_must_be_finite(frame, reward, found):
    with pytest.raises(ValueError, match=f"Column 'reward' must be finite. {found}"):
        read_transitions(frame(changed(reward=reward)))


@pytest.mark.parametrize(
    "reward", [["1", "2", "3", "4"], [True, False, True, False], [1j, 2, 3, 4]]
)
def test_reward_must_be_numeric(reward):
    with pytest.raises(TypeError, match=r"Column 'reward' must be numeric. Found"):
        read_transitions(changed(reward=reward))


def test_reward_of_text_or_booleans_in_frames(frame):
    with pytest.raises(TypeError, match=r"Found a str, first at row 0 \('1'\)"):
        read_transitions(frame(changed(reward=list("1234"))))
    with pytest.raises(TypeError, match="Found dtype bool"):
        read_transitions(frame(changed(reward=[True] * 4)))


def test_reward_too_large_to_square():
    with pytest.raises(ValueError, match=r"Found 1 larger values, first at row 2"):
        read_transitions(changed(reward=[0.0, 1.0, -1e200, 1.0]))


def test_decimal_rewards(frame):
    reward = [Decimal(text) for text in ("0.5", "-1.0", "0.0", "2.0")]
    check_table(read_transitions(frame(changed(reward=reward))))


@pytest.mark.parametrize("name", ["state", "action"])
@pytest.mark.parametrize("labels", [[1, None, 2, None], ["a", None, "b", None]])
def test_missing_labels(frame, name, labels):
    successor = ["a" if "a" in labels else 1] * 4
    table = {**TABLE, "next_state": successor, "state": successor, name: labels}
    with pytest.raises(
        ValueError, match=f"'{name}' must not be missing. Found 2 .* first at row 1"
    ):
        read_transitions(frame(table))


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, pd.NaT, (1, None), (np.nan, 2)])
def test_missing_labels_of_every_kind(gap):
    labels = ["a", gap, (1, 2), 3]
    with pytest.raises(ValueError, match=r"'action' must not be missing. Found 1"):
        read_transitions(changed(action=labels))


def test_states_and_next_states_of_different_kinds(frame):
    with pytest.raises(
        TypeError, match=r"Found numbers in 'state' \(3\) and text in 'next_state' \('1"
    ):
        read_transitions(frame(changed(next_state=["1", "3", "2", None])))


def test_states_and_next_states_of_different_width():
    with pytest.raises(TypeError, match=r"tuples of 2 .* tuples of 3"):
        read_transitions(changed(state=np.zeros((4, 2)), next_state=np.zeros((4, 3))))


def test_unhashable_labels():
    with pytest.raises(TypeError, match=r"hashable. Found a set at row 2"):
        read_transitions(changed(action=[1, 2, {3}, 4]))


def test_unequal_lengths():
    with pytest.raises(ValueError, match=r"same length. Found 'state' 4, .*'reward' 3"):
        read_transitions(changed(reward=[1.0, 2.0, 3.0]))


@pytest.mark.parametrize("table", [np.zeros((3, 4)), np.zeros(5), [[1, 2]]])
def test_rows_must_have_five_columns(table):
    with pytest.raises((ValueError, TypeError), match="rows of exactly 5 columns"):
        read_transitions(table)


@pytest.mark.parametrize("table", [3, "log.csv", sparse.eye(5), [1, 2]])
def test_not_a_table(table):
    with pytest.raises(TypeError, match="Transitions must be a data frame"):
        read_transitions(table)


def test_a_single_value_is_not_a_column():
    with pytest.raises(TypeError, match=r"Column 'reward': .* Got 1.5"):
        read_transitions(changed(reward=1.5))


def test_keywords_need_actions(frame):
    with pytest.raises(ValueError, match="reward can only be given with y"):
        read_transitions(frame(without("reward")), reward=TABLE["reward"])


def test_whole_table_in_place_of_the_states(frame):
    rest = {name: TABLE[name] for name in ("reward", "next_state", "terminated")}
    with pytest.raises(
        ValueError, match=r"X must hold the states alone. Found 'reward'"
    ):
        read_transitions(frame(TABLE), TABLE["action"], **rest)


def test_the_users_table_is_left_alone(frame):
    table = frame(TABLE)
    read_transitions(table)
    assert nw.from_native(table).to_dict(as_series=False) == TABLE


# Labels that are one, and labels that are not


def codes_of(state, next_state):
    """Return the codes of both columns, read as one table of actions alike."""
    n = len(next_state)
    t = read_transitions(
        state,
        np.zeros(n, int),
        reward=np.zeros(n),
        next_state=next_state,
        terminated=np.ones(n, bool),
    )
    return [*t.state.tolist(), *t.next_state.tolist()]


UTC = datetime.timezone.utc
FIVE = datetime.datetime(2024, 1, 1, 5)
SAME = {
    "uint64 and nulls": (np.array([2**63], np.uint64), [2**63]),
    "uint64 and int64": (np.array([7], np.uint64), [7]),
    "ns and datetime": (np.array(["2024-01-01T05"], "M8[ns]"), [FIVE]),
    "Timestamp and s": ([pd.Timestamp(FIVE)], np.array(["2024-01-01T05"], "M8[s]")),
    "datetime and datetime64 in lists": ([FIVE], [np.datetime64(FIVE, "ms")]),
    "days and midnight": (
        np.array(["2024-01-01"], "M8[D]"),
        np.array(["2024-01-01T00"], "M8[ns]"),
    ),
    "dates": (np.array(["2024-01-01"], "M8[D]"), [datetime.date(2024, 1, 1)]),
    "durations": (
        [np.timedelta64(5, "s"), "x"],
        [datetime.timedelta(seconds=5), pd.Timedelta(5, "s")],
    ),
    "zones": (
        [FIVE.replace(tzinfo=UTC)],
        [FIVE.replace(hour=7, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))],
    ),
    "numpy's booleans": (np.array([np.True_], object), [True]),
    **(
        {"Int128": (pl.Series([2**100], dtype=pl.Int128), [2**100])}
        if hasattr(pl, "Int128")
        else {}
    ),
    "tensors": ([torch.tensor(3)], [3]),
    "tensors of two": ([torch.tensor([1, 2])], [(1, 2)]),
    "arrays of one": ([np.array(3)], [3]),
    "tuples beside numpy's integers": ([(1, 2), np.int64(3)], [(1, 2), 3]),
    "beyond all floats": ([10**400], [10**400]),
}


@pytest.mark.parametrize("pair", SAME)
def test_one_label_however_it_is_written(pair):
    state, following = SAME[pair]
    codes = codes_of(state, following)
    half = len(codes) // 2
    if pair == "durations":
        assert codes[0] == codes[2] == codes[3] != codes[1]
    else:
        assert codes[:half] == codes[half:]


OTHERS = {
    "hours of a day": (
        np.array(["2024-01-01", "2024-01-02"], "M8[D]"),
        np.array(["2024-01-01T05", "2024-01-02T00"], "M8[ns]"),
    ),
    "neighbours beyond int64": (np.array([2**63, 2**63 + 1], np.uint64), [2**63, 1]),
    "neighbours beyond 2**53": ([2**53, 2**53 + 1], [2**53, 5]),
    "durations and numbers": ([np.timedelta64(5, "s"), 5], [6, 5]),
    "complex": ([1j, 1], [2j, 1]),
    "months": ([np.timedelta64(5, "M"), "x"], [datetime.timedelta(152), "x"]),
}


@pytest.mark.parametrize("pair", OTHERS)
def test_labels_that_are_not_one(pair):
    codes = codes_of(*OTHERS[pair])
    assert len(set(codes)) == 3
    assert codes[1 if pair != "neighbours beyond 2**53" else 0] in codes[2:] or (
        codes[0] == codes[2]
    )


@pytest.mark.parametrize(
    ("state", "following", "error", "match"),
    [
        (
            np.array([2**63, 2**63 + 1], np.uint64),
            [float(2**63), np.nan],
            ValueError,
            r"beyond 2\*\*53 must not be floats beside integers",
        ),
        ([(2**60 + 1, 0)], [(2.0**60, 0)], ValueError, "must not be floats beside"),
        (
            np.array(["3000-01-01"], "M8[D]"),
            np.array(["2024-01-01T05"], "M8[ns]"),
            ValueError,
            r"must fit the finest unit.*Found 1 of datetime64\[D\].*3000-01-01",
        ),
        ([FIVE], [FIVE.replace(tzinfo=UTC)], TypeError, "times with a zone"),
        (
            np.array(["2024-01-01T05"], "M8[ns]"),
            [FIVE.replace(tzinfo=UTC)],
            TypeError,
            "times in 'state'.*times with a zone in 'next_state'",
        ),
        ([Decimal("sNaN")], [1], (TypeError, ValueError), "hashable. Found a Decimal"),
    ],
)
def test_labels_that_are_refused(state, following, error, match):
    with pytest.raises(error, match=match):
        codes_of(state, following)


def test_times_keep_their_zone(frame):
    times = [FIVE.replace(day=i, tzinfo=UTC) for i in (1, 2, 3, 4)]
    t = read_transitions(frame(changed(state=times, next_state=times)))
    assert [time.utcoffset() for time in t.states] == [datetime.timedelta(0)] * 4
    assert encode(times, t.states).tolist() == [0, 1, 2, 3]
    naive = [time.replace(tzinfo=None) for time in times]
    assert encode(naive, t.states).tolist() == [-1] * 4
    assert encode(times, np.array(naive, "M8[us]")).tolist() == [-1] * 4


def test_encode_never_compares_integers_through_floats():
    with pytest.raises(ValueError, match="must not be floats beside integers"):
        encode([float(2**53), np.nan], np.array([2**53, 2**53 + 1]))
    hours = np.array(["2024-01-01T05", "2024-01-01T00"], "M8[ns]")
    assert encode(hours, np.array(["2024-01-01"], "M8[D]")).tolist() == [-1, 0]
    assert encode(["x", FIVE], np.array([FIVE], "M8[ns]")).tolist() == [-1, 0]


def test_booleans_among_numbers_say_what_they_became():
    with pytest.warns(UserWarning, match="'action' holds True or False among numbers"):
        t = read_transitions(changed(action=[True, 2, 3, 0]))
    assert t.actions.tolist() == [0, 1, 2, 3]
    with pytest.warns(UserWarning, match="'state' holds True or False among numbers"):
        read_transitions(changed(state=[True, False, True, True]))


# Rewards and flags of odd types


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (np.timedelta64(5, "s"), TypeError, "numeric. Found a timedelta64, first at"),
        (np.complex64(1j), TypeError, "numeric. Found a complex64, first at row 1"),
        (1j, TypeError, "numeric. Found a complex, first at row 1"),
        (True, TypeError, "numeric. Found a bool, first at row 1"),
        (np.True_, TypeError, r"numeric\. Found a bool_?, first at row 1"),
        (10**400, ValueError, r"must be finite.*first at row 1 \(inf\)"),
        (Decimal("sNaN"), ValueError, r"must be finite.*first at row 1 \(nan\)"),
        ((1, 2), TypeError, "numeric. Found a tuple, first at row 1"),
    ],
)
def test_rewards_of_odd_types(value, error, match):
    with pytest.raises(error, match=match):
        read_transitions(changed(reward=[0.5, value, None, 1.0]))


def test_flags_of_odd_types():
    flags = np.array([np.False_, False, 0, np.True_], object)
    check_table(read_transitions(changed(terminated=flags)))
    with pytest.raises(ValueError, match="'terminated' must be boolean"):
        read_transitions(changed(terminated=[False, Decimal("sNaN"), 0, 1]))


def test_rewards_too_small_to_square():
    tiny = [1e-170, -1e-165, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"1e-140 or more in size.*Found 1e-165"):
        read_transitions(changed(reward=tiny))
    read_transitions(changed(reward=[*tiny[:3], 1.0]))
    read_transitions(changed(reward=[0.0] * 4))


# Columns


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("reward", "rew"),
        *(("next_state", a) for a in ("sp", "ns", "new_obs")),
        *(("terminated", a) for a in ("terminations", "terminateds", "is_terminal")),
    ],
)
def test_more_aliases(name, alias):
    check_table(read_transitions({**without(name), alias: TABLE[name]}))


def test_more_aliases_of_flags():
    no, one = [False] * 4, [False, False, True, False]
    for alias in ("truncations", "truncateds", "timeouts"):
        with pytest.warns(UserWarning, match="where 'truncated' is false"):
            t = read_transitions({**without("terminated"), "dones": one, alias: one})
        assert t.terminated.tolist() == no


@pytest.mark.parametrize(
    ("one", "two"),
    [("sp", "next_state"), ("rew", "r"), ("done", "dones"), ("obs", "state")],
)
def test_two_names_of_one_column(one, two):
    with pytest.raises(
        ValueError,
        match=f"must be given once. .*'{one}'.*'{two}'|"
        f"must be given once. .*'{two}'.*'{one}'",
    ):
        read_transitions({**TABLE, one: [0] * 4, two: [0] * 4})


def test_all_rows_terminate_and_need_no_next_state(frame):
    table = {**without("next_state"), "terminated": [True] * 4}
    t = read_transitions(frame(table))
    assert t.next_state.tolist() == [-1] * 4
    assert t.states.tolist() == [1, 2, 3]
    rest = {"reward": TABLE["reward"], "terminated": True}
    assert read_transitions([1, 2, 3, 4], [0, 1, 0, 1], **rest).terminated.all()


class Episode:
    """An episode as minari has it."""

    observations = np.array([3, 1, 3, 2, 7])
    actions = np.array(TABLE["action"])
    rewards = np.array(TABLE["reward"])
    terminations = np.array(TABLE["terminated"])
    truncations = np.zeros(4, bool)


def test_episodes_with_one_observation_more():
    expected = [(3, "right", 1), (1, "left", 3), (3, "left", 2), (2, "right", 7)]
    columns = {n: getattr(Episode, n) for n in vars(Episode) if not n.startswith("_")}
    for table in (Episode(), columns):
        assert triples(read_transitions(table)) == expected
    columns = {
        "observations": Episode.observations,
        "actions": Episode.actions,
        "rewards": Episode.rewards,
        "terminals": Episode.terminations,
        "timeouts": Episode.truncations,
    }
    assert triples(read_transitions(columns)) == expected
    with pytest.raises(ValueError, match=r"may be terminated\. Found 1 earlier"):
        read_transitions({**columns, "terminals": [True, False, False, True]})
    with pytest.raises(ValueError, match="same length"):
        read_transitions({**columns, "observations": np.arange(6)})


def test_advice_is_for_the_call_that_was_made():
    rest = {"reward": TABLE["reward"], "terminated": TABLE["terminated"]}
    with pytest.raises(ValueError, match=r"Pass next_state, or the whole table with"):
        read_transitions(TABLE["state"], TABLE["action"], **rest)


def unnamed(order, n=60, seed=0):
    """Draw a walk on a line of 12 as an array, its columns in some order."""
    rng = np.random.default_rng(seed)
    state, columns = 5, {name: [] for name in TABLE}
    for _ in range(n):
        action = int(rng.integers(2))
        after = min(11, max(0, state + 2 * action - 1))
        row = state, action, float(after == 11), after, False
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
        state = after
    return np.stack([np.array(columns[name], float) for name in order], 1)


def test_swapped_columns_without_names():
    right = ["state", "action", "reward", "next_state", "terminated"]
    swapped = ["state", "action", "next_state", "reward", "terminated"]
    assert read_transitions(unnamed(right)).columns["next_state"] == 3
    rng = np.random.default_rng(0)
    table = unnamed(swapped)
    shuffled = rng.permutation(table)
    shuffled[:, 3] = rng.normal(size=len(table))  # rewards that are no states
    for wrong in (table, shuffled, table.tolist()):
        with pytest.raises(ValueError, match=r"order\. Found states in the thi"):
            read_transitions(wrong)
    odd = table.tolist()
    odd[0][4] = Decimal("sNaN")
    with pytest.raises(ValueError, match="'terminated' must be boolean"):
        read_transitions(odd)
    order = "read in the order state, action, reward, next_state, terminated"
    with pytest.raises(ValueError, match=order):
        read_transitions(unnamed([*right[:3], "terminated", "next_state"]))


def test_missing_of_pandas_beside_times():
    times = np.array(["2024-01-01T05", "2024-01-02T05"], "M8[ns]")
    assert codes_of(times, [pd.NA, FIVE]) == [0, 1, -1, 0]
    with pytest.raises(TypeError, match=r"hashable\. Found a Decimal"):
        codes_of(times, [Decimal("sNaN"), FIVE])
