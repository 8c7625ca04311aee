"""Statistics of known decision processes, as those of more rows than one can list."""

from __future__ import annotations

import numpy as np

from tabrl._statistics import Statistics


def expected_statistics(P, R, n, terminal=None) -> Statistics:
    """Return what `n` visits, a number or (S, A), give on average.

    ``P`` (S, A, S) and ``R`` (S, A) are without noise. What leads into a ``terminal``
    state (S,) counts as terminated; no transition starts there.
    """
    P, R = np.asarray(P, float), np.asarray(R, float)
    np.testing.assert_allclose(P.sum(axis=2), 1)
    ends = np.zeros(len(R), bool) if terminal is None else np.asarray(terminal)
    visits = np.where(ends[:, None], 0.0, np.broadcast_to(n, R.shape))
    pair_state, pair_action = np.nonzero(visits)
    n_pair, r = visits[pair_state, pair_action], R[pair_state, pair_action]
    flow = n_pair[:, None] * P[pair_state, pair_action]  # (n_pairs, S)
    n_terminated = flow[:, ends].sum(axis=1)
    flow[:, ends] = 0
    edge_pair, edge_next = np.nonzero(flow)
    return Statistics(
        *R.shape,
        pair_state=pair_state,
        pair_action=pair_action,
        n=n_pair,
        reward_sum=n_pair * r,
        reward_sq_sum=n_pair * r * r,
        n_terminated=n_terminated,
        edge_pair=edge_pair,
        edge_next=edge_next,
        edge_count=flow[edge_pair, edge_next],
    )
