"""Exploration on processes of the prior: an agent acts, its policies are scored.

The online part of the validation's report, with `tabrl.OnlineAgent` itself and
posterior sampling beside it.
"""

from __future__ import annotations

import math
import tempfile
from bisect import bisect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pretraining.benchmark.baselines.online import PSRL, Learner
from pretraining.benchmark.regret import followed_regret
from pretraining.prior import FAMILIES, log_uniform
from pretraining.recipe.loss import loss_of_states
from pretraining.recipe.targets import ProcessBatch, draw_processes
from pretraining.validation.bootstrap import average, interval, resample
from pretraining.validation.regret import normalise
from pretraining.validation.sets import SEED
from tabrl import OnlineAgent
from tabrl._checkpoint import save_network
from tabrl._network import Network


class World:
    """One process of the prior, to act in.

    Parameters
    ----------
    batch : ProcessBatch
        A batch of one.
    rng : numpy.random.Generator
        Source of its outcomes.
    reward_range : (float, float) or None
        What noisy rewards are clipped to, as the agent was promised.
    """

    def __init__(
        self,
        batch: ProcessBatch,
        rng: np.random.Generator,
        reward_range: tuple[float, float] | None,
    ) -> None:
        self._rng = rng
        self._mean = batch.R[0].numpy()
        self._outcomes = batch.outcomes[0].tolist()
        self._noise = float(batch.noise)
        self._bounds = reward_range or (-math.inf, math.inf)
        self._terminal = batch.terminal[0].tolist()
        # Plain lists, which Python reads much faster than arrays.
        self._start = batch.start[0].numpy().cumsum().tolist()
        self._following = batch.P[0].numpy().cumsum(-1).tolist()

    def begin(self) -> int:
        """Draw the state in which an episode starts."""
        return self._draw(self._start)

    def step(self, state: int, action: int) -> tuple[float, int, bool]:
        """Draw the reward, the next state, and whether it is terminal."""
        after = self._draw(self._following[state][action])
        reward = self._reward(float(self._mean[state, action, after]))
        return reward, after, self._terminal[after]

    def _reward(self, mean: float) -> float:
        low, high = self._outcomes
        if math.isfinite(low):
            return high if self._rng.random() * (high - low) < mean - low else low
        if not self._noise:
            return mean
        reward = mean + self._noise * self._rng.standard_normal()
        lowest, highest = self._bounds
        return min(max(reward, lowest), highest)

    def _draw(self, cumulative: list[float]) -> int:
        return bisect(cumulative, self._rng.random() * cumulative[-1])


def online_regret(
    batch: ProcessBatch,
    agent: OnlineAgent | Learner,
    rng: np.random.Generator,
    n_episodes: int = 30,
    n_steps: int = 50,
) -> NDArray:
    """Let an agent act in a batch of one; return the regret of each episode.

    Normalised and clipped, as in `pretraining.validation.regret`.
    """
    allowed = batch.allowed[0].numpy()
    # The agent keeps masks, and plans without what is not allowed. Other learners lose
    # nothing by it: it does what an allowed action does.
    if isinstance(agent, OnlineAgent) and not allowed.all():
        for state in range(len(allowed)):
            agent.act(state, allowed[state])
    world = World(batch, rng, agent.reward_range)
    gamma, start = float(batch.gamma), batch.start[0].numpy()

    def loss(pi: NDArray[np.float64]) -> NDArray[np.float64]:
        return loss_of_states(batch, torch.from_numpy(pi)[None])[0].numpy()

    regrets = [
        followed_regret(_policies_followed(agent, world, n_steps), loss, gamma, start)
        for _ in range(n_episodes)
    ]
    return normalise(batch, np.array(regrets))


