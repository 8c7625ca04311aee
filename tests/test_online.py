"""The exploring agent: exact answers, exact statistics, and what bad input gets."""

from __future__ import annotations

import builtins
import pickle
import re
import sys
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

import tabrl
from tabrl import OfflinePolicyEstimator, OnlineAgent
from tabrl._inference import solve_to_explore
from tabrl._persistence import read, write
from tabrl._planning import plan_sparse
from tabrl._statistics import Statistics


class Corridor(gymnasium.Env):
    """Rooms in a row; action 1 goes on, 0 goes back. The last room ends it and pays 1.

    `label` and `space` say what a room looks like, `start` is added to the actions.
    `mask` closes some actions of each room.
    """

    def __init__(self, n_rooms=5, space=None, label=int, start=0, mask=None):
        self.n_rooms, self.label, self.mask = n_rooms, label, mask
        self.observation_space = space or spaces.Discrete(n_rooms)
        self.action_space = spaces.Discrete(2, start=start)
        self.log = []

    def seen(self):
        info = {} if self.mask is None else {"action_mask": self.mask[self.room]}
        return self.label(self.room), info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.room = 0
        return self.seen()

    def step(self, action):
        before = self.room
        forward = action - self.action_space.start
        assert forward in (0, 1)
        assert self.mask is None or self.mask[self.room][forward]
        self.room = min(max(before + 2 * int(forward) - 1, 0), self.n_rooms - 1)
        end = self.room == self.n_rooms - 1
        self.log.append((before, int(action), float(end), self.room, end))
        observation, info = self.seen()
        return observation, float(end), end, False, info


def make_agent(n_states=5, n_actions=2, **parameters) -> OnlineAgent:
    given = {"reward_range": (0, 1), "random_state": 0, **parameters}
    return OnlineAgent(n_states, n_actions, **given)


def everything(agent) -> list[np.ndarray]:
    """Return all that an agent says of its states, asked twice where it may change."""
    states = agent.states_
    return [
        agent.exploration_proba(states),
        agent.predict(states),
        agent.predict_proba(states),
        *(agent.action_values(states, q) for q in (None, 0.1, 0.9)),
    ]


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_statistics(left: Statistics, right: Statistics):
    for name, value in vars(left).items():
        np.testing.assert_array_equal(value, getattr(right, name))


# Exact answers


def test_bandit_is_learnt():
    """One state that stays; an arm m for ever is worth m / (1 - gamma)."""
    rng = np.random.default_rng(0)
    means = np.array([0.2, 0.8, 0.5])
    agent = make_agent(1, 3, gamma=0.9)
    pulls = []
    for step in range(600):
        pulls.append(agent.act(0))
        reward = float(rng.random() < means[pulls[-1]])
        agent.observe(0, pulls[-1], reward, 0, False, step % 5 == 4)
    assert len(set(pulls)) > 1
    assert np.mean(np.array(pulls[-100:]) == 1) > 0.8
    assert agent.predict([0]) == [1]
    for arm in (0, 1, 2) * 1000:  # whoever chose them
        agent.observe(0, arm, float(rng.random() < means[arm]), 0, False, True)
    np.testing.assert_array_equal(agent.exploration_proba([0]), [[0, 1, 0]])
    value = agent.action_values([0]).max()
    assert value == pytest.approx(0.8 / (1 - 0.9), rel=0.05)


@pytest.mark.parametrize(("terminated", "value"), [(True, 1.0), (False, 1 / (1 - 0.9))])
def test_truncation_is_no_termination(terminated, value):
    agent = make_agent(1, 1, gamma=0.9)
    for _ in range(3000):
        agent.observe(0, 0, 1.0, 0, terminated, truncated=not terminated)
    assert agent.action_values([0])[0, 0] == pytest.approx(value, rel=1e-2)
    # Both at once: what terminated has nothing after it.
    agent.reset().observe(0, 0, 1.0, 0, True, True)
    assert agent.statistics_.n_terminated == [1]


def test_chain_is_solved():
    agent = make_agent(3, gamma=0.9).learn(Corridor(3), n_episodes=20)
    np.testing.assert_array_equal(agent.exploration_proba([0, 1])[:, 1], 1)
    np.testing.assert_array_equal(agent.predict([0, 1]), 1)
    # One step from the prize it is worth 1, two steps away gamma.
    values = agent.action_values([0, 1])[:, 1]
    np.testing.assert_allclose(values, [0.9, 1], rtol=0.1)
    np.testing.assert_array_equal(agent.action_values([2]), 0)


def test_a_known_worse_loop_is_not_repeated():
    """Action 0 stays for nothing; action 1 pays 1 and ends."""
    loops = []
    agent = make_agent(2, 2)
    for _ in range(30):
        loops.append(0)
        for step in range(20):
            if agent.act(0) == 1:
                agent.observe(0, 1, 1.0, 1, True)
                break
            loops[-1] += 1
            agent.observe(0, 0, 0.0, 0, False, truncated=step == 19)
    assert sum(loops[-20:]) <= 2
    assert agent.exploration_proba([0])[0, 1] == 1


