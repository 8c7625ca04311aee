"""Bands, traps and rooms: valid at every size, with the structure they are for."""

from __future__ import annotations

import numpy as np
import pytest

from pretraining.prior import bands, mazes, price_actions, rooms, traps

SIZES = [(2, 2), (2, 5), (3, 16), (4, 3), (9, 4), (20, 6), (64, 6)]


@pytest.fixture(params=[bands, traps, rooms], ids=["bands", "traps", "rooms"])
def sample(request):
    return request.param.sample


def reachable(P: np.ndarray) -> np.ndarray:
    """Return which states can be reached from which, in any number of steps, (S, S)."""
    reach = (P > 0).any(1) | np.eye(len(P), dtype=bool)
    while True:
        further = (reach.astype(float) @ reach) > 0
        if np.array_equal(further, reach):
            return reach
        reach = further


@pytest.mark.parametrize(("n_states", "n_actions"), SIZES)
def test_draws_are_valid(sample, n_states, n_actions):
    rng = np.random.default_rng((n_states, n_actions))
    for _ in range(80):
        p = sample(rng, n_states, n_actions)
        assert p.P.shape == p.R.shape == (n_states, n_actions, n_states)
        assert p.P.min() >= 0
        np.testing.assert_allclose(p.P.sum(-1), 1, atol=1e-12)
        assert 0 < np.abs(p.R).max() < 10
        assert p.terminal.dtype == bool
        assert p.start.min() >= 0
        assert p.start.sum() == pytest.approx(1)
        assert not p.start[p.terminal].any()
        own = p.P[p.terminal][..., p.terminal]
        assert (own.diagonal(axis1=0, axis2=2) == 1).all()  # ends stay where they are
        if p.outcomes is not None:
            low, high = p.outcomes
            assert low < high
            assert low <= p.R.min()
            assert p.R.max() <= high
            assert p.noise == 0


def test_draws_follow_their_seed(sample):
    first, again, other = (
        sample(np.random.default_rng(seed), 12, 4) for seed in (0, 0, 1)
    )
    for name in ("P", "R", "terminal", "start"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.P, other.P)


@pytest.mark.parametrize("family", [bands, traps], ids=["bands", "traps"])
def test_some_rewards_are_two_valued(family):
    rng = np.random.default_rng(0)
    two_valued = [family.sample(rng, 8, 3).outcomes is not None for _ in range(300)]
    assert np.mean(two_valued) == pytest.approx(0.2, abs=0.08)


# Bands


@pytest.mark.parametrize("width", [1, 3, 11])
def test_transitions_stay_within_the_band(width):
    rng = np.random.default_rng(width)
    distance = np.abs(np.arange(12) - np.arange(12)[:, None])
    widest = 0
    for _ in range(50):
        P = bands._within_band(rng, 12, 3, width)
        np.testing.assert_allclose(P.sum(-1), 1)
        assert not P.swapaxes(0, 1)[:, distance > width].any()
        widest = max(widest, distance[(P > 0).any(1)].max())
    assert widest == width


def test_the_far_end_is_far():
    """Many steps are needed, and a uniform policy seldom arrives."""
    rng = np.random.default_rng(0)
    steps, odds = [], []
    for _ in range(100):
        p = bands.sample(rng, 64, 4)
        leads = (p.P > 0.05).any(1) & ~p.terminal[:, None]
        at, n = p.start > 0, 0
        while not at[-1] and n < 64:
            at, n = at | leads[at].any(0), n + 1
        steps.append(n)
        P = p.P.mean(1)
        P[-1] = np.eye(64)[-1]
        odds.append((p.start @ np.linalg.matrix_power(P, 128))[-1])
    assert np.median(steps) > 5
    assert np.mean(np.array(odds) < 0.1) > 0.3


# Traps


@pytest.mark.parametrize("only_traps", [True, False])
def test_regions_are_left_one_way(only_traps):
    rng = np.random.default_rng(0)
    for n_states in (2, 3, 7, 30):
        for _ in range(50):
            region = traps._regions(rng, n_states, only_traps)
            assert set(region) == set(range(region[-1] + 1))
            assert region[-1] >= 1
            P = traps._within_regions(rng, region, 4)
            other = region[:, None] != region
            assert not P.swapaxes(0, 1)[:, other].any()
            door = traps._open_doors(rng, P, region, only_traps)
            np.testing.assert_allclose(P.sum(-1), 1)
            leaves = (P * other[:, None]).sum(-1) > 0
            np.testing.assert_array_equal(leaves, door)
            # Nothing leads back, and every region but the closed ones has a door.
            assert not P.swapaxes(0, 1)[:, region[:, None] > region].any()
            open_regions = {0} if only_traps else set(range(region[-1]))
            assert set(region[door.any(1)]) == open_regions


