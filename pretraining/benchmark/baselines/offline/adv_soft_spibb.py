"""Adv-Soft-SPIBB: no state may lose by the behaviour policy's own values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.baselines.offline.soft_spibb import iterate_within_budget
from pretraining.benchmark.baselines.offline.spibb import policy_action_values


@dataclass(frozen=True)
class AdvSoftSPIBB(Method):
    r"""Adv-Approx-Soft-SPIBB of Scholl et al. 2022 (arXiv 2201.12175).

    `SoftSPIBB` until it no longer improves, among the policies that are advantageous
    in each state, by the action values of the behaviour policy:

    .. math:: \sum_a (\pi(a | s) - \pi_b(a | s)) \hat q_{\pi_b}(s, a) \ge 0,

    which makes their bound on the loss of value hold. Those values are of the
    observed frequencies.

    Parameters
    ----------
    delta : float, default=1
        Probability that an error bound fails; 1 in the paper's experiments.
    """

    delta: float = 1.0
    name = "Adv-Soft-SPIBB"
    constants: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # paper's

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the policy (S, A) for the budget `constant`, epsilon."""
        advantage = policy_action_values(data, data.behaviour)
        return iterate_within_budget(data, constant, self.delta, advantage=advantage)
