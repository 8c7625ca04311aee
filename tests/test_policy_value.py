"""What a policy is worth: draws, returns, scores of held-out logs, coverage."""

from __future__ import annotations

import pickle
import warnings
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import stats
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer

from pretraining.benchmark.environments import environment
from pretraining.benchmark.exact import evaluate
from tabrl import OfflinePolicyEstimator, SmallSampleWarning
from tabrl._episodes import order_episodes
from tabrl._evaluation import contexts, returns_to_go, weighted_doubly_robust
from tabrl._planning import SparseProcess
from tabrl._transitions import read_transitions


def chain(n_episodes=40, n_steps=3):
    """Return episodes 0, 1, .. that pay 1 at each step and end after the last."""
    step = np.tile(np.arange(n_steps), n_episodes)
    return {
        "state": step,
        "action": np.zeros(len(step), int),
        "reward": np.ones(len(step)),
        "next_state": step + 1,
        "terminated": step == n_steps - 1,
    }


@pytest.fixture(scope="module")
def lake():
    env = environment("FrozenLake-v1", 0.9)
    log = env.simulate(env.uniform_policy, 2000, np.random.default_rng(0))
    policy = OfflinePolicyEstimator(0.9, random_state=0, handle_unknown="infer")
    return env, log, policy.fit(log)


# solving


def random_process(rng, n_states, n_actions, gamma):
    """Return a `SparseProcess` with all its parts, and its dense transitions."""
    n_pairs = n_states * n_actions
    pair = np.repeat(np.arange(n_pairs), 3)
    to = rng.integers(n_states, size=len(pair))
    weight = rng.random(len(pair))
    part = rng.dirichlet(np.ones(6), n_pairs)  # edges, four parts, the end
    came_from = pair // n_actions

    def shares(of):
        return weight / np.bincount(of, weight, n_states)[of]

    prob = weight / np.bincount(pair, weight)[pair] * part[pair, 0]
    names = ("itself", "siblings", "predecessors", "anywhere")
    parts = {
        name: torch.from_numpy(part[:, i].reshape(1, n_states, n_actions))
        for i, name in enumerate(names, 1)
    }
    process = SparseProcess(
        SimpleNamespace(edge_prob=torch.from_numpy(prob), **parts),
        SimpleNamespace(
            n=torch.zeros(1, n_states, n_actions),
            edge_pair=torch.from_numpy(pair),
            edge_next=torch.from_numpy(to),
            edge_sibling=torch.from_numpy(shares(came_from)),
            edge_predecessor=torch.from_numpy(shares(to)),
            gamma=torch.tensor([gamma], dtype=torch.float64),
        ),
    )
    P, N, K = np.zeros((n_pairs, n_states)), *np.zeros((2, n_states, n_states))
    np.add.at(P, (pair, to), prob)
    np.add.at(N, (came_from, to), shares(came_from))
    np.add.at(K, (to, came_from), shares(to))
    state = np.arange(n_pairs) // n_actions
    P[np.arange(n_pairs), state] += part[:, 1]
    P += part[:, 2, None] * N[state] + part[:, 3, None] * K[state]
    P += part[:, 4, None] / n_states
    return process, P.reshape(n_states, n_actions, n_states)


@pytest.mark.parametrize("n_states", [5, 250])  # dense, and sparse
def test_random_policies_are_solved_exactly(n_states):
    rng = np.random.default_rng(n_states)
    process, P = random_process(rng, n_states, 3, 0.9)
    reward = rng.normal(size=(n_states, 3))
    pi = rng.dirichlet(np.ones(3), n_states)
    P_pi = np.einsum("sa,sat->st", pi, P)
    v = np.linalg.solve(np.eye(n_states) - 0.9 * P_pi, (pi * reward).sum(1))
    np.testing.assert_allclose(process.evaluate_policy(reward, pi), v, atol=1e-8)
    start = rng.dirichlet(np.ones(n_states))
    visits = np.linalg.solve(np.eye(n_states) - 0.9 * P_pi.T, start)
    np.testing.assert_allclose(process.occupancy(pi, start), visits, atol=1e-7)


# values and intervals


def test_certain_returns_are_exact():
    policy = OfflinePolicyEstimator(0.5).fit(chain())
    assert policy.n_episodes_ == 40
    assert policy.behaviour_value() == pytest.approx((1.75, 1.75, 1.75))
    value, low, high = policy.policy_value()
    assert low <= value <= high
    assert value == pytest.approx(1.75, abs=0.1)


