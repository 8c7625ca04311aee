"""Public packages as peers and as oracles, each of them optional.

``install.sh`` in this folder installs them. A part that needs one that is missing is
left out, and `missing` says so.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pretraining.benchmark.process import Environment

Log = Mapping[str, NDArray]
D3RLPY_METHODS = ("DiscreteCQL", "DiscreteBCQ")


def missing(package: str, part: str) -> bool:
    """Tell whether a package is missing, and print what is left out because of it.

    Parameters
    ----------
    package : str
        Name under which it is imported.
    part : str
        What needs it.
    """
    if find_spec(package) is not None:
        return False
    sys.stderr.write(
        f"Left out: {part}, as {package} is not installed. "
        "Run pretraining/benchmark/install.sh.\n"
    )
    return True


def quantecon_values(env: Environment) -> NDArray[np.float64]:
    """Optimal state values (S,) by policy iteration of QuantEcon's DiscreteDP."""
    from quantecon.markov import DiscreteDP

    n_states, n_actions = env.n_states, env.n_actions
    # DiscreteDP knows no termination: what ends goes to one more state, worth 0.
    goes_on = env.transition.sum(axis=1)
    ends = sparse.csr_matrix(np.maximum(1 - goes_on, 0)[:, None])
    last = sparse.csr_matrix(np.eye(n_states + 1)[-1:])
    rows = sparse.hstack([sparse.csr_matrix(env.transition), ends])
    problem = DiscreteDP(
        np.append(env.expected_reward.ravel(), 0.0),
        sparse.csr_matrix(sparse.vstack([rows, last])),
        env.gamma,
        np.append(np.repeat(np.arange(n_states), n_actions), n_states),
        np.append(np.tile(np.arange(n_actions), n_states), 0),
    )
    return problem.solve(method="policy_iteration").v[:n_states]


def d3rlpy_dataset(log: Log, n_states: int, n_actions: int) -> Any:
    """Turn a log into d3rlpy's MDPDataset with one-hot states.

    d3rlpy leaves out the last transition of a truncated episode, whose next state
    its format does not hold. So each gets one more step from that state, with action
    0 and reward 0, which is then the one left out.
    """
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import MDPDataset

    # Where each row goes when a step is put in after each truncated one.
    cut = np.flatnonzero(log["truncated"])
    state = np.insert(log["state"], cut + 1, log["next_state"][cut])
    terminals = np.insert(log["terminated"], cut + 1, False)
    timeouts = np.insert(np.zeros(len(log["state"]), bool), cut + 1, True)
    return MDPDataset(
        observations=np.eye(n_states, dtype=np.float32)[state],
        actions=np.insert(log["action"], cut + 1, 0)[:, None],
        rewards=np.insert(log["reward"], cut + 1, 0.0).astype(np.float32)[:, None],
        terminals=terminals.astype(np.float32),
        timeouts=timeouts.astype(np.float32),
        action_space=ActionSpace.DISCRETE,
        action_size=n_actions,
    )


def d3rlpy_policy(
    method: str,
    log: Log,
    env: Environment,
    seed: int,
    n_steps: int,
    **options: float,
) -> NDArray[np.float64]:
    """Train one of d3rlpy's offline methods on one log.

    Its defaults are for millions of steps on pixels: in a few thousand the target
    network would never be updated. So the learning rate is 1e-3 and the target
    follows every 25 steps; the rest is as it comes.

    Parameters
    ----------
    method : {"DiscreteCQL", "DiscreteBCQ"}
        Which one.
    log : mapping of str to array
        The transitions.
    env : Environment
        Where the log comes from; gives the numbers of states and actions, and gamma.
    seed : int
        Of its networks and batches.
    n_steps : int
        Gradient steps.
    **options : float
        More options of the method: `alpha`, how conservative DiscreteCQL is.

    Returns
    -------
    array of shape (S, A)
        Its choices; uniform in states that the log does not show.
    """
    import d3rlpy
    import structlog

    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet)
    d3rlpy.seed(seed)
    dataset = d3rlpy_dataset(log, env.n_states, env.n_actions)
    algorithm = getattr(d3rlpy.algos, f"{method}Config")(
        gamma=env.gamma, learning_rate=1e-3, target_update_interval=25, **options
    ).create(device="cpu:0")
    algorithm.fit(
        dataset,
        n_steps=n_steps,
        n_steps_per_epoch=n_steps,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    seen = np.unique(log["state"])
    pi = env.uniform_policy.copy()
    choice = algorithm.predict(np.eye(env.n_states, dtype=np.float32)[seen])
    pi[seen] = np.eye(env.n_actions)[choice]
    return pi


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
