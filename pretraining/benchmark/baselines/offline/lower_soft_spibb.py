"""Lower-Soft-SPIBB: only what gains probability is charged its estimation error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.baselines.offline.soft_spibb import iterate_within_budget


@dataclass(frozen=True)
class LowerSoftSPIBB(Method):
    r"""Lower-Approx-Soft-SPIBB of Scholl et al. 2022 (arXiv 2201.12175).

    `SoftSPIBB` until it no longer improves, with the budget

    .. math:: \sum_a e(s, a) \max(0, \pi(a | s) - \pi_b(a | s)) \le \epsilon:

    an action whose value is uncertain may be taken less often at no cost, one that
    was never tried cannot be taken more often.

    Parameters
    ----------
    delta : float, default=1
        Probability that an error bound fails; 1 in the paper's experiments.
    """

    delta: float = 1.0
    name = "Lower-Soft-SPIBB"
    constants: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # paper's

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the policy (S, A) for the budget `constant`, epsilon."""
        return iterate_within_budget(data, constant, self.delta, charge_losses=False)
