"""Environments against the simulators of the packages that they come from.

Each is played with random actions, and its steps are compared with the arrays. By
default these are 10^4 steps, to keep the suite fast; for 10^5 run

    TABRL_SIMULATED_STEPS=100000 pytest tests/test_simulators.py
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from scipy.stats import chi2

from pretraining.benchmark.environments import environment
from pretraining.benchmark.environments.blackjack import blackjack_states
from pretraining.benchmark.process import Environment

N_STEPS = int(os.environ.get("TABRL_SIMULATED_STEPS", 10_000))
# State, action, next state, reward, terminated.
Step = tuple[int, int, int, float, bool]


def play(
    simulator: Any, label: Callable[[Any, bool], int] = lambda seen, over: seen
) -> tuple[list[Step], list[int]]:
    """Play random actions; return the steps and the states of the starts."""
    rng = np.random.default_rng(0)
    actions = rng.integers(simulator.action_space.n, size=N_STEPS).tolist()
    state = label(simulator.reset(seed=0)[0], False)
    steps, starts = [], [state]
    for i, action in enumerate(actions):
        seen, reward, terminated, _, _ = simulator.step(action)
        after = label(seen, terminated)
        steps.append((state, action, after, float(reward), terminated))
        state = after
        # Episodes that never end are cut, so that starts are seen often.
        if terminated or i % 100 == 99:
            state = label(simulator.reset()[0], False)
            starts.append(state)
    return steps, starts


def chi_square(observed: list[float], expected: list[float]) -> tuple[float, int]:
    """Statistic and degrees of freedom, with the rare outcomes put together."""
    if any(n > 0 and mean == 0 for n, mean in zip(observed, expected, strict=True)):
        return np.inf, 1
    order = np.argsort(expected)
    seen, mean = np.array(observed)[order], np.array(expected)[order]
    # The usual rule: none expected less than 5 times.
    n_rare = int(np.searchsorted(np.cumsum(mean), 5)) + 1
    seen = np.append(seen[:n_rare].sum(), seen[n_rare:])
    mean = np.append(mean[:n_rare].sum(), mean[n_rare:])
    if len(mean) < 2 or mean.min() < 5:
        return 0.0, 0
    return float(((seen - mean) ** 2 / mean).sum()), len(mean) - 1


def p_value(env: Environment, steps: list[Step], starts: list[int]) -> float:
    """Chance of steps at least this far from the arrays; 0 for an impossible one."""
    seen = Counter(steps)
    visits = Counter(step[:2] for step in steps)
    total, degrees = chi_square(
        list(np.bincount(starts, minlength=env.n_states)),
        list(env.start * len(starts)),
    )
    impossible = set(seen)
    for (s, a), n in visits.items():
        prob: Counter[Step] = Counter()
        for k in np.flatnonzero(env.prob[s, a]):
            after, reward = int(env.next_state[s, a, k]), float(env.reward[s, a, k])
            outcome = (s, a, after, reward, bool(env.terminated[s, a, k]))
            prob[outcome] += float(env.prob[s, a, k])
        impossible -= set(prob)
        statistic, freedom = chi_square(
            [seen[outcome] for outcome in prob], [n * p for p in prob.values()]
        )
        total, degrees = total + statistic, degrees + freedom
    if impossible:
        return 0.0
    return float(chi2.sf(total, degrees)) if degrees else 1.0


def check(env: Environment, steps: list[Step], starts: list[int]) -> None:
    assert p_value(env, steps, starts) > 1e-4


# gymnasium


def test_blackjack():
    env = environment("Blackjack-v1", 0.99)
    simulator: Any = gymnasium.make("Blackjack-v1").unwrapped
    number = {state: i for i, state in enumerate(blackjack_states())}

    def label(seen: Any, over: bool) -> int:
        if over:
            return number[None]
        total, shown, ace = (int(x) for x in seen)
        natural = len(simulator.player) == 2 and total == 21
        return number[total, shown, bool(ace), natural]

    steps, starts = play(simulator, label)
    check(env, steps, starts)
    # Planted faults: each card of the dealer's taken for the next, and no naturals.
    shifted = dataclasses.replace(env, prob=np.roll(env.prob, 1, axis=0))
    assert p_value(shifted, steps, starts) < 1e-4
    common = env.start.copy()
    common[[i for state, i in number.items() if state and state[3]]] = 0
    without = dataclasses.replace(env, start=common / common.sum())
    assert p_value(without, steps, starts) < 1e-4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CliffWalking-v1-slippery", {"id": "CliffWalking-v1", "is_slippery": True}),
        (
            "FrozenLake-v1-random-8x8",
            {"id": "FrozenLake-v1", "desc": generate_random_map(8, seed=3)},
        ),
    ],
)
def test_slippery_grids(name, options):
    env = environment(name, 0.99, seed=3)
    steps, starts = play(gymnasium.make(**options).unwrapped)
    check(env, steps, starts)
    # A planted fault: actions in another order.
    turned = dataclasses.replace(env, next_state=env.next_state[:, ::-1])
    assert p_value(turned, steps, starts) < 1e-4


@pytest.mark.parametrize("fine", [100, 1000, 10000])
def test_taxi_with_a_fine(fine):
    env = environment(f"Taxi-v4-fine-{fine}", 0.99)
    steps, starts = play(gymnasium.make("Taxi-v4").unwrapped)
    fined = [(*s[:3], -float(fine) if s[3] == -10 else s[3], s[4]) for s in steps]
    check(env, fined, starts)
    assert p_value(env, steps, starts) == 0


def test_lake_with_a_costly_hole():
    env = environment("FrozenLake-v1-hole-100", 0.99)
    steps, starts = play(gymnasium.make("FrozenLake-v1").unwrapped)
    costly = [(*s[:3], -100.0 if s[2] == 5 else s[3], s[4]) for s in steps]
    check(env, costly, starts)
    assert p_value(env, steps, starts) == 0


# Other packages


def test_icu_sepsis():
    pytest.importorskip("icu_sepsis")
    simulator: Any = gymnasium.make("Sepsis/ICU-Sepsis-v2").unwrapped
    env = environment("ICU-Sepsis-v2", 0.99)
    dense = np.zeros((716, 25, 716))
    np.put_along_axis(dense, env.next_state, env.prob, axis=2)
    np.testing.assert_array_equal(dense, simulator.dynamics["tx_mat"])
    levels = [divmod(action, 5) for action in range(25)]
    rng = np.random.default_rng(0)
    steps: list[Step] = []
    starts = [int(simulator.reset(seed=0)[0])]
    # Each of 25 pairs many times, as no log can see each of 17,900 often.
    for state, action in zip(
        rng.integers(713, size=25).tolist(), range(25), strict=True
    ):
        for _ in range(N_STEPS // 25):
            simulator._current_state = state
            after, reward, terminated, _, _ = simulator.step(levels[action])
            steps.append((state, action, int(after), float(reward), terminated))
    starts += [int(simulator.reset()[0]) for _ in range(N_STEPS // 10)]
    check(env, steps, starts)
    turned = dataclasses.replace(env, prob=np.roll(env.prob, 1, axis=2))
    assert p_value(turned, steps, starts) < 1e-4


@pytest.mark.parametrize("n_states", [16, 128])
def test_anymdp(n_states, monkeypatch):
    module = pytest.importorskip("xenoverse.anymdp.anymdp_env")
    from pretraining.benchmark.environments.anymdp import sample_task

    env = environment(f"AnyMDP-{n_states}", 0.99, seed=4)
    simulator = module.AnyMDPEnv(max_steps=5000)
    simulator.set_task(sample_task(n_states, 4))
    # The simulator draws from the global state, and would seed it by the time.
    np.random.seed(0)  # noqa: NPY002
    monkeypatch.setattr(module.random, "seed", lambda seed: None)
    simulator.reset = lambda seed=None, reset=simulator.reset: reset()
    steps, starts = play(simulator)
    # Noise of the rewards: compare without it, then its two moments.
    quiet = dataclasses.replace(env, reward=np.zeros_like(env.reward))
    moves = [(*step[:3], 0.0, step[4]) for step in steps]
    check(quiet, moves, starts)
    turned = dataclasses.replace(quiet, prob=np.roll(env.prob, 1, axis=1))
    assert p_value(turned, moves, starts) < 1e-4
    half = env.prob.shape[2] // 2
    mean, sd = np.zeros((2, n_states, 5, n_states))
    middle = (env.reward[:, :, :half] + env.reward[:, :, half:]) / 2
    width = (env.reward[:, :, :half] - env.reward[:, :, half:]) / 2
    np.put_along_axis(mean, env.next_state[:, :, :half], middle, axis=2)
    np.put_along_axis(sd, env.next_state[:, :, :half], width, axis=2)
    s, a, after = (np.array([step[i] for step in steps]) for i in range(3))
    error = np.array([step[3] for step in steps]) - mean[s, a, after]
    noisy = sd[s, a, after] > 0
    assert np.abs(error[~noisy]).max(initial=0) < 1e-12
    score = error[noisy] / sd[s, a, after][noisy]
    assert abs(score.mean()) < 5 / np.sqrt(len(score))
    assert score.std() == pytest.approx(1, abs=5 / np.sqrt(2 * len(score)))
