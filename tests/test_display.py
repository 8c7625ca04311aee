"""Displays: what they draw is what the estimator says, on the axes that were given."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tabrl import (
    ActionValueDisplay,
    OfflinePolicyEstimator,
    OnlineAgent,
    PolicyDisplay,
    RegretDisplay,
)

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")


@pytest.fixture(scope="module")
def policy():
    rng = np.random.default_rng(0)
    state, action = rng.integers(6, size=300), rng.integers(3, size=300)
    log = {
        "state": state,
        # Matplotlib reads mathematics between dollar signs, and hides what starts so _.
        "action": np.array(["$x_{$", "_hidden", "c"], object)[action],
        "reward": rng.normal(size=300) + action,
        "next_state": rng.integers(6, size=300),
        "terminated": rng.random(300) < 0.1,
    }
    return OfflinePolicyEstimator(gamma=0.9, random_state=0).fit(log)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def texts(labels):
    return [label.get_text() for label in labels]


def test_policy(policy, ax):
    display = PolicyDisplay.from_estimator(policy, [4, 2], ax=ax)
    assert (display.ax_, display.figure_) == (ax, ax.figure)
    np.testing.assert_array_equal(
        display.image_.get_array(), policy.predict_proba([4, 2])
    )
    assert texts(ax.get_yticklabels()) == ["4", "2"]
    assert texts(ax.get_xticklabels()) == ["$x_{$", "_hidden", "c"]
    ax.figure.canvas.draw()


def test_action_values_and_their_intervals(policy, ax):
    display = ActionValueDisplay.from_estimator(policy, [1, 5], ax=ax)
    assert len(display.containers_) == 3
    for a, (points, _, (bars,)) in enumerate(display.containers_):
        levels = {q: policy.action_values([1, 5], q)[:, a] for q in (0.1, 0.5, 0.9)}
        np.testing.assert_allclose(points.get_ydata(), levels[0.5])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, np.stack([levels[0.1], levels[0.9]], 1))
    shown = [
        text.strip("\N{ZERO WIDTH SPACE}") for text in texts(ax.get_legend().texts)
    ]
    assert shown == policy.actions_.tolist()
    ax.figure.canvas.draw()


def test_without_axes_there_is_a_new_figure(policy):
    before = plt.get_fignums()
    display = PolicyDisplay.from_estimator(policy)
    assert display.figure_.number not in before
    assert display.plot(ax=display.ax_) is display
    plt.close(display.figure_)


def test_by_default_the_states_with_the_most_rows(ax):
    rows = np.repeat(np.arange(60), np.arange(60))
    log = {"state": rows, "action": rows % 2, "reward": rows % 3}
    log |= {"next_state": rows, "terminated": np.ones(len(rows), bool)}
    policy = OfflinePolicyEstimator(random_state=0).fit(log)
    display = PolicyDisplay.from_estimator(policy, ax=ax)
    assert display.states.tolist() == list(range(20, 60))


def test_an_agent_too(ax):
    agent = OnlineAgent(3, 2, reward_range=(0, 1), random_state=0)
    for state in (0, 1, 0):
        agent.observe(state, 1, 1.0, state + 1, False)
    display = PolicyDisplay.from_estimator(agent, ax=ax)
    assert display.states.tolist() == [0, 1]


def test_regret_is_cumulative_mean_and_range(ax):
    returns = np.array([[0.0, 1.0, 1.0], [0.5, 0.5, 1.0]])
    display = RegretDisplay.from_returns(returns, optimal_return=1.0, name="ours")
    display.plot(ax=ax)
    np.testing.assert_allclose(display.line_.get_ydata(), [0.75, 1.0, 1.0])
    np.testing.assert_allclose(display.line_.get_xdata(), [1, 2, 3])
    (band,) = ax.collections
    low, high = band.get_datalim(ax.transData).intervaly
    assert (low, high) == pytest.approx((0.5, 1.0))
    assert texts(ax.get_legend().texts) == ["ours"]


def test_regret_of_an_agent_that_learns(ax):
    gymnasium = pytest.importorskip("gymnasium")

    class Lever(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(1)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return 0, float(action), True, False, {}

    agent = OnlineAgent(reward_range=(0, 1), random_state=0)
    display = RegretDisplay.from_estimator(
        agent, Lever(), n_episodes=8, optimal_return=1, ax=ax
    )
    assert agent.n_transitions_ == display.regret.size == 8
    assert display.regret[0, -1] == 0
    assert set(display.regret.ravel()) <= {0.0, 1.0}


@pytest.mark.parametrize("regret", [[], [np.nan], np.zeros((1, 2, 3))])
def test_regret_of_something_else(regret):
    with pytest.raises(ValueError, match="regret must be finite numbers of shape"):
        RegretDisplay(regret)


def test_without_matplotlib_they_say_what_to_install(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"PolicyDisplay.plot needs matplotlib.*plot"):
        PolicyDisplay.from_estimator(policy)
