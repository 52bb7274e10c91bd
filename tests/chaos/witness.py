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


TIMED = "timed:"
"""How names of senders begin whose messages come from schedules: at least once, in no order."""
OFFERS = ("sent", "refused", "asked")
"""Records of a message that its sender has offered to its host."""
AROUND = 8.0
"""Seconds before and after a message was sent in which the hosts that had its actor count as those that it went to."""


class Fault(msgspec.Struct, frozen=True):
    """Messages may be lost, or come late, that were sent between two times: to a host that was killed or cut off then.

    Attributes:
        since: In seconds of the boot-time clock.
        until: Likewise.
        hosts: One host: what it sent, and what went to it. Two: what went from one to the other. None: all.
    """

    since: float
    until: float
    hosts: tuple[str, ...] = ()

    def excuses(self, sent: Record, owners: set[str]) -> bool:
        """Tell whether a message may be lost that one of `owners` should have got."""
        if not self.since <= sent.t <= self.until:
            return False
        if len(self.hosts) < 2:
            return not self.hosts or self.hosts[0] == sent.host or self.hosts[0] in owners
        one, other = self.hosts
        return (sent.host == one and other in owners) or (sent.host == other and one in owners)


class Violation(msgspec.Struct, frozen=True):
    """Something that must not be.

    Attributes:
        invariant: What was broken: `one activation`, `epochs`, `lease`, `order`, `replies`, `accounts`, `schedules`.
        text: What was wrong.
        proof: The records that show it, in their order, and no others.
    """

    invariant: str
    text: str
    proof: tuple[Record, ...] = ()

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.invariant}: {self.text}", *(f"    {msgspec.to_builtins(each)}" for each in self.proof)]
        )


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
        self.violations: list[Violation] = []
        self.lost = self.late = 0
        self._had: dict[str, list[tuple[float, str]]] = defaultdict(list)  # who had each actor, and when
        self._offered: dict[tuple[str, int], Record] = {}
        for record in self.records:
            if record.what in ("init", "begin", "shutdown"):
                self._had[record.ref].append((record.t, record.host))
            elif record.what in OFFERS and record.n and not record.sender.startswith(TIMED):
                self._offered[record.sender, record.n] = record
        self._check_lives()
        self._check_epochs()
        self._check_order()
        self._check_accounts()
        self._check_requests_end()
        self._check_schedules()

    def _wrong(self, invariant: str, record: Record, what: str, *before: Record | None) -> None:
        proof = (*(each for each in before if each is not None), record)
        self.violations.append(Violation(invariant, what, proof))

    def _was_in_danger(self, offer: Record) -> bool:
        """Tell whether a fault was on the way of a message."""
        owners = {host for t, host in self._had[offer.ref] if abs(t - offer.t) < AROUND} | {offer.note}
        return any(fault.excuses(offer, owners) for fault in self._faults)

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
                    what = f"began while {before.act} on {before.host} was not over"
                    self._wrong("one activation", record, what, before)
                self._overtake(record, open_[record.ref], overtaken)
                current[record.ref] = record
            elif record.what in ("begin", "shutdown"):
                self._check_not_late(record, is_grey)
                now = current.get(record.ref)
                if now is None or now.act != record.act:
                    if not is_grey:
                        self._wrong("one activation", record, f"began in an older life than {now and now.act}", now)
                else:
                    self._overtake(record, open_[record.ref], overtaken)
                if record.what == "begin":
                    open_[record.ref].append(record)
            elif record.what == "end":
                key = (record.act, record.sender, record.n)
                began = next((o for o in open_[record.ref] if (o.act, o.sender, o.n) == key), None)
                open_[record.ref] = [o for o in open_[record.ref] if (o.act, o.sender, o.n) != key]
                if record.note == "killed":
                    over.add(record.act)
                elif key in overtaken and not is_grey and record.note not in ("fenced", "ClaimLost", "HostFrozen"):
                    what = "ended as if nothing had happened, though its actor had gone on elsewhere"
                    self._wrong("lease", record, what, began, current.get(record.ref))
            elif record.what == "over":
                over.add(record.act)

    def _check_not_late(self, record: Record, is_grey: bool) -> None:
        if is_grey:
            return
        if record.left <= 0:
            self._wrong("lease", record, "handled when its lease had ended")
        end = self._fenced.get((record.host, record.epoch))
        if end is not None and record.t > end + SLACK:
            self._wrong("lease", record, f"handled {record.t - end:.3f} s after its life was fenced")

    def _overtake(self, record: Record, handlers: list[Record], overtaken: set[tuple[str, str, int]]) -> None:
        for other in handlers:
            if other.pid in self._killed:
                continue
            if other.act == record.act or not self._is_fenced(other, record.t):
                what = f"runs beside {other.sender} {other.n} of {other.act} on {other.host}"
                self._wrong("one activation", record, what, other)
            overtaken.add((other.act, other.sender, other.n))

    # -- order -----------------------------------------------------------------------------------------------------

    def _check_order(self) -> None:
        """Numbers rise, and none comes twice. What a fault may have cost may come late as well."""
        last: dict[tuple[str, str], Record] = {}
        seen: set[tuple[str, int]] = set()
        for record in self.records:
            if record.what == "begin" and record.n and not record.sender.startswith(TIMED):
                before, key = last.get((record.ref, record.sender)), (record.sender, record.n)
                if before is None or record.n > before.n:
                    last[record.ref, record.sender] = record
                elif key not in seen and key in self._offered and self._was_in_danger(self._offered[key]):
                    self.late += 1
                else:
                    self._wrong("order", record, f"came after {before.n}", before)
                seen.add(key)

    # -- epochs ----------------------------------------------------------------------------------------------------

    def _check_epochs(self) -> None:
        """No actor comes back to an earlier life of a host; that another host's life is older means nothing."""
        last: dict[tuple[str, str], Record] = {}
        fresh: dict[int, float] = {}
        for record in self.records:
            if record.what == "resumed":
                fresh[record.pid] = record.t
            elif record.what in ("init", "begin", "shutdown"):
                resumed = fresh.pop(record.pid, None)
                before = last.get((record.ref, record.host))
                if before is not None and record.epoch < before.epoch:
                    if resumed is None or record.t - resumed >= GREY:
                        self._wrong("epochs", record, f"epoch {record.epoch} after {before.epoch}", before)
                else:
                    last[record.ref, record.host] = record

    # -- accounts --------------------------------------------------------------------------------------------------

    def _check_accounts(self) -> None:
        handled: dict[tuple[str, int], Record] = {}
        dead: Counter[tuple[str, int]] = Counter()
        offered = self._offered
        replied: dict[tuple[str, int], Record] = {}
        senders: dict[str, int] = {}
        for record in self.records:
            key = (record.sender, record.n)
            if not record.n or record.sender.startswith(TIMED):
                continue
            if record.what == "begin":
                handled.setdefault(key, record)
            elif record.what == "dead":
                dead[key] += 1
            elif record.what in OFFERS:
                senders[record.sender] = record.pid
            elif record.what == "replied":
                if key in replied:
                    self._wrong("replies", record, "a second reply", replied[key])
                replied[key] = record
                by = handled.get(key)
                if by is None or by.act != record.note or by.ref != record.ref:
                    self._wrong("replies", record, f"another's reply; it was handled by {by and by.act}", by)
        for key, record in offered.items():
            if record.what == "sent" and key not in handled and key not in dead:
                if self._was_in_danger(record):
                    self.lost += 1
                else:
                    self._wrong("accounts", record, "lost without a word")
            elif record.what == "refused" and key in handled:
                self._wrong("accounts", handled[key], "refused, and handled all the same", record)
        for key, record in handled.items():
            if key not in offered and senders.get(record.sender) not in self._killed:
                self._wrong("accounts", record, "nobody has sent this")
            if dead[key]:
                self._wrong("accounts", record, "handled, and a dead letter as well")
        for key, count in dead.items():
            if count > 1:
                self.violations.append(Violation("accounts", f"{count} dead letters for {key}"))

    def _check_requests_end(self) -> None:
        """Where a process has come to its end in good order, each of its requests has had an outcome before."""
        open_: dict[tuple[str, int], Record] = {}
        for record in self.records:
            if record.what == "asked":
                open_[record.sender, record.n] = record
            elif record.what in ("replied", "failed"):
                open_.pop((record.sender, record.n), None)
            elif record.what == "stopped":
                for key, asked in list(open_.items()):
                    if asked.pid == record.pid:
                        self._wrong("replies", record, "a request got neither a reply nor an error", open_.pop(key))

    # -- schedules -------------------------------------------------------------------------------------------------

    def _check_schedules(self) -> None:
        due: dict[tuple[str, int], Record] = {}
        for record in self.records:
            if record.sender.startswith(TIMED) and record.what == "scheduled":
                due[record.sender, record.n] = record
        for record in self.records:
            if (record.what == "end" and not record.note) or record.what == "dead":
                due.pop((record.sender, record.n), None)
        for record in due.values():
            self._wrong("schedules", record, "never handled to its end")

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
        assert not self.violations, "\n".join([f"{len(self.violations)} violations", *map(str, self.violations[:20])])
        begun = len(self.of("begin"))
        assert begun >= at_least, f"only {begun} messages were handled: that proves nothing"
