"""Features, network, plan and decision together: symmetries, consistency, limits."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from tabrl import _inference, _network
from tabrl._batch import StatisticsBatch
from tabrl._checkpoint import load_network
from tabrl._exploration import exploration_features
from tabrl._features import (
    DATA_FEATURES,
    PAIR_FEATURES,
    STATE_FEATURES,
    Features,
    build_features,
)
from tabrl._inference import solve, solve_to_explore
from tabrl._network import Network, NetworkConfig, symexp, symlog
from tabrl._planning import dense_transitions, plan_dense

NAN_RANGE = (np.nan, np.nan)


def pair_feature(features: Features, name: str) -> np.ndarray:
    return features.pair[..., PAIR_FEATURES.index(name)].numpy()


def state_feature(features: Features, name: str) -> np.ndarray:
    return features.state[..., STATE_FEATURES.index(name)].numpy()


def data_features(features: Features, *names: str) -> list[float]:
    """Return features of the only data set."""
    return [features.data[0, DATA_FEATURES.index(name)].item() for name in names]


def statistics_batch(
    counts, ended, reward_sum, reward_sq_sum, gamma, reward_range=NAN_RANGE, known=None
) -> StatisticsBatch:
    """Return statistics from continuing counts (B, S, A, S) and pair sums (B, S, A)."""
    counts = torch.as_tensor(counts, dtype=torch.float64)
    n_sets, n_states = counts.shape[:2]
    b, s, a, following = counts.nonzero(as_tuple=True)
    if known is None:
        known = torch.ones(n_sets, n_states, dtype=torch.bool)

    def tensor(values):
        return torch.tensor(np.array(values), dtype=torch.float64)

    return StatisticsBatch(
        n=counts.sum(-1) + tensor(ended),
        reward_sum=tensor(reward_sum),
        reward_sq_sum=tensor(reward_sq_sum),
        n_terminated=tensor(ended),
        edge_pair=(b * n_states + s) * counts.shape[2] + a,
        edge_next=b * n_states + following,
        edge_count=counts[b, s, a, following],
        known=known,
        complete=torch.zeros(n_sets, dtype=torch.bool),
        allowed=torch.ones(counts.shape[:3], dtype=torch.bool),
        gamma=tensor(np.broadcast_to(gamma, n_sets)),
        reward_range=tensor(np.broadcast_to(reward_range, (n_sets, 2))),
    )


def draw_arrays(seed, n_sets=3, n_states=5, n_actions=3) -> dict[str, np.ndarray]:
    """Draw data sets: sparse counts, unvisited pairs, some terminations and noise."""
    rng = np.random.default_rng(seed)
    shape = (n_sets, n_states, n_actions)
    visited = rng.random(shape) < 0.7
    counts = rng.poisson(3, (*shape, n_states)) * (rng.random((*shape, n_states)) < 0.3)
    counts = counts * visited[..., None]
    ended = rng.poisson(1, shape) * (rng.random(shape) < 0.3) * visited
    n = counts.sum(-1) + ended
    mean = rng.normal(size=shape)
    spread = rng.exponential(size=shape) * (rng.random(shape) < 0.5)
    return {
        "counts": counts,
        "ended": ended,
        "reward_sum": n * mean,
        "reward_sq_sum": n * (mean**2 + spread**2),
        "gamma": rng.uniform(0, 0.99, n_sets),
    }


def random_network(seed=0, **sizes) -> Network:
    """Return a network in double precision whose heads say something too."""
    torch.manual_seed(seed)
    network = Network(NetworkConfig(**{"width": 16, "n_layers": 2, **sizes})).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.requires_grad_(False)


@pytest.fixture(params=["random", "bundled"], scope="module")
def network(request) -> Network:
    """Random weights, and the bundled ones."""
    if request.param == "random":
        return random_network()
    shared = load_network("auto", torch.device("cpu"))
    return copy.deepcopy(shared).double()


def run(network, batch) -> dict[str, torch.Tensor]:
    """Return everything that is said of pairs, each (B, S, A) or (3, B, S, A)."""
    features = build_features(batch)
    tokens, posterior = network(features)
    q = plan_dense(posterior, features)
    decision = network.decide(tokens, features, q)
    return {
        "reward": posterior.reward,
        "itself": posterior.itself,
        "anywhere": posterior.anywhere,
        "q": q,
        "policy": decision.policy,
        "optimal": decision.optimal,
        "scale": features.scale[:, None, None].expand_as(features.n),
    }


def assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name],
            value,
            msg=lambda text, name=name: f"{name}: {text}",
            **(tolerance or {"rtol": 1e-9, "atol": 1e-9}),
        )


# Features


def test_features_by_hand():
    # State 0, action 0: twice to 1 (rewards 1 and 3), once to 0 (reward 2), and one
    # end (reward 2). State 1, action 1: once to 1 (reward -4). The rest is unvisited.
    counts = np.zeros((1, 2, 2, 2))
    counts[0, 0, 0], counts[0, 1, 1, 1] = [1, 2], 1
    ended = np.zeros((1, 2, 2))
    ended[0, 0, 0] = 1
    sums, squares = np.zeros((1, 2, 2)), np.zeros((1, 2, 2))
    sums[0, 0, 0], squares[0, 0, 0] = 8, 18
    sums[0, 1, 1], squares[0, 1, 1] = -4, 16
    features = build_features(statistics_batch(counts, ended, sums, squares, 0.75))
    assert features.scale.item() == 4
    assert features.n[0].tolist() == [[4, 0], [0, 1]]
    assert features.reward[0].tolist() == [[0.5, 0], [0, -1]]
    assert features.terminated[0].tolist() == [[0.25, 0], [0, 0]]
    assert features.edge_pair.tolist() == [0, 0, 3]
    assert features.edge_next.tolist() == [0, 1, 1]
    assert features.edge_prob.tolist() == [0.25, 0.5, 1]
    np.testing.assert_allclose(features.edge_sibling, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(features.edge_predecessor, [1, 1 / 3, 2 / 3])
    variance = 18 / 4 / 16 - 0.25
    expected = {
        "log_visits": 0.3 * np.log(5),
        "inverse_root_visits": 1 / np.sqrt(5),
        "visited": 1,
        "reward": 0.5,
        "reward_standard_error": np.sqrt(variance / 4),
        "reward_deviation": np.sqrt(variance),
        "self_transition": 0.25,
        "terminated": 0.25,
        "most_frequent_outcome": 0.5,
        "log_outcomes": np.log(4),
        "rewarded": 1,
        "forbidden": 0,
        "reward_at_range_end": 0,
        "behaviour": 1,
    }
    # The released weights read the columns by position: this is their order.
    assert tuple(expected) == PAIR_FEATURES
    np.testing.assert_allclose(features.pair[0, 0, 0], list(expected.values()))
    unvisited = np.array(PAIR_FEATURES) == "inverse_root_visits"
    np.testing.assert_allclose(features.pair[0, 0, 1], unvisited)
    found = data_features(features, "log_horizon", "share_of_pairs_tried")
    np.testing.assert_allclose(found, [np.log(4), 0.5])
    # One action a state; of five steps, three more leave state 0 than enter it, and
    # two more enter state 1 than leave it.
    behaviour = ("behaviour_concentration", "flow_imbalance", "complete")
    assert data_features(features, *behaviour) == [1, 1, 0]
    # Of the six pairs among the four visits of (0, 0), one is of two that ended alike.
    found = data_features(features, "agreement", "agreement_spread")
    np.testing.assert_allclose(found, [1 / 6, 0], atol=1e-12)


def test_features_say_what_the_behaviour_was_like():
    counts = np.zeros((1, 2, 2, 2))
    counts[0, 0, :, 1], counts[0, 1, 0, 0] = [3, 1], 4
    nothing = np.zeros((1, 2, 2))
    features = build_features(statistics_batch(counts, nothing, nothing, nothing, 0.9))
    assert pair_feature(features, "behaviour")[0].tolist() == [[0.75, 0.25], [1, 0]]
    most = state_feature(features, "most_frequent_behaviour")
    assert most[0].tolist() == [0.75, 1]
    # Seven of eight steps take their state's usual action; the log may be one path.
    names = ("behaviour_concentration", "flow_imbalance", "complete")
    assert data_features(features, *names) == [0.875, 0, 0]
    states = replace(
        statistics_batch(counts, nothing, nothing, nothing, 0.9),
        complete=torch.ones(1, dtype=torch.bool),
    )
    assert data_features(build_features(states), "complete") == [1]


def test_features_say_how_often_two_visits_of_a_pair_agree():
    counts = np.zeros((1, 3, 2, 3))
    counts[0, 0, 0], counts[0, 1, 0] = [2, 1, 1], [0, 3, 0]
    ended = np.zeros((1, 3, 2))
    ended[0, 2] = [1, 2]  # one visit says nothing
    nothing = np.zeros((1, 3, 2))
    features = build_features(statistics_batch(counts, ended, nothing, nothing, 0.9))
    degrees, agreement = np.array([3, 2, 1]), np.array([1 / 6, 1, 1])
    mean = np.average(agreement, weights=degrees)
    spread = np.average((agreement - mean) ** 2, weights=degrees) ** 0.5
    found = data_features(features, "agreement", "agreement_spread")
    np.testing.assert_allclose(found, [mean, spread])


@pytest.mark.parametrize("reward_range", [None, (-3.0, 8.0)])
@pytest.mark.parametrize("c", [0.125, 1e-7, 1e6])
def test_features_do_not_depend_on_the_unit_of_rewards(c, reward_range):
    arrays = draw_arrays(1)
    declared = np.array(NAN_RANGE if reward_range is None else reward_range)
    features = build_features(statistics_batch(**arrays, reward_range=declared))
    arrays["reward_sum"] = arrays["reward_sum"] * c
    arrays["reward_sq_sum"] = arrays["reward_sq_sum"] * c**2
    scaled = build_features(statistics_batch(**arrays, reward_range=declared * c))
    for name in ("pair", "state", "data", "reward"):
        left, right = getattr(scaled, name), getattr(features, name)
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scaled.scale, features.scale * c)


def test_features_in_single_precision_are_close():
    arrays = draw_arrays(2, n_sets=20)
    batch = statistics_batch(**arrays)
    single = copy.copy(batch.__dict__)
    for name, tensor in single.items():
        single[name] = tensor.float() if tensor.is_floating_point() else tensor
    features = build_features(batch)
    found = build_features(StatisticsBatch(**single))
    for name in ("pair", "state", "data", "edge_prob", "edge_sibling", "reward"):
        left, right = getattr(found, name), getattr(features, name)
        assert left.dtype == torch.float32
        torch.testing.assert_close(left.double(), right, rtol=1e-3, atol=1e-3)


def test_edge_shares_sum_to_one():
    features = build_features(statistics_batch(**draw_arrays(3)))
    n_actions = features.n.shape[-1]
    for share, state in (
        (features.edge_sibling, features.edge_pair // n_actions),
        (features.edge_predecessor, features.edge_next),
    ):
        total = np.bincount(state, share)
        np.testing.assert_allclose(total[np.bincount(state) > 0], 1)


def test_symexp_inverts_symlog():
    x = torch.tensor([-1e3, -0.1, 0.0, 1e-9, 5.0], dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(x)), x)
    assert symlog(x)[3].item() == pytest.approx(1e-9)


# Symmetries


@pytest.mark.parametrize("seed", range(3))
def test_relabelling_states_and_actions_permutes_everything(network, seed):
    arrays = draw_arrays(seed)
    rng = np.random.default_rng(seed)
    s, a = rng.permutation(5), rng.permutation(3)
    moved = {
        name: value[:, s][:, :, a] for name, value in arrays.items() if name != "gamma"
    }
    moved["counts"] = moved["counts"][..., s]
    found = run(network, statistics_batch(**moved, gamma=arrays["gamma"]))
    expected = run(network, statistics_batch(**arrays))
    permuted = {name: x[..., s, :][..., a] for name, x in expected.items()}
    assert_close(found, permuted)


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_equals_its_single_items(network, seed):
    arrays = draw_arrays(seed, n_sets=4)
    whole = run(network, statistics_batch(**arrays))
    for i in range(4):
        item = {name: value[i : i + 1] for name, value in arrays.items()}
        expected = {name: x[..., i : i + 1, :, :] for name, x in whole.items()}
        assert_close(run(network, statistics_batch(**item)), expected)


@pytest.mark.parametrize("n_padding", [1, 7])
def test_unknown_states_have_no_effect(network, n_padding):
    arrays = draw_arrays(5)
    padded = {}
    for name, value in arrays.items():
        widths = [(0, 0)] * value.ndim
        if name != "gamma":
            widths[1] = (0, n_padding)
        if name == "counts":
            widths[3] = (0, n_padding)
        padded[name] = np.pad(value, widths)
    known = torch.zeros(3, 5 + n_padding, dtype=torch.bool)
    known[:, :5] = True
    found = run(network, statistics_batch(**padded, known=known))
    found = {name: x[..., :5, :] for name, x in found.items()}
    assert_close(found, run(network, statistics_batch(**arrays)))


# The posterior


@pytest.mark.parametrize("seed", range(5))
def test_posterior_rows_are_at_most_distributions(network, seed):
    arrays = draw_arrays(seed, n_states=[1, 2, 5, 8, 13][seed])
    known = torch.ones(3, arrays["counts"].shape[1], dtype=torch.bool)
    idle = arrays["counts"].sum((1, 2)) + arrays["counts"].sum((2, 3)) == 0
    idle &= arrays["ended"].sum(-1) == 0
    known[torch.from_numpy(idle)] = False
    batch = statistics_batch(**arrays, known=known)
    features = build_features(batch)
    _, posterior = network(features)
    P = dense_transitions(posterior, features)
    assert P.min() >= 0
    assert P.sum(-1).max() <= 1 + 1e-9
    # Nothing leads to a state that is not known, but the state's own stay.
    elsewhere = P * (1 - torch.eye(P.shape[1], dtype=P.dtype))[:, None]
    assert (elsewhere.sum((1, 2))[~known] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_high_head_is_optimistic_and_the_low_one_is_not(seed):
    network = random_network(seed)
    for parameter in network.unseen_head.parameters():
        parameter.zero_()
    # The least optimism that the weights can express: it has a floor, so that
    # exploration does not give up before the data say so.
    network.posterior_head.bias[-1] = -1e3
    features = build_features(statistics_batch(**draw_arrays(seed)))
    _, posterior = network(features)
    low, middle, high = posterior.reward
    assert (low < middle).all()
    torch.testing.assert_close(high - middle, 0.05 / (features.n + 1).sqrt())
    q = plan_dense(posterior, features)
    assert (q[0] < q[1]).all()
    assert (q[1] < q[2]).all()


def test_an_empty_log_and_one_state_with_one_action_are_finite(network):
    for n_states, n_actions in ((1, 1), (1, 3), (4, 1), (3, 2)):
        shape = (1, n_states, n_actions)
        nothing = np.zeros(shape)
        batch = statistics_batch(
            np.zeros((*shape, n_states)), nothing, nothing, nothing, 0.99
        )
        found = run(network, batch)
        assert all(torch.isfinite(x).all() for x in found.values())
        # Nothing tells the actions or the states apart.
        assert_close(
            {"policy": found["policy"].exp()},
            {"policy": torch.full(shape, 1 / n_actions, dtype=torch.float64)},
        )


def test_unvisited_pairs_and_states_that_only_end_are_finite(network):
    counts, ended = np.zeros((1, 3, 2, 3)), np.zeros((1, 3, 2))
    counts[0, 0, 0, 1] = 2
    ended[0, 1] = [3, 0]
    sums = np.zeros((1, 3, 2))
    sums[0, 1, 0] = 3
    for gamma in (0.0, 0.9, 0.9999):
        found = run(network, statistics_batch(counts, ended, sums, sums, gamma))
        assert all(torch.isfinite(x).all() for x in found.values())
        torch.testing.assert_close(
            found["policy"].exp().sum(-1), torch.ones(1, 3, dtype=torch.float64)
        )


# Blocks of states


@pytest.mark.parametrize("block_pairs", [1, 7, 24])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_of_pairs_have_no_effect(network, block_pairs, masked, monkeypatch):
    """From one state a block up to eight, with pairs and states that nobody tried."""
    arrays = draw_arrays(6, n_sets=1, n_states=12)
    arrays["counts"][:, 9:] = arrays["ended"][:, 9:] = 0
    batch = statistics_batch(**arrays)
    if masked:
        allowed = batch.n > 0
        allowed[..., 0] = True
        batch = replace(batch, allowed=allowed)
    expected = run(network, batch)  # what may need a gradient is computed at once
    monkeypatch.setattr(_network, "_BLOCK_PAIRS", block_pairs)
    blocks = []
    attend = _network._Layer._attend
    monkeypatch.setattr(
        _network._Layer, "_attend", lambda *args: blocks.append(1) or attend(*args)
    )
    with torch.inference_mode():
        found = run(network, batch)
    n_layers = network.config.n_layers
    assert len(blocks) == n_layers * -(-12 // max(1, block_pairs // 3))
    assert_close(found, expected)


# Consistency by construction


def optimal_q(P, r, gamma):
    """Return optimal action values of a process by value iteration to convergence."""
    q = r
    for _ in range(int(30 / (1 - gamma))):
        q = r + gamma * P @ q.max(-1)
    return q


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.99])
def test_with_counts_without_bound_it_is_certainty_equivalence(network, seed, gamma):
    """It holds by construction, whatever the weights."""
    rng = np.random.default_rng(seed)
    n_states, n_actions, n = int(rng.integers(2, 12)), int(rng.integers(2, 5)), 1e8
    P = rng.dirichlet(np.full(n_states + 1, 0.3), (n_states, n_actions))
    end, P = P[..., -1], P[..., :-1]
    P, end = np.where(P < 1e-3, 0, P), np.where(end < 1e-3, 0, end)
    total = P.sum(-1) + end
    P, end = P / total[..., None], end / total
    r = 7 * rng.normal(size=(n_states, n_actions))
    batch = statistics_batch(
        n * P[None], n * end[None], n * r[None], n * r[None] ** 2, gamma
    )
    found = run(network, batch)
    expected = optimal_q(P, r, gamma)
    size = np.abs(expected).max()
    q = (found["q"] * found["scale"])[:, 0].numpy()
    np.testing.assert_allclose(q[1], expected, rtol=0, atol=1e-3 * size)
    # The bonus falls as 1 / sqrt(n) and is paid at every step.
    bonus = 20 * np.abs(r).max() / (1 - gamma) / np.sqrt(n)
    np.testing.assert_allclose(q[0], expected, rtol=0, atol=1e-3 * size + bonus)
    np.testing.assert_allclose(q[2], expected, rtol=0, atol=1e-3 * size + bonus)
    for name in ("policy", "optimal"):
        action = found[name][0].argmax(-1).numpy()
        chosen = expected[np.arange(n_states), action]
        np.testing.assert_allclose(chosen, expected.max(-1), rtol=0, atol=1e-5 * size)
        # Where it matters, the policy no longer mixes.
        gap = np.sort(expected, -1)[:, -1] - np.sort(expected, -1)[:, -2]
        sure = found[name][0].exp().max(-1).values.numpy()[gap > 0.1 * np.abs(r).max()]
        assert (sure > 0.99).all()


def test_the_policy_hedges_until_every_action_of_the_state_was_tried(network):
    features = build_features(statistics_batch(**draw_arrays(8, n_sets=1)))
    tokens, posterior = network(features)
    q = plan_dense(posterior, features)

    def policy(*n):
        visits = torch.tensor(n, dtype=torch.float64).expand_as(features.n)
        return network.decide(tokens, replace(features, n=visits), q).policy

    torch.testing.assert_close(policy(1e8, 1e8, 0), policy(0, 0, 0))
    sure = policy(1e8, 1e8, 1e8)
    assert sure.exp().amax(-1).min() > 0.99
    torch.testing.assert_close(sure.argmax(-1), q[1].argmax(-1))


def test_what_is_missing_to_one_is_the_share_of_unseen_states(network):
    features = build_features(statistics_batch(**draw_arrays(2)))
    _, posterior = network(features)
    known = dense_transitions(posterior, features).sum(-1)
    unseen = 1 - known - posterior.ended
    assert (unseen > -1e-9).all()
    assert (unseen[features.n == 0] > 1e-6).all()
    # What they are worth is all that the middle head has besides the mean.
    worth = posterior.reward[1] - posterior.mean_reward
    value = worth / unseen / features.gamma[:, None, None]
    visited = value[:, 0, 0, None, None].expand_as(value)
    torch.testing.assert_close(value, visited, rtol=1e-6, atol=1e-6)


def test_more_data_bring_the_posterior_nearer(network):
    arrays = draw_arrays(7, n_sets=1)
    arrays["counts"] = arrays["counts"] + 1  # every pair visited
    distances = []
    for n in (1, 1e2, 1e4, 1e6):
        scaled = {
            name: value if name == "gamma" else value * n
            for name, value in arrays.items()
        }
        features = build_features(statistics_batch(**scaled))
        _, posterior = network(features)
        P = dense_transitions(posterior, features).view(-1)
        empirical = torch.zeros_like(P)
        index = features.edge_pair * 5 + features.edge_next % 5
        empirical[index] = features.edge_prob
        distances.append((P - empirical).abs().max().item())
    assert distances[1] < distances[0]
    assert distances[2] < 0.1 * distances[1]
    assert distances[3] < 0.02 * distances[2]


def test_a_state_is_unseen_until_it_is_reached():
    zeros = np.zeros((3, 2, 1))
    counts = np.zeros((3, 2, 1, 2))
    counts[0, 0, 0, 0] = 2  # the second state is never reached,
    counts[1, 0, 0, 1] = 1  # or only arrived at,
    ended = zeros.copy()
    ended[2] = 1  # or left without having been arrived at.
    data = statistics_batch(counts, ended, zeros, zeros, 0.9)
    unseen = [exploration_features(data).may_have_unseen_states.tolist()]
    for complete in ([True] * 3, [True, False, True]):
        data = replace(data, complete=torch.tensor(complete))
        unseen.append(exploration_features(data).may_have_unseen_states.tolist())
    assert unseen == [[True] * 3, [True, False, False], [True, True, False]]


def test_rewards_at_the_ends_of_the_declared_range_are_noticed():
    """One pair pulled 4 times: rewards of two values, or one value between them."""
    found = []
    for reward_sum, reward_sq_sum in ((3 - 1, 3 + 1), (2, 1), (4, 4)):
        data = statistics_batch(
            counts=np.full((1, 1, 1, 1), 4),
            ended=np.zeros((1, 1, 1)),
            reward_sum=np.full((1, 1, 1), reward_sum),
            reward_sq_sum=np.full((1, 1, 1), reward_sq_sum),
            gamma=0.9,
            reward_range=(-1, 1),
        )
        features = build_features(data)
        inside = data_features(features, "share_inside_range", "two_valued_reward")
        at_end = pair_feature(features, "reward_at_range_end").item()
        found.append([at_end, *inside])
    # At an end; the share of pairs inside; variance over that of two outcomes.
    np.testing.assert_allclose(found, [[0, 1, 1], [0, 1, 0], [1, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("n_actions", [3, 300])
def test_only_large_networks_compute_on_several_threads(n_actions, monkeypatch):
    """And who calls has as many threads afterwards as before, errors or not."""
    monkeypatch.setattr(_inference, "_ONE_THREAD", 1000)
    monkeypatch.setenv("OMP_NUM_THREADS", "8,4")
    network, n_threads = random_network(0), []

    def watched(self, *args):
        n_threads.append(torch.get_num_threads())
        if len(n_threads) == 3:
            raise ArithmeticError

    network.register_forward_pre_hook(watched)
    data = statistics_batch(**draw_arrays(0, 1, n_actions=n_actions))
    problem = (network, data, torch.device("cpu"))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        solve(*problem)
        solve_to_explore(*problem, 1.0, np.random.default_rng(0))
        assert torch.get_num_threads() == 3
        with pytest.raises(ArithmeticError):
            solve(*problem)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert n_threads == [1 if n_actions == 3 else 3] * 3


@pytest.mark.parametrize(
    ("n_pairs", "declared", "expected"),
    [
        (100_000, None, 1),
        (100_001, None, 3),
        (100_001, "2", 2),
        (100_001, "1", 1),
        (100_001, "", 3),
    ],
)
def test_a_library_that_raises_the_number_of_threads_does_no_harm(
    n_pairs, declared, expected, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if declared is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", declared)
    batch = statistics_batch(**draw_arrays(0, 1))
    batch = replace(batch, n=torch.zeros(1, n_pairs, 1))
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # as Numba does, whatever the user said
    try:
        with _inference.computing(batch):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_threads_that_overlap_leave_the_number_of_threads_as_it_was():
    first, second = random_network(0), random_network(1)
    both, done = threading.Barrier(2), threading.Event()

    def meet(*_):
        both.wait(60)

    def linger(*_):
        both.wait(60)
        assert done.wait(60)

    first.register_forward_pre_hook(meet)
    second.register_forward_pre_hook(linger)
    data, cpu = statistics_batch(**draw_arrays(0, 1)), torch.device("cpu")

    def begin(work, *args):
        thread = threading.Thread(target=work, args=args)
        thread.start()
        return thread

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        one, other = (begin(solve, net, data, cpu) for net in (first, second))
        one.join()
        done.set()
        other.join()
        seen = []
        begin(lambda: seen.append(torch.get_num_threads())).join()
        assert [*seen, torch.get_num_threads()] == [3, 3]
    finally:
        torch.set_num_threads(before)
