"""The estimator: scikit-learn's conventions, invariances, and what bad input gets."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import expected_statistics
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import KBinsDiscretizer
from sklearn.utils import estimator_checks, get_tags

from tabrl import (
    CheckpointError,
    DeadEndWarning,
    OfflinePolicyEstimator,
    _offline,
)
from tabrl._network import Network, NetworkConfig

COLUMNS = ("state", "action", "reward", "next_state", "terminated")
few_examples = settings(max_examples=15)
seeds = st.integers(0, 2**32 - 1)


def draw_log(seed, n=120, n_states=6, n_actions=3) -> dict[str, np.ndarray]:
    """Draw a log of a random process whose state 0 ends an episode when entered."""
    rng = np.random.default_rng(seed)
    state = rng.integers(1, n_states, n)
    action = rng.integers(n_actions, size=n)
    rewards = np.round(rng.normal(size=(n_states, n_actions)), 2)
    successors = rng.integers(n_states, size=(n_states, n_actions, 2))
    following = successors[state, action, rng.integers(2, size=n)]
    return {
        "state": state,
        "action": action,
        "reward": rewards[state, action] + (rng.random(n) < 0.2),
        "next_state": following,
        "terminated": following == 0,
    }


def rows(log, index):
    return {name: column[index] for name, column in log.items()}


def fitted(log, **parameters) -> OfflinePolicyEstimator:
    return OfflinePolicyEstimator(random_state=0, **parameters).fit(log)


def outputs(policy, states=None) -> list[np.ndarray]:
    """Everything that the policy says of some states, of all by default."""
    states = policy.states_ if states is None else states
    return [
        policy.predict_proba(states),
        *(policy.action_values(states, q) for q in (0.1, 0.5, 0.9)),
    ]


def assert_same(left, right, rtol=0.0):
    """Compare outputs; a tolerance is of the largest value."""
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1, np.abs(b).max()))


@pytest.fixture(scope="module")
def log():
    return draw_log(0)


@pytest.fixture(scope="module")
def policy(log):
    return fitted(log)


# scikit-learn's conventions


@pytest.mark.parametrize(
    "check",
    [
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_mixin_order",
    ],
)
def test_checks_of_scikit_learn_that_need_no_X_and_y(check):
    run = getattr(estimator_checks, check)
    run("OfflinePolicyEstimator", OfflinePolicyEstimator())


def test_clone_keeps_parameters_and_forgets_the_fit(log):
    policy = fitted(log, gamma=0.9, reward_range=(-9, 9), device="cpu")
    copy = clone(policy)
    assert copy.get_params() == policy.get_params()
    with pytest.raises(NotFittedError):
        copy.predict([1])
    assert_same(outputs(copy.fit(log)), outputs(policy))


def test_fit_changes_no_parameter_and_returns_self(log):
    policy = OfflinePolicyEstimator(gamma=0.5, random_state=3)
    before = policy.get_params()
    assert policy.fit(log) is policy
    assert policy.partial_fit(log) is policy
    assert policy.get_params() == before


def test_repr_names_what_is_not_default(policy):
    assert repr(policy) == "OfflinePolicyEstimator(random_state=0)"
    assert "OfflinePolicyEstimator" in policy._repr_html_()


def test_tags_say_that_labels_of_any_kind_are_taken():
    tags = get_tags(OfflinePolicyEstimator())
    assert tags.input_tags.categorical
    assert tags.input_tags.string
    assert not tags.target_tags.required
    assert tags.requires_fit


def test_unfitted():
    policy = OfflinePolicyEstimator()
    for ask in (policy.predict, policy.predict_proba, policy.action_values):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            ask([0])


def test_fitted_attributes_and_shapes(log, policy):
    assert policy.states_.tolist() == [0, 1, 2, 3, 4, 5]
    assert policy.actions_.tolist() == [0, 1, 2]
    assert policy.n_transitions_ == 120
    asked = [5, 1, 5]
    assert policy.predict(asked).shape == (3,)
    assert set(policy.predict(asked)) <= {0, 1, 2}
    probabilities = policy.predict_proba(asked)
    assert probabilities.shape == (3, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(probabilities[0], probabilities[2])
    best = policy.predict_proba(policy.states_).max(1)
    chosen = policy.predict(policy.states_)
    np.testing.assert_allclose(
        policy.predict_proba(policy.states_)[np.arange(6), chosen], best
    )
    assert policy.action_values(asked).dtype == np.float64


def test_states_only_entered_by_terminating_are_worth_nothing(policy):
    np.testing.assert_array_equal(policy.action_values([0]), 0)
    np.testing.assert_allclose(policy.predict_proba([0]), 1 / 3)


def test_a_fitted_policy_is_small_and_has_no_weights():
    policy = fitted(draw_log(1, n=4000, n_states=16, n_actions=4))
    data = pickle.dumps(policy)
    assert len(data) < 200_000
    assert b"torch" not in data
    script = (
        "import pickle, sys; policy = pickle.load(sys.stdin.buffer);"
        "print(policy.predict_proba(policy.states_).tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        input=data,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    np.testing.assert_array_equal(
        json.loads(run.stdout), policy.predict_proba(policy.states_)
    )
    # It can go on where it stopped.
    more = draw_log(2, n_states=16, n_actions=4)
    assert_same(
        outputs(pickle.loads(data).partial_fit(more)),
        outputs(policy.partial_fit(more)),
    )


def test_the_same_seed_the_same_predictions(log):
    state = np.random.RandomState(7)
    first = OfflinePolicyEstimator(random_state=7).fit(log)
    again = OfflinePolicyEstimator(random_state=state).fit(log)
    np.testing.assert_array_equal(
        first.predict(first.states_), again.predict(again.states_)
    )


def test_ties_are_broken_at_random():
    # All actions of all states look the same.
    table = {
        "state": np.repeat(np.arange(20), 2),
        "action": np.tile(["left", "right"], 20),
        "reward": np.zeros(40),
        "next_state": np.repeat(np.arange(20), 2),
        "terminated": np.zeros(40, bool),
    }
    chosen = np.stack(
        [
            OfflinePolicyEstimator(random_state=seed).fit(table).predict(range(20))
            for seed in range(10)
        ]
    )
    # Five standard deviations of a share of 200 fair draws.
    assert abs((chosen == "left").mean() - 0.5) < 5 * 0.5 / np.sqrt(200)
    assert (chosen != chosen[0]).any(0).all()


# Containers


def structured(log):
    return pd.DataFrame(log).to_records(index=False)


def five_columns(log):
    return np.stack([log[name].astype(float) for name in COLUMNS], 1)


@pytest.mark.parametrize(
    "container",
    [pd.DataFrame, pl.DataFrame, pa.table, structured, five_columns],
    ids=["pandas", "polars", "pyarrow", "structured", "2-D"],
)
def test_containers_agree(container, log, policy):
    other = fitted(container(log))
    assert_same(outputs(other, range(6)), outputs(policy, range(6)))
    np.testing.assert_array_equal(other.predict(range(6)), policy.predict(range(6)))


def test_columns_apart_agree_with_the_table(log, policy):
    rest = {name: log[name] for name in COLUMNS[2:]}
    apart = OfflinePolicyEstimator(random_state=0).fit(
        log["state"], log["action"], **rest
    )
    assert_same(outputs(apart), outputs(policy))
    apart.partial_fit(X=log["state"][:, None], y=log["action"], **rest)
    assert apart.n_transitions_ == 240


def test_next_states_from_episodes():
    table = pd.DataFrame(
        {
            "episode": [0, 0, 1, 1],
            "step": [0, 1, 0, 1],
            "state": ["a", "b", "a", "b"],
            "action": [0, 1, 1, 0],
            "reward": [0.0, 1.0, 0.0, -1.0],
            "terminated": [False, True, False, True],
        }
    )
    given_next = table.drop(columns=["episode", "step"]).assign(
        next_state=["b", None, "b", None]
    )
    assert_same(outputs(fitted(table)), outputs(fitted(given_next)))


def test_warnings_point_at_the_users_line():
    table = {**draw_log(0), "done": draw_log(0)["terminated"]}
    del table["terminated"]
    policy = OfflinePolicyEstimator()
    with pytest.warns(UserWarning, match="'done' is read as 'terminated'") as caught:
        policy.fit(table)
    with pytest.warns(UserWarning, match="'done' is read as 'terminated'") as again:
        policy.partial_fit(table)
    assert {w.filename for w in [*caught, *again]} == {__file__}


# As the last step of a pipeline


def continuous_log(seed=0, n=600):
    """Draw a walk in a square that pays at the right edge, in continuous columns."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(size=(n, 2))
    action = rng.integers(2, size=n)
    step = np.where(action == 1, 0.3, -0.3)
    following = position.copy()
    following[:, 0] = np.clip(position[:, 0] + step, 0, 1)
    return position, action, (following[:, 0] > 0.9).astype(float), following


