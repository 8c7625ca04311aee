"""Learners of a package for the continuing setting, in our episodes."""

from __future__ import annotations

import numpy as np
import pytest

from pretraining.benchmark.baselines.online import (
    IMEDRL,
    KLUCRL,
    UCRL2B,
    UCRL3,
    continuing,
)
from pretraining.benchmark.environments import environment
from pretraining.benchmark.parts.online import score_cell
from pretraining.benchmark.parts.online.simulator import Simulator

LEARNERS = (UCRL3, KLUCRL, IMEDRL, UCRL2B)
HINT = "statisticalrl-learners not installed, see pretraining/benchmark/install.sh"


class Recorder:
    """Stands for an agent of the package, and notes what it is shown."""

    def __init__(self, n_states, n_actions, delta):
        self.policy = np.eye(n_actions)[np.zeros(n_states, int)]
        self.observations = [[], [], []]
        self.shown = []

    def reset(self, state):
        self.observations = [[state], [], []]
        self.shown.append(("reset", state))

    def play(self, state):
        self.policy[0] = [0.0, 1.0] if len(self.shown) > 2 else [1.0, 0.0]
        return int(self.policy[state].argmax())

    def update(self, state, action, reward, next_state):
        assert self.observations[0][-1] == state
        self.observations[0].append(next_state)
        self.shown.append((state, action, reward, next_state))


def play(learner, episodes):
    """Show episodes of (state, reward, next state, terminated) to a learner."""
    for steps in episodes:
        learner.begin()
        for i, (state, reward, next_state, terminated) in enumerate(steps):
            action = learner.act(state)
            truncated = i == len(steps) - 1 and not terminated
            learner.observe(state, action, reward, next_state, terminated, truncated)


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(continuing, "_package_class", lambda *_: Recorder)

    def learner(kind=UCRL2B):
        return kind(4, 2, 0.9, (-1.0, 3.0), np.random.default_rng(0))

    return learner


EPISODES = [
    [(0, -1.0, 1, False), (1, 3.0, 2, True)],  # ends, then starts in 3
    [(3, 1.0, 0, False)],  # cut in 0, then starts in 1
    [(1, 0.0, 2, True)],  # nothing starts after it
]


def check_restarts(learner):
    play(learner, EPISODES)
    assert learner.agent.shown == [
        ("reset", 0),
        (0, 0, 0.0, 1),
        (1, 0, 1.0, 3),
        (3, 0, 0.5, 0),
    ]


def test_an_end_leads_to_the_next_start_and_a_cut_to_where_it_was(make):
    check_restarts(make())

    class WithoutRestart(UCRL2B):
        def observe(self, state, action, reward, next_state, terminated, truncated):
            super().observe(state, action, reward, next_state, False, truncated)

    with pytest.raises(AssertionError):
        check_restarts(make(WithoutRestart))


def test_what_is_learnt_counts_ends_as_ends(make):
    learner = make()
    play(learner, EPISODES)
    # State 1 paid 3 and 0, in units of the environment, and ended both times.
    assert learner.greedy_values()[1, 0] == pytest.approx(1.5)
    ended = learner.table(learner.statistics.n_terminated)
    np.testing.assert_array_equal(ended.sum(axis=1), [0, 2, 0, 0])


def test_a_new_policy_is_another_object_and_the_old_one_stays(make):
    learner = make()
    play(learner, EPISODES[:1])
    first = learner.policy()
    np.testing.assert_array_equal(first[0], [1, 0])
    assert learner.act(3) == 0
    second = learner.policy()
    np.testing.assert_array_equal(second[0], [0, 1])
    np.testing.assert_array_equal(first[0], [1, 0])
    learner.act(3)
    assert learner.policy() is second


# With the package


def run(method, **changes):
    cell = {"part": "regret", "gamma": 0.99, "environment": "RiverSwim-6"}
    cell |= {"method": method, "constant": None, "episodes": 12, "seed": 0}
    return score_cell(cell | changes, None)[0]


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_cell_depends_on_its_seed_alone(kind):
    pytest.importorskip("statisticalrl_learners", reason=HINT)
    np.random.seed(0)  # noqa: NPY002 the package draws from this one
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    row = run(kind.name, episodes=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert row == run(kind.name, episodes=3)
    assert not hasattr(np, "infty")


def test_ucrl3_and_imed_rl_swim_up_the_river():
    pytest.importorskip("statisticalrl_learners", reason=HINT)
    assert run(UCRL3.name)["regret"] < 7
    assert run(IMEDRL.name, episodes=5)["regret"] < 4
    # Wide bounds make this one try all for long: not its regret, but its data are good.
    assert run(UCRL2B.name, episodes=20)["solved"] is not None


@pytest.mark.parametrize("kind", [UCRL3, IMEDRL])
def test_actions_are_drawn_from_the_policy_that_is_scored(kind):
    pytest.importorskip("statisticalrl_learners", reason=HINT)
    env = environment("RiverSwim-6", 0.99)
    args = (6, 2, 0.99, (0.0, 1.0), np.random.default_rng(0))
    learner, simulator = kind(*args), Simulator(env, 0)
    for _ in range(4):
        learner.begin()
        simulator.episode(learner)
    learner.begin()
    for state in range(6):
        action = learner.act(state)
        assert learner.policy()[state, action] > 0
