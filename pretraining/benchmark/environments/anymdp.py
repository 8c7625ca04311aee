"""AnyMDP: processes of a public generator for meta-learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.environments.packages import load
from pretraining.benchmark.process import Environment

_N_ACTIONS = 5  # the generator's default
# No log will ever show what is less probable. The tails of the bumps go down to 1e-324.
_NEVER = 1e-12


def anymdp(n_states: int, gamma: float, seed: int) -> Environment:
    """Draw a task of AnyMDP (Wang et al. 2025, arXiv 2502.02869), package xenoverse.

    States lie on a line. Each has a window of successors about it, over which its
    actions are spread out as bumps; the numbers of states are then shuffled. Rewards
    have a part for the progress along the line, one for the successor, one for the
    pair; some states are pits that end the episode, and sometimes the last is a goal.
    The family `bands` of the prior resembles these tasks.

    The generator's limit on the steps of an episode is left out. Its rewards have
    normal noise; here the noise is one standard deviation up or down, with equal
    chances, which leaves mean and variance as they are.

    Parameters
    ----------
    n_states : int
        Number of states, at least 8.
    gamma : float
        Discount factor in [0, 1).
    seed : int
        Seed of the task.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.
    """
    task = sample_task(n_states, seed)
    # The environment shows state_mapping[i] in place of state i.
    inner = np.argsort(task["state_mapping"])
    cells = np.ix_(inner, np.arange(_N_ACTIONS), inner)
    transition = task["transition"][cells]
    ends = np.isin(inner, task["s_e"])
    # Nothing follows an end.
    transition[ends] = np.eye(n_states)[ends][:, None, :]
    transition[transition < _NEVER] = 0.0
    transition /= transition.sum(axis=2, keepdims=True)

    width = int((transition > 0).sum(axis=2).max())
    next_state = np.argsort(transition <= 0, axis=2, kind="stable")[:, :, :width]
    prob, reward, noise = (
        np.take_along_axis(array, next_state, axis=2)
        for array in (transition, task["reward"][cells], task["reward_noise"][cells])
    )
    reward, noise = (np.where(ends[:, None, None], 0.0, x) for x in (reward, noise))
    start = np.zeros(n_states)
    start[np.asarray(task["state_mapping"])[task["s_0"]]] = task["s_0_prob"]
    return Environment(
        name=f"AnyMDP-{n_states}",
        next_state=np.concatenate([next_state, next_state], axis=2),
        prob=np.concatenate([prob, prob], axis=2) / 2,
        reward=np.concatenate([reward + noise, reward - noise], axis=2),
        terminated=np.concatenate([ends[next_state]] * 2, axis=2),
        start=start,
        gamma=gamma,
    )


def sample_task(n_states: int, seed: int) -> dict[str, Any]:
    """Call the package's own sampler; the global random state stays as it was."""
    package = "xenoverse"
    sampler = load("xenoverse.anymdp.task_sampler", package)
    users = [
        load(f"xenoverse.anymdp.{name}", package)
        for name in ("solver", "task_sampler_utils")
    ]
    state = np.random.get_state()  # noqa: NPY002
    try:
        with _replaced(users, "update_value_matrix", _value_iteration()):
            return sampler.AnyMDPTaskSampler(n_states, _N_ACTIONS, seed=seed)
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def _replaced(modules: list[Any], name: str, function: Callable) -> Iterator[None]:
    former = [getattr(module, name) for module in modules]
    for module in modules:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, original in zip(modules, former, strict=True):
            setattr(module, name, original)


@lru_cache(maxsize=1)
def _value_iteration() -> Callable[..., NDArray[np.float64]]:
    """Compile the sampler's value iteration with state values kept at hand.

    The package recomputes the value of a successor at each use, which takes 90 s for a
    task of 128 states. Operations and their order are the same, so the tasks are, too.
    """
    numba = load("numba", "xenoverse")

    @numba.njit
    def value_iteration(  # type: ignore[no-untyped-def]
        t_mat, r_mat, gamma, vm, max_iteration=-1, is_greedy=True
    ):
        n_states, n_actions = vm.shape
        q = vm.copy()
        v = np.empty(n_states)
        for s in range(n_states):
            v[s] = np.max(q[s]) if is_greedy else np.mean(q[s])
        alpha, difference = 1.0, 1.0
        while difference > 1e-4:
            before = q.copy()
            for s in range(n_states):
                for a in range(n_actions):
                    total = 0.0
                    for successor in range(n_states):
                        p = t_mat[s, a, successor]
                        if p != 0.0:
                            r = r_mat[s, a, successor]
                            total += p * (gamma * v[successor] + r)
                    q[s, a] += alpha * (total - q[s, a])
                    v[s] = np.max(q[s]) if is_greedy else np.mean(q[s])
            difference = np.sqrt(np.mean((before - q) ** 2))
            alpha = max(0.80 * alpha, 0.50)
        return q

    return value_iteration
