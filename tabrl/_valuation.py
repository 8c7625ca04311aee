"""What a fitted policy is worth: values with intervals, scores and coverage."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from tabrl._allowed import (
    column_of,
)
from tabrl._batch import StatisticsBatch, decided_batch
from tabrl._checkpoint import load_network
from tabrl._checks import (
    as_float,
    check_device,
    check_fraction,
    check_gamma,
    check_reward_range,
    check_size,
)
from tabrl._codes import encode
from tabrl._coverage import as_table, coverage
from tabrl._episodes import Episodes
from tabrl._evaluation import (
    FEW,
    SmallSampleWarning,
    score_log,
)
from tabrl._files import replacing
from tabrl._policy_value import (
    DrawnValues,
    PolicyValue,
    draw_values,
    of_draws,
    of_returns,
    of_weighted_returns,
    within,
)
from tabrl._report import report_page
from tabrl._statistics import Statistics
from tabrl._sufficient import SufficientStatistics
from tabrl._transitions import Transitions, read_transitions


class PolicyValuation:
    """The half of `OfflinePolicyEstimator` that judges the fitted policy.

    It reads what `fit` left, and changes nothing but its own caches.
    """

    gamma: float
    reward_range: tuple[float, float] | None
    checkpoint: str | os.PathLike[str]
    device: str | torch.device
    states_: NDArray
    actions_: NDArray
    statistics_: Statistics
    allowed_actions_: NDArray[np.bool_] | None
    state_names_: list[str] | None
    effective_sample_size_: float | None
    _policy: NDArray[np.float64]
    _greedy: NDArray[np.int64]
    _infers: bool
    _episodes: Episodes | None
    _drawn: DrawnValues | None

    def _codes(self, states: Any) -> tuple[NDArray, NDArray[np.int64]]:
        """Return the labels of states, and their codes; the estimator does."""
        raise NotImplementedError

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

        Notes
        -----
        The value is that of a model. It is right as far as the process is like those
        of pretraining, and its states tell all that matters; nothing in it notices
        where that fails. Over the 21 environments of development the 80 % interval
        held the exact value in 77 % of the logs, but in 61 % of those that were
        collected at random, and in single environments in far fewer: Taxi 0 %,
        RiverSwim-12 50 %, FrozenLake8x8 54 % (``python -m
        pretraining.validation.policy_value``). On 120 logs of 15 foreign environments,
        by the same command, it was 43 %, and none on Taxi with fines and on ICU-Sepsis,
        where the value is far too high. So check it: `report` says where the returns of
        the log's own episodes contradict it, `score` judges the policy on episodes that
        it was not fitted to.

        Examples
        --------
        >>> from tabrl import OfflinePolicyEstimator
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
        how states are binned and over ``gamma``; of a pipeline, this needs scikit-learn
        1.8, which brings the columns to its ``score``. The policy is solved in the
        posterior mean process of the log given here, whose states are those of the log
        with up to three steps of their history, where ten rows share it: bins that are
        too coarse show in it. In place of an action that was tried there less than
        three times it takes what the behaviour took. In states that the fit did not see
        the policy is that of `handle_unknown` "infer", or uniform.

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
        >>> from tabrl import OfflinePolicyEstimator
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

    def report(self, path: str | os.PathLike[str], title: str | None = None) -> None:
        """Write a page that shows the policy to people: one HTML file.

        The answer comes first: what the policy is worth beside what the log did, how
        sure that is, and whether the returns of the log's own episodes, weighted by
        importance, bear it out. They are lenient, for the policy was chosen on them. A
        table that can be sorted and searched has the action of
        each state beside today's. Warnings and coverage follow. The page loads nothing
        from elsewhere.

        Parameters
        ----------
        path : str or path
            Replaced if there is such a file; a failure leaves it as it was.
        title : str, optional
            Heading of the page.

        Raises
        ------
        NotFittedError
            If the policy is not fitted.
        """
        check_is_fitted(self)
        page = report_page(self, title).encode()
        with replacing(path) as file:
            file.write(page)

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
            columns = episode_columns(X, data) | columns
            propensity = column_of(X, "propensity")
            if propensity is not None:
                columns.setdefault("propensity", propensity)
        return data, columns

    def _policy_of(self, states: NDArray, actions: NDArray) -> NDArray[np.float64]:
        """Return the probabilities of actions in states, both of which may be new."""
        policy = self._policy[encode(states, self.states_)]
        column = encode(actions, self.actions_)
        return np.where(column >= 0, policy[:, column], 0.0)

    def _weighted_returns(
        self, interval: float = 0.8
    ) -> tuple[PolicyValue, float, float]:
        """Return what the log's episodes say of the policy, and what that rests on.

        See `tabrl._policy_value.of_weighted_returns`. Where it is not known which
        episodes there are, or what they weigh, the numbers are NaN: after
        `partial_fit`, say.
        """
        drawn, episodes = self._draw(), self._episodes
        known = episodes is not None and episodes.log_weight is not None
        if episodes is None or not known or episodes.gamma != self.gamma:
            return PolicyValue(math.nan, -math.inf, math.inf), math.nan, math.nan
        found, size, mean_weight = of_weighted_returns(
            episodes.relabel(self._rows()), drawn, interval
        )
        found = within(found, check_reward_range(self.reward_range), self.gamma)
        return found, size, mean_weight

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


def episode_columns(
    table: Any, data: Transitions | SufficientStatistics
) -> dict[str, Any]:
    """Return the columns that tell the episodes of a table, none if it is None."""
    if isinstance(data, SufficientStatistics):
        return {}
    names = [n for n in ("episode", "step", "truncated") if n in data.columns]
    found = {name: column_of(table, data.columns[name]) for name in names}
    return {name: column for name, column in found.items() if column is not None}