def test_draws_have_mistakes_that_cannot_be_undone():
    rng = np.random.default_rng(1)
    for _ in range(100):
        p = traps.sample(rng, 16, 4)
        reach = reachable(p.P)
        lost = reach & ~reach.T & ~p.terminal  # one way, to where life goes on
        assert lost.any()


def test_traps_are_mostly_no_ends():
    rng = np.random.default_rng(2)
    ends = [traps.sample(rng, 16, 4).terminal.any() for _ in range(200)]
    assert 0.03 < np.mean(ends) < 0.4


# Rooms


@pytest.mark.parametrize("n_states", [2, 3, 5, 13, 40, 90])
def test_grids_have_as_many_connected_cells_as_asked_for(n_states):
    rng = np.random.default_rng(n_states)
    for _ in range(40):
        cells = rooms._cells(rng, n_states)
        assert len({tuple(cell) for cell in cells}) == n_states
        assert (rooms._distance(mazes.neighbours(cells), 0) < n_states).all()


def test_rooms_have_doors():
    """A door: a free cell between two free and two walled ones, in most grids."""
    rng = np.random.default_rng(0)
    n_doors = []
    for _ in range(100):
        cells = rooms._cells(rng, 60)
        free = np.zeros(cells.max(0) + 2, bool)
        free[tuple(cells.T)] = True
        middle, left, right = free[1:-1, 1:-1], free[1:-1, :-2], free[1:-1, 2:]
        up, down = free[:-2, 1:-1], free[2:, 1:-1]
        door = (left & right & ~up & ~down) | (up & down & ~left & ~right)
        n_doors.append((middle & door).sum())
    assert np.mean(np.array(n_doors) > 0) > 0.9
    assert len(set(n_doors)) > 4


def test_walls_leave_rooms_connected():
    rng = np.random.default_rng(1)
    for _ in range(100):
        free = rooms._walls(rng, 9, 12, int(rng.integers(2, 12)), 1)
        cells = np.argwhere(free)
        distance = rooms._distance(mazes.neighbours(cells), 0)
        assert (distance < len(cells)).all()


@pytest.mark.parametrize(("n_states", "n_actions"), SIZES)
def test_goals_can_be_reached_from_every_start(n_states, n_actions):
    rng = np.random.default_rng(n_states * n_actions)
    for _ in range(60):
        p = rooms.sample(rng, n_states, n_actions)
        pays = (p.R * (p.P > 0)).max((1, 2)) > 0
        assert reachable(p.P)[p.start > 0][:, pays].any(1).all()


def test_pairs_that_are_not_allowed_copy_the_first_that_is():
    rng = np.random.default_rng(3)
    drawn = [rooms.sample(rng, 20, 5) for _ in range(200)]
    restricted = [p for p in drawn if p.allowed is not None]
    assert 0.12 < len(restricted) / 200 < 0.4
    for p in restricted:
        assert p.allowed.any(1).all()
        assert not p.allowed.all()
        for s, a in np.argwhere(~p.allowed):
            first = np.flatnonzero(p.allowed[s])[0]
            np.testing.assert_array_equal(p.P[s, a], p.P[s, first])
            np.testing.assert_array_equal(p.R[s, a], p.R[s, first])


def test_every_maze_has_a_slip_or_a_cost():
    rng = np.random.default_rng(4)
    for _ in range(100):
        p = rooms.sample(rng, 30, 4)
        if p.start.max() < 1:
            continue  # a random start may look like a slip
        slips = not np.isin(p.P[~p.terminal], (0, 1)).all()
        assert slips or p.R.min() < 0


def test_prices_are_those_of_the_action_in_every_state():
    plain = traps.sample(np.random.default_rng(3), 12, 3)
    seen = set()
    for seed in range(40):
        priced = price_actions(np.random.default_rng(seed), plain)
        for kept in (0, 1):
            extra = (priced.R - kept * plain.R)[~plain.terminal]
            if np.ptp(extra, axis=(0, 2)).max() < 1e-12:
                assert np.ptp(extra[0, :, 0]) > 0
                seen.add(kept)
                break
        else:
            raise AssertionError("the price of an action depends on the state")
        assert (priced.R[plain.terminal] == 0).all()
    assert seen == {0, 1}
