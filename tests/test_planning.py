"""Exact planning: closed forms, dense against sparse, and the gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.linalg import lu_factor, lu_solve

from tabrl import _planning
from tabrl._features import Features
from tabrl._network import Posterior
from tabrl._planning import (
    SparseProcess,
    dense_transitions,
    evaluate_actions,
    greedy,
    plan_dense,
    plan_sparse,
    policy_iteration,
)

seeds = st.integers(0, 2**32 - 1)


def make_features(n_sets, n_states, n_actions, gamma, **edges) -> Features:
    """Return features with all that planning reads; the rest is empty."""
    empty = torch.zeros(0, dtype=torch.float64)
    names = "pair state data reward terminated scale"
    edges_of = "edge_prob edge_sibling edge_predecessor"
    fields = {name: empty for name in f"{names} {edges_of}".split()}
    fields |= {
        "n": torch.zeros(n_sets, n_states, n_actions, dtype=torch.float64),
        "known": torch.ones(n_sets, n_states, dtype=torch.bool),
        "allowed": torch.ones(n_sets, n_states, n_actions, dtype=torch.bool),
        "gamma": torch.full((n_sets,), gamma, dtype=torch.float64),
    }
    return Features(**(fields | edges))


def known_process(P, r, gamma) -> tuple[Posterior, Features]:
    """Return the posterior that is sure of P (S, A, S) and r (S, A)."""
    P = np.asarray(P, float)
    s, a, following = np.nonzero(P)
    prob = torch.from_numpy(P[s, a, following])
    features = make_features(
        1,
        *P.shape[:2],
        gamma,
        edge_pair=torch.from_numpy(s * P.shape[1] + a),
        edge_next=torch.from_numpy(following),
        edge_prob=prob,
        edge_sibling=torch.zeros_like(prob),
        edge_predecessor=torch.zeros_like(prob),
    )
    none = torch.zeros_like(features.n)
    reward = torch.tensor(np.array(r), dtype=torch.float64)
    posterior = Posterior(
        reward=reward.expand(3, 1, *reward.shape),
        edge_prob=prob,
        itself=none,
        siblings=none,
        predecessors=none,
        anywhere=none,
        ended=none,
        mean_reward=reward[None],
        weight=torch.ones(2, *none.shape),
    )
    return posterior, features


def random_posterior(
    seed, n_sets=1, n_states=6, n_actions=3, gamma=0.9
) -> tuple[Posterior, Features]:
    """Draw a posterior with all of its parts, some pairs without edges."""
    rng = np.random.default_rng(seed)
    n_pairs = n_sets * n_states * n_actions
    linked = rng.random((n_pairs, n_states)) < min(0.4, 5 / n_states)
    pair, to = np.nonzero(linked)
    following = pair // (n_states * n_actions) * n_states + to
    state = pair // n_actions

    def shares(group):
        weight = rng.random(len(group)) + 0.1
        return torch.from_numpy(weight / np.bincount(group, weight)[group])

    mixture = torch.from_numpy(rng.dirichlet(np.full(6, 0.5), n_pairs))
    parts = mixture.T.reshape(6, n_sets, n_states, n_actions)
    prob = shares(pair) * mixture[pair, 0] if len(pair) else torch.zeros(0).double()
    features = make_features(
        n_sets,
        n_states,
        n_actions,
        gamma,
        edge_pair=torch.from_numpy(pair),
        edge_next=torch.from_numpy(following),
        edge_prob=prob,
        edge_sibling=shares(state),
        edge_predecessor=shares(following),
    )
    posterior = Posterior(
        reward=torch.from_numpy(rng.normal(size=(3, n_sets, n_states, n_actions))),
        edge_prob=prob,
        itself=parts[1].contiguous(),
        siblings=parts[2].contiguous(),
        predecessors=parts[3].contiguous(),
        anywhere=parts[4].contiguous(),
        ended=parts[5],
        mean_reward=torch.zeros_like(parts[5]),
        weight=torch.ones(2, *parts[5].shape),
    )
    return posterior, features


def sparse_values(posterior, features) -> np.ndarray:
    """Return the action values (3, S, A) of one data set by the sparse planner."""
    process = SparseProcess(posterior, features)
    return np.stack([plan_sparse(process, r) for r in posterior.reward[:, 0].numpy()])


def value_iteration(P, r, gamma) -> np.ndarray:
    """Return optimal action values (..., S, A), iterated until rounding is left."""
    q = r
    for _ in range(int(40 / (1 - gamma))):
        q = r + gamma * (P @ q.max(-1)[..., None, :, None])[..., 0]
    return q


@pytest.fixture(params=["dense", "sparse", "sparse, iterative", "sparse, factors"])
def plan(request, monkeypatch):
    """Return each planner as a function of P, r and gamma to q (S, A)."""

    def dense(P, r, gamma):
        return plan_dense(*known_process(P, r, gamma))[1, 0].numpy()

    def sparse(P, r, gamma):
        return sparse_values(*known_process(P, r, gamma))[1]

    if request.param.startswith("sparse, "):
        monkeypatch.setattr(_planning, "_DENSE_STATES", 0)
        local = 0 if request.param == "sparse, iterative" else np.inf
        monkeypatch.setattr(_planning, "_LOCAL", local)
    return dense if request.param == "dense" else sparse


# Closed forms


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.8, 10 / 11 - 1e-3, 10 / 11 + 1e-3, 0.99])
def test_putermans_process(plan, gamma):
    # Puterman (2005), section 3.1; state 1 has one action, given twice here.
    P = [[[0.5, 0.5], [0, 1]], [[0, 1], [0, 1]]]
    r = [[5.0, 10.0], [-1.0, -1.0]]
    v1 = -1 / (1 - gamma)
    first = (5 - 5.5 * gamma) / ((1 - 0.5 * gamma) * (1 - gamma))  # a policy of its own
    second = 10 + gamma * v1
    v0 = max(first, second)
    expected = [[5 + gamma * (v0 + v1) / 2, second], [v1, v1]]
    np.testing.assert_allclose(plan(P, r, gamma), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 0.95, 0.999])
def test_chain_by_hand(plan, gamma):
    # Stay for 1 or move on for nothing; the last state pays 10 once, and ends.
    P = np.zeros((4, 2, 4))
    r = np.zeros((4, 2))
    for s in range(3):
        P[s, 0, s], r[s, 0] = 1, 1
        P[s, 1, s + 1] = 1
    r[3] = 10
    stay = 1 / (1 - gamma)
    v = [max(stay, 10 * gamma ** (3 - s)) for s in range(3)] + [10]
    expected = [[1 + gamma * v[s], gamma * v[s + 1]] for s in range(3)] + [[10, 10]]
    np.testing.assert_allclose(plan(P, r, gamma), expected, rtol=1e-9)


def test_without_a_future_only_rewards_count(plan):
    rng = np.random.default_rng(0)
    r = rng.normal(size=(5, 3))
    P = rng.dirichlet(np.ones(5), (5, 3))
    np.testing.assert_array_equal(plan(P, r, 0.0), r)


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.9999])
def test_a_reward_for_ever(plan, gamma):
    np.testing.assert_allclose(plan([[[1.0]]], [[1.0]], gamma), 1 / (1 - gamma))
    # Half of the time it ends; what is missing in P is worth nothing.
    found = plan([[[0.5]]], [[1.0]], gamma)
    np.testing.assert_allclose(found, 1 / (1 - gamma / 2))


def test_all_actions_alike_do_not_cycle(plan):
    P = np.full((20, 4, 20), 1 / 20)
    np.testing.assert_allclose(plan(P, np.ones((20, 4)), 0.99), 100, rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_random_processes_against_value_iteration(plan, seed, gamma):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(8, 0.2), (7, 3))[..., 1:]  # the rest ends
    P = np.where(P < 1e-3, 0, P)
    r = rng.normal(size=(7, 3))
    np.testing.assert_allclose(
        plan(P, r, gamma), value_iteration(P, r, gamma), rtol=1e-8, atol=1e-8
    )


# The posterior's parts


def test_transitions_by_hand():
    # State 0 leads to 1 by action 0 and to itself by action 1; state 1 was not tried.
    third = torch.tensor([0.25, 0.75], dtype=torch.float64)
    features = make_features(
        1,
        2,
        2,
        0.9,
        edge_pair=torch.tensor([0, 1]),
        edge_next=torch.tensor([1, 0]),
        edge_sibling=third,
        edge_predecessor=torch.ones(2, dtype=torch.float64),
    )

    def weight(*values):
        return torch.tensor(values, dtype=torch.float64).view(1, 2, 2)

    posterior = Posterior(
        reward=torch.zeros(3, 1, 2, 2, dtype=torch.float64),
        edge_prob=torch.tensor([0.5, 0.25], dtype=torch.float64),
        itself=weight(0.0, 0.125, 0.5, 0.0),
        siblings=weight(0.25, 0.0, 0.0, 0.0),
        predecessors=weight(0.0, 0.0, 0.25, 0.0),
        anywhere=weight(0.0, 0.0, 0.0, 0.5),
        ended=weight(0.0, 0.0, 0.0, 0.0),
        mean_reward=weight(0.0, 0.0, 0.0, 0.0),
        weight=torch.ones(2, 1, 2, 2),
    )
    expected = [
        [[0.25 * 0.75, 0.5 + 0.25 * 0.25], [0.25 + 0.125, 0.0]],
        [[0.25, 0.5], [0.25, 0.25]],
    ]
    P = dense_transitions(posterior, features)
    np.testing.assert_allclose(P[0], expected)
    v = np.array([3.0, -7.0])
    found = SparseProcess(posterior, features).action_values(np.zeros((2, 2)), v)
    np.testing.assert_allclose(found, 0.9 * (P[0].numpy() @ v))


def test_anywhere_means_known_states():
    posterior, features = random_posterior(0, n_states=4)
    known = torch.tensor([[True, True, False, True]])
    P = dense_transitions(posterior, features)
    fewer = dense_transitions(posterior, replace(features, known=known))
    difference = fewer - P
    anywhere = posterior.anywhere[..., None]
    share = torch.tensor([1 / 3, 1 / 3, 0, 1 / 3], dtype=torch.float64) - 0.25
    torch.testing.assert_close(difference, anywhere * share)


@settings(max_examples=40)
@given(seeds, st.integers(1, 12), st.integers(1, 4), st.sampled_from([0.0, 0.8, 0.99]))
def test_dense_equals_sparse(seed, n_states, n_actions, gamma):
    posterior, features = random_posterior(seed, 1, n_states, n_actions, gamma)
    expected = plan_dense(posterior, features)[:, 0].numpy()
    direct = sparse_values(posterior, features)
    np.testing.assert_allclose(direct, expected, rtol=1e-7, atol=1e-7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_planning, "_DENSE_STATES", 0)
        for local in (0, np.inf):
            patch.setattr(_planning, "_LOCAL", local)
            found = sparse_values(posterior, features)
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("n_states", [192, 193, 400])
@pytest.mark.parametrize("gamma", [0.9, 0.999])
def test_both_sides_of_the_switch_satisfy_bellmans_equation(n_states, gamma):
    posterior, features = random_posterior(1, 1, n_states, 3, gamma)
    P = dense_transitions(posterior, features)[0].numpy()
    for q, r in zip(
        sparse_values(posterior, features), posterior.reward[:, 0].numpy(), strict=True
    ):
        error = r + gamma * P @ q.max(1) - q
        assert np.abs(error).max() < 1e-8 * max(1, np.abs(q).max())


def test_a_long_corridor_without_contraction():
    # 1,000 states in a row, a reward at the far end alone: the worst for sweeps.
    n, gamma = 1000, 0.999
    P = np.zeros((n, 2, n))
    at = np.arange(n)
    P[at, 0, np.maximum(at - 1, 0)] = 1
    P[at[:-1], 1, at[1:]] = 1
    r = np.zeros((n, 2))
    r[-1, 1] = 1.0
    q = sparse_values(*known_process(P, r, gamma))[1]
    expected = gamma ** (n - 1.0 - at)
    np.testing.assert_allclose(q.max(1), expected, rtol=0, atol=1e-8)


def test_a_guess_does_not_change_the_plan():
    posterior, features = random_posterior(2, 1, 300, 3, 0.99)
    process = SparseProcess(posterior, features)
    low, middle, _ = posterior.reward[:, 0].numpy()
    guess = plan_sparse(process, middle).max(1)
    expected = plan_sparse(process, low)
    np.testing.assert_allclose(plan_sparse(process, low, guess), expected, rtol=1e-8)
    wild = 1e6 * np.random.default_rng(0).normal(size=300)
    np.testing.assert_allclose(plan_sparse(process, low, wild), expected, rtol=1e-8)


# Discounts near one


def exact_values(P, r, gamma, action) -> np.ndarray:
    """Return the values of actions, refined in extended precision."""
    at = np.arange(len(r))
    system = np.eye(len(r), dtype=np.longdouble) - np.longdouble(gamma) * P[at, action]
    factors = lu_factor(system.astype(float))
    v = np.zeros(len(r), np.longdouble)
    for _ in range(6):
        residual = r[at, action] - system @ v
        v += lu_solve(factors, residual.astype(float))
    return v.astype(float)


# The bound of the values is the largest reward over 1 - gamma.
@pytest.mark.parametrize(
    ("gamma", "error"),
    [
        (0.99, 1e-9),
        (0.9999, 1e-9),
        (1 - 1e-6, 1e-9),
        (1 - 1e-7, 1e-8),
        (1 - 1e-8, 1e-7),
        (1 - 1e-9, 1e-6),
    ],
)
@pytest.mark.parametrize("n_states", [60, 250])
def test_values_are_exact_up_to_their_bound(plan, n_states, gamma, error):
    """Whatever actions are chosen, none is better, and their values are right."""
    if plan.__name__ == "dense" and gamma > 0.9999:
        return  # the one of pretraining, which never has such a gamma
    rng = np.random.default_rng(n_states)
    P = np.zeros((n_states, 3, n_states))
    P[
        np.arange(n_states)[:, None],
        np.arange(3),
        rng.integers(n_states, size=(n_states, 3)),
    ] = 0.5
    P[
        np.arange(n_states)[:, None],
        np.arange(3),
        rng.integers(n_states, size=(n_states, 3)),
    ] += 0.5
    r = rng.normal(size=(n_states, 3))
    bound = np.abs(r).max() / (1 - gamma)
    q = plan(P, r, gamma)
    expected = exact_values(P, r, gamma, q.argmax(1))
    assert np.abs(q.max(1) - expected).max() <= error * bound
    gain = (r + gamma * P @ expected).max(1) - expected
    assert gain.max() <= error * np.abs(r).max()


@pytest.mark.parametrize("gamma", [0.99999, 1 - 1e-7, 1 - 1e-9])
def test_a_chain_of_3000_states_is_worth_no_more_than_its_reward(gamma):
    n = 3000
    at = np.arange(n)
    pair = np.concatenate([2 * at, 2 * at[:-1] + 1])
    to = np.concatenate([np.maximum(at - 1, 0), at[1:]])
    ones = torch.ones(len(pair), dtype=torch.float64)
    features = make_features(
        1,
        n,
        2,
        gamma,
        edge_pair=torch.from_numpy(pair),
        edge_next=torch.from_numpy(to),
        edge_prob=ones,
        edge_sibling=ones / 2,
        edge_predecessor=ones / 2,
    )
    none = torch.zeros(1, n, 2, dtype=torch.float64)
    reward = torch.zeros(3, 1, n, 2, dtype=torch.float64)
    reward[..., -1, 1] = 1.0  # once: what is missing in P ends
    posterior = Posterior(
        reward, ones, none, none, none, none, none, none, torch.ones(2, *none.shape)
    )
    process = SparseProcess(posterior, features)
    v = plan_sparse(process, reward[1, 0].numpy()).max(1)
    np.testing.assert_allclose(v, gamma ** (n - 1.0 - at), rtol=1e-9)


@pytest.mark.parametrize("fault", ["Krylov", "sweeps"])
def test_a_plan_that_is_off_is_refused(fault, monkeypatch):
    posterior, features = random_posterior(1, 1, 250, 3, 0.999)
    process = SparseProcess(posterior, features)
    r = posterior.reward[1, 0].numpy()
    assert process.rows is None
    if fault == "Krylov":  # of no help, and factors would fill
        monkeypatch.setattr(_planning, "_MAX_PRODUCTS", 0)
        monkeypatch.setattr(_planning, "bicgstab", lambda A, b, **_: (0 * b, 1))
    else:
        monkeypatch.setattr(_planning, "_MAX_POLICIES", 1)
    with pytest.raises(
        ValueError, match=r"gamma = 0\.999 is too near one .* smaller gamma"
    ):
        plan_sparse(process, r)


# Which solver


def grid_edges(width):
    """Return the flat pairs and next states of four moves on a grid."""
    x, y = np.divmod(np.arange(width**2), width)
    to = [
        np.clip(x + dx, 0, width - 1) * width + np.clip(y + dy, 0, width - 1)
        for dx, dy in ((0, 1), (1, 0), (0, -1), (-1, 0))
    ]
    return np.arange(4 * width**2), np.stack(to, 1).ravel()


def test_grids_and_chains_are_local_and_random_successors_are_not():
    """However their states are numbered."""
    rng = np.random.default_rng(0)
    n = 900
    pair, to = grid_edges(30)
    order = rng.permutation(n)
    chain = order[np.minimum(np.arange(n) + 1, n - 1)]
    random = rng.integers(n, size=len(pair))
    edges = {
        "grid": (order[pair // 4], order[to]),
        "chain": (order, chain),
        "random": (pair // 4, random),
    }
    products = {}
    for name, (start, end) in edges.items():
        link = sparse.coo_array((np.ones(len(start)), (start, end)), shape=(n, n))
        products[name] = _planning._products(sparse.csr_array(link + link.T)) / n**2
    assert products["chain"] < products["grid"] < 2
    assert products["random"] > 5 * _planning._LOCAL


# Evaluation


@pytest.mark.parametrize("solver", ["dense", "Krylov", "factors"])
def test_evaluate_against_a_linear_solve(monkeypatch, solver):
    if solver != "dense":
        monkeypatch.setattr(_planning, "_DENSE_STATES", 0)
        monkeypatch.setattr(_planning, "_LOCAL", 0 if solver == "Krylov" else np.inf)
    posterior, features = random_posterior(3, 1, 9, 3, 0.97)
    P = dense_transitions(posterior, features)[0].numpy()
    r = posterior.reward[1, 0].numpy()
    at, action = np.arange(9), np.random.default_rng(0).integers(3, size=9)
    expected = np.linalg.solve(np.eye(9) - 0.97 * P[at, action], r[at, action])
    process = SparseProcess(posterior, features)
    kinds = {"dense": np.ndarray, "Krylov": type(None), "factors": sparse.csr_array}
    assert type(process.rows) is kinds[solver]
    for guess in (np.zeros(9), expected, np.full(9, 1e3)):
        found = process.evaluate(r, action, guess)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_evaluate_actions_of_heads_and_batches():
    posterior, features = random_posterior(4, 2, 5, 3, 0.9)
    gamma = torch.tensor([0.5, 0.95], dtype=torch.float64)
    P = dense_transitions(posterior, features)
    action = torch.randint(3, (3, 2, 5), generator=torch.Generator().manual_seed(0))
    found = evaluate_actions(P, posterior.reward, gamma, action)
    at = np.arange(5)
    for h in range(3):
        for b in range(2):
            a = action[h, b].numpy()
            chosen, reward = P[b].numpy()[at, a], posterior.reward[h, b].numpy()[at, a]
            expected = np.linalg.solve(np.eye(5) - gamma[b].item() * chosen, reward)
            np.testing.assert_allclose(found[h, b], expected, rtol=1e-9)


def test_policy_iteration_in_single_precision():
    posterior, features = random_posterior(5, 4, 8, 3, 0.99)
    P = dense_transitions(posterior, features)
    gamma, r = features.gamma, posterior.reward
    single = policy_iteration(P.float(), r.float(), gamma.float())
    best = evaluate_actions(P, r, gamma, policy_iteration(P, r, gamma))
    found = evaluate_actions(P, r, gamma, single)
    torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-3)


# The gradient


def test_gradient_against_finite_differences():
    """By the envelope theorem the greedy policy may be held fixed."""
    posterior, features = random_posterior(6, 2, 4, 3, 0.9)
    names = ("reward", "edge_prob", "itself", "siblings", "predecessors", "anywhere")
    inputs = [getattr(posterior, name).clone().requires_grad_() for name in names]

    def values(*tensors):
        changed = replace(posterior, **dict(zip(names, tensors, strict=True)))
        return plan_dense(changed, features)

    # gradcheck perturbs each input by 1e-6 and compares in float64.
    assert torch.autograd.gradcheck(values, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


# Ties


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)]
)
@pytest.mark.parametrize("best", [-100.0, 0.0, 7.0])
def test_actions_tie_up_to_rounding(dtype, tolerance, best):
    size = tolerance * (1 + abs(best))
    gaps = torch.tensor([0.0, 0.5, 2.0, torch.inf], dtype=torch.float64)
    q = (best - size * gaps).to(dtype)
    assert greedy(q).tolist() == [0.5, 0.5, 0, 0]
    # In batches as one by one, wherever the best action stands.
    q = torch.stack([q, q.flip(0)])
    expected = [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert greedy(q[:, None]).tolist() == [[row] for row in expected]


def test_everything_ties_where_nothing_differs():
    torch.testing.assert_close(greedy(torch.zeros(2, 3)), torch.full((2, 3), 1 / 3))


# Discount factors near one


def chain(n_states, gamma):
    """Return a chain whose last state pays 1 and ends, as planning takes it."""
    process = object.__new__(SparseProcess)
    state = np.arange(n_states)
    on = state[:-1]
    rows = np.concatenate([2 * state, 2 * on + 1])
    columns = np.concatenate([np.maximum(state - 1, 0), on + 1])
    shape = (2 * n_states, n_states)
    process.edges = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    process.siblings_of = sparse.csr_array((n_states, n_states))
    process.predecessors_of = process.siblings_of
    nothing = np.zeros((n_states, 2))
    process.itself = process.siblings = process.predecessors = nothing
    process.anywhere, process.gamma = nothing, gamma
    process.rows = process.edges  # local
    r = nothing.copy()
    r[-1, 1] = 1
    return process, r


@pytest.mark.parametrize("gamma", [0.99999, 1 - 1e-8])
def test_long_chains_near_one_are_exact(gamma):
    process, r = chain(3000, gamma)
    expected = gamma ** np.arange(2999, -1, -1.0)
    np.testing.assert_allclose(plan_sparse(process, r).max(1), expected, atol=1e-6)


def test_what_is_not_right_in_bounded_time_is_refused(monkeypatch):
    monkeypatch.setattr(_planning, "_MAX_POLICIES", 3)
    process, r = chain(20_000, 1 - 1e-9)
    with pytest.raises(ValueError, match="too near one for a process of 20000 states"):
        plan_sparse(process, r)
