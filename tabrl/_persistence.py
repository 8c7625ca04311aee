"""Fitted policies as files: arrays in safetensors, everything else as JSON in it.

No pickle: reading such a file runs no code, and bounds memory by the file's size. A
checksum over all of the content finds what a disk or a transfer damaged.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tabrl._files import read_regular, replacing
from tabrl._statistics import Statistics

FORMAT = 2  # 1 had no checksum
# The versions of tabrl that read FORMAT, for whoever meets it in an older one.
READABLE_BY = ">=0.1.0"
# Some 10^8 distinct transitions: more than that is no policy of ours.
_MAX_BYTES = 2**34
_META, _CHECKSUM = "json", "crc32"
_STATISTICS = [field.name for field in fields(Statistics)][2:]
_CODES = ("pair_state", "pair_action", "edge_pair", "edge_next")
_PLAIN = (bool, int, float, str)
_DATES: dict[str, Any] = {"datetime": dt.datetime, "date": dt.date, "time": dt.time}
# All that reading values of the wrong type, size or depth may raise.
_DAMAGE = (
    SafetensorError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


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
        Replaced if there is such a file; see `tabrl._files.replacing`.
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
            # safetensors holds little-endian numbers, whatever arrived.
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            plain[name] = np.ascontiguousarray(native)
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
    plain[_CHECKSUM] = _checksum(plain)
    data = save_arrays(plain)
    with replacing(path) as file:
        file.write(data)


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
        If it is no whole file of this kind, or one of another format.
    OSError
        If the file cannot be read.
    """
    with whole(path, kind):
        arrays = load_arrays(read_regular(path, _MAX_BYTES))
        content = json.loads(arrays[_META].tobytes())
        version = content["format"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format {version!r:.20}")
        reader = content.get("tabrl") if version > FORMAT else None
    if version != FORMAT:
        raise ValueError(
            f"{os.fspath(path)!r} is of format {version!r:.20}; this version of tabrl "
            f"reads {FORMAT}. "
            + (
                f"Upgrade: tabrl{reader!s:.40} reads it."
                if version > FORMAT
                else "It has no checksum. Fit and save again."
            )
        )
    with whole(path, kind):
        checksum = arrays.pop(_CHECKSUM)
        if checksum.tobytes() != _checksum(arrays).tobytes():
            raise ValueError("its checksum is that of another content")
        del arrays[_META]
        holds = content["kind"]
    if holds != kind:
        raise ValueError(
            f"{os.fspath(path)!r} must be a file written by {kind}.save. It holds a "
            f"{holds!r:.80}."
        )
    with whole(path, kind):
        for name, packed in content["labels"].items():
            if isinstance(packed, str):
                if np.dtype(packed).kind not in "mM":
                    raise ValueError(f"dtype {packed!r}")
                arrays[name] = arrays[name].view(packed)
            else:
                labels = [_unpack(label) for label in packed]
                # np.array would take tuples for a second dimension.
                arrays[name] = np.fromiter(labels, dtype=object, count=len(labels))
        return dict(content["meta"]), arrays


@contextmanager
def whole(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Say of any error on the way from a file to an object that the file is damaged.

    Parameters
    ----------
    path : str or path
        The file.
    kind : str
        The class whose ``save`` should have written it.

    Raises
    ------
    ValueError
        In place of what is raised within.
    """
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or "nothing more is known"
        raise ValueError(
            f"{os.fspath(path)!r} must be a file written by {kind}.save. Found "
            f"something else, or it is damaged ({type(error).__name__}: {reason:.200})."
        ) from None


def _checksum(arrays: dict[str, NDArray]) -> NDArray[np.uint32]:
    """Return one CRC-32 over names, types, shapes and values.

    It finds any change of up to 32 bits in a row. It is no proof against intent:
    whoever writes a file can write its checksum.
    """
    found = 0
    for name in sorted(arrays):
        array = arrays[name]
        found = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), found)
        found = zlib.crc32(array.data, found)
    return np.array([found], np.uint32)


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
        If one is missing, or they are not such as `Statistics` describes.
    """
    statistics = Statistics(n_states, n_actions, **{n: arrays[n] for n in _STATISTICS})
    n_pairs = len(statistics.n)
    for name in _STATISTICS:
        like = statistics.edge_pair if name.startswith("edge") else statistics.n
        dtype = np.int64 if name in _CODES else np.float64
        check_array(name, arrays[name], dtype, (len(like),))
    for name, size in (
        ("pair_state", n_states),
        ("pair_action", n_actions),
        ("edge_pair", n_pairs),
        ("edge_next", n_states),
    ):
        codes = arrays[name]
        if len(codes) and not (0 <= codes.min() and codes.max() < size):
            raise ValueError(f"{name} must hold codes from 0 to {size - 1}")
    # As one number each. None overflows: a file bounds all sizes by far less than 2^32.
    for key in (
        statistics.pair_state * n_actions + statistics.pair_action,
        statistics.edge_pair * n_states + statistics.edge_next,
    ):
        if not (key[1:] > key[:-1]).all():
            raise ValueError("pairs and edges must be sorted, each there once")
    if not ((statistics.n > 0).all() and (statistics.edge_count > 0).all()):
        raise ValueError("counts must be positive")
    if not (
        (0 <= statistics.n_terminated) & (statistics.n_terminated <= statistics.n)
    ).all():
        raise ValueError("n_terminated must lie between 0 and n")
    return statistics


def check_array(
    name: str, array: NDArray, dtype: Any, shape: tuple[int | None, ...]
) -> None:
    """Refuse an array that is not finite, of this dtype and of this shape.

    Parameters
    ----------
    name : str
        For the message.
    array : array
    dtype : dtype
    shape : tuple
        None where any length will do.

    Raises
    ------
    ValueError
        If one of these does not hold.
    """
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, given)
        for given, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ValueError(
            f"{name} must be of type {np.dtype(dtype)} and shape {shape}, not of "
            f"{array.dtype} and {array.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")


def pack_random_state(state: int | np.random.RandomState | None) -> Any:
    """Return the parameter ``random_state`` as JSON holds it.

    Raises
    ------
    TypeError
        If it is a RandomState of another generator than the usual MT19937.
    """
    if isinstance(state, np.random.RandomState):
        content = state.get_state(legacy=False)
        if content["bit_generator"] != "MT19937":
            raise TypeError(
                "random_state must be an int, None or a RandomState of MT19937 to be "
                f"saved. Got one of {content['bit_generator']}."
            )
        name, keys, *rest = state.get_state(legacy=True)
        return [name, np.asarray(keys).tolist(), *rest]
    return None if state is None else int(state)


def unpack_random_state(packed: Any) -> int | np.random.RandomState | None:
    """Return what `pack_random_state` packed.

    numpy takes any position, and reads beyond the state at the next draw.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    if packed is None:
        return None
    if not isinstance(packed, list):
        return _integer("random_state", packed, 2**32)
    name, keys, position, has_gauss, gauss = packed
    if name != "MT19937" or len(keys) != 624:
        raise ValueError("random_state must be 624 numbers of MT19937")
    state = np.random.RandomState()
    state.set_state(
        (
            name,
            np.array([_integer("key", key, 2**32) for key in keys], np.uint32),
            _integer("position", position, 625),
            _integer("has_gauss", has_gauss, 2),
            _finite("gauss", gauss),
        )
    )
    return state


def restore_generator(state: Any) -> np.random.Generator:
    """Return numpy's default generator in a saved state.

    Parameters
    ----------
    state : dict
        What ``generator.bit_generator.state`` was.

    Returns
    -------
    Generator

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is something else.
    """
    if state["bit_generator"] != "PCG64":
        raise ValueError("the generator must be a PCG64")
    bits = np.random.PCG64()
    inner = state["state"]
    increment = _integer("inc", inner["inc"], 2**128)
    if increment % 2 == 0:  # no increment of PCG64 is
        raise ValueError("inc must be odd")
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": _integer("state", inner["state"], 2**128), "inc": increment},
        "has_uint32": _integer("has_uint32", state["has_uint32"], 2),
        "uinteger": _integer("uinteger", state["uinteger"], 2**32),
    }
    return np.random.Generator(bits)


def _integer(name: str, value: Any, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise ValueError(f"{name} must be an integer from 0 to {end - 1}")
    return value


def _finite(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number")
    return float(value)


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
