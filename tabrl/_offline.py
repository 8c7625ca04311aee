"""A policy from logged transitions: the scikit-learn style estimator."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from tabrl._batch import StatisticsBatch
from tabrl._checkpoint import load_network, refuse_not_finite
from tabrl._checks import (
    check_device,
    check_gamma,
    check_handle_unknown,
    check_reward_range,
    restored_device,
    some,
)
from tabrl._codes import encode
from tabrl._dead_ends import warn_of_dead_ends
from tabrl._inference import at_quantile, most_probable, solve
from tabrl._labels import as_labels
from tabrl._lazy import is_lazy
from tabrl._persistence import (
    check_array,
    pack_random_state,
    read,
    statistics_from_arrays,
    statistics_to_arrays,
    unpack_random_state,
    whole,
    write,
)
from tabrl._statistics import Statistics
from tabrl._sufficient import SufficientStatistics, count, merge
from tabrl._transitions import Transitions, read_transitions

# The fitted arrays that a saved policy holds, besides the statistics.
_TABLES = ("states_", "actions_", "_values", "_policy", "_greedy")


class OfflinePolicyEstimator(BaseEstimator):
    """Policy and action values of a decision process, from a log of transitions.

    A network that was pretrained on synthetic decision processes reads the counts
    and mean rewards of the log, forms a posterior over what the process may be,
    and plans in it exactly. Nothing is tuned and nothing is trained in ``fit``.

    Parameters
    ----------
    gamma : float, default=0.99
        Discount factor, in [0, 1).
    checkpoint : str or path, default="auto"
        "auto" is the checkpoint in the package; else a local folder, or a Hugging
        Face Hub repository "org/name" or "org/name@revision".
    device : str or torch.device, default="auto"
        Where the network runs: "auto" takes CUDA where there is one, else the CPU.
    reward_range : (float, float) or None, default=None
        Smallest and largest reward that one step can give, if you know them; rewards
        outside are an error.
    random_state : int, RandomState instance or None, default=None
        Breaks ties between equally probable actions.
    handle_unknown : {"error", "infer"}, default="error"
        What to say of a state that is not in the log: nothing, or what the network
        infers for a state without data from all the others (that one action is costly
        wherever it was tried, say).

    Attributes
    ----------
    states_ : array of shape (n_states,)
        Labels of all states in the log, as state or next state.
    actions_ : array of shape (n_actions,)
        Labels of all actions in the log; the columns of `predict_proba`.
    n_transitions_ : int
        Number of transitions seen.
    state_names_ : list of str or None
        Names of the columns that make a state, in the order of its label's parts,
        where a log has several with names. `predict` takes them in any order.
    columns_ : dict of str to str or int
        Which column of the log was read as what, of the last one given: its name, or
        its position where it has none. Empty where columns were given one by one.

    See Also
    --------
    sklearn.preprocessing.KBinsDiscretizer : Makes states of continuous columns.

    Examples
    --------
    >>> from tabrl import OfflinePolicyEstimator
    >>> log = {
    ...     "state": ["shop", "shop", "road"] * 20,
    ...     "action": ["wait", "walk", "walk"] * 20,
    ...     "reward": [0.0, -1.0, 5.0] * 20,
    ...     "next_state": ["shop", "road", "home"] * 20,
    ...     "terminated": [False, False, True] * 20,
    ... }
    >>> policy = OfflinePolicyEstimator(gamma=0.9, random_state=0).fit(log)
    >>> policy.predict(["shop"])
    array(['walk'], dtype=object)
    >>> policy.actions_
    array(['wait', 'walk'], dtype=object)
    """

    # For metadata routing the states are the X of predict, not something beside it.
    __metadata_request__predict: ClassVar = {"states": UNUSED}
    __metadata_request__predict_proba: ClassVar = {"states": UNUSED}

    def __init__(
        self,
        gamma: float = 0.99,
        checkpoint: str | os.PathLike[str] = "auto",
        device: str | torch.device = "auto",
        reward_range: tuple[float, float] | None = None,
        random_state: int | np.random.RandomState | None = None,
        handle_unknown: str = "error",
    ) -> None:
        self.gamma = gamma
        self.checkpoint = checkpoint
        self.device = device
        self.reward_range = reward_range
        self.random_state = random_state
        self.handle_unknown = handle_unknown

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: Any = None,
        next_state: Any = None,
        terminated: Any = None,
    ) -> OfflinePolicyEstimator:
        """Read a log and plan.

        Parameters
        ----------
        X : data frame, lazy frame, dict of arrays, array or SufficientStatistics
            The log, with the columns ``state, action, reward, next_state,
            terminated`` (arrays without names: in this order) and optionally
            ``truncated, episode, step``. Without ``next_state`` the next row of
            the episode gives it. If ``y`` is given, the states alone; rows of
            several columns are one label each. A polars LazyFrame, a DuckDB relation,
            a pyarrow Dataset or a Dask data frame is counted by its engine, needs
            ``next_state``, and is never in memory as a whole.
        y : array-like of shape (n,), optional
            The actions, if ``X`` holds the states alone.
        reward, next_state, terminated : array-like of shape (n,), optional
            The other columns, if ``X`` holds the states alone.

        Returns
        -------
        OfflinePolicyEstimator
            The estimator itself.

        Raises
        ------
        ValueError, TypeError
            If a parameter or the log is not as described; the estimator is then
            not changed.
        """
        data = self._read(X, y, reward, next_state, terminated)
        statistics = count(data)
        warn_of_dead_ends(statistics, data.states, stacklevel=2)
        return self._plan(
            data.states, data.actions, statistics, data.state_names, data.columns
        )

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: Any = None,
        next_state: Any = None,
        terminated: Any = None,
    ) -> OfflinePolicyEstimator:
        """Add transitions to those seen so far and plan again.

        The result is that of one ``fit`` on everything. Takes what `fit` takes;
        with ``episode`` and no ``next_state``, give whole episodes. Actions not
        seen before are added, with a warning.

        Parameters
        ----------
        X, y, reward, next_state, terminated
            As in `fit`.

        Returns
        -------
        OfflinePolicyEstimator
            The estimator itself.
        """
        if not hasattr(self, "statistics_"):
            data = self._read(X, y, reward, next_state, terminated)
            statistics = count(data)
            warn_of_dead_ends(statistics, data.states, stacklevel=2)
            return self._plan(
                data.states, data.actions, statistics, data.state_names, data.columns
            )
        data = self._read(X, y, reward, next_state, terminated, self.state_names_)
        states, actions, statistics = merge(
            (self.states_, self.actions_, self.statistics_),
            (data.states, data.actions, count(data)),
        )
        added = actions[encode(actions, self.actions_) < 0]
        if len(added):
            warnings.warn(
                f"partial_fit adds {len(added)} actions not seen before: "
                f"{some(added)}. The columns of predict_proba follow actions_.",
                UserWarning,
                stacklevel=2,
            )
        warn_of_dead_ends(statistics, states, stacklevel=2)
        return self._plan(states, actions, statistics, data.state_names, data.columns)

    def predict(self, states: Any) -> NDArray:
        """Return the most probable action of each state.

        Parameters
        ----------
        states : array-like of shape (n,)
            Labels in ``states_``, or any with `handle_unknown` "infer"; rows of several
            columns are one label each.

        Returns
        -------
        array of shape (n,)
            Labels in ``actions_``.

        Raises
        ------
        ValueError
            If a state is not in the log and `handle_unknown` is "error".
        """
        codes = self._codes(states)
        return self.actions_[self._greedy[codes]]

    def predict_proba(self, states: Any) -> NDArray[np.float64]:
        """Return the policy: the probability with which to take each action.

        Where the data are thin the best policy that cannot adapt is random; it is
        worth sampling from.

        Parameters
        ----------
        states : array-like of shape (n,)
            Labels in ``states_``.

        Returns
        -------
        array of shape (n, n_actions)
            Columns follow ``actions_``; rows sum to one.

        Raises
        ------
        ValueError
            If a state is not in the log and `handle_unknown` is "error".
        """
        codes = self._codes(states)
        return self._policy[codes]

    def action_values(
        self, states: Any, quantile: float | None = None
    ) -> NDArray[np.float64]:
        """Return the estimated optimal action values, in the units of the rewards.

        Parameters
        ----------
        states : array-like of shape (n,)
            Labels in ``states_``.
        quantile : float or None, default=None
            None for the posterior plan; else a level in [0.1, 0.9] at which to read
            the distribution of the optimal value: the network estimates 0.1, 0.5
            and 0.9, levels between are interpolated.

        Returns
        -------
        array of shape (n, n_actions)
            Columns follow ``actions_``.

        Raises
        ------
        ValueError
            If a state is not in the log and `handle_unknown` is "error", or if the
            level is out of range.
        """
        codes = self._codes(states)
        return at_quantile(self._values[:, codes], quantile)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted policy to one file that holds no pickle.

        Parameters
        ----------
        path : str or path
            Replaced if there is such a file; a failure leaves it as it was.

        Raises
        ------
        TypeError
            If a label is not a bool, int, float, string, date or a tuple of these.
        """
        check_is_fitted(self)
        low_high = check_reward_range(self.reward_range)
        parameters = {
            "gamma": float(self.gamma),
            "checkpoint": os.fspath(self.checkpoint),
            "device": str(self.device),
            "reward_range": low_high and list(low_high),
            "random_state": pack_random_state(self.random_state),
            "handle_unknown": "infer" if self._infers else "error",
        }
        tables = {name: getattr(self, name) for name in _TABLES}
        arrays = tables | statistics_to_arrays(self.statistics_)
        meta = {
            "parameters": parameters,
            "state_names": self.state_names_,
            "columns": self.columns_,
        }
        write(path, "OfflinePolicyEstimator", meta, arrays)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device | None = None,
    ) -> OfflinePolicyEstimator:
        """Read a policy that `save` wrote; it answers exactly as the saved one.

        Parameters
        ----------
        path : str or path
            The file.
        device : str or torch.device, optional
            Where `partial_fit` runs the network from now on. By default where it ran
            before, or "auto" if torch cannot use that here.

        Returns
        -------
        OfflinePolicyEstimator
            Fitted.

        Raises
        ------
        ValueError
            If the file holds no such policy, or one of a newer format.
        """
        meta, arrays = read(path, "OfflinePolicyEstimator")
        with whole(path, "OfflinePolicyEstimator"):
            policy = cls(**_unpack_parameters(meta["parameters"]))
            policy.__dict__.update(_unpack_tables(arrays) | _unpack_names(meta))
            policy._infers = policy.handle_unknown == "infer"
        policy.device = restored_device(policy.device) if device is None else device
        return policy

    def _read(
        self,
        X: Any,
        y: Any = None,
        reward: Any = None,
        next_state: Any = None,
        terminated: Any = None,
        state_names: list[str] | None = None,
    ) -> Transitions | SufficientStatistics:
        """Check the parameters that the data must agree with, then the data."""
        check_gamma(self.gamma)
        reward_range = check_reward_range(self.reward_range)
        columns = (y, reward, next_state, terminated)
        table = all(column is None for column in columns)
        if table and (isinstance(X, SufficientStatistics) or is_lazy(X)):
            if not isinstance(X, SufficientStatistics):
                X = SufficientStatistics.from_transitions(X, state_names)
            X.check_state_names(state_names)
            if reward_range is not None:
                X.check_reward_range(*reward_range)
            return X
        data = read_transitions(
            *(X, y),
            reward=reward,
            next_state=next_state,
            terminated=terminated,
            state_names=state_names,
        )
        if reward_range is not None:
            low, high = reward_range
            outside = (data.reward < low) | (data.reward > high)
            if outside.any():
                first = int(outside.argmax())
                raise ValueError(
                    f"Rewards must lie in reward_range ({low}, {high}). Found "
                    f"{int(outside.sum())} that do not, first in transition {first} "
                    f"({data.reward[first]}). Widen reward_range, or pass None."
                )
        return data

    def _plan(
        self,
        states: NDArray,
        actions: NDArray,
        statistics: Statistics,
        state_names: list[str] | None = None,
        columns: dict[str, Any] | None = None,
    ) -> OfflinePolicyEstimator:
        """Check the parameters, run network and planning, keep tables of results."""
        gamma = check_gamma(self.gamma)
        reward_range = check_reward_range(self.reward_range)
        if reward_range is not None:
            _check_means(statistics, *reward_range)
        device = check_device(self.device)
        rng = check_random_state(self.random_state)
        infers = check_handle_unknown(self.handle_unknown) == "infer"
        network = load_network(self.checkpoint, device)

        # Nothing is decided in states that were only ever entered by terminating. The
        # last row is that of the states that are not in the log.
        active = np.flatnonzero(statistics.active_states)
        size = (statistics.n_states + 1, statistics.n_actions)
        decided = statistics.compress(active)
        if infers:
            same = np.arange(len(active)), np.arange(size[1])
            decided = decided.relabel(*same, len(active) + 1, size[1])
            active = np.append(active, statistics.n_states)
        values = np.zeros((3, *size))
        log_policy = np.full(size, -math.log(size[1]))
        batch = StatisticsBatch.from_statistics(decided, gamma, reward_range)
        values[:, active], log_policy[active] = solve(network, batch, device)
        policy = np.exp(log_policy)
        refuse_not_finite(self.checkpoint, values, policy)
        fitted = {
            "states_": states,
            "actions_": actions,
            "state_names_": state_names,
            "columns_": columns or {},
            "statistics_": statistics,
            "n_transitions_": int(statistics.n.sum()),
            "_values": values,
            "_policy": policy,
            "_greedy": most_probable(log_policy, rng),
            "_infers": infers,
        }
        # In one step, so that an interrupt leaves the old policy or the new one.
        self.__dict__.update(fitted)
        return self

    def _codes(self, states: Any) -> NDArray[np.int64]:
        check_is_fitted(self)
        codes = encode(states, self.states_, self.state_names_)
        unknown = codes < 0  # their index is that of the last row
        if unknown.any() and not self._infers:
            rows = np.flatnonzero(unknown)
            raise ValueError(
                f"Every state must be in the log given to fit. Found {len(rows)} of "
                f"{len(codes)} that are not, first at row {rows[0]}: "
                f"{some(as_labels(states)[rows])}. Add transitions that visit them "
                "with partial_fit, drop them, or fit with handle_unknown='infer'."
            )
        return codes

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.no_validation = True
        return tags


