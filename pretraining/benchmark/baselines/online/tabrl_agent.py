"""tabrl's exploring agent, through its public interface alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.online.learner import Learner
from tabrl import OnlineAgent


class Tabrl(Learner):
    """`tabrl.OnlineAgent`, which may plan anew within an episode.

    Parameters
    ----------
    *args
        As for `Learner`.
    checkpoint : str
        What `OnlineAgent` takes.
    seed : int
        The agent's random state.
    """

    name = "tabrl"
    parts = ("regret", "convergence", "deep sea", "foreign")
    needs = ("checkpoint", "seed")
    is_baseline = False

    def __init__(self, *args: Any, checkpoint: str, seed: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._states = np.arange(self.n_states)
        self._n_plans = 0
        self.agent = OnlineAgent(
            self.n_states,
            self.n_actions,
            gamma=self.gamma,
            reward_range=self.reward_range,
            checkpoint=checkpoint,
            random_state=seed,
        )

    def begin(self) -> None:
        """Let the agent plan for the episode that begins."""
        self.pi = self.agent.exploration_proba(self._states)
        self._n_plans = self.agent.n_plans_

    def act(self, state: int) -> int:
        """Let the agent choose, perhaps by a new plan."""
        action = self.agent.act(state)
        if self.agent.n_plans_ > self._n_plans:
            self.begin()
        return action

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Let the agent observe."""
        self.agent.observe(state, action, reward, next_state, terminated, truncated)

    def exploit(self) -> NDArray[np.float64]:
        """Return what the agent predicts."""
        return np.eye(self.n_actions)[self.agent.predict(self._states)]
