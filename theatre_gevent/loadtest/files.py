"""The files that a run writes: looked at before it, written at its end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_AT_ONCE = getattr(os, "O_NONBLOCK", 0)
"""Opens a pipe that nobody reads with an error instead of a wait; a system without it has no such pipes."""


class Unwritable(Exception):
    """A file can't be written; the message says so after the name of its flag."""


def check(path: Path) -> None:
    """Find out whether a file can be written, and leave everything as it was.

    Raises:
        Unwritable: It can't.
    """
    try:
        if path.is_dir() or not path.parent.is_dir():
            raise Unwritable(f"must be a file in a folder that exists, got {str(path)!r}")
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            target = real(path)  # a link may lead to what does not exist yet, and is not to be removed for it
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            target.unlink()
            return
        # Who reads a FIFO would take the look for the end. What a shell passes as /dev/fd/63 stays open elsewhere.
        if stat.S_ISFIFO(mode) and real(path).is_fifo():
            raise Unwritable(f"must not be a FIFO, got {str(path)!r}")
        os.close(os.open(path, os.O_WRONLY | _AT_ONCE))
    except OSError as error:
        raise Unwritable(because(path, error)) from error


def write(path: Path, text: str) -> None:
    """Write a file anew.

    Raises:
        Unwritable: It can't be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _AT_ONCE, 0o666)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.set_blocking(descriptor, True)
            file.write(text)
    except OSError as error:
        raise Unwritable(because(path, error)) from error


def real(path: Path) -> Path:
    """Return where a path leads. `Path.resolve` has its own error for a link to itself before Python 3.13."""
    return Path(os.path.realpath(path))


def is_device(path: Path) -> bool:
    """Tell whether a path leads to something like /dev/null, which any number of writers may share."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)


def because(path: Path, error: OSError) -> str:
    """Say of a file why it can't be written."""
    return f"{str(path)!r} can't be written: {error.strerror or error}"
