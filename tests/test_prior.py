"""The prior: valid processes of every size, worth learning from, and none of the tests.

The benchmark's environments are for judging: no draw may be one of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pretraining import prior
from pretraining.benchmark.environments import environments
from pretraining.prior import FAMILIES, log_uniform
from pretraining.prior._process import (
    Process,
    shuffle_actions,
    sparse_rows,
    start_distribution,
)
from pretraining.recipe import targets
from pretraining.recipe.groups import Groups, TrainConfig
from pretraining.recipe.targets import draw_processes, evaluate_policy, solve
from pretraining.validation.sets import validation_set

SIZES = [(2, 2), (3, 2), (4, 3), (5, 6), (9, 4), (20, 5), (64, 6), (100, 2)]


@pytest.fixture(params=list(FAMILIES))
def sample(request):
    return FAMILIES[request.param]


@pytest.mark.parametrize(("n_states", "n_actions"), SIZES)
def test_families_give_valid_processes(sample, n_states, n_actions):
    rng = np.random.default_rng((n_states, n_actions))
    for _ in range(60):
        process = sample(rng, n_states, n_actions)
        shape = (n_states, n_actions, n_states)
        assert process.P.shape == process.R.shape == shape
        assert process.terminal.shape == process.start.shape == (n_states,)
        assert process.P.min() >= 0
        np.testing.assert_allclose(process.P.sum(-1), 1, atol=1e-12)
        assert np.isfinite(process.R).all()
        assert process.terminal.dtype == bool
        assert process.start.min() >= 0
        assert process.start.sum() == pytest.approx(1)
        assert not process.start[process.terminal].any()
        assert np.isfinite(process.noise)
        assert process.noise >= 0
        if process.allowed is not None:
            assert process.allowed.shape == (n_states, n_actions)
            assert process.allowed.any(1).all()
            s, a = np.nonzero(~process.allowed)
            stand_in = process.allowed.argmax(1)[s]
            np.testing.assert_array_equal(process.P[s, a], process.P[s, stand_in])
            np.testing.assert_array_equal(process.R[s, a], process.R[s, stand_in])


def test_families_follow_their_seed_and_vary(sample):
    first, again, other = (
        sample(np.random.default_rng(seed), 9, 4) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.P, again.P)
    np.testing.assert_array_equal(first.R, again.R)
    assert not np.array_equal(first.P, other.P)


def test_families_have_what_they_are_for():
    """Each of the issue's ingredients occurs: ends, costs, arrival rewards, noise."""
    rng = np.random.default_rng(0)
    drawn = [sample(rng, 12, 4) for sample in FAMILIES.values() for _ in range(100)]
    share_ending = np.mean([p.terminal.any() for p in drawn])
    share_noisy = np.mean([p.noise > 0 for p in drawn])
    share_certain = np.mean([np.isin(p.P, (0, 1)).all() for p in drawn])
    share_arrival = np.mean([np.ptp(p.R, axis=2).max() > 1e-9 for p in drawn])
    share_signed = np.mean([p.R.min() < 0 < p.R.max() for p in drawn])
    for share in (share_ending, share_noisy, share_certain, share_arrival):
        assert 0.1 < share < 0.9
    assert 0.1 < share_signed < 0.9


def rounded(r) -> np.ndarray:
    """Return rewards in units of the largest, to three places."""
    return np.round(r / (np.abs(r).max() or 1), 3) + 0.0  # no -0.0


def fingerprint(P, r) -> list[int]:
    """Return what no order of states or actions changes: refined colours of the states.

    ``P`` (S, A, S) without what ends, ``r`` (S, A) in any unit.
    """
    r = rounded(r)
    colour = [0] * len(P)
    for _ in range(4):
        colour = [
            hash(
                tuple(
                    sorted(
                        (
                            r[s, a],
                            tuple(
                                sorted(
                                    (round(P[s, a, t], 3), colour[t])
                                    for t in np.flatnonzero(P[s, a])
                                )
                            ),
                        )
                        for a in range(P.shape[1])
                    )
                )
            )
            for s in range(len(P))
        ]
    return sorted(colour)


def continuing(process) -> tuple[np.ndarray, np.ndarray]:
    """Return P without what ends and the expected rewards of a process."""
    alive = ~process.terminal
    P = process.P * alive[:, None, None]
    return P * alive, (P * process.R).sum(-1)


