"""Which messages a fault may have cost: of these alone some may be missing, or late."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tests.chaos.witness import Record

AROUND = 8.0
"""Seconds before and after a message was under way in which the hosts that had its actor count as those that it went
to."""
PATIENCE = 3.0
"""Seconds that a message may wait for a claim or a connection until it is in an inbox: `request_timeout`."""
HUNG = 0.3
"""Handlers of an actor, one after the other, that take so many seconds have its messages wait in the inbox."""
GAP = 0.05
"""Seconds between two handlers of an actor that come one after the other."""

Lives = Mapping[tuple[str, int], float]
"""When lives of hosts were fenced, in seconds of the boot-time clock."""
Deaths = Mapping[int, float]
"""When processes were killed, likewise: the last time at which each is known to have lived."""
Span = tuple[float, float]


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

    def excuses(self, sent: Record, owners: set[str], under_way: float = 0.0) -> bool:
        """Tell whether a message may be lost that one of `owners` should have got, and that waited until then."""
        if self.since > max(sent.t, under_way) or sent.t > self.until:
            return False
        if len(self.hosts) < 2:
            return not self.hosts or self.hosts[0] == sent.host or self.hosts[0] in owners
        one, other = self.hosts
        return (sent.host == one and other in owners) or (sent.host == other and one in owners)


class Dangers:
    """Tells of each message whether a fault was on its way.

    Args:
        records: In the order of the file.
        faults: When messages may have been lost.
        fenced: The lives that are over, and since when.
        killed: The processes that were killed, and when.
    """

    def __init__(self, records: Sequence[Record], faults: Sequence[Fault], fenced: Lives, killed: Deaths) -> None:
        self._faults = faults
        self._had: dict[str, list[tuple[float, str]]] = defaultdict(list)  # who had each actor, and when
        for record in records:
            # A host that took itself for the owner has claimed the actor, even if it did not come to handle anything.
            took = record.what == "sent" and record.note == record.host
            if took or record.what in ("init", "begin", "shutdown"):
                self._had[record.ref].append((record.t, record.host))
        for moments in self._had.values():
            moments.sort()
        self._hung = hung(records, fenced, killed)

    def excuse(self, offer: Record) -> bool:
        """Tell whether a fault was on the way of a message."""
        # The windows of faults begin earlier than the faults, by as much as it takes a message to be in an inbox. Who
        # is in one already, behind a handler that hangs, stays in danger until that ends, and not for so long after it.
        under_way = max(offer.t, self._waits_until(offer.ref, offer.t) - PATIENCE)
        had = self._had[offer.ref]
        first, last = bisect_left(had, (offer.t - AROUND, "")), bisect_left(had, (under_way + AROUND, ""))
        owners = {host for _, host in had[first:last]} | {offer.note}
        return any(fault.excuses(offer, owners, under_way) for fault in self._faults)

    def _waits_until(self, ref: str, t: float) -> float:
        """Return when the actor came to a message that was sent at `t`, at the latest, if it had to wait; else 0."""
        return max((end for begin, end in self._hung.get(ref, ()) if begin <= t + PATIENCE and end >= t), default=0.0)


def hung(records: Iterable[Record], fenced: Lives, killed: Deaths) -> dict[str, list[Span]]:
    """Return for each actor the times in which its handlers had messages wait."""
    at_work: dict[tuple[str, str, int], Record] = {}
    spans: dict[str, list[Span]] = defaultdict(list)
    now = 0.0

    def ended(begun: Record, at: float) -> None:
        # Whatever a handler does after its host's life, or its process', no message waits for it any more.
        end = min(at, fenced.get((begun.host, begun.epoch), at), killed.get(begun.pid, at))
        spans[begun.ref].append((begun.t, end))

    for record in records:
        now = max(now, record.t)
        key = record.act, record.sender, record.n
        if record.what == "begin":
            at_work[key] = record
        elif record.what == "end" and key in at_work:
            ended(at_work.pop(key), record.t)
    for begun in at_work.values():
        ended(begun, now)
    return {ref: [(begin, end) for begin, end in joined(parts) if end - begin >= HUNG] for ref, parts in spans.items()}


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, those that touch each other as one."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1] + GAP:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found
