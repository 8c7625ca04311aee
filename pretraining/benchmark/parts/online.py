"""Online benchmark: exact regret of every episode, and episodes until solved.

A cell is a method with its constant in an environment with a seed, for a part of the
protocol:

- ``regret``: a fixed number of episodes at gamma 0.99;
- ``convergence``: the protocol of arXiv 2606.18812, at gamma 0.95 until solved, which
  is 0.95 of the optimal value from the start (not of what the optimum has above the
  uniform policy, as in the other parts);
- ``deep sea``: until solved, by the size of the sea.

Solved means that the greedy policy is good enough for 8 episodes in a row, and was
solved in the first of them; episodes count from 1. The regret of an episode is 1 less
the normalised value of what was followed in it, see `executed`, clipped to [-2, 2]: of
Q-learning, which changes at every step, it is the policy at its start.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines import packages as peers
from pretraining.benchmark.baselines.online import (
    PSRL,
    UCBVI,
    Learner,
    QLearning,
    ValueIteration,
)
from pretraining.benchmark.cells import Cell, Row, run_part
from pretraining.benchmark.environments import environment
from pretraining.benchmark.process import Environment

TABRL, SEED, DQN = "tabrl", "seed model", "DQN"
UCB_VI, UCB_VI_CONSTANTS = "UCB-VI", (0.01, 0.1, 1.0)
BOLTZMANN_TEMPERATURE = 0.3
# Methods without a constant, and what makes them.
_MAKERS: dict[str, Any] = {
    "PSRL": PSRL,
    "Q-learning": QLearning,
    "random + VI": ValueIteration,
    "Boltzmann + VI": partial(ValueIteration, temperature=BOLTZMANN_TEMPERATURE),
}
# What the seed paper runs.
_FIXED_RATE = "Q-learning, rate 0.1"
_MAKERS[_FIXED_RATE] = partial(QLearning, rate=0.1)
METHODS = (
    *(TABRL, UCB_VI, "PSRL", "Q-learning", "random + VI", "Boltzmann + VI", SEED),
)

ENVIRONMENTS = (
    *("gridworld-3x3", "gridworld-5x5", "slippery-lake"),
    *("FrozenLake-v1", "FrozenLake-v1-not-slippery", "FrozenLake8x8-v1"),
    *("CliffWalking-v1", "two-rooms", "forest-10"),
    *("RiverSwim-6", "RiverSwim-12", "DeepSea-6", "DeepSea-10", "DeepSea-20"),
    *("Garnet-20-4-3", "Garnet-50-4-4"),
)
CONVERGENCE_ENVIRONMENTS = ("gridworld-3x3", "gridworld-5x5", "slippery-lake")
DQN_ENVIRONMENTS = ("gridworld-3x3", "FrozenLake-v1", "DeepSea-6")
DQN_SEEDS, DQN_EVERY = 3, 5

_GOOD, _IN_A_ROW = 0.95, 8
_CURVE_POINTS = 60


@dataclass(frozen=True)
class Protocol:
    """What the online benchmark runs.

    Parameters
    ----------
    environments : sequence of str
        Names of the environments of the regret part.
    methods : sequence of str
        Of `METHODS`; tabrl is left out without a checkpoint.
    n_seeds, n_episodes : int
        Runs and episodes of the regret part.
    convergence_seeds : int
        Runs of the convergence part, of at most `convergence_episodes`.
    convergence_episodes : int
        See above.
    sizes : sequence of int
        Of the deep sea; a run lasts at most 40 episodes a row of it.
    size_seeds : int
        Runs of the deep sea part.
    dqn : bool
        Whether to run DQN of stable-baselines3, on `DQN_ENVIRONMENTS` with `DQN_SEEDS`
        seeds.
    checkpoint : str or None
        What `OnlineAgent` takes; None leaves tabrl out.
    baselines : bool
        Whether to run what is not tabrl.
    seed_model : str or None
        Folder of `pretraining.benchmark.baselines.seed_model`; None leaves that out.
    seed : int
        Seed of the first run; the others follow.
    """

    environments: Sequence[str] = ENVIRONMENTS
    methods: Sequence[str] = METHODS
    n_seeds: int = 20
    n_episodes: int = 300
    convergence_seeds: int = 12
    convergence_episodes: int = 2000
    sizes: Sequence[int] = (6, 10, 20, 30, 50)
    size_seeds: int = 3
    dqn: bool = False
    checkpoint: str | None = "auto"
    baselines: bool = True
    seed_model: str | None = None
    seed: int = 0

    def cells(self) -> list[Row]:
        """Parameters of each cell."""
        runs = {TABRL: self.checkpoint is not None, SEED: self.seed_model is not None}
        methods = [m for m in self.methods if runs.get(m, self.baselines)]
        tuned = [
            (method, constant)
            for method in methods
            for constant in (UCB_VI_CONSTANTS if method == UCB_VI else (None,))
        ]
        deep = [(method, c) for method, c in tuned if method in (TABRL, UCB_VI)]
        dqn = [(DQN, None)] if self.dqn else []
        groups: list[tuple] = [
            ("regret", 0.99, self.environments, tuned, self.n_seeds, self.n_episodes),
            ("regret", 0.99, DQN_ENVIRONMENTS, dqn, DQN_SEEDS, self.n_episodes),
            (
                *("convergence", 0.95, CONVERGENCE_ENVIRONMENTS),
                [*tuned, *([(_FIXED_RATE, None)] if self.baselines else [])],
                *(self.convergence_seeds, self.convergence_episodes),
            ),
        ]
        groups += [
            ("deep sea", 0.99, [f"DeepSea-{n}"], deep, self.size_seeds, 40 * n)
            for n in self.sizes
        ]
        return [
            {
                "part": part,
                "gamma": gamma,
                "environment": name,
                "method": method,
                "constant": constant,
                "episodes": n_episodes,
                "seed": self.seed + i,
            }
            for part, gamma, names, chosen, n_seeds, n_episodes in groups
            for name, (method, constant), i in product(names, chosen, range(n_seeds))
        ]


QUICK = Protocol(
    environments=("gridworld-5x5", "FrozenLake-v1", "RiverSwim-6", "DeepSea-6"),
    n_seeds=2,
    n_episodes=60,
    convergence_seeds=2,
    convergence_episodes=100,
    sizes=(6, 10),
    size_seeds=2,
)


class Tabrl(Learner):
    """The exploring agent, through its public interface alone."""

    def __init__(self, *args: Any, checkpoint: str, seed: int) -> None:
        # Imported here, so that the baselines run without torch and a checkpoint.
        from tabrl import OnlineAgent

        super().__init__(*args)
        self._states = np.arange(len(self.n))
        self._n_plans = 0
        self.agent = OnlineAgent(
            *self.n.shape,
            gamma=self.gamma,
            reward_range=self.reward_range,
            checkpoint=checkpoint,
            random_state=seed,
        )

    def begin(self) -> None:
        """Let the agent plan for the episode that begins."""
        self.pi = self.agent.exploration_proba(self._states)
        self._n_plans = self.agent.n_plans_

    def act(self, state: int) -> int:
        """Let the agent choose, perhaps by a new plan."""
        action = self.agent.act(state)
        if self.agent.n_plans_ > self._n_plans:
            self.begin()
        return action

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Let the agent observe."""
        self.agent.observe(state, action, reward, next_state, terminated, truncated)

    def exploit(self) -> NDArray[np.float64]:
        """Return what the agent predicts."""
        return np.eye(self.n.shape[1])[self.agent.predict(self._states)]


