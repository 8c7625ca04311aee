"""The choice of optimism: exact regrets of agents that explore the prior."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from pretraining.prior import FAMILIES, Process
from pretraining.recipe.simulate import Log
from pretraining.recipe.targets import draw_processes, solve
from pretraining.recipe.train import train
from pretraining.validation import optimism
from pretraining.validation.optimism import exploration_set, regret_of_episodes
from tabrl._checkpoint import load_network


def test_the_set_is_the_same_at_every_call_and_has_every_family():
    first, second = (list(exploration_set(8)) for _ in range(2))
    assert [family for family, _ in first] == list(FAMILIES)
    for (_, left), (_, right) in zip(first, second, strict=True):
        torch.testing.assert_close(left.P, right.P)


def test_agents_learn_small_bandits_and_the_same_seed_gives_the_same_run():
    network = load_network("auto", torch.device("cpu"))
    batch = draw_processes(np.random.default_rng(0), 8, 1, 3, ["bandits"])
    regret = regret_of_episodes(network, batch, n_episodes=30, n_steps=20, seed=0)
    assert regret.shape == (30, 8)
    assert (regret > -1e-6).all()
    assert regret[-10:].mean() < 0.5 * regret[0].mean() + 0.05
    again = regret_of_episodes(network, batch, n_episodes=30, n_steps=20, seed=0)
    np.testing.assert_array_equal(again, regret)


def test_every_policy_of_an_episode_counts():
    """One arm is followed until it is known, and then the other."""
    P, R = np.ones((1, 2, 1)), np.array([[[0.0], [1.0]]])
    process = Process(P, R, np.array([False]), np.ones(1), 0.0)
    batch = solve([process], np.array([0.5]))
    arms = iter([0, 1, 1, 1])

    def plan(log):
        return np.eye(2)[next(arms)].reshape(1, 1, 2)

    log = Log(*(np.zeros((1, 1, 2, 1)) for _ in range(3)))
    log, regret = optimism._episode(np.random.default_rng(0), batch, log, plan, 5)
    np.testing.assert_array_equal(log.counts[0, 0, :, 0], [2, 3])
    # Of two steps of reward 1 at gamma 0.5; the uniform policy's regret is 1.
    np.testing.assert_allclose(regret, 1.5)


def test_the_best_rule_is_written_where_the_export_finds_it(
    tiny, tmp_path, monkeypatch
):
    train(tiny, tmp_path, torch.device("cpu"), n_workers=0)
    arguments = ["optimism", "--run", str(tmp_path), "--per-family", "8"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--episodes", "2", "--steps", "3"])
    monkeypatch.setattr(optimism, "RULES", ((0.3, 0.1), (0.0, 0.0)))
    optimism.main()
    chosen = json.loads((tmp_path / "optimism.json").read_text())
    means = np.mean(chosen["regret"], 1)
    assert chosen["rules"][int(means.argmin())] == chosen["optimism"]
    network = optimism.averaged_network(tmp_path)
    assert list(network.optimism) == chosen["optimism"]
