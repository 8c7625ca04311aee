"""What an offline method is: a name, constants, and a policy from a log."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pretraining.benchmark.baselines.offline.data import LoggedData

# How row names call the two ways to break ties.
TIES = {"first": "argmax", "random": "random ties"}


class Method:
    """An offline method; its subclasses are what the benchmark compares.

    Attributes
    ----------
    name : str
        Name in every row and table.
    constants : tuple of float
        Each is run, and the best one an environment is chosen in hindsight; empty if
        there is nothing to choose.
    package : str or None
        The optional package that it needs.
    """

    name: str
    constants: ClassVar[tuple[float, ...]] = ()
    package: ClassVar[str | None] = None

    def policy(self, data: LoggedData, constant: float | None) -> NDArray[np.float64]:
        """Turn a log into a policy.

        Parameters
        ----------
        data : LoggedData
            The log, its statistics and what else is known.
        constant : float or None
            One of `constants`; None if there are none.

        Returns
        -------
        array of shape (S, A)
            One distribution over actions a row.
        """
        raise NotImplementedError

    def quantiles(self, data: LoggedData) -> NDArray[np.float64] | None:
        """Return quantiles 0.1, 0.5, 0.9 of the optimal action values, (3, S, A).

        None, as here, for a method that has no opinion on how sure its values are.
        """
        return None
