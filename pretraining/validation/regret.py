"""The regret of the policies that a network follows in one episode, exactly.

`EpisodeRegret` is `pretraining.benchmark.regret.followed_regret` for a batch of
processes that are played side by side, as `optimism` does. There a plan for the whole
batch takes over in some of its processes alone, and each process has a gamma of its
own. `exploration`, which plays one process, calls `followed_regret` itself. Values are
those of the batch in both, while the benchmark's are those of its own planner.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.recipe.loss import loss_of_states
from pretraining.recipe.targets import ProcessBatch

# Regrets beyond twice the uniform policy's are cut off, so that one episode of one
# process does not decide a mean. Below 0 they are possible: a policy that takes over
# may gain more in its state than the first one's regret at the start.
_BOUND = 2.0


def normalise(batch: ProcessBatch, regret: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return regret over that of the uniform policy, clipped to [-2, 2].

    Parameters
    ----------
    batch : ProcessBatch
        B processes.
    regret : array of shape (..., B)
        Regret of episodes from their start distributions, in units of reward. A batch
        of one takes any shape.

    Returns
    -------
    array of the same shape
    """
    uniform = (batch.q.amax(-1) - batch.v_uniform).numpy()
    of_uniform = (batch.start.numpy() * uniform).sum(-1)
    return np.clip(regret / of_uniform, -_BOUND, _BOUND)


class EpisodeRegret:
    """Regret of what is followed in one episode of each of B processes.

    That is the regret of the first policy from the start distribution, and for each
    policy that takes over after t steps in a state s, ``gamma**t`` times what s is
    worth less by it. In expectation over episodes this is the regret of the agent, free
    of the noise of rewards.

    Parameters
    ----------
    batch : ProcessBatch
        The processes.
    pi : array of shape (B, S, A)
        The first policy of each, float64.
    """

    def __init__(self, batch: ProcessBatch, pi: NDArray[np.float64]) -> None:
        self._batch = batch
        self._gamma = batch.gamma.numpy()
        start = batch.start.numpy()
        self._loss = self._loss_of_states(pi)  # of the policy that is followed, (B, S)
        self._regret = (start * self._loss).sum(-1)

    def change(
        self,
        which: NDArray[np.int64],
        step: int,
        state: NDArray[np.int64],
        pi: NDArray[np.float64],
    ) -> None:
        """Let other policies take over in some of the processes.

        Parameters
        ----------
        which : int array of shape (n,)
            The processes.
        step : int
            Steps taken in the episode.
        state : int array of shape (n,)
            The state of each of these processes.
        pi : array of shape (B, S, A)
            Policies, of which only those of ``which`` count.
        """
        after = self._loss_of_states(pi)
        change = after[which, state] - self._loss[which, state]
        self._regret[which] += self._gamma[which] ** step * change
        self._loss[which] = after[which]

    @property
    def normalised(self) -> NDArray[np.float64]:
        """Regret over that of the uniform policy, clipped to [-2, 2], (B,)."""
        return normalise(self._batch, self._regret)

    def _loss_of_states(self, pi: NDArray[np.float64]) -> NDArray[np.float64]:
        return loss_of_states(self._batch, torch.from_numpy(pi)).numpy()
