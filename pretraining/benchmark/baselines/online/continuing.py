"""Learners of the package statisticalrl-learners: UCRL3, KL-UCRL, IMED-RL, UCRL2B.

They were made for a continuing setting: one endless stream of transitions, rewards in
[0, 1] and the average reward as the objective. Here they meet discounted episodes, and
nothing in them knows of that:

- What ends an episode leads, for them, to the state in which the next one starts. So
  they maximise the average reward of a process that restarts for ever. An end that
  spares further losses is worth nothing to them.
- Where an episode is cut at the limit, they see the transition as it was; the next one
  starts from another state.
- They know neither gamma nor the start distribution.

Rewards are scaled by their range. What they have learnt, for `exploit`, is the optimal
policy of the observed frequencies, discounted, as for UCB-VI and PSRL: only the
exploration is theirs. The confidence level is 0.1, that of our UCB-VI.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.online.value_iteration import ValueIteration

_DELTA = 0.1
_MODULES = "statisticalrl_learners.MDPs_discrete."
# What the package sees as numpy. It was written for numpy 1, which had `infty`, and
# draws from numpy's global generator: each call puts the learner's own in its place.
_NUMPY = SimpleNamespace(**vars(np))
_NUMPY.infty = np.inf


def _package_class(module: str, name: str) -> Any:
    """Import a class of the package, whose modules see `_NUMPY`."""
    had_infty = "infty" in vars(np)
    if not had_infty:  # UCRL3 has it as a default argument
        setattr(np, "infty", np.inf)  # noqa: B010 mypy knows numpy 2
    try:
        imported = import_module(_MODULES + module)
        utils = import_module(_MODULES + "utils")
    finally:
        if not had_infty:
            delattr(np, "infty")
    imported.np = utils.np = _NUMPY  # type: ignore[attr-defined]
    return getattr(imported, name)


class Continuing(ValueIteration):
    """A learner of the package, in episodes.

    Parameters
    ----------
    *args
        As for `Learner`.

    Attributes
    ----------
    module, class_name : str
        Where the package has it.
    """

    parts = ("regret", "foreign")
    # Where a run of the slowest, IMED-RL, takes some 15 seconds of a core at most. In
    # the grids UCRL3 sweeps to its limit at each plan: 80 seconds in gridworld-5x5.
    environments = (
        *("slippery-lake", "FrozenLake-v1", "forest-10", "RiverSwim-6"),
        *("RiverSwim-12", "DeepSea-6", "Garnet-20-4-3"),
        *("FrozenLake-v1-hole-100", "queue-21", "WetChicken-5x5"),
    )
    max_seeds = 5
    package = "statisticalrl_learners"
    module: ClassVar[str]
    class_name: ClassVar[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._random = np.random.RandomState(int(self.rng.integers(2**31)))
        self.agent = self.make_agent(_package_class(self.module, self.class_name))
        self._is_new = True
        # State, action and scaled reward of the step that ended the last episode.
        self._ending: tuple[int, int, float] | None = None

    def make_agent(self, kind: Any) -> Any:
        """Make an object of the package's class."""
        return kind(self.n_states, self.n_actions, _DELTA)

    def begin(self) -> None:
        """Do nothing: the package's learners plan when they choose to."""

    def act(self, state: int) -> int:
        """Let the agent choose, perhaps by a new plan."""
        if self._is_new:
            self.call("reset", state)
            self._is_new = False
        if self._ending is not None:
            self.update(*self._ending, state)
            self._ending = None
        action = int(self.call("play", state))
        self.read_policy()
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
        """Let the agent observe; after an end, when the next episode has begun."""
        super().observe(state, action, reward, next_state, terminated, truncated)
        low, high = self.reward_range
        scaled = (reward - low) / (high - low)
        if terminated:
            self._ending = (state, action, scaled)
        else:
            self.update(state, action, scaled, next_state)

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Show the agent a transition."""
        if hasattr(self.agent, "observations"):
            # KL-UCRL reads the state from its log, where an episode that was cut left
            # another one.
            self.agent.observations[0][-1] = state
        self.call("update", state, action, reward, next_state)

    def read_policy(self) -> None:
        """Follow what the agent follows by now."""
        if not np.array_equal(self.agent.policy, self.pi):
            self.follow(np.array(self.agent.policy, dtype=float))

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the agent, with the learner's own source of randomness."""
        _NUMPY.random = self._random
        # UCRL3 divides by its number of visits before there are any, and prints where
        # its value iteration is cut at 1,000 sweeps.
        with np.errstate(all="ignore"), redirect_stdout(io.StringIO()):
            return getattr(self.agent, method)(*args)


class UCRL3(Continuing):
    """UCRL3 (Bourel, Maillard and Talebi 2020)."""

    name, module, class_name = "UCRL3", "UCRL3", "UCRL3"


class KLUCRL(Continuing):
    """KL-UCRL (Filippi, Cappe and Garivier 2010)."""

    name, module, class_name = "KL-UCRL", "KLUCRL", "KLUCRL"


class UCRL2B(Continuing):
    """UCRL2 with Bernstein bounds (Fruit, Pirotta and Lazaric 2020)."""

    name, module, class_name = "UCRL2B", "UCRL2B", "UCRL2B"


class IMEDRL(Continuing):
    """IMED-RL (Pesquerel and Maillard 2022), which has indices and no policy.

    Its indices change at every step. The policy that is scored is that of all states
    at the start of an episode.
    """

    name, module, class_name = "IMED-RL", "IMED_RL", "IMEDRL"

    def make_agent(self, kind: Any) -> Any:
        """Make an object of the package's class, which has no confidence level."""
        return kind(self.n_states, self.n_actions)

    def begin(self) -> None:
        """Score the episode by the policy of its first step."""
        self._is_scored = False

    def read_policy(self) -> None:
        """Read the policy of all states at the first step of an episode."""
        if not self._is_scored:
            self.follow(self._choices())
            self._is_scored = True

    def _choices(self) -> NDArray[np.float64]:
        agent = self.agent
        phi = agent.phi.copy()
        if agent.all_selected.any():
            self.call("value_iteration")
        pi = np.zeros((self.n_states, self.n_actions))
        for state in range(self.n_states):
            index = agent.state_action_pulls[state]
            if agent.all_selected[state]:
                self.call("multinomial_imed", state)
                index = agent.index
            best = index == index.min()
            pi[state] = best / best.sum()
        agent.phi = phi  # as if no one had looked
        return pi
