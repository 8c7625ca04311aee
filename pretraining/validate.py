"""Score a checkpoint on processes of the prior that training never saw.

    python -m pretraining.validate --run runs/base --figure validation.png
    python -m pretraining.validate --checkpoint auto

A fixed set, seeded apart from training: every family by data-set size, and logs of
near-experts as cells of their own. The policy of the model is the sampled one; its
control in a cell is the best, in hindsight, of certainty equivalence (first tie, or
ties at random) and VI-LCB with each of its constants. Then calibration, how far the
model is from the Bayes reference, and its exploration online, with the same weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pretraining.benchmark.bayes import (
    bayes_reference,
    mean_value,
    posterior_samples,
)
from pretraining.benchmark.online_baselines import PSRL, Learner
from pretraining.controls import (
    CONSTANTS,
    certainty_equivalence,
    first_best,
    greedy,
    vi_lcb,
)
from pretraining.export import averaged_network
from pretraining.loss import (
    compute_losses,
    loss_of_states,
    normalised_regret,
    optimal_actions,
)
from pretraining.prior import FAMILIES, Process, log_uniform
from pretraining.simulate import (
    draw_reward_ranges,
    experts,
    simulate,
    to_statistics,
    walk,
    with_rewards,
)
from pretraining.targets import (
    ProcessBatch,
    draw_processes,
    evaluate_policy,
    solve,
    uniform,
)
from tabrl import OnlineAgent
from tabrl._checkpoint import load_network, save_network
from tabrl._features import StatisticsBatch, build_features
from tabrl._network import Network
from tabrl._planning import evaluate_actions, plan_dense, policy_iteration

_SEED = 2**32 - 1  # training groups are seeded (seed, index): no index gets here
SIZES = (16, 128, 1024, 8192)
NEAR_EXPERT_SIZES = (128, 1024)
_GROUP = 8
_CONJUGATE = 2**16  # beyond the number of any family
_N_POSTERIOR = 1000  # draws by which policies are scored beside the Bayes reference
_N_BINS = 10  # of the reliability curve
_N_RESAMPLES = 1000
_CPU = torch.device("cpu")

METHODS = ("sampled", "greedy", "ce_random_ties", "ce_first_tie", "vi_lcb")
_CONTROLS = METHODS[2:]

Scores = dict[str, NDArray]  # of n processes (n, ...), or their means resampled


# -- the set -----------------------------------------------------------------


def validation_set(
    n_per_cell: int, near_expert: bool = False
) -> Iterator[tuple[str, int, ProcessBatch, StatisticsBatch]]:
    """Yield family, size, processes and data sets, the same at every call.

    The behaviour is drawn as in training, or epsilon-greedy on one optimal policy with
    epsilon log-uniform in 0.02..0.1.
    """
    for f, family in enumerate(FAMILIES):
        for size in NEAR_EXPERT_SIZES if near_expert else SIZES:
            for i in range(n_per_cell // _GROUP):
                key = (_SEED, f, size, i)
                rng = np.random.default_rng((*key, 1) if near_expert else key)
                fewest = 1 if family == "bandits" else 2
                n_states = round(log_uniform(rng, fewest, 64))
                n_actions = round(log_uniform(rng, 2, 10))
                batch = draw_processes(rng, _GROUP, n_states, n_actions, [family])
                sizes = np.full(_GROUP, size)
                if near_expert:
                    counts = walk(rng, batch, near_experts(rng, batch), sizes)
                    log = with_rewards(rng, batch, counts)
                else:
                    log = simulate(rng, batch, sizes)
                offline = np.ones(_GROUP, bool)
                ranges = draw_reward_ranges(rng, batch)
                yield family, size, batch, to_statistics(batch, log, offline, ranges)


def near_experts(rng: np.random.Generator, batch: ProcessBatch) -> NDArray:
    """Draw narrow policies (B, S, A): one optimal action a state, all but always."""
    expert = experts(rng, batch)
    epsilon = np.exp(rng.uniform(np.log(0.02), np.log(0.1), (len(expert), 1, 1)))
    return (1 - epsilon) * expert + epsilon * uniform(batch.allowed).numpy()


# -- scores of each process --------------------------------------------------


def infer(network: Network, statistics: StatisticsBatch) -> tuple[Tensor, ...]:
    """Return policy, chances to be optimal (B, S, A) and action values (3, B, S, A).

    In float64 outside the network, as `tabrl.OfflinePolicyEstimator` infers.
    """
    moved = {}
    for f in fields(statistics):
        tensor = getattr(statistics, f.name)
        moved[f.name] = tensor.double() if tensor.is_floating_point() else tensor
    with torch.inference_mode():
        features = build_features(StatisticsBatch(**moved))
        tokens, posterior = network(features)
        planned = plan_dense(posterior, features)
        decision = network.decide(tokens, features, planned)
    q = planned * features.scale[:, None, None]
    q[0] = torch.minimum(q[0], q[1])
    q[2] = torch.maximum(q[2], q[1])
    horizon = 1 / (1 - features.gamma)[:, None]
    low, high = (horizon * moved["reward_range"]).unbind(-1)  # NaN where undeclared
    low, high = low.clamp(max=0).nan_to_num(-math.inf), high.clamp(min=0)
    high = high.nan_to_num(math.inf)
    q = q.clamp(low[:, None, None], high[:, None, None])
    return decision.policy.exp(), decision.optimal.exp(), q


def score(network: Network, batch: ProcessBatch, statistics: StatisticsBatch) -> Scores:
    """Return regrets from the start and calibration of each process, (n, ...).

    In states that the log does not show all policies are uniform. Calibration is a mean
    over the states that it shows, then over their actions; with k optimal actions in a
    state, the share 1 / k is what each one's probability should be.
    """
    policy, chance, q = infer(network, statistics)
    ce, lcb = certainty_equivalence(statistics), vi_lcb(statistics)
    policies = {
        "sampled": policy,
        "greedy": greedy(policy),
        "ce_random_ties": greedy(ce),
        "ce_first_tie": first_best(ce),
    }
    policies |= {f"vi_lcb {c}": greedy(lcb[i]) for i, c in enumerate(CONSTANTS)}
    known = statistics.known[..., None]
    even = uniform(batch.allowed).double()
    scores = {
        name: normalised_regret(batch, torch.where(known, pi, even), everywhere=0.0)
        for name, pi in policies.items()
    }
    scores = {name: regret.clamp(max=2) for name, regret in scores.items()}

    asked = (statistics.known & ~batch.terminal).double()
    share = asked / asked.sum(-1, keepdim=True).clamp(min=1)
    share = share[..., None] * even

    def mean(values: Tensor) -> Tensor:
        return (share * values).sum((1, 2))

    slack = 1e-6 * batch.q.abs().amax((1, 2), keepdim=True)
    for head, values in zip(("low", "middle", "high"), q, strict=True):
        scores[f"below_{head}"] = mean(batch.q <= values + slack)
    inside = (batch.q >= q[0] - slack) & (batch.q <= q[2] + slack)
    scores["coverage"] = mean(inside)
    optimal = optimal_actions(batch).double()
    target = optimal / optimal.sum(-1, keepdim=True)
    scores["brier"] = mean((chance - target) ** 2)
    bins = (_N_BINS * chance).long().clamp(max=_N_BINS - 1)
    bins = torch.nn.functional.one_hot(bins, _N_BINS) * share[..., None]
    for name, values in (("chance", chance), ("share", target)):
        scores[f"bin_{name}"] = (bins * values[..., None]).sum((1, 2))
    scores["bin_mass"] = bins.sum((1, 2))
    return {name: values.numpy() for name, values in scores.items()}


# -- means and intervals -----------------------------------------------------


def resample(rng: np.random.Generator, scores: Scores) -> Scores:
    """Return means over processes (1001, ...): as they are, then bootstrapped."""
    n = len(next(iter(scores.values())))
    drawn = rng.multinomial(n, np.full(n, 1 / n), _N_RESAMPLES)
    weights = np.concatenate([np.ones((1, n)), drawn]) / n
    return {name: np.tensordot(weights, v, 1) for name, v in scores.items()}


def average(cells: list[Scores]) -> Scores:
    """Return the means over cells, each of them alike."""
    return {name: np.mean([cell[name] for cell in cells], 0) for name in cells[0]}


def interval(means: NDArray) -> list[float]:
    """Return a mean with the ends of its bootstrap 95 % interval."""
    ends = np.quantile(means[1:], [0.025, 0.975])
    return [round(float(x), 4) for x in (means[0], *ends)]


def ratio(means: Scores) -> list[float]:
    """Return the regret of the model over that of the best control.

    Both plus 0.001, so that cells where both are all but optimal come out near one.
    """
    return interval((means["sampled"] + 1e-3) / (means["best_control"] + 1e-3))


def reliability_error(means: Scores) -> NDArray:
    """Return how far the shares of optimal actions are from their probabilities."""
    return np.abs(means["bin_chance"] - means["bin_share"]).sum(-1)


def _controlled(means: Scores) -> tuple[float, Scores]:
    """Find the best constant and the best control of a cell, in hindsight."""
    constant = min(CONSTANTS, key=lambda c: means[f"vi_lcb {c}"][0])
    means = means | {"vi_lcb": means[f"vi_lcb {constant}"]}
    best = min(_CONTROLS, key=lambda name: means[name][0])
    means["best_control"] = means[best]
    return constant, means


def _regrets(means: Scores) -> dict[str, list[float]]:
    return {name: interval(means[name]) for name in (*METHODS, "best_control")}


def score_set(
    network: Network, n_per_cell: int, near_expert: bool = False
) -> tuple[list[dict], dict[tuple[str, int], Scores], int]:
    """Score a validation set: the rows of its cells, their means and its size."""
    parts: dict[tuple[str, int], list[Scores]] = {}
    sizes = NEAR_EXPERT_SIZES if near_expert else SIZES
    total = len(FAMILIES) * len(sizes) * (n_per_cell // _GROUP)
    for family, size, batch, statistics in tqdm(
        validation_set(n_per_cell, near_expert), total=total
    ):
        scores = score(network, batch, statistics)
        parts.setdefault((family, size), []).append(scores)
    rng = np.random.default_rng(0)
    rows, cells = [], {}
    for (family, size), groups in parts.items():
        scores = {
            name: np.concatenate([group[name] for group in groups])
            for name in groups[0]
        }
        constant, means = _controlled(resample(rng, scores))
        cells[family, size] = means
        difference = interval(means["sampled"] - means["best_control"])
        row = {"family": family, "size": size, **_regrets(means)}
        row |= {"vi_lcb_constant": constant, "ratio": ratio(means)}
        rows.append(row | {"difference": difference})
    return rows, cells, total * _GROUP


def validate(network: Network, n_per_cell: int) -> dict[str, Any]:
    """Return regrets and calibration with 95 % intervals, offline."""
    rows, cells, n = score_set(network, n_per_cell)
    near_rows, near_cells, n_near = score_set(network, n_per_cell, near_expert=True)
    everything = average(list(cells.values()))
    near = average(list(near_cells.values()))

    def summary(key: int, value: Any) -> dict[str, Any]:
        means = average([m for cell, m in cells.items() if cell[key] == value])
        return {
            "sampled": interval(means["sampled"]),
            "best_control": interval(means["best_control"]),
            "ratio": ratio(means),
            "coverage": interval(means["coverage"]),
            "reliability_error": interval(reliability_error(means)),
        }

    mass = everything["bin_mass"]
    curve = {}
    for name in ("chance", "share"):
        sums = everything[f"bin_{name}"]
        curve[name] = np.divide(sums, mass, where=mass > 0, out=np.zeros_like(mass))
    return {
        "n_processes": n,
        "n_near_expert": n_near,
        "overall": _regrets(everything),
        "ratio": ratio(everything),
        # Against the best control: surely better, and not surely worse.
        "better": sum(row["difference"][2] < 0 for row in rows),
        "wins": sum(row["difference"][1] <= 0 for row in rows),
        "cells": rows,
        "by_size": {str(size): summary(1, size) for size in SIZES},
        "by_family": {family: summary(0, family) for family in FAMILIES},
        "near_expert": {
            "overall": _regrets(near),
            "ratio": ratio(near),
            "coverage": interval(near["coverage"]),
            "cells": near_rows,
        },
        "coverage": interval(everything["coverage"]),
        **{
            f"below_{head}": interval(everything[f"below_{head}"])[0]
            for head in ("low", "middle", "high")
        },
        "brier_optimal_action": interval(everything["brier"])[0],
        "brier": interval(everything["brier"]),
        "reliability_error": interval(reliability_error(everything)),
        "reliability": [
            {
                "mass": round(float(mass[0, i]), 4),
                "probability": round(float(curve["chance"][0, i]), 4),
                "optimal": interval(curve["share"][:, i]),
            }
            for i in range(_N_BINS)
        ],
    }


# -- the Bayes reference -----------------------------------------------------


def bayes_comparison(network: Network, n_per_size: int) -> dict[str, Any]:
    """Compare with the Bayes reference, which knows the prior of these processes.

    Rows from Dirichlet(1), 2 to 5 states, 2 or 3 actions, known rewards: each pair is
    seen once, and then 8 to 64 more transitions of the uniform policy. What a policy
    loses from the start, a step, is a mean over draws from the posterior, other than
    those that the reference is optimised on: given the data, the true process is one
    more draw. The excess is its sum over that of the reference, less one.
    """
    lost: dict[str, list[float]] = {}
    for size in (8, 16, 32, 64):
        for i in range(n_per_size // _GROUP):
            rng = np.random.default_rng((_SEED, _CONJUGATE, size, i))
            S, A = int(rng.integers(2, 6)), int(rng.integers(2, 4))
            batch = _conjugate_processes(rng, S, A)
            more = walk(
                rng, batch, np.full((_GROUP, S, A), 1 / A), np.full(_GROUP, size)
            )
            counts = rng.multinomial(1, batch.P.numpy()) + more
            R = batch.R.numpy()
            declared = np.stack([R.min((1, 2, 3)), R.max((1, 2, 3))], -1)
            statistics = to_statistics(
                batch,
                with_rewards(rng, batch, counts),
                np.zeros(_GROUP, bool),
                declared,
            )
            policy, _, _ = infer(network, statistics)
            policies = {
                "sampled": policy,
                "greedy": greedy(policy),
                "ce_random_ties": greedy(certainty_equivalence(statistics)),
                "uniform": uniform(batch.allowed).double(),
            }
            for b in range(_GROUP):
                reward, start = batch.reward[b].numpy(), batch.start[b].numpy()
                terminal, gamma = batch.terminal[b].numpy(), float(batch.gamma[b])
                tried = {name: pi[b].numpy() for name, pi in policies.items()}
                tried["reference"] = bayes_reference(
                    counts[b], reward, 1.0, gamma, start, terminal, rng
                )
                P = posterior_samples(counts[b], 1.0, rng, _N_POSTERIOR)
                best = optimal_value(P, reward, gamma, start)
                for name, pi in tried.items():
                    value, _ = mean_value(P, reward, gamma, start, pi)
                    lost.setdefault(name, []).append((1 - gamma) * (best - value))
    scores = {name: np.array(values) for name, values in lost.items()}
    means = resample(np.random.default_rng(0), scores)
    report: dict[str, Any] = {"n_processes": len(scores["reference"])}
    for name in ("sampled", "greedy", "ce_random_ties", "reference"):
        report[name] = interval(means[name] / means["uniform"])
        report[f"excess_{name}"] = interval(means[name] / means["reference"] - 1)
    return report


def optimal_value(P: NDArray, reward: NDArray, gamma: float, start: NDArray) -> float:
    """Return the mean over processes P (n, S, A, S) of the optimal value."""
    transitions = torch.from_numpy(P)
    rewards = torch.from_numpy(reward).expand(P.shape[:3])
    discount = torch.full((len(P),), gamma, dtype=torch.float64)
    action = policy_iteration(transitions, rewards, discount)
    v = evaluate_actions(transitions, rewards, discount, action)
    return float((v.numpy() @ start).mean())


def _conjugate_processes(rng: np.random.Generator, S: int, A: int) -> ProcessBatch:
    processes = []
    for _ in range(_GROUP):
        P = rng.dirichlet(np.ones(S), (S, A))
        R = np.repeat(rng.normal(size=(S, A, 1)), S, -1)
        start = np.eye(S)[rng.integers(S)]
        processes.append(Process(P, R, np.zeros(S, bool), start, 0.0))
    gamma = np.array([1 - log_uniform(rng, 0.005, 0.2) for _ in processes])
    return solve(processes, gamma)


# -- online ------------------------------------------------------------------


def online_regret(
    batch: ProcessBatch,
    agent: OnlineAgent | Learner,
    rng: np.random.Generator,
    n_episodes: int = 30,
    n_steps: int = 50,
) -> NDArray:
    """Let an agent act in a batch of one; the regret of what each episode followed.

    Regrets are normalised as those of `pretraining.loss`: of the episode's first
    policy, and discounted what later ones gain in the state where each takes over;
    clipped to [-2, 2].
    """
    allowed = batch.allowed[0].numpy()
    states = range(len(allowed))
    R, P = batch.R[0].numpy(), batch.P[0].numpy()
    low, high = batch.outcomes[0].tolist()
    lowest, highest = agent.reward_range or (-math.inf, math.inf)
    noise, terminal = float(batch.noise), batch.terminal[0].tolist()
    first = batch.start[0].numpy().cumsum().tolist()
    following = P.cumsum(-1).tolist()

    def draw(cumulative: list[float]) -> int:
        return bisect(cumulative, rng.random() * cumulative[-1])

    # The agent keeps masks, and plans without what is not allowed. Other learners lose
    # nothing by it: it does what an allowed action does.
    if isinstance(agent, OnlineAgent) and not allowed.all():
        for state in states:
            agent.act(state, allowed[state])
    policies, taken_over = [], []  # of each its episode, step and state
    for episode in range(n_episodes):
        n_plans = 0
        state = draw(first)
        if not isinstance(agent, OnlineAgent):
            agent.begin()
        for step in range(1, n_steps + 1):
            action = agent.act(state)
            if not isinstance(agent, OnlineAgent):
                pi = agent.policy()
            elif agent.n_plans_ > n_plans:
                n_plans, pi = agent.n_plans_, agent.exploration_proba(states)
            if step == 1 or pi is not policies[-1]:
                policies.append(pi)
                taken_over.append((episode, step - 1, state))
            after = draw(following[state][action])
            reward = float(R[state, action, after])
            if math.isfinite(low):
                reward = high if rng.random() * (high - low) < reward - low else low
            elif noise:
                reward = reward + noise * rng.standard_normal()
                reward = min(max(reward, lowest), highest)
            agent.observe(
                state, action, reward, after, terminal[after], step == n_steps
            )
            if terminal[after]:
                break
            state = after
    copies = ProcessBatch.concatenate([batch] * len(policies))
    loss = loss_of_states(copies, torch.from_numpy(np.stack(policies))).numpy()
    start, gamma = batch.start[0].numpy(), float(batch.gamma)
    gain = start @ (batch.q.amax(-1) - batch.v_uniform)[0].numpy()
    regret = np.zeros(n_episodes)
    for i, (episode, step, state) in enumerate(taken_over):
        if step == 0:
            regret[episode] = start @ loss[i]
        else:
            regret[episode] += gamma**step * (loss[i] - loss[i - 1])[state]
    return np.clip(regret / gain, -2.0, 2.0)


def gave_up(regret: NDArray, n_last: int = 10) -> NDArray:
    """Tell of which processes (n, episodes) the last plans lose, and all alike."""
    last = regret[:, -n_last:]
    return (last.min(1) > 0.05) & (np.ptp(last, axis=1) < 1e-3)


def online_scores(network: Network, n_per_family: int) -> dict[str, Any]:
    """Return regrets of exploration in up to 30 states, and the share of give-ups.

    Of the model, and under ``"psrl"`` of posterior sampling.
    """
    curves: dict[str, list[list[NDArray]]] = {"tabrl": [], "psrl": []}
    with tempfile.TemporaryDirectory() as folder:
        save_network(network, Path(folder), {})
        for f, family in enumerate(tqdm(FAMILIES)):
            for regrets in curves.values():
                regrets.append([])
            for i in range(n_per_family):
                rng = np.random.default_rng((_SEED, f, 0, i))
                S = round(log_uniform(rng, 2, 30))
                A = round(log_uniform(rng, 2, 10))
                batch = draw_processes(rng, 1, S, A, [family])
                known = (S, A, float(batch.gamma), _reward_range(batch))
                agents: dict[str, OnlineAgent | Learner] = {
                    "tabrl": OnlineAgent(*known, folder, "cpu", random_state=i),
                    "psrl": PSRL(*known, np.random.default_rng(i)),
                }
                for name, agent in agents.items():
                    world = np.random.default_rng((_SEED, f, 1, i))
                    curves[name][f].append(online_regret(batch, agent, world))
    report = {"n_processes": n_per_family * len(FAMILIES)}
    report |= _online_summary(curves["tabrl"])
    return report | {"psrl": _online_summary(curves["psrl"])}


def _online_summary(curves: list[list[NDArray]]) -> dict[str, Any]:
    """Summarise the regrets of the processes of each family."""
    rng = np.random.default_rng(0)
    cells = []
    for regrets in curves:
        regret = np.stack(regrets)
        scores = {"regret": regret.mean(1), "last": regret[:, -10:].mean(1)}
        scores |= {"give_ups": gave_up(regret).astype(float), "episodes": regret}
        cells.append(resample(rng, scores))
    means = average(cells)
    names = ("regret", "last", "give_ups")
    return {
        **{name: interval(means[name]) for name in names},
        "by_family": {
            family: {name: interval(cell[name]) for name in names}
            for family, cell in zip(FAMILIES, cells, strict=True)
        },
        "episodes": [round(float(x), 4) for x in means["episodes"][0]],
    }


def _reward_range(batch: ProcessBatch) -> tuple[float, float]:
    """Return what all rewards of a batch of one lie in, three deviations of noise."""
    possible = (batch.P[0] > 0) & ~batch.terminal[0, :, None, None]
    R, outcomes = batch.R[0][possible], batch.outcomes[0]
    ends = outcomes if outcomes.isfinite().all() else torch.stack([R.min(), R.max()])
    margin = 3 * float(batch.noise)
    return float(ends[0]) - margin, float(ends[1]) + margin


# -- devices -----------------------------------------------------------------


def compare_devices(network: Network, device: str, n_per_cell: int) -> dict:
    """Return how far the network on another device is from the CPU.

    The share of states whose greedy actions agree, and the largest difference of
    the policy and of the high plan's values (relative to their size).
    """
    agree, policy, value = [], [0.0], [0.0]
    other = copy.deepcopy(network).to(device)
    for _, _, batch, statistics in validation_set(n_per_cell):
        exact = batch.to("cpu", torch.float32)
        with torch.inference_mode():
            here = compute_losses(network, exact, statistics)
            there = compute_losses(
                other, exact.to(device, torch.float32), statistics.to(device)
            )
        pi, q = there.policy.cpu(), there.q_high.cpu()
        agree.append((here.policy.argmax(-1) == pi.argmax(-1)).ravel())
        policy.append(float((here.policy - pi).abs().max()))
        size = 1 + here.q_high.abs()
        value.append(float(((here.q_high - q).abs() / size).max()))
    return {
        "device": device,
        "greedy_agreement": round(float(torch.cat(agree).float().mean()), 5),
        "largest_policy_difference": max(policy),
        "largest_relative_value_difference": max(value),
    }


# -- the report --------------------------------------------------------------


def table(report: dict[str, Any]) -> str:
    """Return the report as text, one row a cell."""

    def text(x: list[float]) -> str:
        return f"{x[0]:.3f} [{x[1]:.3f}, {x[2]:.3f}]"

    def row(context: str, family: str, size: Any, cell: Mapping[str, Any]) -> str:
        constant = cell.get("vi_lcb_constant", "best")
        scores = "  ".join(f"{cell[name][0]:8.3f}" for name in METHODS)
        return (
            f"{context:<11}  {family:<10} {size!s:>5}  {scores} ({constant!s:>4})"
            f"  {text(cell['ratio'])}"
        )

    near = report["near_expert"]
    titles = ("sampled", "greedy", "CE ties", "CE first", "VI-LCB")
    head = "  ".join(f"{title:>8}" for title in titles)
    lines = [
        "Normalised regret, 0 optimal, 1 uniform; ratio of sampled to the best control",
        f"{'logs':<11}  {'family':<10} {'size':>5}  {head} (best)  ratio [95 %]",
        *(row("mixed", c["family"], c["size"], c) for c in report["cells"]),
        *(row("near-expert", c["family"], c["size"], c) for c in near["cells"]),
        row("mixed", "all", "", report["overall"] | {"ratio": report["ratio"]}),
        row("near-expert", "all", "", near["overall"] | {"ratio": near["ratio"]}),
        "",
        f"Processes: {report['n_processes']}, and {report['n_near_expert']} with "
        "near-expert logs.",
        f"Sampled, all: {text(report['overall']['sampled'])}; best control of each "
        f"cell: {text(report['overall']['best_control'])}.",
        f"Of {len(report['cells'])} cells, not surely worse than the best control in "
        f"{report['wins']}, surely better in {report['better']}.",
        f"[low, high] covers Q*: {text(report['coverage'])} (aim 0.8), near-expert "
        f"{text(near['coverage'])}; by family: "
        + ", ".join(
            f"{family} {row['coverage'][0]:.3f}"
            for family, row in report["by_family"].items()
        )
        + ".",
        "Q* below low, middle, high: "
        + ", ".join(
            f"{report[f'below_{head}']:.3f}" for head in ("low", "middle", "high")
        )
        + " (aim 0.1, 0.5, 0.9).",
        f"Optimal-action probability: reliability error "
        f"{text(report['reliability_error'])}, Brier score {text(report['brier'])}.",
    ]
    if "bayes" in report:
        bayes = report["bayes"]
        lines.append(
            f"Excess over the Bayes reference, {bayes['n_processes']} conjugate "
            f"processes: sampled {text(bayes['excess_sampled'])}, greedy "
            f"{text(bayes['excess_greedy'])}, CE ties "
            f"{text(bayes['excess_ce_random_ties'])}."
        )
    if "online" in report:
        online = report["online"]
        lines += [
            f"Online {name}, {online['n_processes']} processes, 30 episodes of 50 "
            f"steps: regret {text(found['regret'])}, of the last ten "
            f"{text(found['last'])}; gave up in {text(found['give_ups'])}."
            for name, found in (("tabrl", online), ("PSRL", online["psrl"]))
        ]
    return "\n".join(lines)


def draw_figure(report: dict[str, Any], path: Path) -> None:
    """Draw regret by size, reliability and coverage by family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4), layout="constrained"
    )
    rows = report["by_size"].values()
    for name, label in (("sampled", "tabrl"), ("best_control", "best control")):
        mean, low, high = np.array([row[name] for row in rows]).T
        left.plot(SIZES, mean, marker="o", label=label)
        left.fill_between(SIZES, low, high, alpha=0.25)
    left.set(xscale="log", xlabel="Transitions", ylabel="Normalised regret")
    left.set(ylim=(0, None), title="Regret, mean of all families")
    left.set_xticks(SIZES, [str(size) for size in SIZES])
    left.minorticks_off()
    left.legend(frameon=False)

    bins = [row for row in report["reliability"] if row["mass"] > 0]
    mean, low, high = np.array([row["optimal"] for row in bins]).T
    middle.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    middle.errorbar(
        [row["probability"] for row in bins],
        mean,
        np.maximum([mean - low, high - mean], 0),
        marker="o",
        capsize=3,
    )
    error = report["reliability_error"][0]
    middle.set(xlabel="Probability to be optimal", ylabel="Share of optimal actions")
    middle.set(title=f"Reliability, error {error:.3f}", xlim=(0, 1), ylim=(0, 1))

    names = ["all", *report["by_family"]]
    shares = [row["coverage"] for row in report["by_family"].values()]
    mean, low, high = np.array([report["coverage"], *shares]).T
    right.axvspan(0.75, 0.85, color="0.9")
    right.axvline(0.8, color="0.6", linestyle="--", linewidth=1)
    spread = np.maximum([mean - low, high - mean], 0)
    right.errorbar(mean, names, xerr=spread, fmt="o", capsize=3)
    right.invert_yaxis()
    right.set(xlabel="Share of Q* in [low, high]", title="Coverage, nominal 0.8")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--run", type=Path, help="folder of the run, which gets the report"
    )
    source.add_argument(
        "--checkpoint", help="folder or name of a checkpoint, or 'auto'"
    )
    parser.add_argument(
        "--per-cell", type=int, default=64, help="processes a cell, a multiple of 8"
    )
    parser.add_argument("--figure", type=Path, help="PNG to write")
    parser.add_argument("--compare", help="also compare this device with the CPU")
    arguments = parser.parse_args()
    n = arguments.per_cell
    if n < _GROUP or n % _GROUP:
        parser.error(f"--per-cell must be a multiple of {_GROUP}. Got {n}.")
    if arguments.run:
        network = averaged_network(arguments.run).eval()
    else:
        network = load_network(arguments.checkpoint, _CPU)
    report = validate(network, n)
    report["bayes"] = bayes_comparison(network, 2 * n)
    report["online"] = online_scores(network, n // _GROUP)
    if arguments.compare:
        report["devices"] = compare_devices(network, arguments.compare, _GROUP)
    if arguments.run:
        path = arguments.run / "validation.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.figure:
        draw_figure(report, arguments.figure)
    print(table(report))
    if "devices" in report:
        print(report["devices"])


if __name__ == "__main__":
    main()
