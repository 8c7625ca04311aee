"""The choice of optimism: exact regrets of agents that explore the prior."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from pretraining import optimism
from pretraining.optimism import exploration_set, online_regret
from pretraining.prior import FAMILIES
from pretraining.targets import draw_processes
from pretraining.train import TrainConfig, train
from tabrl._checkpoint import load_network
from tabrl._network import NetworkConfig


def test_the_set_is_the_same_at_every_call_and_has_every_family():
    first, second = (list(exploration_set(8)) for _ in range(2))
    assert [family for family, _ in first] == list(FAMILIES)
    for (_, left), (_, right) in zip(first, second, strict=True):
        torch.testing.assert_close(left.P, right.P)


def test_agents_learn_small_bandits_and_the_same_seed_gives_the_same_run():
    network = load_network("auto", torch.device("cpu"))
    batch = draw_processes(np.random.default_rng(0), 8, 1, 3, ["bandits"])
    regret = online_regret(network, batch, n_episodes=30, n_steps=20, seed=0)
    assert regret.shape == (30, 8)
    assert (regret > -1e-6).all()
    assert regret[-10:].mean() < 0.5 * regret[0].mean() + 0.05
    again = online_regret(network, batch, n_episodes=30, n_steps=20, seed=0)
    np.testing.assert_array_equal(again, regret)


def test_the_best_rule_is_written_where_the_export_finds_it(tmp_path, monkeypatch):
    config = TrainConfig(
        n_steps=1,
        groups_per_step=1,
        pairs_per_group=20,
        max_states=4,
        large_share=0,
        network=NetworkConfig(width=8, n_layers=1, n_heads=2, mlp_ratio=1),
    )
    train(config, tmp_path, torch.device("cpu"), n_workers=0)
    arguments = ["optimism", "--run", str(tmp_path), "--per-family", "8"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--episodes", "2", "--steps", "3"])
    monkeypatch.setattr(optimism, "RULES", ((1.0, 0.0, 0.1), (0.0, 0.0, 0.0)))
    optimism.main()
    chosen = json.loads((tmp_path / "optimism.json").read_text())
    means = np.mean(chosen["regret"], 1)
    assert chosen["rules"][int(means.argmin())] == chosen["optimism"]
    network = optimism.averaged_network(tmp_path)
    assert list(network.optimism) == chosen["optimism"]