def test_interval_of_returns_is_students():
    rng = np.random.default_rng(0)
    reward = rng.normal(size=12)
    log = {
        "state": [0] * 12,
        "action": [0] * 12,
        "reward": reward,
        "next_state": [0] * 12,
        "terminated": [True] * 12,
    }
    policy = OfflinePolicyEstimator().fit(log)
    value, low, high = policy.behaviour_value(interval=0.9)
    expected = stats.ttest_1samp(reward, 0).confidence_interval(0.9)
    assert value == pytest.approx(reward.mean())
    assert (low, high) == pytest.approx(tuple(expected))


def test_a_cut_episode_has_the_value_of_what_would_follow():
    # It pays 1 for ever; every episode is cut after five steps.
    n = 5 * 200
    log = {
        "state": np.zeros(n, int),
        "action": np.zeros(n, int),
        "reward": np.ones(n),
        "next_state": np.zeros(n, int),
        "terminated": np.zeros(n, bool),
        "episode": np.arange(n) // 5,
    }
    policy = OfflinePolicyEstimator(0.9).fit(log)
    assert policy.behaviour_value().value == pytest.approx(10, rel=0.02)
    assert policy.policy_value().value == pytest.approx(10, rel=0.02)


def test_weighted_returns_by_hand():
    """Three kinds of episodes of one state, of which the policy does but one."""
    log = {"state": [0] * 90, "action": [0, 1, 2] * 30, "terminated": [True] * 90}
    log["reward"] = [0.0, 9.0, 1.0] * 30
    policy = OfflinePolicyEstimator(0.9).fit(log)
    pi = policy.predict_proba([0])[0]
    found, size, mean_weight = policy._weighted_returns()
    assert found.value == pytest.approx(pi @ [0, 9, 1])
    assert size == pytest.approx(30 / (pi @ pi))
    assert mean_weight == pytest.approx(1)


def test_episodes_that_end_early_do_not_stand_for_the_policys_own():
    """Each step either pays and goes on, at most five times, or ends the episode.

    The policy goes on for ever, which no episode does. Those that ended at once are
    nearest to it: they are many, and their weights are alike.
    """
    rng = np.random.default_rng(0)
    steps = np.minimum(rng.geometric(0.5, 200) - 1, 5)
    last = np.cumsum(steps + 1) - 1
    state = np.concatenate([np.arange(n + 1) for n in steps])
    action = np.ones(len(state), int)
    action[last] = 0
    log = {
        "state": state,
        "action": action,
        "reward": action.astype(float),
        "next_state": state + 1,
        "terminated": action == 0,
        "episode": np.repeat(np.arange(200), steps + 1),
    }
    policy = OfflinePolicyEstimator(0.9).fit(log)
    _, size, mean_weight = policy._weighted_returns()
    assert size > 5
    assert mean_weight < 0.01


def test_weights_of_long_episodes_do_not_overflow():
    """Two habits, of which the policy has the one: its episodes weigh 2^2000."""
    length = 2000
    n = 4 * length
    log = {
        "state": np.zeros(n, int),
        "action": np.repeat([0, 1, 0, 1], length),
        "reward": np.repeat([1.0, 0.0, 1.0, 0.0], length),
        "next_state": np.zeros(n, int),
        "terminated": np.zeros(n, bool),
        "truncated": np.arange(n) % length == length - 1,
    }
    policy = OfflinePolicyEstimator(0.9).fit(log)
    found, size, mean_weight = policy._weighted_returns()
    assert found.value == pytest.approx(10, rel=0.02)
    assert size == pytest.approx(2)
    assert mean_weight == np.inf


