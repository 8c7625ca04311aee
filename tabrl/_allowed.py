"""Which actions each state allows, in whatever form the user says it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from tabrl._checks import some
from tabrl._codes import encode, factorise
from tabrl._labels import as_labels, objects, python_values
from tabrl._statistics import Statistics
from tabrl._sufficient import SufficientStatistics
from tabrl._transitions import Transitions

# The column of a log, and the argument of fit.
COLUMN = "allowed_actions"
_FORMS = (
    "allowed_actions must be a mapping of states to their actions, a callable of a "
    "state, a data frame of booleans with the states as index and the actions as "
    "columns, or a boolean array whose rows and columns are the states and actions "
    "0, 1, 2 and so on. "
)


@dataclass(frozen=True, eq=False)
class AllowedActions:
    """The actions of states that the user named, be they in the log or not.

    Attributes
    ----------
    states : array of shape (n,)
        Labels; no two alike.
    actions : array of shape (m,)
        Labels of all the actions named, in the log or not.
    table : bool array of shape (n, m)
        Whether a state allows an action.
    rule : callable or None
        What to ask for other states.
    others : bool
        Whether states that are not named allow all actions; else they are an error.
    """

    states: NDArray
    actions: NDArray
    table: NDArray[np.bool_]
    rule: Callable[[Any], Iterable] | None = None
    others: bool = False

    def masks(self, states: NDArray, actions: NDArray) -> NDArray[np.bool_]:
        """Return which of the `actions` each state allows, (n_states, n_actions).

        Raises
        ------
        ValueError
            If nothing is known of a state, or it allows none of the actions.
        """
        masks = self.lookup(states, actions)
        none = np.flatnonzero(~masks.any(1))
        if len(none):
            raise ValueError(
                "Every state must allow an action of the log. Found "
                f"{len(none)} states that allow none: {some(states[none])}. The "
                f"actions of the log are {some(actions)}."
            )
        return masks

    def lookup(self, states: NDArray, actions: NDArray) -> NDArray[np.bool_]:
        """Return what `masks` does, where a state may allow none of the actions."""
        known = self.extended(states)
        row, column = encode(states, known.states), encode(actions, known.actions)
        masks = np.zeros((len(states), len(actions)), bool)
        named = row >= 0
        if not named.all() and not self.others:
            missing = states[~named]
            raise ValueError(
                "allowed_actions must name every state in which something is decided. "
                f"Found {len(missing)} states that it does not: {some(missing)}. Add "
                "them."
            )
        there = np.flatnonzero(column >= 0)
        masks[np.ix_(named, there)] = known.table[np.ix_(row[named], column[there])]
        masks[~named] = True
        return masks

    def extended(self, states: NDArray) -> AllowedActions:
        """Return the same with the rule's answers for states that are not named."""
        if self.rule is None:
            return self
        others = states[encode(states, self.states) < 0]
        if not len(others):
            return self
        named = np.unique(encode(others, others))
        sets = [self.rule(state) for state in python_values(others[named])]
        return self.updated(_of_sets(others[named], sets))

    def updated(self, newer: AllowedActions) -> AllowedActions:
        """Return both; where they name the same state, `newer` holds."""
        kept = encode(self.states, newer.states) < 0
        states, (old, new) = factorise([self.states[kept], newer.states])
        actions, (old_action, new_action) = factorise([self.actions, newer.actions])
        table = np.zeros((len(states), len(actions)), bool)
        table[np.ix_(old, old_action)] = self.table[kept]
        table[np.ix_(new, new_action)] = newer.table
        return AllowedActions(
            *(states, actions, table),
            rule=newer.rule or self.rule,
            others=newer.others and self.others,
        )

    def to_arrays(self) -> dict[str, NDArray]:
        """Return what a file holds of it; the rule's answers, not the rule."""
        return {
            "_allowed_states": self.states,
            "_allowed_actions": self.actions,
            "_allowed_table": self.table,
        }

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, NDArray], others: bool
    ) -> AllowedActions | None:
        """Return what `to_arrays` packed, checked; None if it is not there."""
        if "_allowed_table" not in arrays:
            return None
        states, actions = arrays["_allowed_states"], arrays["_allowed_actions"]
        table = arrays["_allowed_table"]
        if table.dtype != bool or table.shape != (len(states), len(actions)):
            raise ValueError(f"_allowed_table of {table.dtype} and {table.shape}")
        if type(others) is not bool:
            raise TypeError("others_allowed")
        return cls(states, actions, table, others=others)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the rule: few callables can be pickled, and its answers stay."""
        return self.__dict__ | {"rule": None}


def read_allowed(
    given: Any, X: Any, data: Transitions | SufficientStatistics
) -> AllowedActions | None:
    """Return what the user says of allowed actions, None if nothing.

    Parameters
    ----------
    given : mapping, callable, data frame, array or None
        The argument of `fit`.
    X : Any
        The table of the log, which may have the column ``allowed_actions``.
    data : Transitions
        What was read of it.

    Raises
    ------
    ValueError, TypeError
        If it is in none of these forms, or both were given.
    """
    column = None if isinstance(data, SufficientStatistics) else column_of(X, COLUMN)
    if given is None:
        if column is None or isinstance(data, SufficientStatistics):
            return None
        return _of_rows(column, data)
    if column is not None:
        raise ValueError(
            "allowed_actions must be given once. Got it as an argument and as a column "
            "of the log. Drop one of them."
        )
    if isinstance(given, Mapping):
        return _of_sets(list(given), list(given.values()))
    if callable(given):
        return AllowedActions(
            *(np.empty(0, object), np.empty(0, object), np.zeros((0, 0), bool)),
            rule=given,
        )
    return _of_table(given)


def check_taken(
    allowed: AllowedActions | None, data: Transitions | SufficientStatistics
) -> AllowedActions | None:
    """Refuse a log with an action that its state does not allow.

    What was only counted has no rows to name: the estimator names the pair.

    Returns
    -------
    AllowedActions or None
        The same, with what the rule says of the log's states.

    Raises
    ------
    ValueError
        With the first such row.
    """
    if allowed is None or isinstance(data, SufficientStatistics):
        return allowed
    codes = np.unique(data.state)
    allowed = allowed.extended(data.states[codes])
    masks = np.ones((len(data.states), len(data.actions)), bool)
    masks[codes] = allowed.lookup(data.states[codes], data.actions)
    wrong = ~masks[data.state, data.action]
    if wrong.any():
        first = int(wrong.argmax())
        row = first if data.rows is None else int(data.rows[first])
        raise ValueError(
            "Every action of the log must be allowed in its state. Found "
            f"{int(wrong.sum())} rows where it is not, first at row {row}: action "
            f"{some(data.actions[data.action[[first]]])} in state "
            f"{some(data.states[data.state[[first]]])}. Drop these rows, or allow the "
            "action."
        )
    return allowed


def state_masks(
    allowed: AllowedActions | None,
    states: NDArray,
    actions: NDArray,
    statistics: Statistics,
) -> NDArray[np.bool_] | None:
    """Return the allowed actions (S, A), all of them where nothing is decided.

    Raises
    ------
    ValueError
        As `AllowedActions.masks`; or if an action that was counted is not allowed.
    """
    if allowed is None:
        return None
    masks = np.ones((len(states), len(actions)), bool)
    active = statistics.active_states
    masks[active] = allowed.masks(states[active], actions)
    taken = masks[statistics.pair_state, statistics.pair_action]
    if not taken.all():
        first = [int((~taken).argmax())]
        raise ValueError(
            "Every action of the log must be allowed in its state. Those seen before "
            f"are not: action {some(actions[statistics.pair_action[first]])} in state "
            f"{some(states[statistics.pair_state[first]])}, say. Allow it, or fit anew "
            "without these rows."
        )
    return masks


def column_of(X: Any, name: str) -> Any:
    """Return a column of a table, None if there is none, or no table."""
    if isinstance(X, Mapping):
        return X.get(name)
    if isinstance(X, np.ndarray):
        return X[name] if name in (X.dtype.names or ()) else None
    frame = nw.from_native(X, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        frame = frame.select(name).collect() if name in frame.collect_schema() else None
    if isinstance(frame, nw.DataFrame) and name in frame.columns:
        return frame[name]
    return None


def _of_rows(column: Any, data: Transitions) -> AllowedActions:
    """Return what the rows of a log say; those of one state must agree."""
    if isinstance(column, nw.Series):
        column = column.to_list()
    sets = list(column)
    if data.rows is not None:
        sets = [sets[row] for row in data.rows]
    if len(sets) != len(data.state):
        raise ValueError(
            f"Column '{COLUMN}' must have as many rows as the log, {len(data.state)}. "
            f"Found {len(sets)}."
        )
    first: dict[int, int] = {}  # the first row of each state
    for row, code in enumerate(data.state.tolist()):
        before = first.setdefault(code, row)
        if before != row and not _alike(sets[before], sets[row]):
            raise ValueError(
                f"Column '{COLUMN}' must be the same in all rows of a state. Found "
                f"{sets[before]!r:.80} and {sets[row]!r:.80} for state "
                f"{some(data.states[[code]])}, in rows {before} and {row} of those "
                "used. Make what they depend on a part of the state."
            )
    named = _of_sets(data.states[list(first)], [sets[row] for row in first.values()])
    # Of states that are only led to, the log does not say which actions they have.
    return AllowedActions(named.states, named.actions, named.table, others=True)


def _alike(one: Any, other: Any) -> bool:
    return one is other or set(_members(one)) == set(_members(other))


def _of_sets(states: Any, sets: list[Any]) -> AllowedActions:
    """Return the actions given as one collection for each state."""
    members = [_members(actions) for actions in sets]
    flat = [action for actions in members for action in actions]
    actions, (code,) = factorise([as_labels(flat)])
    table = np.zeros((len(members), len(actions)), bool)
    row = np.repeat(np.arange(len(members)), [len(each) for each in members])
    table[row, code] = True
    labels = states if isinstance(states, np.ndarray) else as_labels(states)
    return AllowedActions(labels, actions, table)


def _members(actions: Any) -> list[Any]:
    if isinstance(actions, str | bytes) or not isinstance(actions, Iterable):
        raise TypeError(
            "The allowed actions of a state must be a list, a set or an array of "
            f"actions. Got {actions!r:.80}. Put a single action in a list."
        )
    array = getattr(actions, "tolist", None)
    members = list(array() if array else actions)
    if any(isinstance(member, bool) for member in members):
        raise TypeError(
            "The allowed actions of a state must be labels of actions, not flags. Got "
            f"{members!r:.80}. Give a boolean array or data frame for all states."
        )
    return members


def _of_table(table: Any) -> AllowedActions:
    """Return what a boolean table says, by its labels or by position."""
    index, columns = getattr(table, "index", None), getattr(table, "columns", None)
    if index is not None and columns is not None:
        flags = np.asarray(table)
        # A MultiIndex yields tuples, as states of several columns are.
        states = as_labels(objects(index.tolist()) if index.nlevels > 1 else index)
        actions = as_labels(columns)
        for name, labels in (("index", states), ("columns", actions)):
            if len(factorise([labels])[0]) != len(labels):
                raise ValueError(f"The {name} of allowed_actions must not repeat.")
    elif isinstance(table, np.ndarray | list | tuple):
        flags = np.asarray(table)
        if flags.ndim != 2:
            raise ValueError(f"{_FORMS}Got an array of shape {flags.shape}.")
        states, actions = map(np.arange, flags.shape)
    else:
        raise TypeError(f"{_FORMS}Got {type(table).__name__}.")
    if flags.dtype.kind != "b" and not np.isin(flags, (0, 1)).all():
        raise ValueError(f"{_FORMS}Found other values than True and False.")
    return AllowedActions(states, actions, flags.astype(bool))