def test_far_reward_in_one_endless_episode():
    """No episode ends, so that the agent has to plan again by itself."""
    agent, room, last = make_agent(6, 2), 0, 5
    rewards, plans = [], set()
    for _ in range(3000):
        action = agent.act(room)
        plans.add(agent._policy.scores.tobytes())
        after = min(room + 1, last) if action == 1 else max(room - 1, 0)
        rewards.append(float(room == last and after == last))
        agent.observe(room, action, rewards[-1], after, False)
        room = after
    assert np.mean(rewards[-500:]) == 1
    # A plan is made when a pair was tried twice, else every 200 steps at most, and only
    # if some count has doubled.
    assert 2 < len(plans) <= 1 + 12 + 3000 / 200


def planning(agent, monkeypatch, *choices):
    """Let the plans of an agent ask for these actions in every state, in turn."""
    plans = iter(choices)

    def plan():
        return np.eye(2)[np.full(len(agent.states_), next(plans))]

    monkeypatch.setattr(agent, "_exploring", plan)


def test_a_plan_stays_until_it_repeats_what_it_has_tried_twice(monkeypatch):
    agent, states = make_agent(3), [0, 1, 2]
    planning(agent, monkeypatch, 0, 1, 0)
    for n_plans in (1, 1, 2, 2, 2, 2):
        choice = agent.act(0)
        assert (agent.n_plans_, choice) == (n_plans, n_plans - 1)
        policy = agent.exploration_proba(states)
        np.testing.assert_array_equal(policy, np.eye(2)[[choice] * 3])
        agent.observe(0, 0, 0.0, 0, False)  # now tried more often, but not asked for
    agent.observe(0, 1, 0.0, 0, False)
    agent.observe(1, 1, 0.0, 0, False)
    assert agent.act(0) == agent.act(1) == 1  # each once
    agent.observe(1, 1, 0.0, 0, False)
    assert agent.act(0) == 1
    assert agent.n_plans_ == 2
    assert agent.act(1) == 0
    assert agent.n_plans_ == 3


def test_the_larger_the_process_the_longer_a_plan_stays(monkeypatch):
    agent = make_agent(15_000, 2)  # 30,000 pairs are worth three steps
    planning(agent, monkeypatch, 0, 0, 1)
    agent.observe(0, 0, 0.0, 0, False, True)
    ages = []
    for _ in range(6):
        agent.act(0)
        ages.append((agent.n_plans_, agent._replanning.age))
        agent.observe(0, 0, 0.0, 0, False)
    # In a small process the first plan would go at age 1.
    assert ages == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]


def test_a_plan_may_repeat_what_was_known_before(monkeypatch):
    agent = make_agent(3)
    for _ in range(2):
        agent.observe(0, 0, 0.0, 0, False)
    planning(agent, monkeypatch, 0, 0, 0)
    for _ in range(150):
        assert agent.act(0) == 0
        agent.observe(0, 0, 0.0, 0, False)
    assert agent.n_plans_ == 1
    agent.observe(0, 0, 0.0, 0, False, True)
    assert agent.act(0) == 0
    assert agent.n_plans_ == 2


def test_an_agent_that_does_not_explore_keeps_its_plan_for_the_episode():
    agent = make_agent(3)
    agent.explore = False
    for _ in range(5):
        agent.observe(agent.act(0), 1, 1.0, 0, False)
    assert agent.n_plans_ == 1


def test_frozen_lake_improves():
    lake = gymnasium.make("FrozenLake-v1")
    reached = []
    agent = OnlineAgent(reward_range=(0, 1), random_state=0)
    agent.learn(lake, n_episodes=120, callback=lambda _, e: reached.append(e["return"]))
    assert len(reached) == 120
    assert np.mean(reached[-60:]) > 0.3  # a random walker reaches 0.014
    assert agent.states_.tolist() == list(range(16))


# Statistics


def test_statistics_are_those_of_the_log():
    env = TimeLimit(Corridor(6), 12)
    agent = make_agent(6).learn(env, n_episodes=10)
    log = dict(
        zip(
            ("state", "action", "reward", "next_state", "terminated"),
            map(list, zip(*env.unwrapped.log, strict=True)),
            strict=True,
        )
    )
    assert agent.n_transitions_ == len(log["state"])
    columns = (log[name] for name in log)
    assert_same_statistics(agent.statistics_, Statistics.from_codes(*columns, 6, 2))
    expected = OfflinePolicyEstimator(reward_range=(0, 1), random_state=0).fit(log)
    found = agent.to_offline()
    assert_same_statistics(found.statistics_, expected.statistics_)
    for ask in ("predict", "predict_proba", "action_values"):
        states = expected.states_
        answers = getattr(found, ask)(states), getattr(expected, ask)(states)
        np.testing.assert_array_equal(*answers)


