"""Any table of logged transitions, as checked integer codes and the user's labels."""

import warnings
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Number, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._codes import encode, factorise, label_kinds
from tabrl._columns import (
    ORDER,
    check_complete,
    refuse_swapped,
    refuse_whole_table,
    table_columns,
)
from tabrl._labels import (
    Coded,
    as_coded,
    as_labels,
    label_names,
    warn_without_names,
)

__all__ = ["Transitions", "as_labels", "encode", "read_transitions"]

_LABELS = ("state", "action", "next_state", "episode")
# The sum of squared rewards stays finite below this.
MAX_REWARD = 1e140
# The squares of rewards that are all smaller vanish, and with them what is known of
# their noise.
MIN_REWARD = 1 / MAX_REWARD


@dataclass(frozen=True, eq=False)
class Transitions:
    """Logged transitions as integer codes.

    Attributes
    ----------
    state, action : int64 array of shape (n,)
        Indices into `states` and `actions`.
    reward : array of shape (n,)
        Finite rewards.
    next_state : int64 array of shape (n,)
        Indices into `states`, or -1 where `terminated` and no next state was given.
    terminated : bool array of shape (n,)
        Where the process ended.
    states : array of shape (n_states,)
        Labels of all states seen, as state or as next state: sorted where they can be
        compared, else in order of appearance. Tuples for states of several columns.
    actions : array of shape (n_actions,)
        Labels of all actions seen, in the same order.
    state_names : list of str or None
        Names of the columns that make a state, where there are several with names.
    columns : dict of str to str or int
        Which column of the table was read as what: its name, or its position where it
        has none. Empty where they were given apart.
    rows : int64 array of shape (n,) or None
        Which rows of the table these are, where some were dropped.
    """

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    next_state: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    states: NDArray
    actions: NDArray
    state_names: list[str] | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None


def read_transitions(
    X: Any,
    y: Any = None,
    *,
    reward: Any = None,
    next_state: Any = None,
    terminated: Any = None,
    episode: Any = None,
    step: Any = None,
    state_names: list[str] | None = None,
) -> Transitions:
    """Check logged transitions and return them as integer codes.

    Parameters
    ----------
    X : data frame, mapping, structured array or array
        With `y` None, the whole table: a data frame of any library, a mapping of names
        to arrays, a structured array (columns by name: `state`, `action`, `reward`,
        `next_state`, `terminated`, and optionally `truncated`, `episode`, `step`), or
        a 2-D array or list of rows with exactly the first five, in that order.
        With `y`, the states alone; several columns make one label, a tuple.
    y : array-like, optional
        Actions.
    reward, next_state, terminated, episode, step : array-like, optional
        The other columns when `y` is given. `terminated` may be one boolean for all.
    state_names : list of str, optional
        Names that a state's columns must have where they have any; by default those
        of the states decide for the next states.

    Returns
    -------
    Transitions
        The transitions in the order given.

    Warns
    -----
    UserWarning
        If `done` has to stand in for `terminated`; if episodes that end without
        terminating leave a last row whose next state is unknown: it is dropped; if
        True or False is among numbers, whose labels 1 and 0 it shares; or if states of
        several columns have no names where `state_names` or the other states have.

    Raises
    ------
    ValueError, TypeError
        If the columns, their lengths or their values are not as described. Messages
        count rows from 0.

    Notes
    -----
    `terminated` means that nothing of value follows. A transition that was truncated,
    by a time limit for example, is an ordinary one and needs its next state.

    Without a `next_state` column, `episode` and `step` give it: the next row of the
    same episode, in order of `step`, or as given when there is no `step`. Where every
    row terminates none is needed. One observation more than there are actions is taken
    for one whole episode, as minari stores it.

    Examples
    --------
    >>> table = {
    ...     "state": ["a", "b"],
    ...     "action": [0, 1],
    ...     "reward": [0.0, 1.0],
    ...     "next_state": ["b", None],
    ...     "terminated": [False, True],
    ... }
    >>> transitions = read_transitions(table)
    >>> transitions.states, transitions.next_state
    (array(['a', 'b'], dtype=object), array([ 1, -1]))
    """
    given = {
        "reward": reward,
        "next_state": next_state,
        "terminated": terminated,
        "episode": episode,
        "step": step,
    }
    given = {name: value for name, value in given.items() if value is not None}
    sources: dict[str, Any] = {}
    if y is not None:
        refuse_whole_table(X)
        columns = {"state": X, "action": y, **given}
        check_complete(columns, list(columns), apart=True)
    elif given:
        raise ValueError(
            f"{', '.join(given)} can only be given with y: X then holds the states and "
            "y the actions. Pass y, or add the columns to the table."
        )
    else:
        columns, sources = table_columns(X)
    if "next_state" in columns:
        columns.pop("episode", None)
        columns.pop("step", None)

    state_names = state_names or label_names(columns["state"])
    for argument, name in (("X", "state"), ("next_state", "next_state")):
        warn_without_names(argument, columns.get(name), state_names, stacklevel=4)
    arrays = _arrays(columns, state_names)
    unnamed = list(sources.values()) == list(range(len(sources)))
    _warn_booleans(arrays)
    rewards = _rewards(arrays["reward"])
    truncated = (
        _flags("truncated", arrays["truncated"]) if "truncated" in arrays else None
    )
    if "terminated" in arrays:
        ended = _flags("terminated", arrays["terminated"], unnamed and bool(sources))
    else:
        ended = _read_done(_flags("done", arrays["done"]), truncated)
    if sources and unnamed:
        refuse_swapped(arrays, ended)

    rows = None
    actions, (action,) = factorise([arrays["action"]])
    _refuse_missing("action", action)
    if "next_state" in arrays:
        states, state, successor = _state_codes(
            arrays["state"], arrays["next_state"], ended
        )
    else:
        states, (state,) = factorise([arrays["state"]])
        _refuse_missing("state", state)
        if "episode" in arrays:
            order, last = _episode_order(arrays["episode"], arrays.get("step"))
            successor = _successors(state, order, last, ended, truncated)
        elif ended.all():
            successor = np.full(len(state), -1)
        elif len(ended) == len(state) - 1:  # one episode, and where it led
            _refuse_early_ends(ended, truncated)
            state, successor = state[:-1], state[1:]
        else:
            names = list(sources.values()) or list(columns)
            check_complete(columns, names, apart=y is not None, final=True)
        keep = (successor >= 0) | ended
        if not keep.all():
            _warn_dropped(keep)
            rows = np.flatnonzero(keep)
            state, action, rewards = state[keep], action[keep], rewards[keep]
            successor, ended = successor[keep], ended[keep]
    return Transitions(
        *(state, action, rewards, successor, ended, states, actions),
        *(state_names, sources, rows),
    )