def _policies_followed(
    agent: OnlineAgent | Learner, world: World, n_steps: int
) -> list[tuple[int, int, NDArray]]:
    """Let an agent act for one episode.

    Returns
    -------
    list of (int, int, array of shape (S, A))
        Of each policy, from which step on, counted from 0, and in which state.
    """
    policies: list[tuple[int, int, NDArray]] = []
    n_plans = 0
    state = world.begin()
    if not isinstance(agent, OnlineAgent):
        agent.begin()
    for step in range(n_steps):
        action = agent.act(state)
        if not isinstance(agent, OnlineAgent):
            pi = agent.policy()
        elif agent.n_plans_ > n_plans:
            n_plans = agent.n_plans_
            pi = agent.exploration_proba(range(agent.n_states))
        if not policies or pi is not policies[-1][2]:
            policies.append((step, state, pi))
        reward, after, terminated = world.step(state, action)
        agent.observe(state, action, reward, after, terminated, step == n_steps - 1)
        if terminated:
            break
        state = after
    return policies


def gave_up(regret: NDArray, n_last: int = 10) -> NDArray:
    """Return in which processes an agent stopped exploring before it was optimal.

    There the last regrets are all the same and not small. ``regret`` is of shape
    (processes, episodes).
    """
    last = regret[:, -n_last:]
    return (last.min(1) > 0.05) & (np.ptp(last, axis=1) < 1e-3)


def online_scores(network: Network, n_per_family: int) -> dict[str, Any]:
    """Return regrets of exploration in up to 30 states, and the share of give-ups.

    Of the model, and under ``"psrl"`` of posterior sampling.
    """
    curves: dict[str, list[list[NDArray]]] = {"tabrl": [], "psrl": []}
    with tempfile.TemporaryDirectory() as folder:
        save_network(network, Path(folder), {})
        for f, family in enumerate(tqdm(FAMILIES)):
            for regrets in curves.values():
                regrets.append([])
            for i in range(n_per_family):
                rng = np.random.default_rng((SEED, f, 0, i))
                S = round(log_uniform(rng, 2, 30))
                A = round(log_uniform(rng, 2, 10))
                batch = draw_processes(rng, 1, S, A, [family])
                known = (S, A, float(batch.gamma), _reward_range(batch))
                agents: dict[str, OnlineAgent | Learner] = {
                    "tabrl": OnlineAgent(*known, folder, "cpu", random_state=i),
                    "psrl": PSRL(*known, np.random.default_rng(i)),
                }
                for name, agent in agents.items():
                    world = np.random.default_rng((SEED, f, 1, i))
                    curves[name][f].append(online_regret(batch, agent, world))
    report = {"n_processes": n_per_family * len(FAMILIES)}
    report |= _online_summary(curves["tabrl"])
    return report | {"psrl": _online_summary(curves["psrl"])}


def _online_summary(curves: list[list[NDArray]]) -> dict[str, Any]:
    """Summarise the regrets of the processes of each family."""
    rng = np.random.default_rng(0)
    cells = []
    for regrets in curves:
        regret = np.stack(regrets)
        scores = {"regret": regret.mean(1), "last": regret[:, -10:].mean(1)}
        scores |= {"give_ups": gave_up(regret).astype(float), "episodes": regret}
        cells.append(resample(rng, scores))
    means = average(cells)
    names = ("regret", "last", "give_ups")
    return {
        **{name: interval(means[name]) for name in names},
        "by_family": {
            family: {name: interval(cell[name]) for name in names}
            for family, cell in zip(FAMILIES, cells, strict=True)
        },
        "episodes": [round(float(x), 4) for x in means["episodes"][0]],
    }


def _reward_range(batch: ProcessBatch) -> tuple[float, float]:
    """Return what all rewards of a batch of one lie in, three deviations of noise."""
    possible = (batch.P[0] > 0) & ~batch.terminal[0, :, None, None]
    R, outcomes = batch.R[0][possible], batch.outcomes[0]
    ends = outcomes if outcomes.isfinite().all() else torch.stack([R.min(), R.max()])
    margin = 3 * float(batch.noise)
    low, high = float(ends[0]) - margin, float(ends[1]) + margin
    if low == high:  # what follows an end pays 0
        return min(low, 0.0), max(high, 0.0)
    return low, high
