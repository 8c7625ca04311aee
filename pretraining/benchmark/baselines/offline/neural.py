"""d3rlpy's offline methods, which train a network on one-hot states.

d3rlpy is optional, and imported only when one of them is run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData
from pretraining.benchmark.baselines.offline.method import Method


@dataclass(frozen=True)
class D3rlpyMethod(Method):
    """One of d3rlpy's methods for discrete actions.

    Its defaults are for millions of steps on pixels: in a few thousand the target
    network would never be updated. So the learning rate is 1e-3 and the target
    follows every 25 steps; the rest is as it comes. Uniform in states that the log
    does not show.

    Parameters
    ----------
    n_steps : int
        Gradient steps; 1000 take about 17 s.
    """

    n_steps: int = 1000
    package: ClassVar[str | None] = "d3rlpy"

    def options(self, constant: float | None) -> dict[str, Any]:
        """Return options of the method beside those that all of them get."""
        return {}

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Return its choices, (S, A)."""
        import d3rlpy
        import structlog

        quiet = structlog.make_filtering_bound_logger(logging.ERROR)
        structlog.configure(wrapper_class=quiet)
        d3rlpy.seed(data.seed)
        dataset = d3rlpy_dataset(data.log, data.n_states, data.n_actions)
        algorithm = getattr(d3rlpy.algos, f"{self.name}Config")(
            gamma=data.gamma,
            learning_rate=1e-3,
            target_update_interval=25,
            **self.options(constant),
        ).create(device="cpu:0")
        algorithm.fit(
            dataset,
            n_steps=self.n_steps,
            n_steps_per_epoch=self.n_steps,
            show_progress=False,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        )
        seen = np.unique(data.log["state"])
        pi = np.full((data.n_states, data.n_actions), 1 / data.n_actions)
        choice = algorithm.predict(np.eye(data.n_states, dtype=np.float32)[seen])
        pi[seen] = np.eye(data.n_actions)[choice]
        return pi


class DiscreteCQL(D3rlpyMethod):
    """Conservative Q-learning; the constant is alpha, how conservative it is."""

    name = "DiscreteCQL"
    constants: ClassVar[tuple[float, ...]] = (0.1, 1.0)

    def options(self, constant: float | None) -> dict[str, Any]:
        """Return alpha."""
        return {"alpha": constant}


class DiscreteBCQ(D3rlpyMethod):
    """Batch-constrained Q-learning."""

    name = "DiscreteBCQ"


def d3rlpy_dataset(log: Mapping[str, NDArray], n_states: int, n_actions: int) -> Any:
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
