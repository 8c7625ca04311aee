"""Online baselines: UCB-VI, PSRL, Q-learning, and value iteration without exploration.

Each is a `Learner`. They know the numbers of states and of actions, the discount
factor and the reward range, and plan for the discounted process, which has no end but
termination. They plan once, at the start of each episode, and then follow that policy;
Q-learning alone changes within an episode.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pretraining.benchmark.exact import greedy, policy_iteration, tolerance

# Probabilities of successors, (S * A, S).
Transition = NDArray[np.float64] | sparse.csr_array

# Up to this number of states dense arrays are faster than sparse ones.
_DENSE_STATES = 128
_SWEEPS = 20


class Learner:
    """What acts in a process of integer states and actions, and learns.

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
    """

    def __init__(
        self,
        n_states: int,
        n_actions: int,
        gamma: float,
        reward_range: tuple[float, float],
        rng: np.random.Generator,
    ) -> None:
        self.gamma = gamma
        self.reward_range = reward_range
        self.rng = rng
        self.n = np.zeros((n_states, n_actions))
        self.follow(np.full((n_states, n_actions), 1 / n_actions))

    def begin(self) -> None:
        """Plan for the episode that begins."""

    def follow(self, pi: NDArray[np.float64]) -> None:
        """Follow the policy `pi` (S, A) from now on."""
        self.pi = pi
        self._cumulative = np.cumsum(pi, axis=1).tolist()

    def policy(self) -> NDArray[np.float64]:
        """Return the policy (S, A) that is followed."""
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
        """Learn from a transition."""
        self.n[state, action] += 1

    def exploit(self) -> NDArray[np.float64]:
        """Return the greedy policy (S, A), which is what was learnt."""
        raise NotImplementedError


class ValueIteration(Learner):
    """Counts, and the optimal policy of the observed frequencies.

    Acts by the Boltzmann policy of its action values, or uniformly at random. Pairs
    never tried lead anywhere, each state alike, for a reward of 0: what untrained
    code with ``1 / n_states`` in empty rows does.

    Parameters
    ----------
    *args
        As for `Learner`.
    temperature : float, default=inf
        Of the Boltzmann policy, in units of the rewards.
    """

    def __init__(self, *args: Any, temperature: float = np.inf) -> None:
        super().__init__(*args)
        self.temperature = temperature
        self._reward_sum = np.zeros(self.n.shape)
        self._square_sum = np.zeros(self.n.shape)
        # By pair * S + next state, of what did not terminate.
        self._successors: dict[int, int] = {}
        # Where the next plans start from: those of the last episode.
        self._v_greedy: NDArray[np.float64] | None = None
        self._v_followed: NDArray[np.float64] | None = None

    def begin(self) -> None:
        """Plan for the episode that begins."""
        if np.isinf(self.temperature):
            return
        q = self.greedy_values()
        weight = np.exp((q - q.max(axis=1, keepdims=True)) / self.temperature)
        self.follow(weight / weight.sum(axis=1, keepdims=True))

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Count a transition."""
        n_states, n_actions = self.n.shape
        self.n[state, action] += 1
        self._reward_sum[state, action] += reward
        self._square_sum[state, action] += reward * reward
        if not terminated:
            code = (state * n_actions + action) * n_states + next_state
            self._successors[code] = self._successors.get(code, 0) + 1

    def exploit(self) -> NDArray[np.float64]:
        """Return the greedy policy (S, A), ties at random."""
        return greedy(self.greedy_values())

    def greedy_values(self) -> NDArray[np.float64]:
        """Return the optimal action values (S, A) of the observed frequencies."""
        n_states, n_actions = self.n.shape
        untried = np.flatnonzero(self.n == 0)
        pair, successor, count = self._observed()
        # Empty rows lead to one more state, whose value is the mean of all others:
        # the same as rows of 1 / S, and sparse. It takes no time, so undo a discount.
        anywhere = np.arange(n_states * n_actions, (n_states + 1) * n_actions)
        spread = 1 / (n_states * self.gamma)
        transition = _assemble(
            np.concatenate([pair, untried, np.repeat(anywhere, n_states)]),
            np.concatenate(
                [
                    successor,
                    np.full(len(untried), n_states),
                    np.tile(np.arange(n_states), n_actions),
                ]
            ),
            np.concatenate(
                [
                    count / self.n.ravel()[pair],
                    np.ones(len(untried)),
                    np.full(n_states * n_actions, spread),
                ]
            ),
            (n_states + 1, n_actions),
        )
        reward = np.vstack([self.mean_reward, np.zeros(n_actions)])
        q = optimal_values(transition, reward, self.gamma, self._v_greedy)
        self._v_greedy = q.max(axis=1)
        return q[:-1]

    @property
    def mean_reward(self) -> NDArray[np.float64]:
        """Mean reward of each pair (S, A), 0 where it was not tried."""
        return self._reward_sum / np.maximum(self.n, 1)

    def _observed(self) -> tuple[NDArray, NDArray, NDArray]:
        """Pair, successor and count of all that was seen not to terminate."""
        codes = np.fromiter(self._successors.keys(), np.int64, len(self._successors))
        count = np.fromiter(self._successors.values(), float, len(self._successors))
        return *np.divmod(codes, len(self.n)), count