def is_environment(process, env) -> bool:
    """Return whether a process is an environment under other labels."""
    P, r = continuing(process)
    # Few have the same rewards, so that the slow comparison is rare.
    if (np.sort(rounded(r), None) != np.sort(rounded(env.expected_reward), None)).any():
        return False
    transition = env.transition.toarray().reshape(P.shape)
    return fingerprint(P, r) == fingerprint(transition, env.expected_reward)


def as_process(env, rng) -> Process:
    """Return an environment as a family would give it, under other labels."""
    S, A = env.n_states, env.n_actions
    P, R = np.zeros((S, A, S)), np.zeros((S, A, S))
    at = np.arange(S)[:, None, None], np.arange(A)[:, None], env.next_state
    np.add.at(P, at, env.prob)
    R[at] = np.where(env.prob > 0, env.reward, R[at])
    absorbs = P[np.arange(S), :, np.arange(S)].min(1) == 1
    ends = absorbs & (env.transition.toarray().reshape(S, -1) == 0).all(1)
    order = rng.permutation(S)
    P, R = P[order][..., order], 3 * R[order][..., order]
    return Process(P, R, ends[order], env.start[order], 0.0)


def test_no_draw_is_an_environment_of_the_benchmark():
    rng = np.random.default_rng(0)
    # A bandit has nothing but its odds to tell it by.
    small = [env for env in environments(0.99) if 1 < env.n_states <= 64]
    assert len(small) > 8
    for env in small:
        for sample in FAMILIES.values():
            for _ in range(25):
                process = sample(rng, env.n_states, env.n_actions)
                assert not is_environment(process, env), env.name


def test_an_environment_among_the_draws_would_be_found():
    rng = np.random.default_rng(0)
    found = environments(0.99)
    by_name = {env.name: env for env in found}
    for name in ("slippery-lake", "FrozenLake-v1"):
        disguised = as_process(by_name[name], rng)
        same = [env.name for env in found if env.n_states == len(disguised.P)]
        assert [n for n in same if is_environment(disguised, by_name[n])] == [name]


# What the families share


def test_log_uniform_is_uniform_in_the_logarithm():
    rng = np.random.default_rng(0)
    draws = np.array([log_uniform(rng, 0.01, 100) for _ in range(4000)])
    assert draws.min() >= 0.01
    assert draws.max() <= 100
    # Four decades: a quarter of the draws in each, five standard deviations.
    share = np.histogram(np.log10(draws), [-2, -1, 0, 1, 2])[0] / 4000
    np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.19 / 4000))


def test_sparse_rows_use_as_many_candidates_as_asked_for():
    rng = np.random.default_rng(0)
    candidates = rng.random((6, 3, 6)).argsort(-1)[..., :4]
    outdegree = rng.integers(1, 5, (6, 3))
    P = sparse_rows(rng, candidates, outdegree, 6)
    np.testing.assert_array_equal((P > 0).sum(-1), outdegree)
    np.testing.assert_allclose(P.sum(-1), 1)
    allowed = np.zeros((6, 3, 6), bool)
    np.put_along_axis(allowed, candidates, True, -1)
    assert not P[~allowed].any()


def test_shuffled_actions_are_the_same_rows():
    rows = np.arange(24.0).reshape(4, 3, 2)
    shuffled = shuffle_actions(np.random.default_rng(0), rows)
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), rows)
    assert not np.array_equal(shuffled, rows)


def test_start_is_on_allowed_states_only():
    rng = np.random.default_rng(0)
    allowed = np.array([True, False, True, True])
    starts = np.stack([start_distribution(rng, allowed) for _ in range(200)])
    np.testing.assert_allclose(starts.sum(1), 1)
    assert not starts[:, 1].any()
    assert {1, 2, 3} == set((starts > 0).sum(1))


# Targets


def value_iteration(process: Process, gamma: float) -> np.ndarray:
    """Return optimal action values; terminal states are worth nothing."""
    q = np.zeros(process.P.shape[:2])
    for _ in range(int(30 / (1 - gamma))):
        v = np.where(process.terminal, 0, q.max(1))
        q = (process.P * (process.R + gamma * v)).sum(-1)
    q[process.terminal] = 0
    return q


