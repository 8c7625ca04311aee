"""Exact planning in a posterior process: dense batches with gradient, and sparse.

Both solve, for each head, the optimality equation of `tabrl._network.Posterior`.
`plan_dense` serves pretraining: policy iteration without gradient, then one
differentiable linear solve for the greedy policy, exact by the envelope theorem.
`plan_sparse` serves inference: nothing of size S x A x S is ever made.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, bicgstab, splu
from torch import Tensor

from tabrl._features import Features
from tabrl._network import Posterior

# Actions are equally good whose values differ by no more than this share of their size:
# about what rounding leaves of a plan, far below what data can tell.
TIE = {torch.float32: 1e-5, torch.float64: 1e-6}
# Policy iteration changes an action only for more than this share of the values' size,
# in float64 and in float32: without it, rounding makes it cycle among equal actions.
_IMPROVEMENT = 1e-9
_IMPROVEMENT_SINGLE = 1e-5
# Residual of the solved values, as a share of their bound.
_ACCURACY = 1e-11
# A reward that no plan accepts, small enough for float32 to add to.
NEVER = -1e9
# Below this many states a dense solve is faster than an iterative one.
_DENSE_STATES = 192


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
        shape = (s, s)
        self.edges = sparse.csr_array(
            (array(posterior.edge_prob), (pair, to)), shape=(s * a, s)
        )
        self.siblings_of = sparse.csr_array(
            (array(features.edge_sibling), (pair // a, to)), shape=shape
        )
        self.predecessors_of = sparse.csr_array(
            (array(features.edge_predecessor), (to, pair // a)), shape=shape
        )
        self.itself = array(posterior.itself)[0]
        self.siblings = array(posterior.siblings)[0]
        self.predecessors = array(posterior.predecessors)[0]
        self.anywhere = array(posterior.anywhere)[0]
        self.gamma = float(features.gamma)
        self.mixes_slowly = False  # set while solving

    def action_values(self, r: NDArray, v: NDArray) -> NDArray:
        """Return q = r + gamma P v, (S, A)."""
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
        accuracy: float = _ACCURACY,
    ) -> NDArray:
        """Return the values (S,) of deterministic actions (S,), warm-started.

        The residual of the solution is below ``accuracy`` times the values' bound.
        """
        n_states, n_actions = r.shape
        at = np.arange(n_states)
        return self._solve(
            r[at, action],
            self.edges[at * n_actions + action],
            self.itself[at, action],
            self.siblings[at, action],
            self.predecessors[at, action],
            self.anywhere[at, action] / n_states,
            guess,
            accuracy,
        )

    def evaluate_policy(
        self,
        r: NDArray,
        pi: NDArray,
        guess: NDArray | None = None,
        accuracy: float = _ACCURACY,
    ) -> NDArray:
        """Return the values (S,) of a policy (S, A) that may be random.

        It solves (I - gamma P_pi) v = r_pi, as accurately as `evaluate`.
        """
        guess = np.zeros(len(r)) if guess is None else guess
        parts = self._under(pi)
        return self._solve((pi * r).sum(1), *parts, guess=guess, accuracy=accuracy)

    def occupancy(self, pi: NDArray, start: NDArray) -> NDArray:
        """Return the expected discounted visits (S,) of a policy (S, A).

        They solve d = start + gamma P_pi^T d, and sum to 1 / (1 - gamma) where nothing
        ends, if the start distribution sums to one.
        """
        edges, itself, siblings, predecessors, anywhere = self._under(pi)
        chain = edges + sparse.diags_array(itself)
        chain = chain + sparse.diags_array(siblings) @ self.siblings_of
        chain = chain + sparse.diags_array(predecessors) @ self.predecessors_of
        n_states = len(start)
        backward = sparse.csr_array(chain.T)

        def step(d: NDArray) -> NDArray:
            return d - self.gamma * (backward @ d + anywhere @ d)

        if n_states <= _DENSE_STATES:
            dense = step(np.eye(n_states))
            return np.linalg.solve(dense, start)
        system = LinearOperator((n_states, n_states), matvec=step)
        d, failed = bicgstab(system, start, rtol=1e-9, atol=0.0, maxiter=2000)
        if not failed:
            return d
        factors = splu(
            sparse.csc_array(sparse.eye_array(n_states) - self.gamma * backward)
        )
        # "Anywhere" has rank one: the formula of Sherman and Morrison (1950).
        direct, shared = factors.solve(np.stack([start, np.ones(n_states)], 1)).T
        arrivals = self.gamma * (anywhere @ direct)
        return direct + arrivals / (1 - self.gamma * (anywhere @ shared)) * shared

    def _under(
        self, pi: NDArray
    ) -> tuple[sparse.csr_array, NDArray, NDArray, NDArray, NDArray]:
        """Return edges, itself, siblings, predecessors, anywhere / S of a policy."""
        n_states, n_actions = pi.shape
        rows = np.arange(n_states + 1) * n_actions
        columns = np.arange(n_states * n_actions)
        mix = sparse.csr_array(
            (pi.ravel(), columns, rows), shape=(n_states, n_states * n_actions)
        )
        return (
            mix @ self.edges,
            (pi * self.itself).sum(1),
            (pi * self.siblings).sum(1),
            (pi * self.predecessors).sum(1),
            (pi * self.anywhere).sum(1) / n_states,
        )

    def _solve(
        self,
        reward: NDArray,
        edges: sparse.csr_array,
        itself: NDArray,
        siblings: NDArray,
        predecessors: NDArray,
        anywhere: NDArray,
        guess: NDArray,
        accuracy: float,
    ) -> NDArray:
        """Return the values (S,) of a chain whose parts are those of the process."""
        n_states = len(reward)
        if n_states <= _DENSE_STATES:
            dense = edges.toarray() + np.diag(itself) + anywhere[:, None]
            dense += siblings[:, None] * self.siblings_of.toarray()
            dense += predecessors[:, None] * self.predecessors_of.toarray()
            return np.linalg.solve(np.eye(n_states) - self.gamma * dense, reward)

        def backup(v: NDArray) -> NDArray:
            ahead = edges @ v + itself * v + anywhere * v.sum()
            ahead += siblings * (self.siblings_of @ v)
            ahead += predecessors * (self.predecessors_of @ v)
            return ahead

        system = LinearOperator(
            (n_states, n_states), matvec=lambda v: v - self.gamma * backup(v)
        )
        scale = np.abs(reward).max() / (1 - self.gamma)
        v = guess
        for _ in range(0 if self.mixes_slowly else 3):
            v, _ = bicgstab(system, reward, x0=v, rtol=accuracy, atol=0.0, maxiter=200)
            residual = np.abs(reward - system.matvec(v)).max()
            if residual <= accuracy * (1 + scale):
                return v
        # Where Krylov methods are slow, on long chains and large grids, the process
        # is local and its factors stay sparse; where factors fill, it mixes fast.
        self.mixes_slowly = True
        chosen = edges + sparse.diags_array(itself)
        chosen = chosen + sparse.diags_array(siblings) @ self.siblings_of
        chosen = chosen + sparse.diags_array(predecessors) @ self.predecessors_of
        factors = splu(
            sparse.csc_array(sparse.eye_array(n_states) - self.gamma * chosen)
        )
        # "Anywhere" has rank one: the formula of Sherman and Morrison (1950).
        direct, shared = factors.solve(np.stack([reward, anywhere], 1)).T
        ahead = self.gamma * direct.sum() / (1 - self.gamma * shared.sum())
        return direct + ahead * shared


def plan_sparse(
    process: SparseProcess,
    r: NDArray,
    guess: NDArray | None = None,
    allowed: NDArray | None = None,
) -> NDArray:
    """Return the optimal action values (S, A) of one head by policy iteration.

    ``r`` (S, A) is the head's reward, ``guess`` (S,) values to start from. Actions that
    are not ``allowed`` (S, A) are never chosen and have the value -inf. The first
    policies are evaluated roughly, for they will change; the last one to
    ``_ACCURACY``. Between two evaluations come sweeps of value iteration, more and
    more of them: without them a far reward draws near one state per policy. Ends when
    no action improves by more than rounding; the bound on the loop only guards
    against rounding larger than that.
    """
    if allowed is not None:
        r = np.where(allowed, r, -np.inf)
    v = r.max(1) if guess is None else guess
    at = np.arange(len(r))
    accuracy = 1e-3
    for i in range(200):
        for _ in range(min(5 * 2 ** max(i - 3, 0), 2000)):
            v = process.action_values(r, v).max(1)
        action = process.action_values(r, v).argmax(1)
        v = process.evaluate(r, action, v, accuracy)
        q = process.action_values(r, v)
        better = q.max(1) > q[at, action] + _IMPROVEMENT * (1 + np.abs(v).max())
        if not better.any() and accuracy <= _ACCURACY:
            break
        accuracy = max(accuracy * 1e-2, _ACCURACY) if better.any() else _ACCURACY
    return q
