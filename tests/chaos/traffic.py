"""Traffic between hosts, checked at both ends: nothing twice, nothing out of order, no reply to a wrong asker."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gevent

from theatre_gevent import Context, Host, Initialize, Ref, Shutdown, SystemClock, TheatreError

TYPE = "traffic"
PER_OWNER = 20

_now = SystemClock().monotonic


class Lane:
    """The traffic to the actors of one host.

    Attributes:
        answered: Requests with their reply.
        sent: Plain messages that were accepted.
        failures: Names of the errors of the others.
        overtime: Longest time in seconds that a failing call took beyond its timeout.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.sent = 0
        self.failures: Counter[str] = Counter()
        self.overtime = 0.0


class Traffic:
    """Makes messages to the actors of all hosts on one host, and receives those of the others.

    Args:
        host: Not started yet, or not in a cluster yet.
        timeout: Of the requests, in seconds.
        payload: Bytes in each message.
    """

    def __init__(self, host: Host, timeout: float = 0.5, payload: int = 0) -> None:
        self.host = host
        self.timeout = timeout
        self.payload = b"x" * payload
        self.lanes: dict[str, Lane] = {}
        self.violations: list[str] = []
        self.handled = 0
        self.kept: list[Context] = []
        self._last: dict[tuple[str, Ref], int] = {}
        self._life = f"{host.host_id}@{SystemClock().time()}"
        self._halted = False
        self._running: list[Any] = []
        host.register_actor(TYPE, lambda: self)

    def receive(self, ctx: Context) -> None:
        """Handle a message: a number to check and to answer, or "keep", which is not answered."""
        if isinstance(ctx.message, (Initialize, Shutdown)):
            return
        if ctx.message == "keep":
            self.kept.append(ctx)
            return
        if not isinstance(ctx.message, tuple):
            ctx.reply(ctx.message)
            return
        sender, number, _ = ctx.message
        last = self._last.get((sender, ctx.actor_ref), -1)
        if number <= last:
            self.violations.append(f"{ctx.actor_ref} got number {number} of {sender} after {last}")
        self._last[sender, ctx.actor_ref] = number
        self.handled += 1
        ctx.reply(ctx.message)

    def refs(self, owner: str) -> list[Ref]:
        """Return the refs of the actors at `owner` that get messages."""
        found: list[Ref] = []
        number = 0
        while len(found) < PER_OWNER:
            ref = Ref(TYPE, str(number))
            number += 1
            if self.host.ring_owner(ref) == owner:
                found.append(ref)
        return found

    def start(self, owners: list[str]) -> None:
        """Begin to send to the actors of `owners`."""
        for owner in owners:
            lane = self.lanes[owner] = Lane()
            self._running.append(gevent.spawn(self._run, lane, self.refs(owner), f"{self._life}>{owner}"))

    def halt(self) -> None:
        """Send no more; returns when all calls have."""
        self._halted = True
        gevent.joinall(self._running, raise_error=True)

    def _run(self, lane: Lane, refs: list[Ref], sender: str) -> None:
        number = 0
        while not self._halted:
            number += 1
            body = (sender, number, self.payload)
            ref = refs[number % len(refs)]
            began = _now()
            try:
                if number % 3:
                    self.host.send(ref, body)
                    lane.sent += 1
                elif self.host.request(ref, body, self.timeout) == body:
                    lane.answered += 1
                else:
                    self.violations.append(f"{sender} got another's reply to {number}")
            except TheatreError as error:
                lane.failures[type(error).__name__] += 1
                lane.overtime = max(lane.overtime, _now() - began - self.timeout)
                if "Inbox" in type(error).__name__:
                    gevent.sleep(0.01)
            gevent.sleep(0.001)

    def report(self) -> dict[str, Any]:
        """Return all of it, fit for JSON."""
        return {
            "violations": self.violations,
            "handled": self.handled,
            "metrics": self.host.metrics.snapshot(),
            "lanes": {
                owner: {"answered": lane.answered, "sent": lane.sent, "failures": dict(lane.failures)}
                for owner, lane in self.lanes.items()
            },
        }