@pytest.mark.parametrize("gamma", [0.0, 0.8, 0.99])
def test_targets_are_optimal_values(sample, gamma):
    rng = np.random.default_rng(1)
    processes = [sample(rng, 8, 3) for _ in range(10)]
    batch = solve(processes, np.full(10, gamma))
    for i, process in enumerate(processes):
        np.testing.assert_allclose(
            batch.q[i], value_iteration(process, gamma), rtol=1e-6, atol=1e-6
        )


def test_values_of_policies_by_linear_solve():
    rng = np.random.default_rng(2)
    process = FAMILIES["graphs"](rng, 6, 3)
    batch = solve([process], np.array([0.9]))
    pi = rng.dirichlet(np.ones(3), 6)
    alive = (~process.terminal).astype(float)
    P = np.einsum("sa,sat->st", pi, process.P) * alive * alive[:, None]
    r = np.einsum("sa,sat,sat->s", pi, process.P, process.R) * alive
    expected = np.linalg.solve(np.eye(6) - 0.9 * P, r)
    found = evaluate_policy(
        batch.continuing, batch.reward, batch.gamma, torch.from_numpy(pi)[None]
    )
    np.testing.assert_allclose(found[0], expected, atol=1e-9)


def test_draws_are_worth_learning_from():
    rng = np.random.default_rng(3)
    batch = draw_processes(rng, 50, 7, 3)
    assert batch.P.shape == (50, 7, 3, 7)
    gain = (batch.start * (batch.q.amax(-1) - batch.v_uniform)).sum(-1)
    assert (gain > 0.009 * batch.q.amax(-1).abs().amax(-1)).all()
    assert ((batch.gamma > 0.79) & (batch.gamma < 0.996)).all()
    assert batch.gamma.unique().numel() == 50


def test_processes_that_teach_nothing_are_drawn_again(monkeypatch):
    useless = []

    def half_useless(rng, n_states, n_actions):
        process = FAMILIES["graphs"](rng, n_states, n_actions)
        if rng.random() < 0.5:
            useless.append(process)
            # All actions alike.
            P = np.repeat(process.P[:, :1], n_actions, axis=1)
            return Process(
                P, np.zeros_like(P), process.terminal, process.start, process.noise
            )
        return process

    monkeypatch.setitem(targets.FAMILIES, "half", half_useless)
    batch = draw_processes(np.random.default_rng(4), 20, 5, 3, ["half"])
    assert len(useless) > 5
    assert len(batch.gamma) == 20
    assert (batch.P.std(2).amax((1, 2)) > 0).all()


def test_the_best_action_of_a_state_is_one_that_it_has():
    batch = draw_processes(np.random.default_rng(0), 200, 6, 3)
    assert not batch.allowed.all()
    best = batch.q.masked_fill(~batch.allowed, -torch.inf).amax(-1)
    np.testing.assert_allclose(best, batch.q.amax(-1))


def toy(rng: np.random.Generator, n_states: int, n_actions: int) -> Process:
    """Return a process in which one action of the first state pays, and ends."""
    P = np.tile(np.eye(n_states)[0], (n_states, n_actions, 1))
    P[0, 0] = np.eye(n_states)[-1]
    R = np.zeros((n_states, n_actions, n_states))
    R[0, 0] = 1.0
    start, terminal = np.eye(n_states)[0], np.arange(n_states) == n_states - 1
    return Process(P, R, terminal, start, 0.0)


def test_a_new_family_is_one_module_and_one_line():
    """Every module is registered, so that a module alone is not forgotten."""
    folder = Path(prior.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if path.stem[0] != "_"}
    assert modules - {"variations"} == set(FAMILIES)


def test_a_registered_family_is_trained_on_and_validated(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", toy)
    config = TrainConfig(max_states=6, large_share=0, pairs_per_group=60)
    assert "toy" not in config.families  # those of the release stay as they are
    groups = Groups(replace(config, families=("toy",)), 40)
    sizes = set()
    for i in range(10):
        _, S, _, _ = groups[i].batch.P.shape
        is_toy = (groups[i].batch.P[:, 0, 0, -1] == 1) & groups[i].batch.terminal[:, -1]
        assert S <= 2 or is_toy.all()  # one state or one pull: bandits
        sizes.add(S)
    assert max(sizes) > 2
    cells = [cell for cell in validation_set(8) if cell[0] == "toy"]
    assert [size for _, size, _, _ in cells] == [16, 128, 1024, 8192]
    assert all(batch.terminal[:, -1].all() for _, _, batch, _ in cells)
