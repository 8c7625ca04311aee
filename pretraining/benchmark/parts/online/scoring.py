"""Exact scores of an online cell.

Solved means that the greedy policy is good enough for 8 episodes in a row, and was
solved in the first of them; episodes count from 1. The regret of an episode is 1 less
the normalised value of what was followed in it, see `followed_regret`, clipped to
[-2, 2].
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.online import LEARNERS, Learner
from pretraining.benchmark.baselines.online.dqn import DQN, dqn_policies
from pretraining.benchmark.cells import Cell, Row
from pretraining.benchmark.environments import environment
from pretraining.benchmark.parts.online.protocol import DQN_EVERY
from pretraining.benchmark.parts.online.simulator import Simulator
from pretraining.benchmark.process import Environment
from pretraining.benchmark.regret import followed_regret

_GOOD, _IN_A_ROW = 0.95, 8
# Parts in which a run stops once it is solved. In the others regret is summed up over
# as many episodes for every method.
_UNTIL_SOLVED = ("convergence", "deep sea")
_CURVE_POINTS = 60


def make_learner(
    env: Environment,
    method: str,
    constant: float | None,
    seed: int,
    checkpoint: str | None,
    seed_model: str | None = None,
) -> Learner:
    """Make what a cell runs, ignorant of all but sizes, gamma and reward range.

    Parameters
    ----------
    env : Environment
        The process.
    method : str
        A name of `LEARNERS`.
    constant : float or None
        One of the method's constants.
    seed : int
        Of the method's own choices.
    checkpoint, seed_model : str or None
        For the methods that need them.

    Raises
    ------
    ValueError
        If the method needs what is None.
    """
    learner = LEARNERS[method]
    possible = env.reward[env.prob > 0]
    # What follows termination pays 0.
    reward_range = (min(float(possible.min()), 0.0), max(float(possible.max()), 0.0))
    rng = np.random.default_rng([zlib.crc32(method.encode()), seed])
    given = {"checkpoint": checkpoint, "seed_model": seed_model, "seed": seed}
    needed = {name: given[name] for name in learner.needs}
    for name, value in needed.items():
        if value is None:
            raise ValueError(f"{method} needs a {name.replace('_', ' ')}. Got None.")
    return learner(
        *(env.n_states, env.n_actions, env.gamma, reward_range, rng, constant),
        **needed,
    )


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


def sum_up(regrets: Sequence[float]) -> Row:
    """Sum up the normalised regrets of the episodes.

    Returns
    -------
    dict
        `regret`, `regret_unclipped` and `curve`, see `score_cell`.
    """
    unclipped = np.array(regrets)
    cumulative = unclipped.clip(-2.0, 2.0).cumsum()
    points = np.unique(np.linspace(1, len(regrets), _CURVE_POINTS).round().astype(int))
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
    loss = _Loss(env)
    regrets: list[float] = []
    good: list[bool] = []
    n_tried = last_new_pair = 0
    for episode in range(1, cell["episodes"] + 1):
        learner.begin()
        policies = simulator.episode(learner)
        regrets.append(1 + followed_regret(policies, loss, env.gamma, env.start))
        if simulator.n_tried > n_tried:
            n_tried, last_new_pair = simulator.n_tried, episode
        good.append(-float(env.start @ loss(learner.exploit())) >= threshold)
        if cell["part"] in _UNTIL_SOLVED and solved(good[-_IN_A_ROW:]):
            break
    untried = simulator.n_untried
    return [
        {
            **sum_up(regrets),
            "solved": solved(good),
            "last_new_pair": last_new_pair,
            "untried": untried,
            "gives_up": untried > 0 and not good[-1],
        }
    ]


class _Loss:
    """Loss of each state under a policy, most policies being the same as one before.

    In units of what the optimum has above the uniform policy from the start, and
    measured from the latter's value: the optimum loses -1.
    """

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def __call__(self, pi: NDArray[np.float64]) -> NDArray[np.float64]:
        key = pi.tobytes()
        if key not in self._known:
            while len(self._known) >= 2:
                self._known.pop(next(iter(self._known)))
            self._known[key] = -self._env.normalise(self._env.policy_value(pi))
        return self._known[key]


def _score_dqn(env: Environment, cell: Cell, threshold: float) -> Row:
    records = dqn_policies(
        env, cell["episodes"], DQN_EVERY, cell["seed"], max_steps=env.episode_steps
    )
    regrets, good = [], []
    for _, pi, rate in records[:-1]:
        followed = (1 - rate) * pi + rate * env.uniform_policy
        regrets += [1 - env.normalised_value(followed, clip=False)] * DQN_EVERY
    for _, pi, _ in records[1:]:
        good += [env.normalised_value(pi, clip=False) >= threshold] * DQN_EVERY
    return {**sum_up(regrets), "solved": solved(good)}