@pytest.mark.filterwarnings("ignore::tabrl.DeadEndWarning")  # of random transitions
def test_statistics_of_random_transitions():
    rng = np.random.default_rng(1)
    n, names = 500, np.array(["c", "a", "d", "b", "e"])
    log = {
        "state": names[rng.integers(4, size=n)],
        "action": rng.integers(3, size=n),
        "reward": rng.normal(size=n),
        "next_state": names[rng.integers(5, size=n)],
        "terminated": rng.random(n) < 0.2,
    }
    agent = OnlineAgent(n_actions=9, random_state=0)
    for row in zip(*log.values(), strict=True):
        agent.observe(*row)
    expected = OfflinePolicyEstimator(random_state=0).fit(log)
    found = agent.to_offline()
    # In order of appearance here, sorted there; the actions never tried are left out.
    visited = np.stack([log["state"], log["next_state"]], 1).ravel().tolist()
    assert agent.states_.tolist() == list(dict.fromkeys(visited))
    assert found.states_.tolist() == sorted(names)
    assert found.actions_.tolist() == [0, 1, 2]
    assert_same_statistics(found.statistics_, expected.statistics_)
    with pytest.raises(ValueError, match="Observed none"):
        agent.reset().to_offline()


def test_a_million_observations_hold_memory_flat():
    agent = make_agent(20, 4)

    def size_after(n):
        for i in range(n):
            agent.observe(i % 20, i % 4, 0.5, (7 * i) % 20, i % 50 == 0)
        return len(pickle.dumps(agent))

    before = size_after(10_000)
    assert size_after(1_000_000) - before < 1_000  # integers grow
    assert agent.n_transitions_ == 1_010_000


# Environments


MODES = list(AutoresetMode)


def assert_true_to_the_corridor(statistics, n_rooms):
    """Check that no transition was recorded that the corridor does not have."""
    assert statistics.pair_state.max() < n_rooms - 1
    ahead = statistics.pair_action == 1
    last = ahead & (statistics.pair_state == n_rooms - 2)
    np.testing.assert_array_equal(statistics.n_terminated, statistics.n * last)
    np.testing.assert_array_equal(statistics.reward_sum, statistics.n * last)
    pair = statistics.edge_pair
    step = np.where(ahead[pair], 1, -1)
    room = statistics.pair_state[pair]
    np.testing.assert_array_equal(statistics.edge_next, np.maximum(room + step, 0))


@pytest.mark.parametrize("mode", MODES)
def test_vector_environments(mode):
    n_rooms, limit = 5, 7
    envs = SyncVectorEnv(
        [lambda: TimeLimit(Corridor(n_rooms), limit)] * 3, autoreset_mode=mode
    )
    episodes = []
    agent = make_agent(n_rooms)
    agent.learn(envs, n_episodes=30, callback=lambda _, e: episodes.append(e))
    assert_true_to_the_corridor(agent.statistics_, n_rooms)
    assert [episode["episode"] for episode in episodes] == list(range(1, 31))
    for episode in episodes:
        assert n_rooms - 1 <= episode["length"] <= limit
        assert episode["return"] == episode["terminated"]
    recorded = sum(len(env.unwrapped.log) for env in envs.envs)
    assert recorded - 2 <= agent.n_transitions_ <= recorded
    np.testing.assert_array_equal(agent.predict(range(n_rooms - 1)), 1)
    # Copies of an environment without end, and a budget of steps.
    envs = SyncVectorEnv([lambda: Corridor(50)] * 2, autoreset_mode=mode)
    other = make_agent(50).learn(envs, total_timesteps=301)
    assert other.n_transitions_ == 301


@pytest.mark.parametrize("mode", MODES)
def test_masks_of_vector_environments(mode):
    mask = np.array([[0, 1], [1, 1], [0, 1], [0, 1]], np.int8)
    envs = SyncVectorEnv([lambda: Corridor(4, mask=mask)] * 2, autoreset_mode=mode)
    agent = make_agent(4).learn(envs, n_episodes=10)
    np.testing.assert_array_equal(agent.exploration_proba([0, 2])[:, 0], 0)
    np.testing.assert_array_equal(agent.predict_proba([0, 2])[:, 0], 0)
    np.testing.assert_array_equal(agent.predict([0, 1, 2]), 1)