def bins():
    binning = KBinsDiscretizer(n_bins=4, encode="ordinal", strategy="uniform")
    if "quantile_method" in binning.get_params():  # scikit-learn 1.7 and later
        binning.set_params(quantile_method="linear")
    return binning


def test_pipeline_with_discretised_states():
    position, action, reward, following = continuous_log()
    with sklearn.config_context(enable_metadata_routing=True):
        policy = OfflinePolicyEstimator(gamma=0.9, random_state=0)
        policy.set_fit_request(reward=True, next_state=True, terminated=True)
        pipeline = Pipeline(
            [("bins", bins()), ("policy", policy)], transform_input=["next_state"]
        )
        pipeline.fit(
            position,
            action,
            reward=reward,
            next_state=following,
            terminated=np.zeros(len(action), bool),
        )
        new = np.random.default_rng(1).uniform(size=(50, 2))
        # The reward lies to the right.
        assert pipeline.predict(new).tolist() == [1] * 50
        np.testing.assert_allclose(pipeline.predict_proba(new).sum(1), 1)
        values = pipeline[-1].action_values(pipeline[0].transform(new)).max(1)
    assert np.corrcoef(values, new[:, 0])[0, 1] > 0.5
    assert all(isinstance(label, tuple) for label in pipeline[-1].states_)

    # The same by hand.
    bin_of = bins().fit(position).transform
    by_hand = OfflinePolicyEstimator(gamma=0.9, random_state=0).fit(
        bin_of(position),
        action,
        reward=reward,
        next_state=bin_of(following),
        terminated=False,
    )
    np.testing.assert_array_equal(by_hand.states_, pipeline[-1].states_)
    assert_same(outputs(by_hand), outputs(pipeline[-1]))


