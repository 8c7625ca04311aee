"""What every online method is: a learner that acts, observes and plans."""

from __future__ import annotations

from bisect import bisect_right
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


class Learner:
    """A method that acts in a process of integer states and actions, and learns.

    The benchmark calls `begin` before each episode, `act` and `observe` in turn within
    it, and reads `policy` after each `act`. After the episode it scores `exploit`.

    Parameters
    ----------
    n_states, n_actions : int
        Size of the process.
    gamma : float
        Discount factor in (0, 1).
    reward_range : (float, float)
        Smallest and largest reward of a step; 0, which is what follows termination,
        lies between.
    rng : numpy.random.Generator
        Source of randomness.
    constant : float, optional
        One of `constants`.

    Attributes
    ----------
    name : str
        Name in cells, rows and tables.
    constants : tuple
        What is tried for the method's constant. The tables take the best one of each
        environment in hindsight.
    parts : tuple of str
        Parts of the protocol that the method runs in.
    environments : tuple of str or None
        Names of those that the method runs in; None for all. For slow ones.
    max_seeds : int or None
        The most runs in an environment; None for no limit. For slow ones.
    needs : tuple of str
        Keywords that the constructor takes beside the above, of ``"checkpoint"``,
        ``"seed_model"`` and ``"seed"``. A method is left out where one is None.
    package : str or None
        Package to import, without which the method is left out.
    is_baseline : bool
        Whether the method is left out of a run of tabrl alone.
    """

    name: ClassVar[str]
    constants: ClassVar[tuple[float | None, ...]] = (None,)
    parts: ClassVar[tuple[str, ...]] = ("regret", "convergence")
    environments: ClassVar[tuple[str, ...] | None] = None
    max_seeds: ClassVar[int | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str | None] = None
    is_baseline: ClassVar[bool] = True

    def __init__(
        self,
        n_states: int,
        n_actions: int,
        gamma: float,
        reward_range: tuple[float, float],
        rng: np.random.Generator,
        constant: float | None = None,
    ) -> None:
        self.n_states = n_states
        self.n_actions = n_actions
        self.gamma = gamma
        self.reward_range = reward_range
        self.rng = rng
        self.constant = constant
        self.follow(np.full((n_states, n_actions), 1 / n_actions))

    def begin(self) -> None:
        """Plan for the episode that begins."""

    def follow(self, pi: NDArray[np.float64]) -> None:
        """Follow the policy `pi` (S, A) from now on."""
        self.pi = pi
        self._cumulative = np.cumsum(pi, axis=1).tolist()

    def policy(self) -> NDArray[np.float64]:
        """Return the policy (S, A) that is followed.

        The same object as before unless the policy has changed.
        """
        return self.pi

    def act(self, state: int) -> int:
        """Draw an action."""
        cumulative = self._cumulative[state]
        return bisect_right(cumulative, self.rng.random() * cumulative[-1])

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Learn from a transition; nothing unless a method overrides it."""

    def exploit(self) -> NDArray[np.float64]:
        """Return the greedy policy (S, A), which is what was learnt."""
        raise NotImplementedError
