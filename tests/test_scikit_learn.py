"""scikit-learn's own checks on both forms of a log, and its tools around the estimator.

The checks call ``fit(X, y)`` with numbers of their own. Two subclasses make a log of
these, so that everything that is not about the missing columns is checked.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from tabrl import OfflinePolicyEstimator


class StatesAndActions(OfflinePolicyEstimator):
    """States and actions apart: those of the checks, each of which ends at once."""

    def fit(self, X, y):
        rest = {"reward": np.asarray(y, float), "next_state": X, "terminated": True}
        return super().fit(X, y, **rest)


class WholeLog(OfflinePolicyEstimator):
    """A whole log: the states are those of the checks, the rest follows the row."""

    def fit(self, X, y=None):
        row = np.arange(X.shape[0])
        log = {"state": X, "action": row % 2, "reward": row / len(row)}
        return super().fit({**log, "next_state": X, "terminated": row % 3 == 0})


_SCORE = "score reads a log as well, which the X and y of the check are not"
_SPARSE = (
    "the check takes what has predict_proba for a classifier, and asks for its tags"
)
EXCEPTIONS = {
    "check_fit_score_takes_y": _SCORE,
    "check_pipeline_consistency": _SCORE,
    "check_estimator_sparse_array": _SPARSE,
    "check_estimator_sparse_matrix": _SPARSE,
}


@parametrize_with_checks(
    # The checks predict for states that they did not fit.
    [
        form(handle_unknown="infer", random_state=0)
        for form in (StatesAndActions, WholeLog)
    ],
    expected_failed_checks=lambda estimator: EXCEPTIONS,
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def log():
    """Two states, the right action of each is its own number."""
    rng = np.random.default_rng(0)
    state, action, following = rng.integers(2, size=(3, 200))
    return {
        "state": np.array(["a", "b"], object)[state],
        "action": np.array(["x", "y"], object)[action],
        "reward": (state == action).astype(float),
        "next_state": np.array(["a", "b"], object)[following],
        "terminated": rng.random(200) < 0.3,
    }


def columns(log):
    rest = {name: log[name] for name in ("reward", "next_state", "terminated")}
    return log["state"], log["action"], rest


def test_cross_val_predict(log):
    """Each fold is predicted by a policy that did not see it."""
    X, y, rest = columns(log)
    policy = OfflinePolicyEstimator(gamma=0.5, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        policy.set_fit_request(**dict.fromkeys(rest, True))
        chosen = cross_val_predict(policy, X, y, params=rest, cv=4)
        shares = cross_val_predict(policy, X, y, params=rest, method="predict_proba")
    right = np.where(X == "a", "x", "y")
    assert chosen.tolist() == right.tolist()
    columns_of_right = (right == "y").astype(int)
    assert (shares.argmax(axis=1) == columns_of_right).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_cross_val_predict_with_an_action_of_one_fold_only(log):
    """Columns are put in the order of all actions, by `classes_`."""
    X, y, rest = columns(log)
    y = y.copy()
    y[:3] = "z"
    with sklearn.config_context(enable_metadata_routing=True):
        policy = OfflinePolicyEstimator(random_state=0)
        policy.set_fit_request(**dict.fromkeys(rest, True))
        folds = sklearn.model_selection.KFold(4)
        with pytest.warns(RuntimeWarning, match="Number of classes in training fold"):
            shares = cross_val_predict(
                policy, X, y, params=rest, method="predict_proba", cv=folds
            )
    assert shares.shape == (200, 3)
    assert (shares[:50, 2] == 0).all()  # the fold whose training rows have no "z"
    assert (shares[50:, 2] > 0).all()


def test_classes_are_the_actions(log):
    policy = OfflinePolicyEstimator().fit(log)
    assert policy.classes_ is policy.actions_
    assert not hasattr(OfflinePolicyEstimator(), "classes_")


@pytest.mark.parametrize("container", ["default", "pandas", "polars"])
def test_set_output_leaves_labels_alone(container, log):
    """Whatever a transformer returns, the labels are those of its columns."""
    if container != "default":
        pytest.importorskip(container)
    X, y, rest = columns(log)
    frame = pd.DataFrame({"room": X, "level": np.arange(200) % 2})
    rest["next_state"] = frame.iloc[::-1].reset_index(drop=True)
    with sklearn.config_context(enable_metadata_routing=True):
        policy = OfflinePolicyEstimator(gamma=0.5, random_state=0)
        policy.set_fit_request(**dict.fromkeys(rest, True))
        same = FunctionTransformer(feature_names_out="one-to-one")
        model = make_pipeline(same, policy, transform_input=["next_state"])
        model.set_output(transform=container)
        model.fit(frame, y, **rest)
        chosen = model.predict(frame)
    assert policy.__class__ is type(model[-1])
    assert set(model[-1].states_) == {("a", 0), ("a", 1), ("b", 0), ("b", 1)}
    assert isinstance(chosen, np.ndarray)
    assert set(chosen) == {"x", "y"}
