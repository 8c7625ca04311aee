"""A policy from logged transitions: the scikit-learn style estimator."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from tabrl._allowed import (
    AllowedActions,
    check_taken,
    read_allowed,
    state_masks,
)
from tabrl._batch import decided_batch
from tabrl._checkpoint import load_network, refuse_not_finite
from tabrl._checks import (
    check_device,
    check_fraction,
    check_gamma,
    check_handle_unknown,
    check_min_visits,
    check_reward_range,
    restored_device,
    some,
)
from tabrl._codes import Codebook, encode
from tabrl._dead_ends import warn_of_dead_ends
from tabrl._episodes import Episodes, order_episodes, read_episodes
from tabrl._html import notebook_summary
from tabrl._inference import at_quantile, most_probable, solve
from tabrl._labels import as_labels, warn_without_names
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
from tabrl._policy_value import (
    DrawnValues,
)
from tabrl._statistics import Statistics
from tabrl._sufficient import SufficientStatistics, count, merge
from tabrl._transitions import Transitions, read_transitions
from tabrl._valuation import PolicyValuation, episode_columns

# The fitted arrays that a saved policy holds, besides the statistics.
_TABLES = ("states_", "actions_", "_values", "_policy", "_greedy")
# What is made again when it is asked for.
_AGAIN = ("_drawn", "_codebook")


class OfflinePolicyEstimator(PolicyValuation, BaseEstimator):
    """Policy and action values of a decision process, from a log of transitions.

    A network that was pretrained on synthetic decision processes reads the counts
    and mean rewards of the log, forms a posterior over what the process may be,
    and plans in it exactly. Nothing is tuned and nothing is trained in ``fit``.

    Parameters
    ----------
    gamma : float, default=0.99
        Discount factor, in [0, 1). For a fixed number of steps see the notes.
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
    min_visits : int, default=0
        An action that was tried less often than this in its state is not taken where
        the state has another that was.
    risk : float, default=0.0
        From 0 to 1, how much the choice looks at what may go wrong: the network decides
        on ``(1 - risk) * q_0.5 + risk * q_0.1`` in place of the median ``q_0.5``, q
        being the levels of `action_values`.

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
    allowed_actions_ : bool array of shape (n_states, n_actions) or None
        Which actions each state allows, by the order of ``states_`` and ``actions_``;
        None if nothing was said of it.
    n_episodes_ : int
        Number of episodes seen, from which start states and returns are known; 0 if
        the log does not tell them.

    See Also
    --------
    sklearn.preprocessing.KBinsDiscretizer : Makes states of continuous columns.

    Notes
    -----
    There is no ``horizon``. What is best over a fixed number of steps depends on how
    many are left, and a policy of states alone cannot know that. Make them a part of
    the state: repeat the log for each number of steps left, and end it at the last
    step, as in the second example. Every row then tells of every number of steps. The
    repeated rows are not independent, though, and `policy_value` takes them for it:
    its intervals are far too narrow then. For the policy alone, a ``gamma`` of
    1 - 1 / H is often as good, in tasks of H steps.

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

    Two steps, without a discount: with two left save first, with one left spend.

    >>> log = {
    ...     "state": ["poor", "poor", "rich"],
    ...     "action": ["spend", "save", "spend"],
    ...     "reward": [1.0, 0.0, 3.0],
    ...     "next_state": ["poor", "rich", "poor"],
    ... }
    >>> rows = [
    ...     ((state, left), action, reward, (following, left - 1), left == 1)
    ...     for left in (1, 2)
    ...     for state, action, reward, following in zip(*log.values())
    ... ]
    >>> policy = OfflinePolicyEstimator(gamma=0.9999, random_state=0).fit(rows * 20)
    >>> policy.predict([("poor", 2), ("poor", 1)])
    array(['save', 'spend'], dtype=object)
    """

    # Values in draws from the posterior, once somebody asked for them.
    _drawn: DrawnValues | None = None
    # The codes of the states, once somebody asked for one.
    _codebook: Codebook | None = None

    # For metadata routing the states are the X of predict, not something beside it.
    __metadata_request__fit: ClassVar = {"progress_bar": UNUSED}
    __metadata_request__partial_fit: ClassVar = {"progress_bar": UNUSED}
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
        min_visits: int = 0,
        risk: float = 0.0,
    ) -> None:
        self.gamma = gamma
        self.checkpoint = checkpoint
        self.device = device
        self.reward_range = reward_range
        self.random_state = random_state
        self.handle_unknown = handle_unknown
        self.min_visits = min_visits
        self.risk = risk

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: Any = None,
        next_state: Any = None,
        terminated: Any = None,
        allowed_actions: Any = None,
        progress_bar: bool = False,
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
            a pyarrow Dataset, a Dask or PySpark data frame or an Ibis table is counted
            by its engine, and is never in memory as a whole. It needs ``next_state``;
            polars, DuckDB, PySpark and Ibis take ``episode`` and ``step`` instead.
        y : array-like of shape (n,), optional
            The actions, if ``X`` holds the states alone.
        reward, next_state, terminated : array-like of shape (n,), optional
            The other columns, if ``X`` holds the states alone.
        allowed_actions : mapping, callable, data frame or array, optional
            Which actions each state allows; by default all do. One of

            - a mapping of each state to a collection of its actions;
            - a callable that takes a state and returns such a collection;
            - a pandas data frame of booleans, the states as index and the actions as
              columns;
            - a boolean array, where states and actions are the integers from 0 on: row
              i is state i, column j is action j;
            - a column ``allowed_actions`` of the log, which holds a collection in each
              row, the same one in all rows of a state. States that are only led to
              then allow all actions.

            Actions that are not in the log do not count.
        progress_bar : bool, default=False
            Whether to show how much of a lazy frame has been read; needs tqdm. polars
            and pyarrow show rows, Dask its tasks; DuckDB, PySpark and Ibis do not tell
            how far they are, and a warning says so. Other tables are read at once.

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
        columns = (y, reward, next_state, terminated)
        data = self._read(X, *columns, progress_bar=progress_bar)
        return self._plan_first(X if y is None else None, data, allowed_actions)

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: Any = None,
        next_state: Any = None,
        terminated: Any = None,
        allowed_actions: Any = None,
        progress_bar: bool = False,
    ) -> OfflinePolicyEstimator:
        """Add transitions to those seen so far and plan again.

        The result is that of one ``fit`` on everything. Takes what `fit` takes;
        with ``episode`` and no ``next_state``, give whole episodes. Actions not
        seen before are added, with a warning.

        Parameters
        ----------
        X, y, reward, next_state, terminated
            As in `fit`.
        allowed_actions : mapping, callable, data frame or array, optional
            As in `fit`. States that were named before and are not named now keep what
            they allowed.
        progress_bar : bool, default=False
            As in `fit`.

        Returns
        -------
        OfflinePolicyEstimator
            The estimator itself.
        """
        table = X if y is None else None
        names = getattr(self, "state_names_", None)
        columns = (y, reward, next_state, terminated)
        data = self._read(X, *columns, names, progress_bar)
        if not hasattr(self, "statistics_"):
            return self._plan_first(table, data, allowed_actions)
        allowed = read_allowed(allowed_actions, table, data)
        if allowed is None or self._allowed is None:
            allowed = self._allowed if allowed is None else allowed
        else:
            allowed = self._allowed.updated(allowed)
        allowed = check_taken(allowed, data)
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
        episodes = None
        if isinstance(data, Transitions) and self._episodes is not None:
            ordered = order_episodes(episode_columns(table, data), data)
            episodes = ordered and read_episodes(ordered, data, self.gamma)
        if episodes is not None and self._episodes is not None:
            old, new = (encode(known, states) for known in (self.states_, data.states))
            episodes = self._episodes.relabel(old).joined(episodes.relabel(new))
        return self._plan(
            *(states, actions, statistics, data.state_names, data.columns),
            *(allowed, episodes),
        )

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

        Warns
        -----
        UserWarning
            If rows have no column names and those given to `fit` had some.

        Raises
        ------
        ValueError
            If a state is not in the log and `handle_unknown` is "error".
        """
        states, codes = self._codes(states)
        choice = self._greedy[codes]
        masks = self._unknown_masks(states, codes)
        if masks is not None:
            unknown = codes < 0
            choice[unknown] = np.where(masks, self._policy[-1], -1.0).argmax(1)
        return self.actions_[choice]

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
        states, codes = self._codes(states)
        policy = self._policy[codes]
        masks = self._unknown_masks(states, codes)
        if masks is not None:
            allowed = masks * policy[codes < 0]
            policy[codes < 0] = allowed / allowed.sum(1, keepdims=True)
        return policy

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
        _, codes = self._codes(states)
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
            "min_visits": check_min_visits(self.min_visits),
            "risk": check_fraction("risk", self.risk),
        }
        arrays = {name: getattr(self, name) for name in _TABLES}
        arrays |= statistics_to_arrays(self.statistics_)
        for held in (self._allowed, self._episodes):
            arrays |= {} if held is None else held.to_arrays()
        meta = {
            "parameters": parameters,
            "state_names": self.state_names_,
            "columns": self.columns_,
            "others_allowed": self._allowed is not None and self._allowed.others,
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
            fitted = _unpack_tables(arrays) | _unpack_names(meta)
            allowed = AllowedActions.from_arrays(
                arrays, meta.get("others_allowed", False)
            )
            policy.__dict__.update(fitted | {"_allowed": allowed})
            policy._infers = policy.handle_unknown == "infer"
            policy._codebook = Codebook(policy.states_)
            policy.allowed_actions_ = state_masks(
                policy._allowed, policy.states_, policy.actions_, policy.statistics_
            )
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
        progress_bar: bool = False,
    ) -> Transitions | SufficientStatistics:
        """Check the parameters that the data must agree with, then the data."""
        check_gamma(self.gamma)
        reward_range = check_reward_range(self.reward_range)
        columns = (y, reward, next_state, terminated)
        table = all(column is None for column in columns)
        if table and (isinstance(X, SufficientStatistics) or is_lazy(X)):
            if not isinstance(X, SufficientStatistics):
                X = SufficientStatistics.from_transitions(X, state_names, progress_bar)
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

    def _plan_first(
        self,
        table: Any,
        data: Transitions | SufficientStatistics,
        allowed_actions: Any,
    ) -> OfflinePolicyEstimator:
        """Plan with a log alone; ``table`` is None where its columns came apart."""
        allowed = read_allowed(allowed_actions, table, data)
        allowed = check_taken(allowed, data)
        statistics = count(data)
        warn_of_dead_ends(statistics, data.states, stacklevel=3)
        plan = (data.states, data.actions, statistics, data.state_names, data.columns)
        ordered = None
        if isinstance(data, Transitions):
            ordered = order_episodes(episode_columns(table, data), data)
        if ordered is None or not isinstance(data, Transitions):
            return self._plan(*plan, allowed)
        episodes = read_episodes(ordered, data, self.gamma)
        self._plan(*plan, allowed, episodes)
        log_ratio = _log_ratio(self._policy, statistics)
        self._episodes = episodes.weighted(log_ratio, ordered, data)
        return self

    def _plan(
        self,
        states: NDArray,
        actions: NDArray,
        statistics: Statistics,
        state_names: list[str] | None = None,
        columns: dict[str, Any] | None = None,
        allowed: AllowedActions | None = None,
        episodes: Episodes | None = None,
    ) -> OfflinePolicyEstimator:
        """Check the parameters, run network and planning, keep tables of results."""
        gamma = check_gamma(self.gamma)
        reward_range = check_reward_range(self.reward_range)
        if reward_range is not None:
            _check_means(statistics, *reward_range)
        device = check_device(self.device)
        rng = check_random_state(self.random_state)
        infers = check_handle_unknown(self.handle_unknown) == "infer"
        min_visits = check_min_visits(self.min_visits)
        risk = check_fraction("risk", self.risk)
        if allowed is not None:
            allowed = allowed.extended(states[statistics.active_states])
        masks = state_masks(allowed, states, actions, statistics)
        network = load_network(self.checkpoint, device)

        active, batch = decided_batch(statistics, gamma, reward_range, masks, infers)
        size = (statistics.n_states + 1, statistics.n_actions)
        values = np.zeros((3, *size))
        log_policy = np.full(size, -math.log(size[1]))
        values[:, active], log_policy[active] = solve(network, batch, device, risk)
        if min_visits:
            log_policy = _without_rare(log_policy, statistics, min_visits)
        policy = np.exp(log_policy)
        refuse_not_finite(self.checkpoint, values, policy)
        fitted = {
            "states_": states,
            "actions_": actions,
            "state_names_": state_names,
            "columns_": columns or {},
            "statistics_": statistics,
            "n_transitions_": int(statistics.n.sum()),
            "allowed_actions_": masks,
            "n_episodes_": 0 if episodes is None else len(episodes.start),
            "_values": values,
            "_policy": policy,
            "_greedy": most_probable(log_policy, rng),
            "_infers": infers,
            "_allowed": allowed,
            "_episodes": episodes,
            "_codebook": Codebook(states),
        }
        for name in _AGAIN:
            self.__dict__.pop(name, None)
        # In one step, so that an interrupt leaves the old policy or the new one.
        self.__dict__.update(fitted)
        return self

    def _codes(self, states: Any) -> tuple[NDArray, NDArray[np.int64]]:
        """Return the labels of states and their codes, -1 for those not in the log."""
        if not hasattr(self, "statistics_"):  # to ask takes scikit-learn longer
            check_is_fitted(self)
        warn_without_names("X", states, self.state_names_, stacklevel=3)
        labels = as_labels(states, self.state_names_)
        if self._codebook is None:
            self._codebook = Codebook(self.states_)
        codes = self._codebook.encode(labels)
        unknown = codes < 0  # their index is that of the last row
        if unknown.any() and not self._infers:
            rows = np.flatnonzero(unknown)
            raise ValueError(
                f"Every state must be in the log given to fit. Found {len(rows)} of "
                f"{len(codes)} that are not, first at row {rows[0]}: "
                f"{some(labels[rows])}. Add transitions that visit them "
                "with partial_fit, drop them, or fit with handle_unknown='infer'."
            )
        return labels, codes

    def _unknown_masks(
        self, labels: NDArray, codes: NDArray[np.int64]
    ) -> NDArray[np.bool_] | None:
        """Return what the states that are not in the log allow, None if everything."""
        unknown = codes < 0
        if self._allowed is None or not unknown.any():
            return None
        return self._allowed.masks(labels[unknown], self.actions_)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be drawn again."""
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in _AGAIN}

    @property
    def classes_(self) -> NDArray:
        """The actions, by the name that scikit-learn's tools look for."""
        return self.actions_

    @property
    def _repr_html_(self) -> Callable[[], str]:
        """scikit-learn's diagram, and what the policy knows."""
        diagram = super()._repr_html_  # no attribute where its option says text
        return lambda: diagram() + self._known()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:
            bundle["text/html"] += self._known()
        return bundle

    def _known(self) -> str:
        return notebook_summary(self) if hasattr(self, "statistics_") else ""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.input_tags.sparse = True
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
    # Files of before these parameters have none.
    check_min_visits(saved.get("min_visits", 0))
    check_fraction("risk", saved.get("risk", 0.0))
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
    episodes = Episodes.from_arrays(arrays, size[0])
    return {
        **{name: arrays[name] for name in _TABLES},
        "statistics_": statistics,
        "n_transitions_": int(statistics.n.sum()),
        "n_episodes_": 0 if episodes is None else len(episodes.start),
        "_episodes": episodes,
    }


