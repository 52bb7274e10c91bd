"""Newline-delimited JSON over a pipe, between the command and the processes that it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import ujson
from gevent.lock import BoundedSemaphore

if TYPE_CHECKING:
    from collections.abc import Iterator

    class Reads(Protocol):
        """A binary file that is read by lines."""

        def readline(self) -> bytes:
            """Return a line, empty at the end."""

    class Writes(Protocol):
        """A binary file that is written to."""

        def write(self, data: bytes, /) -> Any:
            """Write all of it."""

        def flush(self) -> Any:
            """Let it go out."""


class BadLine(Exception):
    """What came is no JSON object in one line."""


class Sender:
    """Writes messages; several greenlets may.

    Args:
        file: The pipe, cooperative: a full one suspends the greenlet, not the process.
    """

    def __init__(self, file: Writes) -> None:
        self._file = file
        self._lock = BoundedSemaphore()

    def send(self, message: dict[str, Any]) -> None:
        """Write one message.

        Raises:
            OSError: Nobody reads the pipe any more.
        """
        line = ujson.dumps(message, escape_forward_slashes=False, reject_bytes=True).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()


def receive(file: Reads) -> Iterator[dict[str, Any]]:
    """Yield the messages that come through a pipe until its end; a last line without an end is none.

    Raises:
        BadLine: Something else came through.
    """
    while True:
        line = file.readline()
        if not line.endswith(b"\n"):
            return
        try:
            message = ujson.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise BadLine(f"no JSON object: {line[:200]!r}")
        yield message
