"""scikit-learn's own checks, and its tools around the estimator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, KBinsDiscretizer
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.estimator_checks import parametrize_with_checks

from tabrl import OfflinePolicyEstimator


class PolicyFromRows(OfflinePolicyEstimator):
    """The form with a whole log as X, in the columns s, a, r, s', terminated.

    The checks give any numbers in any number of columns. They are made a log of: the
    state is the sign of the first column, the action that of the last.
    """


WHAT = "the log is not X and y: "
REFUSED = {
    "check_n_features_in": WHAT + "a state is one label, however many columns it has",
}


@parametrize_with_checks([OfflinePolicyEstimator()], expected_failed_checks=None)
def test_x(estimator, check):
    check(estimator)