def _arrays(columns: dict[str, Any], state_names: list[str] | None) -> dict[str, Any]:
    """Return columns as arrays of equal length, at least one row.

    Without next states, the states may be one more than the rows.
    """
    always = "terminated" in columns and isinstance(
        columns["terminated"], bool | np.bool_
    )
    arrays = {}
    for name, column in columns.items():
        if always and name == "terminated":
            continue
        try:
            names = state_names if name in ("state", "next_state") else None
            read = as_coded if name in _LABELS else as_labels
            arrays[name] = read(column, names)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Column '{name}': {error}") from error
        except ArithmeticError as error:  # a library compares a signalling NaN
            raise ValueError(
                f"Column '{name}' must hold values that can be compared. Found one "
                f"that cannot: {error!r}. Use numbers, strings or tuples."
            ) from error
    lengths = {name: len(array) for name, array in arrays.items()}
    n = lengths["action"]
    episode = arrays.keys().isdisjoint(("next_state", "episode"))
    if episode and lengths["state"] == n + 1:
        lengths["state"] = n
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise ValueError(f"All columns must have the same length. Found {found}.")
    if not n:
        raise ValueError("Transitions must have at least one row. Found none.")
    if always:
        arrays["terminated"] = np.full(n, columns["terminated"], dtype=bool)
    return arrays


def _rewards(values: NDArray) -> NDArray[np.float64]:
    if values.dtype.kind == "O":  # Decimal, or numbers with None among them
        reward = np.array(
            [_reward(row, value) for row, value in enumerate(values.tolist())]
        )
    elif values.dtype.kind not in "iuf":
        raise TypeError(
            f"Column 'reward' must be numeric. Found dtype {values.dtype}. "
            "Convert it before fit."
        )
    else:
        reward = values.astype(np.float64, copy=False)
    # NaN fails both comparisons; the extremes need no temporary array.
    low, high = reward.min(), reward.max()
    if -MAX_REWARD < low and high < MAX_REWARD:
        if -MIN_REWARD < low <= high < MIN_REWARD and (low or high):
            raise ValueError(
                f"The largest reward must be {MIN_REWARD:.0e} or more in size, or all "
                f"must be 0. Found {max(-low, high)}. Rescale the rewards before fit."
            )
        return reward
    finite = np.isfinite(reward)
    if not finite.all():
        count, row = _count_first(~finite)
        raise ValueError(
            f"Column 'reward' must be finite. Found {count} non-finite values, first "
            f"at row {row} ({reward[row]}). Drop or impute them before fit."
        )
    count, row = _count_first(abs(reward) >= MAX_REWARD)
    raise ValueError(
        f"Column 'reward' must be below {MAX_REWARD} in size. Found {count} larger "
        f"values, first at row {row} ({reward[row]}). Rescale the rewards before fit."
    )


