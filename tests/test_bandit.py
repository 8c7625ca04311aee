"""Bernoulli bandits: the Bayes optimum, the index methods and tabrl's cached plans."""

from __future__ import annotations

import numpy as np
import pytest

from pretraining.benchmark.baselines.bandit import (
    BANDITS,
    UCB1,
    BayesUCB,
    IndexPolicy,
    Tabrl,
    register,
)
from pretraining.benchmark.parts import bandit
from pretraining.benchmark.parts.bandit import (
    Protocol,
    Setting,
    bayes_optimal_regret,
    draw_bandits,
    score_cell,
)

BASELINES = [name for name, method in BANDITS.items() if method.is_baseline]


def exhaustive_value(arms: tuple[tuple[int, int], ...], left: int) -> float:
    """Most successes to expect in `left` pulls, by recursion over all outcomes."""
    if left == 0:
        return 0.0
    values = []
    for i, (n, successes) in enumerate(arms):
        p = (1 + successes) / (2 + n)
        won, lost = [
            exhaustive_value(
                (*arms[:i], (n + 1, successes + reward), *arms[i + 1 :]), left - 1
            )
            for reward in (1, 0)
        ]
        values.append(p * (1 + won) + (1 - p) * lost)
    return max(values)


@pytest.mark.parametrize(("n_arms", "horizon"), [(1, 4), (2, 5), (3, 4), (4, 3)])
def test_bayes_optimum_is_that_of_exhaustive_recursion(n_arms, horizon):
    value = exhaustive_value(((0, 0),) * n_arms, horizon)
    expected = horizon * n_arms / (n_arms + 1) - value
    assert bayes_optimal_regret(n_arms, horizon) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n_arms", "horizon", "regret"),
    [(2, 10, 0.6449), (2, 100, 1.7482), (3, 10, 1.0904)],
)
def test_known_bayes_optimum(n_arms, horizon, regret):
    assert bayes_optimal_regret(n_arms, horizon) == pytest.approx(regret, abs=5e-5)


def test_indices_at_known_counts():
    n, successes = np.array([[4, 0, 9]]), np.array([[1, 0, 9]])
    bound = UCB1().index(n, successes, 14, 100, np.random.default_rng(0))
    expected = [0.25 + np.sqrt(2 * np.log(14) / 4), np.inf]
    np.testing.assert_allclose(bound[0, :2], expected)
    quantile = BayesUCB().index(n, successes, 10, 100, np.random.default_rng(0))
    # Uniform: 0.9; Beta(10, 1) has the distribution function x^10.
    np.testing.assert_allclose(quantile[0, 1:], [0.9, 0.9**0.1])


def test_no_method_beats_the_bayes_optimum():
    means, rewards = draw_bandits(2, 25, 4000, seed=1)
    best = bayes_optimal_regret(2, 25)
    for name in BASELINES:
        found = BANDITS[name]().play(means, rewards, np.random.default_rng(0))
        assert found.mean() > best - 3 * found.std() / np.sqrt(len(found))
        assert found.min() >= 0


def test_published_regret_of_ucb1():
    """K = 10, T = 500: 86.8."""
    means, rewards = draw_bandits(10, 500, 1000, seed=0)
    found = UCB1().play(means, rewards, np.random.default_rng(0))
    assert found.mean() == pytest.approx(86.8, abs=3 * found.std() / np.sqrt(1000))


def test_the_worse_arm_costs_the_gap():
    means = np.array([[0.2, 0.7]])
    rewards = np.zeros((1, 2, 6), dtype=bool)

    class First(IndexPolicy):
        def index(self, n, successes, pull, horizon, rng):
            return np.array([[1.0, 0.0]])

    found = First().play(means, rewards, np.random.default_rng(0))
    assert found == pytest.approx([6 * 0.5])


def test_every_method_gets_the_same_bandits():
    np.testing.assert_equal(draw_bandits(3, 5, 4, 2), draw_bandits(3, 5, 4, 2))
    means, rewards = draw_bandits(2, 4000, 3, 0)
    np.testing.assert_allclose(rewards.mean(axis=2), means, atol=0.05)
    protocol = Protocol((Setting(2, 5, 2, 3),), (1,))
    methods = [cell["method"] for cell in protocol.cells()]
    assert methods == ["tabrl", *[name for name in BASELINES for _ in range(2)]]


def test_rows():
    cell = {
        **{"part": "bandit", "arms": 2, "horizon": 5, "size": 3},
        **{"method": "Thompson", "seed": 0},
    }
    rows = score_cell(cell, None)
    assert [row["run"] for row in rows] == [0, 1, 2]
    assert rows == score_cell(cell, None)
    with pytest.raises(ValueError, match="needs a checkpoint"):
        score_cell(cell | {"method": "tabrl"}, None)


def test_tabrl_plays_as_its_agent_does_with_these_rewards():
    """Where all pulls of the only good arm win, regret is that of the others' pulls."""
    means = np.array([[0.0, 1.0, 0.0]] * 2)
    rewards = np.repeat(means[:, :, None] == 1, 8, axis=2)
    found = Tabrl("auto").play(means, rewards, np.random.default_rng(0))
    assert found.shape == (2,)
    assert (found == found.round()).all()
    assert ((found >= 0) & (found <= 4)).all()
    again = Tabrl("auto").play(means, rewards, np.random.default_rng(0))
    np.testing.assert_array_equal(again, found)


def test_a_method_of_ones_own_is_one_class_and_one_registration(monkeypatch):
    monkeypatch.setattr(bandit, "BANDITS", dict(BANDITS))
    monkeypatch.setattr(
        "pretraining.benchmark.baselines.bandit.BANDITS", bandit.BANDITS
    )

    class RoundRobin(IndexPolicy):
        name = "round robin"

        def index(self, n, successes, pull, horizon, rng):
            return -n

    register(RoundRobin)
    protocol = Protocol((Setting(2, 6, 1, 3),), (1,), checkpoint=None)
    rows = bandit.run(protocol, progress_bar=False)
    means, _ = draw_bandits(2, 6, 3, 0)
    found = [row["regret"] for row in rows if row["method"] == "round robin"]
    # Half of the six pulls are of the worse arm.
    assert found == pytest.approx(3 * np.ptp(means, axis=1))
    with pytest.raises(ValueError, match="name"):
        register(RoundRobin)
