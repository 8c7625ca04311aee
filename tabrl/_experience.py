"""What an agent has observed, and the policy and values that follow from it."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tabrl._batch import StatisticsBatch
from tabrl._checkpoint import load_network, refuse_not_finite
from tabrl._checks import check_device
from tabrl._codes import factorise
from tabrl._encoder import Encoder
from tabrl._inference import at_quantile, most_probable, solve
from tabrl._labels import as_labels
from tabrl._network import Network
from tabrl._offline import OfflinePolicyEstimator
from tabrl._persistence import (
    check_array,
    statistics_from_arrays,
    statistics_to_arrays,
)
from tabrl._states import States
from tabrl._statistics import Statistics, Tally

# Of a saved agent: numpy indexes no more pairs of even a single state.
_MOST_ACTIONS = 2**31


class Experience:
    """Labels and counts of all transitions observed, and what to do if these were all.

    `tabrl.OnlineAgent` adds how to act, and documents the parameters and attributes.
    """

    gamma: float
    reward_range: tuple[float, float] | None
    checkpoint: str | os.PathLike[str]
    device: str | torch.device
    random_state: int | np.random.RandomState | None
    _seed: int

    def _begin(self, states: range | None, actions: range | None) -> None:
        """Start without transitions; `states` None adds them as they appear."""
        self._encoder = Encoder(states, actions, self.reward_range)
        self._tally = Tally(self._encoder.n_actions)
        # Number of transitions and states, action values and log policy of the last.
        self._exploited: tuple[int, int, NDArray, NDArray] | None = None

    @property
    def states_(self) -> NDArray:
        """Labels of all states known."""
        return self._encoder.states.as_array()

    @property
    def actions_(self) -> NDArray[np.int64]:
        """Labels of all actions."""
        return np.array(self._encoder.known_actions())

    @property
    def statistics_(self) -> Statistics:
        """Statistics of all transitions observed."""
        return self._tally.statistics(len(self._encoder.states))

    @property
    def n_transitions_(self) -> int:
        """Number of transitions observed."""
        return self._tally.n_transitions

    def predict(self, states: Any) -> NDArray[np.int64]:
        """Return the action to take if nothing more were to be learnt.

        Parameters
        ----------
        states : array-like of shape (n,)
            Known states.

        Returns
        -------
        array of shape (n,)
            The most probable action of `predict_proba`, ties at random.

        Raises
        ------
        ValueError
            If a state is unknown.
        """
        codes = self._encoder.states.encode(states)
        log_policy = self._exploit()[1]
        # Not the agent's own generator: asking must not change what it does.
        rng = np.random.default_rng((self._seed, self.n_transitions_))
        return self.actions_[most_probable(log_policy, rng)[codes]]

    def predict_proba(self, states: Any) -> NDArray[np.float64]:
        """Return the exploiting policy, as `OfflinePolicyEstimator.predict_proba` does.

        Parameters
        ----------
        states : array-like of shape (n,)
            Known states.

        Returns
        -------
        array of shape (n, n_actions)
            Columns follow ``actions_``; rows sum to one.
        """
        codes = self._encoder.states.encode(states)
        return np.exp(self._exploit()[1][codes])

    def action_values(
        self, states: Any, quantile: float | None = None
    ) -> NDArray[np.float64]:
        """Return the estimated optimal action values, in the units of the rewards.

        Parameters
        ----------
        states : array-like of shape (n,)
            Known states.
        quantile : float or None, default=None
            As in `OfflinePolicyEstimator.action_values`.

        Returns
        -------
        array of shape (n, n_actions)
            Columns follow ``actions_``.
        """
        codes = self._encoder.states.encode(states)
        return at_quantile(self._exploit()[0][:, codes], quantile)

    def to_offline(self) -> OfflinePolicyEstimator:
        """Return the estimator of what was observed, fitted.

        Returns
        -------
        OfflinePolicyEstimator
            As its `fit` on the log of all transitions gives it: it knows the states
            and actions that occurred, and no action masks.

        Raises
        ------
        ValueError
            If nothing was observed.
        """
        if not self.n_transitions_:
            raise ValueError("to_offline needs transitions. Observed none so far.")
        seen = np.array(sorted(self._tally.seen))
        labels = self._encoder.states.labels
        states, (order,) = factorise([as_labels([labels[i] for i in seen])])
        statistics = self.statistics_.compress(seen)
        tried = np.unique(statistics.pair_action)
        statistics = replace(
            statistics,
            n_actions=len(tried),
            pair_action=np.searchsorted(tried, statistics.pair_action),
        )
        size = (len(seen), len(tried))
        statistics = statistics.relabel(order, np.arange(size[1]), *size)
        policy = OfflinePolicyEstimator(
            self.gamma,
            self.checkpoint,
            self.device,
            self.reward_range,
            self.random_state,
        )
        return policy._plan(states, self.actions_[tried], statistics)

    def _exploit(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return action values (3, S, A) and log policy (S, A) of all data so far."""
        key = (self.n_transitions_, len(self._encoder.states))
        if self._exploited is None or self._exploited[:2] != key:
            size = (key[1], len(self._encoder.known_actions()))
            values = np.zeros((3, *size))
            log_policy = np.full(size, -math.log(size[1]))
            codes, problem = self._problem()
            if problem is not None:
                values[:, codes], log_policy[codes] = solve(*problem)
            refuse_not_finite(self.checkpoint, values, np.exp(log_policy))
            self._exploited = (*key, values, log_policy)
        return self._exploited[2:]

    def _problem(
        self,
    ) -> tuple[NDArray[np.int64], tuple[Network, StatisticsBatch, torch.device] | None]:
        """Return the states to plan for, and what `solve` takes if there are any.

        These are all but the known ends, where nothing will be decided. Where the
        number of states is not known, they are taken for all that there are once each
        was met more than once: the share of steps that lead to new states is about
        that of the states met only once (Good 1953).
        """
        statistics, seen = self.statistics_, self._tally.seen
        states = self._encoder.states
        unseen = [code not in seen for code in range(len(states))]
        codes = np.flatnonzero(statistics.active_states | np.array(unseen, bool))
        if not len(codes):
            return codes, None
        device = check_device(self.device)
        statistics = statistics.compress(codes)
        complete = states.complete or bool(statistics.encounters.min() > 1)
        batch = StatisticsBatch.from_statistics(
            statistics,
            self.gamma,
            self.reward_range,
            self._encoder.allowed(codes),
            complete,
        )
        return codes, (load_network(self.checkpoint, device), batch, device)

    # -- files ---------------------------------------------------------------

    def _pack(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """Return what was observed as JSON and arrays hold it."""
        encoder, actions = self._encoder, self._encoder.actions
        meta = {
            "actions": actions and [actions.start, actions.stop],
            "complete": encoder.states.complete,
        }
        arrays = {
            "states_": self.states_,
            "seen": np.array(sorted(self._tally.seen), np.int64),
            "masked": np.array(list(encoder.masks), np.int64),
            "masks": np.frombuffer(b"".join(encoder.masks.values()), bool),
        }
        return meta, arrays | statistics_to_arrays(self.statistics_)

    def _restore(self, meta: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        """Take over what `_pack` packed, or raise if its parts do not fit."""
        actions = meta["actions"] and range(*meta["actions"])
        if actions is not None and not 0 < len(actions) <= _MOST_ACTIONS:
            raise ValueError("actions")
        if type(meta["complete"]) is not bool:
            raise TypeError("complete")
        self._begin(None, actions)
        encoder, labels = self._encoder, arrays["states_"].tolist()
        encoder.states = States(labels, complete=meta["complete"])
        size = (len(labels), encoder.n_actions)
        if len(encoder.states) < size[0]:
            raise ValueError("a state twice")
        statistics = statistics_from_arrays(arrays, *size)
        for name in ("seen", "masked"):
            check_array(name, arrays[name], np.int64, (None,))
        codes = arrays["masked"].tolist()
        check_array("masks", arrays["masks"], np.bool_, (len(codes) * size[1],))
        if not {*codes, *arrays["seen"].tolist()} <= set(range(size[0])):
            raise ValueError("states that are not there")
        self._tally = Tally.from_statistics(statistics, arrays["seen"])
        masks = arrays["masks"].reshape(len(codes), size[1])
        for code, mask in zip(codes, masks, strict=True):
            encoder.masks[code] = mask.tobytes()
