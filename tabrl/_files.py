"""Files: read only what is whole and bounded, write whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a regular file of bounded size.

    A pipe that nobody writes to would be waited for without end, and an endless device
    would fill the memory.

    Parameters
    ----------
    path : str or path
        A symbolic link is followed.
    most : int
        Bytes that the file may hold.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If it is no regular file, or a larger one.
    OSError
        If it cannot be read.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        kind = stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFREG:
            raise ValueError(
                f"It must be a regular file. Found {_KINDS.get(kind, 'another kind')}."
            )
        if status.st_size > most:
            raise ValueError(
                f"It must hold at most {most} bytes. Found {status.st_size}."
            )
        return file.read(status.st_size)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a pipe without waiting for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a file to write to; it is at `path` once all is written, else nothing is.

    Until then it has no name where the system allows that, so that a process that is
    killed leaves nothing behind. Threads and processes that write to one path at once
    do not disturb each other: one of their files stays.

    Parameters
    ----------
    path : str or path
        A file, which is replaced; a symbolic link, whose target is replaced; or a pipe
        or a device, which is written to as it is.

    Yields
    ------
    binary file

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path = Path(path)
    if _is_stream(path):
        with path.open("ab") as file:  # "wb" would cut what /dev/stdout leads to
            yield file
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"The output must be a file. Found a folder at {path}.")
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        nameless = _nameless(target.parent)
        with nameless or temporary.open("xb") as file:
            yield file
            if nameless:
                file.flush()
                _name(file.fileno(), temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    """Return whether a path stands for something open elsewhere."""
    # /dev/stdout may be a file, which the shell goes on writing to.
    if path.absolute().parts[:2] in (("/", "dev"), ("/", "proc")):
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


def _nameless(folder: Path) -> BinaryIO | None:
    """Open a file without a name in a folder, None where that is not possible."""
    if not (hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir()):
        return None
    try:
        number = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError:  # the file system cannot, or nobody can write there
        return None
    return os.fdopen(number, "wb")


def _name(number: int, path: Path) -> None:
    """Give an open file without a name one."""
    # Only with src_dir_fd does os.link follow the link that /proc has for the file;
    # for an absolute path it has no other meaning.
    os.link(f"/proc/self/fd/{number}", path, src_dir_fd=number, follow_symlinks=True)
