"""Episodes of a learner in an environment."""

from __future__ import annotations

import zlib
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.online import Learner
from pretraining.benchmark.process import Environment


class Simulator:
    """Plays episodes of an environment, and knows what was tried in them.

    Parameters
    ----------
    env : Environment
        The process.
    seed : int
        Of its outcomes, the same for every method.

    Attributes
    ----------
    tried : bool array of shape (S, A)
        Pairs that were tried.
    visited : bool array of shape (S,)
        States that an action was, or could have been, taken in.
    """

    def __init__(self, env: Environment, seed: int) -> None:
        self.max_steps = env.episode_steps
        self.tried = np.zeros((env.n_states, env.n_actions), dtype=bool)
        self.visited = np.zeros(env.n_states, dtype=bool)
        self._rng = np.random.default_rng([zlib.crc32(env.name.encode()), seed])
        # Plain lists, which Python reads much faster than arrays.
        self._start = np.cumsum(env.start).tolist()
        self._cumulative = np.cumsum(env.prob, axis=2).tolist()
        self._next, self._reward = env.next_state.tolist(), env.reward.tolist()
        self._terminated = env.terminated.tolist()

    def episode(self, learner: Learner) -> list[tuple[int, int, NDArray[np.float64]]]:
        """Let the learner act for one episode; return which policies it followed.

        Returns
        -------
        list of (int, int, array of shape (S, A))
            Of each policy, from which step on, counted from 0, and in which state.
        """
        state = self._draw(self._start)
        self.visited[state] = True
        policies: list[tuple[int, int, NDArray[np.float64]]] = []
        for step in range(1, self.max_steps + 1):
            action = learner.act(state)
            pi = learner.policy()
            if not policies or pi is not policies[-1][2]:
                policies.append((step - 1, state, pi))
            outcome = self._draw(self._cumulative[state][action])
            reward = self._reward[state][action][outcome]
            terminated = self._terminated[state][action][outcome]
            after = self._next[state][action][outcome]
            truncated = step == self.max_steps and not terminated
            learner.observe(state, action, reward, after, terminated, truncated)
            self.tried[state, action] = True
            if terminated:
                break
            state = after
            self.visited[state] = True
        return policies

    @property
    def n_tried(self) -> int:
        """Number of pairs tried."""
        return int(np.count_nonzero(self.tried))

    @property
    def n_untried(self) -> int:
        """Number of pairs not tried in states visited, so known how to reach."""
        return int((~self.tried[self.visited]).sum())

    def _draw(self, cumulative: list[float]) -> int:
        return bisect_right(cumulative, self._rng.random() * cumulative[-1])