def _reward(row: int, value: Any) -> float:
    """Return one reward; what has no place among floats is refused or not finite."""
    if value is None:
        return np.nan
    # To Python and numpy booleans and durations are integers.
    other = isinstance(value, bool | np.timedelta64)
    if other or not isinstance(value, Real | Decimal):
        raise TypeError(
            f"Column 'reward' must be numeric. Found a {type(value).__name__}, first "
            f"at row {row} ({value!r:.80}). Convert it before fit."
        )
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return np.inf if value > 0 else -np.inf  # type: ignore[operator]
    except ValueError:  # a signalling NaN
        return np.nan


def _flags(name: str, values: NDArray, unnamed: bool = False) -> NDArray[np.bool_]:
    """Return a boolean column; zeros and ones will do."""
    if values.dtype.kind == "b":
        return values
    wrong = not_flags(values)
    if wrong.any():
        count, row = _count_first(wrong)
        value = values[row].item() if values.dtype.kind != "O" else values[row]
        error = ValueError if value is None or isinstance(value, Number) else TypeError
        raise error(
            f"Column '{name}' must be boolean (or 0 and 1). Found {count} other "
            f"values, first at row {row} ({value!r}). Convert it before fit."
            + (ORDER if unnamed else "")
        )
    return values.astype(bool)


def not_flags(values: NDArray) -> NDArray[np.bool_]:
    """Return which values of a column are neither booleans nor 0 or 1."""
    if values.dtype.kind in "biuf":
        return (values != 0) & (values != 1)
    return np.array([not _is_flag(value) for value in values.tolist()], dtype=bool)


