"""How far a policy is from the Bayes reference, on processes of a conjugate prior.

Only there is the reference of `bayes` known. The comparison is one part of the
validation's report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from pretraining.prior import Process, log_uniform
from pretraining.recipe.simulate import to_statistics, walk, with_rewards
from pretraining.recipe.targets import ProcessBatch, solve, uniform
from pretraining.validation.bayes import (
    bayes_reference,
    inferred_mean,
    mean_value,
    posterior_samples,
)
from pretraining.validation.bootstrap import interval, resample
from pretraining.validation.controls import certainty_equivalence, uniform_over_best
from pretraining.validation.sets import SEED
from tabrl._features import StatisticsBatch
from tabrl._planning import evaluate_actions, policy_iteration

_SEED = (SEED, 2**16)  # beyond the number of any family in the other sets
_GROUP = 8
_N_POSTERIOR = 1000  # draws by which policies are scored
# The concentrations that a plan for the posterior mean takes for possible.
# What two more controls know: the concentration of all rows (the prior), or only that
# it is one of these (the family), as a network trained on the family has to infer it.
# The names are those of the reports of released checkpoints.
_KNOWN_PRIORS = {"told_prior": np.ones(1), "told_family": np.geomspace(0.05, 5, 50)}


def bayes_comparison(
    policy_of: Callable[[StatisticsBatch], Tensor], n_per_size: int
) -> dict[str, Any]:
    """Compare with the Bayes reference, which knows the prior of these processes.

    Rows from Dirichlet(1), 2 to 5 states, 2 or 3 actions, known rewards: each pair is
    seen once, and then 8 to 64 more transitions of the uniform policy. The regret from
    the start, a step, is a mean over draws from the posterior, other than those that
    the reference is optimised on: given the data, the true process is one more draw.
    The excess is its sum over that of the reference, less one.

    What the reference knows is worth something itself: the report's ``told_prior``
    plans for the posterior mean, ``told_family`` for that of a concentration that is
    log-uniform in 0.05 to 5 and not known.
    """
    regrets: dict[str, list[float]] = {}
    for size in (8, 16, 32, 64):
        for i in range(n_per_size // _GROUP):
            rng = np.random.default_rng((*_SEED, size, i))
            batch, counts, statistics = _draw_data(rng, size)
            policies = _policies(policy_of(statistics), batch, counts, statistics)
            for b in range(_GROUP):
                tried = {name: pi[b].numpy() for name, pi in policies.items()}
                for name, regret in _regrets(rng, batch, counts, b, tried).items():
                    regrets.setdefault(name, []).append(regret)
    scores = {name: np.array(values) for name, values in regrets.items()}
    means = resample(np.random.default_rng(0), scores)
    report: dict[str, Any] = {"n_processes": len(scores["reference"])}
    for name in ("sampled", "greedy", "ce_random_ties", *_KNOWN_PRIORS, "reference"):
        report[name] = interval(means[name] / means["uniform"])
        report[f"excess_{name}"] = interval(means[name] / means["reference"] - 1)
    return report


def _draw_data(
    rng: np.random.Generator, size: int
) -> tuple[ProcessBatch, NDArray, StatisticsBatch]:
    """Draw processes, counts (B, S, A, S) of their transitions, and the statistics."""
    S, A = int(rng.integers(2, 6)), int(rng.integers(2, 4))
    batch = _conjugate_processes(rng, S, A)
    more = walk(rng, batch, np.full((_GROUP, S, A), 1 / A), np.full(_GROUP, size))
    counts = rng.multinomial(1, batch.P.numpy()) + more
    R = batch.R.numpy()
    declared = np.stack([R.min((1, 2, 3)), R.max((1, 2, 3))], -1)
    log = with_rewards(rng, batch, counts)
    return batch, counts, to_statistics(batch, log, np.zeros(_GROUP, bool), declared)


def _policies(
    policy: Tensor, batch: ProcessBatch, counts: NDArray, statistics: StatisticsBatch
) -> dict[str, Tensor]:
    """Return the policies (B, S, A) that are compared with the reference."""
    policies = {
        "sampled": policy,
        "greedy": uniform_over_best(policy),
        "ce_random_ties": uniform_over_best(certainty_equivalence(statistics)),
        "uniform": uniform(batch.allowed).double(),
    }
    for name, concentrations in _KNOWN_PRIORS.items():
        P = np.stack([inferred_mean(c, concentrations) for c in counts])
        policies[name] = _plan(batch, P)
    return policies


def _regrets(
    rng: np.random.Generator,
    batch: ProcessBatch,
    counts: NDArray,
    b: int,
    policies: dict[str, NDArray],
) -> dict[str, float]:
    """Return the mean regret a step over the posterior of process b, by policy."""
    reward, start = batch.reward[b].numpy(), batch.start[b].numpy()
    terminal, gamma = batch.terminal[b].numpy(), float(batch.gamma[b])
    reference = bayes_reference(counts[b], reward, 1.0, gamma, start, terminal, rng)
    P = posterior_samples(counts[b], 1.0, rng, _N_POSTERIOR)
    best = optimal_value(P, reward, gamma, start)
    return {
        name: (1 - gamma) * (best - mean_value(P, reward, gamma, start, pi)[0])
        for name, pi in (policies | {"reference": reference}).items()
    }


def optimal_value(P: NDArray, reward: NDArray, gamma: float, start: NDArray) -> float:
    """Return the mean over processes P (n, S, A, S) of the optimal value."""
    transitions = torch.from_numpy(P)
    rewards = torch.from_numpy(reward).expand(P.shape[:3])
    discount = torch.full((len(P),), gamma, dtype=torch.float64)
    action = policy_iteration(transitions, rewards, discount)
    v = evaluate_actions(transitions, rewards, discount, action)
    return float((v.numpy() @ start).mean())


def _plan(batch: ProcessBatch, P: NDArray) -> Tensor:
    """Return the optimal policy (B, S, A) for other transitions P (B, S, A, S)."""
    transitions, gamma = torch.from_numpy(P), batch.gamma.double()
    action = policy_iteration(transitions, batch.reward.double(), gamma)
    return one_hot(action, batch.allowed.shape[-1]).double()


def _conjugate_processes(rng: np.random.Generator, S: int, A: int) -> ProcessBatch:
    processes = []
    for _ in range(_GROUP):
        P = rng.dirichlet(np.ones(S), (S, A))
        R = np.repeat(rng.normal(size=(S, A, 1)), S, -1)
        start = np.eye(S)[rng.integers(S)]
        processes.append(Process(P, R, np.zeros(S, bool), start, 0.0))
    gamma = np.array([1 - log_uniform(rng, 0.005, 0.2) for _ in processes])
    return solve(processes, gamma)