def _log_ratio(
    policy: NDArray[np.float64], statistics: Statistics
) -> NDArray[np.float64]:
    """Return log pi(a | s) - log b(a | s), (S, A), 0 for what was never tried.

    The behaviour b is that of the counts: weights by an estimate have a smaller error
    than by the true propensities (Hanna et al. 2019, arXiv 1806.01347).
    """
    row, column = statistics.pair_state, statistics.pair_action
    visits = np.bincount(row, statistics.n, statistics.n_states)
    log_ratio = np.zeros((statistics.n_states, statistics.n_actions))
    with np.errstate(divide="ignore"):  # log 0 where the policy never does it
        log_ratio[row, column] = np.log(
            policy[row, column] * visits[row] / statistics.n
        )
    return log_ratio


def _without_rare(
    log_policy: NDArray[np.float64],
    statistics: Statistics,
    min_visits: int,
) -> NDArray[np.float64]:
    """Return the policy without actions tried less often than `min_visits`.

    States without an action that was tried so often keep theirs.
    """
    n = np.zeros(log_policy.shape)
    n[statistics.pair_state, statistics.pair_action] = statistics.n
    often = n >= min_visits
    changed = often.any(1) & ~often.all(1)
    left = np.where(often, log_policy, -np.inf)[changed]
    log_policy = log_policy.copy()
    log_policy[changed] = left - logsumexp(left, axis=1, keepdims=True)
    return log_policy


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
