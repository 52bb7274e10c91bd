"""What the command prints, on streams that may be gone: closed, on a full disk, or a pipe whose reader has ended."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_STREAMS = 3


class Console:
    """Prints the command's lines. A stream that fails never ends the run, whose result is worth more.

    Attributes:
        lost: Why something could not be printed on stdout, None if everything could.
    """

    def __init__(self) -> None:
        self.lost: str | None = None

    def say(self, text: str) -> None:
        """Print on stdout."""
        self.lost = put(text, sys.stdout) or self.lost

    def complain(self, text: str) -> None:
        """Print a line on stderr; where that is gone too, the exit code has to do."""
        put(f"loadtest.py: {text}", sys.stderr)


def put(text: str, stream: TextIO | None) -> str | None:
    """Print a line at once. A stream that fails gets nothing any more, and takes it without a complaint.

    Args:
        text: The line, or several, without the last end.
        stream: Where to; None is what Python makes of a stream that was closed when it started.

    Returns:
        Why it could not be printed, None if it was.
    """
    if stream is None:
        return "it is closed"
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError as error:
        _give_up(stream)
        return error.strerror or str(error)
    return None


def _give_up(stream: TextIO) -> None:
    """Lead a stream to nowhere: Python writes what its buffer holds at the end, and an error then is exit code 120."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def fill_gaps() -> None:
    """Keep the numbers of closed streams from whatever is opened next: logs would be written to a socket, say."""
    while (number := os.open(os.devnull, os.O_RDWR)) < _STREAMS:
        os.set_inheritable(number, True)
    os.close(number)
