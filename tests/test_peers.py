"""Public packages as oracles and peers; skipped where they are not installed."""

from __future__ import annotations

import numpy as np
import pytest

from pretraining.benchmark.baselines import packages as peers
from pretraining.benchmark.baselines.offline import LoggedData, neural
from pretraining.benchmark.baselines.quantecon_planner import quantecon_values
from pretraining.benchmark.environments import ENVIRONMENT_NAMES, environment, forest
from pretraining.benchmark.parts import offline

# These packages warn of their own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")
HINT = "not installed, see pretraining/benchmark/install.sh"


@pytest.mark.parametrize("gamma", [0.95, 0.99])
@pytest.mark.parametrize("name", ENVIRONMENT_NAMES)
def test_quantecon_finds_the_same_optimal_values(name, gamma):
    pytest.importorskip("quantecon", reason=f"quantecon {HINT}")
    env = environment(name, gamma)
    values = quantecon_values(env.transition, env.expected_reward, gamma)
    np.testing.assert_allclose(env.optimal_q.max(axis=1), values, atol=1e-9)


@pytest.mark.parametrize("n_states", [2, 3, 10])
def test_forest_is_pymdptoolboxs(n_states):
    example = pytest.importorskip("mdptoolbox.example", reason=f"pymdptoolbox {HINT}")
    P, R = example.forest(n_states)
    env = forest(n_states, 0.9)
    found = env.transition.toarray().reshape(n_states, 2, n_states).swapaxes(0, 1)
    np.testing.assert_allclose(found, P)
    np.testing.assert_allclose(env.expected_reward, R)


def test_d3rlpy_data_set_keeps_each_transition():
    pytest.importorskip("d3rlpy", reason=f"d3rlpy {HINT}")
    env = environment("FrozenLake-v1", 0.99)
    log = env.simulate(env.uniform_policy, 300, np.random.default_rng(0), max_steps=5)
    assert log["truncated"].any()
    assert log["terminated"].any()
    data = neural.d3rlpy_dataset(log, 16, 4)
    assert data.transition_count == 300
    found = []
    for episode in data.episodes:
        for i in range(episode.transition_count):
            one = data.transition_picker(episode, i)
            found.append(
                (
                    int(one.observation.argmax()),
                    int(one.action[0]),
                    float(one.reward[0]),
                    # Of no meaning where the episode has terminated.
                    None if one.terminal else int(one.next_observation.argmax()),
                    bool(one.terminal),
                )
            )
    expected = [
        (int(s), int(a), float(r), None if end else int(t), bool(end))
        for s, a, r, t, end in zip(
            *(
                log[c]
                for c in ("state", "action", "reward", "next_state", "terminated")
            ),
            strict=True,
        )
    ]
    assert found == expected


@pytest.mark.parametrize("kind", [neural.DiscreteCQL, neural.DiscreteBCQ])
def test_d3rlpy_learns_a_small_grid(kind):
    pytest.importorskip("d3rlpy", reason=f"d3rlpy {HINT}")
    env = environment("gridworld-3x3", 0.9)
    log = env.simulate(env.uniform_policy, 500, np.random.default_rng(0), max_steps=20)
    data = LoggedData.from_log(log, 0.9, env.uniform_policy)
    pi = kind(n_steps=150).policy(data, 1.0)
    assert env.normalised_value(pi) > 0.9


def test_d3rlpy_is_uniform_in_unseen_states():
    pytest.importorskip("d3rlpy", reason=f"d3rlpy {HINT}")
    env = environment("gridworld-3x3", 0.9)
    log = env.simulate(env.uniform_policy, 5, np.random.default_rng(0))
    data = LoggedData.from_log(log, 0.9, env.uniform_policy)
    pi = neural.DiscreteBCQ(n_steps=5).policy(data, None)
    unseen = np.setdiff1d(np.arange(9), log["state"])
    np.testing.assert_array_equal(pi[unseen], 0.25)
    np.testing.assert_array_equal(pi[np.unique(log["state"])].max(axis=1), 1)
    again = neural.DiscreteBCQ(n_steps=5).policy(data, None)
    np.testing.assert_array_equal(pi, again)


def test_d3rlpys_cells_are_scored_with_each_constant(monkeypatch):
    pytest.importorskip("d3rlpy", reason=f"d3rlpy {HINT}")
    quick = [neural.DiscreteCQL(5), neural.DiscreteBCQ(5)]
    monkeypatch.setattr(offline, "NEURAL", quick)
    protocol = offline.Protocol(d3rlpy=True, checkpoint=None)
    cell = next(cell for cell in protocol.cells() if "package" in cell)
    rows = offline.score_cell(cell, protocol)
    found = [(row["method"], row["constant"]) for row in rows]
    assert found == [("DiscreteCQL", 0.1), ("DiscreteCQL", 1.0), ("DiscreteBCQ", None)]


def test_missing_says_what_is_left_out(capsys):
    assert not peers.missing("numpy", "nothing")
    assert capsys.readouterr().err == ""
    assert peers.missing("no_such_package", "a part")
    assert "Left out: a part, as no_such_package is not installed" in (
        capsys.readouterr().err
    )
