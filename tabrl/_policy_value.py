"""What a policy and the behaviour are worth, and how sure that is: draws, solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logsumexp

from tabrl._batch import StatisticsBatch
from tabrl._draws import draw_processes
from tabrl._episodes import Episodes, effective_size, shares_of
from tabrl._exploration import exploration_features
from tabrl._inference import computing, infer
from tabrl._network import Network
from tabrl._planning import SparseProcess

# A probability is then known to 0.035 or better, a width of an interval to 5 %.
_N_DRAWS = 200
# The draws are a numerical integral: the same policy gets the same answer each time.
_SEED = 0


class PolicyValue(NamedTuple):
    """A value with its interval, in units of the rewards.

    Attributes
    ----------
    value : float
        The expected value.
    low, high : float
        Ends of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class DrawnValues:
    """Values of policy and behaviour in draws from the posterior, in reward units.

    Attributes
    ----------
    policy, behaviour : array of shape (n,)
        From the start distribution of each draw.
    after_cut : array of shape (n,)
        Mean over the episodes of what the behaviour is worth where they were cut,
        discounted to their starts.
    policy_mean, behaviour_mean : array of shape (S,)
        Means over the draws of the state values.
    """

    policy: NDArray[np.float64]
    behaviour: NDArray[np.float64]
    after_cut: NDArray[np.float64]
    policy_mean: NDArray[np.float64]
    behaviour_mean: NDArray[np.float64]


def draw_values(
    network: Network,
    batch: StatisticsBatch,
    device: torch.device,
    pi: NDArray[np.float64],
    start: NDArray[np.float64],
    resample_start: bool,
    episodes: Episodes | None = None,
    share: float = 1.0,
    n: int = _N_DRAWS,
) -> DrawnValues:
    """Solve the policy and the behaviour in processes drawn from the posterior.

    Parameters
    ----------
    network, batch, device
        As in `tabrl._inference.solve`.
    pi : array of shape (S, A)
        The policy.
    start : array of shape (S,)
        Weights of the start states; counts where `resample_start`.
    resample_start : bool
        Whether the starts are a sample of what they may be: each draw then weighs them
        anew, as the Bayesian bootstrap does (Rubin 1981, Annals of Statistics 9, 130).
    episodes : Episodes, optional
        Those of the log, in the codes of the batch.
    share : float
        How much of all starts is in these states; the others are worth nothing.
    n : int
        Number of draws.

    Returns
    -------
    DrawnValues

    Notes
    -----
    The behaviour of a draw is from the Dirichlet distribution of the actions counted in
    each state, uniform over the allowed ones where none was.
    """
    # Apart, so that the processes are the same from whatever starts.
    rng, of_starts = np.random.default_rng(_SEED).spawn(2)
    features, _, posterior = infer(network, batch, device)
    counts, allowed = batch.n[0].numpy(), batch.allowed[0].numpy()
    counts = np.where(counts.sum(1, keepdims=True) > 0, counts, 1e9 * allowed)
    value = np.zeros((n, 3))
    v = b = np.zeros(len(pi))
    total = np.zeros((2, len(pi)))
    with computing(batch):
        exploration = exploration_features(batch).to(device)
        drawn = draw_processes(posterior, features, exploration, n, rng)
        for i, (process, reward) in enumerate(drawn):
            rho = of_starts.standard_gamma(start) if resample_start else start.copy()
            behaviour = rng.standard_gamma(counts)
            behaviour /= behaviour.sum(1, keepdims=True)
            # The values of the draw before are near: start from there.
            v = process.evaluate_policy(reward, pi, v)
            b = process.evaluate_policy(reward, behaviour, b)
            total += v, b
            rho *= share / max(rho.sum(), np.finfo(float).tiny)
            value[i] = rho @ v, rho @ b, _after_cut(episodes, b)
    scale = float(features.scale)
    policy, behaviour, after_cut = scale * value.T
    return DrawnValues(policy, behaviour, after_cut, *(scale * total / n))


def _after_cut(episodes: Episodes | None, v: NDArray[np.float64]) -> float:
    if episodes is None:
        return 0.0
    return float(_continuation(episodes, v).mean())


