"""Exact planning in a posterior process: dense batches with gradient, and sparse.

Both solve, for each head, the optimality equation of `tabrl._network.Posterior`.
`plan_dense` serves pretraining: policy iteration without gradient, then one
differentiable linear solve for the greedy policy, exact by the envelope theorem.
`plan_sparse` serves inference: nothing of size S x A x S is ever made.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import LinearOperator, bicgstab, splu
from torch import Tensor

from tabrl._features import Features
from tabrl._network import Posterior

# Actions are equally good whose values differ by no more than this share of their size:
# about what rounding leaves of a plan, far below what data can tell.
TIE = {torch.float32: 1e-5, torch.float64: 1e-6}
# Dense policy iteration changes an action only for more than this share of the values'
# size, in float64 and in float32: else rounding makes it cycle among equal actions.
_IMPROVEMENT = 1e-9
_IMPROVEMENT_SINGLE = 1e-5
# Sparse plans: the residual of the solved values, and the gain for which an action is
# changed, as shares of the largest reward. A residual of x times that moves no value by
# more than x times the values' bound, the largest reward over 1 - gamma.
_ACCURACY = 1e-10
_GAIN = 5e-10
# Residuals cannot fall below the rounding of the values, in units of their size.
_ROUNDING = 8 * float(np.finfo(float).eps)
# A plan is refused whose values may be further from optimal than this share of their
# size. They are off by at most their residual over 1 - gamma, as a backup is a
# contraction by gamma (Puterman 1994, theorem 6.3.1).
_RIGHT = 1e-6
# A reward that no plan accepts, small enough for float32 to add to.
NEVER = -1e9
# Up to so many states, and entries of a dense (S A, S) array, dense products and solves
# are faster than sparse ones.
_DENSE_STATES = 192
_DENSE_ENTRIES = 2**18
# A process is local if its states can be numbered so that the mean square distance to a
# neighbour is at most so many times S: about 1/2 on grids, S/2 where successors are
# random. Then a sparse factorisation takes as long as ten sweeps; else factors fill.
_LOCAL = 16
# Non-zeros of all rows of a local process together, 12 bytes each.
_MAX_ENTRIES = 2**25
# Most multiplications of a factorisation where nothing else helps, about ten seconds.
_MAX_PRODUCTS = 1e10
# A far reward draws near by 5 + 5 + 5 + 10 + 15 ... states; 200 policies bring 98,000.
_MAX_POLICIES = 200


def greedy(q: Tensor) -> Tensor:
    """Return the greedy policy with ties in equal shares, (..., A).

    Actions tie with the best one that are within `TIE` (1 + its absolute value) of it,
    `TIE` being 1e-5 in float32 and 1e-6 in float64.
    At least one value must be finite; those of -inf get no share.

    Examples
    --------
    >>> greedy(torch.tensor([[1.0, 2.0, 2.0 - 1e-6], [0.0, -1.0, -torch.inf]]))
    tensor([[0.0000, 0.5000, 0.5000],
            [1.0000, 0.0000, 0.0000]])
    """
    best = q.amax(-1, keepdim=True)
    ties = (q >= best - TIE[q.dtype] * (1 + best.abs())).to(q)
    return ties / ties.sum(-1, keepdim=True)


# -- dense, batched, differentiable ------------------------------------------


def dense_transitions(posterior: Posterior, features: Features) -> Tensor:
    """Return the continuing transition probabilities as one array, (B, S, A, S)."""
    b, s, a = features.n.shape
    edge_from = features.edge_pair // a
    to = features.edge_next % s
    flat = posterior.edge_prob.new_zeros(b * s * a * s)
    P = flat.index_add(0, features.edge_pair * s + to, posterior.edge_prob)
    shares = posterior.edge_prob.new_zeros(2, b * s * s)
    shares[0].index_add_(0, edge_from * s + to, features.edge_sibling)
    into = features.edge_next * s + edge_from % s
    shares[1].index_add_(0, into, features.edge_predecessor)
    siblings, predecessors = shares.view(2, b, s, 1, s)
    known = features.known.to(P)
    anywhere = known / known.sum(-1, keepdim=True).clamp(min=1)
    itself = torch.eye(s, dtype=P.dtype, device=P.device)[:, None]
    return (
        P.view(b, s, a, s)
        + posterior.itself[..., None] * itself
        + posterior.siblings[..., None] * siblings
        + posterior.predecessors[..., None] * predecessors
        + posterior.anywhere[..., None] * anywhere[:, None, None]
    )


def policy_iteration(
    P: Tensor, r: Tensor, gamma: Tensor, n_sweeps: int = 8, n_improvements: int = 100
) -> Tensor:
    """Return an optimal action of each state, int64 (..., B, S), by policy iteration.

    ``P`` (B, S, A, S) continuing probabilities, ``r`` (..., B, S, A), ``gamma``
    (B,). A few sweeps of value iteration come first: they are cheap, and most
    processes then need two or three solves. Where more are needed, sweeps come between
    them, ever more: a far reward draws near by one state per policy otherwise.
    """
    with torch.no_grad():
        single = P.dtype == torch.float32
        least = _IMPROVEMENT_SINGLE if single else _IMPROVEMENT
        discount = gamma[:, None, None]
        v = r.amax(-1)
        for _ in range(n_sweeps):
            v = action_values(P, r, discount, v).amax(-1)
        action = action_values(P, r, discount, v).argmax(-1)
        for i in range(n_improvements):
            v = evaluate_actions(P, r, gamma, action)
            q = action_values(P, r, discount, v)
            best, candidate = q.max(-1)
            current = q.gather(-1, action[..., None])[..., 0]
            better = best > current + least * (1 + best.abs())
            if not bool(better.any()):
                break
            action = torch.where(better, candidate, action)
            if i >= 3:
                for _ in range(min(2 ** (i - 1), 256)):
                    v = action_values(P, r, discount, v).amax(-1)
                candidate = action_values(P, r, discount, v).argmax(-1)
                improves = better.any(-1, keepdim=True)
                action = torch.where(improves, candidate, action)
    return action


def action_values(P: Tensor, r: Tensor, discount: Tensor, v: Tensor) -> Tensor:
    """Return q = r + discount P v for v of shape (..., B, S)."""
    b, s, a, _ = P.shape
    stacked = v.reshape(-1, b, s).permute(1, 2, 0)  # (B, S, heads)
    ahead = torch.bmm(P.reshape(b, s * a, s), stacked)  # (B, S A, heads)
    return r + discount * ahead.permute(2, 0, 1).reshape(r.shape)


def evaluate_actions(P: Tensor, r: Tensor, gamma: Tensor, action: Tensor) -> Tensor:
    """Return the exact values (..., B, S) of deterministic actions (..., B, S)."""
    s = P.shape[1]
    rows = P.expand(*action.shape[:-2], *P.shape)
    index = action[..., None, None].expand(*action.shape, 1, s)
    chosen = rows.gather(-2, index)[..., 0, :]  # (..., B, S, S)
    reward = r.gather(-1, action[..., None])  # (..., B, S, 1)
    eye = torch.eye(s, dtype=P.dtype, device=P.device)
    system = eye - gamma[:, None, None] * chosen
    return torch.linalg.solve(system, reward)[..., 0]


def plan_dense(
    posterior: Posterior, features: Features, P: Tensor | None = None
) -> Tensor:
    """Return differentiable optimal action values of each head, (heads, B, S, A).

    Actions that are not allowed have at most the value of the best allowed action.
    ``P`` are the posterior's `dense_transitions`, where they are at hand.
    """
    if P is None:
        P = dense_transitions(posterior, features)
    reward = posterior.reward
    choices = reward.masked_fill(~features.allowed, NEVER)
    action = policy_iteration(P, choices, features.gamma)
    v = evaluate_actions(P, reward, features.gamma, action)
    q = action_values(P, reward, features.gamma[:, None, None], v)
    return torch.where(features.allowed, q, torch.minimum(q, v[..., None]))


# -- sparse, one data set ----------------------------------------------------


class SparseProcess:
    """A decision process whose continuation is sparse plus a few shared parts.

    P(s, a) = edges(s, a) + itself e_s + siblings N(s) + predecessors K(s)
    + anywhere 1/S, with ``edges`` (S A, S), ``N`` and ``K`` (S, S) sparse and the
    weights of shape (S, A).
    """

    def __init__(self, posterior: Posterior, features: Features) -> None:
        _, s, a = features.n.shape

        def array(tensor: Tensor) -> NDArray:
            return tensor.detach().cpu().numpy()

        pair, to = array(features.edge_pair), array(features.edge_next)
        prob = array(posterior.edge_prob)
        sibling = array(features.edge_sibling)
        predecessor = array(features.edge_predecessor)
        self.itself = array(posterior.itself)[0]
        self.siblings = array(posterior.siblings)[0]
        self.predecessors = array(posterior.predecessors)[0]
        self.anywhere = array(posterior.anywhere)[0]
        self.gamma = float(features.gamma)
        # The rows of all pairs as one array (S A, S), dense or sparse, or None where it
        # would be large; "anywhere" is in the dense one only.
        self.rows: NDArray | sparse.csr_array | None = None
        if s <= _DENSE_STATES and s * a * s <= _DENSE_ENTRIES:
            siblings_of = _dense(pair // a, to, sibling, s)
            predecessors_of = _dense(to, pair // a, predecessor, s)
            rows = self.itself[..., None] * np.eye(s)[:, None]
            rows += self.siblings[..., None] * siblings_of[:, None]
            rows += self.predecessors[..., None] * predecessors_of[:, None]
            rows += self.anywhere[..., None] / s
            self.rows = rows.reshape(s * a, s)
            np.add.at(self.rows, (pair, to), prob)
            return
        self.edges = sparse.csr_array((prob, (pair, to)), shape=(s * a, s))
        self.siblings_of = sparse.csr_array((sibling, (pair // a, to)), shape=(s, s))
        self.predecessors_of = sparse.csr_array(
            (predecessor, (to, pair // a)), shape=(s, s)
        )
        neighbours = self.siblings_of + self.predecessors_of
        self._products = _products(neighbours)
        small = a * (neighbours.nnz + s) <= _MAX_ENTRIES
        if small and self._products <= _LOCAL * s**2:
            self.rows = (
                self.edges
                + _spread(sparse.eye_array(s, format="csr"), self.itself)
                + _spread(self.siblings_of, self.siblings)
                + _spread(self.predecessors_of, self.predecessors)
            )

    def action_values(self, r: NDArray, v: NDArray) -> NDArray:
        """Return q = r + gamma P v, (S, A)."""
        if self.rows is not None:
            ahead = (self.rows @ v).reshape(r.shape)
            if isinstance(self.rows, np.ndarray):
                return r + self.gamma * ahead
        else:
            ahead = (self.edges @ v).reshape(r.shape)
            ahead += self.itself * v[:, None]
            ahead += self.siblings * (self.siblings_of @ v)[:, None]
            ahead += self.predecessors * (self.predecessors_of @ v)[:, None]
        ahead += self.anywhere * v.mean()
        return r + self.gamma * ahead

    def evaluate(
        self,
        r: NDArray,
        action: NDArray,
        guess: NDArray,
        accuracy: float = 0.0,
    ) -> NDArray:
        """Return the values (S,) of deterministic actions (S,), warm-started.

        The residual of the solution is below ``_ACCURACY`` times the largest reward, or
        ``accuracy`` times the values' bound where that is more.
        """
        n_states, n_actions = r.shape
        at = np.arange(n_states)
        pair = at * n_actions + action
        reward = r[at, action]
        if isinstance(self.rows, np.ndarray):
            system = np.eye(n_states) - self.gamma * self.rows[pair]
            return _solve_dense(system, reward)
        anywhere = self.anywhere[at, action] / n_states
        if self.rows is not None:
            return self._factorise(self.rows[pair], anywhere, reward)
        edges = self.edges[pair]
        itself = self.itself[at, action]
        siblings = self.siblings[at, action]
        predecessors = self.predecessors[at, action]

        def backup(v: NDArray) -> NDArray:
            ahead = edges @ v + itself * v + anywhere * v.sum()
            ahead += siblings * (self.siblings_of @ v)
            ahead += predecessors * (self.predecessors_of @ v)
            return ahead

        v, solved = self._iterate(backup, reward, guess, accuracy)
        if solved or self._products > _MAX_PRODUCTS:
            return v  # `plan_sparse` refuses what is not right in the end
        chosen = edges + sparse.diags_array(itself)
        chosen = chosen + sparse.diags_array(siblings) @ self.siblings_of
        chosen = chosen + sparse.diags_array(predecessors) @ self.predecessors_of
        return self._factorise(chosen, anywhere, reward)

    def evaluate_policy(
        self, r: NDArray, pi: NDArray, guess: NDArray | None = None
    ) -> NDArray:
        """Return the values (S,) of a policy (S, A) that may be random.

        They solve (I - gamma P_pi) v = r_pi, as exactly as `evaluate` does.
        """
        chosen, anywhere = self._under(pi)
        reward = (pi * r).sum(1)
        if isinstance(chosen, np.ndarray):
            return _solve_dense(np.eye(len(r)) - self.gamma * chosen, reward)
        if self.rows is None:
            guess = np.zeros(len(r)) if guess is None else guess
            v, solved = self._iterate(
                lambda v: chosen @ v + anywhere * v.sum(), reward, guess
            )
            if solved or self._products > _MAX_PRODUCTS:
                return v
        return self._factorise(chosen, anywhere, reward)

    def occupancy(self, pi: NDArray, start: NDArray) -> NDArray:
        """Return the expected discounted visits (S,) of a policy (S, A).

        They solve d = start + gamma P_pi^T d, and sum to 1 / (1 - gamma) where nothing
        ends, if the start distribution sums to one.
        """
        chosen, anywhere = self._under(pi)
        if isinstance(chosen, np.ndarray):
            return _solve_dense(np.eye(len(start)) - self.gamma * chosen.T, start)
        backward = sparse.csr_array(chosen.T)
        if self.rows is None:
            d, solved = self._iterate(
                lambda d: backward @ d + anywhere @ d, start, np.zeros(len(start))
            )
            if solved or self._products > _MAX_PRODUCTS:
                return d
        factors = splu(
            sparse.csc_array(sparse.eye_array(len(start)) - self.gamma * backward)
        )
        # "Anywhere" has rank one: the formula of Sherman and Morrison (1950).
        direct, shared = factors.solve(np.stack([start, np.ones(len(start))], 1)).T
        arrivals = self.gamma * (anywhere @ direct)
        return direct + arrivals / (1 - self.gamma * (anywhere @ shared)) * shared

    def _under(self, pi: NDArray) -> tuple[NDArray | sparse.csr_array, NDArray]:
        """Return the rows (S, S) of a policy, and its "anywhere" / S besides (S,).

        Dense rows hold it already.
        """
        n_states, n_actions = pi.shape
        if isinstance(self.rows, np.ndarray):
            rows = self.rows.reshape(n_states, n_actions, n_states)
            return np.einsum("sa,sat->st", pi, rows), np.zeros(n_states)
        first = np.arange(n_states + 1) * n_actions
        columns = np.arange(n_states * n_actions)
        mix = sparse.csr_array(
            (pi.ravel(), columns, first), shape=(n_states, n_states * n_actions)
        )
        anywhere = (pi * self.anywhere).sum(1) / n_states
        if self.rows is not None:
            return mix @ self.rows, anywhere
        chosen = mix @ self.edges + sparse.diags_array((pi * self.itself).sum(1))
        siblings = sparse.diags_array((pi * self.siblings).sum(1))
        predecessors = sparse.diags_array((pi * self.predecessors).sum(1))
        chosen = chosen + siblings @ self.siblings_of
        return sparse.csr_array(chosen + predecessors @ self.predecessors_of), anywhere

    def _iterate(
        self,
        backup: Callable[[NDArray], NDArray],
        right: NDArray,
        guess: NDArray,
        accuracy: float = 0.0,
    ) -> tuple[NDArray, bool]:
        """Solve v = right + gamma backup(v) by a Krylov method; tell if it did."""
        n_states = len(right)
        system = LinearOperator(
            (n_states, n_states), matvec=lambda v: v - self.gamma * backup(v)
        )
        largest = np.abs(right).max()
        exact = _share(_ACCURACY, self.gamma)
        accepted = max(exact, accuracy / (1 - self.gamma)) * largest
        # Starting values far from the solution would leave their own rounding.
        v = guess if np.abs(guess).max() * (1 - self.gamma) <= largest else 0 * guess
        for _ in range(5):
            residual = right - system.matvec(v)
            error = np.abs(residual).max()
            if error <= accepted + _ROUNDING * np.abs(v).max():
                return v, True
            step, _ = bicgstab(system, residual, rtol=0.0, atol=accepted, maxiter=200)
            v = v + step
        return v, False

    def _factorise(
        self, chosen: sparse.csr_array, anywhere: NDArray, reward: NDArray
    ) -> NDArray:
        """Return the values of chosen rows (S, S) and of ``anywhere`` (S,), exactly."""
        n_states = len(reward)
        factors = splu(
            sparse.csc_array(sparse.eye_array(n_states) - self.gamma * chosen),
            # Rows are dominated by their diagonal, so that no pivoting is needed, and
            # the order that keeps factors sparse can follow from the pattern alone.
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        # "Anywhere" has rank one: the formula of Sherman and Morrison (1950).
        direct, shared = factors.solve(np.stack([reward, anywhere], 1)).T
        ahead = self.gamma * direct.sum() / (1 - self.gamma * shared.sum())
        return direct + ahead * shared


def _solve_dense(system: NDArray, right: NDArray) -> NDArray:
    """Solve by torch, whose number of threads `_inference` sets; BLAS has its own."""
    solution = torch.linalg.solve(torch.from_numpy(system), torch.from_numpy(right))
    return solution.numpy()


def _dense(row: NDArray, column: NDArray, share: NDArray, size: int) -> NDArray:
    """Return an array (size, size) of sums."""
    return np.bincount(row * size + column, share, size * size).reshape(size, size)


def _spread(shares: sparse.csr_array, weight: NDArray) -> sparse.csr_array:
    """Return the rows (S, S) of each state for each of its actions, weighted."""
    rows = shares[np.repeat(np.arange(len(weight)), weight.shape[1])]
    rows.data *= np.repeat(weight.ravel(), np.diff(rows.indptr))
    return rows


def _products(neighbours: sparse.csr_array) -> float:
    """Return how many multiplications a banded factorisation takes, at most.

    The states are numbered as Cuthill and McKee (1969) do; the sum over states of the
    square distance to their farthest neighbour bounds the work.
    """
    # Their pattern is symmetric: a successor has its predecessor as a neighbour.
    pattern = sparse.csr_matrix(neighbours)
    order = reverse_cuthill_mckee(pattern, symmetric_mode=True)
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    degree = np.diff(pattern.indptr)
    distance = np.abs(position[pattern.indices] - np.repeat(position, degree))
    first = pattern.indptr[:-1][degree > 0]
    if not len(first):
        return 0.0
    return float((np.maximum.reduceat(distance, first).astype(float) ** 2).sum())


def _share(share: float, gamma: float) -> float:
    """Return a share of the largest reward, less near gamma = 1 for `_RIGHT`'s sake."""
    return min(share, 0.1 * _RIGHT * (1 - gamma))


