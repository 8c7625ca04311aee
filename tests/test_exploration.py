"""What an agent plans for that explores: draws from the posterior, and hope."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_network import draw_arrays, random_network, statistics_batch

from tabrl._exploration import draw_posterior, hope
from tabrl._features import Features, StatisticsBatch, build_features, segment_sum
from tabrl._network import Posterior
from tabrl._planning import dense_transitions


def draw_process(seed: int) -> tuple[Posterior, Features]:
    """Return the posterior of random weights after random data."""
    features = build_features(statistics_batch(**draw_arrays(seed)))
    return random_network(seed)(features)[1], features


PARTS = ("edge_prob", "itself", "siblings", "predecessors", "anywhere", "ended")


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_draws_have_the_mean_and_the_deviation_of_the_posterior(spread):
    posterior, features = draw_process(0)
    rng, n_draws = np.random.default_rng(0), 3000
    draws = [
        draw_posterior(posterior, features, (spread, 0.0), rng) for _ in range(n_draws)
    ]
    n_states = features.known.sum(-1)
    assert (n_states > 1).all()
    apart = spread * (1 - (1 - features.noisy) ** 4) / (1 + n_states.log2() / 4).sqrt()
    apart = apart[:, None, None].expand_as(features.n)
    assert ((apart > 0.1 * spread) & (apart < spread)).all()
    for name in (*PARTS, "reward"):
        drawn = torch.stack([getattr(draw, name) for draw in draws])
        mean = posterior.reward[1:2] if name == "reward" else getattr(posterior, name)
        found = drawn.var(0)
        error = (drawn.mean(0) - mean).abs()
        assert (error <= 6 * (found / n_draws).sqrt() + 1e-6).all(), name
        if name == "reward":
            variance = apart**2 * features.variance / (posterior.weight[1] + 1)
            # What unseen states are worth varies besides, with how likely they are.
            assert (found >= 0.85 * variance).all()
            continue
        visits = posterior.weight[0] / apart**2
        if name == "edge_prob":
            visits = visits.view(-1)[features.edge_pair]
        often = mean > 0.05  # what is rare has too heavy a tail for a test
        assert often.any()
        ratio = found[often] / (mean * (1 - mean) / (visits + 1))[often]
        assert ((ratio > 0.75) & (ratio < 1.3)).all(), name


def test_every_draw_is_a_process():
    posterior, features = draw_process(1)
    rng = np.random.default_rng(0)
    for weight in (posterior.weight, 1e-8 * posterior.weight, 1e12 * posterior.weight):
        told = replace(posterior, weight=weight)
        drawn = draw_posterior(told, features, (1.0, 0.1), rng)
        for f in fields(drawn):
            assert getattr(drawn, f.name).isfinite().all(), f.name
        parts = [getattr(drawn, name) for name in PARTS[1:]]
        n_pairs = features.n.numel()
        edges = segment_sum(drawn.edge_prob, features.edge_pair, n_pairs)
        whole = sum(parts) + edges.view_as(features.n)
        assert all((part >= 0).all() for part in (*parts, drawn.edge_prob))
        assert (whole <= 1 + 1e-9).all()
    # The last of them is certain.
    before = dense_transitions(posterior, features)
    torch.testing.assert_close(
        dense_transitions(drawn, features), before, rtol=0, atol=1e-4
    )


def test_no_spread_is_what_is_expected_and_the_same_seed_the_same_draw():
    posterior, features = draw_process(2)
    drawn = draw_posterior(posterior, features, (0.0, 0.0), np.random.default_rng(0))
    torch.testing.assert_close(drawn.reward[0], posterior.reward[1])
    assert drawn.edge_prob is posterior.edge_prob
    one, same, other = (
        draw_posterior(posterior, features, (0.5, 0.1), np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    for f in fields(one):
        torch.testing.assert_close(getattr(one, f.name), getattr(same, f.name))
    assert (one.reward != other.reward).any()
    assert (one.edge_prob != other.edge_prob).any()


def test_where_repeating_teaches_nothing_nothing_is_drawn():
    posterior, features = draw_process(3)
    certain = replace(features, noisy=torch.zeros_like(features.noisy))
    drawn = draw_posterior(posterior, certain, (0.5, 0.0), np.random.default_rng(0))
    torch.testing.assert_close(drawn.edge_prob, posterior.edge_prob, rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.reward[0], posterior.reward[1], rtol=0, atol=0.02)


def test_hope_fades_with_the_visits_of_a_pair():
    data = statistics_batch(**draw_arrays(0))
    features = build_features(data)
    visits = data.n.mean((1, 2))
    counts = torch.as_tensor(draw_arrays(0)["counts"])
    n_next = (counts > 0).sum(-1) + (data.n_terminated > 0)
    repeated = data.n >= 2
    means = data.reward_sum / data.n.clamp(min=1e-12) / features.scale[:, None, None]
    seen = means.amax((1, 2)).clamp(min=0) - means.amin((1, 2)).clamp(max=0)
    ended = data.n_terminated.sum((1, 2)) / data.n.sum((1, 2))
    assert ((ended > 0) & (ended < 1)).all()
    # Not only states and ends: the rewards of these pairs differ as well.
    spread = data.n * data.reward_sq_sum > data.reward_sum**2 * (1 + 1e-6)
    noisy = (repeated & ((n_next > 1) | spread)).sum((1, 2)) / repeated.sum((1, 2))
    assert ((noisy > 0) & (noisy < 1)).all()
    horizon = (1 / (1 - data.gamma * (1 - noisy * ended)))[:, None, None]
    noisy = noisy[:, None, None]
    # There may be states beyond those of an incomplete set, and within a complete one
    # while some were never reached.
    reached = counts.sum((1, 2)) > 0
    assert ((data.n.sum(-1) > 0) | reached).all()
    time = visits.log1p()[:, None, None]
    few = (0.6 * horizon).clamp(min=2)
    for complete, again in ((False, (1 + time) * horizon), (True, few)):
        features = build_features(replace(data, complete=torch.tensor([complete] * 3)))
        first = (1 + noisy) / 2 * horizon
        expected = torch.where(data.n > 0, again * noisy / data.n**3, first)
        torch.testing.assert_close(hope(features), seen[:, None, None] * expected)
    declared = replace(data, reward_range=torch.tensor([[-1.0, 3.0]] * len(data.gamma)))
    span = build_features(declared).span
    torch.testing.assert_close(span, torch.full_like(span, 4 / 3))


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
    ("rewards", "low", "high", "found"),
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
def test_large_rewards_are_found_when_they_were_seen(rewards, low, high, found):
    features = build_features(log_of_one_pair(rewards, low, high))
    assert features.found.tolist() == [found]


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=6), st.integers(-20, -9))
def test_nothing_is_found_that_was_not_seen(rewards, low):
    half = max(rewards) * 1.001 + 0.001  # of the largest that is declared
    features = build_features(log_of_one_pair(rewards, low, max(2 * half, 0.0)))
    assert not features.found.any()


def test_once_a_large_reward_was_found_what_is_off_the_way_can_wait():
    arrays = draw_arrays(0)
    data = statistics_batch(**arrays)
    data = replace(data, complete=torch.tensor([False] * 3))
    mean = torch.where(data.n > 0, data.reward_sum / data.n.clamp(min=1e-9), 0.0)
    second = torch.where(data.n > 0, data.reward_sq_sum / data.n.clamp(min=1e-9), 0.0)
    best = (mean + (second - mean**2) / (mean + 5)).amax((1, 2))

    def told(*highs):
        ends = torch.tensor([[-5.0, high] for high in highs], dtype=torch.float64)
        return build_features(replace(data, reward_range=ends))

    lost = told(*(2.1 * best))
    found = told(*(1.9 * best))
    assert not lost.found.any()
    assert found.found.all()
    assert not build_features(data).found.any()  # undeclared: there may be more
    paid_nothing = replace(data, reward_sum=-data.reward_sum.abs())
    ends = torch.tensor([[-5.0, 0.0]] * 3, dtype=torch.float64)
    assert not build_features(replace(paid_nothing, reward_range=ends)).found.any()
    # As where no state is hidden, but less off the way.
    before = hope(replace(lost, hidden=torch.zeros(3, dtype=torch.bool)))
    visits = data.n.mean((1, 2))[:, None, None]
    near = ((1 + visits + data.n.sum(-1, keepdim=True)) / 64).clamp(max=1)
    assert near.min() < 0.5
    spans = (found.span / lost.span)[:, None, None]
    torch.testing.assert_close(hope(found), near * spans * before)
