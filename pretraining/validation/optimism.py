"""Choose how optimistic an agent should be, by its regret on processes of the prior.

    python -m pretraining.validation.optimism --run runs/base

Every rule (spread, untried) of `draw_posterior` explores the same processes of every
family, seeded apart from training and validation. The benchmark has no say in the
choice (the form of the rule, and which rules there are to choose from, were settled
looking at it). Prints the mean normalised regret of an episode for each rule and
family, with how much more it is than the best rule's (the processes being the same) and
the standard error of that, and writes the best to ``optimism.json``, where the export
finds it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pretraining.prior import FAMILIES, log_uniform
from pretraining.recipe.export import averaged_network
from pretraining.recipe.loss import loss_of_states
from pretraining.recipe.simulate import (
    Log,
    draw,
    exploring_policy,
    reward_ranges,
    to_statistics,
    with_rewards,
)
from pretraining.recipe.targets import ProcessBatch, draw_processes
from tabrl._network import Network
from tabrl._replanning import ENOUGH_VISITS

_SEED = 2**32 - 2  # validation has 2**32 - 1
_GROUP = 8
RULES = ((0.35, 0.05), (0.7, 0.05), (1.4, 0.05))


def exploration_set(n_per_family: int) -> Iterator[tuple[str, ProcessBatch]]:
    """Yield batches of processes of each family, the same at every call."""
    for f, family in enumerate(FAMILIES):
        for i in range(n_per_family // _GROUP):
            rng = np.random.default_rng((_SEED, f, i))
            n_states = round(log_uniform(rng, 2, 32))
            if family == "bandits":
                n_states = int(rng.integers(1, 4))
            n_actions = round(log_uniform(rng, 2, 10))
            yield family, draw_processes(rng, _GROUP, n_states, n_actions, [family])


def online_regret(
    network: Network, batch: ProcessBatch, n_episodes: int, n_steps: int, seed: int
) -> NDArray[np.float64]:
    """Return the normalised regret of what each episode followed, (n_episodes, B).

    The agent knows the states, the actions and the range of the rewards; it plans at
    the start of an episode and where it goes in circles, as `tabrl.OnlineAgent` does,
    ties at random. Scores are those of `exploration.online_regret`.
    """
    rng = np.random.default_rng(seed)
    shape = batch.P.shape
    log = Log(np.zeros(shape), np.zeros(shape[:3]), np.zeros(shape[:3]))
    everything = np.zeros(shape[0], bool)
    declared = reward_ranges(batch)

    def plan(log: Log) -> Tensor:
        return exploring_policy(
            network, to_statistics(batch, log, everything, declared), rng
        )

    regrets = []
    for _ in range(n_episodes):
        log, regret = _episode(rng, batch, log, plan, n_steps)
        regrets.append(regret)
    start = batch.start.numpy()
    gain = (start * (batch.q.amax(-1) - batch.v_uniform).numpy()).sum(-1)
    return np.clip(np.array(regrets) / gain, -2.0, 2.0)


def regret_of_rules(
    network: Network, batch: ProcessBatch, n_episodes: int, n_steps: int
) -> NDArray[np.float64]:
    """Return the mean regret of an episode for each rule and process, (rules, B)."""
    regrets = []
    for rule in RULES:
        network.optimism = rule
        regret = online_regret(network, batch, n_episodes, n_steps, seed=0)
        regrets.append(regret.mean(0))
    return np.array(regrets)


def _episode(
    rng: np.random.Generator,
    batch: ProcessBatch,
    log: Log,
    plan: Callable[[Log], Tensor],
    n_steps: int,
) -> tuple[Log, NDArray[np.float64]]:
    """Return the log with one episode of each process more, and what that lost."""
    shape = batch.P.shape
    P, terminal = batch.P.numpy().cumsum(-1), batch.terminal.numpy()
    pi = plan(log)
    choice = pi.numpy().cumsum(-1)
    loss = loss_of_states(batch, pi).numpy()
    lost = (batch.start.numpy() * loss).sum(-1)
    counts = np.zeros(shape)  # since the last plan of any process
    news = np.zeros(shape[:3], bool)  # since the last plan of each
    gamma = batch.gamma.numpy()
    going = np.arange(shape[0])
    state = draw(rng, batch.start.numpy().cumsum(-1))
    for step in range(n_steps):
        action = draw(rng, choice[going, state])
        late = np.flatnonzero(news[going, state, action])
        if len(late):
            log = log + with_rewards(rng, batch, counts)
            counts[:] = 0
            pi = plan(log)
            after = loss_of_states(batch, pi).numpy()
            where, here = going[late], (going[late], state[late])
            lost[where] += gamma[where] ** step * (after[here] - loss[here])
            loss[where], news[where] = after[where], False
            choice[where] = pi.numpy()[where].cumsum(-1)
            action[late] = draw(rng, choice[here])
        following = draw(rng, P[going, state, action])
        tried = log.counts[going, state, action] + counts[going, state, action]
        news[going, state, action] |= tried.sum(-1) == ENOUGH_VISITS - 1
        counts[going, state, action, following] += 1
        goes_on = ~terminal[going, following]
        going, state = going[goes_on], following[goes_on]
        if not len(going):
            break
    return log + with_rewards(rng, batch, counts), lost


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--per-family", type=int, default=64, help="processes")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50, help="of an episode")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    arguments = parser.parse_args()
    network = averaged_network(arguments.run).eval()
    batches = list(exploration_set(arguments.per_family))
    parallel = Parallel(n_jobs=arguments.jobs, return_as="generator")
    tasks = (
        delayed(regret_of_rules)(network, batch, arguments.episodes, arguments.steps)
        for _, batch in batches
    )
    parts = list(tqdm(parallel(tasks), total=len(batches)))
    scores = np.stack(
        [
            np.concatenate(
                [r for (f, _), r in zip(batches, parts, strict=True) if f == name], 1
            )
            for name in FAMILIES
        ],
        1,
    )  # (rules, families, processes)
    chosen = int(scores.mean((1, 2)).argmin())
    more = scores - scores[chosen]
    error = more.std((1, 2)) / np.sqrt(more[0].size)
    print("spread untried  mean  more than the best +- error  " + "  ".join(FAMILIES))
    for i, (spread, untried) in enumerate(RULES):
        print(
            f"{spread:6.2f} {untried:7.2f}  "
            f"{scores[i].mean():.4f}  {more[i].mean():.4f} +- {error[i]:.4f}  "
            + "  ".join(
                f"{regret:{len(name)}.3f}"
                for name, regret in zip(FAMILIES, scores[i].mean(1), strict=True)
            )
        )
    report = {
        "optimism": RULES[chosen],
        "rules": RULES,
        "families": list(FAMILIES),
        "regret": scores.mean(2).round(4).tolist(),
    }
    (arguments.run / "optimism.json").write_text(json.dumps(report) + "\n")
    print(f"Chosen: {RULES[chosen]}.")


if __name__ == "__main__":
    main()