def test_states_are_no_metadata_of_predict():
    with sklearn.config_context(enable_metadata_routing=True):
        routing = OfflinePolicyEstimator().get_metadata_routing()
        assert routing.predict.requests == {}
        assert routing.predict_proba.requests == {}
        columns = {"reward", "next_state", "terminated", "allowed_actions"}
        assert set(routing.fit.requests) == columns
        assert set(routing.partial_fit.requests) == set(routing.fit.requests)


def test_pipeline_without_routing_says_what_is_missing():
    position, action, *_ = continuous_log()
    with pytest.raises(ValueError, match="Missing: 'reward'"):
        make_pipeline(bins(), OfflinePolicyEstimator()).fit(position, action)


# Invariances


@few_examples
@given(seeds)
def test_order_of_rows_is_irrelevant(seed):
    log = draw_log(seed)
    order = np.random.default_rng(seed).permutation(120)
    assert_same(outputs(fitted(rows(log, order))), outputs(fitted(log)), rtol=1e-5)


def test_order_of_rewards_that_cancel_is_irrelevant():
    # In one order their sum is 0, in the other -5.6e-17: both mean no reward.
    def table(rewards):
        return {
            "state": [0, 0, 0, 0],
            "action": [0, 0, 0, 1],
            "reward": [*rewards, 0.0],
            "next_state": [0, 0, 0, 1],
            "terminated": [False] * 4,
        }

    assert 0.1 + 0.3 - 0.4 == 0 != -0.4 + 0.1 + 0.3
    assert_same(
        outputs(fitted(table([0.1, 0.3, -0.4]))),
        outputs(fitted(table([-0.4, 0.1, 0.3]))),
        rtol=1e-6,
    )


@few_examples
@given(seeds)
def test_relabelling_states_and_actions_permutes(seed):
    log = draw_log(seed)
    rng = np.random.default_rng(seed)
    to_state, to_action = rng.permutation(6) + 10, rng.permutation(3) + 5
    renamed = {
        **log,
        "state": to_state[log["state"]],
        "next_state": to_state[log["next_state"]],
        "action": to_action[log["action"]],
    }
    policy, other = fitted(log), fitted(renamed)
    found = outputs(other, to_state[policy.states_])
    column = to_action[policy.actions_] - 5
    assert_same([x[:, column] for x in found], outputs(policy), rtol=1e-4)


@few_examples
@given(seeds, st.integers(1, 119), st.integers(1, 119))
def test_splitting_over_partial_fit_adds(seed, first, second):
    log = draw_log(seed)
    ends = sorted((first, second))
    policy = OfflinePolicyEstimator(random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "partial_fit adds", UserWarning)
        for part in np.split(np.arange(120), ends):
            if len(part):
                policy.partial_fit(rows(log, part))
    whole = fitted(log)
    assert policy.n_transitions_ == 120
    np.testing.assert_array_equal(policy.states_, whole.states_)
    np.testing.assert_array_equal(policy.actions_, whole.actions_)
    assert_same(outputs(policy), outputs(whole), rtol=1e-5)


def test_partial_fit_adds_states_silently_and_actions_with_a_warning(log):
    few = log["state"] < 4
    few &= (log["next_state"] < 4) & (log["action"] > 0)
    policy = fitted(rows(log, few))
    assert policy.states_.tolist() == [0, 1, 2, 3]
    with pytest.warns(UserWarning, match="adds 1 actions not seen before: 0") as caught:
        policy.partial_fit(rows(log, ~few))
    assert caught[0].filename == __file__
    assert policy.actions_.tolist() == [0, 1, 2]
    assert_same(outputs(policy), outputs(fitted(log)), rtol=1e-5)


def test_partial_fit_with_labels_of_another_kind(log):
    policy = fitted(log)
    before = policy.action_values([1])
    other = {**log, "state": log["state"] + 0.5, "next_state": log["next_state"] + 0.5}
    policy.partial_fit(other)
    assert 2 * len(log["state"]) == policy.n_transitions_
    assert policy.predict([1, 1.5]).shape == (2,)
    assert policy.action_values([1]).shape == before.shape


