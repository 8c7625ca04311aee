"""Measures of hardness, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from pretraining.benchmark.environments import environment
from pretraining.benchmark.hardness import diameter, hardness, reachable
from pretraining.benchmark.process import from_table


def ring(n: int, p: float, gamma: float = 0.9):
    """Move on with probability p, else stay; action 1 stays and costs 1."""
    table = [
        [
            [(p, (s + 1) % n, 0.0, False), (1 - p, s, 0.0, False)],
            [(1.0, s, -1.0, False)],
        ]
        for s in range(n)
    ]
    return from_table("ring", table, np.eye(n)[0], gamma)


def corridor(n: int, forward: float = 1.0):
    """Walk right to an end that pays 1, or jump back to the left end."""
    table = [
        [
            [
                (forward, min(s + 1, n - 1), float(s == n - 1), s == n - 1),
                (1 - forward, s, 0.0, False),
            ],
            [(1.0, 0, 0.0, False)],
        ]
        for s in range(n)
    ]
    return from_table("corridor", table, np.eye(n)[0], 0.9)


@pytest.mark.parametrize(("n", "p"), [(2, 1.0), (7, 1.0), (7, 0.25), (30, 0.1)])
def test_diameter_of_a_ring(n, p):
    # All the way round but for one place, each of which takes 1 / p steps.
    assert diameter(ring(n, p)) == pytest.approx((n - 1) / p, rel=1e-6)


def test_the_fastest_policy_counts():
    # Left and right on a line of 9 states, where moves fail with probability 1/2.
    def outcomes(s, step):
        return [(0.5, min(max(s + step, 0), 8), 0.0, False), (0.5, s, 0.0, False)]

    table = [[outcomes(s, -1), outcomes(s, 1)] for s in range(9)]
    line = from_table("line", table, np.eye(9)[4], 0.9)
    assert diameter(line) == pytest.approx(16, rel=1e-6)


def test_an_end_leads_back_to_the_start():
    # The longest way is from the start to the last place: 5 places on. A jump leads
    # from anywhere to the start in one step.
    assert diameter(corridor(6)) == pytest.approx(5)
    assert diameter(corridor(6, 0.5)) == pytest.approx(10, rel=1e-6)
    # Without the jump, the way from 1 to the start is the 3 steps to the end. Those
    # from 2 to 1 and from 3 to 2 lead through the start and take 3 steps, too.
    table = [[[(1.0, min(s + 1, 3), 0.0, s == 3)]] for s in range(4)]
    one_way = from_table("one way", table, np.eye(4)[0], 0.9)
    assert diameter(one_way) == pytest.approx(3)
    # Starts anywhere: from 1 to 0 there are 3 steps to the end, and then a start at 0
    # with probability 1/4. A start at s > 0 takes 4 - s steps more to the next.
    anywhere = from_table("anywhere", table, np.full(4, 1 / 4), 0.9)
    again = (3 + 2 + 1) / 4 / (1 - 3 / 4)
    assert diameter(anywhere) == pytest.approx(3 + again)


def test_what_cannot_be_left_is_infinitely_far_from_the_rest():
    assert diameter(environment("gridworld-3x3", 0.9)) == np.inf
    # Holes and goal are never acted in, for their episodes are over.
    lake = environment("FrozenLake-v1", 0.9)
    holes = [5, 7, 11, 12, 15]
    assert not reachable(lake)[holes].any()
    assert reachable(lake).sum() == 16 - len(holes)
    assert diameter(environment("FrozenLake-v1-not-slippery", 0.9)) < np.inf


def test_one_state_has_no_diameter():
    assert diameter(environment("bandit-10", 0.9)) == 0


def test_river_swim_is_as_wide_as_its_swimmer_is_slow():
    # h(s) = expected steps from s to s + 1 of the policy that swims right:
    # h(0) = 1 / 0.6 and 0.35 h(s) = 1 + 0.05 h(s - 1).
    h, total = 1 / 0.6, 1 / 0.6
    for _ in range(4):
        h = (1 + 0.05 * h) / 0.35
        total += h
    env = environment("RiverSwim-6", 0.95)
    assert diameter(env) == pytest.approx(total, rel=1e-6)


def test_large_deterministic_processes_are_exact_too():
    # From the end of one wrong way down, start again and take the right one: to the
    # bottom right from there takes 5 steps, and from the tile below the start 5 + 5.
    assert diameter(environment("DeepSea-6", 0.9)) == pytest.approx(5 + 5)


def test_gap_and_value_norm_of_a_ring():
    found = hardness(ring(5, 0.5))
    # All is worth 0 when moving on, and staying once loses 1.
    assert found.suboptimality_gap == pytest.approx(1)
    assert found.value_norm == 0


def test_value_norm_is_the_spread_of_the_successors_value():
    # Half of the time on to a state that pays 1 for ever, else the end.
    table = [
        [[(0.5, 1, 0.0, False), (0.5, 0, 7.0, True)]],
        [[(1.0, 1, 1.0, False)]],
    ]
    env = from_table("half", table, np.array([1.0, 0.0]), 0.75)
    found = hardness(env)
    # v*(1) = 4 and an end is worth 0, whatever was paid on the way.
    assert found.value_norm == pytest.approx(2)
    assert found.suboptimality_gap == np.inf


def test_states_out_of_reach_do_not_count():
    table = [
        [[(1.0, 0, 1.0, False)], [(1.0, 0, 0.5, False)]],
        [[(1.0, 1, 1.0, False)], [(0.5, 0, 0.9, False), (0.5, 1, 0.9, False)]],
    ]
    env = from_table("two islands", table, np.array([1.0, 0.0]), 0.5)
    found = hardness(env)
    assert found.suboptimality_gap == pytest.approx(0.5)
    assert found.diameter == 0
