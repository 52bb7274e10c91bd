"""What hosts in processes of their own write down about every message, and a judge who reads it.

All hosts of a test append to one file, a line for each record, with one `write` each: so the order of the lines is the
order in which things happened, whatever becomes of the process that wrote them.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from theatre_gevent import SystemClock

SLACK = 0.05
"""Seconds between the clocks of records and of fences: the database's wall clock is translated."""
GREY = 0.1
"""A process that was paused between the lease check and the record writes that one record right after it goes on."""


class Record(msgspec.Struct, omit_defaults=True):
    """One thing that happened.

    Attributes:
        what: Of an activation: `init`, `begin`, `end`, `shutdown`, `over`. Of a lane: `sent`, `refused` (a message
            that was not accepted), `asked` (a request begins), `replied`, `failed` (a request). Of a host: `dead` (a
            dead letter), `state`, `resumed` (the driver let a paused process go on), `stopped` (it has ended in good
            order).
        t: When, in seconds of the boot-time clock, which all processes of a machine share.
        pid: Which process wrote it.
        host: Which host.
        epoch: Which life of the host: the one in which the activation began.
        ref: Which actor.
        act: Which activation: no two of whatever processes have the same.
        sender: Whose message; each sends one after the other.
        n: Its number, rising within `sender`.
        note: The reason of `init`, the state, the error, `fenced` or `killed` for an `end`; for `replied`, which
            activation answered.
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


class Fault(msgspec.Struct, frozen=True):
    """Messages may be lost that were sent between two times: to a host that was killed or cut off then."""

    since: float
    until: float


Lives = Mapping[tuple[str, int], float]
"""When lives of hosts were fenced, in seconds of the boot-time clock."""


class Judge:
    """Reads the records of a test, and finds what must not be.

    Args:
        records: In the order of the file.
        fenced: The lives that are over, and since when.
        faults: When messages may have been lost.
        killed: Processes that were killed: what they were about to do, nobody knows.
    """

    def __init__(
        self,
        records: Iterable[Record],
        fenced: Lives | None = None,
        faults: Iterable[Fault] = (),
        killed: Iterable[int] = (),
    ) -> None:
        self.records = list(records)
        self._fenced = fenced or {}
        self._faults = list(faults)
        self._killed = set(killed)
        self.violations: list[str] = []
        self.lost = 0
        self._check_lives()
        self._check_order()
        self._check_accounts()

    def _wrong(self, record: Record, what: str) -> None:
        self.violations.append(f"{what}: {msgspec.to_builtins(record)}")

    def _is_fenced(self, record: Record, at: float) -> bool:
        return self._fenced.get((record.host, record.epoch), 1e18) <= at + SLACK

    # -- one life at a time ----------------------------------------------------------------------------------------

    def _check_lives(self) -> None:
        current: dict[str, Record] = {}  # the activation of each ref that began last
        over: set[str] = set()
        open_: dict[str, list[Record]] = defaultdict(list)  # handlers of each ref that have not ended
        overtaken: set[tuple[str, str, int]] = set()
        stopped: set[int] = set()
        fresh: set[int] = set()  # processes that have written nothing since they went on
        resumed: dict[int, float] = {}
        for record in self.records:
            if record.what == "resumed":
                fresh.add(record.pid)
                resumed[record.pid] = record.t
                continue
            is_grey = record.pid in fresh and record.t - resumed[record.pid] < GREY
            fresh.discard(record.pid)
            if record.what == "stopped":
                stopped.add(record.pid)
            elif record.what == "init":
                self._check_not_late(record, is_grey)
                before = current.get(record.ref)
                if before is not None and not (
                    before.act in over
                    or before.pid in stopped
                    or before.pid in self._killed
                    or self._is_fenced(before, record.t)
                ):
                    self._wrong(record, f"began while {before.act} on {before.host} was not over")
                self._overtake(record, open_[record.ref], overtaken)
                current[record.ref] = record
            elif record.what in ("begin", "shutdown"):
                self._check_not_late(record, is_grey)
                now = current.get(record.ref)
                if now is None or now.act != record.act:
                    if not is_grey:
                        self._wrong(record, f"began in an older life than {now and now.act}")
                else:
                    self._overtake(record, open_[record.ref], overtaken)
                if record.what == "begin":
                    open_[record.ref].append(record)
            elif record.what == "end":
                key = (record.act, record.sender, record.n)
                open_[record.ref] = [o for o in open_[record.ref] if (o.act, o.sender, o.n) != key]
                if record.note == "killed":
                    over.add(record.act)
                elif key in overtaken and record.note != "fenced":
                    self._wrong(record, "ended as if nothing had happened, though its actor had gone on elsewhere")
            elif record.what == "over":
                over.add(record.act)

    def _check_not_late(self, record: Record, is_grey: bool) -> None:
        if is_grey:
            return
        if record.left <= 0:
            self._wrong(record, "handled when its lease had ended")
        end = self._fenced.get((record.host, record.epoch))
        if end is not None and record.t > end + SLACK:
            self._wrong(record, f"handled {record.t - end:.3f} s after its life was fenced")

    def _overtake(self, record: Record, handlers: list[Record], overtaken: set[tuple[str, str, int]]) -> None:
        for other in handlers:
            if other.pid in self._killed:
                continue
            if other.act == record.act or not self._is_fenced(other, record.t):
                self._wrong(record, f"runs beside {other.sender} {other.n} of {other.act} on {other.host}")
            overtaken.add((other.act, other.sender, other.n))

    # -- order -----------------------------------------------------------------------------------------------------

    def _check_order(self) -> None:
        last: dict[tuple[str, str], int] = {}
        for record in self.records:
            if record.what == "begin" and record.n:
                before = last.get((record.ref, record.sender), 0)
                if record.n <= before:
                    self._wrong(record, f"came after {before}")
                last[record.ref, record.sender] = record.n

    # -- accounts --------------------------------------------------------------------------------------------------

    def _check_accounts(self) -> None:
        handled: dict[tuple[str, int], Record] = {}
        dead: Counter[tuple[str, int]] = Counter()
        offered: dict[tuple[str, int], Record] = {}
        replied: set[tuple[str, int]] = set()
        senders: dict[str, int] = {}
        for record in self.records:
            key = (record.sender, record.n)
            if not record.n:
                continue
            if record.what == "begin":
                handled.setdefault(key, record)
            elif record.what == "dead":
                dead[key] += 1
            elif record.what in ("sent", "refused", "asked"):
                offered[key] = record
                senders[record.sender] = record.pid
            elif record.what == "replied":
                if key in replied:
                    self._wrong(record, "a second reply")
                replied.add(key)
                by = handled.get(key)
                if by is None or by.act != record.note or by.ref != record.ref:
                    self._wrong(record, f"another's reply; it was handled by {by and by.act}")
        for key, record in offered.items():
            if record.what == "sent" and key not in handled and key not in dead:
                if any(fault.since <= record.t <= fault.until for fault in self._faults):
                    self.lost += 1
                else:
                    self._wrong(record, "lost without a word")
            elif record.what == "refused" and key in handled:
                self._wrong(record, "refused, and handled all the same")
        for key, record in handled.items():
            if key not in offered and senders.get(record.sender) not in self._killed:
                self._wrong(record, "nobody has sent this")
            if dead[key]:
                self._wrong(record, "handled, and a dead letter as well")
        for key, count in dead.items():
            if count > 1:
                self.violations.append(f"{count} dead letters for {key}")

    # -- what happened -----------------------------------------------------------------------------------------------

    def of(self, *what: str, **fields: Any) -> list[Record]:
        """Return the records of these kinds that have these values."""
        return [
            record
            for record in self.records
            if record.what in what and all(getattr(record, name) == value for name, value in fields.items())
        ]

    def acquit(self, at_least: int) -> None:
        """Fail unless there is nothing wrong and enough has happened for that to mean something."""
        assert not self.violations, "\n".join([f"{len(self.violations)} violations", *self.violations[:20]])
        begun = len(self.of("begin"))
        assert begun >= at_least, f"only {begun} messages were handled: that proves nothing"