def make_learner(
    env: Environment,
    method: str,
    constant: float | None,
    seed: int,
    checkpoint: str | None,
    seed_model: str | None = None,
) -> Learner:
    """Make what a cell runs, ignorant of all but sizes, gamma and reward range."""
    possible = env.reward[env.prob > 0]
    # What follows termination pays 0.
    span = (min(float(possible.min()), 0.0), max(float(possible.max()), 0.0))
    rng = np.random.default_rng([zlib.crc32(method.encode()), seed])
    args = (env.n_states, env.n_actions, env.gamma, span, rng)
    if method == TABRL:
        if checkpoint is None:
            raise ValueError("tabrl needs a checkpoint. Got None.")
        return Tabrl(*args, checkpoint=checkpoint, seed=seed)
    if method == SEED:
        from pretraining.benchmark.baselines.seed_model import SeedLearner, load

        if seed_model is None:
            raise ValueError("The seed's model needs its folder. Got None.")
        return SeedLearner(*args, model=load(seed_model))
    if constant is not None:
        return UCBVI(*args, c=constant)
    return _MAKERS[method](*args)


class Simulator:
    """Plays episodes of an environment, and knows what was tried in them.

    Parameters
    ----------
    env : Environment
        The process.
    seed : int
        Of its outcomes, the same for every method.

    Attributes
    ----------
    n : array of shape (S, A)
        How often each pair was tried.
    visited : bool array of shape (S,)
        States that an action was, or could have been, taken in.
    """

    def __init__(self, env: Environment, seed: int) -> None:
        self.max_steps = env.episode_steps
        self.n = np.zeros((env.n_states, env.n_actions))
        self.visited = np.zeros(env.n_states, dtype=bool)
        self._rng = np.random.default_rng([zlib.crc32(env.name.encode()), seed])
        # Plain lists, which Python reads much faster than arrays.
        self._start = np.cumsum(env.start).tolist()
        self._cumulative = np.cumsum(env.prob, axis=2).tolist()
        self._next, self._reward = env.next_state.tolist(), env.reward.tolist()
        self._terminated = env.terminated.tolist()

    def episode(self, learner: Learner) -> list[tuple[int, int, NDArray[np.float64]]]:
        """Let the learner act for one episode; return which policies it followed.

        Returns
        -------
        list of (int, int, array of shape (S, A))
            Of each policy, from which step on, counted from 0, and in which state.
        """
        state = self._draw(self._start)
        self.visited[state] = True
        policies: list[tuple[int, int, NDArray[np.float64]]] = []
        for step in range(1, self.max_steps + 1):
            action = learner.act(state)
            pi = learner.policy()
            if not policies or pi is not policies[-1][2]:
                policies.append((step - 1, state, pi))
            outcome = self._draw(self._cumulative[state][action])
            reward = self._reward[state][action][outcome]
            terminated = self._terminated[state][action][outcome]
            after = self._next[state][action][outcome]
            truncated = step == self.max_steps and not terminated
            learner.observe(state, action, reward, after, terminated, truncated)
            self.n[state, action] += 1
            if terminated:
                break
            state = after
            self.visited[state] = True
        return policies

    @property
    def n_tried(self) -> int:
        """Number of pairs tried."""
        return int(np.count_nonzero(self.n))

    @property
    def n_untried(self) -> int:
        """Number of pairs not tried in states visited, so known how to reach."""
        return int((self.n[self.visited] == 0).sum())

    def _draw(self, cumulative: list[float]) -> int:
        return bisect_right(cumulative, self._rng.random() * cumulative[-1])


