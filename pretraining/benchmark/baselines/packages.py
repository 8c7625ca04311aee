"""Public packages as peers and as oracles, each of them optional.

``install.sh`` in this folder installs them. A part that needs one that is missing is
left out, and `missing` says so.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pretraining.benchmark.process import Environment

Log = Mapping[str, NDArray]
D3RLPY_METHODS = ("DiscreteCQL", "DiscreteBCQ")


def missing(package: str, part: str) -> bool:
    """Tell whether a package is missing, and print what is left out because of it.

    Parameters
    ----------
    package : str
        Name under which it is imported.
    part : str
        What needs it.
    """
    if find_spec(package) is not None:
        return False
    sys.stderr.write(
        f"Left out: {part}, as {package} is not installed. "
        "Run pretraining/benchmark/install.sh.\n"
    )
    return True


def quantecon_values(env: Environment) -> NDArray[np.float64]:
    """Optimal state values (S,) by policy iteration of QuantEcon's DiscreteDP."""
    from quantecon.markov import DiscreteDP

    n_states, n_actions = env.n_states, env.n_actions
    # DiscreteDP knows no termination: what ends goes to one more state, worth 0.
    goes_on = env.transition.sum(axis=1)
    ends = sparse.csr_matrix(np.maximum(1 - goes_on, 0)[:, None])
    last = sparse.csr_matrix(np.eye(n_states + 1)[-1:])
    rows = sparse.hstack([sparse.csr_matrix(env.transition), ends])
    problem = DiscreteDP(
        np.append(env.expected_reward.ravel(), 0.0),
        sparse.csr_matrix(sparse.vstack([rows, last])),
        env.gamma,
        np.append(np.repeat(np.arange(n_states), n_actions), n_states),
        np.append(np.tile(np.arange(n_actions), n_states), 0),
    )
    return problem.solve(method="policy_iteration").v[:n_states]


def d3rlpy_dataset(log: Log, n_states: int, n_actions: int) -> Any:
    """Turn a log into d3rlpy's MDPDataset with one-hot states.

    d3rlpy leaves out the last transition of a truncated episode, whose next state
    its format does not hold. So each gets one more step from that state, with action
    0 and reward 0, which is then the one left out.
    """
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import MDPDataset

    # Where each row goes when a step is put in after each truncated one.
    cut = np.flatnonzero(log["truncated"])
    state = np.insert(log["state"], cut + 1, log["next_state"][cut])
    terminals = np.insert(log["terminated"], cut + 1, False)
    timeouts = np.insert(np.zeros(len(log["state"]), bool), cut + 1, True)
    return MDPDataset(
        observations=np.eye(n_states, dtype=np.float32)[state],
        actions=np.insert(log["action"], cut + 1, 0)[:, None],
        rewards=np.insert(log["reward"], cut + 1, 0.0).astype(np.float32)[:, None],
        terminals=terminals.astype(np.float32),
        timeouts=timeouts.astype(np.float32),
        action_space=ActionSpace.DISCRETE,
        action_size=n_actions,
    )


def d3rlpy_policy(
    method: str,
    log: Log,
    env: Environment,
    seed: int,
    n_steps: int,
    **options: float,
) -> NDArray[np.float64]:
    """Train one of d3rlpy's offline methods on one log.

    Its defaults are for millions of steps on pixels: in a few thousand the target
    network would never be updated. So the learning rate is 1e-3 and the target
    follows every 25 steps; the rest is as it comes.

    Parameters
    ----------
    method : {"DiscreteCQL", "DiscreteBCQ"}
        Which one.
    log : mapping of str to array
        The transitions.
    env : Environment
        Where the log comes from; gives the numbers of states and actions, and gamma.
    seed : int
        Of its networks and batches.
    n_steps : int
        Gradient steps.
    **options : float
        More options of the method: `alpha`, how conservative DiscreteCQL is.

    Returns
    -------
    array of shape (S, A)
        Its choices; uniform in states that the log does not show.
    """
    import d3rlpy
    import structlog

    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet)
    d3rlpy.seed(seed)
    dataset = d3rlpy_dataset(log, env.n_states, env.n_actions)
    algorithm = getattr(d3rlpy.algos, f"{method}Config")(
        gamma=env.gamma, learning_rate=1e-3, target_update_interval=25, **options
    ).create(device="cpu:0")
    algorithm.fit(
        dataset,
        n_steps=n_steps,
        n_steps_per_epoch=n_steps,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    seen = np.unique(log["state"])
    pi = env.uniform_policy.copy()
    choice = algorithm.predict(np.eye(env.n_states, dtype=np.float32)[seen])
    pi[seen] = np.eye(env.n_actions)[choice]
    return pi
