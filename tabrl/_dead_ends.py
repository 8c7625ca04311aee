"""States that are entered, without an end, and never left: what a log gets wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._checks import some
from tabrl._statistics import Statistics

# Of a log that is right, but a random sample of a longer one, a state that was entered
# n times is never left with a probability of about exp(-n): below 0.01 from five on.
_OFTEN = 5
# Fewer rows than these may be chance: so many at least, and this share of all.
_MANY, _SHARE = 10, 0.01
# Where half of all rows lead to such states, how often each was entered is no matter:
# continuous values that nobody binned are entered once each.
_MOST = 0.5
# Labels to compare in search of a second way of writing them.
_COMPARED = 10_000


class DeadEndWarning(UserWarning):
    """Many rows lead without `terminated` to states that never occur as `state`.

    Nothing is known of what follows there, so that what the policy expects of them is
    a guess. Most often the log was misread: ends are not flagged, or labels of one
    state differ between the columns.
    """


def warn_of_dead_ends(
    statistics: Statistics, states: NDArray, stacklevel: int = 1
) -> None:
    """Warn where too many transitions lead to states that are never left.

    Parameters
    ----------
    statistics : Statistics
        Of the whole log.
    states : array of shape (n_states,)
        Labels of the states.
    stacklevel : int, default=1
        As in `warnings.warn`; 1 is the caller.

    Warns
    -----
    DeadEndWarning
        With how many rows there are, which share, the first labels, and the likely
        causes, the likeliest first.
    """
    size = statistics.n_states
    entered = np.bincount(statistics.edge_next, statistics.edge_count, size)
    left = np.zeros(size, bool)
    left[statistics.pair_state] = True
    dead = (entered > 0) & ~left
    n_rows, n_dead = int(entered.sum()), int(entered[dead].sum())
    often = int(entered[dead & (entered >= _OFTEN)].sum())
    most = n_dead >= max(_MANY, _MOST * n_rows)
    if not most and often < max(_MANY, _SHARE * n_rows):
        return
    causes = _causes(states[dead], states[left], 2 * often >= n_dead)
    listed = " ".join(f"({i}) {cause}." for i, cause in enumerate(causes, 1))
    warnings.warn(
        f"{n_dead} of {n_rows} transitions that did not terminate "
        f"({n_dead / n_rows:.0%}) lead to states that never occur as 'state': "
        f"{some(states[dead])}. Nothing is known of what follows there. Likely causes, "
        f"the likeliest first: {listed}",
        DeadEndWarning,
        stacklevel=stacklevel + 1,
    )


def _causes(dead: NDArray, left: NDArray, often: bool) -> list[str]:
    """Return what may be wrong, the likeliest first."""
    ends = (
        "the process ended there, and 'terminated' does not say so"
        " (a time limit is no end)"
    )
    transform = (
        "'next_state' was not transformed as 'state' was: in a pipeline give "
        "transform_input=['next_state'], else bin both with the same edges"
    )
    spelling = "one state is written in two ways, a number as text for example"
    thin = "the log is a part of a longer one, in which those states are left"
    twins = _twins(dead, left)
    if twins:
        found, other = twins
        spelling = f"one state is written in two ways: {found!r} and {other!r}"
        return [spelling, transform, ends, thin]
    if any(map(_is_continuous, dead.tolist()[:_COMPARED])):
        return [transform, ends, spelling, thin]
    if often:
        return [ends, transform, spelling, thin]
    return [transform, spelling, thin, ends]


def _twins(dead: NDArray, left: NDArray) -> tuple[Any, Any] | None:
    """Return two labels that look like one, None if there are none."""
    known = {_look(label): label for label in left.tolist()[:_COMPARED]}
    for label in dead.tolist()[:_COMPARED]:
        if _look(label) in known:
            return label, known[_look(label)]
    return None


def _look(label: Any) -> Any:
    """Return what labels have in common that somebody may take for one."""
    if isinstance(label, tuple):
        return tuple(map(_look, label))
    text = str(label).strip().casefold()
    try:
        # A float32 has seven digits: 0.1 as float64 looks like it.
        return f"{float(text):.6g}"
    except ValueError:
        return text


def _is_continuous(label: Any) -> bool:
    parts: Iterable = label if isinstance(label, tuple) else (label,)
    return any(isinstance(x, float) and not x.is_integer() for x in parts)