ROOMS = {
    "tuple": (
        spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)]),
        lambda room: (np.int64(room // 3), room % 3),
    ),
    "MultiDiscrete": (
        spaces.MultiDiscrete([3, 3]),
        lambda r: np.array([r // 3, r % 3]),
    ),
    "MultiBinary": (
        spaces.MultiBinary(3),
        lambda room: np.array([room >> bit & 1 for bit in range(3)], np.int8),
    ),
    "text": (spaces.Text(1, charset="abcde"), "abcde".__getitem__),
    "offset": (spaces.Discrete(5, start=7), lambda room: np.int64(room + 7)),
}


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("kind", ROOMS)
def test_labels(kind, vector):
    space, label = ROOMS[kind]
    make = partial(Corridor, 5, space, label, start=3)
    env = SyncVectorEnv([make] * 2) if vector else make()
    agent = OnlineAgent(reward_range=(0, 1), random_state=0)
    agent.learn(TimeLimit(env, 30) if not vector else env, n_episodes=25)
    assert agent.actions_.tolist() == [3, 4]
    assert len(agent.states_) == 5
    labels = [label(room) for room in range(4)]
    assert agent.predict(labels).tolist() == [4] * 4
    assert agent.act(label(0)) in (3, 4)
    agent.observe(label(0), 4, 0.0, label(1), False)
    # The optimum from the first room, three steps before the prize: gamma^3.
    assert agent.action_values(labels).max(1)[0] == pytest.approx(0.99**3, rel=0.2)


def test_states_are_added_as_they_appear():
    agent = OnlineAgent(n_actions=2, reward_range=(0, 1), random_state=0)
    assert len(agent.states_) == 0
    assert agent.exploration_proba([]).shape == (0, 2)
    assert agent.act("hall") in (0, 1)
    np.testing.assert_array_equal(agent.exploration_proba(["hall"]), 0.5)
    agent.observe("hall", 0, 0.0, ("attic", 1), False)
    agent.observe(("attic", 1), 1, 1.0, None, True)
    assert agent.states_.tolist() == ["hall", ("attic", 1)]
    agent.observe(("attic", 1), 1, 1.0, "end", True)
    np.testing.assert_array_equal(agent.action_values(["end"]), 0)
    np.testing.assert_array_equal(agent.predict_proba(["end"]), 0.5)
    with pytest.raises(ValueError, match=r"Found 1 of 2 .* at row 1: 'cellar'"):
        agent.predict(["hall", "cellar"])


def test_going_on_in_another_environment():
    agent = make_agent(None, None).learn(Corridor(5), total_timesteps=10)
    assert agent.learn(Corridor(5), total_timesteps=10).n_transitions_ == 20
    with pytest.raises(ValueError, match="states and actions of the one before"):
        agent.learn(Corridor(6), n_episodes=1)
    assert agent.n_transitions_ == 20
    assert agent.reset().learn(Corridor(6), n_episodes=1).states_.size == 6


# Masks


def test_masks_in_acting_and_planning():
    agents = [make_agent(3, 3, random_state=i) for i in range(20)]
    chosen = {agent.act(0, action_mask=[True, False, True]) for agent in agents}
    assert chosen == {0, 2}
    agent = agents[0]
    # Kept for planning, until another one is given, which holds at once.
    agent.observe(0, 0, 0.0, 0, False, True)
    assert agent.exploration_proba([0])[0, 1] == 0
    assert {agent.act(0, np.array([0, 1, 0], np.int8)) for _ in range(5)} == {1}
    np.testing.assert_array_equal(agent.exploration_proba([0]), [[0, 1, 0]])
    np.testing.assert_array_equal(agent.predict_proba([0]), [[0, 1, 0]])
    assert agent.act(0, [1, 1, 1]) in (0, 1, 2)
    np.testing.assert_array_equal(agent.act(1, [0, 0, 1]), 2)


def test_a_masked_action_promises_nothing():
    """The prize is behind an action that is never allowed."""
    values = []
    for mask in ([1, 1], [1, 0]):
        agent = make_agent(3, 2, gamma=0.9)
        agent.act(0, [1, 1])
        for _ in range(200):
            agent.observe(0, 1, 0.0, 1, False)
            agent.observe(0, 0, 0.0, 0, False)
            agent.observe(1, 1, 1.0, None, True)
            agent.observe(1, 0, 0.0, 0, False)
        agent.act(1, mask)
        values.append(agent.action_values([0]).max())
    assert values[0] == pytest.approx(0.9, rel=0.05)
    assert values[1] < 0.2


def test_states_are_taken_for_all_once_none_was_met_only_once(monkeypatch):
    complete = []

    def solve(network, batch, *args):
        complete.append(batch.complete.item())
        return solve_to_explore(network, batch, *args)

    monkeypatch.setattr("tabrl._online.solve_to_explore", solve)
    for agent in (make_agent(None), make_agent(3)):
        # The first two states are met once, then twice; at the end nothing is decided.
        a, b, end = range(3) if agent._encoder.states.complete else "abe"
        for step in ((a, 0, 0, b, False), (b, 0, 1, end, True), (a, 1, 0, b, False)):
            agent.observe(*step)
            agent._plan()
    assert complete == [False, False, True, True, True, True]


def test_planning_with_everything_allowed_is_planning():
    from tabrl._batch import StatisticsBatch
    from tabrl._checkpoint import load_network
    from tabrl._checks import check_device
    from tabrl._inference import infer
    from tabrl._planning import SparseProcess

    statistics = make_agent(6).learn(Corridor(6), n_episodes=3).statistics_
    device = check_device("cpu")
    network = load_network("auto", device)
    batch = StatisticsBatch.from_statistics(statistics, 0.99, (0, 1))
    features, _, posterior = infer(network, batch, device)
    process, r = SparseProcess(posterior, features), posterior.reward[2, 0].numpy()
    plan = plan_sparse(process, r)
    allowed = np.ones((6, 2), bool)
    np.testing.assert_array_equal(plan_sparse(process, r, allowed=allowed), plan)
    allowed[2, plan[2].argmax()] = False
    masked = plan_sparse(process, r, allowed=allowed)
    assert (masked.max(1) <= plan.max(1) + 1e-9).all()
    # The same as making the action worthless.
    r[~allowed] = -1e6
    worthless = plan_sparse(process, r)
    np.testing.assert_allclose(masked[allowed], worthless[allowed], rtol=1e-8)
    assert (masked[~allowed] == -np.inf).all()


# Seeds and files


def test_the_same_seed_the_same_run():
    def run(seed):
        agent = OnlineAgent(reward_range=(0, 1), random_state=seed)
        agent.learn(gymnasium.make("FrozenLake-v1"), n_episodes=15)
        return agent

    first, again, other = run(3), run(3), run(4)
    assert_same_statistics(first.statistics_, again.statistics_)
    assert_same(everything(first), everything(again))
    assert first.n_transitions_ != other.n_transitions_
    # Forgetting all is starting anew.
    first.reset().learn(gymnasium.make("FrozenLake-v1"), n_episodes=15)
    assert_same_statistics(first.statistics_, again.statistics_)


def test_reading_changes_nothing():
    def run(read):
        agent = make_agent(6)
        agent.learn(Corridor(6), n_episodes=5, callback=lambda a, _: read(a) and None)
        return agent

    quiet, read = run(lambda agent: None), run(everything)
    assert_same_statistics(quiet.statistics_, read.statistics_)


@pytest.mark.parametrize("middle", [0, 3, 250])
@pytest.mark.parametrize("kind", ["numbers", "tuples"])
def test_a_saved_agent_goes_on_where_it_stopped(kind, middle, tmp_path):
    def act(agent, n):
        """Act by hand: an episode is cut in its middle."""
        room, log = 0, []
        for _ in range(n):
            state = room if kind == "numbers" else (room, "room")
            action = agent.act(state, [1, 1] if room else [0, 1])
            after = min(room + 1, 5) if action == 1 else max(room - 1, 0)
            following = after if kind == "numbers" else (after, "room")
            agent.observe(state, action, float(after == 5), following, after == 5)
            log.append((room, action))
            room = 0 if after == 5 else after
        return log

    agent = make_agent(6 if kind == "numbers" else None)
    act(agent, middle)
    agent.save(tmp_path / "agent")
    loaded = OnlineAgent.load(tmp_path / "agent")
    assert vars(loaded).keys() == vars(agent).keys()
    assert_same_statistics(loaded.statistics_, agent.statistics_)
    unpickled = pickle.loads(pickle.dumps(agent))
    expected = act(agent, 60)
    assert act(loaded, 60) == expected
    assert act(unpickled, 60) == expected
    assert_same(everything(loaded), everything(agent))
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_learning_goes_on_after_loading(tmp_path):
    def agent():
        return OnlineAgent(reward_range=(0, 1), random_state=np.random.RandomState(5))

    whole = agent().learn(gymnasium.make("FrozenLake-v1"), n_episodes=5)
    whole.explore, whole.optimism = False, 0.5
    whole.save(tmp_path / "agent")
    loaded = OnlineAgent.load(tmp_path / "agent", device="cpu")
    assert loaded.device == "cpu"
    assert (loaded.explore, loaded.optimism) == (False, 0.5)
    for one in (whole, loaded):
        one.learn(gymnasium.make("FrozenLake-v1"), n_episodes=5)
    assert_same_statistics(whole.statistics_, loaded.statistics_)


def test_other_files_are_refused(tmp_path):
    agent = make_agent().learn(Corridor(5), n_episodes=2)
    agent.to_offline().save(tmp_path / "policy")
    with pytest.raises(ValueError, match="It holds a 'OfflinePolicyEstimator'"):
        OnlineAgent.load(tmp_path / "policy")
    agent._tally.seen.add(99)
    agent.save(tmp_path / "damaged")
    with pytest.raises(ValueError, match="must be a file written by OnlineAgent"):
        OnlineAgent.load(tmp_path / "damaged")


# Dials


def test_explore_and_optimism():
    agent = make_agent(5).learn(Corridor(5), n_episodes=5)
    optimistic = agent.exploration_proba(range(5))
    agent.explore, agent._replanning.due = False, True
    exploiting = agent.exploration_proba(range(5))
    np.testing.assert_allclose(exploiting, agent.predict_proba(range(5)), atol=1e-12)
    assert agent.act(0) in (0, 1)
    agent.explore, agent._replanning.due = True, True
    np.testing.assert_array_equal(agent.exploration_proba(range(5)), optimistic)
    # All but one pair may still give something, and nothing is known to be noisy.
    agent = make_agent(5)
    for _ in range(2):
        agent.observe(0, 0, 0.0, 0, False)
    agent.act(0)
    scores = agent._policy.scores
    for optimism, sign in ((0.0, -1), (2.0, 1)):
        agent.optimism, agent._replanning.due = optimism, True
        agent.act(0)
        assert (sign * (agent._policy.scores - scores) > 0).all()


def test_rewards_in_other_units_change_nothing():
    runs = []
    for unit in (1.0, 1000.0):
        for reward_range in (None, (0, unit)):
            env = gymnasium.wrappers.TransformReward(
                TimeLimit(Corridor(5), 9), lambda r, unit=unit: r * unit
            )
            agent = make_agent(reward_range=reward_range)
            runs.append(agent.learn(env, n_episodes=12))
    for one, thousand in zip(runs[:2], runs[2:], strict=True):
        np.testing.assert_array_equal(one.statistics_.n, thousand.statistics_.n)
        values = one.action_values(range(5)), thousand.action_values(range(5))
        np.testing.assert_allclose(1000 * values[0], values[1], rtol=1e-6)


def test_callback_and_progress_bar(capsys, monkeypatch):
    agent = make_agent()
    agent.learn(Corridor(5), n_episodes=9, callback=lambda _, e: e["episode"] < 4)
    assert agent.statistics_.n_terminated.sum() == 4
    agent.learn(Corridor(5), n_episodes=2, progress_bar=True)
    assert "2/2" in capsys.readouterr().err
    agent.learn(Corridor(5), total_timesteps=5, progress_bar=True)
    assert "5/5" in capsys.readouterr().err
    imports = builtins.__import__

    def without_tqdm(name, *rest):
        if name == "tqdm":
            raise ImportError("no tqdm")
        return imports(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    with pytest.raises(ImportError, match="pip install tqdm"):
        agent.learn(Corridor(5), n_episodes=1, progress_bar=True)


# Bad input


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_states": 0}, ValueError, "n_states must be 1 or more. Got 0."),
        ({"n_states": 2.0}, TypeError, "n_states must be an integer. Got 2.0."),
        ({"n_actions": True}, TypeError, "n_actions must be an integer. Got True."),
        ({"gamma": 1.2}, ValueError, "gamma must lie in [0, 1). Got 1.2."),
        ({"reward_range": (1, 0)}, ValueError, "reward_range must be finite"),
        ({"reward_range": (-1, -1)}, ValueError, "rewards are alike add 0"),
        ({"reward_range": 1}, TypeError, "reward_range must be a pair of numbers"),
        ({"optimism": -1}, ValueError, "optimism must be finite, 0 or more. Got -1."),
        ({"optimism": "x"}, TypeError, "optimism must be a number. Got 'x'."),
        ({"device": "nowhere"}, ValueError, '"cpu" always works'),
    ],
)
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=re.escape(message)):
        OnlineAgent(**parameters)