def _is_flag(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return True
    try:
        return isinstance(value, Number) and value in (0, 1)
    except ArithmeticError:  # a signalling NaN
        return False


def _warn_booleans(arrays: dict[str, Any]) -> None:
    """Say what becomes of True and False among numbers."""
    for names in (("action",), ("state", "next_state")):
        kinds = set()
        for name in names:
            array = arrays.get(name)
            if isinstance(array, Coded):
                array = array.distinct
            if array is not None and array.dtype.kind != "O":
                kinds.add(array.dtype.type)
            elif array is not None:
                kinds.update(map(type, array.tolist()))
        flags = {kind for kind in kinds if issubclass(kind, bool | np.bool_)}
        numbers = int | float | np.number
        if flags and any(issubclass(kind, numbers) for kind in kinds - flags):
            warnings.warn(
                f"Column '{names[0]}' holds True or False among numbers: they are the "
                "labels 1 and 0. Convert them before fit to be sure.",
                UserWarning,
                stacklevel=5,
            )


def _read_done(
    done: NDArray[np.bool_], truncated: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Return what `done` says of termination, with a warning."""
    if truncated is not None:
        warnings.warn(
            "Column 'done' is read as 'terminated' where 'truncated' is false. Give "
            "'terminated' to be sure.",
            UserWarning,
            stacklevel=5,
        )
        return done & ~truncated
    warnings.warn(
        "Column 'done' is read as 'terminated'. If it is also true where a time limit "
        "cut an episode, values are biased: what would have followed counts as "
        "nothing. Give 'terminated' (and 'truncated') instead.",
        UserWarning,
        stacklevel=5,
    )
    return done


def _state_codes(
    state: NDArray, next_state: NDArray, terminated: NDArray[np.bool_]
) -> tuple[NDArray, NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels of all states, and the codes of both columns."""
    states, (code, successor) = factorise([state, next_state])
    _refuse_missing("state", code)
    _refuse_missing(
        "next_state",
        successor,
        unless=terminated,
        hint="A truncated transition has a next state too: add it, or drop the row.",
    )
    if states.dtype.kind == "O":
        size = len(states)
        left = np.bincount(code, minlength=size) > 0
        entered = np.bincount(successor[successor >= 0], minlength=size) > 0
        from_state = label_kinds(states[left].tolist())
        from_next = label_kinds(states[entered].tolist())
        if from_next and from_state.keys().isdisjoint(from_next):
            (kind, label), *_ = from_state.items()
            (next_kind, next_label), *_ = from_next.items()
            raise TypeError(
                "Columns 'state' and 'next_state' must hold the same kind of labels. "
                f"Found {kind} in 'state' ({label!r}) and {next_kind} in 'next_state' "
                f"({next_label!r}). Convert one of them before fit."
            )
    return states, code, successor


def _episode_order(
    episode: NDArray, step: NDArray | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows sorted by episode and step, and which end their episode."""
    _, (episode,) = factorise([episode])
    _refuse_missing("episode", episode)
    if step is None:
        order = np.argsort(episode, kind="stable")
        last = np.diff(episode[order], append=-1) != 0
        return order, last
    if step.dtype.kind not in "iufmM":
        raise TypeError(
            "Column 'step' must hold numbers or times. Found dtype "
            f"{step.dtype}. Convert it before fit."
        )
    values, (rank,) = factorise([step])
    _refuse_missing("step", rank)
    order = np.lexsort((rank, episode))
    last = np.diff(episode[order], append=-1) != 0
    gap = np.diff(rank[order], append=0)
    again = ~last & (gap == 0)
    if again.any():
        count, _ = _count_first(again)
        row = int(order[1:][again[:-1]].min())
        raise ValueError(
            f"Each step must occur once in an episode. Found {count} repeated, first "
            f"at row {row}. Drop the repeated rows, or give each episode its own label."
        )
    # Of other steps than integers (times, say) nobody knows which are consecutive.
    whole = values.dtype.kind in "iu" or (
        values.dtype.kind == "f" and (values == np.floor(values)).all()
    )
    if whole:
        jump = ~last & (np.diff(values[rank[order]], append=0) != 1)
        if jump.any():
            count, _ = _count_first(jump)
            row = int(order[1:][jump[:-1]].min())
            raise ValueError(
                "Steps must be consecutive within an episode: without 'next_state', a "
                f"missing row makes a false transition. Found {count} gaps, first "
                f"before row {row}. Add the missing rows, or the column 'next_state'."
            )
    return order, last


def _refuse_early_ends(
    terminated: NDArray[np.bool_], truncated: NDArray[np.bool_] | None
) -> None:
    """Refuse an end before the last row of the only episode."""
    for name, ended in (("terminated", terminated), ("truncated", truncated)):
        if ended is not None and ended[:-1].any():
            count, row = _count_first(ended[:-1])
            raise ValueError(
                f"Only the last row of an episode may be {name}. Found {count} earlier "
                f"ones, first at row {row}. States that are one more than the rows are "
                "one episode: give each episode alone, or the column 'next_state'."
            )


def _successors(
    state: NDArray[np.int64],
    order: NDArray[np.int64],
    last: NDArray[np.bool_],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Return the state of the next row in the episode, -1 for the last row."""
    for name, ended in (("terminated", terminated), ("truncated", truncated)):
        if ended is None:
            continue
        early = ended[order] & ~last
        if early.any():
            count, _ = _count_first(early)
            raise ValueError(
                f"Only the last row of an episode may be {name}. Found {count} earlier "
                f"ones, first at row {order[early].min()}. Give each episode its own "
                "label in 'episode', and check 'step'."
            )
    successor = np.full(len(state), -1)
    successor[order[:-1]] = np.where(last[:-1], -1, state[order[1:]])
    return successor


def _warn_dropped(keep: NDArray[np.bool_]) -> None:
    count, row = _count_first(~keep)
    if not keep.any():
        raise ValueError(
            "Transitions must have at least one row with a next state. Found none: "
            f"all {count} rows end an episode without terminating. Give 'next_state'."
        )
    warnings.warn(
        f"Dropped {count} of {len(keep)} rows, first row {row}: they end an episode "
        "without terminating, so their next state is unknown. Give the column "
        "'next_state' to keep them.",
        UserWarning,
        stacklevel=5,
    )


def _refuse_missing(
    name: str,
    codes: NDArray[np.int64],
    unless: NDArray[np.bool_] | None = None,
    hint: str = "Drop these rows before fit.",
) -> None:
    if codes.min() >= 0:
        return
    missing = codes < 0 if unless is None else (codes < 0) & ~unless
    if missing.any():
        count, row = _count_first(missing)
        where = "" if unless is None else " where 'terminated' is false"
        raise ValueError(
            f"Column '{name}' must not be missing{where}. Found {count} missing "
            f"labels, first at row {row}. {hint}"
        )


def _count_first(mask: NDArray[np.bool_]) -> tuple[int, int]:
    return int(mask.sum()), int(mask.argmax())
