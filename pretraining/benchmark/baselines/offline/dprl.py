"""DPRL: act otherwise than the behaviour policy only at well-visited good actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pretraining.benchmark.baselines.offline.cloning import BehaviourCloning
from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.exact import evaluate, greedy, policy_iteration


class DPRL(Method):
    r"""Decision points RL, the discrete form of Sharma et al. 2025 (arXiv 2410.09361).

    An action is advantageous in a state if the pair was visited often enough and its
    mean return is no less than that of the state:

    .. math:: n(s, a) \ge N, \quad \hat q_b(s, a) \ge \hat v_b(s),

    both means over the first visits of the episodes. The states with such an action
    are the decision points. A semi-Markov process links them: from an advantageous
    pair, the log gives the discounted rewards up to the next decision point. The
    policy is the best one there among the advantageous actions, and the behaviour
    policy everywhere else.

    The paper's episodes end by themselves. Where ours are truncated, the value of the
    observed behaviour in the observed frequencies stands for what follows.
    """

    name = "DPRL"
    # N; what SPIBB has for the same quantity.
    constants: ClassVar[tuple[float, ...]] = (5, 10, 20, 50, 100)

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return the policy (S, A) for the least visits `constant`, N."""
        episodes = Episodes.from_data(data)
        q, v = episodes.first_visit_means(data)
        good = (data.n >= constant) & (q >= v[:, None])
        decides = good.any(axis=1)
        transition, reward = episodes.links(data, good)
        # Less than anything can return, so that no other action is chosen.
        low, high = data.reward_bounds
        never = (2 * low - high) / (1 - data.gamma) - 1.0
        best = policy_iteration(transition, np.where(good, reward, never), data.gamma)
        return np.where(decides[:, None], greedy(best), data.behaviour)


@dataclass(frozen=True, eq=False)
class Episodes:
    """The rows of a log, by their place in their episode.

    Parameters
    ----------
    pair, state, next_state : int arrays of shape (n,)
        Codes of each row, ``state * A + action``.
    reward : array of shape (n,)
        Rewards.
    terminated : bool array of shape (n,)
        Whether nothing follows a row.
    last : bool array of shape (n,)
        Whether it is the last of its episode.
    episode : int array of shape (n,)
        Number of its episode.
    rounds : list of int arrays
        The rows that are first, second, ... in their episode.
    tail : array of shape (S,)
        Value of what follows a truncated row, by its next state.
    gamma : float
        Discount factor.
    """

    pair: NDArray[np.int64]
    state: NDArray[np.int64]
    next_state: NDArray[np.int64]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    last: NDArray[np.bool_]
    episode: NDArray[np.int64]
    rounds: list[NDArray[np.int64]]
    tail: NDArray[np.float64]
    gamma: float

    @classmethod
    def from_data(cls, data: LoggedData) -> Episodes:
        """Sort the rows of a log; the order in which they stand is that of time."""
        log = data.log
        last = log["terminated"] | log["truncated"]
        last[-1:] = True
        episode = np.cumsum(last) - last
        first = np.flatnonzero(np.diff(episode, prepend=-1))
        place = np.arange(len(episode)) - first[episode]
        order = np.argsort(place, kind="stable")
        rounds = np.split(order, np.cumsum(np.bincount(place))[:-1])
        cloned = BehaviourCloning().policy(data, None)
        tail = evaluate(data.transition, data.mean_reward, data.gamma, cloned)
        return cls(
            pair=log["state"] * data.n_actions + log["action"],
            state=log["state"],
            next_state=log["next_state"],
            reward=log["reward"],
            terminated=log["terminated"],
            last=last,
            episode=episode,
            rounds=rounds,
            tail=tail,
            gamma=data.gamma,
        )

    def first_visit_means(
        self, data: LoggedData
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean return after the first visits to a pair (S, A) and to a state (S,).

        0 where there are none.
        """
        nowhere = np.zeros(data.n_states, dtype=bool)
        returns, _, _ = self.until(nowhere)

        def mean(code: NDArray[np.int64], size: int) -> NDArray[np.float64]:
            _, row = np.unique(self.episode * size + code, return_index=True)
            total = np.bincount(code[row], returns[row], size)
            return total / np.maximum(np.bincount(code[row], minlength=size), 1)

        q = mean(self.pair, data.n.size).reshape(data.n.shape)
        return q, mean(self.state, data.n_states)

    def until(
        self, decides: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Follow each row to the next decision point.

        Parameters
        ----------
        decides : bool array of shape (S,)
            The decision points.

        Returns
        -------
        reward : array of shape (n,)
            Discounted rewards on the way; with the tail if the episode was truncated
            before a decision point.
        discount : array of shape (n,)
            gamma ** (steps - 1); 0 where the episode ended first.
        target : int array of shape (n,)
            The decision point; of no meaning where the discount is 0.
        """
        reward, target = self.reward.astype(np.float64), self.next_state.copy()
        arrives = ~self.terminated & decides[self.next_state]
        discount = arrives.astype(np.float64)
        cut = self.last & ~self.terminated & ~arrives
        reward[cut] += self.gamma * self.tail[self.next_state[cut]]
        for rows in reversed(self.rounds):
            rows = rows[~self.last[rows] & ~arrives[rows]]
            reward[rows] += self.gamma * reward[rows + 1]
            discount[rows] = self.gamma * discount[rows + 1]
            target[rows] = target[rows + 1]
        return reward, discount, target

    def links(
        self, data: LoggedData, good: NDArray[np.bool_]
    ) -> tuple[sparse.csr_array, NDArray[np.float64]]:
        """Return the process between the decision points.

        Parameters
        ----------
        data : LoggedData
            The log.
        good : bool array of shape (S, A)
            The advantageous pairs.

        Returns
        -------
        transition : csr_array of shape (S * A, S)
            Chance of each next decision point times the discount, less one step's.
        reward : array of shape (S, A)
            Mean discounted reward on the way.
        """
        reward, discount, target = self.until(good.any(axis=1))
        rows = good.ravel()[self.pair]
        pair, n = self.pair[rows], np.maximum(data.n.ravel(), 1)
        entries = (discount[rows] / n[pair], (pair, target[rows]))
        transition = sparse.coo_array(entries, shape=(data.n.size, data.n_states))
        total = np.bincount(pair, reward[rows], data.n.size) / n
        return sparse.csr_array(transition), total.reshape(data.n.shape)
