"""Sufficient statistics: exact sums, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import expected_statistics

from tabrl._statistics import Statistics, Tally

N_STATES, N_ACTIONS = 5, 3
ARRAYS = (
    "pair_state",
    "pair_action",
    "n",
    "reward_sum",
    "reward_sq_sum",
    "n_terminated",
    "edge_pair",
    "edge_next",
    "edge_count",
)


def count(rows, n_states=N_STATES, n_actions=N_ACTIONS):
    """Return the statistics of (state, action, reward, next_state, terminated) rows."""
    columns = zip(*rows, strict=True) if rows else ((),) * 5
    return Statistics.from_codes(*map(list, columns), n_states, n_actions)


def assert_equal(left, right):
    assert (left.n_states, left.n_actions) == (right.n_states, right.n_actions)
    for name in ARRAYS:
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-9, err_msg=name)


def assert_valid(statistics):
    """Check order, dtypes and the invariant that ties pairs to their edges."""
    s = statistics
    pair_key = s.pair_state * s.n_actions + s.pair_action
    assert (np.diff(pair_key) > 0).all()
    assert (np.diff(s.edge_pair * s.n_states + s.edge_next) > 0).all()
    continuing = np.bincount(s.edge_pair, s.edge_count, len(s.n))
    np.testing.assert_allclose(s.n, s.n_terminated + continuing)
    for name in ARRAYS:
        whole = name.startswith("pair") or name in ("edge_pair", "edge_next")
        assert getattr(s, name).dtype == (np.int64 if whole else np.float64)


def states(n=N_STATES):
    return st.integers(0, n - 1)


rows = st.lists(
    st.tuples(
        states(),
        st.integers(0, N_ACTIONS - 1),
        st.floats(-100, 100).map(lambda x: round(x, 3)),
        states(),
        st.booleans(),
    ).map(lambda row: (*row[:3], -1, True) if row[4] else row)
)


def test_sums_by_hand():
    statistics = count(
        [
            (1, 2, 3.0, 0, False),
            (0, 1, 1.0, 1, False),
            (1, 2, -1.0, 4, False),
            (1, 2, 2.0, 0, False),
            (1, 2, 5.0, -1, True),
            (0, 0, 7.0, 3, True),
        ]
    )
    assert statistics.pair_state.tolist() == [0, 0, 1]
    assert statistics.pair_action.tolist() == [0, 1, 2]
    assert statistics.n.tolist() == [1, 1, 4]
    assert statistics.reward_sum.tolist() == [7, 1, 9]
    assert statistics.reward_sq_sum.tolist() == [49, 1, 9 + 1 + 4 + 25]
    assert statistics.n_terminated.tolist() == [1, 0, 1]
    assert statistics.edge_pair.tolist() == [1, 2, 2]
    assert statistics.edge_next.tolist() == [1, 0, 4]
    assert statistics.edge_count.tolist() == [1, 2, 1]
    # State 3 was entered by terminating only, state 2 never.
    assert statistics.active_states.tolist() == [True, True, False, False, True]
    # State 0 was left twice and entered twice, state 1 left four times, entered once.
    assert statistics.encounters.tolist() == [2, 4, 0, 0, 1]
    assert_valid(statistics)


def test_sizes_far_beyond_the_data():
    huge = 10**9
    rows = [(huge - 1, 7, 1.0, 5, False), (5, 0, 2.0, huge - 1, False)]
    statistics = count(rows, n_states=huge, n_actions=1000)
    assert statistics.pair_state.tolist() == [5, huge - 1]
    assert statistics.pair_action.tolist() == [0, 7]
    assert statistics.edge_next.tolist() == [huge - 1, 5]
    assert_valid(statistics)


@given(rows)
def test_valid_and_complete(rows):
    statistics = count(rows)
    assert_valid(statistics)
    assert statistics.n.sum() == len(rows)
    seen = {(s, a) for s, a, *_ in rows}
    pairs = zip(statistics.pair_state, statistics.pair_action, strict=True)
    assert set(pairs) == seen
    edges = {(s, a, t) for s, a, _, t, ended in rows if not ended}
    assert len(statistics.edge_next) == len(edges)


@given(rows, st.randoms())
def test_order_of_rows_is_irrelevant(rows, random):
    assert_equal(count(rows), count(random.sample(rows, len(rows))))


@given(rows, st.integers(0, 20), st.integers(0, 20))
def test_splitting_adds(rows, first, second):
    parts = rows[:first], rows[first : first + second], rows[first + second :]
    a, b, c = map(count, parts)
    assert_equal(a + b + c, count(rows))
    assert_equal(a + (b + c), count(rows))
    assert_equal(c + a + b, count(rows))
    assert_valid(a + b)


@given(
    rows,
    st.permutations(range(N_STATES + 2)),
    st.permutations(range(N_ACTIONS + 1)),
)
def test_relabelling_is_counting_under_other_codes(rows, to_state, to_action):
    renamed = [
        (to_state[s], to_action[a], r, to_state[t] if t >= 0 else -1, ended)
        for s, a, r, t, ended in rows
    ]
    size = N_STATES + 2, N_ACTIONS + 1
    relabelled = count(rows).relabel(to_state[:N_STATES], to_action[:N_ACTIONS], *size)
    assert_equal(relabelled, count(renamed, *size))
    active = np.zeros(size[0], dtype=bool)
    active[to_state[:N_STATES]] = count(rows).active_states
    assert relabelled.active_states.tolist() == active.tolist()


@given(rows)
def test_empty_is_neutral(rows):
    empty = count([])
    assert_valid(empty)
    assert_equal(count(rows) + empty, count(rows))
    assert_equal(empty + count(rows), count(rows))


@given(rows)
def test_one_at_a_time_or_all_at_once_gives_the_same_counts(rows):
    tally = Tally(N_ACTIONS)
    visits = [tally.add(*row) for row in rows]
    assert_equal(tally.statistics(N_STATES), count(rows))
    assert tally.n_transitions == len(rows)
    pairs = [row[:2] for row in rows]
    assert visits == [pairs[: i + 1].count(pair) for i, pair in enumerate(pairs)]
    again = Tally.from_statistics(count(rows), np.array(sorted(tally.seen), np.int64))
    assert vars(again).keys() == vars(tally).keys()
    assert again.seen == tally.seen
    for one in (tally, again):
        one.add(0, 0, 1.0, 1, False)
    assert_equal(again.statistics(N_STATES), tally.statistics(N_STATES))


def test_adding_leaves_the_parts_alone():
    part = count([(0, 0, 1.0, 1, False)])
    total = part + part
    assert total.n.tolist() == [2]
    assert part.n.tolist() == [1]


def test_next_state_of_a_terminated_transition_has_no_effect():
    assert_equal(count([(0, 0, 1.0, 3, True)]), count([(0, 0, 1.0, -1, True)]))


def test_expected_statistics_by_hand():
    P = np.zeros((3, 2, 3))
    P[0, 0] = [0.5, 0.25, 0.25]
    P[0, 1] = P[1, 1] = [0, 1, 0]
    P[1, 0] = [0, 0, 1]
    P[2] = [0, 0, 1]
    R = np.array([[2.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    statistics = expected_statistics(P, R, 8, terminal=[False, False, True])
    assert statistics.pair_state.tolist() == [0, 0, 1, 1]
    assert statistics.pair_action.tolist() == [0, 1, 0, 1]
    assert statistics.n.tolist() == [8, 8, 8, 8]
    assert statistics.reward_sum.tolist() == [16, 0, 8, 0]
    assert statistics.reward_sq_sum.tolist() == [32, 0, 8, 0]
    assert statistics.n_terminated.tolist() == [2, 0, 8, 0]
    assert statistics.edge_pair.tolist() == [0, 0, 1, 3]
    assert statistics.edge_next.tolist() == [0, 1, 1, 1]
    assert statistics.edge_count.tolist() == [4, 2, 8, 8]
    assert statistics.active_states.tolist() == [True, True, False]
    assert_valid(statistics)


def test_pairs_without_visits_are_left_out():
    P = np.full((2, 2, 2), 0.5)
    visits = [[0, 3], [1, 0]]
    statistics = expected_statistics(P, np.zeros((2, 2)), visits)
    assert statistics.pair_state.tolist() == [0, 1]
    assert statistics.pair_action.tolist() == [1, 0]
    assert statistics.n.tolist() == [3, 1]
    assert_valid(statistics)


def test_counts_tend_to_the_expected_statistics():
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(3), size=(3, 2))
    R = rng.normal(size=(3, 2))
    n = 40_000
    s, a = np.repeat(np.arange(3), 2 * n), np.tile(np.repeat([0, 1], n), 3)
    s_next = np.concatenate([rng.choice(3, n, p=p) for p in P.reshape(6, 3)])
    terminal = np.array([False, False, True])
    start = s != 2
    counted = Statistics.from_codes(
        *(x[start] for x in (s, a, R[s, a], s_next, terminal[s_next])), 3, 2
    )
    expected = expected_statistics(P, R, n, terminal)
    assert counted.edge_next.tolist() == expected.edge_next.tolist()
    # Five standard deviations of a count of n with probability at most 1.
    np.testing.assert_allclose(
        counted.edge_count, expected.edge_count, atol=2.5 * np.sqrt(n)
    )
    np.testing.assert_allclose(
        counted.n_terminated, expected.n_terminated, atol=2.5 * np.sqrt(n)
    )
    np.testing.assert_allclose(counted.reward_sum, expected.reward_sum)
    np.testing.assert_allclose(counted.reward_sq_sum, expected.reward_sq_sum)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ((5, 0, 0.0, 0, False), "state must hold codes from 0 to 4. Got 5 to 5"),
        ((0, -1, 0.0, 0, False), "action must hold codes from 0 to 2. Got -1"),
        ((0, 0, 0.0, -1, False), "next_state must hold codes from 0 to 4. Got -1"),
        ((0, 0, 0.0, 5, False), "next_state must hold codes"),
    ],
)
def test_codes_out_of_range(row, found):
    with pytest.raises(ValueError, match=found):
        count([row])


def test_columns_of_unequal_length():
    with pytest.raises(ValueError, match=r"of one length. Got \[\(1,\), \(2,\)"):
        Statistics.from_codes([0], [0, 0], [0.0], [0], [False], 1, 1)


def test_only_equal_sizes_add():
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(6, 3\): relabel them first"):
        count([]) + count([], n_states=6)
    with pytest.raises(TypeError, match="unsupported operand"):
        count([]) + 1


@pytest.mark.parametrize(
    ("state_map", "action_map", "found"),
    [
        ([0, 1], [0], r"state_map must have the shape \(1,\)"),
        ([2], [0, 1], "state_map must hold codes from 0 to 1"),
        ([0], [1, 1], "action_map must not map two labels to one code"),
    ],
)
def test_relabelling_must_be_injective_and_in_range(state_map, action_map, found):
    with pytest.raises(ValueError, match=found):
        count([], 1, 2).relabel(state_map, action_map, 2, 2)
