"""Off-policy evaluation of a policy on episodes that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tabrl._batch import behaviour_of, decided_batch
from tabrl._episodes import effective_size, order_episodes, shares_of, steps_of
from tabrl._labels import as_labels
from tabrl._network import Network
from tabrl._policy_value import evaluate_mean
from tabrl._statistics import Statistics
from tabrl._transitions import Transitions

# The standard error of the mean of so many trajectories is a fifth of their spread.
FEW = 30


# Steps that a context looks back at most, and rows that it must have: the error of a
# probability is then below 0.16.
_HISTORY, _FEW_ROWS = 3, 10
# With fewer rows the posterior of a pair is mostly what the network expects of any.
_THIN = 3


class SmallSampleWarning(UserWarning):
    """Few episodes of a log tell what the policy is worth.

    The log's actions are too rarely those of the policy for importance weights, so that
    the estimate rests on the model of the process.
    """


class Estimate(NamedTuple):
    """An off-policy estimate.

    Attributes
    ----------
    value : float
        In units of the rewards.
    n_steps : int
        How many steps the weights were used for; the model's values are from there on.
    """

    value: float
    n_steps: int


class Scored(NamedTuple):
    """What a log says of a policy.

    Attributes
    ----------
    value : float
        In units of the rewards.
    effective_sample_size : float or None
        Of the weights of whole episodes; None without propensities.
    n_episodes, n_steps : int
        How many episodes there are, and for how many steps weights were used.
    """

    value: float
    effective_sample_size: float | None = None
    n_episodes: int = 0
    n_steps: int = 0


def score_log(
    network: Network,
    device: torch.device,
    data: Transitions,
    columns: Mapping[str, Any],
    policy_of: Callable[[NDArray, NDArray], NDArray[np.float64]],
    gamma: float,
    reward_range: tuple[float, float] | None,
) -> Scored:
    """Estimate what a policy is worth from a log that it was not fitted to.

    The model is the posterior mean process over `contexts`. In place of an action that
    a context has less than three times, it takes what the behaviour takes there: the
    network's guess of what nobody tried is no evidence for a policy.

    Parameters
    ----------
    network, device
        As in `tabrl._inference.solve`.
    data : Transitions
        The log.
    columns : mapping of str to array-like
        Those of the log that there are of ``episode``, ``step``, ``truncated`` and
        ``propensity``.
    policy_of : callable
        Takes labels of states (S,) and of actions (A,) to probabilities (S, A); those
        of a state sum to less than one where the policy takes other actions.
    gamma : float
        Discount factor.
    reward_range : (float, float) or None

    Returns
    -------
    Scored

    Raises
    ------
    ValueError
        If there are propensities but the episodes are not whole.
    """
    ordered = order_episodes(columns, data)
    n_states, n_actions = len(data.states), len(data.actions)
    every = np.arange(len(data.state))
    order, first = ordered or (every, every)
    action, reward = data.action[order], data.reward[order]
    ended = data.terminated[order]
    context, after = data.state[order], data.next_state[order]
    state_of = np.arange(n_states)
    if ordered is not None:
        context, state_of = contexts(context, action, first, n_states)
        last = np.append(first[1:], len(order)) - 1
        after = np.append(context[1:], 0)
        after[last] = data.next_state[order[last]]
    rows = (context, action, reward, after, ended)
    statistics = Statistics.from_codes(*rows, len(state_of), n_actions)
    active, batch = decided_batch(statistics, gamma, reward_range, None, False)
    code = np.full(len(state_of) + 1, -1)  # the last is that of no state
    code[active] = np.arange(len(active))
    pi = policy_of(data.states, data.actions)[state_of[active]]
    behaviour = behaviour_of(batch)[0].numpy()
    supported = np.where(batch.n[0].numpy() >= _THIN, pi, 0.0)
    full = supported + (1 - supported.sum(1, keepdims=True)) * behaviour
    v, q = evaluate_mean(network, batch, device, full)
    state = code[context]
    if "propensity" not in columns:
        return Scored(float(v[state[first]].mean()))
    if ordered is None:
        raise ValueError(
            "With propensity, the episodes of the log must be known and whole. Found "
            "rows that do not lead to the next one. Give 'episode', and split by it: "
            "sklearn.model_selection.GroupKFold with groups=episode."
        )
    ratio = pi[state, action] / read_propensities(columns["propensity"], data)[order]
    after = np.where(ended, -1, code[after])
    _, length = steps_of(first, len(order))
    left = np.repeat(first + length, length) - np.arange(len(order))
    v_behaviour, _ = evaluate_mean(network, batch, device, behaviour)
    ahead = np.append(v_behaviour, 0.0)[after]  # the last is the value of an end
    estimate = weighted_doubly_robust(
        ratio=ratio,
        td_error=reward + gamma * np.append(v, 0.0)[after] - q[state, action],
        value=v[state],
        length=left,
        weight=weights_of_starts(state, first),
        surprise=returns_to_go(reward, ahead, left, gamma) - v_behaviour[state],
        gamma=gamma,
    )
    size = effective_size(weights_of_episodes(ratio, first))
    return Scored(estimate.value, size, len(first), estimate.n_steps)


def contexts(
    state: NDArray[np.int64],
    action: NDArray[np.int64],
    first: NDArray[np.int64],
    n_states: int,
    few: int = _FEW_ROWS,
    n_steps: int = _HISTORY,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return states with as much of their history as the log has often, (n_rows,).

    States may not tell all that matters: bins that are too coarse do not. What came
    before tells more. A context is a state with the state and the action before it, and
    so on for up to ``n_steps`` steps, as long as ``few`` rows share it.

    Parameters
    ----------
    state, action : int64 arrays of shape (n_rows,)
        The rows episode by episode.
    first : int64 array of shape (n_episodes,)
        Row in which each episode begins.
    n_states : int
        The first contexts are the states alone.

    Returns
    -------
    context : int64 array of shape (n_rows,)
    state_of : int64 array of shape (n_contexts,)
        The state of each context.

    Examples
    --------
    >>> contexts(np.array([0, 0, 0, 0]), np.array([0, 1, 0, 1]), np.array([0, 2]), 1, 2)
    (array([0, 1, 0, 1]), array([0, 0]))
    """
    context, state_of = state.copy(), np.arange(n_states)
    later = np.ones(len(state), bool)
    later[first] = False
    row = np.flatnonzero(later)
    for _ in range(n_steps):
        before = context[row - 1] * (int(action.max()) + 1) + action[row - 1]
        _, before = np.unique(before, return_inverse=True)
        _, at, key, count = np.unique(
            state[row] * (before.max(initial=0) + 1) + before,
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        often = count >= few
        if not often.any():
            break
        new = np.where(often, len(state_of) + np.cumsum(often) - 1, -1)
        state_of = np.append(state_of, state[row[at[often]]])
        context[row] = np.where(often[key], new[key], context[row])
    used = np.union1d(np.arange(n_states), context)  # longer histories took the place
    return np.searchsorted(used, context), state_of[used]


def weighted_doubly_robust(
    ratio: NDArray[np.float64],
    td_error: NDArray[np.float64],
    value: NDArray[np.float64],
    length: NDArray[np.int64],
    weight: NDArray[np.float64],
    surprise: NDArray[np.float64],
    gamma: float,
    few: float = FEW,
) -> Estimate:
    r"""Return the weighted doubly robust estimate of a policy's value.

    .. math:: \sum_i w^i_{-1} v(s^i_0)
        + \sum_{t < k} \gamma^t \sum_i w^i_t \, (r^i_t + \gamma v(s^i_{t+1})
        - q(s^i_t, a^i_t)) + \gamma^k \sum_i w^i_{k-1} c^i_k, \quad
        w^i_t \propto w^i_{t-1} \frac{\pi(a^i_t | s^i_t)}{b(a^i_t | s^i_t)}

    where the weights of a step sum to one over all trajectories i, those that have
    ended included (Thomas and Brunskill 2016, arXiv 1604.00923, equation 6, with the
    sums rearranged). With k beyond the longest one it is consistent whatever q and v
    are. Here k is the first step for which fewer than ``few`` trajectories count, by
    the effective sample size of the weights; what follows is left to v, and to c, by
    how much more than the model says followed under the behaviour. Its mean is zero
    where the model is right, and where it is wrong, for the states do not tell all
    that matters, it most often errs alike for both policies.

    A trajectory begins in any row of an episode and goes on to its end.

    Parameters
    ----------
    ratio, td_error : arrays of shape (n_rows,)
        pi / b of the action taken, and r + gamma v(s') - q(s, a), the rows episode by
        episode.
    value : array of shape (n_rows,)
        v of the row's state.
    length : int64 array of shape (n_rows,)
        Rows from this one to the end of its episode.
    weight : array of shape (n_rows,)
        How much the trajectory counts that begins in this row; 0 for none.
    surprise : array of shape (n_rows,)
        c: the return from this row on, less the behaviour's value of its state.
    gamma : float
        Discount factor.
    few : float
        See above; 0 uses all steps.

    Returns
    -------
    Estimate

    Examples
    --------
    Two episodes of one step; only the second did what the policy does:

    >>> weighted_doubly_robust(
    ...     np.array([0.0, 2.0]), np.array([5.0, 1.0]), np.array([1.0, 3.0]),
    ...     np.array([1, 1]), np.array([1.0, 1.0]), np.zeros(2), gamma=0.9, few=0,
    ... )
    Estimate(value=3.0, n_steps=1)
    """
    begin = np.flatnonzero(weight)
    length, weight = length[begin], np.log(weight[begin])
    with np.errstate(divide="ignore"):
        log_ratio = np.log(ratio)
    shares = shares_of(weight)
    total, n_steps = float(shares @ value[begin]), 0
    for t in range(int(length.max())):
        alive = np.flatnonzero(length > t)
        row = begin[alive] + t
        weight[alive] += log_ratio[row]
        updated = shares_of(weight)
        if not updated.any() or effective_size(updated) < few:
            total += gamma**t * float(shares[alive] @ surprise[row])
            break
        shares = updated
        total += gamma**t * float(shares[alive] @ td_error[row])
        n_steps = t + 1
    return Estimate(total, n_steps)


def weights_of_episodes(
    ratio: NDArray[np.float64], first: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the importance weight of each whole episode, the largest being one."""
    with np.errstate(divide="ignore"):
        log_weight = np.add.reduceat(np.log(ratio), first)
    return shares_of(log_weight)


def returns_to_go(
    reward: NDArray[np.float64],
    after: NDArray[np.float64],
    left: NDArray[np.int64],
    gamma: float,
) -> NDArray[np.float64]:
    """Return the discounted return from each row to the end of its episode.

    Parameters
    ----------
    reward : array of shape (n_rows,)
        The rows episode by episode.
    after : array of shape (n_rows,)
        Value of the state that the row leads to: read in last rows alone.
    left : int64 array of shape (n_rows,)
        Rows from this one to the end of its episode.
    gamma : float
        Discount factor.

    Examples
    --------
    >>> zeros, left = np.zeros(3), np.array([2, 1, 1])
    >>> returns_to_go(np.array([1.0, 4.0, 2.0]), zeros, left, gamma=0.5)
    array([3., 4., 2.])
    """
    total = reward + gamma * np.where(left == 1, after, 0.0)
    order = np.argsort(left, kind="stable")  # last rows come first
    ends = np.flatnonzero(np.diff(left[order], append=-1)) + 1
    for begin, end in pairwise(ends):
        rows = order[begin:end]
        total[rows] += gamma * total[rows + 1]
    return total


def weights_of_starts(
    state: NDArray[np.int64], first: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how much each row counts as a start, (n_rows,).

    A process does not know how it came to a state: whatever passes a state in which
    episodes start is as good as an episode. The rows of a state share what it has of
    the starts.

    Examples
    --------
    >>> weights_of_starts(np.array([7, 8, 7, 9]), np.array([0, 3])).round(2)
    array([0.25, 0.  , 0.25, 0.5 ])
    """
    size = int(state.max()) + 1
    starts = np.bincount(state[first], minlength=size) / len(first)
    return (starts / np.maximum(np.bincount(state, minlength=size), 1))[state]


def read_propensities(given: Any, data: Transitions) -> NDArray[np.float64]:
    """Return the probabilities with which the log's actions were taken.

    Parameters
    ----------
    given : array-like
        One for each row of the table.
    data : Transitions
        What was read of the table.

    Raises
    ------
    ValueError, TypeError
        If they are not numbers in (0, 1], one for each row.
    """
    labels = as_labels(given)
    if labels.dtype.kind not in "iuf":
        raise TypeError(
            f"propensity must be numeric. Found dtype {labels.dtype}. Give the "
            "probability with which the behaviour took the action of each row."
        )
    if data.rows is not None and len(labels) > len(data.rows):
        labels = labels[data.rows]
    if len(labels) != len(data.state):
        raise ValueError(
            f"propensity must have a value for each of {len(data.state)} rows. Found "
            f"{len(labels)}."
        )
    wrong = ~((labels > 0) & (labels <= 1))
    if wrong.any():
        first = int(wrong.argmax())
        row = first if data.rows is None else int(data.rows[first])
        raise ValueError(
            f"propensity must lie in (0, 1]. Found {int(wrong.sum())} that do not, "
            f"first at row {row} ({labels[first]}). It is the probability with which "
            "the behaviour took the action of the row."
        )
    return labels.astype(float)
