"""Allowed actions, actions that were rarely tried, and risk."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tabrl import OfflinePolicyEstimator


def fork(n=50):
    """Return a log of one decision: 'risky' pays 3, 'safe' 1, 'no' 0."""
    actions = ["risky", "safe", "no"] * n
    pays = {"risky": 3.0, "safe": 1.0, "no": 0.0}
    return {
        "state": ["here"] * 2 * n + ["there"] * n,
        "action": actions,
        "reward": [pays[action] for action in actions],
        "next_state": ["end"] * 3 * n,
        "terminated": [True] * 3 * n,
    }


def fitted(log, allowed=None, **parameters):
    estimator = OfflinePolicyEstimator(random_state=0, **parameters)
    return estimator.fit(log, allowed_actions=allowed)


def without(log, state, action):
    """Return the log without the rows of a pair."""
    pairs = zip(log["state"], log["action"], strict=True)
    keep = [pair != (state, action) for pair in pairs]
    return {
        name: [value for value, kept in zip(column, keep, strict=True) if kept]
        for name, column in log.items()
    }


@pytest.fixture(scope="module")
def log():
    return without(fork(), "here", "risky")


SETS = {"here": ["safe", "no"], "there": ["risky", "safe", "no"]}
FORMS = {
    "mapping": SETS,
    "sets": {state: set(actions) for state, actions in SETS.items()},
    "callable": lambda state: SETS[state],
    "frame": pd.DataFrame(
        {"no": [1, 1], "risky": [True, False], "safe": [1, 1]}, ["there", "here"]
    ).astype(bool),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_allowed_is_never_taken(log, form):
    free = fitted(log)
    policy = fitted(log, FORMS[form])
    assert free.predict_proba(["here"])[0, 1] > 0
    assert policy.predict_proba(["here"])[0, 1] == 0
    assert policy.predict_proba(["here"]).sum() == pytest.approx(1)
    assert policy.predict(["here", "there"]).tolist() == ["safe", "risky"]
    allowed = policy.allowed_actions_[policy.states_ != "end"].tolist()
    assert allowed == [[True, False, True], [True, True, True]]
    values = policy.action_values(["here"])[0]
    assert values[1] <= values[[0, 2]].max()


def test_all_allowed_is_nothing_said(log):
    free = fitted(log)
    policy = fitted(log, {s: ["no", "safe", "risky"] for s in SETS})
    states = free.states_
    np.testing.assert_array_equal(
        policy.predict_proba(states), free.predict_proba(states)
    )
    assert free.allowed_actions_ is None


@pytest.mark.parametrize("frame", [dict, pd.DataFrame, pl.DataFrame])
def test_column_of_the_log(log, frame):
    column = [sorted(SETS[state]) for state in log["state"]]
    policy = OfflinePolicyEstimator().fit(frame({**log, "allowed_actions": column}))
    assert policy.predict_proba(["here"])[0, 1] == 0
    column[7] = ["safe"]
    with pytest.raises(ValueError, match=r"same in all rows of a state.* rows 0 and 7"):
        OfflinePolicyEstimator().fit(frame({**log, "allowed_actions": column}))


def test_array_by_the_numbers_of_states_and_actions():
    log = {
        "state": [0, 2] * 20,
        "action": [0, 1] * 20,
        "reward": [0.0, 1.0] * 20,
        "next_state": [2, 0] * 20,
        "terminated": [False, True] * 20,
    }
    masks = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]])  # state 1 is not in the log
    policy = fitted(log, masks)
    assert policy.allowed_actions_.tolist() == [[True, False], [True, True]]
    assert policy.predict([0]).tolist() == [0]


@pytest.mark.parametrize(
    ("allowed", "match"),
    [
        ({"here": ["safe"], "there": ["risky"]}, r"first at row \d+: action 'no'"),
        ({"here": ["no", "safe"]}, r"Found 1 states that it does not: 'there'"),
        ({**SETS, "there": []}, r"first at row \d+"),
        ({**SETS, "here": "safe"}, "must be a list, a set .* Got 'safe'"),
        ({**SETS, "here": [True, False]}, "not flags"),
        (3, "must be a mapping"),
        (np.ones(3), r"Got an array of shape \(3,\)"),
        (np.full((2, 2), 7), "other values than True and False"),
        (pd.DataFrame({"no": [True] * 2}, ["here", "here"]), "must not repeat"),
    ],
)
def test_bad_allowed_actions(log, allowed, match):
    policy = OfflinePolicyEstimator()
    with pytest.raises((ValueError, TypeError), match=match):
        policy.fit(log, allowed_actions=allowed)
    assert not hasattr(policy, "states_")


def test_a_state_that_is_led_to_and_allows_nothing_is_named():
    log = {
        "state": ["a"] * 3,
        "action": ["go"] * 3,
        "reward": [1.0] * 3,
        "next_state": ["b"] * 3,
        "terminated": [False] * 3,
    }
    with pytest.raises(ValueError, match="1 states that allow none: 'b'"):
        fitted(log, {"a": ["go"], "b": ["stay"]})


def test_row_numbers_are_those_of_the_table():
    log = {
        "state": [0, 1, 0, 1, 0],
        "action": ["x", "x", "x", "x", "y"],
        "reward": [0.0] * 5,
        "terminated": [False, False, False, True, True],
        "episode": [0, 0, 1, 1, 2],
    }
    with (
        pytest.warns(UserWarning, match="Dropped 1"),
        pytest.raises(ValueError, match="first at row 4: action 'y'"),
    ):
        fitted(log, {0: ["x"], 1: ["x"]})


def test_given_twice(log):
    column = [SETS[state] for state in log["state"]]
    with pytest.raises(ValueError, match="must be given once"):
        fitted({**log, "allowed_actions": column}, SETS)


@pytest.mark.parametrize("form", ["mapping", "callable"])
def test_states_that_are_not_in_the_log(log, form):
    sets = {**SETS, "new": ["no"]}
    allowed = sets if form == "mapping" else sets.__getitem__
    policy = fitted(log, allowed, handle_unknown="infer")
    assert policy.predict(["new", "there"]).tolist() == ["no", "risky"]
    assert policy.predict_proba(["new"]).tolist() == [[1.0, 0.0, 0.0]]
    if form == "mapping":
        with pytest.raises(ValueError, match="does not: 'other'"):
            policy.predict(["other"])


def test_partial_fit_goes_on_with_what_was_allowed(log):
    whole = fitted(log, SETS)
    parts = [
        {name: column[part] for name, column in log.items()}
        for part in (slice(0, None, 2), slice(1, None, 2))
    ]
    policy = OfflinePolicyEstimator(random_state=0)
    policy.partial_fit(parts[0], allowed_actions=SETS).partial_fit(parts[1])
    states = whole.states_
    np.testing.assert_array_equal(
        policy.predict_proba(states), whole.predict_proba(states)
    )
    # What was seen before may not be forbidden afterwards.
    with pytest.raises(ValueError, match="seen before are not: action 'no' in state"):
        policy.partial_fit(
            {name: column[:1] for name, column in log.items()},
            allowed_actions={"here": ["safe"]},
        )


def test_partial_fit_must_learn_of_new_states(log):
    policy = fitted(log, SETS)
    more = {name: column[:1] for name, column in log.items()} | {"state": ["new"]}
    with pytest.raises(ValueError, match="does not: 'new'"):
        policy.partial_fit(more)
    policy.partial_fit(more, allowed_actions={"new": ["safe"]})
    assert policy.predict(["here", "new"]).tolist() == ["safe", "safe"]


@pytest.mark.parametrize("form", FORMS)
def test_allowed_actions_are_kept_in_files_and_pickles(log, form, tmp_path):
    policy = fitted(log, FORMS[form], min_visits=2, risk=0.5)
    policy.save(tmp_path / "policy")
    for copy in (
        OfflinePolicyEstimator.load(tmp_path / "policy"),
        pickle.loads(pickle.dumps(policy)),
    ):
        np.testing.assert_array_equal(copy.allowed_actions_, policy.allowed_actions_)
        assert copy.get_params() == policy.get_params()
        copy.partial_fit(log)
        assert copy.predict_proba(["here"])[0, 1] == 0


def test_rare_actions_are_not_taken():
    log = {
        "state": [0] * 103,
        "action": ["usual"] * 100 + ["rare"] * 3,
        "reward": [1.0] * 100 + [9.0] * 3,
        "next_state": [0] * 103,
        "terminated": [True] * 103,
    }
    assert fitted(log).predict([0]).tolist() == ["rare"]
    assert fitted(log, min_visits=3).predict([0]).tolist() == ["rare"]
    assert fitted(log, min_visits=4).predict([0]).tolist() == ["usual"]
    assert fitted(log, min_visits=4).predict_proba([0]).tolist() == [[0.0, 1.0]]
    # Where no action was tried so often, all are left.
    np.testing.assert_array_equal(
        fitted(log, min_visits=101).predict_proba([0]), fitted(log).predict_proba([0])
    )


def test_risk_prefers_what_is_known():
    rng = np.random.default_rng(0)
    n = 400
    sure, gamble = np.full(n, 1.0), rng.normal(1.6, 4.0, 12)
    gamble += 1.6 - gamble.mean()
    log = {
        "state": [0] * (n + 12),
        "action": ["sure"] * n + ["gamble"] * 12,
        "reward": np.append(sure, gamble),
        "next_state": [0] * (n + 12),
        "terminated": [True] * (n + 12),
    }
    sure_probability = [
        fitted(log, risk=risk).predict_proba([0])[0, 1] for risk in (0.0, 0.5, 1.0)
    ]
    assert sure_probability == sorted(sure_probability)
    assert sure_probability[2] > sure_probability[0]
    # It is a choice, and no news of the values.
    np.testing.assert_array_equal(
        fitted(log, risk=1.0).action_values([0], 0.5), fitted(log).action_values([0])
    )


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"min_visits": -1}, ValueError, "0 or more. Got -1"),
        ({"min_visits": 1.5}, TypeError, "integer. Got 1.5"),
        ({"risk": 2}, ValueError, r"risk must lie in \[0, 1\]. Got 2"),
        ({"risk": "high"}, TypeError, "risk must be a number"),
        ({"gamma": 1.0}, ValueError, "Without a discount"),
    ],
)
def test_bad_parameters(log, parameters, error, match):
    with pytest.raises(error, match=match):
        fitted(log, **parameters)