GOOD = {"state": 0, "action": 1, "reward": 0.5, "next_state": 2, "terminated": False}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"action": 2}, ValueError, "action must lie in 0 to 1. Got 2."),
        ({"action": -1}, ValueError, "action must lie in 0 to 1. Got -1."),
        ({"action": 1.0}, TypeError, "action must be an integer. Got 1.0."),
        ({"action": True}, TypeError, "action must be an integer. Got True."),
        ({"state": 5}, ValueError, "state must be one of 0 to 4. Got 5."),
        ({"state": [0]}, ValueError, "state must be one of 0 to 4. Got [0]."),
        ({"next_state": "x"}, ValueError, "state must be one of 0 to 4. Got 'x'."),
        ({"next_state": None}, ValueError, "state must be one of 0 to 4. Got None."),
        ({"reward": np.nan}, ValueError, "reward must be finite. Got nan."),
        ({"reward": -np.inf}, ValueError, "reward must be finite. Got -inf."),
        ({"reward": 1.5}, ValueError, "must lie in reward_range (0.0, 1.0). Got 1.5."),
        ({"reward": "1"}, TypeError, "reward must be a number. Got '1'."),
        ({"reward": None}, TypeError, "reward must be a number. Got None."),
        ({"terminated": 1}, TypeError, "terminated must be True or False. Got 1."),
        ({"truncated": "no"}, TypeError, "truncated must be True or False. Got 'no'."),
        ({"state": 1, "action": 0}, ValueError, "action must be allowed by the action"),
    ],
)
def test_bad_transitions(bad, error, message):
    agent = make_agent(5)
    agent.act(1, [0, 1])
    agent.observe(**GOOD)
    before = pickle.dumps(agent)
    with pytest.raises(error, match=re.escape(message)):
        agent.observe(**{**GOOD, **bad})
    assert pickle.dumps(agent) == before