class UCBVI(ValueIteration):
    r"""UCB-VI with Hoeffding bonuses (Azar et al. 2017), discounted and stationary.

    Optimal for the observed frequencies with the rewards

    .. math:: \min\{\hat r(s, a) + c \, (r_{max} - r_{min})
              \sqrt{\log(2 S A / \delta) / (2 n(s, a))}, r_{max}\}.

    Pairs never tried are worth :math:`r_{max} / (1 - \gamma)`, which no other value
    exceeds. The scale is the range of the rewards, not of the returns, with which
    each of the usual constants explores for ever.

    Parameters
    ----------
    *args
        As for `Learner`.
    c : float
        Scale of the bonus.
    delta : float, default=0.1
        Probability that a bound fails.
    """

    def __init__(self, *args: Any, c: float, delta: float = 0.1) -> None:
        super().__init__(*args)
        self.c = c
        self.delta = delta

    def begin(self) -> None:
        """Plan for the episode that begins."""
        pair, successor, count = self._observed()
        probability = count / self.n.ravel()[pair]
        transition = _assemble(pair, successor, probability, self.n.shape)
        q = optimal_values(
            transition, self.optimistic_reward(), self.gamma, self._v_followed
        )
        self._v_followed = q.max(axis=1)
        self.follow(greedy(q))

    def optimistic_reward(self) -> NDArray[np.float64]:
        """Return mean rewards plus bonuses (S, A)."""
        low, high = self.reward_range
        log_term = np.log(2 * self.n.size / self.delta)
        width = np.sqrt(log_term / (2 * np.maximum(self.n, 1)))
        reward = np.minimum(self.mean_reward + self.c * (high - low) * width, high)
        return np.where(self.n > 0, reward, high / (1 - self.gamma))