@few_examples
@example(5429, 1e-6, False)  # one pair's rewards cancel but for rounding
@given(seeds, st.sampled_from([1e-6, 0.37, 3.0, 1e9]), st.booleans())
def test_rewards_times_a_constant_scale_the_values(seed, c, declared):
    log = draw_log(seed)
    reward_range = (-6.0, 6.0) if declared else None
    scaled_range = (-6.0 * c, 6.0 * c) if declared else None
    policy = fitted(log, reward_range=reward_range)
    scaled = fitted({**log, "reward": log["reward"] * c}, reward_range=scaled_range)
    probabilities, *values = outputs(policy)
    found, *found_values = outputs(scaled)
    np.testing.assert_allclose(found, probabilities, atol=1e-4)
    assert_same([v / c for v in found_values], values, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::tabrl.DeadEndWarning")  # of 30 rows, by chance
@few_examples
@given(seeds, st.lists(st.floats(0.1, 0.9), min_size=2, max_size=6))
def test_quantiles_are_in_order(seed, levels):
    policy = fitted(draw_log(seed, n=30))
    levels = sorted([0.1, 0.5, 0.9, *levels])
    values = np.stack([policy.action_values(policy.states_, q) for q in levels])
    assert (np.diff(values, axis=0) >= -1e-9 * np.abs(values).max()).all()
    np.testing.assert_array_equal(
        policy.action_values(policy.states_), policy.action_values(policy.states_, 0.5)
    )


def test_quantiles_of_any_network_are_in_order(monkeypatch):
    # The heads are learned one by one, and may cross.
    torch.manual_seed(0)
    network = Network(NetworkConfig(width=8, n_layers=1)).requires_grad_(False)
    network.unseen_head.bias.copy_(torch.tensor([2.0, 0.0, -2.0]))
    monkeypatch.setattr("tabrl._offline.load_network", lambda *_: network)
    policy = fitted(draw_log(0, n=10))
    low, middle, high = outputs(policy)[1:]
    assert (low <= middle).all()
    assert (middle <= high).all()


def test_quantiles_between_the_heads_are_interpolated(policy):
    low, middle, high = (policy.action_values([1, 2], q) for q in (0.1, 0.5, 0.9))
    np.testing.assert_allclose(
        policy.action_values([1, 2], 0.2), 0.75 * low + 0.25 * middle
    )
    np.testing.assert_allclose(
        policy.action_values([1, 2], 0.8), 0.25 * middle + 0.75 * high
    )


@few_examples
@given(seeds)
def test_values_stay_within_what_the_reward_range_allows(seed):
    log = draw_log(seed, n=20)
    policy = fitted({**log, "reward": np.abs(log["reward"])}, reward_range=(0, 6))
    for values in outputs(policy)[1:]:
        assert values.min() >= 0
        assert values.max() <= 6 / (1 - 0.99) + 1e-9


# Exact answers


def test_gamma_zero_values_are_mean_rewards_in_the_limit():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(5, 3))
    P = rng.dirichlet(np.ones(5), (5, 3))
    policy = with_statistics(expected_statistics(P, means, 1e9), gamma=0.0)
    np.testing.assert_allclose(policy.action_values(range(5)), means, atol=1e-6)
    np.testing.assert_array_equal(policy.predict(range(5)), means.argmax(1))


def with_statistics(statistics, **parameters) -> OfflinePolicyEstimator:
    """Return a policy fitted on statistics, as those of more rows than one can list."""
    policy = OfflinePolicyEstimator(random_state=0, **parameters)
    states, actions = np.arange(statistics.n_states), np.arange(statistics.n_actions)
    return policy._plan(states, actions, statistics)


def test_steps_left_in_the_state_plan_a_fixed_number_of_steps():
    """The log repeated for each number of steps gives what backward induction does.

    The recipe is in the notes of the estimator.
    """
    rng = np.random.default_rng(0)
    n_states, n_actions, n_steps, n = 5, 3, 4, 30_000
    P = rng.dirichlet(np.full(n_states, 0.3), (n_states, n_actions))
    R = rng.normal(size=(n_states, n_actions))
    state = rng.integers(n_states, size=n)
    action = rng.integers(n_actions, size=n)
    drawn = rng.random((n, 1)) > P[state, action].cumsum(1)
    following = drawn.sum(1).clip(max=n_states - 1)
    log = pd.DataFrame({"action": action, "reward": R[state, action]})
    copies, q = [], []
    for left in range(1, n_steps + 1):
        log["state"] = [(s, left) for s in state.tolist()]
        log["next_state"] = [(s, left - 1) for s in following.tolist()]
        copies.append(log.assign(terminated=left == 1))
        q.append(R + P @ (q[-1].max(1) if q else np.zeros(n_states)))
    best = np.array(q).argmax(2)
    assert (best != best[-1]).any()  # no policy of states alone is the best
    policy = fitted(pd.concat(copies), gamma=0.9999)
    found = policy.predict([(s, h + 1) for h, s in np.ndindex(best.shape)])
    np.testing.assert_array_equal(found.reshape(best.shape), best)


def test_mishandled_truncation_gives_the_wrong_value():
    # One state that pays 1 for ever, in episodes cut after 10 steps.
    n = 100_000
    table = {
        "state": np.zeros(n, int),
        "action": np.zeros(n, int),
        "reward": np.ones(n),
        "next_state": np.zeros(n, int),
        "terminated": np.zeros(n, bool),
        "truncated": np.arange(n) % 10 == 9,
    }
    right = fitted(table, gamma=0.95).action_values([0]).item()
    assert right == pytest.approx(1 / (1 - 0.95), rel=1e-2)
    wrong = {**table, "terminated": table["truncated"]}
    del wrong["truncated"]
    found = fitted(wrong, gamma=0.95).action_values([0]).item()
    assert found == pytest.approx(1 / (1 - 0.9 * 0.95), rel=1e-2)


