"""tabrl's exploring agent as a bandit method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.bandit.method import BanditMethod
from tabrl import OnlineAgent

# That of the online part. Each pull terminates, so no reward is discounted.
_GAMMA = 0.99


class Tabrl(BanditMethod):
    """`tabrl.OnlineAgent`, which plans before each pull.

    Parameters
    ----------
    checkpoint : str
        What `OnlineAgent` takes.
    """

    name = "tabrl"
    is_baseline = False

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def play(
        self,
        means: NDArray[np.float64],
        rewards: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Play one bandit after another."""
        n_arms, horizon = rewards.shape[1:]
        regret = np.zeros(len(means))
        for run, (mean, reward) in enumerate(zip(means, rewards, strict=True)):
            agent = OnlineAgent(
                *(1, n_arms, _GAMMA, (0, 1), self.checkpoint),
                random_state=int(rng.integers(2**31)),
            )
            n_pulls = [0] * n_arms
            for _ in range(horizon):
                arm = agent.act(0)
                agent.observe(0, arm, float(reward[arm, n_pulls[arm]]), None, True)
                n_pulls[arm] += 1
                regret[run] += mean.max() - mean[arm]
        return regret
