"""How hard an environment is, by the measures of Colosseum.

Conserva and Rauber (2022, "Hardness in Markov decision processes: theory and
practice") compare the measures of the literature. Of those that they recommend, the
diameter stands for what exploration needs, and the sub-optimality gap and the value
norm stand for what estimation needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.sparse.csgraph import dijkstra as shortest_paths

from pretraining.benchmark.exact import policy_iteration, tolerance
from pretraining.benchmark.process import Environment

# Hitting times are discounted by so little that it changes them by less than a
# millionth up to 10^4 steps, so that policies that never arrive have a value as well.
_ALMOST_ONE = 1 - 1e-10
# Up to this number of states a dense inverse takes at most a few seconds.
_DENSE_STATES = 1500
# Hitting times above this are rounding in good part, and prove nothing.
_RELIABLE = 1e8


@dataclass(frozen=True)
class Hardness:
    """Three measures of hardness; all states are those that can be reached.

    Parameters
    ----------
    diameter : float
        Largest expected number of steps, over pairs of different states, that the
        fastest policy takes from one to the other (Jaksch, Ortner and Auer 2010). A
        step that terminates leads back to the start distribution; truncation is left
        out. It is inf where some state cannot be left for some other.
    suboptimality_gap : float
        Smallest positive loss of an action, ``v*(s) - q*(s, a)``, in units of reward;
        inf where no action loses anything.
    value_norm : float
        Largest standard deviation of the optimal value of the successor, over pairs
        (Maillard, Mann and Mannor 2014), in units of reward. An end has value 0.
    """

    diameter: float
    suboptimality_gap: float
    value_norm: float


def hardness(env: Environment) -> Hardness:
    """Measure an environment at its discount factor.

    Parameters
    ----------
    env : Environment
        The process.

    Returns
    -------
    Hardness
        Its measures, exact up to rounding. A diameter above 10^8 is one that large.
    """
    reached = reachable(env)
    q = env.optimal_q
    v = q.max(axis=1)
    gap = (v[:, None] - q)[reached]
    losses = gap[gap > tolerance(q)]
    following = np.where(env.terminated, 0.0, v[env.next_state])
    mean = (env.prob * following).sum(axis=2, keepdims=True)
    variance = (env.prob * (following - mean) ** 2).sum(axis=2)[reached]
    return Hardness(
        diameter=diameter(env),
        suboptimality_gap=float(losses.min(initial=np.inf)),
        value_norm=float(np.sqrt(variance.max())),
    )


def reachable(env: Environment) -> NDArray[np.bool_]:
    """States (S,) that an episode can be in, the last one of it left out."""
    process = _restarted(env)
    order = breadth_first_order(
        _graph(process, env.n_actions), env.n_states, return_predecessors=False
    )
    reached = np.zeros(env.n_states + 1, dtype=bool)
    reached[order] = True
    return reached[:-1]


def diameter(env: Environment) -> float:
    """Diameter of an environment, see `Hardness`.

    Each target needs a policy iteration of its own. Targets come in the order of what
    the uniform policy needs for them, and the rest is left out as soon as that is less
    than the diameter so far.

    Parameters
    ----------
    env : Environment
        The process.

    Returns
    -------
    float
        Expected steps.
    """
    n_actions = env.n_actions
    process = _restarted(env)
    reached = reachable(env)
    # The state between an end and the next start is there only where there are ends.
    ends = process[:, [-1]].toarray().reshape(-1, n_actions).any(axis=1)
    restarts = bool(ends[:-1][reached].any())
    keep = np.flatnonzero(np.append(reached, restarts))
    pairs = (keep[:, None] * n_actions + np.arange(n_actions)).ravel()
    process = process[pairs][:, keep]
    graph = _graph(process, n_actions)
    if connected_components(graph, connection="strong")[0] > 1:
        return np.inf
    n_states = int(reached.sum())
    reward = np.full((len(keep), n_actions), -1.0)
    reward[n_states:] = 0.0  # to start again takes no time
    bound = _uniform_hitting_times(process, n_actions)
    distance = shortest_paths(graph.T, unweighted=True)
    longest = 0.0
    for target in np.argsort(-bound[:n_states], kind="stable"):
        if bound[target] <= longest:
            break
        q = policy_iteration(
            _without(process, target),
            reward,
            _ALMOST_ONE,
            guess=-distance[target],
            n_sweeps=0,
        )
        times = np.delete(-q.max(axis=1)[:n_states], target)
        longest = max(longest, float(times.max(initial=0.0)))
    return longest


def _restarted(env: Environment) -> sparse.csr_array:
    """Probabilities with one state more, which ends lead to and a start follows."""
    n_actions = env.n_actions
    ends = np.maximum(1 - env.transition.sum(axis=1), 0.0)
    ends[ends < 1e-12] = 0.0  # rounding
    start = np.tile(env.start, (n_actions, 1))
    process = sparse.block_array(
        [
            [env.transition, sparse.csr_array(ends[:, None])],
            [sparse.csr_array(start), None],
        ],
        format="csr",
    )
    process.eliminate_zeros()
    return process


def _graph(process: sparse.csr_array, n_actions: int) -> sparse.csr_array:
    """Whether some action may lead from one state to another."""
    n_states = process.shape[1]
    state = np.repeat(np.arange(n_states), np.diff(process.indptr[::n_actions]))
    # The shortest paths of SciPy 1.13 take no other integers.
    index = (state.astype(np.int32), process.indices.astype(np.int32))
    edges = (np.ones(process.nnz), index)
    return sparse.csr_array(sparse.coo_array(edges, shape=(n_states, n_states)))


def _without(process: sparse.csr_array, target: int) -> sparse.csr_array:
    """Let what arrives at the target end."""
    data = np.where(process.indices == target, 0.0, process.data)
    return sparse.csr_array((data, process.indices, process.indptr), process.shape)


def _uniform_hitting_times(
    process: sparse.csr_array, n_actions: int
) -> NDArray[np.float64]:
    """Largest expected steps of the uniform policy to each state; inf if unreliable.

    By the fundamental matrix (Kemeny and Snell 1960, theorem 4.4.7), which counts
    starting again as a step: times are too long, never too short.
    """
    n_states = process.shape[1]
    if n_states > _DENSE_STATES:
        return np.full(n_states, np.inf)
    mean = np.zeros((n_states, n_states))
    for action in range(n_actions):
        mean += process[action::n_actions].toarray() / n_actions
    # The stationary distribution solves pi (I - P + 1) = 1.
    system = np.eye(n_states) - mean
    stationary = np.linalg.solve((system + 1).T, np.ones(n_states))
    fundamental = np.linalg.inv(system + stationary)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = (np.diag(fundamental) - fundamental.min(axis=0)) / stationary
    reliable = (stationary > 0) & (times < _RELIABLE)
    return np.where(reliable, times, np.inf)
