"""States and their codes, which may grow while an agent acts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._checks import some
from tabrl._codes import encode
from tabrl._labels import as_labels, is_missing


class States:
    """Labels of states; a state's code is its position.

    Parameters
    ----------
    labels : iterable
        The first states.
    complete : bool
        Whether there are no others; else they may be added.
    """

    def __init__(self, labels: Iterable, complete: bool) -> None:
        self.complete = complete
        self._code = {label: code for code, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self._code)

    @property
    def labels(self) -> list:
        """The labels in the order of their codes."""
        return list(self._code)  # a dict keeps the order in which they were added

    def find(self, state: Any) -> int:
        """Return the code of a state, -1 if it is unknown."""
        try:
            return self._code.get(state, -1)
        except TypeError:  # an array, or a list
            label = as_label(state)
            return self._code.get(label, -1) if _is_hashable(label) else -1

    def check_new(self, state: Any) -> None:
        """Refuse an unknown state that cannot be added."""
        if self.complete:
            first, last = self.labels[0], self.labels[-1]
            raise ValueError(
                f"state must be one of {first} to {last}. Got {state!r:.80}. Leave "
                "n_states out to add states as they appear."
            )
        if not _is_hashable(as_label(state)):
            raise TypeError(
                f"state must be hashable. Got a {type(state).__name__} "
                f"({state!r:.80}). Use numbers, strings or tuples."
            )
        if is_missing(as_label(state)):
            raise ValueError(f"state must not be missing. Got {state!r:.80}.")

    def add(self, state: Any) -> int:
        """Return the code of a state that was unknown, adding it."""
        self.check_new(state)
        label = as_label(state)
        # Start and end of a transition may be the same new state.
        return self._code.setdefault(label, len(self._code))

    def extend(self, labels: Iterable) -> None:
        """Add labels that are not there yet, checked before; others change nothing."""
        for label in labels:
            self._code.setdefault(label, len(self._code))

    def as_array(self) -> NDArray:
        """Return the labels in the order of their codes."""
        return as_labels(self.labels)

    def encode(self, states: Any) -> NDArray[np.int64]:
        """Return the codes of known states."""
        codes = encode(states, self.as_array())
        if (codes < 0).any():
            rows = np.flatnonzero(codes < 0)
            raise ValueError(
                f"Every state must be known. Found {len(rows)} of {len(codes)} that "
                f"are not, first at row {rows[0]}: {some(as_labels(states)[rows])}."
            )
        return codes


def as_label(observation: Any) -> Any:
    """Return an observation as something to look up: Python's numbers and tuples.

    A mapping becomes its values in the order of its keys, as a Dict space has them.

    Examples
    --------
    >>> as_label(np.array([2, 0])), as_label((np.int64(1), "door"))
    ((2, 0), (1, 'door'))
    """
    if isinstance(observation, np.generic | np.ndarray):
        observation = observation.tolist()
    if isinstance(observation, Mapping) and observation:
        return tuple(as_label(observation[key]) for key in sorted(observation, key=str))
    if isinstance(observation, tuple | list):
        return tuple(map(as_label, observation))
    return observation


def _is_hashable(label: Any) -> bool:
    try:
        hash(label)
    except TypeError:
        return False
    return True
