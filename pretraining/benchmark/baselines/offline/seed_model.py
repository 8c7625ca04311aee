"""The seed's model as an offline method of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.baselines.seed_model import SeedModel, load
from pretraining.benchmark.exact import greedy
from tabrl._features import StatisticsBatch, build_features

GREEDY, SAMPLED = "seed model, greedy", "seed model, sampled"


@dataclass(frozen=True)
class SeedModelMethod(Method):
    """`pretraining.benchmark.baselines.seed_model`: its most probable actions, or all.

    Both are uniform in states without data, whose actions the model cannot tell
    apart.

    Parameters
    ----------
    name : {GREEDY, SAMPLED}
        Which of the two policies.
    folder : str
        Where the trained model is.
    """

    name: str
    folder: str

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the policy, (S, A)."""
        pi = sampled_policy(data, _load(self.folder))
        return greedy(pi) if self.name == GREEDY else pi


@lru_cache(maxsize=1)
def _load(folder: str) -> SeedModel:
    return load(folder)


def sampled_policy(data: LoggedData, model: SeedModel) -> NDArray[np.float64]:
    """Return the probabilities (S, A) that the model reads in a log."""
    batch = StatisticsBatch.from_statistics(data.statistics, data.gamma)
    known = torch.from_numpy(data.statistics.active_states[None])
    features = build_features(replace(batch, known=known))
    return model(features)[0].exp().numpy()
