"""Simulation, losses and the trainer: exact sums, exact resuming, loud failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import binom, norm

from pretraining.prior import FAMILIES, Process
from pretraining.recipe import train as trainer
from pretraining.recipe.loss import (
    WEIGHTS,
    compute_losses,
    divergence,
    normalised_regret,
    optimal_actions,
)
from pretraining.recipe.simulate import (
    Log,
    _independent_counts,
    _occupancy_counts,
    behaviour_policies,
    draw_reward_ranges,
    explore,
    exploring_policy,
    simulate,
    to_statistics,
    walk,
    with_rewards,
)
from pretraining.recipe.targets import ProcessBatch, draw_processes, solve, uniform
from pretraining.recipe.train import (
    Diverged,
    Groups,
    NotSaved,
    TrainConfig,
    learning_rate,
    train,
    use_bfloat16,
)
from pretraining.validation.controls import certainty_equivalence
from tabrl._features import StatisticsBatch, build_features
from tabrl._network import Network, NetworkConfig
from tabrl._planning import greedy, plan_dense
from tabrl._statistics import Statistics

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
UNDECLARED = np.full((1, 2), np.nan)


@pytest.fixture(scope="module")
def batch() -> ProcessBatch:
    return draw_processes(np.random.default_rng(0), 6, 7, 3)


def noisy_chain(noise=0.5) -> ProcessBatch:
    """Two states and an end; rewards depend on where one arrives."""
    P = np.zeros((3, 2, 3))
    P[0] = [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]
    P[1] = [[0.2, 0.0, 0.8], [0.0, 0.7, 0.3]]
    P[2, :, 2] = 1
    R = np.zeros((3, 2, 3))
    R[0, 0] = [1, 2, -4]
    R[1, 0] = [0, 0, 3]
    terminal = np.array([False, False, True])
    process = Process(P, R, terminal, np.array([1.0, 0, 0]), noise)
    return solve([process], np.array([0.9]))


def small_network(seed=0) -> Network:
    """Return a network whose zero-initialised heads say something too."""
    torch.manual_seed(seed)
    network = Network(NetworkConfig(width=8, n_layers=2, n_heads=2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


# Simulation


def assert_follows(batch, counts):
    """Check counts within exact binomial bounds, and that nothing leaves from ends.

    The bounds are as improbable as five standard deviations of a normal variable, which
    is too narrow for a count whose expectation is small.
    """
    P, alive = batch.P.numpy().clip(0, 1), ~batch.terminal.numpy()
    n = counts.sum(-1)
    assert not n[~alive].any()
    drawn = binom(n[..., None], P)
    tail = norm.sf(5)
    assert (counts >= drawn.ppf(tail)).all()
    assert (counts <= drawn.isf(tail)).all()
    assert not counts[P == 0].any()


def test_walks_have_the_size_asked_for_and_follow_the_process(batch):
    rng = np.random.default_rng(1)
    size = np.array([1, 7, 100, 999, 20_000, 3])
    pi = rng.dirichlet(np.ones(3), (6, 7))
    counts = walk(rng, batch, pi, size)
    np.testing.assert_array_equal(counts.sum((1, 2, 3)), size)
    assert_follows(batch, counts)
    # The policy too.
    n = counts.sum(-1)
    total = n.sum(-1, keepdims=True)
    spread = np.sqrt(total * pi * (1 - pi))
    assert (np.abs(n - total * pi) <= 5 * spread + 1e-9).all()


def test_a_walk_is_a_path(batch):
    rng = np.random.default_rng(2)
    pi = np.full((6, 7, 3), 1 / 3)
    counts = walk(rng, batch, pi, np.full(6, 9))  # fewer than the shortest episode
    terminal = batch.terminal.numpy()
    for b in range(6):
        leaving, arriving = counts[b].sum((1, 2)), counts[b].sum((0, 1))
        arriving = np.where(terminal[b], 0, arriving)
        restarts = counts[b].sum((0, 1))[terminal[b]].sum()
        # Every state is left as often as entered, but for starts and the last state.
        surplus = leaving - arriving
        assert surplus.clip(0).sum() <= restarts + 1
        assert set(np.flatnonzero(surplus > 0)) <= set(np.flatnonzero(batch.start[b]))


@pytest.mark.parametrize("draw", [_independent_counts, _occupancy_counts])
def test_poisson_data_sets_follow_the_process(draw, batch):
    rng = np.random.default_rng(3)
    size = np.full(6, 30_000)
    counts = draw(rng, batch, size)
    assert_follows(batch, counts)
    assert (np.abs(counts.sum((1, 2, 3)) - size) < 5 * np.sqrt(size)).all()


def test_occupancy_is_that_of_walks(monkeypatch):
    # Episodes are short here, so that how long ones are cut hardly matters.
    batch = noisy_chain()
    pi = np.array([[[0.7, 0.3], [0.4, 0.6], [0.5, 0.5]]])
    monkeypatch.setattr("pretraining.recipe.simulate.behaviour_policies", lambda *_: pi)
    rng = np.random.default_rng(4)
    size = np.array([40_000])
    occupied = _occupancy_counts(rng, batch, size)
    walked = walk(rng, batch, pi, size)
    np.testing.assert_allclose(occupied / 40_000, walked / 40_000, atol=0.02)


def test_behaviours_are_policies_from_random_to_narrow(batch):
    rng = np.random.default_rng(5)
    pi = np.concatenate([behaviour_policies(rng, batch) for _ in range(50)])
    np.testing.assert_allclose(pi.sum(-1), 1)
    assert pi.min() >= 0
    uniform = np.isclose(pi, 1 / 3).all((1, 2)).mean()
    narrow = (pi.max(-1) > 0.8).all(1).mean()
    assert 0.1 < uniform < 0.3
    assert narrow > 0.2


def test_rewards_without_noise_are_exact():
    batch = noisy_chain(noise=0.0)
    counts = np.zeros((1, 3, 2, 3))
    counts[0, 0, 0] = [4, 2, 1]
    counts[0, 1, 0] = [5, 0, 1]
    log = with_rewards(np.random.default_rng(0), batch, counts)
    assert log.reward_sum[0].tolist() == [[4, 0], [3, 0], [0, 0]]
    assert log.reward_sq_sum[0].tolist() == [[28, 0], [9, 0], [0, 0]]


def test_rewards_with_noise_have_the_right_moments():
    batch = ProcessBatch.concatenate([noisy_chain(noise=0.5)] * 4000)
    counts = np.zeros((4000, 3, 2, 3))
    counts[:, 0, 0] = [4, 2, 1]
    counts[:, 0, 1] = [0, 1, 0]
    log = with_rewards(np.random.default_rng(1), batch, counts)
    n = counts.sum(-1)
    total, squares = log.reward_sum[:, 0], log.reward_sq_sum[:, 0]
    # 7 rewards with sum 4 and sum of squares 28, each with noise of variance 1/4.
    standard_error = np.sqrt(7 / 4 / 4000)
    assert total[:, 0].mean() == pytest.approx(4, abs=5 * standard_error)
    assert total[:, 0].var() == pytest.approx(7 / 4, rel=0.15)
    assert squares[:, 0].mean() == pytest.approx(28 + 7 / 4, rel=0.02)
    # No data set is impossible: the variance is never negative, and zero of one row.
    assert (squares - total**2 / n[:, 0].clip(1) >= -1e-9).all()
    np.testing.assert_allclose(squares[:, 1], total[:, 1] ** 2)
    assert not log.reward_sum[n == 0].any()
    assert not log.reward_sq_sum[n == 0].any()


def test_simulated_sizes_and_exploration(batch):
    rng = np.random.default_rng(6)
    size = np.array([1, 10, 100, 1000, 5000, 50_000])
    log = simulate(rng, batch, size)
    n = log.counts.sum((1, 2, 3))
    assert (np.abs(n - size) <= 5 * np.sqrt(size)).all()
    more = explore(rng, batch, np.full((6, 7, 3), 1 / 3), np.full(6, 50))
    both = log + more
    np.testing.assert_array_equal(both.counts.sum((1, 2, 3)), n + 50)
    np.testing.assert_allclose(both.reward_sum, log.reward_sum + more.reward_sum)


def test_declared_ranges_hold_all_rewards(batch):
    rng = np.random.default_rng(7)
    batches = ProcessBatch.concatenate([batch] * 20)
    ranges = draw_reward_ranges(rng, batches)
    declared = np.isfinite(ranges).all(1)
    assert (np.isfinite(ranges).any(1) == declared).all()
    assert 0.3 < declared.mean() < 0.7
    possible = (batches.P > 0).numpy() & ~batches.terminal.numpy()[..., None, None]
    R, (low, high) = batches.R.numpy(), ranges.T[:, :, None, None, None]
    inside = (R >= low) & (R <= high) | ~possible
    assert inside[declared].all()


# What training sees is what inference sees


def statistics_of(batch, log) -> Statistics:
    """Return the statistics of the first data set, by listing its transitions."""
    index = np.argwhere(log.counts[0])
    s, a, t = np.repeat(index, log.counts[0][tuple(index.T)].astype(int), 0).T
    ended = batch.terminal[0].numpy()[t]
    R = batch.R[0].numpy()
    return Statistics.from_codes(s, a, R[s, a, t], t, ended, *R.shape[:2])


def without_noise(batch: ProcessBatch) -> ProcessBatch:
    """Return the batch of one process, every reward of which is its mean."""
    none = torch.zeros(1, dtype=torch.float64)
    return replace(batch, noise=none, outcomes=torch.full((1, 2), torch.nan).double())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_training_and_inference_make_the_same_features(family):
    rng = np.random.default_rng(8)
    batch = draw_processes(rng, 1, 9, 3, [family])
    batch = without_noise(batch)
    log = simulate(rng, batch, np.array([60]))
    gamma = float(batch.gamma)
    training = to_statistics(batch, log, np.array([False]), UNDECLARED)
    inference = StatisticsBatch.from_statistics(
        statistics_of(batch, log),
        gamma,
        allowed=batch.allowed[0].numpy(),
        complete=True,
    )
    terminal = batch.terminal[0].numpy()
    ended = terminal & log.counts[0].any((0, 1))
    np.testing.assert_array_equal(training.known[0], ~ended)
    inference = replace(inference, known=training.known)
    for field in fields(StatisticsBatch):
        left, right = getattr(training, field.name), getattr(inference, field.name)
        assert left.shape == right.shape, field.name
        torch.testing.assert_close(
            left.double(), right.double(), rtol=1e-5, atol=1e-5, equal_nan=True
        )


def test_nobody_knows_of_the_end_of_a_bandit_before_the_first_pull():
    batch = draw_processes(np.random.default_rng(0), 200, 2, 3, ["bandits"])
    ends = batch.terminal[:, 1]
    assert 0 < ends.sum() < 200
    shape = batch.P.shape
    log = Log(np.zeros(shape), np.zeros(shape[:3]), np.zeros(shape[:3]))
    known = to_statistics(
        batch, log, np.zeros(200, bool), np.repeat(UNDECLARED, 200, 0)
    ).known
    assert known[:, 0].all()
    torch.testing.assert_close(known[:, 1], ~ends)


def test_contexts_are_explored_as_by_an_agent():
    """Two arms, one tried: an agent that hopes tries the other."""
    P, R = np.ones((1, 2, 1)), np.array([[[0.4], [0.0]]])
    batch = solve([Process(P, R, np.array([False]), np.ones(1), 0.0)], np.array([0.99]))
    counts = np.array([[[[5.0], [0.0]]]])
    log = Log(counts, 0.4 * counts.sum(-1), 0.16 * counts.sum(-1))
    data = to_statistics(batch, log, np.array([False]), np.array([[0.0, 1.0]]))
    network = Network(NetworkConfig(width=8, n_layers=1, n_heads=2))
    rng = np.random.default_rng(0)
    assert exploring_policy(network, data, rng).tolist() == [[[0, 1]]]
    network.optimism = (0.0, 0.0)
    assert exploring_policy(network, data, rng).tolist() == [[[1, 0]]]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_an_offline_log_does_not_show_is_padding(family):
    rng = np.random.default_rng(9)
    batch = draw_processes(rng, 1, 12, 3, [family])
    batch = without_noise(batch)
    log = simulate(rng, batch, np.array([25]))
    training = to_statistics(batch, log, np.array([True]), UNDECLARED)
    known = training.known[0]
    arrivals = torch.zeros(12).index_add_(0, training.edge_next, training.edge_count)
    assert not training.n[0][~known].any()
    assert not arrivals[~known].any()

    statistics = statistics_of(batch, log)
    active = np.flatnonzero(statistics.active_states)
    np.testing.assert_array_equal(np.flatnonzero(known), active)
    inference = StatisticsBatch.from_statistics(
        statistics.compress(active),
        float(batch.gamma),
        allowed=batch.allowed[0, active].numpy(),
    )
    network = small_network().double()
    values = []
    for data in (training, inference):
        features = build_features(data)
        _, posterior = network(features)
        values.append(plan_dense(posterior, features).double())
    torch.testing.assert_close(values[0][:, :, known], values[1], rtol=1e-3, atol=1e-3)


# Losses


def test_regret_is_zero_for_optimal_and_one_for_uniform(batch):
    optimal = optimal_actions(batch).double()
    optimal /= optimal.sum(-1, keepdim=True)
    random = uniform(batch.allowed).double()
    worst = greedy(-batch.q)
    for everywhere in (0.0, 0.5):
        torch.testing.assert_close(
            normalised_regret(batch, optimal, everywhere),
            torch.zeros(6, dtype=torch.float64),
            rtol=0,
            atol=1e-4,
        )
        torch.testing.assert_close(
            normalised_regret(batch, random, everywhere),
            torch.ones(6, dtype=torch.float64),
        )
        assert (normalised_regret(batch, worst, everywhere) > 1).any()


def test_greedy_shares_ties():
    q = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, -1.0]])
    assert greedy(q).tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]


def losses_of(network, batch, seed=0, size=60):
    rng = np.random.default_rng(seed)
    n = len(batch.gamma)
    log = simulate(rng, batch, np.full(n, size))
    statistics = to_statistics(
        batch, log, np.zeros(n, bool), draw_reward_ranges(rng, batch)
    )
    return compute_losses(network, batch.to("cpu", torch.float32), statistics)


def test_the_gradient_reaches_every_parameter(batch):
    network = small_network()
    losses_of(network, batch).total.backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_losses_are_those_of_the_network(batch):
    losses = losses_of(small_network(), batch)
    assert losses.policy.shape == (6, 7, 3)
    torch.testing.assert_close(losses.policy.sum(-1), torch.ones(6, 7))
    regret = normalised_regret(batch, losses.policy.double()).clamp(max=2)
    assert losses.regret.item() == pytest.approx(regret.mean().item(), rel=1e-3)
    assert ((losses.coverage >= 0) & (losses.coverage <= 1)).all()
    assert 0 <= losses.brier.item() <= 1


@pytest.mark.parametrize(("n", "times"), [(0, 1), (8, 3), (99, 10), (10_000, 10)])
def test_well_known_pairs_count_more_in_the_quantile_loss(batch, n, times, monkeypatch):
    monkeypatch.setattr(
        "pretraining.recipe.loss.WEIGHTS",
        dict.fromkeys(WEIGHTS, 0) | {"quantile": 0.5},
    )
    counts = np.zeros(batch.P.shape)
    counts[..., 0] = n
    log = Log(counts, counts.sum(-1), counts.sum(-1))
    data = to_statistics(batch, log, np.zeros(6, bool), np.repeat(UNDECLARED, 6, 0))
    losses = compute_losses(small_network(), batch.to("cpu", torch.float32), data)
    expected = 0.5 * times * losses.quantile
    torch.testing.assert_close(losses.total, expected)


def test_divergence_by_hand():
    """Ends are one next state, and states that are not known another."""
    batch = noisy_chain()
    everything = torch.tensor([[True, True, False]])
    nothing = torch.zeros(1, 3, 2, dtype=torch.float64)
    ends = batch.P[..., 2]
    torch.testing.assert_close(
        divergence(batch, everything, batch.continuing, ends), nothing
    )
    # An end that is known, as a state that was never reached, is one all the same.
    known = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(divergence(batch, known, batch.P, nothing), nothing)

    expected = torch.zeros(1, 3, 2, 3, dtype=torch.float64)
    expected[0, :2, :, 0] = 0.5
    found = divergence(batch, everything, expected, nothing + 0.25)
    by_hand = 0.25 * np.log(0.25 / 1e-5)  # state 1, for which 1e-5 is the least
    assert found[0, 0, 0].item() == pytest.approx(by_hand)
    # State 1 is not known: going there is the quarter that is left.
    known = torch.tensor([[True, False, False]])
    found = divergence(batch, known, expected, nothing + 0.25)
    assert found[0, 0, 0].item() == pytest.approx(0)
    by_hand = rel_entr([0.2, 0.8], [0.5, 0.25]).sum()
    assert found[0, 1, 0].item() == pytest.approx(by_hand)


def coin(odds: list[float]) -> ProcessBatch:
    """From state 0 one goes to a state that pays, or stays; each as likely a batch."""
    P = np.zeros((len(odds), 2, 2, 2))
    P[:, 0, 0, 1], P[:, 0, 0, 0] = odds, 1 - np.array(odds)
    P[:, 0, 1, 0], P[:, 1, :, 0] = 1, 1
    R = np.zeros((2, 2, 2))
    R[0, :, 1] = 1
    alive, start = np.zeros(2, bool), np.array([1.0, 0])
    processes = [Process(p, R, alive, start, 0.0) for p in P]
    return solve(processes, np.full(len(odds), 0.9))


def test_divergence_is_least_for_the_posterior_mean():
    batch = coin([0.2, 0.6])
    known = torch.ones(2, 2, dtype=torch.bool)
    never = torch.zeros(2, 2, 2, dtype=torch.float64)

    def mean(odds: float) -> float:
        expected = batch.P.clone()
        expected[:, 0, 0] = torch.tensor([1 - odds, odds])
        return divergence(batch, known, expected, never)[:, 0, 0].mean().item()

    assert min(np.linspace(0.1, 0.9, 81), key=mean) == pytest.approx(0.4)


def test_the_loss_of_the_mean_reward_is_least_for_the_posterior_mean(monkeypatch):
    monkeypatch.setattr(
        "pretraining.recipe.loss.WEIGHTS", dict.fromkeys(WEIGHTS, 0) | {"reward": 1}
    )
    batch = coin([0.2, 0.6])
    none = np.zeros(batch.P.shape)
    log = Log(none, none.sum(-1), none.sum(-1))
    declared = np.repeat([[0.0, 1.0]], 2, 0)
    data = to_statistics(batch, log, np.zeros(2, bool), declared)
    network = Network(NetworkConfig(width=8, n_layers=1, n_heads=2))
    single = batch.to("cpu", torch.float32)
    losses = compute_losses(network, single, data)
    # A new network expects rewards of zero; of four pairs one pays.
    by_hand = (0.2**2 + 0.6**2) / 2 / 4
    assert losses.reward.item() == pytest.approx(by_hand)
    assert losses.total.item() == pytest.approx(by_hand)
    with torch.no_grad():
        network.posterior_head.bias[2] = 1e4
    far = compute_losses(network, single, data).reward.item()
    assert far == pytest.approx(1 + 2 * np.log(1e4), rel=1e-3)


def test_a_few_steps_on_one_batch_lower_the_loss(batch):
    network = Network(NetworkConfig(width=16, n_layers=1))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        losses = losses_of(network, batch)
        losses.total.backward()
        optimizer.step()
        history.append(losses.total.item())
    assert history[-1] < 0.9 * history[0]


def test_certainty_equivalence_is_optimal_with_all_the_data():
    batch = noisy_chain(noise=0.0)
    counts = 1e6 * batch.P.numpy() * ~batch.terminal.numpy()[..., None, None]
    log = with_rewards(np.random.default_rng(0), batch, counts)
    statistics = to_statistics(batch, log, np.array([True]), UNDECLARED)
    found = certainty_equivalence(statistics)
    torch.testing.assert_close(found, batch.q, rtol=1e-5, atol=1e-5)


# The trainer

TINY = TrainConfig(
    n_steps=12,
    groups_per_step=2,
    pairs_per_group=50,
    max_states=6,
    large_share=0.1,
    largest_states=12,
    max_actions=3,
    max_log_size=100.0,
    warmup_steps=3,
    network=NetworkConfig(width=8, n_layers=1, n_heads=2),
)


@pytest.fixture(autouse=True)
def _one_thread():
    """The order of sums, and so the last digits, depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state_of(out) -> dict:
    return torch.load(out / "state.pt", weights_only=True)


