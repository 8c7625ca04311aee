"""Policies of the seed's model from a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.benchmark.baselines.seed_model.model import SeedModel, read_policy
from pretraining.benchmark.exact import greedy
from pretraining.benchmark.process import Environment
from tabrl._features import StatisticsBatch
from tabrl._statistics import Statistics

SEED_GREEDY, SEED_SAMPLED = "seed model, greedy", "seed model, sampled"


def policies(
    log: Mapping[str, NDArray], env: Environment, model: SeedModel
) -> Iterator[tuple[str, None, NDArray[np.float64]]]:
    """Read the policy from one log: its most probable actions, and as it is.

    Both are uniform in states without data, whose actions the model cannot tell
    apart.

    Parameters
    ----------
    log : mapping of str to array
        The transitions.
    env : Environment
        Where the log comes from; gives the numbers of states and actions, and gamma.
    model : SeedModel
        From `load`.

    Yields
    ------
    method, constant, policy
        The policy of shape (S, A).
    """
    statistics = Statistics.from_codes(
        state=log["state"],
        action=log["action"],
        reward=log["reward"],
        next_state=log["next_state"],
        terminated=log["terminated"],
        n_states=env.n_states,
        n_actions=env.n_actions,
    )
    batch = StatisticsBatch.from_statistics(statistics, env.gamma)
    known = torch.from_numpy(statistics.active_states[None])
    pi = read_policy(model, replace(batch, known=known))
    yield SEED_GREEDY, None, greedy(pi)
    yield SEED_SAMPLED, None, pi
