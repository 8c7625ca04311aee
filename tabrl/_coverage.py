"""Where a policy leaves the data, and where more data would change what it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tabrl._batch import StatisticsBatch
from tabrl._draws import draw_processes
from tabrl._exploration import exploration_features
from tabrl._inference import computing, infer
from tabrl._network import Network
from tabrl._planning import SparseProcess

# The mean of a maximum over the actions is then known to a tenth of its spread.
_N_DRAWS = 100
_SEED = 0


def coverage(
    network: Network,
    batch: StatisticsBatch,
    device: torch.device,
    pi: NDArray[np.float64],
    start: NDArray[np.float64],
    min_rows: int,
) -> dict[str, NDArray[np.float64]]:
    """Return what the policy rests on in each state.

    Parameters
    ----------
    network, batch, device
        As in `tabrl._inference.solve`.
    pi : array of shape (S, A)
        The policy.
    start : array of shape (S,)
        Start distribution.
    min_rows : int
        An action tried less often than this in its state is thin.

    Returns
    -------
    dict of str to array of shape (S,)
        ``visit_share``, ``thin_share`` and ``information_value``, as
        `tabrl.OfflinePolicyEstimator.coverage_report` describes them; the last in
        units of the rewards.

    Notes
    -----
    The value of information is that of knowing the process before deciding in this
    state alone: E max_a q(s, a) - max_a E q(s, a), over draws from the posterior, of
    the policy's action values, times the expected discounted number of visits.
    """
    rng = np.random.default_rng(_SEED)
    features, _, posterior = infer(network, batch, device)
    allowed = batch.allowed[0].numpy()
    total, best, v = np.zeros(pi.shape), np.zeros(len(pi)), np.zeros(len(pi))
    with computing(batch):
        visits = SparseProcess(posterior, features).occupancy(pi, start)
        exploration = exploration_features(batch).to(device)
        drawn = draw_processes(posterior, features, exploration, _N_DRAWS, rng)
        for process, reward in drawn:
            v = process.evaluate_policy(reward, pi, v)
            q = np.where(allowed, process.action_values(reward, v), -np.inf)
            total += q / _N_DRAWS
            best += q.max(1) / _N_DRAWS
    gain = (best - total.max(1)).clip(min=0) * float(features.scale)
    share = visits / visits.sum()
    thin = (pi * (batch.n[0].numpy() < min_rows)).sum(1)
    return {
        "visit_share": share,
        "thin_share": share * thin,
        "information_value": visits * gain,
    }


def as_table(columns: dict[str, NDArray]) -> Any:
    """Return a pandas data frame where pandas is installed, else the columns."""
    try:
        import pandas as pd
    except ModuleNotFoundError:
        return columns
    return pd.DataFrame(columns)