def metrics_of(out) -> list[dict]:
    """Return the rows of a run but for the time they took."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        del row["seconds"]
    return rows


def assert_same_run(left, right):
    """Check that two folders hold the same weights, averages and metrics but time."""
    a, b = state_of(left), state_of(right)
    assert a["step"] == b["step"]
    for kind in ("network", "average"):
        for name, value in a[kind].items():
            torch.testing.assert_close(value, b[kind][name], rtol=0, atol=0)
    assert metrics_of(left) == metrics_of(right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted run."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    assert train(TINY, out, CPU, n_workers=0, checkpoint_every=5)
    return out


def test_a_run_leaves_metrics_and_a_manifest(whole):
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == list(range(1, 13))
    for row in rows:
        assert np.isfinite(list(row.values())).all()
        assert row["processes"] >= 4
        assert row["seconds"] > 0
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["steps"] == 12
    assert manifest["config"] == json.loads(json.dumps(asdict(TINY)))
    assert manifest["config"]["seed"] == TINY.seed
    assert {"commit", "hardware"} <= manifest.keys()
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["ranks"] == 1
    assert 0 <= manifest["hours"] < 0.1
    assert not list(whole.glob("*.tmp"))


def test_the_same_seed_gives_the_same_weights(whole, tmp_path):
    train(TINY, tmp_path / "again", CPU, n_workers=0, checkpoint_every=7)
    assert_same_run(tmp_path / "again", whole)
    train(replace(TINY, seed=1), tmp_path / "other", CPU, n_workers=0)
    other = state_of(tmp_path / "other")["network"]
    same = state_of(whole)["network"]
    assert any((value != same[name]).any() for name, value in other.items())


def test_data_workers_change_nothing(whole, tmp_path):
    train(TINY, tmp_path, CPU, n_workers=1)
    assert_same_run(tmp_path, whole)


def test_resuming_after_every_step_changes_nothing(whole, tmp_path):
    calls = 1
    while not train(TINY, tmp_path, CPU, n_workers=0, minutes=0):
        calls += 1
    assert calls == 12
    assert_same_run(tmp_path, whole)
    # A complete run stays as it is.
    assert train(TINY, tmp_path, CPU, n_workers=0)
    assert_same_run(tmp_path, whole)


def test_a_crash_between_checkpoints_changes_nothing(whole, tmp_path, monkeypatch):
    def crash(config, step):
        if step == 8:
            raise KeyboardInterrupt
        return learning_rate(config, step)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "learning_rate", crash)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path, CPU, n_workers=0, checkpoint_every=5)
    assert state_of(tmp_path)["step"] == 5
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8
    assert train(TINY, tmp_path, CPU, n_workers=0, checkpoint_every=5)
    assert_same_run(tmp_path, whole)


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_sigkill_and_resume_give_the_metrics_of_an_uninterrupted_run(whole, tmp_path):
    script = (
        "import sys, time, torch; from pathlib import Path\n"
        "from pretraining import train as t; from tests import test_pretraining as me\n"
        "torch.set_num_threads(1); one = t.train_on_group\n"
        "def slow(*args):\n"
        "    time.sleep(0.05)\n"
        "    return one(*args)\n"
        "t.train_on_group = slow\n"
        "t.train(me.TINY, Path(sys.argv[1]), me.CPU, 0, checkpoint_every=2)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    state, waited = tmp_path / "state.pt", time.monotonic()
    while not state.exists() and run.poll() is None:
        assert time.monotonic() - waited < 60
        time.sleep(0.01)
    time.sleep(0.15)
    run.send_signal(signal.SIGKILL)
    _, errors = run.communicate()
    assert run.returncode == -signal.SIGKILL, errors.decode()
    assert 2 <= state_of(tmp_path)["step"] < 12
    assert train(TINY, tmp_path, CPU, n_workers=0)
    assert_same_run(tmp_path, whole)


def test_half_a_line_of_metrics_is_dropped(whole, tmp_path):
    train(TINY, tmp_path, CPU, n_workers=0, minutes=0)
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 2, "tot')
    train(TINY, tmp_path, CPU, n_workers=0)
    assert_same_run(tmp_path, whole)


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    train(TINY, tmp_path, CPU, n_workers=0, minutes=0)
    before = (tmp_path / "metrics.jsonl").read_text()
    other = replace(TINY, learning_rate=1e-3)
    with pytest.raises(ValueError, match="made with another configuration"):
        train(other, tmp_path, CPU, n_workers=0)
    assert state_of(tmp_path)["step"] == 1
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_run_may_be_shortened_and_its_manifest_says_so(tmp_path):
    train(TINY, tmp_path, CPU, n_workers=0, minutes=0)
    shorter = replace(TINY, n_steps=2)
    assert train(shorter, tmp_path, CPU, n_workers=0)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["steps"] == 2
    assert manifest["n_steps_from_step"] == [[0, TINY.n_steps], [1, 2]]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(
    tmp_path, monkeypatch
):
    honest = trainer.compute_losses
    calls = []

    def break_down(network, batch, statistics):
        losses = honest(network, batch, statistics)
        calls.append(1)
        return replace(losses, total=losses.total * (np.nan if len(calls) > 14 else 1))

    monkeypatch.setattr(trainer, "compute_losses", break_down)
    with pytest.raises(Diverged, match=r"Loss nan.* at step .*last good state"):
        train(TINY, tmp_path, CPU, n_workers=0, checkpoint_every=1)
    state = state_of(tmp_path)
    assert 1 <= state["step"] < 12
    for kind in ("network", "average"):
        assert all(torch.isfinite(value).all() for value in state[kind].values())
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == state["step"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize(
    ("file", "step"), [("metrics.tmp", 1), ("state.tmp", 1), ("manifest.tmp", 3)]
)
def test_a_full_disk_stops_and_keeps_the_last_state(whole, tmp_path, file, step):
    train(TINY, tmp_path, CPU, n_workers=0, minutes=0)
    (tmp_path / file).symlink_to("/dev/full")
    with pytest.raises(NotSaved, match=r"No space left.* last checkpoint, step 1\."):
        train(TINY, tmp_path, CPU, n_workers=0, checkpoint_every=3)
    assert state_of(tmp_path)["step"] == step  # the manifest is written last
    # With room again the run goes on, and ends as if nothing had been.
    assert not list(tmp_path.glob("*.tmp"))
    train(TINY, tmp_path, CPU, n_workers=0)
    assert_same_run(tmp_path, whole)


def test_rows_from_before_the_first_checkpoint_are_dropped(whole, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    train(TINY, tmp_path, CPU, n_workers=0)
    assert_same_run(tmp_path, whole)


def test_learning_rate_warms_up_and_falls():
    config = TrainConfig(n_steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[100] == pytest.approx(0.02)


def test_groups_depend_on_seed_and_index_alone():
    config = replace(TINY, max_states=20, large_share=0.0, max_actions=5)
    groups, fewer = Groups(config, 40), Groups(config, 10)
    sizes = set()
    for index in (7, 3, 7):
        group, same = groups[index], fewer[index]
        np.testing.assert_array_equal(group.log.counts, same.log.counts)
        np.testing.assert_array_equal(group.batch.P, same.batch.P)
    for index in range(40):
        _, n_states, n_actions, _ = groups[index].log.counts.shape
        assert 1 <= n_states <= 20
        assert 2 <= n_actions <= 5
        sizes.add((n_states, n_actions))
    assert len(sizes) > 15
    other = Groups(replace(config, seed=1), 40)[3]
    assert other.log.counts.shape != groups[3].log.counts.shape or not np.array_equal(
        other.log.counts, groups[3].log.counts
    )


def test_a_share_of_the_groups_is_large_and_one_state_is_a_bandit():
    groups = Groups(replace(TINY, max_states=4, large_share=0.3), 60)
    states = [groups[i].log.counts.shape[1] for i in range(60)]
    assert max(states) <= TINY.largest_states
    # 18 are expected; five standard deviations.
    assert 1 <= sum(n > 4 for n in states) <= 36
    assert 1 in states
    assert 2 in states


def test_configurations_of_the_recipes_are_readable_and_unknown_keys_are_not(tmp_path):
    paths = sorted((ROOT / "pretraining" / "runs").glob("*.json"))
    configs = {path.stem: TrainConfig.from_json(path) for path in paths}
    assert configs.keys() >= {"base", "cuda", "smoke"}
    for config in configs.values():
        assert set(config.families) == set(FAMILIES)
        Network(config.network)
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"n_step": 3}')
    with pytest.raises(TypeError, match="n_step"):
        TrainConfig.from_json(wrong)


def command_line(config, tmp_path) -> list[str]:
    """Return the arguments that train on the CPU into ``tmp_path / "run"``."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(config)))
    arguments = ["--config", str(path), "--out", str(tmp_path / "run")]
    return [*arguments, "--device", "cpu", "--threads", "1", "--workers", "0"]