def test_a_cut_episode_is_weighted_with_what_would_follow():
    """A process that pays 1 for ever, cut after 10 steps: 1 / (1 - gamma) in all."""
    n = 400
    log = {
        "state": np.zeros(n, int),
        "action": np.tile([0, 1], n // 2),
        "reward": np.ones(n),
        "next_state": np.zeros(n, int),
        "terminated": np.zeros(n, bool),
        "truncated": np.arange(n) % 10 == 9,
    }
    found, *_ = OfflinePolicyEstimator(0.9).fit(log)._weighted_returns()
    assert found.value == pytest.approx(10, rel=0.02)


def test_values_and_their_order_on_the_lake(lake):
    env, _, policy = lake
    pi = policy.predict_proba(np.arange(env.n_states))
    value, low, high = policy.policy_value(interval=0.9)
    exact = env.start @ env.policy_value(pi)
    assert low <= exact <= high
    assert low < value < high
    behaviour = policy.behaviour_value(interval=0.99)
    exact = env.start @ env.policy_value(env.uniform_policy)
    assert behaviour.low <= exact <= behaviour.high
    assert policy.probability_of_improvement() > 0.95
    wide, narrow = policy.policy_value(interval=0.95), policy.policy_value(interval=0.5)
    assert wide.low < low < narrow.low < narrow.high < high < wide.high


def test_start_states(lake):
    _, _, policy = lake
    at = [policy.policy_value(start=[state]).value for state in (0, 14)]
    assert at[0] < at[1]
    # The log starts in 0 always.
    np.testing.assert_allclose(policy.policy_value(start=[0]), policy.policy_value())
    mean = policy.policy_value(start=[0, 14, 14, 14]).value
    assert mean == pytest.approx(0.25 * at[0] + 0.75 * at[1])
    assert policy.policy_value(start={0: 1, 14: 3}).value == pytest.approx(mean)
    # The hole 5 ends episodes: it is worth nothing.
    assert policy.policy_value(start=[5]).value == 0


def test_a_declared_range_bounds_the_interval(lake):
    _, log, _ = lake
    few = {name: column[:30] for name, column in log.items()}
    policy = OfflinePolicyEstimator(0.9, reward_range=(0, 1), random_state=0).fit(few)
    for value in (policy.policy_value(interval=0.999), policy.behaviour_value(0.999)):
        assert 0 <= value.low <= value.value <= value.high <= 10


def test_without_episodes_all_states_count_by_their_visits():
    log = chain()
    order = np.random.default_rng(0).permutation(len(log["state"]))
    policy = OfflinePolicyEstimator(0.5).fit({k: v[order] for k, v in log.items()})
    assert policy.n_episodes_ == 0
    # 1.75, 1.5 and 1 in equal shares
    assert policy.policy_value().value == pytest.approx(4.25 / 3, abs=0.1)
    assert policy.behaviour_value().value == pytest.approx(4.25 / 3, abs=0.1)


def test_units_of_reward(lake):
    _, log, policy = lake
    scaled = OfflinePolicyEstimator(0.9, random_state=0, handle_unknown="infer")
    scaled.fit({**log, "reward": 100 * log["reward"]})
    for ask in ("policy_value", "behaviour_value"):
        expected = 100 * np.array(getattr(policy, ask)())
        np.testing.assert_allclose(getattr(scaled, ask)(), expected, rtol=1e-6)
    assert scaled.probability_of_improvement() == policy.probability_of_improvement()


def test_episodes_add_up_and_are_kept(lake, tmp_path):
    _, log, whole = lake
    cut = int(np.flatnonzero(np.diff(log["episode"]))[50]) + 1
    parts = [
        {name: column[part] for name, column in log.items()}
        for part in (slice(cut), slice(cut, None))
    ]
    policy = OfflinePolicyEstimator(0.9, random_state=0, handle_unknown="infer")
    policy.partial_fit(parts[0]).partial_fit(parts[1])
    assert policy.n_episodes_ == whole.n_episodes_
    np.testing.assert_allclose(policy.behaviour_value(), whole.behaviour_value())
    assert whole._weighted_returns()[1] > 1
    assert np.isnan(policy._weighted_returns()[1])  # the first part had another policy
    whole.save(tmp_path / "whole")
    same = OfflinePolicyEstimator.load(tmp_path / "whole")
    assert same._weighted_returns() == whole._weighted_returns()
    policy.save(tmp_path / "policy")
    for copy in (
        OfflinePolicyEstimator.load(tmp_path / "policy"),
        pickle.loads(pickle.dumps(policy)),
    ):
        assert copy.n_episodes_ == policy.n_episodes_
        assert copy.policy_value() == policy.policy_value()
        assert copy.behaviour_value() == policy.behaviour_value()


def test_one_log_without_episodes_forgets_them(lake):
    _, log, _ = lake
    policy = OfflinePolicyEstimator(0.9).fit(log)
    order = np.random.default_rng(0).permutation(len(log["state"]))
    names = ("state", "action", "reward", "next_state", "terminated")
    policy.partial_fit({name: log[name][order] for name in names})
    assert policy.n_episodes_ == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"interval": 1.0}, r"interval must lie in \(0, 1\). Got 1.0"),
        ({"interval": 0}, "interval must lie"),
        ({"start": ["nowhere"]}, "Every state must be in the log"),
        ({"start": []}, "a state at least"),
        ({"start": {0: -1.0}}, "must be 0 or more"),
    ],
)
def test_bad_arguments(arguments, match):
    policy = OfflinePolicyEstimator().fit(chain())
    with pytest.raises(ValueError, match=match):
        policy.policy_value(**arguments)


