"""QuantEcon's policy iteration: an oracle of the tests and a peer of the speed part.

QuantEcon is optional, and imported only when it is used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def quantecon_values(
    transition: sparse.csr_array, reward: NDArray[np.float64], gamma: float
) -> NDArray[np.float64]:
    """Optimal state values (S,) by policy iteration of QuantEcon's DiscreteDP.

    Parameters
    ----------
    transition : csr_array of shape (S * A, S)
        Probabilities of the successors that do not end the episode.
    reward : array of shape (S, A)
        Expected rewards.
    gamma : float
        Discount factor in [0, 1).

    Returns
    -------
    array of shape (S,)
        In the units of the rewards.
    """
    from quantecon.markov import DiscreteDP

    n_states, n_actions = reward.shape
    # DiscreteDP knows no termination: what ends goes to one more state, worth 0.
    goes_on = transition.sum(axis=1)
    ends = sparse.csr_matrix(np.maximum(1 - goes_on, 0)[:, None])
    last = sparse.csr_matrix(np.eye(n_states + 1)[-1:])
    rows = sparse.hstack([sparse.csr_matrix(transition), ends])
    problem = DiscreteDP(
        np.append(reward.ravel(), 0.0),
        sparse.csr_matrix(sparse.vstack([rows, last])),
        gamma,
        np.append(np.repeat(np.arange(n_states), n_actions), n_states),
        np.append(np.tile(np.arange(n_actions), n_states), 0),
    )
    return problem.solve(method="policy_iteration").v[:n_states]