def test_bad_transitions_where_states_are_added():
    agent = OnlineAgent(n_actions=2)
    before = pickle.dumps(agent)
    for bad in ({"next_state": None}, {"next_state": np.nan}, {"state": (1, None)}):
        with pytest.raises(ValueError, match="state must not be missing"):
            agent.observe(**{**GOOD, **bad})
    for bad in ({"state": {}}, {"next_state": {1}}):
        with pytest.raises(TypeError, match="state must be hashable"):
            agent.observe(**{**GOOD, **bad})
    with pytest.raises(ValueError, match=r"at most 1e\+140 in size"):
        agent.observe(**{**GOOD, "reward": 1e200})  # its square is infinite
    for tiny in (1e-170, -1e-165):
        with pytest.raises(ValueError, match=rf"0 or 1e-140 or more in size.*{tiny}"):
            agent.observe(**{**GOOD, "reward": tiny})  # its square is zero
    with pytest.raises(ValueError, match="reward must be finite"):
        agent.observe("new", 0, np.nan, "newer", False)
    assert pickle.dumps(agent) == before
    with pytest.raises(ValueError, match="n_actions must be known"):
        OnlineAgent().act(0)


@pytest.mark.parametrize("mask", [[1], [1, 2], [0, 0], [0.5, 1.0], "ab", [[1, 1]]])
def test_bad_masks(mask):
    with pytest.raises(ValueError, match="action_mask must hold 2 flags of which one"):
        make_agent().act(0, mask)