# episodes


@pytest.mark.parametrize("extra", ["episode", "shuffled", "truncated", "ends"])
def test_episodes_are_found(extra):
    log = chain(3, 4)
    log["terminated"][:4] = False  # the first is cut
    expected = [0, 4, 8]
    table = dict(log)
    order = np.arange(12)
    if extra in ("episode", "shuffled"):
        table |= {"episode": np.repeat([7, 3, 5], 4), "step": log["state"] + 2}
    if extra == "shuffled":
        order = np.random.default_rng(0).permutation(12)
    if extra == "truncated":
        table["truncated"] = np.arange(12) == 3
    if extra == "ends":
        table["next_state"] = np.where(np.arange(12) == 3, 0, table["next_state"])
        expected = [0, 8]
    table = {name: column[order] for name, column in table.items()}
    found = order_episodes(table, read_transitions(table))
    assert found is not None
    rows, first = found
    assert sorted(order[rows[first]]) == expected
    assert table["state"][rows].tolist() == [0, 1, 2, 3] * 3


def test_rows_that_do_not_follow_are_no_episodes():
    log = chain(3, 4)
    missing = {name: np.delete(column, 5) for name, column in log.items()}
    episode = np.delete(np.repeat([0, 1, 2], 4), 5)
    for table in (missing, {**missing, "episode": episode}):
        assert order_episodes(table, read_transitions(table)) is None


# scores


def every_trajectory():
    """Return all paths of two steps in their exact proportions, and what is true.

    Two states, two actions. Behaviour 1/4 and 3/4; action 1 leads to state 1 in half
    of the cases and pays 2 there, action 0 ends the episode in state 1.
    """
    b, pi = np.array([0.25, 0.75]), np.array([0.9, 0.1])
    rows = []
    for a0, s1, a1 in product((0, 1), (0, 1), (0, 1)):
        probability = b[a0] * b[a1] * (0.5 if a0 else float(s1 == 0))
        for _ in range(round(32 * probability)):
            rows.append((0, a0, s1, a1))
    reward = {(0, 0): 1.0, (0, 1): 0.0, (1, 0): 3.0, (1, 1): 5.0}
    gamma = 0.5
    v1 = {s: sum(pi[a] * reward[s, a] for a in (0, 1)) for s in (0, 1)}
    exact = pi[0] * (reward[0, 0] + gamma * v1[0])
    exact += pi[1] * (reward[0, 1] + gamma * (v1[0] + v1[1]) / 2)
    flat = [pair for s0, a0, s1, a1 in rows for pair in ((s0, a0), (s1, a1))]
    state, action = np.array(flat).T
    return (
        *(state, action, np.array([reward[pair] for pair in flat])),
        *((pi / b)[action], gamma, exact),
    )


def test_weighted_doubly_robust_is_exact_whatever_the_model():
    state, action, reward, ratio, gamma, exact = every_trajectory()
    n = len(state) // 2
    left, weight = np.tile([2, 1], n), np.tile([1.0, 0.0], n)
    rng = np.random.default_rng(0)
    for scale in (0.0, 1.0, 10.0):
        # v and q by step: any function of what came before is allowed.
        v = scale * rng.normal(size=(2, 2))[np.tile([0, 1], n), state]
        q = scale * rng.normal(size=(2, 2, 2))[np.tile([0, 1], n), state, action]
        after = np.where(left == 2, np.append(v[1:], 0), 0)
        estimate = weighted_doubly_robust(
            *(ratio, reward + gamma * after - q, v, left, weight, np.zeros(2 * n)),
            *(gamma, 0),
        )
        if scale:
            assert estimate.value != pytest.approx(v[::2].mean())
        biased = q_is_biased(q, v, state, action, ratio, left)
        assert estimate.value - biased == pytest.approx(exact)


