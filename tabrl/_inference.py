"""From statistics to values and policies: one forward pass, then exact planning."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from tabrl._batch import StatisticsBatch
from tabrl._exploration import draw_posterior, exploration_features
from tabrl._features import Features, build_features
from tabrl._network import QUANTILES, Network, Posterior, Tokens
from tabrl._planning import SparseProcess, greedy, plan_sparse

# Up to so many pairs one thread takes about two seconds. A second one can save one of
# them, where a core is free; where none is, 10,000 pairs took 25 times as long with it.
_ONE_THREAD = 100_000

_lock = Lock()
_borrowed: list[int] = []  # the caller's number of threads, once for all under way


@contextmanager
def computing(batch: StatisticsBatch) -> Iterator[None]:
    """Compute without gradients, what is small on one thread.

    Threads wait for each other at every operation. Where another program has one of
    their cores that may be for a time slice of the system, and a plan of some
    milliseconds takes a second. The number is torch's for the whole program: a thread
    of Python that begins meanwhile sees what another has set, not what the caller has.
    OMP_NUM_THREADS is the most, as libraries raise torch's number behind the user's
    back: Numba does as it compiles its first parallel function, at the import of
    QuantEcon for one, for both share one OpenMP.
    """
    with _lock:
        n_threads = _borrowed[0] if _borrowed else torch.get_num_threads()
        _borrowed.append(n_threads)
        small = batch.n.numel() <= _ONE_THREAD
        torch.set_num_threads(1 if small else int(min(n_threads, _most_threads())))
    try:
        with torch.inference_mode():
            yield
    finally:
        with _lock:
            torch.set_num_threads(_borrowed.pop())


def _most_threads() -> float:
    """Return the number of threads that the user's environment allows."""
    declared = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(declared) if declared.isdigit() and int(declared) else math.inf


def infer(
    network: Network, batch: StatisticsBatch, device: torch.device
) -> tuple[Features, Tokens, Posterior]:
    """Return what the network reads and what it makes of it."""
    with computing(batch):
        features = build_features(batch).to(device)
        return features, *network(features)


def solve(
    network: Network, batch: StatisticsBatch, device: torch.device, risk: float = 0.0
) -> tuple[NDArray, NDArray]:
    """Return action values (3, S, A) in reward units and log policy (S, A).

    The batch holds one data set. Actions that are not allowed have probability zero,
    and the value of the best allowed action if they are worth more. The policy is
    decided on (1 - risk) q_0.5 + risk q_0.1 in place of the median q_0.5.
    """
    features, tokens, posterior = infer(network, batch, device)
    allowed = _mask(batch)
    with computing(batch):
        process = SparseProcess(posterior, features)
        rewards = posterior.reward[:, 0].cpu().numpy()
        middle = plan_sparse(process, rewards[1], allowed=allowed)
        # The values of the other heads are near: they start from there.
        guess = middle.max(1)
        others = [plan_sparse(process, r, guess, allowed) for r in rewards[::2]]
        q = np.stack([others[0], middle, others[1]])
        if allowed is not None:
            for plan, r in zip(q, rewards, strict=True):
                best = plan.max(1)
                forbidden = process.action_values(r, best)
                plan[:] = np.where(allowed, plan, np.minimum(forbidden, best[:, None]))
        planned = torch.from_numpy(_averse(q, risk)[:, None]).to(device)
        decision = network.decide(tokens, features, planned)
    log_policy = decision.policy[0].cpu().numpy()
    if allowed is not None:
        log_policy = np.where(allowed, log_policy, -np.inf)
    values = q * float(features.scale)
    # The heads are learned one by one; quantiles must be in order.
    values[0] = np.minimum(values[0], values[1])
    values[2] = np.maximum(values[2], values[1])
    gamma, (low, high) = float(batch.gamma), batch.reward_range[0].tolist()
    if not math.isnan(low):
        values = values.clip(min(low, 0) / (1 - gamma), max(high, 0) / (1 - gamma))
    return values, log_policy


def _averse(q: NDArray, risk: float) -> NDArray:
    """Return the plans (3, S, A) with the middle one moved towards the low one."""
    if not risk:
        return q
    low = np.minimum(q[0], q[1])  # the heads are learned one by one
    return np.stack([low, (1 - risk) * q[1] + risk * low, q[2]])


def solve_to_explore(
    network: Network,
    batch: StatisticsBatch,
    device: torch.device,
    optimism: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the action values (S, A) of an explorer, in units of the scale.

    It plans in a draw from the posterior, by `tabrl._exploration.draw_posterior` with
    both numbers of the network's rule times ``optimism``.
    """
    features, _, posterior = infer(network, batch, device)
    with computing(batch):
        spread, untried = network.optimism
        rule = (optimism * spread, optimism * untried)
        exploration = exploration_features(batch).to(device)
        drawn = draw_posterior(posterior, features, exploration, rule, rng)
        process = SparseProcess(drawn, features)
        r = drawn.reward[0, 0].cpu().numpy()
        return plan_sparse(process, r, allowed=_mask(batch))


def _mask(batch: StatisticsBatch) -> NDArray[np.bool_] | None:
    """Return the allowed actions (S, A) of a batch of one, None if all are."""
    allowed = batch.allowed[0].numpy()
    return None if allowed.all() else allowed


def most_probable(
    log_policy: NDArray, rng: np.random.RandomState | np.random.Generator
) -> NDArray[np.int64]:
    """Return the most probable action of each state, ties at random."""
    # In float32, as the network computed them.
    best = greedy(torch.from_numpy(log_policy).float()).numpy() > 0
    # A random order of the actions in each state breaks the ties.
    return (best * (1 + rng.uniform(size=best.shape))).argmax(1)


def at_quantile(values: NDArray, quantile: float | None) -> NDArray[np.float64]:
    """Interpolate the values (3, ...) of the heads at a level; None is the middle."""
    level = QUANTILES[1] if quantile is None else quantile
    if not 0.1 <= level <= 0.9:
        raise ValueError(f"quantile must lie in [0.1, 0.9]. Got {quantile!r}.")
    upper = 1 if level <= QUANTILES[1] else 2
    low, high = QUANTILES[upper - 1], QUANTILES[upper]
    share = (level - low) / (high - low)
    return (1 - share) * values[upper - 1] + share * values[upper]
