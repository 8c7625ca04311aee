"""Random MDPs with a goal that is far away, as in the SPIBB papers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pretraining.benchmark.environments.garnet import garnet
from pretraining.benchmark.process import Environment

# The discount of the papers. It alone chooses the goal, so that the process is the
# same at every discount.
_GOAL_GAMMA = 0.95
# A goal counts as within reach if its value is above that of 50 steps.
_FARTHEST = 50


def random_mdp(gamma: float, seed: int) -> Environment:
    """Draw a random MDP of 50 states, 4 actions and 4 successors a pair.

    The form of Laroche, Trichelair and Tachet des Combes (2019, "Safe policy
    improvement with baseline bootstrapping"), which Scholl et al. (2022, arXiv
    2201.12175 and 2208.00724) use as well. Transitions are those of a Garnet process.
    The start is state 0. The goal is the state that the optimal policy takes longest
    to reach, by its value at gamma 0.95, of those within reach; getting there pays 1
    and terminates.
    """
    # Not the seeds of the Garnet processes of the development environments.
    env = garnet(50, 4, 4, gamma, seed=(1, seed))
    start = np.eye(50)[0]
    env = replace(env, name="RandomMDP-50-4", start=start)
    goals = [_with_goal(env, goal, _GOAL_GAMMA) for goal in range(1, 50)]
    values = [g.optimal_q[0].max() for g in goals]
    within = [i for i, v in enumerate(values) if v > _GOAL_GAMMA**_FARTHEST]
    farthest = min(within, key=lambda i: values[i])
    return _with_goal(env, 1 + farthest, gamma)


def _with_goal(env: Environment, goal: int, gamma: float) -> Environment:
    arrives = env.next_state == goal
    # The goal itself is not left any more.
    next_state, terminated = env.next_state.copy(), arrives.copy()
    next_state[goal], terminated[goal] = goal, True
    reward = arrives.astype(np.float64)
    reward[goal] = 0.0
    return replace(
        env, next_state=next_state, reward=reward, terminated=terminated, gamma=gamma
    )