def good_value(env: Environment, relative: bool) -> float:
    """Return the normalised value from which on a policy counts as good.

    Parameters
    ----------
    env : Environment
        The process.
    relative : bool
        Whether that is 0.95 of the optimal value from the start, which must be
        positive, instead of 0.95 of what it has above the uniform policy's.
    """
    if not relative:
        return _GOOD
    uniform = float(env.start @ env.policy_value(env.uniform_policy))
    optimum = float(env.start @ env.optimal_q.max(axis=1))
    return (_GOOD * optimum - uniform) / (optimum - uniform)


def solved(good: Sequence[bool]) -> int | None:
    """Return the first of the first 8 good episodes in a row, None without such.

    Examples
    --------
    >>> solved([True] * 7 + [False] + [True] * 9)
    9
    """
    streak = 0
    for episode, is_good in enumerate(good, start=1):
        streak = streak + 1 if is_good else 0
        if streak == _IN_A_ROW:
            return episode - _IN_A_ROW + 1
    return None


def regret(values: Sequence[float]) -> Row:
    """Sum up the normalised values of the policies followed in each episode.

    Returns
    -------
    dict
        `regret`, `regret_unclipped` and `curve`, see `score_cell`.
    """
    unclipped = 1 - np.array(values)
    cumulative = unclipped.clip(-2.0, 2.0).cumsum()
    points = np.unique(np.linspace(1, len(values), _CURVE_POINTS).round().astype(int))
    return {
        "regret": float(cumulative[-1]),
        "regret_unclipped": float(unclipped.sum()),
        "curve": [[int(i), round(float(cumulative[i - 1]), 4)] for i in points],
    }


