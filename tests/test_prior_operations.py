"""Garnets, bandits and operations research: valid, and of the structure they claim."""

from __future__ import annotations

import numpy as np
import pytest

from pretraining.prior import bandits, garnet, operations

FAMILIES = [garnet.sample, bandits.sample, operations.sample]
SIZES = [(2, 2), (3, 2), (2, 16), (3, 5), (7, 16), (20, 4), (70, 6)]


def draws(sample, n_states, n_actions, n=150, seed=0):
    rng = np.random.default_rng(seed)
    return [sample(rng, n_states, n_actions) for _ in range(n)]


@pytest.fixture(params=FAMILIES, ids=["garnet", "bandits", "operations"])
def sample(request):
    return request.param


def check(process, S, A):
    assert process.P.shape == process.R.shape == (S, A, S)
    assert process.terminal.shape == process.start.shape == (S,)
    assert process.terminal.dtype == bool
    assert process.P.min() >= 0
    np.testing.assert_allclose(process.P.sum(-1), 1, atol=1e-12)
    assert np.isfinite(process.R).all()
    assert process.start.min() >= 0
    assert process.start.sum() == pytest.approx(1)
    end = process.terminal
    assert not process.start[end].any()
    assert (process.P[end][..., end].sum(-1) == 1).all()
    assert not process.R[end].any()
    assert np.isfinite(process.noise)
    assert process.noise >= 0
    if process.outcomes is not None:
        low, high = process.outcomes
        assert low < high
        assert low <= process.R.min() <= process.R.max() <= high
        assert process.noise == 0
    if process.allowed is not None:
        assert process.allowed.shape == (S, A)
        assert process.allowed.any(1).all()
        first = process.allowed.argmax(1)
        for s, a in np.argwhere(~process.allowed):
            np.testing.assert_array_equal(process.P[s, a], process.P[s, first[s]])
            np.testing.assert_array_equal(process.R[s, a], process.R[s, first[s]])


@pytest.mark.parametrize(("n_states", "n_actions"), SIZES)
def test_draws_are_valid(sample, n_states, n_actions):
    for process in draws(sample, n_states, n_actions):
        check(process, n_states, n_actions)


def test_largest_sizes_are_valid(sample):
    for process in draws(sample, 256, 16, n=3):
        check(process, 256, 16)


@pytest.mark.parametrize("n_actions", [2, 16])
def test_bandits_of_one_state_are_valid(n_actions):
    for process in draws(bandits.sample, 1, n_actions):
        check(process, 1, n_actions)
        assert not process.terminal.any()


def test_draws_follow_their_seed(sample):
    first, again, other = (draws(sample, 9, 4, 5, seed) for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.P, two.P)
        np.testing.assert_array_equal(one.R, two.R)
        np.testing.assert_array_equal(one.start, two.start)
        assert (one.noise, one.outcomes) == (two.noise, two.outcomes)
    assert not np.array_equal(first[0].R, other[0].R)


def test_garnets_have_one_branching_factor():
    factors = set()
    for process in draws(garnet.sample, 12, 3):
        n_next = (process.P[~process.terminal] > 0).sum(-1)
        assert n_next.min() == n_next.max()
        factors.add(int(n_next.max()))
    assert factors == set(range(1, 11))


def test_cut_points_give_uniform_probabilities():
    """With two next states, the cut point is the first one's probability."""
    rng = np.random.default_rng(0)
    squares = [
        (process.P**2).sum(-1).mean()
        for process in (garnet.sample(rng, 2, 16) for _ in range(900))
        if not np.isin(process.P, (0, 1)).all()
    ]
    # E[u^2 + (1 - u)^2] = 2/3 for uniform u, which two thirds of the draws have.
    assert np.median(squares) == pytest.approx(2 / 3, abs=0.03)


def test_contexts_come_whatever_the_arm():
    one_step = 0
    for process in draws(bandits.sample, 6, 4, n=400):
        alive = ~process.terminal
        rows = process.P[alive]
        np.testing.assert_array_equal(rows, np.broadcast_to(rows[0, 0], rows.shape))
        if process.terminal.any():
            one_step += 1
            np.testing.assert_array_equal(process.terminal, np.arange(6) == 5)
            assert (rows[..., 5] == 1).all()
        else:
            np.testing.assert_array_equal(rows[0, 0], process.start)
        assert (process.R == process.R[..., :1]).all()
    assert 0.4 < one_step / 400 < 0.6