def test_command_line_trains(tmp_path, monkeypatch):
    arguments = command_line(replace(TINY, n_steps=2), tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    trainer.main()
    assert state_of(tmp_path / "run")["step"] == 2
    # More steps, and the manifest says so.
    monkeypatch.setattr(sys, "argv", ["train", *arguments, "--steps", "3"])
    trainer.main()
    assert state_of(tmp_path / "run")["step"] == 3
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["n_steps_from_step"] == [[0, 2], [2, 3]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_command_line_says_in_one_line_why_it_fails(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.tmp").symlink_to("/dev/full")
    arguments = command_line(replace(TINY, n_steps=2), tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit, match=r"^The run cannot be written: .*step 0\.$"):
        trainer.main()  # a message as status means 1


# bfloat16


def test_the_network_alone_computes_in_bfloat16(batch):
    exact, network = small_network(), small_network()
    use_bfloat16(network, "cpu")
    dtypes = []
    hook = lambda module, args, output: dtypes.append(output.dtype)  # noqa: E731
    for layer in (network.embed_pair, network.residual_head[0]):
        layer.register_forward_hook(hook)
    losses, expected = losses_of(network, batch), losses_of(exact, batch)
    assert dtypes == [torch.bfloat16, torch.bfloat16]
    for value in (losses.total, losses.policy, losses.q_high):
        assert value.dtype == torch.float32
    assert 0 < (losses.policy - expected.policy).abs().max() < 0.1
    assert losses.total.item() == pytest.approx(expected.total.item(), rel=0.02)
    losses.total.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_is_close_to_the_cpu(whole, tmp_path):
    assert train(TINY, tmp_path, torch.device("cuda"), n_workers=0)
    here, there = metrics_of(whole), metrics_of(tmp_path)
    assert there[0]["total"] == pytest.approx(here[0]["total"], rel=0.05)
    assert len(there) == len(here)


# Several processes


@pytest.mark.skipif(sys.platform != "linux", reason="names the loopback interface")
@pytest.mark.parametrize("begun_by", [2, 1])
def test_two_ranks_take_the_steps_of_one(tmp_path, begun_by):
    config = replace(TINY, groups_per_step=3)  # which two ranks cannot halve
    train(config, tmp_path / "one", CPU, n_workers=0)
    if begun_by == 1:
        train(config, tmp_path / "run", CPU, n_workers=0, minutes=0)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--local-addr=127.0.0.1", "--nproc-per-node=2"]
    subprocess.run(
        [*torchrun, "-m", "pretraining.recipe.train", *command_line(config, tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        check=True,
        timeout=300,
    )
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "run")
    for left, right in zip(one, two, strict=True):
        assert right == pytest.approx(left, rel=1e-3, abs=1e-4)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["ranks"] == 2


def test_more_ranks_than_groups_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "_rank", lambda: (0, 3))
    with pytest.raises(ValueError, match=r"number of ranks, 3\. Got 2"):
        train(TINY, tmp_path, CPU, n_workers=0)
