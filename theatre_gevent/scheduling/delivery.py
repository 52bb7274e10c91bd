"""How due messages reach their actors: without waiting for any one of them.

An actor whose inbox is full has one of them in its line and the others here behind it; another host that takes
nothing more has a greenlet that waits for it. Only for room in this host everything waits, as all senders do.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from gevent import Greenlet

from ..core.scheduled import make_scheduled
from ..errors import HostNotRunning, InboxFull, TheatreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..core.context import Context
    from ..core.dispatcher import Dispatcher
    from ..logic.schedules import Firing
    from ..messages import Ref

log = logging.getLogger("theatre_gevent.schedules")


class Entry:
    """A schedule in memory.

    Attributes:
        due: When it is due next: monotonic seconds for a single message, wall time for a recurring one.
        cancelled: True once it is to be fired no more.
        in_line: True while its message waits in the line of its actor's full inbox.
    """

    __slots__ = ("body", "cancelled", "cron", "due", "id", "in_line", "misfire", "ref", "sender")

    def __init__(self, ref: Ref, body: Any, sender: Ref | None, due: float) -> None:
        self.id = ""
        self.ref = ref
        self.body = body
        self.sender = sender
        self.due = due
        self.cron: Any = None
        self.misfire: str | None = None
        self.cancelled = False
        self.in_line = False


class Due:
    """One due time that is to be delivered; `since` is when it was due, in monotonic seconds."""

    __slots__ = ("entry", "firing", "since")

    def __init__(self, entry: Entry, firing: Firing, since: float) -> None:
        self.entry = entry
        self.firing = firing
        self.since = since


class Delivery:
    """Hands due messages to a dispatcher.

    Args:
        dispatcher: Who takes them.
        delivered: Called with each that an inbox, another host or the dead-letter handler has.
        retry: Called when something is to be tried again a little later: call `retry` then.

    Attributes:
        open: False while the host takes nothing.
    """

    def __init__(self, dispatcher: Dispatcher, delivered: Callable[[Due], None], retry: Callable[[], None]) -> None:
        self._dispatcher = dispatcher
        self._delivered = delivered
        self._retry = retry
        self._behind: dict[Ref, deque[Due]] = {}
        self._stalled: dict[Ref, None] = {}
        self._away: dict[Any, deque[Due]] = {}
        self._ended: TheatreError | None = None
        self.open = True

    def waiting(self) -> Iterator[Due]:
        """Go through what is due and not delivered; the oldest of each actor or host only."""
        for queue in (*self._behind.values(), *self._away.values()):
            if queue:
                yield queue[0]

    @property
    def stalled(self) -> bool:
        """True if something is to be tried again."""
        return bool(self._stalled)

    def deliver(self, due: Due) -> None:
        """Deliver a message, or keep it until that is possible. Waits for room in the host."""
        entry, dispatcher = due.entry, self._dispatcher
        if entry.cancelled:
            return
        behind = self._behind.get(entry.ref)
        if behind is not None:
            behind.append(due)
            return
        try:
            way = self._way(entry.ref)
        except TheatreError as error:
            self._bury(due, error)
            return
        if way is not None:
            self._send_away(way, due)
            return
        while dispatcher.accepted >= dispatcher.accept_limit:
            refusal = dispatcher.backpressure.make_room(entry.ref, dispatcher.request_timeout)
            if refusal is None:
                break
            if isinstance(refusal, HostNotRunning):
                self.keep(due)
                return
        behind = self._behind.get(entry.ref)
        if behind is not None:
            behind.append(due)
        else:
            self._hand_over(due)

    def retry(self) -> None:
        """Try what could not be delivered."""
        stalled, self._stalled = self._stalled, {}
        for ref in stalled:
            self._next(ref)

    def drop(self, error: TheatreError) -> None:
        """Make everything that is due a dead letter, also what comes back yet: the host stops.

        What is being sent to another host at this moment is left to its carrier, who gets to know whether it arrived.
        """
        self._ended = error
        left = [due for behind in self._behind.values() for due in behind]
        self._behind.clear()
        self._stalled.clear()
        for queue in self._away.values():
            under_way = queue.popleft() if queue and queue[0].entry.in_line else None
            left.extend(queue)
            queue.clear()
            if under_way is not None:
                queue.append(under_way)
        for due in left:
            if not due.entry.cancelled:
                self._bury(due, error)

    def _way(self, ref: Ref) -> Any:
        dispatcher = self._dispatcher
        if dispatcher.router is None or ref in dispatcher.actors:
            return None
        return dispatcher.router.way(ref)

    def _hand_over(self, due: Due) -> bool:
        """Give a message to its actor or its way; False if it stands in line, and what comes behind it must wait."""
        entry, dispatcher = due.entry, self._dispatcher
        if entry.cancelled:
            return True
        try:
            way = self._way(entry.ref)
            if way is not None:
                self._send_away(way, due)
                return True
            activation = dispatcher.registry.activate(entry.ref)
        except TheatreError as error:
            self._bury(due, error)
            return True
        ctx = make_scheduled(activation, entry.body, entry.sender, due.firing)
        if dispatcher.deliver(activation, ctx):
            self._delivered(due)
            return True
        self._behind.setdefault(entry.ref, deque())
        entry.in_line = True
        dispatcher.backpressure.park(activation, ctx, partial(self._parked, due))
        return False

    def _parked(self, due: Due, ctx: Context, error: TheatreError | None) -> None:
        """A message has left its actor's line: it is in the inbox, or has to be tried again."""
        entry = due.entry
        entry.in_line = False
        if error is None:
            self._delivered(due)
            self._next(entry.ref)
        else:
            self._dispatcher.registry.forget_unused(ctx._activation)
            self.keep(due)

    def _next(self, ref: Ref) -> None:
        """Deliver what stands behind, as far as it goes."""
        behind = self._behind.get(ref)
        if behind is None:
            return
        while behind:
            if not self.open:
                self._stalled[ref] = None
                return
            if not self._hand_over(behind.popleft()):
                return
        self._behind.pop(ref, None)

    def keep(self, due: Due) -> None:
        """Put a message back before those behind it, to be tried again."""
        if self._ended is not None:
            if not due.entry.cancelled:
                self._bury(due, self._ended)
            return
        ref = due.entry.ref
        self._behind.setdefault(ref, deque()).appendleft(due)
        self._stalled[ref] = None
        self._retry()

    def _send_away(self, way: Any, due: Due) -> None:
        queue = self._away.get(way)
        if queue is not None:
            queue.append(due)
            return
        self._away[way] = queue = deque((due,))
        Greenlet.spawn(self._carry, way, queue)

    def _carry(self, way: Any, queue: deque[Due]) -> None:
        """Send to another host what is due there, and wait while it takes nothing."""
        router = self._dispatcher.router
        assert router is not None
        while queue:
            due = queue[0]
            entry = due.entry
            if entry.cancelled:
                queue.popleft()
                continue
            if not self.open:
                break
            entry.in_line = True
            try:
                router.send(way, entry.ref, entry.body, entry.sender, due.firing)
            except InboxFull:
                break
            except TheatreError as error:
                self._bury(due, error)
            else:
                self._delivered(due)
            finally:
                entry.in_line = False
            if queue and queue[0] is due:  # else the host has stopped meanwhile
                queue.popleft()
        del self._away[way]
        while queue:  # the last first, since each is put before the others
            self.keep(queue.pop())

    def _bury(self, due: Due, error: TheatreError) -> None:
        entry, dispatcher = due.entry, self._dispatcher
        dispatcher.accepted += 1
        dispatcher.lifecycle.dead_letter(entry.ref, entry.body, entry.sender, f"a schedule's message: {error}", error)
        self._delivered(due)
