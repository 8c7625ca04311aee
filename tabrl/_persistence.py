"""Fitted policies as files: arrays in safetensors, everything else as JSON in it.

No pickle: reading such a file runs no code, and bounds memory by the file's size.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tabrl._statistics import Statistics

FORMAT = 1
# The versions of tabrl that read FORMAT, for whoever meets it in an older one.
READABLE_BY = ">=0.1.0"
_META = "json"
_STATISTICS = [field.name for field in fields(Statistics)][2:]
_PLAIN = (bool, int, float, str)
_DATES: dict[str, Any] = {"datetime": dt.datetime, "date": dt.date, "time": dt.time}


def write(
    path: str | os.PathLike[str],
    kind: str,
    meta: dict[str, Any],
    arrays: dict[str, NDArray],
) -> None:
    """Write a file whole or not at all.

    Parameters
    ----------
    path : str or path
        Replaced if there is such a file.
    kind : str
        What the file holds; `read` asks for the same.
    meta : dict
        Anything that JSON holds.
    arrays : dict of str to array
        Of numbers, booleans, dates or labels: bools, ints, floats, strings, dates, or
        tuples of these.

    Raises
    ------
    TypeError
        If a label is of another kind.
    OSError
        If the file cannot be written.
    """
    plain: dict[str, NDArray] = {}
    labels: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.dtype.kind in "biuf":
            plain[name] = np.ascontiguousarray(array)
        elif array.dtype.kind in "mM":
            plain[name] = np.ascontiguousarray(array).view(np.int64)
            labels[name] = array.dtype.str
        else:
            labels[name] = [_pack(label, name) for label in array.tolist()]
    content = {
        "format": FORMAT,
        "tabrl": READABLE_BY,
        "kind": kind,
        "labels": labels,
        "meta": meta,
    }
    plain[_META] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(save_arrays(plain))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Read what `write` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    kind : str
        What the file must hold.

    Returns
    -------
    meta : dict
    arrays : dict of str to array

    Raises
    ------
    ValueError
        If the file is not one of this kind, or of a newer format.
    OSError
        If the file cannot be read.
    """
    must = f"{os.fspath(path)!r} must be a file written by {kind}.save"
    try:
        arrays = load_arrays(Path(path).read_bytes())
        content = json.loads(arrays.pop(_META).tobytes())
        version = content["format"]
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{must}. Found something else: {error!r:.200}.") from None
    if type(version) is not int or version > FORMAT:
        raise ValueError(
            f"{os.fspath(path)!r} is of format {version!r:.20}; this version of tabrl "
            f"reads {FORMAT}. Upgrade: tabrl{content.get('tabrl')!s:.40} reads it."
        )
    if content.get("kind") != kind:
        raise ValueError(f"{must}. It holds a {content.get('kind')!r:.80}.")
    try:
        for name, packed in content["labels"].items():
            if isinstance(packed, str):
                if np.dtype(packed).kind not in "mM":
                    raise ValueError(f"dtype {packed!r}")
                arrays[name] = arrays[name].view(packed)
            else:
                labels = [_unpack(label) for label in packed]
                # np.array would take tuples for a second dimension.
                arrays[name] = np.fromiter(labels, dtype=object, count=len(labels))
        return content["meta"], arrays
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{must}. It is damaged: {error!r:.200}.") from None


def statistics_to_arrays(statistics: Statistics) -> dict[str, NDArray]:
    """Return the arrays of the statistics by name."""
    return {name: getattr(statistics, name) for name in _STATISTICS}


def statistics_from_arrays(
    arrays: dict[str, NDArray], n_states: int, n_actions: int
) -> Statistics:
    """Return the statistics of arrays that may come from anywhere.

    Raises
    ------
    KeyError, ValueError
        If one is missing or they do not fit each other.
    """
    statistics = Statistics(n_states, n_actions, **{n: arrays[n] for n in _STATISTICS})
    n_pairs = len(statistics.n)
    for name, size in (
        ("pair_state", n_states),
        ("pair_action", n_actions),
        ("edge_pair", n_pairs),
        ("edge_next", n_states),
    ):
        codes = arrays[name]
        if codes.dtype != np.int64 or not ((0 <= codes) & (codes < size)).all():
            raise ValueError(f"{name} must hold codes from 0 to {size - 1}.")
    for name in _STATISTICS:
        like = arrays["edge_pair" if name.startswith("edge") else "n"]
        if arrays[name].shape != (len(like),):
            raise ValueError(f"{name} must have the shape ({len(like)},).")
    return statistics


def pack_random_state(state: int | np.random.RandomState | None) -> Any:
    """Return the parameter ``random_state`` as JSON holds it."""
    if isinstance(state, np.random.RandomState):
        name, keys, *rest = state.get_state(legacy=True)
        return [name, np.asarray(keys).tolist(), *rest]
    return None if state is None else int(state)


def unpack_random_state(packed: Any) -> int | np.random.RandomState | None:
    """Return what `pack_random_state` packed."""
    if isinstance(packed, list):
        state = np.random.RandomState()
        state.set_state(tuple(packed))
        return state
    return None if packed is None else int(packed)


def _pack(label: Any, where: str) -> Any:
    if isinstance(label, np.generic):
        if label.dtype.kind in "mM":
            return {label.dtype.str: int(label.astype(np.int64))}
        label = label.item()
    if type(label) in _PLAIN:
        return label
    if type(label) is tuple:
        return [_pack(part, where) for part in label]
    # pandas.Timestamp is a datetime, to the nanosecond.
    if not getattr(label, "nanosecond", 0):
        for name, kind in _DATES.items():
            if isinstance(label, kind):
                return {name: label.isoformat()}
    raise TypeError(
        "Labels must be bools, ints, floats, strings, dates or tuples of these to be "
        f"saved. Found {label!r:.80} ({type(label).__name__}) in {where}. Convert the "
        "labels before fit, or use pickle."
    )


def _unpack(packed: Any) -> Any:
    if isinstance(packed, list):
        return tuple(map(_unpack, packed))
    if isinstance(packed, dict):
        ((name, value),) = packed.items()
        if name in _DATES:
            return _DATES[name].fromisoformat(value)
        if np.dtype(name).kind not in "mM":
            raise ValueError(f"dtype {name!r}")
        return np.int64(value).view(name)
    if type(packed) not in _PLAIN:
        raise TypeError(f"label {packed!r}")
    return packed
