"""A judge who reads what a witness has written down, and finds what must not be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from tests.chaos.excuses import Dangers, Deaths, Fault, Lives
from tests.chaos.witness import OFFERS, TIMED, Record

SLACK = 0.05
"""Seconds between the clocks of records and of fences: the database's wall clock is translated."""
GREY = 0.1
"""A process that was paused between the lease check and the record writes that one record right after it goes on."""
SHARE, FEW = 0.02, 20
"""How many of the messages that were sent may be lost or late for faults: this share, and so many more, so that a short
run does not fail by chance. A minute of all faults costs 0.1 to 1 %."""
LEAST = 0.05
"""Share of the messages sent that no fault may have cost, at least: fewer prove nothing about the others. A minute of
all faults leaves 20 to 75 %: a dozen times a host loses its lease or its process, which endangers for ten seconds what
it sends and gets, one in three to five of all, and as often a connection."""
TOLD = 3
"""Records of a kind that prove something, at most."""


class Violation(msgspec.Struct, frozen=True):
    """Something that must not be.

    Attributes:
        invariant: What was broken: `one activation`, `epochs`, `lease`, `order`, `replies`, `accounts`, `schedules`;
            `losses` if faults have cost too much, `events` if too little has happened to prove anything.
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


class Judge:
    """Reads the records of a test, and finds what must not be.

    Args:
        records: In the order of the file.
        fenced: The lives that are over, and since when.
        faults: When messages may have been lost.
        killed: Processes that were killed, and when: what they were about to do then, nobody knows.

    Attributes:
        violations: What it has found.
        sent: How many messages were sent, apart from requests, which end with a reply or an error, and schedules.
        outside: Those of them that no fault excuses.
        lost: What faults have cost: the records of their senders.
        late: What was overtaken by later messages for faults: the records of their handlers.
    """

    def __init__(
        self,
        records: Iterable[Record],
        fenced: Lives | None = None,
        faults: Iterable[Fault] = (),
        killed: Deaths | None = None,
    ) -> None:
        self.records = list(records)
        self._fenced = fenced or {}
        self._killed = killed or {}
        self._dangers = Dangers(self.records, list(faults), self._fenced, self._killed)
        self.violations: list[Violation] = []
        self.lost: list[Record] = []
        self.late: list[Record] = []
        self._offered: dict[tuple[str, int], Record] = {}
        for record in self.records:
            if record.what in OFFERS and record.n and not record.sender.startswith(TIMED):
                self._offered[record.sender, record.n] = record
        sent = [record for record in self._offered.values() if record.what == "sent"]
        self.sent, self.outside = len(sent), sum(not self._dangers.excuse(record) for record in sent)
        self._check_lives()
        self._check_epochs()
        self._check_order()
        self._check_accounts()
        self._check_requests_end()
        self._check_schedules()

    def _wrong(self, invariant: str, record: Record, what: str, *before: Record | None) -> None:
        proof = (*(each for each in before if each is not None), record)
        self.violations.append(Violation(invariant, what, proof))

    def _is_fenced(self, record: Record, at: float) -> bool:
        return self._fenced.get((record.host, record.epoch), 1e18) <= at + SLACK

    def _is_killed(self, record: Record, at: float) -> bool:
        return self._killed.get(record.pid, 1e18) <= at

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
                    or self._is_killed(before, record.t)
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
            if self._is_killed(other, record.t):
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
                elif key not in seen and key in self._offered and self._dangers.excuse(self._offered[key]):
                    self.late.append(record)
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
        dead: dict[tuple[str, int], list[Record]] = defaultdict(list)
        offered = self._offered
        replied: dict[tuple[str, int], Record] = {}
        last: dict[str, Record] = {}  # what each sender has offered
        for record in self.records:
            key = (record.sender, record.n)
            if not record.n or record.sender.startswith(TIMED):
                continue
            if record.what == "begin":
                handled.setdefault(key, record)
            elif record.what == "dead":
                dead[key].append(record)
            elif record.what in OFFERS:
                last[record.sender] = record
            elif record.what == "replied":
                if key in replied:
                    self._wrong("replies", record, "a second reply", replied[key])
                replied[key] = record
                by = handled.get(key)
                if by is None or by.act != record.note or by.ref != record.ref:
                    self._wrong("replies", record, f"another's reply; it was handled by {by and by.act}", by)
        for key, record in offered.items():
            if record.what == "sent" and key not in handled and key not in dead:
                if self._dangers.excuse(record):
                    self.lost.append(record)
                else:
                    self._wrong("accounts", record, "lost without a word")
            elif record.what == "refused" and key in handled:
                self._wrong("accounts", handled[key], "refused, and handled all the same", record)
        for key, record in handled.items():
            if key not in offered and not self._was_cut_short(last.get(record.sender), record.n):
                self._wrong("accounts", record, "nobody has sent this")
            if key in dead:
                self._wrong("accounts", record, "handled, and a dead letter as well", *dead[key][:TOLD])
        for key, letters in dead.items():
            if len(letters) > 1:
                what = f"{len(letters)} dead letters for {key}"
                self._wrong("accounts", letters[-1], what, offered.get(key), *letters[:-1][:TOLD])

    def _was_cut_short(self, last: Record | None, number: int) -> bool:
        """Tell whether a sender's process was killed before it could write down that it had sent the next message."""
        return last is not None and last.pid in self._killed and number == last.n + 1

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

    # -- excuses ---------------------------------------------------------------------------------------------------

    def limit_excuses(self) -> None:
        """Find that faults have cost too much, or that too little was sent which none excuses.

        For runs of faults one after the other, in which most messages have a fault somewhere on their way: else a
        library that loses every tenth message, whenever it may, would pass.
        """
        most = int(SHARE * self.sent) + FEW
        if len(self.lost) + len(self.late) > most:
            what = f"{len(self.lost)} of {self.sent} messages were lost and {len(self.late)} late; faults excuse {most}"
            self.violations.append(Violation("losses", what, (*self.lost[:TOLD], *self.late[:TOLD])))
        least = int(LEAST * self.sent)
        if self.outside < least:
            what = f"only {self.outside} of {self.sent} messages had no fault on their way, {least} are the least"
            self.violations.append(Violation("events", f"{what}: that proves nothing", self.last_states()))

    # -- what happened -----------------------------------------------------------------------------------------------

    def of(self, *what: str, **fields: Any) -> list[Record]:
        """Return the records of these kinds that have these values."""
        return [
            record
            for record in self.records
            if record.what in what and all(getattr(record, name) == value for name, value in fields.items())
        ]

    def last_states(self) -> tuple[Record, ...]:
        """Return what was written last about the state of each host."""
        last = {record.host: record for record in self.of("state")}
        return tuple(sorted(last.values(), key=lambda record: record.t))

    def acquit(self, at_least: int) -> None:
        """Fail unless there is nothing wrong and enough has happened for that to mean something."""
        assert not self.violations, "\n".join([f"{len(self.violations)} violations", *map(str, self.violations[:20])])
        begun = len(self.of("begin"))
        assert begun >= at_least, f"only {begun} messages were handled: that proves nothing"
