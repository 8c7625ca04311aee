"""What an agent plans for that explores: draws from the posterior, and a bonus."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_network import draw_arrays, random_network, statistics_batch

from tabrl._batch import StatisticsBatch, segment_sum
from tabrl._exploration import (
    ExplorationFeatures,
    draw_posterior,
    exploration_bonus,
    exploration_features,
)
from tabrl._features import Features, build_features
from tabrl._network import Posterior
from tabrl._planning import dense_transitions

PARTS = ("edge_prob", "itself", "siblings", "predecessors", "anywhere", "ended")


def draw_process(seed: int) -> tuple[Posterior, Features, ExplorationFeatures]:
    """Return the posterior of random weights after random data."""
    batch = statistics_batch(**draw_arrays(seed))
    features = build_features(batch)
    return random_network(seed)(features)[1], features, exploration_features(batch)


def bonus_of(batch: StatisticsBatch) -> torch.Tensor:
    return exploration_bonus(build_features(batch), exploration_features(batch))


# Draws


def repeated_draws(process, spread, n_draws=2000) -> dict[str, torch.Tensor]:
    """Return many draws of each part of a process, (n_draws, ...)."""
    rng = np.random.default_rng(0)
    draws = [draw_posterior(*process, (spread, 0.0), rng) for _ in range(n_draws)]
    names = (*PARTS, "reward")
    return {name: torch.stack([getattr(d, name) for d in draws]) for name in names}


@pytest.fixture(scope="module")
def process():
    return draw_process(0)


@pytest.fixture(scope="module")
def draws(process):
    """Draws of two spreads."""
    return {spread: repeated_draws(process, spread) for spread in (0.5, 1.0)}


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_the_mean_of_the_draws_is_the_posterior_mean(process, draws, spread):
    posterior = process[0]
    for name, drawn in draws[spread].items():
        mean = posterior.reward[1:2] if name == "reward" else getattr(posterior, name)
        error = (drawn.mean(0) - mean).abs()
        deviation = (drawn.var(0) / len(drawn)).sqrt()
        assert (error <= 6 * deviation + 1e-6).all(), name


def test_draws_of_twice_the_spread_vary_four_times_as_much(process, draws):
    """Where a pair was visited often; next to none, a probability is 0 or 1 anyhow."""
    posterior, features, _ = process
    for name in (*PARTS[1:], "reward"):
        # What is rare has too heavy a tail for a test.
        often = features.n > 5
        if name != "reward":
            often &= getattr(posterior, name) > 0.05
        half, whole = (
            draws[spread][name].view(-1, *often.shape).var(0)[often]
            for spread in (0.5, 1.0)
        )
        ratio = whole / half
        assert ((ratio > 2.7) & (ratio < 5.2)).all(), (name, ratio)


def one_pair_without_prior(n: float, n_states: int = 1):
    """Return a pair of random outcomes that go on or end, n visits in all.

    There are that many states alike, and the prior counts for nothing.
    """
    shape = (1, n_states, 1)
    stays = np.zeros((*shape, n_states))
    stays[0, range(n_states), 0, range(n_states)] = n / 2
    squares = np.full(shape, float(n))
    batch = statistics_batch(stays, np.full(shape, n / 2), 0 * squares, squares, 0.9)
    features = build_features(batch)
    none = torch.zeros(shape, dtype=torch.float64)
    posterior = Posterior(
        reward=none.expand(3, *shape),
        edge_prob=features.edge_prob,
        itself=none,
        siblings=none,
        predecessors=none,
        anywhere=none,
        ended=features.terminated,
        mean_reward=none,
        weight=torch.full((2, *shape), float(n), dtype=torch.float64),
    )
    return posterior, features, exploration_features(batch)


@pytest.mark.parametrize("n", [4, 100])
def test_the_draw_of_a_pair_is_a_beta_distribution(n):
    """The share of two outcomes, each n / 2 times, is Beta(n / 2, n / 2) at spread 1.

    Its variance is 1 / (4 (n + 1)).
    """
    drawn = repeated_draws(one_pair_without_prior(n), 1.0)
    assert drawn["ended"].mean() == pytest.approx(0.5, abs=0.02)
    assert drawn["ended"].var() == pytest.approx(1 / (4 * (n + 1)), rel=0.15)
    torch.testing.assert_close(drawn["ended"].flatten(), 1 - drawn["edge_prob"][:, 0])
    # Rewards of mean 0 and square 1: the scale is 1, and so is their variance.
    assert drawn["reward"].mean() == pytest.approx(0, abs=0.03)
    assert drawn["reward"].var() == pytest.approx(1 / (n + 1), rel=0.5)


@pytest.mark.parametrize(("random_share", "width"), [(0.25, 1 - 0.75**4), (1.0, 1.0)])
def test_the_less_is_random_the_less_the_draws_vary(random_share, width):
    posterior, features, exploration = one_pair_without_prior(100)
    share = torch.full_like(exploration.random_share, random_share)
    exploration = replace(exploration, random_share=share)
    drawn = repeated_draws((posterior, features, exploration), 1.0)
    expected = 1 / (4 * (100 / width**2 + 1))
    assert drawn["ended"].var() == pytest.approx(expected, rel=0.15)


def test_the_more_states_there_are_the_less_the_draws_vary():
    variances = []
    for n_states in (1, 4, 16):
        drawn = repeated_draws(one_pair_without_prior(100, n_states), 1.0, 1000)
        variances.append(drawn["ended"].var(0).mean().item())
    # Spread^2 is divided by 1 + log2(S) / 4.
    ratios = np.array(variances) / variances[0]
    np.testing.assert_allclose(ratios, [1, 1 / 1.5, 0.5], rtol=0.2)


def test_every_draw_is_a_process():
    posterior, *features = draw_process(1)
    rng = np.random.default_rng(0)
    for weight in (posterior.weight, 1e-8 * posterior.weight, 1e12 * posterior.weight):
        weighted = replace(posterior, weight=weight)
        drawn = draw_posterior(weighted, *features, (1.0, 0.1), rng)
        for f in fields(drawn):
            assert getattr(drawn, f.name).isfinite().all(), f.name
        parts = [getattr(drawn, name) for name in PARTS[1:]]
        n_pairs = features[0].n.numel()
        edges = segment_sum(drawn.edge_prob, features[0].edge_pair, n_pairs)
        whole = sum(parts) + edges.view_as(features[0].n)
        assert all((part >= 0).all() for part in (*parts, drawn.edge_prob))
        assert (whole <= 1 + 1e-9).all()
    # The last of them is certain.
    before = dense_transitions(posterior, features[0])
    torch.testing.assert_close(
        dense_transitions(drawn, features[0]), before, rtol=0, atol=1e-4
    )


def test_no_spread_is_what_is_expected_and_the_same_seed_the_same_draw():
    posterior, *features = draw_process(2)
    drawn = draw_posterior(posterior, *features, (0.0, 0.0), np.random.default_rng(0))
    torch.testing.assert_close(drawn.reward[0], posterior.reward[1])
    assert drawn.edge_prob is posterior.edge_prob
    one, same, other = (
        draw_posterior(posterior, *features, (0.5, 0.1), np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    for f in fields(one):
        torch.testing.assert_close(getattr(one, f.name), getattr(same, f.name))
    assert (one.reward != other.reward).any()
    assert (one.edge_prob != other.edge_prob).any()


@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_the_bonus_comes_on_top_of_the_rewards(spread):
    posterior, *features = draw_process(2)
    without, with_bonus = (
        draw_posterior(
            posterior, *features, (spread, weight), np.random.default_rng(0)
        ).reward
        for weight in (0.0, 0.05)
    )
    expected = 0.05 * exploration_bonus(*features)
    torch.testing.assert_close((with_bonus - without)[0], expected)


def test_where_repeating_teaches_nothing_nothing_is_drawn():
    posterior, features, exploration = draw_process(3)
    none = torch.zeros_like(exploration.random_share)
    certain = replace(exploration, random_share=none)
    rng = np.random.default_rng(0)
    drawn = draw_posterior(posterior, features, certain, (0.5, 0.0), rng)
    torch.testing.assert_close(drawn.edge_prob, posterior.edge_prob, rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.reward[0], posterior.reward[1], rtol=0, atol=0.02)


# The bonus


def chain(
    n, random=0, ended=(), complete=True, gamma=0.9, reward_range=(0.0, 1.0)
) -> StatisticsBatch:
    """Return what ``n`` visits of the only action of each state give, without reward.

    The first ``random`` states stay or go on to the next one, those in ``ended``
    terminate, and all others stay.
    """
    n_states = len(n)
    counts = np.zeros((1, n_states, 1, n_states))
    ends = np.zeros((1, n_states, 1))
    for i, visits in enumerate(n):
        if i in ended:
            ends[0, i] = visits
        else:
            counts[0, i, 0, i] = visits
        if i < random:
            counts[0, i, 0, i] -= visits / 2
            counts[0, i, 0, (i + 1) % n_states] += visits / 2
    zeros = np.zeros((1, n_states, 1))
    batch = statistics_batch(counts, ends, zeros, zeros, gamma, reward_range)
    return replace(batch, complete=torch.tensor([complete]))


@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.99])
def test_what_was_never_tried_is_worth_the_horizon(gamma):
    # Where every pair is random, the whole; where none is, half of it.
    everything = bonus_of(chain([2, 2, 0], random=2, gamma=gamma))
    assert everything[0, 2, 0] == pytest.approx(1 / (1 - gamma))
    nothing = bonus_of(chain([2, 2, 0], gamma=gamma))
    assert nothing[0, 2, 0] == pytest.approx(0.5 / (1 - gamma))
    # Where no pair was repeated any may be random; so may all before the first try.
    for n in ([1, 1, 0], [0, 0, 0]):
        bonus = bonus_of(chain(n, gamma=gamma))
        assert bonus[0, 2, 0] == pytest.approx(1 / (1 - gamma))


def test_ends_shorten_the_horizon_where_outcomes_are_random():
    # Half of the steps end.
    for random, share in ((0, 1.0), (1, 1 - 0.5 * 0.5)):
        going = bonus_of(chain([2, 2, 0], random))
        ending = bonus_of(chain([2, 2, 0], random, ended=[1]))
        ratio = (ending / going)[0, 2, 0].item()
        assert ratio == pytest.approx((1 - 0.9) / (1 - 0.9 * share))


@pytest.mark.parametrize("complete", [False, True])
def test_the_bonus_of_a_repeated_pair_falls_with_the_cube_of_its_visits(complete):
    batch = chain([2, 4, 8, 16], random=4, complete=complete)
    bonus = bonus_of(batch)[0, :, 0]
    torch.testing.assert_close(bonus[:-1] / bonus[1:], torch.full((3,), 8.0).double())
    # Certain outcomes need no second try.
    assert (bonus_of(chain([2, 4, 8, 16], complete=complete)) == 0).all()


def test_bad_luck_may_conceal_states_that_were_never_reached():
    horizon, n = 1 / (1 - 0.9), torch.tensor([2.0, 4.0]).double()
    lone = bonus_of(chain([2, 4], random=2, complete=True))[0, :, 0]
    torch.testing.assert_close(lone, 0.6 * horizon / n**3)
    # Three visits a pair on average.
    more = bonus_of(chain([2, 4], random=2, complete=False))[0, :, 0]
    torch.testing.assert_close(more, (1 + np.log(4)) * horizon / n**3)
    # A short horizon counts as two steps at least.
    short = bonus_of(chain([2, 4], random=2, complete=True, gamma=0.5))[0, :, 0]
    torch.testing.assert_close(short, 2 / n**3)


def test_the_bonus_is_in_units_of_the_span_of_the_rewards():
    bonus = {
        ends: bonus_of(chain([2, 0], random=1, reward_range=ends))
        for ends in ((0.0, 1.0), (-1.0, 3.0), (-4.0, 0.0))
    }
    expected = bonus[0.0, 1.0]
    assert (expected > 0).all()
    # The scale of (-1, 3) is 3, and its span 4.
    torch.testing.assert_close(bonus[-1.0, 3.0], expected * 4 / 3)
    torch.testing.assert_close(bonus[-4.0, 0.0], expected)


def test_the_span_is_that_of_the_means_seen_and_zero_where_none_is_declared():
    zeros = np.zeros((1, 2, 1))
    counts = np.eye(2)[None, :, None]
    for sums, span in (([1, 4], 1), ([-2, 4], 1.5), ([-2, -4], 1), ([0, 0], 0)):
        reward = np.array(sums, float).reshape(1, 2, 1)
        batch = statistics_batch(counts, zeros, reward, reward**2, 0.9)
        assert exploration_features(batch).reward_span.item() == pytest.approx(span)


def test_a_share_of_the_pairs_is_random():
    batch = chain([2, 2, 2, 2, 1, 0], random=1)
    assert exploration_features(batch).random_share == 0.25
    # Rewards that differ are an outcome as well, and so is an end.
    squares = batch.reward_sq_sum.clone()
    squares[0, 1] = 1
    varied = replace(batch, reward_sq_sum=squares)
    assert exploration_features(varied).random_share == 0.5
    n_terminated = batch.n_terminated.clone()
    n_terminated[0, 2] = 1
    ended = replace(varied, n_terminated=n_terminated)
    assert exploration_features(ended).random_share == 0.75


def test_the_variance_of_a_pair_borrows_from_its_state_and_the_data_set():
    """One degree of freedom of each: 1/4 of the squared span without any data."""
    batch = log_of_one_pair([], 0, 2)
    assert exploration_features(batch).reward_variance.item() == pytest.approx(0.25)
    # A single reward says nothing of its variance either.
    batch = log_of_one_pair([2.0], 0, 2)
    assert exploration_features(batch).reward_variance.item() == pytest.approx(0.25)
    # With many it is that of the sample.
    batch = log_of_one_pair([0.0, 2.0] * 5000, 0, 2)
    variance = exploration_features(batch).reward_variance.item()
    assert variance == pytest.approx(0.25, rel=1e-3)
    batch = log_of_one_pair([2.0] * 10_000, 0, 2)
    assert exploration_features(batch).reward_variance.item() < 1e-4


# Large rewards


def log_of_one_pair(rewards: list[float], low: float, high: float) -> StatisticsBatch:
    """Return what is known after these rewards of a single pair."""
    return statistics_batch(
        counts=np.full((1, 1, 1, 1), float(len(rewards))),
        ended=np.zeros((1, 1, 1)),
        gamma=0.9,
        reward_sum=np.full((1, 1, 1), sum(rewards)),
        reward_sq_sum=np.full((1, 1, 1), sum(r**2 for r in rewards)),
        reward_range=(low, high),
    )


@pytest.mark.parametrize(
    ("rewards", "low", "high", "seen"),
    [
        ([1.0], 0, 2, True),
        ([0.99], 0, 2, False),
        ([0.1] * 7, 0.0, 0.2, True),  # half of it, but for rounding
        ([0, 0, 0, 1], 0, 1, True),
        ([0, 0, 0, 1], 0, 2.1, False),
        ([0] * 999 + [1], 0, 1, True),
        ([-1] * 999 + [1], -1, 1, True),
        ([-10, 11], -10, 100, False),  # squares over the mean are 221
        ([-10, 11], -10, 22, True),
        ([-10, 11], -1000, 100, False),
        ([-2], -2, 1, False),
        ([-2, -2], -2, -1, False),
        ([3], 2, 6, True),
        ([0], -5, 0, False),
    ],
)
def test_large_rewards_are_known_once_they_were_seen(rewards, low, high, seen):
    features = exploration_features(log_of_one_pair(rewards, low, high))
    assert features.large_reward_seen.tolist() == [seen]


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=6), st.integers(-20, -9))
def test_no_reward_counts_as_seen_that_was_not(rewards, low):
    half = max(rewards) * 1.001 + 0.001  # of the largest that is declared
    batch = log_of_one_pair(rewards, low, max(2 * half, 0.0))
    assert not exploration_features(batch).large_reward_seen.any()


def test_undeclared_rewards_are_never_known_to_be_large():
    batch = log_of_one_pair([5.0, 5.0], np.nan, np.nan)
    assert not exploration_features(batch).large_reward_seen.any()


def test_once_a_large_reward_was_seen_other_states_can_wait():
    # The mean number of visits is 20; the share is (1 + 20 + visits) / 64, at most 1.
    batch = chain([2, 4, 54, 0, 40], random=3, complete=False)
    features, exploration = build_features(batch), exploration_features(batch)
    assert not exploration.large_reward_seen.any()
    # What is left, apart from the states that bad luck may conceal.
    none, seen = torch.tensor([False]), torch.tensor([True])
    before = exploration_bonus(
        features, replace(exploration, may_have_unseen_states=none)
    )
    after = exploration_bonus(features, replace(exploration, large_reward_seen=seen))
    share = (after / before)[0, [0, 1, 2, 3], 0]
    np.testing.assert_allclose(share, [23 / 64, 25 / 64, 1, 21 / 64])