def q_is_biased(q, v, state, action, ratio, left):
    """Return what v - E_pi q adds: nothing, where v is the mean of q."""
    first = left == 2
    n = first.sum()
    step_0 = (v[first] - ratio[first] * q[first]).sum() / n
    weight = ratio[first] * ratio[~first]
    before = ratio[first] / n
    step_1 = (before * v[~first]).sum() - (weight * q[~first]).sum() / weight.sum()
    return step_0 + 0.5 * step_1


def test_one_step_is_self_normalised_doubly_robust():
    # Dudik et al. 2014, arXiv 1503.02834, with weights that sum to one.
    rng = np.random.default_rng(0)
    ratio, error, v = rng.gamma(1, 1, 50), rng.normal(size=50), rng.normal(size=50)
    one = np.ones(50)
    estimate = weighted_doubly_robust(
        *(ratio, error, v, one.astype(int), one, 0 * one, 0.9, 0)
    )
    assert estimate.value == pytest.approx(v.mean() + ratio @ error / ratio.sum())


def test_returns_to_go_by_hand():
    left = np.array([3, 2, 1, 2, 1])
    after = np.array([9.0, 9.0, 0.0, 9.0, 4.0])
    found = returns_to_go(np.array([1.0, 2.0, 4.0, 8.0, 16.0]), after, left, 0.5)
    np.testing.assert_allclose(found, [3.0, 4.0, 4.0, 17.0, 18.0])


def test_score_is_near_the_truth(lake):
    env, _, policy = lake
    held = env.simulate(env.uniform_policy, 4000, np.random.default_rng(1))
    held["propensity"] = np.full(4000, 0.25)
    pi = policy.predict_proba(np.arange(env.n_states))
    exact = env.start @ evaluate(env.transition, env.expected_reward, 0.99, pi)
    with pytest.warns(SmallSampleWarning, match="episodes count as"):
        score = policy.score(held)
    assert 0 < policy.effective_sample_size_ < 30
    assert score == pytest.approx(exact, abs=0.25)
    del held["propensity"]
    assert policy.score(held) == pytest.approx(exact, abs=0.25)
    assert policy.effective_sample_size_ is None
    parts = {name: held[name] for name in ("reward", "next_state", "terminated")}
    apart = policy.score(
        held["state"], held["action"], **parts, episode=held["episode"]
    )
    assert apart == policy.score(held)


def test_contexts_are_histories_that_are_frequent():
    state = np.array([0, 1, 0, 0, 1, 1, 0, 1])
    action = np.array([0, 0, 1, 0, 0, 0, 1, 0])
    context, state_of = contexts(state, action, np.array([0, 3, 6]), 2, few=2)
    # (1 after 0, 0) occurs twice, all other histories once.
    assert context.tolist() == [0, 2, 0, 0, 2, 1, 0, 1]
    assert state_of.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(
        contexts(state, action, np.array([0, 3, 6]), 2, few=9)[0], state
    )


@pytest.mark.parametrize("propensity", [None, 0.5])
def test_states_that_hide_what_matters_are_not_believed(propensity):
    """A resource that 'use' empties and 'wait' fills, which the state does not tell."""
    rng = np.random.default_rng(0)
    n = 3000
    action = rng.integers(2, size=n)  # 1 uses
    full = np.append(True, action[:-1] == 0)
    log = {
        "state": np.zeros(n, int),
        "action": action,
        "reward": np.where((action == 1) & full, 1.0, -0.1 * (action == 1)),
        "next_state": np.zeros(n, int),
        "terminated": np.zeros(n, bool),
        "episode": np.repeat(np.arange(n // 30), 30),
    }
    if propensity:
        log["propensity"] = np.full(n, propensity)
    policy = OfflinePolicyEstimator(random_state=0).fit(log)
    assert policy.predict_proba([0])[0, 1] > 0.99  # uses always, and finds it empty
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSampleWarning)
        score = policy.score(log)
    # 1 - 0.1 (0.99 + 0.99^2 + ...) in truth; the states alone say 0.45 / (1 - 0.99).
    assert score == pytest.approx(1 - 9.9, abs=3)


def test_what_was_never_tried_is_no_evidence():
    # Action 1 pays in the log of the fit, and is not in the log of the score.
    log = {
        "state": np.zeros(100, int),
        "action": np.tile([0, 1], 50),
        "reward": np.tile([1.0, 9.0], 50),
        "next_state": np.zeros(100, int),
        "terminated": np.ones(100, bool),
    }
    policy = OfflinePolicyEstimator().fit(log)
    held = {name: column[::2] for name, column in log.items()}
    assert policy.score(held) == pytest.approx(1, abs=0.01)
    assert policy.score(log) == pytest.approx(9, abs=0.5)


def test_a_log_of_the_policy_itself_is_scored_by_its_returns():
    log = {**chain(40, 3), "propensity": np.ones(120)}
    policy = OfflinePolicyEstimator(0.9).fit(chain())
    assert policy.score(log, gamma=0.5) == pytest.approx(1.75)
    assert policy.effective_sample_size_ == pytest.approx(40)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"propensity": np.zeros(120)}, r"must lie in \(0, 1\]. Found 120"),
        ({"propensity": np.full(120, "x")}, "propensity must be numeric"),
        ({"reward": None}, "Missing: 'reward'"),
    ],
)
def test_bad_logs_to_score(change, match):
    log = {**chain(40, 3), "propensity": np.ones(120), **change}
    log = {name: column for name, column in log.items() if column is not None}
    with pytest.raises((ValueError, TypeError), match=match):
        OfflinePolicyEstimator().fit(chain()).score(log)


