"""What hosts in processes of their own write down about every message; `judge` reads it.

All hosts of a test append to one file, a line for each record, with one `write` each: so the order of the lines is the
order in which things happened, whatever becomes of the process that wrote them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from theatre_gevent import SystemClock

TIMED = "timed:"
"""How names of senders begin whose messages come from schedules: at least once, in no order."""
OFFERS = ("sent", "refused", "asked")
"""Records of a message that its sender has offered to its host."""


class Record(msgspec.Struct, omit_defaults=True):
    """One thing that happened.

    Attributes:
        what: Of an activation: `init`, `begin`, `end`, `shutdown`, `over`. Of a lane: `sent`, `refused` (a message
            that was not accepted), `asked` (a request begins), `replied`, `failed` (a request), `scheduled` (a message
            that a schedule will send; its sender begins with `TIMED`). Of a host: `dead` (a dead letter), `state`,
            `resumed` (the driver let a paused process go on), `stopped` (it has ended in good order).
        t: When, in seconds of the boot-time clock, which all processes of a machine share.
        pid: Which process wrote it.
        host: Which host.
        epoch: Which life of the host: the one in which the activation began.
        ref: Which actor.
        act: Which activation: no two of whatever processes have the same.
        sender: Whose message; each sends one after the other.
        n: Its number, rising within `sender`.
        note: The reason of `init`, the state, the error, `fenced` or `killed` for an `end`; for `replied`, which
            activation answered; for `sent`, which host the ring has last chosen for the actor, if that is known: the
            message may have gone there, though the actor has never been there.
        left: Seconds that were left of the lease.
    """

    what: str
    t: float = 0.0
    pid: int = 0
    host: str = ""
    epoch: int = 0
    ref: str = ""
    act: str = ""
    sender: str = ""
    n: int = 0
    note: str = ""
    left: float = 1e9


class Witness:
    """Writes records of one process.

    Args:
        path: The file, which all processes share.
        host: Which host this is.
    """

    def __init__(self, path: str, host: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._host = host
        self._pid = os.getpid()
        self._encode = msgspec.json.Encoder().encode
        self._now = SystemClock().boottime

    def record(self, what: str, **fields: Any) -> None:
        """Write a record. `fields` may speak for another process, whose `pid` they give."""
        record = Record(what, **{"t": self._now(), "pid": self._pid, "host": self._host, **fields})
        os.write(self._fd, self._encode(record) + b"\n")

    def close(self) -> None:
        """Write no more."""
        os.close(self._fd)


def read(path: Path) -> list[Record]:
    """Return all records in the order in which they were written; the last one perhaps is on its way still."""
    decode = msgspec.json.Decoder(Record).decode
    data = path.read_bytes() if path.exists() else b""
    return [decode(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
