"""The processes and data sets of the validation, the same at every call.

First of the validation: `scores` and `validate` judge a network on them, and training
never sees them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pretraining.prior import FAMILIES, log_uniform
from pretraining.recipe.simulate import (
    draw_reward_ranges,
    experts,
    simulate,
    to_statistics,
    walk,
    with_rewards,
)
from pretraining.recipe.targets import ProcessBatch, draw_processes, uniform
from tabrl._features import StatisticsBatch

# Training groups are seeded (seed, index), and no index gets here.
SEED = 2**32 - 1
# Transitions of a log: from hardly any to nearly enough, in equal factors.
SIZES = (16, 128, 1024, 8192)
# Near-expert logs of 16 transitions show little but one path, and of 8192 no more.
NEAR_EXPERT_SIZES = (128, 1024)
GROUP = 8  # processes of one S and A, which one pass of the network takes


def validation_set(
    n_per_cell: int, near_expert: bool = False
) -> Iterator[tuple[str, int, ProcessBatch, StatisticsBatch]]:
    """Yield family, size, processes and data sets, the same at every call.

    The behaviour is drawn as in training, or epsilon-greedy on one optimal policy with
    epsilon log-uniform in 0.02..0.1. A larger ``n_per_cell``, a multiple of `GROUP`,
    adds processes to those of a smaller one.
    """
    for f, family in enumerate(FAMILIES):
        for size in NEAR_EXPERT_SIZES if near_expert else SIZES:
            for i in range(n_per_cell // GROUP):
                key = (SEED, f, size, i)
                rng = np.random.default_rng((*key, 1) if near_expert else key)
                fewest = 1 if family == "bandits" else 2
                n_states = round(log_uniform(rng, fewest, 64))
                n_actions = round(log_uniform(rng, 2, 10))
                batch = draw_processes(rng, GROUP, n_states, n_actions, [family])
                sizes = np.full(GROUP, size)
                if near_expert:
                    counts = walk(rng, batch, near_experts(rng, batch), sizes)
                    log = with_rewards(rng, batch, counts)
                else:
                    log = simulate(rng, batch, sizes)
                offline = np.ones(GROUP, bool)
                ranges = draw_reward_ranges(rng, batch)
                yield family, size, batch, to_statistics(batch, log, offline, ranges)


def near_experts(rng: np.random.Generator, batch: ProcessBatch) -> NDArray:
    """Draw narrow policies (B, S, A): one optimal action a state, all but always."""
    expert = experts(rng, batch)
    epsilon = np.exp(rng.uniform(np.log(0.02), np.log(0.1), (len(expert), 1, 1)))
    return (1 - epsilon) * expert + epsilon * uniform(batch.allowed).numpy()
