"""How far the quantiles of a method's action values can be believed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pretraining.benchmark.exact import policy_iteration
from pretraining.benchmark.process import Environment

# By the size of the values: what rounding in single precision leaves.
_SLACK = 1e-6


def coverage(
    quantiles: NDArray[np.float64], visited: NDArray[np.bool_], env: Environment
) -> dict[str, Any]:
    """Compare quantiles of the optimal action values with the true ones.

    Parameters
    ----------
    quantiles : array of shape (3, S, A)
        Levels 0.1, 0.5 and 0.9, in the units of the rewards.
    visited : bool array of shape (S, A)
        The pairs in the log, which alone are compared.
    env : Environment
        The true process.

    Returns
    -------
    dict
        `coverage`, the share of the pairs whose true value lies in the interval from
        0.1 to 0.9; `width`, its mean width by the distance of the optimal value from
        that of the uniform policy, both from the start; `overshoot`, the share of the
        pairs whose middle value is above every return that the process can give.
    """
    low, middle, high = quantiles[:, visited]
    true, most = env.optimal_q[visited], highest_returns(env).max()
    slack = _SLACK * np.abs(env.optimal_q).max()
    inside = (low <= true + slack) & (true - slack <= high)
    return {
        "coverage": float(inside.mean()),
        "width": float((env.normalise(high) - env.normalise(low)).mean()),
        "overshoot": float((middle > most + slack).mean()),
    }


@lru_cache(maxsize=64)
def highest_returns(env: Environment) -> NDArray[np.float64]:
    """Return the highest return that can follow each pair, (S, A).

    That of a process where one chooses the outcome as well as the action.
    """
    shape = env.prob.shape
    possible = env.prob > 0
    goes_on = possible & ~env.terminated
    pair = np.flatnonzero(goes_on)
    entries = (np.ones(len(pair)), (pair, env.next_state[goes_on]))
    chosen = sparse.csr_array(
        sparse.coo_array(entries, shape=(env.prob.size, env.n_states))
    )
    # Less than any return, for outcomes that cannot happen.
    size = np.abs(env.reward[possible]).max()
    never = -2 * size / (1 - env.gamma) - 1
    reward = np.where(possible, env.reward, never).reshape(env.n_states, -1)
    q = policy_iteration(chosen, reward, env.gamma)
    return q.reshape(shape).max(axis=2)