def test_most_bandits_have_two_outcomes_with_uniform_odds():
    drawn = draws(bandits.sample, 1, 10, n=1000)
    binary = [p for p in drawn if p.outcomes is not None]
    assert 0.55 < len(binary) / 1000 < 0.65
    assert 0.05 < np.mean([p.outcomes is None and p.noise == 0 for p in drawn]) < 0.15
    odds = np.array([(p.R[0, :, 0] - p.outcomes[0]) for p in binary])
    odds /= np.array([np.diff(p.outcomes) for p in binary])
    uniform = np.quantile(odds, [0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(uniform, [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.07)
    assert {p.outcomes for p in binary} >= {(0.0, 1.0), (-1.0, 1.0), (-1.0, 0.0)}


def monotone(values, axis):
    return (np.diff(values, axis=axis) <= 1e-9).all()


def test_queues_move_by_their_rates():
    rng = np.random.default_rng(0)
    service = admission = 0
    for _ in range(100):
        P, _, allowed = operations.queue(rng, 12, 4)
        assert allowed.all()
        expected = P @ np.arange(12)
        assert (np.diff(expected, axis=0) >= -1e-9).all()  # more now, more next
        # A customer leaves at a time.
        assert not np.tril(P.transpose(1, 0, 2), -2).any()
        middle = expected[6]
        if monotone(middle, 0):
            service += 1
        else:  # more admitted with each action, none with the first
            assert monotone(-middle, 0)
            np.testing.assert_allclose(P[:, 0, :][np.triu_indices(12, 1)], 0)
            admission += 1
    assert min(service, admission) > 20


def test_optimal_service_grows_with_the_queue():
    """Convex holding costs, a convex price: the rate is monotone (Puterman, 4.7)."""
    rng, found = np.random.default_rng(1), 0
    for _ in range(60):
        P, R, _ = operations.queue(rng, 10, 3)
        r = (P * R).sum(-1)
        middle = P[5] @ np.arange(10)
        single = not np.triu(P.transpose(1, 0, 2), 2).any()
        # Service with single arrivals, and no penalty or price that breaks convexity.
        if not (monotone(middle, 0) and single and R.shape[-1] == 1):
            continue
        q = np.zeros_like(r)
        for _ in range(300):
            q = r + 0.9 * P @ q.max(1)
        # Capacity makes the last states an exception: arrivals are lost there.
        assert (np.diff(q.argmax(1)[:6]) >= 0).all()
        found += 1
    assert found > 5


def test_inventories_order_up_and_sell_down():
    rng = np.random.default_rng(2)
    restricted = 0
    for _ in range(100):
        P, _, allowed = operations.inventory(rng, 9, 5)
        assert monotone(-(P @ np.arange(9)), 1)  # more ordered, more left
        nothing_ordered = P[:, 0]
        assert not np.triu(nothing_ordered, 1).any()
        if not allowed.all():
            restricted += 1
            assert allowed[:, 0].all()
            assert allowed[8].sum() < 5
            assert monotone(allowed.sum(1), 0)
    assert 30 < restricted < 70


def test_inventories_pay_by_the_unit_sold():
    rng, found = np.random.default_rng(3), 0
    for _ in range(100):
        _, R, _ = operations.inventory(rng, 8, 3)
        if R.shape[-1] == 1:
            continue
        # From full stock with no order, what is left explains the reward: each
        # unit sold brings the price and saves the holding cost.
        slope = np.diff(R[7, 0, 1:])
        np.testing.assert_allclose(slope, slope[0])
        assert slope[0] < 0
        found += 1
    assert 30 < found < 70


def test_machines_wear_and_replacement_renews():
    rng = np.random.default_rng(4)
    for _ in range(100):
        P, R, _ = operations.maintenance(rng, 9, 4)
        assert not np.tril(P[:, 0], -1).any()  # a machine that is kept gets no better
        np.testing.assert_array_equal(P[:, -1], np.tile(P[0, -1], (9, 1)))
        assert monotone((P * R).sum(-1)[:, 0], 0)  # and costs more
        assert R.max() <= 0


def test_harvests_leave_less():
    rng = np.random.default_rng(5)
    restricted = 0
    for _ in range(100):
        P, R, allowed = operations.harvest(rng, 9, 4)
        assert monotone(P @ np.arange(9), 1)  # the more is taken, the less there is
        assert R.shape == (9, 4, 1)
        restricted += not allowed.all()
        assert allowed[:, 0].all()
        assert monotone(-allowed.sum(1), 0)
    assert 30 < restricted < 70


def test_operations_are_of_unit_size_and_some_end():
    drawn = draws(operations.sample, 12, 4, n=400)
    size = np.array([np.abs((p.P * p.R).sum(-1)).max() for p in drawn])
    assert size.min() > 0.49
    assert size.max() < 2.01
    assert 0.18 < np.mean([p.terminal.any() for p in drawn]) < 0.32
    assert 0.15 < np.mean([p.allowed is not None for p in drawn]) < 0.35