def test_a_single_transition(log):
    for terminated in (True, False):
        table = {
            "state": ["only"],
            "action": ["go"],
            "reward": [1.0],
            "next_state": ["only"],
            "terminated": [terminated],
        }
        policy = fitted(table)
        assert policy.predict(["only"]).tolist() == ["go"]
        np.testing.assert_array_equal(policy.predict_proba(["only"]), 1)
        assert np.isfinite(outputs(policy)).all()


# Bad input


def refused(policy, log, error, match, **parameters):
    """Check that fit and partial_fit refuse, and leave the estimator as it was."""
    before = outputs(policy)
    n = policy.n_transitions_
    old = policy.get_params()
    policy.set_params(**parameters)
    new = clone(policy)
    try:
        for method in (policy.fit, policy.partial_fit, new.fit, new.partial_fit):
            with pytest.raises(error, match=match):
                method(log)
    finally:
        policy.set_params(**old)
    assert_same(outputs(policy), before)
    assert policy.n_transitions_ == n
    with pytest.raises(NotFittedError):
        new.predict([1])


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"gamma": 1.2}, ValueError, r"gamma must lie in \[0, 1\)\. Got 1\.2\."),
        ({"gamma": 1}, ValueError, "Got 1.* notes of OfflinePolicyEst"),
        ({"gamma": -0.1}, ValueError, r"gamma must lie in \[0, 1\)\. Got -0\.1\."),
        ({"gamma": float("nan")}, ValueError, r"gamma must lie .* Got nan\."),
        ({"gamma": "0.9"}, TypeError, r"gamma must be a number .* Got '0\.9'\."),
        ({"gamma": None}, TypeError, "gamma must be a number .* Got None"),
        ({"device": "nonsense"}, ValueError, "device must be .* Got 'nonsense'"),
        ({"device": "meta"}, ValueError, "device must be .* Got 'meta'"),
        ({"device": None}, ValueError, "device must be .* Got 'None'"),
        ({"reward_range": 3}, TypeError, "must be a pair of numbers or None. Got 3"),
        ({"reward_range": (0, 1, 2)}, TypeError, r"a pair .* Got \(0, 1, 2\)"),
        ({"reward_range": ("a", 1)}, TypeError, "must be a pair of numbers"),
        ({"reward_range": (1, 0)}, ValueError, r"smallest .* Got \(1\.0, 0\.0\)"),
        ({"reward_range": (0, np.inf)}, ValueError, r"must be finite.*0\.0, inf"),
        ({"checkpoint": "nonsense"}, CheckpointError, "checkpoint must be .*nonsense"),
        ({"random_state": "x"}, ValueError, "cannot be used to seed"),
    ],
)
def test_bad_parameters(parameters, error, match, log, policy):
    refused(policy, log, error, match, **parameters)


def test_a_device_that_is_not_there(log, policy):
    if torch.cuda.is_available():
        pytest.skip("this machine has it")
    refused(policy, log, ValueError, "device must be .* Got 'cuda'", device="cuda")


def test_rewards_outside_the_range(log, policy):
    count = int((log["reward"] > 0.5).sum())
    first = int((log["reward"] > 0.5).argmax())
    refused(
        policy,
        log,
        ValueError,
        rf"reward_range \(-9\.0, 0\.5\)\. Found {count} .* transition {first} ",
        reward_range=(-9, 0.5),
    )


def test_a_range_narrowed_after_the_first_rewards(log):
    policy = fitted(log)
    before = outputs(policy)
    policy.set_params(reward_range=(-0.1, 0.1))
    with pytest.raises(ValueError, match=r"Those seen before do not: .* fit anew"):
        policy.partial_fit({**log, "reward": np.zeros(120)})
    assert_same(outputs(policy), before)
    # Rounding of the means is no reason to refuse.
    tenths = {**log, "reward": np.full(120, 0.1)}
    fitted(tenths, reward_range=(0, 0.1)).partial_fit(tenths)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"reward": np.nan}, ValueError, r"'reward' must be finite.*Found 1 .* row 7"),
        ({"reward": np.inf}, ValueError, "'reward' must be finite"),
        ({"state": np.nan}, ValueError, "'state' must not be missing"),
        ({"action": np.nan}, ValueError, "'action' must not be missing"),
        ({"terminated": 2.0}, ValueError, "'terminated' must be boolean"),
        ({"next_state": np.nan}, ValueError, "'next_state' must not be missing"),
    ],
)
def test_bad_values(changes, error, match, log, policy):
    table = pd.DataFrame(log)
    table = table[~table["terminated"]].reset_index(drop=True)
    for name, value in changes.items():
        table[name] = table[name].astype(float)
        table.loc[7, name] = value
    refused(policy, table, error, match)


