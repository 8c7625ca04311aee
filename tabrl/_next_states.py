"""Next states of episodes that are not in memory: the engine looks at the next row.

A window function gives each row the state of the next step of its episode, and marks
what is wrong with the steps. The group-by of the log sums the marks.
"""

from __future__ import annotations

import warnings
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

# The columns that are added, by names that no log has.
NEXT, DROPPED = "_tabrl_next_state", "_tabrl_dropped"
_AFTER = "_tabrl_next_step"
_MISSING = (
    "Column '{name}' must not be missing. Found {n} missing labels. Drop these rows "
    "before fit."
)
_EARLY = (
    "Only the last row of an episode may be {name}. Found {n} earlier ones. Give each "
    "episode its own label in 'episode', and check 'step'."
)
# What is wrong with a row, in the order in which it is said.
_MUST = {
    "episode": _MISSING,
    "step": _MISSING,
    "repeated": "Each step must occur once in an episode. Found {n} repeated. Drop the "
    "repeated rows, or give each episode its own label.",
    "gap": "Steps must be consecutive within an episode: without 'next_state', a "
    "missing row makes a false transition. Found {n} gaps. Add the missing rows, or "
    "the column 'next_state'.",
    "terminated": _EARLY,
    "truncated": _EARLY,
}


def add_next_states(
    frame: nw.LazyFrame, sources: dict[str, str]
) -> tuple[nw.LazyFrame, list[str]]:
    """Return a log of episodes with the states of the next rows.

    Parameters
    ----------
    frame : narwhals.LazyFrame
        The log.
    sources : dict of str to str
        The name of each canonical column in it.

    Returns
    -------
    frame : narwhals.LazyFrame
        With the columns `NEXT`; and `DROPPED`, 1 where an episode ends without
        terminating, in which case `NEXT` is the row's own state.
    marks : list of str
        Names of further columns, which are 1 where a row is wrong, else 0.

    Raises
    ------
    ValueError, TypeError
        If there is no ``step``, or a column is of the wrong type.
    """
    if "step" not in sources:
        raise ValueError(
            "A lazy table without 'next_state' must have 'episode' and 'step', as an "
            "engine has no order of rows. Found 'episode' alone. Add 'step', or call "
            "collect() (compute() in Dask) first."
        )
    schema = frame.collect_schema()
    kind = schema[sources["step"]]
    number = kind.is_integer() or kind.is_float()
    if not (number or kind.is_temporal()):
        raise TypeError(
            f"Column 'step' must hold numbers or times. Found dtype {kind}. Convert it "
            "before fit."
        )
    flags = {}
    for name in ("terminated", "done", "truncated"):
        if name not in sources:
            continue
        dtype = schema[sources[name]]
        if not (dtype == nw.Boolean or dtype.is_numeric()):
            raise TypeError(
                f"Column '{name}' must be boolean (or 0 and 1). Found dtype {dtype}. "
                "Convert it before fit."
            )
        flags[name] = nw.col(sources[name]).cast(nw.Float64) == 1
    ended = flags["terminated" if "terminated" in flags else "done"]
    if "terminated" not in flags and "truncated" in flags:
        ended = ended & ~flags["truncated"]

    step, state, after = (
        nw.col(name) for name in (sources["step"], sources["state"], _AFTER)
    )
    frame = frame.with_columns(
        column.shift(-1).over(sources["episode"], order_by=sources["step"]).alias(name)
        for column, name in ((step, _AFTER), (state, NEXT))
    )
    goes_on = ~after.is_null()
    wrong = {
        **{name: _missing(sources[name], schema) for name in ("episode", "step")},
        "repeated": goes_on & (after == step),
        "terminated": goes_on & ended,
    }
    if number:
        wrong["gap"] = goes_on & ((after - step) != 1)
    if kind.is_float():  # which steps are consecutive is known of whole numbers only
        wrong["fraction"] = (step % 1) != 0
    if "truncated" in flags:
        wrong["truncated"] = goes_on & flags["truncated"]
    marks = [_as_one(row).alias(_mark(name)) for name, row in wrong.items()]
    dropped = _as_one(after.is_null() & ~ended).alias(DROPPED)
    frame = frame.with_columns(*marks, dropped)
    final = nw.col(DROPPED) == 1
    frame = frame.with_columns(
        nw.when(final).then(state).otherwise(nw.col(NEXT)).alias(NEXT)
    )
    return frame, list(map(_mark, wrong))


def check_marks(grouped: Any, marks: list[str]) -> None:
    """Refuse a log of which rows were marked.

    Parameters
    ----------
    grouped : narwhals.DataFrame
        The group-by of the log, with the sums of the marks.
    marks : list of str
        Their names.

    Raises
    ------
    ValueError
        If there are any, of the first kind.
    """
    for name, message in _MUST.items():
        n = int(grouped[_mark(name)].sum()) if _mark(name) in marks else 0
        whole = _mark("fraction") not in marks or not grouped[_mark("fraction")].sum()
        if n and (name != "gap" or whole):
            raise ValueError(message.format(name=name, n=n))


def warn_dropped(n: NDArray[np.float64], kept: NDArray[np.bool_]) -> None:
    """Say how many rows have no next state, or refuse a log where none has one.

    Parameters
    ----------
    n : array of shape (n_kinds,)
        Number of rows of each kind.
    kept : bool array of shape (n_kinds,)
        Where there is a next state, or the process ended.

    Raises
    ------
    ValueError
        If nothing is kept.
    """
    rows, dropped = int(n.sum()), int(n[~kept].sum())
    if dropped == rows:
        raise ValueError(
            "Transitions must have at least one row with a next state. Found none: "
            f"all {rows} rows end an episode without terminating. Give 'next_state'."
        )
    if dropped:
        warnings.warn(
            f"Dropped {dropped} of {rows} rows: they end an episode without "
            "terminating, so their next state is unknown. Give the column "
            "'next_state' to keep them.",
            UserWarning,
            stacklevel=6,  # whoever called fit
        )


def _mark(name: str) -> str:
    return f"_tabrl_{name}"


def _as_one(condition: nw.Expr) -> nw.Expr:
    """Return 1 where a condition holds, 0 where it does not or is unknown."""
    return nw.when(condition).then(nw.lit(1)).otherwise(nw.lit(0))


def _missing(name: str, schema: Any) -> nw.Expr:
    column = nw.col(name)
    gap = column.is_null()
    return gap | column.is_nan() if schema[name].is_float() else gap
