"""A policy from logged transitions: the scikit-learn style estimator."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
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
    column_of,
    read_allowed,
    state_masks,
)
from tabrl._batch import StatisticsBatch, decided_batch
from tabrl._checkpoint import CheckpointError, load_network
from tabrl._checks import (
    as_float,
    check_device,
    check_fraction,
    check_gamma,
    check_handle_unknown,
    check_min_visits,
    check_reward_range,
    check_size,
    restored_device,
    some,
)
from tabrl._codes import encode, factorise
from tabrl._coverage import as_table, coverage
from tabrl._dead_ends import warn_of_dead_ends
from tabrl._episodes import Episodes, read_episodes
from tabrl._evaluation import (
    FEW,
    SmallSampleWarning,
    score_log,
)
from tabrl._inference import at_quantile, most_probable, solve
from tabrl._labels import as_labels
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
    PolicyValue,
    draw_values,
    of_draws,
    of_returns,
    within,
)
from tabrl._statistics import Statistics
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

    # Values in draws from the posterior, once somebody asked for them.
    _drawn: DrawnValues | None = None

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
    ) -> OfflinePolicyEstimator:
        """Read a log and plan.

        Parameters
        ----------
        X : data frame, dict of arrays, structured array or array of shape (n, 5)
            The log, with the columns ``state, action, reward, next_state,
            terminated`` (arrays without names: in this order) and optionally
            ``truncated, episode, step``. Without ``next_state`` the next row of
            the episode gives it. If ``y`` is given, the states alone; rows of
            several columns are one label each.
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

        Returns
        -------
        OfflinePolicyEstimator
            The estimator itself.
        """
        table = X if y is None else None
        if not hasattr(self, "statistics_"):
            data = self._read(X, y, reward, next_state, terminated)
            return self._plan_first(table, data, allowed_actions)
        data = self._read(X, y, reward, next_state, terminated, self.state_names_)
        allowed = read_allowed(allowed_actions, table, data)
        if allowed is None or self._allowed is None:
            allowed = self._allowed if allowed is None else allowed
        else:
            allowed = self._allowed.updated(allowed)
        allowed = check_taken(allowed, data)
        states, actions, statistics = _merge(
            self.states_, self.actions_, self.statistics_, data
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
        episodes = read_episodes(_columns(table, data), data, self.gamma)
        if episodes is not None and self._episodes is not None:
            old, new = (encode(known, states) for known in (self.states_, data.states))
            episodes = self._episodes.relabel(old).joined(episodes.relabel(new))
        else:
            episodes = None
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

    def policy_value(self, start: Any = None, interval: float = 0.8) -> PolicyValue:
        """Return what the policy of `predict_proba` is worth, with an interval.

        It is solved exactly in 200 processes drawn from the posterior. The same fitted
        policy always gets the same answer.

        Parameters
        ----------
        start : array-like of labels or mapping of labels to weights, optional
            Where episodes start; of a list each label counts once. By default the
            first states of the log's episodes where these are known, that is where
            ``n_episodes_`` is not 0, else all states by their visits.
        interval : float, default=0.8
            Probability that the interval shall hold the value, in (0, 1).

        Returns
        -------
        PolicyValue
            Named tuple of ``value, low, high``: expected discounted sum of the rewards
            of an episode, in their units.

        Raises
        ------
        ValueError
            If a start is not in the log, or the interval is out of range.

        Examples
        --------
        >>> log = {"state": [0, 0] * 50, "action": [0, 1] * 50, "reward": [1, 2] * 50,
        ...        "next_state": [0, 0] * 50, "terminated": [True] * 100}
        >>> policy = OfflinePolicyEstimator().fit(log)
        >>> policy.policy_value().low > policy.behaviour_value().high
        True
        """
        level = check_fraction("interval", interval, open_ends=True)
        found = of_draws(self._draw(start).policy, level)
        return within(found, check_reward_range(self.reward_range), self.gamma)

    def behaviour_value(self, interval: float = 0.8) -> PolicyValue:
        """Return what the behaviour that made the log is worth, with an interval.

        With two episodes or more the mean of their discounted returns; an episode that
        was cut has the value of the behaviour at its last state in place of the rest.
        Else from draws, as in `policy_value`.

        Parameters
        ----------
        interval : float, default=0.8
            Probability that the interval shall hold the value, in (0, 1).

        Returns
        -------
        PolicyValue
            Named tuple of ``value, low, high`` in the units of the rewards, from the
            default starts of `policy_value`.
        """
        level = check_fraction("interval", interval, open_ends=True)
        drawn, episodes = self._draw(), self._episodes
        # The discount factor may have been set anew since the returns were summed.
        if episodes is None or len(episodes.start) < 2 or episodes.gamma != self.gamma:
            found = of_draws(drawn.behaviour, level)
        else:
            found = of_returns(episodes.relabel(self._rows()), drawn, level)
        return within(found, check_reward_range(self.reward_range), self.gamma)

    def probability_of_improvement(self) -> float:
        """Return the probability that the policy is better than the behaviour.

        It is the share of the draws of `policy_value` in which the policy of
        `predict_proba` is worth more than the behaviour, from the same starts.

        Returns
        -------
        float
            From 0 to 1, in steps of 0.005.
        """
        drawn = self._draw()
        return float((drawn.policy > drawn.behaviour).mean())

    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        reward: Any = None,
        next_state: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        episode: Any = None,
        step: Any = None,
        propensity: Any = None,
        gamma: float = 0.99,
        sample_weight: None = None,
    ) -> float:
        """Estimate what the policy is worth from a log that it was not fitted to.

        For model selection, `sklearn.model_selection.GridSearchCV` for example, over
        how states are binned and over ``gamma``. The policy is solved in the posterior
        mean process of the log given here, whose states are those of the log with up
        to three steps of their history, where ten rows share it: bins that are too
        coarse show in it. In place of an action that was tried there less than three
        times it takes what the behaviour took. In states that the fit did not see the
        policy is that of `handle_unknown` "infer", or uniform.

        With ``propensity`` this is the model of a weighted doubly robust estimate.
        Whatever passes a state in which episodes start counts as an episode, and
        weights are used for as many steps as 30 of these count for; the model's value
        of what follows is corrected by how much it errs there about the behaviour.

        Parameters
        ----------
        X : table or array-like
            The log, or with ``y`` its states alone, as in `fit`; with the column
            ``propensity`` where it is known.
        y : array-like of shape (n,), optional
            The actions, if ``X`` holds the states alone.
        reward, next_state, terminated, truncated, episode, step : array-like, optional
            The other columns, if ``X`` holds the states alone. Without ``next_state``
            the next row of the ``episode`` gives it: in a pipeline, which transforms
            ``X`` alone, leave it out.
        propensity : array-like of shape (n,), optional
            Probability with which the behaviour took the action of each row.
        gamma : float, default=0.99
            Discount factor of the estimate. It is not that of the plan, so that
            estimators that plan with different ones can be compared.
        sample_weight : None
            Rows of a log have no weights. It is here because the pipelines of
            scikit-learn pass it on, whether there is one or not.

        Returns
        -------
        float
            Expected discounted sum of the rewards of an episode; higher is better.

        Raises
        ------
        ValueError, TypeError
            If the log is not as described, or there is ``propensity`` but the episodes
            are not whole.

        Warns
        -----
        SmallSampleWarning
            If fewer than 30 episodes count, by their weights. Their number is in
            ``effective_sample_size_``, None without ``propensity``.
        """
        check_is_fitted(self)
        if sample_weight is not None:
            raise TypeError(
                "sample_weight must be None: rows of a log have no weights. Repeat "
                "episodes that count more."
            )
        data, columns = self._read_held_out(
            *(X, y),
            *(reward, next_state, terminated, truncated, episode, step, propensity),
        )
        device = check_device(self.device)
        scored = score_log(
            load_network(self.checkpoint, device),
            *(device, data, columns, self._policy_of),
            *(check_gamma(gamma), check_reward_range(self.reward_range)),
        )
        size = self.effective_sample_size_ = scored.effective_sample_size
        if size is not None and size < FEW:
            warnings.warn(
                f"{scored.n_episodes} episodes count as {size:.1f}: the policy seldom "
                "does what the log did. The score uses importance weights for "
                f"{scored.n_steps} steps from a start, and the model of the process "
                "from there on.",
                SmallSampleWarning,
                stacklevel=2,
            )
        return scored.value

    def coverage_report(self, min_rows: int = 10) -> Any:
        """Return how far the policy rests on data, state by state.

        Parameters
        ----------
        min_rows : int, default=10
            An action that was tried less often than this in its state is thin.

        Returns
        -------
        pandas.DataFrame, or dict of str to array where pandas is not installed
            A row for each state in which something is decided, those first where more
            data are worth most.

            - ``state``, and ``visits``, the rows of the log that start there;
            - ``action``, that of `predict`, ``probability``, that of `predict_proba`,
              and ``action_visits``, the rows that took it;
            - ``behaviour_action``, the most frequent one of the log (None where the
              log has no row), and ``behaviour_probability``, the share of the rows
              that took ``action``: the policy leaves the data where it is small;
            - ``visit_share``, the share of the policy's own discounted visits;
            - ``thin_share``, the part of it whose actions are thin: its sum is the
              share of all visits that rest on fewer than `min_rows` rows;
            - ``information_value``, what it would be worth to know the process before
              deciding in this state, in units of the rewards.

        Examples
        --------
        >>> log = {"state": [0, 0] * 50, "action": [0, 1] * 50, "reward": [1, 2] * 50,
        ...        "next_state": [0, 0] * 50, "terminated": [True] * 100}
        >>> report = OfflinePolicyEstimator(random_state=0).fit(log).coverage_report()
        >>> int(report["action"][0]), float(report["thin_share"].sum().round(3))
        (1, 0.0)
        """
        check_size("min_rows", min_rows)
        device = check_device(self.device)
        active, batch = self._batch()
        weights = self._start_weights(None)[active]
        network = load_network(self.checkpoint, device)
        pi = self._policy[active]
        columns = coverage(
            *(network, batch, device, pi, weights / weights.sum(), min_rows)
        )
        n = batch.n[0].numpy()
        visits, row, action = n.sum(1), np.arange(len(active)), self._greedy[active]
        usual = self.actions_.astype(object)[n.argmax(1)]
        usual[visits == 0] = None
        known = active < len(self.states_)
        table = {
            "state": self.states_[active[known]],
            "visits": visits.astype(int),
            "action": self.actions_[action],
            "probability": pi[row, action],
            "action_visits": n[row, action].astype(int),
            "behaviour_action": usual,
            "behaviour_probability": n[row, action] / np.maximum(visits, 1),
            **columns,
        }
        order = np.argsort(-columns["information_value"][known], kind="stable")
        return as_table(
            {name: values[: known.sum()][order] for name, values in table.items()}
        )

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
    ) -> Transitions:
        """Check the parameters that the data must agree with, then the data."""
        check_gamma(self.gamma)
        reward_range = check_reward_range(self.reward_range)
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
        self, table: Any, data: Transitions, allowed_actions: Any
    ) -> OfflinePolicyEstimator:
        """Plan with a log alone; ``table`` is None where its columns came apart."""
        allowed = read_allowed(allowed_actions, table, data)
        allowed = check_taken(allowed, data)
        statistics = _count(data)
        warn_of_dead_ends(statistics, data.states, stacklevel=3)
        return self._plan(
            *(data.states, data.actions, statistics, data.state_names, data.columns),
            *(allowed, read_episodes(_columns(table, data), data, self.gamma)),
        )

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
        if not (np.isfinite(values).all() and np.isfinite(policy).all()):
            raise CheckpointError(
                f"The network of checkpoint {str(self.checkpoint)!r} must give finite "
                "values. Found others: its weights are damaged, or were trained on "
                "something else. Use the bundled 'auto'."
            )
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
        }
        self.__dict__.pop("_drawn", None)
        # In one step, so that an interrupt leaves the old policy or the new one.
        self.__dict__.update(fitted)
        return self

    def _rows(self) -> NDArray[np.int64]:
        """Return the place of each state in the batch that was planned in, or -1."""
        active = self.statistics_.active_states
        return np.where(active, np.cumsum(active) - 1, -1)

    def _batch(self) -> tuple[NDArray[np.int64], StatisticsBatch]:
        """Return what was planned in: codes of its states, and their statistics."""
        check_is_fitted(self)
        return decided_batch(
            self.statistics_,
            check_gamma(self.gamma),
            check_reward_range(self.reward_range),
            self.allowed_actions_,
            self._infers,
        )

    def _read_held_out(
        self, X: Any, y: Any, *given: Any
    ) -> tuple[Transitions, dict[str, Any]]:
        """Return a log to score on, and those of its columns that it does not need."""
        names = ("reward", "next_state", "terminated", "truncated", "episode", "step")
        columns = {
            name: column
            for name, column in zip((*names, "propensity"), given, strict=True)
            if column is not None
        }
        taken = {name: columns.get(name) for name in names if name != "truncated"}
        if y is None and list(columns) == ["propensity"]:
            taken = {}
        data = read_transitions(X, y, **taken, state_names=self.state_names_)
        if y is None:
            columns = _columns(X, data) | columns
            propensity = column_of(X, "propensity")
            if propensity is not None:
                columns.setdefault("propensity", propensity)
        return data, columns

    def _policy_of(self, states: NDArray, actions: NDArray) -> NDArray[np.float64]:
        """Return the probabilities of actions in states, both of which may be new."""
        policy = self._policy[encode(states, self.states_)]
        column = encode(actions, self.actions_)
        return np.where(column >= 0, policy[:, column], 0.0)

    def _draw(self, start: Any = None) -> DrawnValues:
        """Return values in draws from the posterior; those of the default are kept."""
        check_is_fitted(self)
        if start is None and self._drawn is not None:
            return self._drawn
        device = check_device(self.device)
        active, batch = self._batch()
        weights = self._start_weights(start)
        drawn = draw_values(
            load_network(self.checkpoint, device),
            *(batch, device, self._policy[active], weights[active]),
            resample_start=start is None and self._episodes is not None,
            episodes=self._episodes and self._episodes.relabel(self._rows()),
            # Ends of episodes are no starts of others, and are worth nothing.
            share=weights[active].sum() / weights.sum(),
        )
        if start is None:
            self._drawn = drawn
        return drawn

    def _start_weights(self, start: Any) -> NDArray[np.float64]:
        """Return how often each state starts; the last is that of unknown ones."""
        size = len(self.states_) + 1
        if start is None:
            if self._episodes is not None:
                return np.bincount(self._episodes.start, minlength=size).astype(float)
            return np.append(self.statistics_.encounters, 0.0)
        weights = None
        if isinstance(start, Mapping):
            start, given = list(start), list(start.values())
            weights = np.array([as_float(weight) for weight in given])
            if not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
                raise ValueError(
                    "The weights of start must be 0 or more, and finite, one above 0 "
                    f"at least. Got {given!r:.80}."
                )
        _, codes = self._codes(start)
        if not len(codes):
            raise ValueError("start must hold a state at least. Got none.")
        return np.bincount(codes % size, weights, size).astype(float)

    def _codes(self, states: Any) -> tuple[NDArray, NDArray[np.int64]]:
        """Return the labels of states and their codes, -1 for those not in the log."""
        check_is_fitted(self)
        labels = as_labels(states, self.state_names_)
        codes = encode(labels, self.states_)
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
        return {name: value for name, value in state.items() if name != "_drawn"}

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


def _count(data: Transitions) -> Statistics:
    return Statistics.from_codes(
        data.state,
        data.action,
        data.reward,
        data.next_state,
        data.terminated,
        len(data.states),
        len(data.actions),
    )


def _columns(table: Any, data: Transitions) -> dict[str, Any]:
    """Return the columns that tell the episodes of a table, none if it is None."""
    names = [n for n in ("episode", "step", "truncated") if n in data.columns]
    found = {name: column_of(table, data.columns[name]) for name in names}
    return {name: column for name, column in found.items() if column is not None}


def _merge(
    states: NDArray, actions: NDArray, statistics: Statistics, data: Transitions
) -> tuple[NDArray, NDArray, Statistics]:
    """Return labels and statistics of what was counted and of new data together."""
    states, (old_state, new_state) = factorise([states, data.states])
    actions, (old_action, new_action) = factorise([actions, data.actions])
    size = (len(states), len(actions))
    old = statistics.relabel(old_state, old_action, *size)
    new = _count(data).relabel(new_state, new_action, *size)
    return states, actions, old + new


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
