"""Time and memory of a call."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure(
    call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, int | None]:
    """Seconds that a call takes, and the bytes that the process grows by meanwhile.

    The bytes are None where there is no counter of them.
    """
    counts_memory = sys.platform == "linux"
    if counts_memory:
        # Else memory that an earlier call gave back would be free for this one.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident_bytes("VmRSS")
    began = clock()
    call()
    seconds = clock() - began
    return seconds, _resident_bytes("VmHWM") - before if counts_memory else None


def _resident_bytes(name: str) -> int:
    """Return a line of Linux's status: VmRSS is the memory now, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return 1024 * int(line.split()[1])
