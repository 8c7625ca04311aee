"""Online baselines and the online protocol: closed forms, and exhaustive answers."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from pretraining.benchmark.baselines.online import (
    LEARNERS,
    PSRL,
    UCBVI,
    BernsteinUCBVI,
    Boltzmann,
    FixedRateQLearning,
    Learner,
    QLearning,
    Tabrl,
    ValueIteration,
    register,
)
from pretraining.benchmark.cells import read_results
from pretraining.benchmark.environments import environment
from pretraining.benchmark.exact import policy_iteration
from pretraining.benchmark.parts import online
from pretraining.benchmark.parts.online.protocol import QUICK, Protocol
from pretraining.benchmark.parts.online.scoring import (
    good_value,
    make_learner,
    score_cell,
    solved,
    sum_up,
)
from pretraining.benchmark.parts.online.simulator import Simulator
from pretraining.benchmark.regret import followed_regret

TABRL = Tabrl.name


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def cell(**changes) -> dict:
    found = {
        "part": "regret",
        "gamma": 0.99,
        "environment": "RiverSwim-6",
        "method": "UCB-VI",
        "constant": 0.1,
        "episodes": 30,
        "seed": 0,
    }
    return found | changes


# Planning


@pytest.mark.parametrize("name", ["Garnet-20-4-3", "Garnet-200-8-5"])
def test_planning_agrees_with_policy_iteration_from_any_start(name):
    env = environment(name, 0.9)
    args = (env.expected_reward, env.gamma)
    expected = policy_iteration(env.transition, *args)
    start = rng().normal(size=env.n_states) * 100
    for transition in (env.transition, env.transition.toarray()):
        q = policy_iteration(transition, *args, start, n_sweeps=20)
        np.testing.assert_allclose(q, expected, atol=1e-7)


def test_planning_finds_the_best_of_all_deterministic_policies():
    generator = rng()
    transition = generator.dirichlet(np.ones(4), size=(3, 2))[:, :, :3]
    reward, gamma = generator.normal(size=(3, 2)), 0.9
    values = []
    for actions in product(range(2), repeat=3):
        P, r = transition[range(3), actions], reward[range(3), actions]
        values.append(np.linalg.solve(np.eye(3) - gamma * P, r))
    q = policy_iteration(transition.reshape(6, 3), reward, gamma)
    np.testing.assert_allclose(q.max(axis=1), np.max(values, axis=0))


@pytest.mark.parametrize("n_states", [5, 150])
def test_pairs_never_tried_lead_anywhere(n_states):
    """The sparse form with one more state equals rows of 1 / S."""
    generator, gamma = rng(), 0.9
    learner = ValueIteration(n_states, 2, gamma, (0.0, 1.0), generator)
    P = np.full((n_states, 2, n_states), 1 / n_states)
    reward = np.zeros((n_states, 2))
    for s in range(0, n_states, 2):
        P[s, 1], reward[s, 1] = 0.0, s / n_states
        for after in generator.choice(n_states, 2, replace=False):
            learner.observe(s, 1, s / n_states, int(after), False, False)
            P[s, 1, after] = 0.5
    v = np.zeros(n_states)
    for _ in range(400):
        v = (reward + gamma * P @ v).max(axis=1)
    found = learner.greedy_values().max(axis=1)
    np.testing.assert_allclose(found, v, atol=1e-8)


def test_terminated_transitions_have_no_continuation():
    learner = ValueIteration(2, 1, 0.5, (0.0, 1.0), rng())
    for terminated in (True, False, False, True):
        learner.observe(0, 0, 1.0, 1, terminated, False)
    learner.observe(1, 0, 1.0, 1, False, False)
    # v1 = 1 / (1 - 0.5) = 2, and half of the transitions of state 0 go there.
    np.testing.assert_allclose(learner.greedy_values()[:, 0], [1 + 0.5 * 0.5 * 2, 2])


# Methods


def test_boltzmann_policy_has_the_odds_of_its_values():
    learner = Boltzmann(1, 2, 0.5, (0.0, 1.0), rng())
    learner.observe(0, 0, 0.6, 0, True, False)
    learner.observe(0, 1, 0.0, 0, True, False)
    learner.begin()
    first, second = learner.policy()[0]
    assert np.log(first / second) == pytest.approx(0.6 / 0.3)


def test_ucb_vi_bonus_at_known_counts():
    learner = UCBVI(2, 3, 0.9, (-1.0, 4.0), rng(), 0.1, delta=0.2)
    for _ in range(4):
        learner.observe(0, 1, 0.5, 1, False, False)
    learner.observe(0, 2, 3.9, 1, False, False)
    reward = learner.optimistic_reward()
    # 0.1 x 5 x sqrt(log(2 x 2 x 3 / 0.2) / 8) on top of 0.5.
    assert reward[0, 1] == pytest.approx(0.5 + 0.5 * np.sqrt(np.log(60) / 8))
    assert reward[0, 2] == pytest.approx(4)  # no more than a reward can be
    assert reward[0, 0] == pytest.approx(40)  # r_max / (1 - gamma)


def test_ucb_vi_goes_far_to_try_what_is_new():
    learner = UCBVI(4, 2, 0.99, (0.0, 1.0), rng(), 0.1)
    for _ in range(100):
        for s in range(4):
            learner.observe(s, 0, 0.5, s, False, False)
    for s in range(3):
        learner.observe(s, 1, 0.0, s + 1, False, False)
    learner.begin()  # action 1 of the last state is left
    np.testing.assert_array_equal(learner.policy()[:, 1], 1)


def check_bernstein_bonus(kind: type[UCBVI]) -> None:
    """Three visits that lead to a state worth 2, and a fourth that ends."""
    gamma = 0.5
    learner = kind(2, 2, gamma, (-1.0, 1.0), rng(), 0.3, delta=0.2)
    for _ in range(20):
        learner.observe(1, 0, 1.0, 1, False, False)
        learner.observe(1, 1, 1.0, 1, False, False)
        learner.observe(0, 0, 0.0, 0, True, False)
    learner.begin()  # all bonuses of state 1 are cut off: it is worth 1 / (1 - 0.5)
    for terminated in (False, False, False, True):
        learner.observe(0, 1, 0.4 * terminated, 1, terminated, False)
    L = np.log(2 * 2 * 2 / 0.2)
    # Two values with the odds 3 : 1 have the variance 3 / 16 of their distance squared.
    variance = 3 / 16 * 0.4**2 + gamma**2 * 3 / 16 * 2**2
    expected = 0.3 * (np.sqrt(2 * L * variance / 4) + 7 / 3 * 2 * L / 4)
    assert learner.bonus()[0, 1] == pytest.approx(expected)
    # Without any variance the fast term is left.
    assert learner.bonus()[1, 0] == pytest.approx(0.3 * 7 / 3 * 2 * L / 20)


def test_bernstein_bonus_at_known_values_and_counts():
    check_bernstein_bonus(BernsteinUCBVI)

    class WithoutEnds(BernsteinUCBVI):
        """Takes the variance over what goes on alone."""

        def variance_of_values(self):
            ends = self.table(self.statistics.n_terminated) / np.maximum(self.n, 1)
            return super().variance_of_values() * (ends == 0)

    class Undiscounted(BernsteinUCBVI):
        def variance_of_values(self):
            return super().variance_of_values() / self.gamma**2

    for fault in (WithoutEnds, Undiscounted, UCBVI):
        with pytest.raises(AssertionError):
            check_bernstein_bonus(fault)


@pytest.mark.parametrize("constant", BernsteinUCBVI.constants)
def test_bernstein_ucb_vi_swims_up_the_river(constant):
    run = cell(method="UCB-VI, Bernstein", constant=constant, episodes=30)
    row = score_cell(run, None)[0]
    assert row["solved"] is not None
    assert row["regret"] < 10


def test_psrl_draws_have_the_posterior_mean():
    learner = PSRL(2, 1, 0.9, (0.0, 2.0), rng())
    for after, terminated, reward in [
        *[(0, False, 0.8)] * 3,
        *[(1, False, 1.2)] * 5,
        *[(1, True, 1.0)] * 2,
    ]:
        learner.observe(0, 0, reward, after, terminated, False)
    draws = [learner.sample() for _ in range(4000)]
    rows = np.mean([transition for transition, _ in draws], axis=0)
    # Dirichlet(1/2) on two states and termination: 1.5 observations beforehand.
    np.testing.assert_allclose(rows[0], [3.5 / 11.5, 5.5 / 11.5], atol=0.01)
    np.testing.assert_allclose(rows[1], [1 / 3, 1 / 3], atol=0.02)
    # 0.1 observations of the middle of the range, which is 1.
    rewards = np.array([reward[0, 0] for _, reward in draws])
    assert rewards.mean() == pytest.approx((0.1 * 1 + 10.4) / 10.1, abs=0.005)
    # Student's t: rate / (strength (shape - 1)), in units of the range.
    squares = 3 * 0.24**2 + 5 * 0.16**2 + 2 * 0.04**2  # around 1.04
    rate = 0.01 + (squares + 0.1 * 10 * 0.04**2 / 10.1) / 4 / 2
    variance = 4 * rate / (10.1 * 5)
    assert rewards.var() == pytest.approx(variance, rel=0.1)


def test_q_learning_updates():
    learner = QLearning(2, 2, 0.9, (0.0, 1.0), rng())
    np.testing.assert_allclose(learner.q, 10)
    learner.observe(0, 0, 0.5, 1, False, False)  # rate 11 / 11
    assert learner.q[0, 0] == pytest.approx(0.5 + 0.9 * 10)
    learner.observe(0, 0, 0.0, 1, True, False)  # rate 11 / 12, nothing follows
    assert learner.q[0, 0] == pytest.approx(9.5 / 12)
    np.testing.assert_array_equal(learner.policy(), [[0, 1], [0.5, 0.5]])
    fixed = FixedRateQLearning(2, 2, 0.9, (0.0, 1.0), rng())
    fixed.observe(0, 0, 0.0, 1, True, False)
    assert fixed.q[0, 0] == pytest.approx(9)


# Protocol


def test_controls_are_those_of_the_seed_papers_protocol():
    """Random + VI: 3 and 9 episodes; Boltzmann + VI: 3 and 6; medians of 12 seeds."""
    expected = {"random + VI": {3: 3, 5: 9}, "Boltzmann + VI": {3: 3, 5: 6}}
    for method, medians in expected.items():
        for size, median in medians.items():
            run = cell(
                part="convergence",
                gamma=0.95,
                environment=f"gridworld-{size}x{size}",
                method=method,
                constant=None,
                episodes=100,
            )
            found = [
                score_cell(run | {"seed": seed}, None)[0]["solved"]
                for seed in range(12)
            ]
            assert np.median(found) == pytest.approx(median, abs=2)


def test_good_value_relative_to_the_optimum():
    env = environment("gridworld-3x3", 0.95)
    threshold = good_value(env, relative=True)
    uniform = env.start @ env.policy_value(env.uniform_policy)
    optimum = env.start @ env.optimal_q.max(axis=1)
    # On a line from the uniform value to the optimum.
    assert uniform + threshold * (optimum - uniform) == pytest.approx(0.95 * optimum)
    assert good_value(env, relative=False) == 0.95


def test_solved_needs_eight_in_a_row():
    assert solved([True] * 7) is None
    assert solved([False, True] * 20) is None
    assert solved([False] * 3 + [True] * 8) == 4


def test_regret_of_an_optimal_and_of_the_uniform_policy():
    found = sum_up([0.0, 1.0, 6.0])
    assert found["regret"] == pytest.approx(0 + 1 + 2)
    assert found["regret_unclipped"] == pytest.approx(0 + 1 + 6)
    assert found["curve"] == [[1, 0.0], [2, 1.0], [3, 3.0]]
    assert len(sum_up(np.zeros(1000))["curve"]) == 60
    row = score_cell(cell(method="random + VI", constant=None), None)[0]
    assert row["regret"] == pytest.approx(30)


def test_simulator_plays_to_the_limit_and_knows_what_is_untried():
    env = environment("gridworld-3x3", 0.99)
    simulator = Simulator(env, seed=0)
    steps = []

    class AlwaysRight(ValueIteration):
        def observe(self, *transition):
            steps.append(transition)

    simulator.episode(AlwaysRight(9, 4, 0.99, (-1.0, 10.0), rng()))
    assert len(steps) == 50
    assert [step[-1] for step in steps] == [False] * 49 + [True]
    assert all(a[3] == b[0] for a, b in pairwise(steps))
    tried = {step[:2] for step in steps}
    visited = {step[0] for step in steps} | {steps[-1][3]}
    assert simulator.n_untried == 4 * len(visited) - len(tried)
    deep = Simulator(environment("DeepSea-6", 0.99), seed=0)
    learner = ValueIteration(37, 2, 0.99, (-1.0, 1.0), rng())
    deep.episode(learner)
    assert learner.n.sum() == 6  # terminated, and its last state is never acted in
    assert not deep.visited[36]


def test_giving_up_needs_a_bad_policy_and_something_untried():
    # Value iteration that never explores rests at the left end of the river.
    greedy = cell(environment="RiverSwim-12", method="Boltzmann + VI", constant=None)
    lost = score_cell(greedy | {"episodes": 3}, None)[0]
    assert lost["gives_up"]
    assert lost["untried"] > 0
    found = score_cell(cell(environment="RiverSwim-6"), None)[0]
    assert not found["gives_up"]
    assert found["solved"] is not None
    assert found["regret"] < 10


@pytest.mark.parametrize(
    ("part", "stops"),
    [("regret", False), ("foreign", False), ("convergence", True), ("deep sea", True)],
)
def test_regret_is_that_of_all_episodes_and_other_parts_end_when_solved(part, stops):
    row = score_cell(cell(part=part, episodes=30), None)[0]
    assert row["solved"] is not None
    assert row["curve"][-1][0] == (row["solved"] + 7 if stops else 30)


def test_same_seed_same_row():
    for method in ("PSRL", "Q-learning", "Boltzmann + VI"):
        run = cell(method=method, constant=None, episodes=8)
        assert score_cell(run, None) == score_cell(run, None)
        assert score_cell(run, None) != score_cell(run | {"seed": 1}, None)


def test_cells_differ_and_leave_out_tabrl_without_a_checkpoint():
    cells = Protocol().cells()
    assert len({tuple(c.items()) for c in cells}) == len(cells)
    methods = {c["method"] for c in Protocol(checkpoint=None).cells()}
    assert TABRL not in methods
    assert {c["constant"] for c in cells if c["method"] == "UCB-VI"} == {0.01, 0.1, 1}
    with pytest.raises(ValueError, match="needs a checkpoint"):
        score_cell(cell(method=TABRL, constant=None), None)


def test_a_slow_method_runs_less_and_a_missing_one_or_world_not_at_all(
    registry, monkeypatch, capsys
):
    class Slow(Boltzmann):
        name = "slow"
        environments = ("RiverSwim-6", "DeepSea-6")
        max_seeds = 2

    class Absent(Boltzmann):
        name = "absent"
        package = "no_such_package"

    register(Slow)
    register(Absent)
    protocol = Protocol(
        environments=("RiverSwim-6", "gridworld-3x3"),
        methods=("slow", "absent", "Boltzmann + VI"),
        n_seeds=3,
        n_episodes=1,
        convergence_seeds=0,
        sizes=(),
        foreign=(),
    )
    runs = [(c["method"], c["environment"]) for c in protocol.cells()]
    assert runs.count(("slow", "RiverSwim-6")) == 2
    assert runs.count(("slow", "gridworld-3x3")) == 0
    assert runs.count(("absent", "gridworld-3x3")) == 3

    def build(name, gamma):
        if name == "gridworld-3x3":
            raise ModuleNotFoundError("It needs a package.")

    monkeypatch.setattr(online, "environment", build)
    rows = online.run(protocol, progress_bar=False)
    found = {(row["method"], row["environment"]) for row in rows}
    assert found == {("slow", "RiverSwim-6"), ("Boltzmann + VI", "RiverSwim-6")}
    said = capsys.readouterr().err
    assert "Left out: absent, as no_such_package is not installed" in said
    assert "Left out: gridworld-3x3. It needs a package." in said


def test_run_writes_rows_and_goes_on_with_them(tmp_path):
    protocol = Protocol(
        environments=("RiverSwim-6",),
        methods=("UCB-VI", "Boltzmann + VI"),
        n_seeds=1,
        n_episodes=3,
        convergence_seeds=0,
        sizes=(),
        foreign=(),
        checkpoint=None,
    )
    path = tmp_path / "online.jsonl"
    rows = online.run(protocol, path, progress_bar=False)
    assert len(rows) == 4
    assert read_results(path)[1] == rows
    size = path.stat().st_size
    assert online.run(protocol, path, progress_bar=False) == rows
    assert path.stat().st_size == size


@pytest.fixture
def registry():
    """Forget what a test registers."""
    before = dict(LEARNERS)
    yield
    LEARNERS.clear()
    LEARNERS.update(before)


@pytest.mark.usefixtures("registry")
def test_a_method_of_ones_own_is_one_class_and_one_registration():
    class Always(Learner):
        """Takes the same action everywhere."""

        name = "always"
        constants = (0, 1)

        def begin(self):
            self.follow(np.eye(self.n_actions)[[self.constant] * self.n_states])

        def exploit(self):
            return self.policy()

    register(Always)
    protocol = Protocol(
        environments=("RiverSwim-6",),
        methods=("always",),
        n_seeds=2,
        n_episodes=10,
        convergence_seeds=0,
        sizes=(),
        foreign=(),
        checkpoint=None,
    )
    rows = online.run(protocol, progress_bar=False)
    assert [row["constant"] for row in rows] == [0, 0, 1, 1]
    # To swim against the current all the time is optimal there.
    assert [row["regret"] for row in rows[2:]] == pytest.approx([0, 0], abs=1e-9)
    assert [row["solved"] for row in rows] == [None, None, 1, 1]
    with pytest.raises(ValueError, match="'always' is taken by Always"):
        register(Always)
    with pytest.raises(ValueError, match="Got 'never'; there are tabrl"):
        Protocol(methods=("never",)).cells()


# tabrl


@pytest.mark.parametrize("name", ["FrozenLake-v1", "RiverSwim-6"])
def test_tabrl_follows_the_policies_that_are_scored(name):
    """What `exploration_proba` gives at each step is what the simulator says."""
    env = environment(name, 0.99)
    learner = make_learner(env, TABRL, None, 0, "auto")
    simulator = Simulator(env, 0)
    n_policies = 0
    for _ in range(5):
        followed, taken = [], []
        act, observe = learner.act, learner.agent.observe

        def acting(state, act=act, taken=taken):
            taken.append((state, act(state)))
            return taken[-1][1]

        def observing(*transition, agent=learner.agent, done=followed, observe=observe):
            done.append(agent.exploration_proba(np.arange(env.n_states)))
            observe(*transition)

        learner.begin()
        learner.act, learner.agent.observe = acting, observing
        policies = simulator.episode(learner)
        learner.act, learner.agent.observe = act, observe
        n_policies += len(policies)
        steps = [step for step, _, _ in policies]
        assert steps[0] == 0
        for step, ((state, action), pi) in enumerate(zip(taken, followed, strict=True)):
            i = np.searchsorted(steps, step, side="right") - 1
            np.testing.assert_array_equal(pi, policies[i][2])
            assert pi[state, action] > 0
            assert step != steps[i] or state == policies[i][1]
    assert n_policies > 5  # it did plan within an episode


class Changing(Learner):
    """Follows other policies, drawn at random, from given steps on."""

    steps = (0, 1, 4)

    def begin(self):
        self.t = 0

    def act(self, state):
        if self.t in self.steps:
            self.follow(self.policies[self.steps.index(self.t)])
        self.t += 1
        return super().act(state)


@pytest.mark.parametrize("name", ["gridworld-3x3", "FrozenLake-v1"])
def test_followed_regret_is_that_of_all_policies_in_turn(name):
    env = environment(name, 0.9)
    learner = Changing(env.n_states, env.n_actions, 0.9, (-1.0, 10.0), rng())
    learner.policies = list(rng().dirichlet(np.ones(env.n_actions), (3, env.n_states)))
    # By backward induction over the first steps.
    v = env.policy_value(learner.policies[2])
    for step in (3, 2, 1, 0):
        pi = learner.policies[min(step, 1)]
        q = env.expected_reward + 0.9 * (env.transition @ v).reshape(pi.shape)
        v = (pi * q).sum(1)
    expected = 1 - float(env.start @ env.normalise(v))

    losses = [1 - env.normalise(env.policy_value(pi)) for pi in learner.policies]

    def loss(pi):
        return next(
            of for of, one in zip(losses, learner.policies, strict=True) if one is pi
        )

    simulator, scores = Simulator(env, 0), []
    for _ in range(4000):
        learner.begin()
        policies = simulator.episode(learner)
        scores.append(followed_regret(policies, loss, env.gamma, env.start))
    error = np.std(scores) / np.sqrt(len(scores))
    assert np.mean(scores) == pytest.approx(expected, abs=4 * error)
    first = float(env.start @ loss(learner.policies[0]))
    assert abs(first - expected) > 10 * error  # scoring the first would be seen


def test_tabrl_and_quick_protocol_have_a_row():
    run = next(c for c in QUICK.cells() if c["method"] == TABRL)
    row = score_cell(run | {"episodes": 3}, "auto")[0]
    assert 0 <= row["regret"] <= 6
    assert len(row["curve"]) == 3