def _unpack_parameters(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that a file holds, checked."""
    for name in ("checkpoint", "device", "handle_unknown"):
        if type(saved[name]) is not str:
            raise TypeError(f"parameter {name}")
    if not isinstance(saved["reward_range"], list | None):
        raise TypeError("parameter reward_range")
    check_gamma(saved["gamma"])
    check_handle_unknown(saved["handle_unknown"])
    return saved | {
        "reward_range": check_reward_range(saved["reward_range"]),
        "random_state": unpack_random_state(saved["random_state"]),
    }


def _unpack_names(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the names that a file holds, checked."""
    names, columns = meta["state_names"], dict(meta["columns"])
    if names is not None and not (
        isinstance(names, list) and all(type(name) is str for name in names)
    ):
        raise TypeError("state_names")
    if not all(type(source) in (str, int) for source in columns.values()):
        raise TypeError("columns")
    return {"state_names_": names, "columns_": columns}


def _unpack_tables(arrays: dict[str, NDArray]) -> dict[str, Any]:
    """Return the fitted attributes that a file holds, checked against each other."""
    for name in ("states_", "actions_"):
        if arrays[name].ndim != 1 or not len(arrays[name]):
            raise ValueError(f"{name} of shape {arrays[name].shape}")
    size = (len(arrays["states_"]), len(arrays["actions_"]))
    statistics = statistics_from_arrays(arrays, *size)
    rows = (size[0] + 1, size[1])  # the last one is of states that are not in the log
    check_array("_values", arrays["_values"], np.float64, (3, *rows))
    check_array("_policy", arrays["_policy"], np.float64, rows)
    check_array("_greedy", arrays["_greedy"], np.int64, rows[:1])
    if not ((0 <= arrays["_greedy"]) & (arrays["_greedy"] < size[1])).all():
        raise ValueError("an action that is not there")
    return {
        **{name: arrays[name] for name in _TABLES},
        "statistics_": statistics,
        "n_transitions_": int(statistics.n.sum()),
    }


def _check_means(statistics: Statistics, low: float, high: float) -> None:
    """Refuse a range that was narrowed after rewards outside of it were seen."""
    mean = statistics.reward_sum / statistics.n
    slack = 1e-9 * max(abs(low), abs(high))
    outside = (mean < low - slack) | (mean > high + slack)
    if outside.any():
        raise ValueError(
            f"Rewards must lie in reward_range ({low}, {high}). Those seen before do "
            f"not: {int(outside.sum())} state-action pairs have a mean outside, the "
            f"first {mean[outside][0]:.6g}. Widen reward_range, pass None, or fit anew."
        )