def _continuation(episodes: Episodes, v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what follows the last row of each episode, discounted to its start."""
    return np.where(episodes.last < 0, 0.0, episodes.discount * v[episodes.last])


def evaluate_mean(
    network: Network,
    batch: StatisticsBatch,
    device: torch.device,
    pi: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values (S,) and (S, A) of a policy in the posterior mean process.

    They are in units of the rewards; for the arguments see `draw_values`.
    """
    features, _, posterior = infer(network, batch, device)
    with computing(batch):
        process = SparseProcess(posterior, features)
        reward = posterior.reward[1, 0].cpu().numpy()
        v = process.evaluate_policy(reward, pi)
        q = process.action_values(reward, v)
    scale = float(features.scale)
    return scale * v, scale * q


def of_draws(draws: NDArray[np.float64], interval: float) -> PolicyValue:
    """Return mean and interval of values in draws of the posterior.

    The interval reaches z lower semideviations below the mean and z upper ones above
    it, z being the width that holds the share ``interval`` of a normal distribution: a
    semideviation is the root mean square of the deviations to one side. It is the
    usual interval of a normal posterior, and short on the short side of a skewed one.
    Quantiles of the draws would be wrong where the true value is the largest that can
    be, as in a process without chance: all draws are below it then, however near.

    Examples
    --------
    >>> value, low, high = of_draws(np.array([1.0, 4.0, 4.0]), interval=0.6827)
    >>> round(value, 3), round(low, 3), round(high, 3)
    (3.0, 1.0, 4.0)
    """
    mean = float(draws.mean())
    z = float(stats.norm.ppf((1 + interval) / 2))
    below, above = (
        float(np.sqrt(np.mean((draws[side] - mean) ** 2)))
        for side in (draws <= mean, draws >= mean)
    )
    return PolicyValue(mean, mean - z * below, mean + z * above)


def of_returns(episodes: Episodes, drawn: DrawnValues, interval: float) -> PolicyValue:
    """Return the mean return of the episodes with its interval.

    Student's t interval of the mean. An episode that was cut, by a time limit say, has
    the value of the behaviour at its last state in place of the rest; how sure that
    is comes on top.

    Parameters
    ----------
    episodes : Episodes
        Two or more, of the discount factor of `drawn`.
    drawn : DrawnValues
        In the same codes of the states.
    interval : float
        Probability that the interval shall hold the value.

    Returns
    -------
    PolicyValue
    """
    returns = episodes.total + _continuation(episodes, drawn.behaviour_mean)
    n = len(returns)
    variance = returns.var(ddof=1) / n + drawn.after_cut.var(ddof=1)
    width = float(stats.t.ppf((1 + interval) / 2, n - 1) * np.sqrt(variance))
    mean = float(returns.mean())
    return PolicyValue(mean, mean - width, mean + width)


def of_weighted_returns(
    episodes: Episodes, drawn: DrawnValues, interval: float
) -> tuple[PolicyValue, float, float]:
    """Return the weighted mean return of the episodes, and what it rests on.

    Weighted importance sampling: episodes count by how much likelier the policy is to
    act as they did than the behaviour (Precup, Sutton and Singh 2000). It needs no
    model of the process. The interval is Student's t, with the effective sample size of
    the weights (Kish 1965) as the number of episodes.

    Parameters
    ----------
    episodes : Episodes
        With weights, of the discount factor of `drawn`.
    drawn, interval
        As in `of_returns`.

    Returns
    -------
    PolicyValue
        From minus to plus infinity where two episodes or fewer count.
    float
        The effective sample size.
    float
        The mean weight. Its expectation is one. It is less where the log lacks episodes
        that the policy makes, and the return is then one of those that it has: the
        short ones, where every step but a few departs from the policy.
    """
    assert episodes.log_weight is not None
    weight = shares_of(episodes.log_weight)
    size = effective_size(weight)
    if size == 0:  # no episode does what the policy does
        return PolicyValue(np.nan, -np.inf, np.inf), 0.0, 0.0
    log_mean = logsumexp(episodes.log_weight) - np.log(len(weight))
    with np.errstate(over="ignore"):  # infinite in a log of long episodes
        mean_weight = float(np.exp(log_mean))
    returns = episodes.total + _continuation(episodes, drawn.policy_mean)
    mean = float(weight @ returns)
    width = np.inf
    if size > 2:
        error = np.sqrt(weight**2 @ (returns - mean) ** 2 * size / (size - 1))
        width = float(stats.t.ppf((1 + interval) / 2, size - 1) * error)
    return PolicyValue(mean, mean - width, mean + width), size, mean_weight


def within(
    found: PolicyValue, reward_range: tuple[float, float] | None, gamma: float
) -> PolicyValue:
    """Return a value and its interval clipped to what the rewards allow.

    Examples
    --------
    >>> within(PolicyValue(0.5, -0.2, 1.2), (0.0, 1.0), gamma=0.0)
    PolicyValue(value=0.5, low=0.0, high=1.0)
    """
    if reward_range is None:
        return found
    low, high = min(reward_range[0], 0), max(reward_range[1], 0)  # 0 follows an end
    ends = low / (1 - gamma), high / (1 - gamma)
    return PolicyValue(*(float(np.clip(number, *ends)) for number in found))