class PSRL(ValueIteration):
    """Posterior sampling (Strens 2000; Osband, Russo and Van Roy 2013).

    The prior of each row of probabilities is Dirichlet(1 / S) over the S states and
    termination. That of the rewards, in units of their range, is Normal-Gamma: mean
    1/2 with the weight of 0.1 observations, shape 1 and rate 0.01 of the precision;
    of the priors that we tried it has the lowest regret. Means that are drawn outside
    of the range are moved to its ends.
    """

    _STRENGTH, _SHAPE, _RATE = 0.1, 1.0, 0.01

    def begin(self) -> None:
        """Plan for the episode that begins."""
        q = optimal_values(*self.sample(), self.gamma, self._v_followed)
        self._v_followed = q.max(axis=1)
        self.follow(greedy(q))

    def sample(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw probabilities (S * A, S) and mean rewards (S, A) from the posterior."""
        n_states = len(self.n)
        pair, successor, count = self._observed()
        concentration = np.zeros((self.n.size, n_states + 1))
        concentration[pair, successor] = count
        concentration[:, -1] = self.n.ravel() - concentration.sum(axis=1)
        weight = self.rng.standard_gamma(concentration + 1 / n_states)
        transition = weight[:, :-1] / weight.sum(axis=1, keepdims=True)
        low, high = self.reward_range
        scale = high - low
        n, mean = self.n, (self.mean_reward - low) / scale
        centred = self._square_sum - self.n * self.mean_reward**2
        spread = np.maximum(centred, 0) / scale**2
        strength = self._STRENGTH + n
        shift = self._STRENGTH * n * (mean - 0.5) ** 2 / strength
        rate = self._RATE + (spread + shift) / 2
        precision = self.rng.standard_gamma(self._SHAPE + n / 2) / rate
        draw = self.rng.standard_normal(n.shape) / np.sqrt(strength * precision)
        middle = (self._STRENGTH * 0.5 + n * mean) / strength
        return transition, low + scale * np.clip(middle + draw, 0, 1)


class QLearning(Learner):
    """Q-learning that starts with the highest return possible, and acts greedily.

    Parameters
    ----------
    *args
        As for `Learner`.
    rate : float or None, default=None
        Learning rate. None is (H + 1) / (H + n) with H = 1 / (1 - gamma), as in Jin
        et al. (2018).
    """

    def __init__(self, *args: Any, rate: float | None = None) -> None:
        super().__init__(*args)
        self.rate = rate
        self.q = np.full(self.n.shape, self.reward_range[1] / (1 - self.gamma))

    def policy(self) -> NDArray[np.float64]:
        """Return the greedy policy (S, A), ties at random, as of now."""
        return greedy(self.q)

    exploit = policy

    def act(self, state: int) -> int:
        """Take a best action, ties at random."""
        values = self.q[state]
        best = np.flatnonzero(values >= values.max() - tolerance(self.q))
        return int(best[int(self.rng.random() * len(best))])

    def observe(
        self,
        state: int,
        action: int,
        reward: float,
        next_state: int,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Move the value of the pair towards its target."""
        self.n[state, action] += 1
        horizon = 1 / (1 - self.gamma)
        rate = self.rate or (horizon + 1) / (horizon + self.n[state, action])
        following = 0.0 if terminated else self.gamma * self.q[next_state].max()
        self.q[state, action] += rate * (reward + following - self.q[state, action])


def _assemble(
    pair: NDArray[np.int64],
    successor: NDArray[np.int64],
    probability: NDArray[np.float64],
    shape: tuple[int, ...],
) -> Transition:
    """Make the matrix (S * A, S) of different entries, `shape` being (S, A)."""
    n_states, n_actions = shape
    size = (n_states * n_actions, n_states)
    if n_states > _DENSE_STATES:
        return sparse.csr_array((probability, (pair, successor)), shape=size)
    dense = np.zeros(size)
    dense[pair, successor] = probability
    return dense


def optimal_values(
    transition: Transition,
    reward: NDArray[np.float64],
    gamma: float,
    v: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Optimal action values by policy iteration, which may start from a guess.

    Parameters
    ----------
    transition : array or csr_array of shape (S * A, S)
        Probabilities of the successors that do not end the episode.
    reward : array of shape (S, A)
        Expected rewards.
    gamma : float
        Discount factor in [0, 1).
    v : array of shape (S,), optional
        State values to start from; of use for a dense `transition`.

    Returns
    -------
    array of shape (S, A)
        Optimal action values, in units of `reward`.
    """
    if not isinstance(transition, np.ndarray):
        return policy_iteration(transition, reward, gamma)
    n_states, n_actions = reward.shape
    states = np.arange(n_states)
    v = reward.max(axis=1) if v is None else v
    for _ in range(_SWEEPS):
        v = (reward + gamma * (transition @ v).reshape(reward.shape)).max(axis=1)
    q = reward + gamma * (transition @ v).reshape(reward.shape)
    action = q.argmax(axis=1)
    while True:
        followed = transition[states * n_actions + action]
        system = np.eye(n_states) - gamma * followed
        v = np.linalg.solve(system, reward[states, action])
        q = reward + gamma * (transition @ v).reshape(reward.shape)
        better = q.max(axis=1) > q[states, action] + tolerance(q)
        if not better.any():
            return q
        action = np.where(better, q.argmax(axis=1), action)