@pytest.mark.parametrize("name", COLUMNS)
def test_missing_columns(name, log, policy):
    table = {key: column for key, column in log.items() if key != name}
    refused(policy, table, ValueError, f"Missing: '{name}'")


def test_other_bad_tables(log, policy):
    twice = {**log, "obs": log["state"]}
    refused(policy, twice, ValueError, "Column 'state' must be given once")
    short = {**log, "reward": log["reward"][:-1]}
    refused(policy, short, ValueError, "same length. Found .*'reward' 119")
    refused(policy, rows(log, slice(0)), ValueError, "at least one row. Found none")
    text = {**log, "reward": ["high"] * 120}
    refused(policy, text, TypeError, "'reward' must be numeric")
    refused(policy, "log.csv", TypeError, "Transitions must be a data frame")


def test_states_unknown_at_predict(policy):
    message = re.escape("Found 3 of 5 that are not, first at row 1: 77, -1.")
    for ask in (policy.predict, policy.predict_proba, policy.action_values):
        with pytest.raises(ValueError, match=message):
            ask([1, 77, 2, -1, 77])
    with pytest.raises(ValueError, match=r"0: 6, 7, 8, 9, 10 and 9 more\. Add"):
        policy.predict(range(6, 20))
    with pytest.raises(ValueError, match="Found 1 of 1 that are not"):
        policy.predict([np.nan])


@pytest.mark.parametrize("quantile", [0.05, 0.95, -1, np.nan])
def test_quantiles_out_of_range(quantile, policy):
    with pytest.raises(ValueError, match=r"quantile must lie in \[0\.1, 0\.9\]\. Got"):
        policy.action_values([1], quantile)


# States that are not in the log


def test_an_unknown_state_is_inferred_from_the_others(log, tmp_path):
    policy = fitted(log, handle_unknown="infer")
    known, guess = policy.predict_proba(policy.states_), policy.predict_proba([-5, 999])
    np.testing.assert_array_equal(guess[0], guess[1])
    assert guess[0].sum() == pytest.approx(1)
    assert not (guess[0] == known).all(1).any()
    assert policy.predict([999]) == policy.actions_[guess[0].argmax()]
    assert np.isfinite(policy.action_values([999])).all()
    policy.save(tmp_path / "policy")
    again = OfflinePolicyEstimator.load(tmp_path / "policy")
    np.testing.assert_array_equal(again.predict_proba([999])[0], guess[0])


