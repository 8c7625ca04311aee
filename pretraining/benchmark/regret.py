"""Regret of an episode in which more than one policy was followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Policy = TypeVar("Policy")


def followed_regret(
    policies: Sequence[tuple[int, int, Policy]],
    loss: Callable[[Policy], NDArray[np.float64]],
    gamma: float,
    start: NDArray[np.float64],
) -> float:
    """Return the expected regret of the policies followed in one episode.

    That is the loss from the start distribution of the first policy, and for every
    change of policy after t steps in a state s, ``gamma**t`` times what the loss in s
    grew by it. In expectation over episodes this is the loss of the policy that
    depends on the past as the learner does; it is free of the noise of rewards, and of
    all noise where the policy stays.

    Parameters
    ----------
    policies : sequence of (int, int, policy)
        Of each policy, from which step on, counted from 0, and in which state. The
        first is followed from step 0 on.
    loss : callable
        Takes a policy, in whatever form it has in `policies`, to the loss of each
        state (S,): the value of some fixed policy less the value of this one. It is
        called once for each policy.
    gamma : float
        Discount factor in [0, 1).
    start : array of shape (S,)
        Start distribution.

    Returns
    -------
    float
        In units of `loss`; the regret if the fixed policy is an optimal one.

    Examples
    --------
    A policy that loses 1 gives way to one that loses nothing, after two steps:

    >>> losses = {"bad": np.array([1.0]), "good": np.array([0.0])}
    >>> policies = [(0, 0, "bad"), (2, 0, "good")]
    >>> followed_regret(policies, losses.__getitem__, 0.5, np.ones(1))
    0.75
    """
    (_, _, first), *changes = policies
    before = loss(first)
    total = float(start @ before)
    for step, state, policy in changes:
        after = loss(policy)
        total += gamma**step * float(after[state] - before[state])
        before = after
    return total