class Boxed(Corridor):
    def __init__(self, observations, actions):
        super().__init__()
        self.observation_space, self.action_space = observations, actions


@pytest.mark.parametrize("vector", [False, True])
def test_bad_environments(vector):
    def learn(agent, make, **arguments):
        env = SyncVectorEnv([make]) if vector else make()
        agent.learn(env, **(arguments or {"n_episodes": 1}))

    agent = OnlineAgent(n_states=5, n_actions=2)
    box, two = spaces.Box(0, 1, (2,)), spaces.Discrete(2)
    with pytest.raises(ValueError, match=r"KBinsDiscretizer.*pipeline in the README"):
        learn(agent, lambda: Boxed(box, two))
    with pytest.raises(ValueError, match="KBinsDiscretizer"):
        learn(agent, lambda: Boxed(spaces.Tuple([two, box]), two))
    with pytest.raises(ValueError, match="action space must be Discrete"):
        learn(agent, lambda: Boxed(two, box))
    with pytest.raises(ValueError, match="n_states must be that of the environment, 4"):
        learn(agent, lambda: Corridor(4))
    with pytest.raises(ValueError, match=r"n_states must be that .* None\. Got 5"):
        learn(agent, lambda: Boxed(spaces.MultiDiscrete([2, 2]), two))
    with pytest.raises(ValueError, match=r"n_actions must be that .*, 3\. Got 2"):
        learn(agent, lambda: Boxed(spaces.Discrete(5), spaces.Discrete(3)))
    with pytest.raises(ValueError, match="Give one of n_episodes and total_timesteps"):
        learn(agent, lambda: Corridor(5), n_episodes=1, total_timesteps=1)
    with pytest.raises(ValueError, match="n_episodes must be 1 or more"):
        learn(agent, lambda: Corridor(5), n_episodes=0)
    with pytest.raises(TypeError, match="env must be an environment of gymnasium"):
        agent.learn("FrozenLake-v1", n_episodes=1)
    assert agent.n_transitions_ == 0
    with pytest.raises(ValueError, match=r"reward_range \(0.0, 0.5\). Got 1.0"):
        learn(OnlineAgent(reward_range=(0, 0.5)), lambda: Corridor(3), n_episodes=9)
    with pytest.raises(ValueError, match="quantile must lie in"):
        agent.action_values([0], 0.95)


def test_float_masks_of_zeros_and_ones():
    agents = [OnlineAgent(3, 2, random_state=0) for _ in range(2)]
    for step in range(20):
        float_mask = np.array([1.0, 0.0]) if step % 2 else [0.0, 1.0]
        masks = float_mask, np.array(float_mask, bool)
        chosen = {a.act(step % 3, m) for a, m in zip(agents, masks, strict=True)}
        assert chosen == {0 if step % 2 else 1}


class Stop(BaseException):
    """What an interrupt raises, at a line of the code."""


def stopped(act, stop):
    """Raise at a line of the package that `act` runs; tell whether there was one."""
    package, n_lines = str(Path(tabrl.__file__).parent), 0

    def trace(frame, event, _):
        nonlocal n_lines
        if not frame.f_code.co_filename.startswith(package):
            return None
        if event == "line":
            n_lines += 1
            if n_lines == stop:
                raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Stop:
        return True
    finally:
        sys.settrace(before)
    return False


def inside(agent):
    """Everything that `observe` may change."""
    tally, replanning = agent._tally, agent._replanning
    return (
        *(dict(tally._pairs), dict(tally._edges), set(tally.seen)),
        *(tally.n_transitions, agent._encoder.states.labels),
        *(vars(replanning) | {"tried": set(replanning.tried)}).items(),
    )