def test_propensities_need_whole_episodes():
    log = {**chain(), "propensity": np.ones(120)}
    order = np.random.default_rng(0).permutation(120)
    with pytest.raises(ValueError, match="GroupKFold"):
        OfflinePolicyEstimator().fit(chain()).score(
            {k: v[order] for k, v in log.items()}
        )


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8),
    reason="scikit-learn 1.7 routes no metadata to the score of a pipeline",
)
def test_grid_search_over_bins_and_discount():
    rng = np.random.default_rng(0)
    position = rng.random((600, 1))
    action = rng.integers(2, size=600)
    # Right is right in the upper half: two bins are needed to see it.
    reward = (action == (position[:, 0] > 0.5)).astype(float)
    bins = KBinsDiscretizer(encode="ordinal", strategy="uniform", subsample=None)
    with sklearn.config_context(enable_metadata_routing=True):
        policy = OfflinePolicyEstimator(handle_unknown="infer")
        policy.set_fit_request(reward=True, terminated=True, next_state=True)
        policy.set_score_request(
            reward=True,
            terminated=True,
            next_state=False,
            episode=True,
            propensity=True,
        )
        pipeline = make_pipeline(bins, policy, transform_input=["next_state"])
        search = GridSearchCV(
            pipeline,
            {
                "kbinsdiscretizer__n_bins": [2, 3],
                "offlinepolicyestimator__gamma": [0.5, 0.9],
            },
            cv=GroupKFold(3),
            error_score="raise",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SmallSampleWarning)
            search.fit(
                *(position, action),
                reward=reward,
                next_state=position,
                terminated=np.ones(600, bool),
                episode=np.arange(600),
                propensity=np.full(600, 0.5),
                groups=np.arange(600),
            )
    assert search.best_params_["kbinsdiscretizer__n_bins"] == 2
    assert search.best_score_ == pytest.approx(1, abs=0.1)


# coverage


def test_coverage_report():
    n = 60
    log = {
        "state": ["known"] * n + ["thin"] * 4,
        "action": ["a", "b"] * (n // 2 + 2),
        "reward": [1.0, 0.0] * (n // 2) + [0.0, 1.0, 0.4, 0.6],
        "next_state": ["thin"] * n + ["end"] * 4,
        "terminated": [False] * n + [True] * 4,
    }
    policy = OfflinePolicyEstimator(0.9, random_state=0).fit(log)
    report = policy.coverage_report(min_rows=5)
    assert isinstance(report, pd.DataFrame)
    assert report["state"].tolist() == ["thin", "known"]  # most worth knowing first
    by_state = report.set_index("state")
    assert by_state.loc["known", "visits"] == n
    assert by_state.loc["known", "action"] == "a"
    assert by_state.loc["known", "action_visits"] == n / 2
    assert by_state.loc["known", "behaviour_probability"] == 0.5
    assert report["visit_share"].sum() == pytest.approx(1)
    share = by_state["visit_share"]
    assert by_state.loc["known", "thin_share"] == 0
    assert by_state.loc["thin", "thin_share"] == pytest.approx(share["thin"])
    value = by_state["information_value"]
    assert value["thin"] > value["known"] >= 0
    with pytest.raises(ValueError, match="min_rows must be 1 or more"):
        policy.coverage_report(min_rows=0)
