"""What hosts print, passed on line by line with the host's id."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING

from theatre_gevent.clock import SystemClock
from theatre_gevent.journal import iso
from theatre_gevent.logs import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDOUT = 1
_LONGEST = 1 << 16
"""Bytes of a line; what is longer is passed on in pieces."""


class Output:
    """Passes lines on; a slow reader costs lines, and stalls nobody.

    Args:
        errors: Writes to stderr.
        log_format: `json`: what hosts write to stderr that is no JSON object is made one, with the host's id.
    """

    def __init__(self, errors: Writer, log_format: str) -> None:
        self._errors = errors
        self._printed = Writer(_STDOUT)
        self._json = log_format == "json"

    def pass_on(self, pipe: IO[bytes], host_id: str, *, is_log: bool) -> None:
        """Pass on what comes through a pipe until its end."""
        for line in _lines(pipe):
            if not self._json:
                line = b"%s | %s\n" % (host_id.encode(), line)
            elif is_log and not line.startswith(b"{"):
                line = _as_record(line, host_id)
            else:
                line += b"\n"
            (self._errors if is_log else self._printed).put(line)

    def flush(self) -> None:
        """Wait until it is written, at most two seconds."""
        self._printed.flush()


def _lines(pipe: IO[bytes]) -> Iterator[bytes]:
    while line := pipe.readline(_LONGEST):
        yield line.rstrip(b"\r\n")


def _as_record(line: bytes, host_id: str) -> bytes:
    """Return a record for a line that no logger wrote: a traceback of the interpreter, say."""
    record = {
        "time": iso(SystemClock().time()),
        "level": "ERROR",
        "logger": "stderr",
        "message": line.decode(errors="replace"),
        "host": host_id,
        "ref": None,
    }
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
