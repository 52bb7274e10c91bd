"""What hosts print, passed on line by line with the host's id."""

from __future__ import annotations

import json
import logging
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from theatre_gevent.clock import SystemClock
from theatre_gevent.journal import iso
from theatre_gevent.logs import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("theatre_gevent.run")

_STDOUT = 1
_LONGEST = 1 << 16
"""Bytes of a line; what is longer is passed on in pieces."""


class Output:
    """Passes lines on; a slow reader costs lines, and stalls nobody.

    Args:
        errors: Writes to stderr.
        log_format: `json`: what hosts write to stderr that is no JSON object is made one, with the host's id. A line
            that is too long becomes several, whose `message` and `piece`, 1 and up, tell what it was.
    """

    def __init__(self, errors: Writer, log_format: str) -> None:
        self._errors = errors
        self._printed = Writer(_STDOUT)
        self._told = 0
        self._json = log_format == "json"

    def pass_on(self, pipe: IO[bytes], host_id: str, *, is_log: bool) -> None:
        """Pass on what comes through a pipe until its end."""
        for piece in _pieces(pipe):
            if not self._json:
                line = b"%s | %s\n" % (host_id.encode(), piece.text)
            elif is_log and (piece.number or not _is_object(piece.text)):
                line = _as_record(piece, host_id)
            else:
                line = piece.text + b"\n"
            if is_log:
                self._errors.put(line)
            elif self._printed.put(line) and self._printed.dropped > 2 * self._told:
                self._tell()  # not each time, since a slow reader makes room for one line after the other

    def flush(self) -> None:
        """Wait until it is written, at most two seconds."""
        self._printed.flush()
        if self._printed.dropped > self._told:
            self._tell()

    def _tell(self) -> None:
        self._told = self._printed.dropped
        log.warning("%d lines that hosts printed were dropped so far: they are read too slowly", self._told)


class _Piece(NamedTuple):
    """A line, or a piece of one that is too long.

    Attributes:
        text: It, without the line's end.
        number: 1 and up for the pieces of a line, 0 for a whole one.
    """

    text: bytes
    number: int


def _pieces(pipe: IO[bytes]) -> Iterator[_Piece]:
    number = 0
    while read := pipe.readline(_LONGEST):
        text = read.rstrip(b"\r\n")
        ended = read.endswith(b"\n")
        if number or not (ended or len(read) < _LONGEST):
            number += 1
        if text or not number:  # else the end of a line that was cut just before it
            yield _Piece(text, number)
        if ended:
            number = 0


def _is_object(line: bytes) -> bool:
    try:
        return line.startswith(b"{") and isinstance(json.loads(line.decode()), dict)
    except (ValueError, RecursionError):
        return False


def _as_record(piece: _Piece, host_id: str) -> bytes:
    """Return a record for what is none: a traceback of the interpreter, say, or a piece of a record."""
    record: dict[str, Any] = {
        "time": iso(SystemClock().time()),
        "level": "ERROR",
        "logger": "stderr",
        "message": piece.text.decode(errors="replace"),
        "host": host_id,
        "ref": None,
    }
    if piece.number:
        record["piece"] = piece.number
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
