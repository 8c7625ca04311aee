"""Processes drawn from the posterior, and what policies are worth in each of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from tabrl._exploration import ExplorationFeatures, draw_process
from tabrl._features import Features
from tabrl._network import Posterior
from tabrl._planning import SparseProcess


def draw_processes(
    posterior: Posterior,
    features: Features,
    exploration: ExplorationFeatures,
    n: int,
    rng: np.random.Generator,
) -> Iterator[tuple[SparseProcess, NDArray[np.float64]]]:
    """Draw processes that may be the true one, each with its mean rewards.

    All that the interval of a value needs of the network is behind this function.

    Parameters
    ----------
    posterior : Posterior
        Of one data set.
    features : Features
    exploration : ExplorationFeatures
    n : int
        How many.
    rng : numpy.random.Generator

    Yields
    ------
    process : SparseProcess
    reward : array of shape (S, A)
        In units of the scale.
    """
    width = torch.ones_like(features.n[:, :1, :1])
    for _ in range(n):
        drawn = draw_process(posterior, features, exploration, width, rng)
        yield SparseProcess(drawn, features), drawn.reward[0, 0].cpu().numpy()
