"""Exploration on processes of the prior: an agent acts, its policies are scored."""

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
from pretraining.prior import FAMILIES, log_uniform
from pretraining.recipe.loss import loss_of_states
from pretraining.recipe.targets import ProcessBatch, draw_processes
from pretraining.validation.bootstrap import average, interval, resample
from tabrl import OnlineAgent
from tabrl._checkpoint import save_network
from tabrl._network import Network

_SEED = 2**32 - 1  # that of validation


def online_regret(
    batch: ProcessBatch,
    agent: OnlineAgent | Learner,
    rng: np.random.Generator,
    n_episodes: int = 30,
    n_steps: int = 50,
) -> NDArray:
    """Let an agent act in a batch of one; the regret of what each episode followed.

    Regrets are normalised as those of `pretraining.recipe.loss`: of the episode's first
    policy, and discounted what later ones gain in the state where each takes over;
    clipped to [-2, 2].
    """
    allowed = batch.allowed[0].numpy()
    states = range(len(allowed))
    R, P = batch.R[0].numpy(), batch.P[0].numpy()
    low, high = batch.outcomes[0].tolist()
    lowest, highest = agent.reward_range or (-math.inf, math.inf)
    noise, terminal = float(batch.noise), batch.terminal[0].tolist()
    first = batch.start[0].numpy().cumsum().tolist()
    following = P.cumsum(-1).tolist()

    def draw(cumulative: list[float]) -> int:
        return bisect(cumulative, rng.random() * cumulative[-1])

    # The agent keeps masks, and plans without what is not allowed. Other learners lose
    # nothing by it: it does what an allowed action does.
    if isinstance(agent, OnlineAgent) and not allowed.all():
        for state in states:
            agent.act(state, allowed[state])
    policies, taken_over = [], []  # of each its episode, step and state
    for episode in range(n_episodes):
        n_plans = 0
        state = draw(first)
        if not isinstance(agent, OnlineAgent):
            agent.begin()
        for step in range(1, n_steps + 1):
            action = agent.act(state)
            if not isinstance(agent, OnlineAgent):
                pi = agent.policy()
            elif agent.n_plans_ > n_plans:
                n_plans, pi = agent.n_plans_, agent.exploration_proba(states)
            if step == 1 or pi is not policies[-1]:
                policies.append(pi)
                taken_over.append((episode, step - 1, state))
            after = draw(following[state][action])
            reward = float(R[state, action, after])
            if math.isfinite(low):
                reward = high if rng.random() * (high - low) < reward - low else low
            elif noise:
                reward = reward + noise * rng.standard_normal()
                reward = min(max(reward, lowest), highest)
            agent.observe(
                state, action, reward, after, terminal[after], step == n_steps
            )
            if terminal[after]:
                break
            state = after
    copies = ProcessBatch.concatenate([batch] * len(policies))
    loss = loss_of_states(copies, torch.from_numpy(np.stack(policies))).numpy()
    start, gamma = batch.start[0].numpy(), float(batch.gamma)
    gain = start @ (batch.q.amax(-1) - batch.v_uniform)[0].numpy()
    regret = np.zeros(n_episodes)
    for i, (episode, step, state) in enumerate(taken_over):
        if step == 0:
            regret[episode] = start @ loss[i]
        else:
            regret[episode] += gamma**step * (loss[i] - loss[i - 1])[state]
    return np.clip(regret / gain, -2.0, 2.0)


def gave_up(regret: NDArray, n_last: int = 10) -> NDArray:
    """Tell of which processes (n, episodes) the last plans lose, and all alike."""
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
                rng = np.random.default_rng((_SEED, f, 0, i))
                S = round(log_uniform(rng, 2, 30))
                A = round(log_uniform(rng, 2, 10))
                batch = draw_processes(rng, 1, S, A, [family])
                known = (S, A, float(batch.gamma), _reward_range(batch))
                agents: dict[str, OnlineAgent | Learner] = {
                    "tabrl": OnlineAgent(*known, folder, "cpu", random_state=i),
                    "psrl": PSRL(*known, np.random.default_rng(i)),
                }
                for name, agent in agents.items():
                    world = np.random.default_rng((_SEED, f, 1, i))
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
