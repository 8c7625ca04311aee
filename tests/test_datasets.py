"""Logs of other packages: every reader gives the rows that were stored, no other."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tabrl import OfflinePolicyEstimator, datasets

RNG = np.random.default_rng(0)


def corridor(n_episodes=30, n_cells=5, limit=6):
    """Walk at random: the right end pays 1 and terminates, a time limit truncates."""
    rng = np.random.default_rng(1)
    for _ in range(n_episodes):
        states, actions, rewards = [0], [], []
        while len(actions) < limit and states[-1] < n_cells - 1:
            actions.append(int(rng.integers(2)))
            step = 2 * actions[-1] - 1
            states.append(int(np.clip(states[-1] + step, 0, n_cells - 1)))
            rewards.append(float(states[-1] == n_cells - 1))
        yield np.array(states), np.array(actions), np.array(rewards)


EPISODES = list(corridor())
ENDED = [states[-1] == 4 for states, _, _ in EPISODES]


def rows(drop_truncated=False):
    """Return all transitions as (s, a, r, s', terminated); s' is -1 at the end."""
    found = []
    for (states, actions, rewards), ended in zip(EPISODES, ENDED, strict=True):
        n = len(actions)
        for t in range(n):
            end = ended and t == n - 1
            if t == n - 1 and not ended and drop_truncated:
                continue
            following = -1 if end else states[t + 1]
            found.append((states[t], actions[t], rewards[t], following, end))
    return found


def read(log):
    """Return the transitions of a log as `rows` does."""
    following = np.nan_to_num(np.ravel(log["next_state"]), nan=9)
    following = np.where(log["terminated"], -1, following)
    columns = (log["state"], log["action"], log["reward"], following, log["terminated"])
    return list(zip(*(np.ravel(column).tolist() for column in columns), strict=True))


def test_the_episodes_have_both_ends():
    assert 5 < sum(ENDED) < len(ENDED) - 5


def minari_dataset():
    episodes = [
        SimpleNamespace(
            observations=states,
            actions=actions,
            rewards=rewards,
            terminations=np.arange(len(actions)) == (len(actions) - 1 if ended else -1),
            truncations=np.arange(len(actions)) == (-1 if ended else len(actions) - 1),
        )
        for (states, actions, rewards), ended in zip(EPISODES, ENDED, strict=True)
    ]
    return SimpleNamespace(iterate_episodes=lambda: iter(episodes))


def d3rlpy_dataset():
    return SimpleNamespace(
        episodes=[
            SimpleNamespace(
                observations=states[:-1, None],
                actions=actions[:, None],
                rewards=rewards[:, None],
                terminated=ended,
            )
            for (states, actions, rewards), ended in zip(EPISODES, ENDED, strict=True)
        ]
    )


def d4rl_dict():
    lengths = [len(actions) for _, actions, _ in EPISODES]
    last = np.zeros(sum(lengths), bool)
    last[np.cumsum(lengths) - 1] = True
    ended = np.repeat(ENDED, lengths)
    return {
        "observations": np.concatenate([states[:-1] for states, _, _ in EPISODES]),
        "actions": np.concatenate([actions for _, actions, _ in EPISODES]),
        "rewards": np.concatenate([rewards for _, _, rewards in EPISODES]),
        "terminals": last & ended,
        "timeouts": last & ~ended,
    }


def test_minari():
    log = datasets.from_minari(minari_dataset())
    assert read(log) == rows()
    assert log["truncated"].sum() == len(ENDED) - sum(ENDED)
    assert log["episode"][-1] == len(EPISODES) - 1


def test_minari_by_name_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match="pip install minari"):
        datasets.from_minari("D4RL/door/human-v2")


def test_a_dict_of_observations_is_refused_by_name():
    dataset = minari_dataset()
    for episode in dataset.iterate_episodes():
        episode.observations = {"goal": episode.observations}
    with pytest.raises(TypeError, match=r"observations must be an array.*'goal'"):
        datasets.from_minari(dataset)


def test_observations_of_a_tuple_space_are_columns():
    """As those of Blackjack, which Minari keeps as one array for each part."""
    dataset = minari_dataset()
    for episode in dataset.iterate_episodes():
        states = episode.observations
        episode.observations = (states, states % 2)
    log, expected = (
        datasets.from_minari(dataset),
        datasets.from_minari(minari_dataset()),
    )
    for name in ("state", "next_state"):
        columns = np.stack([expected[name], expected[name] % 2], 1)
        np.testing.assert_array_equal(log[name], columns)
    policy = OfflinePolicyEstimator(gamma=0.9).fit(log)
    assert policy.states_[0] == (0, 0)


@pytest.mark.parametrize(
    "other",
    [
        lambda states: states * 0.5,
        lambda states: states.astype(str),
        lambda states: states.astype(np.uint64),
    ],
    ids=["float", "text", "unsigned"],
)
def test_parts_of_a_tuple_keep_their_types(other):
    """Two identities that a float cannot tell apart stay two, beside any other part."""
    dataset = minari_dataset()
    expected = set()
    for episode in dataset.iterate_episodes():
        states = np.asarray(episode.observations).astype(np.int64)
        parts = (2**53 + states, other(states))
        expected |= set(zip(*(part.tolist() for part in parts), strict=True))
        episode.observations = parts
    log = datasets.from_minari(dataset)
    found = {
        *map(tuple, log["state"].tolist()),
        *map(tuple, log["next_state"].tolist()),
    }
    assert found == expected
    policy = OfflinePolicyEstimator(gamma=0.9, handle_unknown="infer").fit(log)
    assert set(policy.states_) <= expected


def test_a_tuple_of_what_is_not_one_number_a_step_is_refused_by_its_shapes():
    dataset = minari_dataset()
    for episode in dataset.iterate_episodes():
        states = episode.observations
        episode.observations = (states, np.stack([states, states], 1))
    with pytest.raises(TypeError, match=r"Got a tuple of shapes \(\d+,\), \(\d+, 2\)"):
        datasets.from_minari(dataset)


def test_d3rlpy_leaves_out_where_an_episode_was_cut():
    log = datasets.from_d3rlpy(d3rlpy_dataset())
    assert read(log) == rows(drop_truncated=True)
    assert np.isnan(log["next_state"][log["terminated"]]).all()


def test_d3rlpy_itself():
    package = pytest.importorskip("d3rlpy")
    columns = d4rl_dict()
    dataset = package.dataset.MDPDataset(
        columns["observations"][:, None].astype(np.float32),
        columns["actions"],
        columns["rewards"],
        columns["terminals"],
        columns["timeouts"],
        action_space=package.ActionSpace.DISCRETE,
    )
    log = datasets.from_d3rlpy(dataset)
    assert read(log) == rows(drop_truncated=True)
    assert len(log["reward"]) == dataset.transition_count


def test_d4rl_with_and_without_next_observations():
    columns = d4rl_dict()
    assert read(datasets.from_d4rl(columns)) == rows(drop_truncated=True)
    columns["next_observations"] = np.concatenate([s[1:] for s, _, _ in EPISODES])
    assert read(datasets.from_d4rl(columns)) == rows()


def test_d4rl_without_timeouts_leaves_out_the_last_row_only():
    columns = {
        "observations": np.arange(4),
        "actions": np.zeros(4, int),
        "rewards": np.zeros(4),
        "terminals": np.array([False, True, False, False]),
    }
    log = datasets.from_d4rl(columns)
    assert log["state"].tolist() == [0, 1, 2]
    assert read(log)[2] == (2, 0, 0, 3, False)
    with pytest.raises(ValueError, match="Missing: terminals"):
        datasets.from_d4rl({k: v for k, v in columns.items() if k != "terminals"})


def vector_rollout(autoreset, n_steps=40):
    """Return what a vector environment of a corridor gives, and the true rows."""
    gymnasium = pytest.importorskip("gymnasium")

    class Corridor(gymnasium.Env):
        observation_space = gymnasium.spaces.Discrete(6)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.state, self.n_steps = 1, 0
            return self.state, {}

        def step(self, action):
            before = self.state
            self.state += 2 * int(action) - 1
            self.n_steps += 1
            ended, cut = self.state in (0, 5), self.n_steps == 4
            true.append((before, int(action), float(ended), self.state, ended))
            return self.state, float(ended), ended, cut and not ended, {}

    true: list = []
    mode = gymnasium.vector.AutoresetMode(autoreset)
    envs = gymnasium.vector.SyncVectorEnv([Corridor] * 3, autoreset_mode=mode)
    observations, _ = envs.reset(seed=0)
    steps = [[observations], [], [], [], []]
    rng = np.random.default_rng(2)
    for _ in range(n_steps):
        action = rng.integers(2, size=3)
        observation, reward, terminated, truncated, _ = envs.step(action)
        for column, value in zip(
            steps, (observation, action, reward, terminated, truncated), strict=True
        ):
            column.append(np.copy(value))
    return [np.array(column) for column in steps], true


def end_hidden(transitions):
    return sorted((s, a, r, -1 if end else t, end) for s, a, r, t, end in transitions)


def test_vector_rollout_leaves_out_the_steps_that_reset():
    steps, true = vector_rollout("NextStep")
    log = datasets.from_vector_rollout(*steps)
    assert sorted(read(log)) == end_hidden(true)
    assert len(true) < steps[1].size
    assert log["truncated"].any()


def test_vector_rollout_that_resets_in_the_same_step():
    steps, true = vector_rollout("SameStep")
    log = datasets.from_vector_rollout(*steps, autoreset="same_step")
    cut = int((steps[4] & ~steps[3]).sum())
    found, expected = sorted(read(log)), end_hidden(true)
    assert 0 < cut == len(expected) - len(found)
    assert set(found) <= set(expected)


def test_vector_rollout_of_wrong_shapes():
    with pytest.raises(ValueError, match="observations one step more"):
        datasets.from_vector_rollout(*(np.zeros((4, 2)),) * 5)
    columns = (np.zeros((4, 2)),) * 4
    with pytest.raises(ValueError, match="autoreset must be"):
        datasets.from_vector_rollout(np.zeros((5, 2)), *columns, autoreset="never")


def replay_buffer(capacity, n_steps, n_envs=2):
    """Return a buffer with numbered states, written round as the package does."""
    buffer = SimpleNamespace(pos=0, full=False, optimize_memory_usage=False)
    buffer.size = lambda: capacity if buffer.full else buffer.pos
    for name in ("observations", "next_observations", "actions"):
        setattr(buffer, name, np.zeros((capacity, n_envs, 1), int))
    for name in ("rewards", "dones", "timeouts"):
        setattr(buffer, name, np.zeros((capacity, n_envs), np.float32))
    for t in range(n_steps):
        i, env = buffer.pos, np.arange(n_envs)
        buffer.observations[i, :, 0] = 10 * env + t
        buffer.next_observations[i, :, 0] = 10 * env + t + 1
        buffer.rewards[i] = t
        buffer.dones[i] = t % 2
        buffer.timeouts[i] = t % 4 == 3
        buffer.pos = (i + 1) % capacity
        buffer.full |= buffer.pos == 0
    return buffer


@pytest.mark.parametrize(("n_steps", "first"), [(3, 0), (7, 2)])
def test_replay_buffer_oldest_first(n_steps, first):
    log = datasets.from_replay_buffer(replay_buffer(5, n_steps))
    t = np.arange(first, n_steps)
    assert log["state"].ravel().tolist() == [*t, *(10 + t)]
    assert log["next_state"].ravel().tolist() == [*(t + 1), *(11 + t)]
    assert log["reward"].tolist() == [*t, *t]
    assert log["terminated"].tolist() == [*(t % 4 == 1)] * 2
    assert log["truncated"].tolist() == [*(t % 4 == 3)] * 2


def test_replay_buffer_that_forgets():
    buffer = replay_buffer(5, 3)
    buffer.optimize_memory_usage = True
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        datasets.from_replay_buffer(buffer)
    with pytest.raises(ValueError, match="at least one transition"):
        datasets.from_replay_buffer(replay_buffer(5, 0))


def test_replay_buffer_of_stable_baselines3():
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    from gymnasium import spaces

    buffer = buffers.ReplayBuffer(4, spaces.Discrete(9), spaces.Discrete(2), "cpu")
    for t in range(6):
        cut = [{"TimeLimit.truncated": t == 5}]
        ends = np.array([t in (3, 5)])
        state, action, reward = np.array([t]), np.array([t % 2]), np.array([0.5 * t])
        buffer.add(state, state + 1, action, reward, ends, cut)
    log = datasets.from_replay_buffer(buffer)
    assert read(log) == [
        (t, t % 2, 0.5 * t, -1 if t == 3 else t + 1, t == 3) for t in range(2, 6)
    ]
    assert log["truncated"].tolist() == [False, False, False, True]


def test_obp():
    rng = np.random.default_rng(0)
    n = 400
    context = rng.integers(2, size=(n, 1))
    action = rng.integers(3, size=n)
    # The right arm is the context's own.
    reward = (action == context[:, 0]).astype(int)
    feedback = {"n_rounds": n, "n_actions": 3, "context": context, "action": action}
    feedback |= {"reward": reward, "position": None, "pscore": np.full(n, 1 / 3)}
    policy = OfflinePolicyEstimator(random_state=0).fit(datasets.from_obp(feedback))
    assert policy.predict([0, 1]).tolist() == [0, 1]
    policy.score(datasets.from_obp(feedback))
    assert policy.effective_sample_size_ > 100  # a third of the rounds, by pscore
    del feedback["pscore"]
    assert "propensity" not in datasets.from_obp(feedback)
    feedback["position"] = rng.integers(2, size=n)
    assert datasets.from_obp(feedback)["state"].shape == (n, 2)
    feedback |= {"context": None, "position": np.zeros(n, int)}
    assert set(datasets.from_obp(feedback)["state"]) == {0}


def stays():
    return pd.DataFrame(
        {
            "icustayid": [7, 3, 3, 7, 3],
            "bloc": [1, 2, 1, 2, 3],
            "cluster": [5, 1, 0, 6, 2],
            "fluids": [1, 0, 0, 0, 1],
            "vaso": [0, 0, 1, 1, 1],
            "mortality_90d": [0, 1, 1, 0, 1],
        }
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_sepsis(library):
    frame = pytest.importorskip(library).DataFrame
    table = frame(stays().to_dict("list"))
    actions = ["fluids", "vaso"]
    log = datasets.from_sepsis(table, state="cluster", action=actions, rewards=(1, -1))
    assert log["state"].tolist() == [0, 1, 2, 5, 6]
    np.testing.assert_array_equal(log["next_state"], [1, 2, np.nan, 6, np.nan])
    assert log["reward"].tolist() == [0, 0, -1, 0, 1]
    assert log["terminated"].tolist() == [False, False, True, False, True]
    policy = OfflinePolicyEstimator().fit(log)
    assert set(policy.actions_) == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bloc": [1, 2, 2, 2, 3]}, "first bloc 2 of icustayid 3"),
        ({"mortality_90d": [0, 1, 2, 0, 1]}, "must be 0 or 1. Found 1"),
        ({"cluster": None}, "Missing: cluster"),
    ],
)
def test_sepsis_of_another_form(change, match):
    table = stays().assign(**change)
    table = table.drop(columns=[k for k, v in change.items() if v is None])
    with pytest.raises(ValueError, match=match):
        datasets.from_sepsis(table, state="cluster", action="fluids")


@pytest.mark.parametrize(
    "log",
    [
        datasets.from_minari(minari_dataset()),
        datasets.from_d3rlpy(d3rlpy_dataset()),
        datasets.from_d4rl(d4rl_dict()),
    ],
    ids=["minari", "d3rlpy", "d4rl"],
)
def test_fit_takes_what_is_read(log):
    policy = OfflinePolicyEstimator(random_state=0).fit(log)
    assert policy.predict([0, 1, 2, 3]).tolist() == [1, 1, 1, 1]
    assert policy.n_transitions_ == len(
        rows(drop_truncated="episode" not in log or "truncated" not in log)
    )


@pytest.mark.parametrize(
    "read_log",
    [datasets.from_minari, datasets.from_d3rlpy, datasets.from_replay_buffer],
)
def test_something_else_is_refused(read_log):
    with pytest.raises(TypeError, match="Must be a"):
        read_log([1, 2])