def score_cell(
    cell: Cell, checkpoint: str | None, seed_model: str | None = None
) -> list[Row]:
    """Run one cell.

    Parameters
    ----------
    cell : mapping
        An item of `Protocol.cells`.
    checkpoint : str or None
        For tabrl.
    seed_model : str or None
        For the seed's model.

    Returns
    -------
    list of dict
        One row:

        - `regret`, the sum over episodes, and `regret_unclipped`;
        - `curve`, the cumulative regret after some episodes, [episode, regret] each;
        - `solved`, when the greedy policy was, before the run stopped; None if never;
        - `last_new_pair`, the last episode that tried a pair for the first time;
        - `untried`, how many pairs it knew how to reach and never tried;
        - `gives_up`, whether there are any though the greedy policy is not good in
          the end.

        DQN has the first three, every `DQN_EVERY` episodes being taken as alike.
    """
    env = environment(cell["environment"], cell["gamma"], cell["seed"])
    threshold = good_value(env, relative=cell["part"] == "convergence")
    if cell["method"] == DQN:
        return [_score_dqn(env, cell, threshold)]
    learner = make_learner(
        env, cell["method"], cell["constant"], cell["seed"], checkpoint, seed_model
    )
    simulator = Simulator(env, cell["seed"])
    value = _Value(env)
    followed: list[float] = []
    good: list[bool] = []
    n_tried = last_new_pair = 0
    for episode in range(1, cell["episodes"] + 1):
        learner.begin()
        followed.append(executed(env, value, simulator.episode(learner)))
        if simulator.n_tried > n_tried:
            n_tried, last_new_pair = simulator.n_tried, episode
        good.append(float(env.start @ value(learner.exploit())) >= threshold)
        if cell["part"] != "regret" and solved(good[-_IN_A_ROW:]):
            break
    untried = simulator.n_untried
    return [
        {
            **regret(followed),
            "solved": solved(good),
            "last_new_pair": last_new_pair,
            "untried": untried,
            "gives_up": untried > 0 and not good[-1],
        }
    ]


class _Value:
    """Normalised state values of policies, most of them the same as one before."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def __call__(self, pi: NDArray[np.float64]) -> NDArray[np.float64]:
        key = pi.tobytes()
        if key not in self._known:
            while len(self._known) >= 2:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._env.normalise(self._env.policy_value(pi))
        return self._known[key]


def executed(
    env: Environment,
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    policies: Sequence[tuple[int, int, NDArray[np.float64]]],
) -> float:
    """Return the normalised value of what was followed in an episode.

    That is the value from the start distribution of the first policy, and for every
    change of policy after t steps in a state s, ``gamma**t`` times what the value of s
    gained by it. In expectation over episodes this is the value of the policy that
    depends on the past as the learner does; it is free of the noise of rewards, and of
    all noise where the policy stays.

    Parameters
    ----------
    env : Environment
        The process.
    value : callable
        Takes a policy (S, A) to its normalised state values (S,).
    policies : sequence of (int, int, array)
        From `Simulator.episode`.
    """
    (_, _, before), *changes = policies
    total = float(env.start @ value(before))
    for step, state, pi in changes:
        gain = value(pi)[state] - value(before)[state]
        total += env.gamma**step * float(gain)
        before = pi
    return total


def _score_dqn(env: Environment, cell: Cell, threshold: float) -> Row:
    records = peers.dqn_policies(
        env, cell["episodes"], DQN_EVERY, cell["seed"], max_steps=env.episode_steps
    )
    values, good = [], []
    for _, pi, rate in records[:-1]:
        followed = (1 - rate) * pi + rate * env.uniform_policy
        values += [env.normalised_value(followed, clip=False)] * DQN_EVERY
    for _, pi, _ in records[1:]:
        good += [env.normalised_value(pi, clip=False) >= threshold] * DQN_EVERY
    return {**regret(values), "solved": solved(good)}


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`."""
    cells = protocol.cells()
    if protocol.dqn and peers.missing("stable_baselines3", DQN):
        cells = [cell for cell in cells if cell["method"] != DQN]
    score = partial(
        score_cell, checkpoint=protocol.checkpoint, seed_model=protocol.seed_model
    )
    return run_part("online", protocol, cells, score, output, **options)
