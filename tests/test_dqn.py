"""DQN of stable-baselines3 and the environment that it acts in."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pretraining.benchmark.baselines.online.dqn import OneHotEnv, dqn_policies
from pretraining.benchmark.environments import environment

# The package warns of its own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")
HINT = "not installed, see pretraining/benchmark/install.sh"


def test_one_hot_env_passes_gymnasiums_checks():
    env = OneHotEnv(environment("FrozenLake-v1", 0.99), max_steps=10)
    check_env(env, skip_render_check=True)


def test_one_hot_env_is_the_process():
    process = environment("RiverSwim-6", 0.99)
    env = OneHotEnv(process, max_steps=20)
    rng, counts = np.random.default_rng(0), np.zeros((6, 2, 6))
    for episode in range(400):
        observation, _ = env.reset(seed=episode)
        assert observation.argmax() == 0
        for step in range(20):
            state, action = (
                observation.argmax(),
                int(rng.integers(2) or rng.integers(2)),
            )
            observation, reward, terminated, truncated, _ = env.step(action)
            counts[state, action, observation.argmax()] += 1
            assert reward in process.reward[state, action]
            assert not terminated
            assert truncated == (step == 19)
    n = counts.sum(axis=2)
    busy = n > 300
    assert busy.sum() >= 4
    P = process.transition.toarray().reshape(6, 2, 6)
    error = counts / np.maximum(n, 1)[..., None] - P
    assert np.abs(error[busy]).max() < 5 * np.sqrt(0.25 / 300)


def test_one_hot_env_terminates_where_the_process_does():
    env = OneHotEnv(environment("bandit-10", 0.99), max_steps=1)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(3)
    assert terminated
    assert not truncated


def test_dqn_learns_online_and_records_its_policies():
    pytest.importorskip("stable_baselines3", reason=f"stable-baselines3 {HINT}")
    env = environment("gridworld-3x3", 0.9)
    records = dqn_policies(env, n_episodes=40, every=10, seed=0, max_steps=20)
    assert [episodes for episodes, _, _ in records] == [0, 10, 20, 30, 40]
    assert env.normalised_value(records[-1][1]) > 0.9
    assert records[-1][2] == pytest.approx(0.05)
    for _, pi, _ in records:
        np.testing.assert_array_equal(np.sort(pi, axis=1), [[0, 0, 0, 1]] * 9)
