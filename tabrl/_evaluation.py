"""Off-policy evaluation of a policy on episodes that it was not fitted to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tabrl._episodes import steps_of
from tabrl._labels import as_labels
from tabrl._transitions import Transitions

# With fewer episodes than these the standard error of a mean is a third of the spread
# of the returns or more, which no difference between two binnings exceeds.
FEW_EPISODES = 10


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
    effective_sample_size : float
        Of the weights of whole episodes.
    n_steps : int
        How many steps the weights were used for; the model's values are from there on.
    """

    value: float
    effective_sample_size: float
    n_steps: int


def weighted_doubly_robust(
    ratio: NDArray[np.float64],
    td_error: NDArray[np.float64],
    start_value: NDArray[np.float64],
    first: NDArray[np.int64],
    gamma: float,
    few: float = FEW_EPISODES,
) -> Estimate:
    r"""Return the weighted doubly robust estimate of a policy's value.

    .. math:: \frac1n \sum_i v(s^i_0)
        + \sum_{t < k} \gamma^t \sum_i w^i_t \, (r^i_t + \gamma v(s^i_{t+1})
        - q(s^i_t, a^i_t)), \quad
        w^i_t \propto \prod_{j \le t} \frac{\pi(a^i_j | s^i_j)}{b(a^i_j | s^i_j)}

    where the weights of a step sum to one over all n episodes, those that have ended
    included (Thomas and Brunskill 2016, arXiv 1604.00923, equation 6, with the sums
    rearranged). With k beyond the longest episode it is consistent whatever q and v
    are. Here k is the first step for which fewer than ``few`` episodes count, by the
    effective sample size of the weights; what follows is left to v.

    Parameters
    ----------
    ratio, td_error : arrays of shape (n_rows,)
        pi / b of the action taken, and r + gamma v(s') - q(s, a), the rows episode by
        episode.
    start_value : array of shape (n,)
        v of the first state of each episode.
    first : int64 array of shape (n,)
        Row in which each episode begins.
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
    ...     np.array([0, 1]), gamma=0.9, few=0,
    ... )
    Estimate(value=3.0, effective_sample_size=1.0, n_steps=1)
    """
    _, length = steps_of(first, len(ratio))
    with np.errstate(divide="ignore"):
        log_ratio = np.log(ratio)
    weight = np.zeros(len(first))  # logarithms
    value, n_steps = float(start_value.mean()), 0
    for t in range(int(length.max())):
        alive = np.flatnonzero(length > t)
        row = first[alive] + t
        weight[alive] += log_ratio[row]
        shares = _shares(weight)
        if shares is None or _effective(shares) < few:
            break
        value += gamma**t * float(shares[alive] @ td_error[row])
        n_steps = t + 1
    whole = _shares(np.add.reduceat(log_ratio, first))
    size = 0.0 if whole is None else _effective(whole)
    return Estimate(value, size, n_steps)


def _shares(log_weight: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the weights so that they sum to one, None if all are zero."""
    largest = log_weight.max()
    if largest == -np.inf:
        return None
    weight = np.exp(log_weight - largest)
    return weight / weight.sum()


def _effective(shares: NDArray[np.float64]) -> float:
    return float(1 / (shares**2).sum())


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