@pytest.mark.parametrize(
    "step",
    [
        ("a", 0, 1.0, "b", False),  # known
        ("new", 1, 0.5, "newer", False),
        ("new", 1, 0.5, "new", True, True),
        ("b", 1, 0.0, None, True),
    ],
)
def test_an_interrupt_of_observe_leaves_before_or_after(step):
    def make():
        agent = OnlineAgent(None, 2, random_state=0)
        agent.observe("a", 0, 1.0, "b", False)
        return agent

    agent = make()
    before = inside(agent)
    agent.observe(*step)
    after = inside(agent)
    seen: list = []
    while True:
        agent = make()
        if not stopped(partial(agent.observe, *step), len(seen) + 1):
            break
        seen.append(inside(agent))
    assert len(seen) > 20
    assert [state in (before, after) for state in seen] == [True] * len(seen)
    assert before in seen
    assert after in seen


def saved_agent(tmp_path, change):
    path = tmp_path / "agent"
    agent = OnlineAgent(None, 2, random_state=np.random.RandomState(1))
    for i in range(12):
        agent.act(f"s{i % 3}", [1, i % 2])
        agent.observe(f"s{i % 3}", 0, float(i), f"s{(i + 1) % 3}", i % 5 == 4)
    agent.save(path)
    meta, arrays = read(path, "OnlineAgent")
    change(meta, arrays)
    write(path, "OnlineAgent", meta, arrays)
    return path


def put(array, value):
    def change(meta, arrays):
        arrays[array] = arrays[array].copy()
        arrays[array][...] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda m, a: m["rng"]["state"].update(state=2**128),
        lambda m, a: m["rng"].update(has_uint32=7),
        lambda m, a: m["parameters"]["random_state"].__setitem__(2, 10**6),
        lambda m, a: m["parameters"].update(n_states=10**11),
        lambda m, a: m["parameters"].update(n_actions=10**11),
        lambda m, a: m.update(actions=[0, 10**11]),
        lambda m, a: m.update(actions=[0, 10**30]),
        lambda m, a: m.update(actions=[0, 3]),
        lambda m, a: m.update(seed=-1),
        lambda m, a: m.update(seed=10**400),
        lambda m, a: m.update(complete=1),
        lambda m, a: m["plan"].update(age=-1),
        lambda m, a: m["plan"].update(due=0),
        lambda m, a: m["plan"].update(news=[[0]]),
        lambda m, a: m["plan"].update(news=[[0, "x"]]),
        lambda m, a: m["plan"].update(n=1.5),
        lambda m, a: m.pop("plan"),
        put("seen", 99),
        put("seen", -1),
        put("masked", 99),
        put("scores", np.nan),
        lambda m, a: a.update(scores=a["scores"].astype(np.float32)),
        lambda m, a: a.update(masks=a["masks"][:-1]),
        lambda m, a: a.update(masks=a["masks"].astype(np.int8)),
        lambda m, a: a["states_"].__setitem__(0, a["states_"][1]),
        put("n", -1.0),
    ],
)
def test_damaged_agents(change, tmp_path):
    OnlineAgent.load(saved_agent(tmp_path, lambda *_: None)).act("s0")
    path = saved_agent(tmp_path, change)
    with pytest.raises(ValueError, match="must be a file written by OnlineAgent"):
        OnlineAgent.load(path)


class Rooms(gymnasium.Env):
    """Four rooms, seen as a mapping or an array; the second action goes on."""

    action_space = spaces.Discrete(2)

    def __init__(self, kind):
        self.kind = kind
        box = spaces.Box(0, 3, (2,), np.int8)
        both = {"x": spaces.Discrete(2), "a": spaces.Box(0, 1, (1,), np.uint8)}
        self.observation_space = spaces.Dict(both) if kind == "dict" else box

    def observe(self):
        if self.kind == "dict":
            last = np.array([self.room % 2], np.uint8)
            return {"x": self.room // 2, "a": last}
        return np.array([self.room // 2, self.room % 2], np.int8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.room = 0
        return self.observe(), {}

    def step(self, action):
        self.room = min(3, self.room + action)
        return self.observe(), float(self.room == 3), self.room == 3, False, {}


@pytest.mark.parametrize("kind", ["dict", "box"])
@pytest.mark.parametrize("vector", [False, True])
def test_observations_in_a_mapping_or_an_array(kind, vector):
    env = SyncVectorEnv([lambda: Rooms(kind)] * 2) if vector else Rooms(kind)
    agent = OnlineAgent(reward_range=(0, 1), random_state=0).learn(env, n_episodes=20)
    dict_labels = [((0,), 0), ((1,), 0), ((0,), 1), ((1,), 1)]
    expected = dict_labels if kind == "dict" else [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sorted(agent.states_.tolist()) == sorted(expected)
    assert agent.predict(expected[:3]).tolist() == [1, 1, 1]
    continuous = Rooms(kind)
    continuous.observation_space = spaces.Dict({"x": spaces.Box(0, 1, (1,))})
    with pytest.raises(ValueError, match="observation space must be Discrete"):
        agent.learn(continuous, n_episodes=1)
