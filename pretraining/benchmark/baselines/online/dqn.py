"""DQN of stable-baselines3, which runs episodes of its own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.process import Environment

DQN = "DQN"
PACKAGE = "stable_baselines3"


class OneHotEnv(gymnasium.Env):
    """An `Environment` to act in, with one-hot states.

    Parameters
    ----------
    env : Environment
        The process.
    max_steps : int
        Steps after which an episode is truncated.
    """

    def __init__(self, env: Environment, max_steps: int) -> None:
        self.env, self.max_steps = env, max_steps
        self.observation_space = gymnasium.spaces.Box(
            0.0, 1.0, (env.n_states,), np.float32
        )
        self.action_space = gymnasium.spaces.Discrete(env.n_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._state = self.np_random.choice(self.env.n_states, p=self.env.start)
        self._step = 0
        return self._observation(), {}

    def step(
        self, action: Any
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take one step."""
        env, pair = self.env, (self._state, int(action))
        outcome = (*pair, self.np_random.choice(env.prob.shape[2], p=env.prob[pair]))
        self._state = env.next_state[outcome]
        self._step += 1
        terminated = bool(env.terminated[outcome])
        truncated = not terminated and self._step >= self.max_steps
        reward = float(env.reward[outcome])
        return self._observation(), reward, terminated, truncated, {}

    def _observation(self) -> NDArray[np.float32]:
        observation = np.zeros(self.env.n_states, dtype=np.float32)
        observation[self._state] = 1
        return observation


def dqn_policies(
    env: Environment, n_episodes: int, every: int, seed: int, max_steps: int = 50
) -> list[tuple[int, NDArray[np.float64], float]]:
    """Train DQN of stable-baselines3 online, and record what it would do.

    Its defaults are for a hundred times as many steps. So learning starts after 100
    steps, with a learning rate of 1e-3, an update a step and a target that follows
    every 100 steps; the rest is as it comes, with exploration that falls to 0.05 over
    the first tenth of the most steps that the run can have.

    Parameters
    ----------
    env : Environment
        The process.
    n_episodes : int
        Episodes to train for.
    every : int
        Episodes between two records.
    seed : int
        Of its network, its exploration and the process.
    max_steps : int, default=50
        Steps after which an episode is truncated.

    Returns
    -------
    list of (int, array of shape (S, A), float)
        Episodes so far, the greedy policy, and the rate of uniform exploration on
        top of it; the first record is from before the first episode.
    """
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    records: list[tuple[int, NDArray[np.float64], float]] = []
    states = np.eye(env.n_states, dtype=np.float32)

    class Recorder(BaseCallback):
        episodes = 0

        def _record(self) -> None:
            choice, _ = self.model.predict(states, deterministic=True)
            pi = np.eye(env.n_actions)[choice]
            records.append((self.episodes, pi, float(self.model.exploration_rate)))

        def _on_training_start(self) -> None:
            self._record()

        def _on_step(self) -> bool:
            if self.locals["dones"][0]:
                self.episodes += 1
                if self.episodes % every == 0:
                    self._record()
            return self.episodes < n_episodes

    total = n_episodes * max_steps  # at most; the callback ends it
    model = DQN(
        "MlpPolicy",
        OneHotEnv(env, max_steps),
        gamma=env.gamma,
        learning_rate=1e-3,
        learning_starts=100,
        train_freq=1,
        target_update_interval=100,
        seed=seed,
        device="cpu",
    )
    model.learn(total, callback=Recorder())
    return records
