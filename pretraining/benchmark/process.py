"""A known finite process: exact scores of a policy, and simulated logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pretraining.benchmark.exact import evaluate, policy_iteration

# The format of gymnasium's toy-text environments:
# table[state][action] = [(probability, next_state, reward, terminated), ...]
Outcome = tuple[float, int, float, bool]
Table = Sequence[Sequence[Sequence[Outcome]]]

# Steps of an online episode where the source has no limit of its own: twice to five
# times what crossing the small development environments takes.
EPISODE_STEPS = 50


@dataclass(frozen=True, eq=False)
class Environment:
    """A known finite process, its discount factor and its start distribution.

    Parameters
    ----------
    name : str
        Name in every table of the benchmark.
    next_state : int64 array of shape (S, A, K)
        The K possible outcomes of each pair, padded with probability 0.
    prob, reward : arrays of shape (S, A, K)
        Probability and reward of each outcome.
    terminated : bool array of shape (S, A, K)
        Whether the outcome ends the episode: it then has no continuation value.
    start : array of shape (S,)
        Start distribution.
    gamma : float
        Discount factor in [0, 1).
    seed : int, default=0
        In a family of environments, which one of them this is.
    episode_steps : int, default=50
        Steps after which an online episode is truncated.
    """

    name: str
    next_state: NDArray[np.int64]
    prob: NDArray[np.float64]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    start: NDArray[np.float64]
    gamma: float
    seed: int = 0
    episode_steps: int = EPISODE_STEPS

    @property
    def n_states(self) -> int:
        """Number of states, S."""
        return self.prob.shape[0]

    @property
    def n_actions(self) -> int:
        """Number of actions, A."""
        return self.prob.shape[1]

    @cached_property
    def expected_reward(self) -> NDArray[np.float64]:
        """Expected reward of each pair, (S, A)."""
        return (self.prob * self.reward).sum(axis=2)

    @cached_property
    def transition(self) -> sparse.csr_array:
        """Probabilities of the successors that do not end the episode, (S * A, S)."""
        goes_on = (self.prob > 0) & ~self.terminated
        s, a, _ = np.nonzero(goes_on)
        pair = s * self.n_actions + a
        # The conversion adds up outcomes that lead to the same state.
        entries = (self.prob[goes_on], (pair, self.next_state[goes_on]))
        shape = (self.n_states * self.n_actions, self.n_states)
        return sparse.csr_array(sparse.coo_array(entries, shape=shape))

    @cached_property
    def uniform_policy(self) -> NDArray[np.float64]:
        """The uniformly random policy, (S, A)."""
        return np.full((self.n_states, self.n_actions), 1 / self.n_actions)

    @cached_property
    def optimal_q(self) -> NDArray[np.float64]:
        """Optimal action values by policy iteration, (S, A)."""
        return policy_iteration(self.transition, self.expected_reward, self.gamma)

    @cached_property
    def _reference_values(self) -> tuple[float, float]:
        """Values of the uniform and of the optimal policy from the start."""
        uniform = self.start @ self.policy_value(self.uniform_policy)
        return float(uniform), float(self.start @ self.optimal_q.max(axis=1))

    def policy_value(self, pi: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exact state values (S,) of the policy `pi` (S, A)."""
        return evaluate(self.transition, self.expected_reward, self.gamma, pi)

    def normalised_value(self, pi: NDArray[np.float64], *, clip: bool = True) -> float:
        """Exact value from the start: 0 for the uniform policy, 1 for the optimum.

        Parameters
        ----------
        pi : array of shape (S, A)
            The policy.
        clip : bool, default=True
            Whether to clip below at -1, so that one catastrophe cannot hide all else
            in an average.

        Returns
        -------
        float
            (rho v^pi - rho v^uniform) / (rho v* - rho v^uniform), rho = `start`.
        """
        score = float(self.start @ self.normalise(self.policy_value(pi)))
        return max(score, -1.0) if clip else score

    def normalise(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale values: 0 for the uniform policy's from the start, 1 for the best."""
        uniform, optimum = self._reference_values
        return (values - uniform) / (optimum - uniform)

    def simulate(
        self,
        pi: NDArray[np.float64],
        n_transitions: int,
        rng: np.random.Generator,
        max_steps: int = 100,
    ) -> dict[str, NDArray]:
        """Log exactly `n_transitions` steps of the policy `pi`.

        Episodes run side by side and are then put one after another, so that their
        lengths are not biased; the last one is cut where the log is full.

        Parameters
        ----------
        pi : array of shape (S, A)
            Behaviour policy.
        n_transitions : int
            Rows of the log.
        rng : numpy.random.Generator
            Source of randomness.
        max_steps : int, default=100
            An episode that has not ended after so many steps is truncated.

        Returns
        -------
        dict of arrays of shape (n_transitions,)
            `state`, `action`, `reward`, `next_state`, `terminated`, `truncated`,
            `episode`, `step`.
        """
        rounds: list[dict[str, NDArray]] = []
        n_rows = n_episodes = 0
        while n_rows < n_transitions:
            # Enough episodes if they last as long as those before them, or 10 steps.
            length = n_rows / n_episodes if n_episodes else min(10, max_steps)
            batch = 1 + int((n_transitions - n_rows) / length)
            rows = self._simulate_episodes(pi, batch, rng, max_steps)
            rows["episode"] += n_episodes
            rounds.append(rows)
            n_rows += len(rows["state"])
            n_episodes += batch
        log = {
            name: np.concatenate([rows[name] for rows in rounds])[:n_transitions]
            for name in rounds[0]
        }
        # The end of the log is a truncation as well, unless the episode ended there.
        log["truncated"][-1:] = ~log["terminated"][-1:]
        return log

    def _simulate_episodes(
        self,
        pi: NDArray[np.float64],
        n_episodes: int,
        rng: np.random.Generator,
        max_steps: int,
    ) -> dict[str, NDArray]:
        """`n_episodes` whole episodes, sorted by episode and step."""
        policy_cdf, outcome_cdf = _cdf(pi), _cdf(self.prob)
        alive = np.arange(n_episodes)
        state = _draw(np.tile(_cdf(self.start), (n_episodes, 1)), rng)
        steps: list[dict[str, NDArray]] = []
        for step in range(max_steps):
            action = _draw(policy_cdf[state], rng)
            outcome = (state, action, _draw(outcome_cdf[state, action], rng))
            terminated = self.terminated[outcome]
            steps.append(
                {
                    "state": state,
                    "action": action,
                    "reward": self.reward[outcome],
                    "next_state": self.next_state[outcome],
                    "terminated": terminated,
                    "truncated": ~terminated & (step == max_steps - 1),
                    "episode": alive,
                    "step": np.full(len(alive), step),
                }
            )
            state, alive = self.next_state[outcome][~terminated], alive[~terminated]
            if len(alive) == 0:
                break
        rows = {name: np.concatenate([s[name] for s in steps]) for name in steps[0]}
        # Rows are in the order of steps, so a stable sort keeps it within episodes.
        order = np.argsort(rows["episode"], kind="stable")
        return {name: column[order] for name, column in rows.items()}


def _cdf(prob: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative probabilities along the last axis, the last one exactly 1."""
    cdf = np.cumsum(prob, axis=-1)
    return cdf / cdf[..., -1:]


def _draw(cdf: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """One index a row of `cdf`, never one of probability 0."""
    return (rng.random((len(cdf), 1)) >= cdf).sum(axis=1)


def from_table(
    name: str, table: Table, start: NDArray[np.float64], gamma: float
) -> Environment:
    """Build an environment from gymnasium's table of outcomes.

    Parameters
    ----------
    name : str
        Name of the environment.
    table : nested sequence
        ``table[s][a]`` is a list of (probability, next state, reward, terminated).
    start : array of shape (S,)
        Start distribution.
    gamma : float
        Discount factor in [0, 1).

    Returns
    -------
    Environment
        The same process as arrays.
    """
    n_outcomes = max(len(outcomes) for row in table for outcomes in row)
    padding: Outcome = (0.0, 0, 0.0, False)
    padded = np.array(
        [
            [[*outcomes] + [padding] * (n_outcomes - len(outcomes)) for outcomes in row]
            for row in table
        ],
        dtype=np.float64,
    )  # (S, A, K, 4)
    prob, next_state, reward, terminated = np.moveaxis(padded, -1, 0)
    return Environment(
        name=name,
        next_state=next_state.astype(np.int64),
        prob=prob,
        reward=reward,
        terminated=terminated.astype(bool),
        start=np.asarray(start, dtype=np.float64),
        gamma=gamma,
    )