def test_what_is_inferred_follows_the_log():
    """Two actions everywhere alike: the one that pays is taken in a new state too."""
    state = np.arange(200) % 10
    action = (np.arange(200) // 10) % 2
    for best in (0, 1):
        data = {
            "state": state,
            "action": action,
            "reward": (action == best).astype(float),
            "next_state": (state * 7 + 3) % 10,
            "terminated": np.zeros(200, bool),
        }
        policy = OfflinePolicyEstimator(handle_unknown="infer").fit(data)
        assert policy.predict(["new"]) == [best]


def test_an_unknown_state_stays_an_error_until_fitted_otherwise(log):
    policy = fitted(log).set_params(handle_unknown="infer")
    with pytest.raises(ValueError, match=r"first at row 0: 999.*handle_unknown"):
        policy.predict([999])
    with pytest.raises(ValueError, match="handle_unknown must be"):
        policy.set_params(handle_unknown="guess").fit(log)


# Logs that are misread


def lake(n=400, seed=0):
    """Draw a walk in a 3 x 3 lake whose holes and goal end an episode."""
    rng = np.random.default_rng(seed)
    rows = {name: [] for name in COLUMNS}
    state = 0
    for _ in range(n):
        action = int(rng.integers(4))
        row, column = divmod(state, 3)
        row = min(2, max(0, row + (action == 0) - (action == 1)))
        column = min(2, max(0, column + (action == 2) - (action == 3)))
        after = 3 * row + column
        ended = after in (4, 8)
        for name, value in zip(
            COLUMNS, (state, action, float(after == 8), after, ended), strict=True
        ):
            rows[name].append(value)
        state = 0 if ended else after
    return {name: np.array(column) for name, column in rows.items()}


def warned(log, *, method="fit", policy=None):
    policy = policy or OfflinePolicyEstimator(random_state=0)
    with pytest.warns(DeadEndWarning) as caught:
        getattr(policy, method)(log)
    (warning,) = [w for w in caught if w.category is DeadEndWarning]
    assert warning.filename == __file__
    return str(warning.message)


def test_a_right_log_is_no_cause_for_a_warning():
    fitted(lake())
    fitted(lake(40))
    fitted(draw_log(3, n=400))


def test_ends_that_are_not_flagged():
    log = lake()
    n_ends = int(log["terminated"].sum())
    message = warned({**log, "terminated": np.zeros(400, bool)})
    share = f"{n_ends / 400:.0%}"
    start = f"{n_ends} of 400 transitions that did not terminate ({share}) lead to "
    assert message.startswith(start + "states that never occur as 'state': 4, 8.")
    assert "(1) the process ended there, and 'terminated' does not say so" in message


@pytest.mark.parametrize(
    ("change", "pair"),
    [
        (lambda x: x + " ", "'s4 ' and 's4'"),
        (lambda x: x.upper(), "'S4' and 's4'"),
        (lambda x: [(a,) for a in x.tolist()], None),
    ],
)
def test_one_state_written_in_two_ways(change, pair):
    log = lake()
    keep = log["state"] < 8
    names = np.array([f"s{i}" for i in range(9)], object)
    log = {**rows(log, keep), "terminated": np.zeros(int(keep.sum()), bool)}
    log |= {"state": names[log["state"]], "next_state": names[log["next_state"]]}
    log["next_state"][::2] = [str(x) for x in log["next_state"][::2]]
    if pair is None:
        with pytest.raises(TypeError, match="the same kind of labels"):
            OfflinePolicyEstimator().fit({**log, "next_state": change(log["state"])})
        return
    mixed = log["next_state"].copy()
    mixed[::2] = [change(x) for x in mixed[::2]]
    message = warned({**log, "next_state": mixed})
    assert "(1) one state is written in two ways: " in message


def test_floats_of_two_precisions():
    log = lake()
    wide = log["state"] / 10
    narrow = (log["next_state"] / 10).astype(np.float32)
    log = {**log, "state": wide, "next_state": narrow, "terminated": [False] * 400}
    assert "(1) one state is written in two ways: 0.1" in warned(log)


def test_numbers_as_text_beside_numbers():
    log = lake()
    mixed = log["state"].astype(object)
    mixed[:9] = [str(x) for x in mixed[:9]]  # so that the kinds are not apart
    text = [str(x) for x in log["next_state"]]
    message = warned({**log, "state": mixed, "next_state": text})
    assert "(1) one state is written in two ways" in message


def test_next_states_that_nobody_binned():
    position, action, reward, following = continuous_log()
    rest = {"reward": reward, "terminated": np.zeros(len(action), bool)}
    binned = bins().fit(position).transform(position)
    policy = OfflinePolicyEstimator()
    with pytest.warns(DeadEndWarning, match=r"\(1\) 'next_state' was not transf"):
        policy.fit(binned, action, next_state=following, **rest)


def test_partial_fit_looks_at_all_of_the_log():
    log = lake()
    bad = {**log, "terminated": np.zeros(400, bool)}
    policy = OfflinePolicyEstimator().fit(rows(log, slice(30)))
    assert "4, 8" in warned(bad, method="partial_fit", policy=policy)
    # What a first part leaves open a second part may tell.
    first = {
        "state": np.zeros(9, int),
        "action": np.zeros(9, int),
        "reward": np.zeros(9),
        "next_state": np.arange(9) % 3,
        "terminated": np.zeros(9, bool),
    }
    policy = OfflinePolicyEstimator().fit(first)
    policy.partial_fit({**first, "state": np.arange(9) % 3})


# Names of columns


def named_log(frame=pd.DataFrame):
    log = draw_log(0)
    X = frame({"x": log["state"] // 2, "y": log["state"] % 2})
    following = frame({"x": log["next_state"] // 2, "y": log["next_state"] % 2})
    rest = {name: log[name] for name in ("reward", "terminated")}
    return X, log["action"], {**rest, "next_state": following}


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_columns_in_another_order_are_put_right(frame):
    X, action, rest = named_log(frame)
    policy = OfflinePolicyEstimator(random_state=0).fit(X, action, **rest)
    assert policy.state_names_ == ["x", "y"]
    swapped = (
        {**rest, "next_state": rest["next_state"].select(["y", "x"])}
        if (frame is not pd.DataFrame)
        else {**rest, "next_state": rest["next_state"][["y", "x"]]}
    )
    other = OfflinePolicyEstimator(random_state=0).fit(X, action, **swapped)
    assert other.states_.tolist() == policy.states_.tolist()
    back = X[["y", "x"]] if frame is pd.DataFrame else X.select(["y", "x"])
    expected = policy.predict_proba(X)
    np.testing.assert_array_equal(policy.predict_proba(back), expected)
    other.partial_fit(back, action, **swapped)
    assert other.states_.tolist() == policy.states_.tolist()


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_columns_of_other_names_are_an_error(frame):
    X, action, rest = named_log(frame)
    policy = OfflinePolicyEstimator(random_state=0).fit(X, action, **rest)
    log = draw_log(0)
    wrong = frame({"x": log["state"] // 2, "next_y": log["state"] % 2})
    match = (
        r"feature names should match those that were passed during fit\.\s+Feature "
        r"names unseen at fit time:\s+- next_y\s+.*yet now missing:\s+- y"
    )
    for method in (policy.predict, policy.predict_proba, policy.action_values):
        with pytest.raises(ValueError, match=match):
            method(wrong)
    with pytest.raises(ValueError, match=match):
        policy.fit(X, action, **{**rest, "next_state": wrong})
    with pytest.raises(ValueError, match=match):
        policy.partial_fit(wrong, action, **{**rest, "next_state": wrong})


NAMELESS = (
    "does not have valid feature names, but OfflinePolicyEstimator was fitted with "
    "feature names"
)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_columns_without_names_are_taken_by_position_with_a_warning(frame):
    X, action, rest = named_log(frame)
    policy = OfflinePolicyEstimator(random_state=0).fit(X, action, **rest)
    log = draw_log(0)
    array = np.stack([log["state"] // 2, log["state"] % 2], axis=1)
    following = np.stack([log["next_state"] // 2, log["next_state"] % 2], axis=1)
    for method in (policy.predict_proba, policy.action_values):
        for states in (array, array.tolist(), sparse.csr_array(array)):
            with pytest.warns(UserWarning, match=f"X {NAMELESS}") as caught:
                values = method(states)
            np.testing.assert_array_equal(values, method(X))
            assert [w.filename for w in caught] == [__file__]
        method(policy.states_)  # labels are whole: no warning
        method(policy.states_.tolist())
    both = f"X {NAMELESS}", f"next_state {NAMELESS}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        policy.partial_fit(array, action, **{**rest, "next_state": following})
    assert [str(warning.message) for warning in caught] == list(both)
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.warns(UserWarning, match=both[1]):
        policy.fit(X, action, **{**rest, "next_state": following})


def test_one_column_needs_no_name():
    table = pd.DataFrame(draw_log(0))
    policy = OfflinePolicyEstimator(random_state=0).fit(table)
    states = table["state"].to_numpy()
    expected = policy.predict(table["state"])
    np.testing.assert_array_equal(policy.predict(states), expected)
    np.testing.assert_array_equal(policy.predict(states[:, None]), expected)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_structs_have_names_too(library):
    state = [{"x": i % 3, "y": i % 2} for i in range(60)]
    following = [{"y": (i + 1) % 2, "x": (i + 1) % 3} for i in range(60)]
    rest = {"action": [0, 1] * 30, "reward": [0.0] * 60, "terminated": [False] * 60}
    if library == "polars":
        table = pl.DataFrame({**rest, "state": state, "next_state": following})
    else:
        names = [("x", pa.int64()), ("y", pa.int64())]
        columns = {
            "state": pa.array(state, pa.struct(names)),
            "next_state": pa.array(following, pa.struct(names[::-1])),
        }
        table = pa.table({**rest, **columns})
    policy = OfflinePolicyEstimator(random_state=0).fit(table)
    assert policy.state_names_ == ["x", "y"]
    assert policy.states_.tolist() == [(i, j) for i in range(3) for j in range(2)]
    np.testing.assert_array_equal(
        policy.predict_proba(table["next_state"]),
        policy.predict_proba([(row["x"], row["y"]) for row in following]),
    )


def test_names_are_saved(tmp_path):
    X, action, rest = named_log()
    policy = OfflinePolicyEstimator(random_state=0).fit(X, action, **rest)
    policy.save(tmp_path / "policy")
    loaded = OfflinePolicyEstimator.load(tmp_path / "policy")
    assert loaded.state_names_ == ["x", "y"]
    back = X[["y", "x"]]
    np.testing.assert_array_equal(loaded.predict(back), policy.predict(X))


def test_what_was_read_as_what(log):
    aliased = {"obs": log["state"], **{n: log[n] for n in COLUMNS[1:]}}
    assert fitted(aliased).columns_["state"] == "obs"
    assert fitted(five_columns(log)).columns_ == dict(
        zip(COLUMNS, range(5), strict=True)
    )
    assert fitted(log).columns_ == {name: name for name in COLUMNS}


# Interrupts


class Stop(BaseException):
    """What an interrupt raises, at a line of the code."""


def stopped_at_every_line(make, act, describe):
    """Raise at every line of the estimator's module; yield what is left each time.

    What it calls changes nothing of it: to be stopped in there is to be stopped here.
    """
    module = _offline.__file__
    for stop in range(10_000):
        subject = make()
        n_lines = 0

        def trace(frame, event, _, stop=stop):
            nonlocal n_lines
            if frame.f_code.co_filename != module:
                return None
            if event == "line":
                n_lines += 1
                if n_lines == stop + 1:
                    raise Stop
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            act(subject)
        except Stop:
            pass
        else:
            return
        finally:
            sys.settrace(before)
        yield describe(subject)


def described(policy):
    """Everything that was fitted."""
    if not hasattr(policy, "statistics_"):
        return sorted(vars(policy))
    arrays = {**vars(policy), **vars(policy.statistics_)}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in arrays.items()
        if name not in ("statistics_", "_codebook")  # the book says what states_ says
    }


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("fresh", [True, False])
def test_an_interrupt_leaves_before_or_after(method, fresh):
    first, second = draw_log(0, n=20), draw_log(1, n=20)

    def make():
        policy = OfflinePolicyEstimator(random_state=0)
        return policy if fresh else policy.fit(first)

    def act(policy):
        return getattr(policy, method)(second)

    states = [described(make()), described(act(make()))]
    assert states[0] != states[1]
    seen = list(stopped_at_every_line(make, act, described))
    assert len(seen) > 40
    assert [state in states for state in seen] == [True] * len(seen)
    assert states[0] in seen