def _check_right(process: SparseProcess, v: NDArray, residual: float) -> None:
    """Refuse values (S,) that are not surely within `_RIGHT` of the optimal ones.

    That is a share of the largest value, or absolute if all are below one.
    """
    error = residual / (1 - process.gamma)
    if error > _RIGHT * (1 + np.abs(v).max()):
        raise ValueError(
            f"gamma = {process.gamma!r} is too near one for a process of {len(v)} "
            "states: its values may be wrong by more than a millionth, by up to "
            f"{error:.1g}. Choose a smaller gamma: it looks ahead about "
            "1 / (1 - gamma) steps."
        )


def plan_sparse(
    process: SparseProcess,
    r: NDArray,
    guess: NDArray | None = None,
    allowed: NDArray | None = None,
) -> NDArray:
    """Return the optimal action values (S, A) of one head by policy iteration.

    ``r`` (S, A) is the head's reward, ``guess`` (S,) values to start from. Actions that
    are not ``allowed`` (S, A) are never chosen and have the value -inf. The first
    policies are evaluated roughly, for they will change. Between two evaluations come
    sweeps of value iteration, more and more of them: without them a far reward draws
    near one state per policy.

    The values are exact to about 1e-9 of their bound, the largest reward over
    1 - gamma, and to 1e-6 of their size.

    Raises
    ------
    ValueError
        If they may be further off, as rounding is near gamma = 1.
    """
    largest = np.abs(r).max()
    if allowed is not None:
        r = np.where(allowed, r, -np.inf)
    v = r.max(1) if guess is None else guess
    at = np.arange(len(r))
    accuracy, gain = 1e-3, _share(_GAIN, process.gamma)
    for i in range(_MAX_POLICIES):
        for _ in range(5 * max(i - 1, 1)):
            v = process.action_values(r, v).max(1)
        action = process.action_values(r, v).argmax(1)
        v = process.evaluate(r, action, v, accuracy)
        q = process.action_values(r, v)
        if not np.isfinite(v).all():
            return q  # of damaged weights: whoever knows the checkpoint says so
        best = q.max(1)
        least = gain * largest + _ROUNDING * np.abs(v).max()
        if (best <= q[at, action] + least).all():
            if accuracy == 0:
                break
            accuracy = 0.0
        else:
            accuracy = accuracy * 1e-2 if accuracy > 1e-10 else 0.0
    _check_right(process, v, float(np.abs(best - v).max()))
    return q
