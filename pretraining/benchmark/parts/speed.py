"""Time and memory from a log to a policy, of tabrl and of its peers, in one process.

The log is one of the uniform policy in a random process: four actions, five random
successors a pair, 100 transitions a state. Every method starts from the same arrays
and ends with an action for each state:

- tabrl: `fit` and `predict`;
- certainty equivalence by dense value iteration, to within 0.001 of the optimum;
- certainty equivalence by QuantEcon's policy iteration, on sparse counts;
- d3rlpy's DiscreteCQL, on one-hot states.

All run on one thread, as what two give depends on what else the machine does.
`scale` adds larger processes, and logs that engines count.
Libraries and the checkpoint are loaded, and code compiled, before the clock starts.
Memory is what the process needs at most, beyond what it had before: Linux's counter,
as `tracemalloc` does not see what torch takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pretraining.benchmark.baselines.offline import LoggedData
from pretraining.benchmark.baselines.offline.neural import DiscreteCQL
from pretraining.benchmark.baselines.packages import missing
from pretraining.benchmark.baselines.quantecon_planner import quantecon_values
from pretraining.benchmark.cells import Cell, Row, run_part
from pretraining.benchmark.exact import action_values
from pretraining.benchmark.parts import scale
from pretraining.benchmark.parts.measure import measure
from pretraining.benchmark.process import Environment

N_ACTIONS, N_SUCCESSORS, GAMMA = 4, 5, 0.99
ROWS_PER_STATE = 100
TABRL = "tabrl"
DENSE = "value iteration, dense"
QUANTECON = "policy iteration, QuantEcon"
CQL = "DiscreteCQL, d3rlpy"
_PRECISION = 1e-3
METHODS = (TABRL, DENSE, QUANTECON, CQL)
# A method whose largest array would take more bytes is left out.
MAX_BYTES = 2**30
# The factors of a sparse random matrix are all but dense: with 10,000 states one
# policy iteration had not ended after 7 minutes.
MAX_FACTORISED_STATES = 1000

Log = dict[str, NDArray]


@dataclass(frozen=True)
class Protocol:
    """What the speed benchmark runs.

    Parameters
    ----------
    n_states : sequence of int
        Sizes of the process.
    n_repeats : int
        Measurements of each method, in turns.
    cql_steps : int
        Gradient steps of DiscreteCQL; those of the offline benchmark by default.
    checkpoint : str
        What `OfflinePolicyEstimator` takes.
    large : sequence of (int, int, int)
        States, actions and tried actions of `scale.score_size`; twice each.
    engine_rows : int
        Rows of `scale.score_engine`; twice each.
    """

    n_states: Sequence[int] = (10, 100, 1000, 10_000)
    n_repeats: int = 5
    cql_steps: int = 1000
    checkpoint: str = "auto"
    large: Sequence[tuple[int, int, int]] = scale.SIZES
    engine_rows: int = 10_000_000


QUICK = Protocol(
    n_states=(10, 100),
    n_repeats=2,
    cql_steps=50,
    large=((100, 10, 10), (1000, 10, 10), (100, 100, 3)),
    engine_rows=10_000,
)


def random_process(n_states: int) -> Environment:
    """Draw a sparse random process."""
    rng = np.random.default_rng(0)
    shape = (n_states, N_ACTIONS, N_SUCCESSORS)
    return Environment(
        name=f"random-{n_states}",
        next_state=rng.integers(n_states, size=shape),
        prob=rng.dirichlet(np.ones(N_SUCCESSORS), size=shape[:2]),
        reward=rng.normal(size=shape),
        terminated=np.zeros(shape, dtype=bool),
        start=np.full(n_states, 1 / n_states),
        gamma=GAMMA,
    )


def random_log(env: Environment) -> Log:
    """Log an episode of 100 steps a state, side by side: quicker than `simulate`."""
    rng = np.random.default_rng(1)
    n_states = env.n_states
    state = rng.integers(n_states, size=n_states)
    steps: list[tuple[NDArray, ...]] = []
    for _ in range(ROWS_PER_STATE):
        action = rng.integers(N_ACTIONS, size=n_states)
        cdf = env.prob[state, action].cumsum(axis=1)
        outcome = (rng.random((n_states, 1)) > cdf[:, :-1]).sum(axis=1)
        pair = state, action, outcome
        steps.append((state, action, env.reward[pair], env.next_state[pair]))
        state = env.next_state[pair]
    # Each column from (steps, episodes) to one episode after another.
    columns = [np.stack(column, axis=1).ravel() for column in zip(*steps, strict=True)]
    names = ("state", "action", "reward", "next_state")
    last = np.arange(len(columns[0])) % ROWS_PER_STATE == ROWS_PER_STATE - 1
    return {
        **dict(zip(names, columns, strict=True)),
        "terminated": np.zeros(len(last), dtype=bool),
        "truncated": last,
    }


def tabrl_actions(log: Log, env: Environment, checkpoint: str) -> NDArray:
    """Fit tabrl and predict for all states of the log."""
    from tabrl import OfflinePolicyEstimator

    estimator = OfflinePolicyEstimator(
        gamma=env.gamma, checkpoint=checkpoint, random_state=0
    )
    estimator.fit(log)
    return np.asarray(estimator.predict(estimator.states_))


def logged_data(log: Log, env: Environment) -> LoggedData:
    """Count the log."""
    return LoggedData.from_log(log, env.gamma, env.uniform_policy)


def dense_value_iteration(log: Log, env: Environment) -> NDArray:
    """Value iteration on the dense matrix of the observed frequencies."""
    data = logged_data(log, env)
    P, reward = data.transition.toarray(), data.mean_reward
    v = np.zeros(env.n_states)
    # So small a change bounds the distance to the optimum by the precision.
    threshold = _PRECISION * (1 - env.gamma) / env.gamma
    while True:
        q = reward + env.gamma * (P @ v).reshape(reward.shape)
        change, v = np.abs(q.max(axis=1) - v).max(), q.max(axis=1)
        if change <= threshold:
            return q.argmax(axis=1)


def quantecon_actions(log: Log, env: Environment) -> NDArray:
    """Policy iteration of QuantEcon on the observed frequencies."""
    data = logged_data(log, env)
    observed = data.transition, data.mean_reward, env.gamma
    return action_values(*observed, quantecon_values(*observed)).argmax(axis=1)


def cql_actions(log: Log, env: Environment, n_steps: int) -> NDArray:
    """Train DiscreteCQL of d3rlpy."""
    pi = DiscreteCQL(n_steps).policy(logged_data(log, env), 1.0)
    return pi.argmax(axis=1)


def too_large(method: str, n_states: int) -> str | None:
    """Say why a method is left out at a size, if it is."""
    if method == QUANTECON and n_states > MAX_FACTORISED_STATES:
        return f"its sparse factorisation fills up beyond {MAX_FACTORISED_STATES:,}"
    needed = {
        DENSE: 8 * n_states * N_ACTIONS * n_states,
        CQL: 4 * ROWS_PER_STATE * n_states * n_states,
    }.get(method, 0)
    return f"one array of {needed / 2**30:.0f} GiB" if needed > MAX_BYTES else None


def methods(cql_steps: int, checkpoint: str) -> dict[str, Callable[..., NDArray]]:
    """Return the methods that are installed; what is not is said."""
    found: dict[str, Callable[..., NDArray]] = {
        TABRL: partial(tabrl_actions, checkpoint=checkpoint),
        DENSE: dense_value_iteration,
    }
    if not missing("quantecon", QUANTECON):
        found[QUANTECON] = quantecon_actions
    if not missing("d3rlpy", CQL):
        found[CQL] = partial(cql_actions, n_steps=cql_steps)
    return found


def score_cell(cell: Cell, protocol: Protocol) -> list[Row]:
    """Measure each method on one size; one row a method and repeat.

    Parameters
    ----------
    cell : mapping
        `n_states`; or what a function of `scale` takes, with its name as `kind`.
    protocol : Protocol
        The rest.

    Returns
    -------
    list of dict
        `method`, `constant` (None), `seed` (of the repeat), `n_rows`, `steps` of
        gradient if it takes such, `seconds` and `bytes`, which are None with a
        `reason` where a method was left out.
    """
    found = methods(protocol.cql_steps, protocol.checkpoint)
    small = random_process(10)
    kind = cell.get("kind")
    for method, call in found.items():  # loads and compiles
        if kind is None or method == TABRL:
            call(random_log(small), small)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Only of libraries that are loaded by now.
        with threadpool_limits(1):
            if kind == "sizes":
                return scale.score_size(cell, protocol.checkpoint, 2)
            if kind == "engines":
                return scale.score_engine(cell, 2)
            rows = _measure_all(cell["n_states"], found, protocol.n_repeats)
    finally:
        torch.set_num_threads(n_threads)
    return [
        {**row, "steps": protocol.cql_steps if row["method"] == CQL else None}
        for row in rows
    ]


def _measure_all(
    n_states: int, found: Mapping[str, Callable[..., NDArray]], n_repeats: int
) -> list[Row]:
    env = random_process(n_states)
    log = random_log(env)
    rows: list[Row] = []
    for repeat, method in product(range(n_repeats), METHODS):
        seconds = n_bytes = None
        reason = too_large(method, n_states)
        if method not in found:
            reason = "not installed"
        if reason is None:
            seconds, n_bytes = measure(partial(found[method], log, env))
        row = {"method": method, "constant": None, "seed": repeat}
        row |= {"n_rows": len(log["state"]), "reason": reason}
        rows.append({**row, "seconds": seconds, "bytes": n_bytes})
    return rows


def run(protocol: Protocol, output: Path | None = None, **options: Any) -> list[Row]:
    """Run this part of the benchmark, with the options of `cells.run_part`.

    One process alone, for the sake of the times.
    """
    cells: list[dict[str, Any]] = [{"n_states": n} for n in protocol.n_states]
    for n_states, n_actions, n_tried in protocol.large:
        size = {"n_states": n_states, "n_actions": n_actions, "n_tried": n_tried}
        cells.append({"kind": "sizes", **size})
    for labels in scale.LABELS:
        rows = {"n_rows": protocol.engine_rows, "labels": labels}
        cells.append({"kind": "engines", **rows})
    cells = [{"part": "speed", **cell} for cell in cells]
    score = partial(score_cell, protocol=protocol)
    return run_part("speed", protocol, cells, score, output, **options)
