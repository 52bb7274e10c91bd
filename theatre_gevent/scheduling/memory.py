"""The schedules of a host without a database: in memory, on one timer.

Single messages stand in a heap by monotonic time, recurring ones in another by wall time. Adding, cancelling and
firing cost the logarithm of how many there are, and a tick looks at what is due and nothing else; cancelled ones
are left in the heap until they make up half of it. The wall clock can be set, so while anything recurs it is looked at
every `schedule_recovery_interval` seconds.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from gevent import Greenlet

from ..core.native import get_ident
from ..errors import HostDraining
from ..logic.bodies import copy_body, pack_body
from ..logic.schedules import (
    Decision,
    Firing,
    Schedule,
    check_delay,
    check_id,
    check_misfire,
    decide,
    micros,
    moment,
    stepped_back,
)
from .cron import Cron
from .delivery import Delivery, Due, Entry
from .listing import in_order

if TYPE_CHECKING:
    from ..clock import Timer
    from ..core.dispatcher import Dispatcher
    from ..messages import Ref

log = logging.getLogger("theatre_gevent.schedules")

PREFIX = "mem-"
"""What the ids of these schedules begin with, so that none is ever that of a schedule in a database."""

_SLICE = 256
"""Due messages delivered before the hub looks at sockets and timers again."""

_RETRY = 0.1
"""Seconds after which what could not be delivered is tried again."""

_MOST_DEAD = 1000


class MemorySchedules:
    """Implements `theatre_gevent.scheduling.listing.ListedSchedules`.

    Args:
        dispatcher: Takes the messages.
        look_every: Seconds between two looks at the wall clock while there are recurring schedules.
    """

    shared = False

    def __init__(self, dispatcher: Dispatcher, look_every: float) -> None:
        self._dispatcher = dispatcher
        self._clock = dispatcher.clock
        self._look_every = look_every
        self._delivery = Delivery(dispatcher, self._delivered, self._arm)
        self._entries: dict[str, Entry] = {}
        self._delays: list[tuple[float, int, Entry]] = []
        self._crons: list[tuple[float, int, Entry]] = []
        self._due: deque[Due] = deque()
        self._late: dict[str, Entry] = {}
        """Single ones that were due and are not delivered yet, the oldest first."""
        self._life = f"{PREFIX}{token_hex(8)}-"
        self._number = 0
        self._dead = 0
        self._offset = 0.0
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._pumping = False
        self._running = True
        self._cron = lru_cache(maxsize=1024)(Cron)  # not shared between hosts: it remembers where it is
        self._fired = 0
        self._cancelled = 0

    # -- verbs -------------------------------------------------------------------------------------------------

    def send_after(self, ref: Ref, body: object, delay: float, sender: Ref | None = None) -> str:
        """Send a message later."""
        delay = check_delay(delay)
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            args = (ref, body, delay, sender)
            return dispatcher.threads.call(self.send_after, args, 1.0)  # type: ignore[no-any-return]
        entry = Entry(ref, self._check(ref, body), sender, dispatcher.monotonic() + delay)
        self._add(entry, self._delays)
        if self._timer is None or entry.due < self._timer_due:
            self._arm()
        return entry.id

    def send_cron(
        self, ref: Ref, body: object, expression: str, tz: str | None, misfire: str, sender: Ref | None = None
    ) -> str:
        """Send a message again and again."""
        check_misfire(misfire)
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            args = (ref, body, expression, tz, misfire, sender)
            return dispatcher.threads.call(self.send_cron, args, 1.0)  # type: ignore[no-any-return]
        cron = (
            self._cron(expression, tz)
            if isinstance(expression, str) and isinstance(tz, str | None)
            else Cron(expression, tz)
        )
        body = self._check(ref, body)
        self._watch_clock()
        entry = Entry(ref, body, sender, 0.0)
        entry.cron, entry.misfire = cron, misfire
        following = cron.next_after(self._clock.time())
        assert following is not None
        entry.due = following
        self._add(entry, self._crons)
        self._arm()
        return entry.id

    def cancel(self, schedule_id: str) -> bool:
        """Forget a schedule; tells whether it was in time."""
        check_id(schedule_id)
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            return bool(dispatcher.threads.call(self.cancel, (schedule_id,), 1.0))
        entry = self._entries.get(schedule_id)
        if entry is None or (entry.in_line and entry.cron is None):
            return False
        del self._entries[schedule_id]
        entry.cancelled = True
        if not entry.in_line:
            entry.body = None
        self._late.pop(schedule_id, None)
        self._cancelled += 1
        self._dead += 1
        if self._dead > _MOST_DEAD and 2 * self._dead > len(self._delays) + len(self._crons):
            self._compact()
        return True

    def pending(self) -> list[Schedule]:
        """Return the schedules that are pending."""
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            return dispatcher.threads.call(self.pending, (), 5.0)  # type: ignore[no-any-return]
        ahead = self._clock.time() - dispatcher.monotonic()
        return [self._show(entry, ahead) for entry in self._entries.values()]

    def first(self, limit: int) -> tuple[list[Schedule], int]:
        """Return the schedules that are due first, and how many there are."""
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            return dispatcher.threads.call(self.first, (limit,), 5.0)  # type: ignore[no-any-return]
        ahead = self._clock.time() - dispatcher.monotonic()
        single = chain(islice(self._late.values(), limit), self._first(self._delays, limit))
        found = [(entry.due + ahead, entry) for entry in single]
        found += [(entry.due, entry) for entry in self._first(self._crons, limit)]
        found.sort(key=lambda item: item[0])
        return [self._show(entry, ahead) for _, entry in found[:limit]], len(self._entries)

    def _first(self, heap: list[tuple[float, int, Entry]], limit: int) -> list[Entry]:
        found: list[Entry] = []
        for looked, (_, _, entry) in enumerate(in_order(heap)):
            if len(found) == limit:
                break
            if looked > limit + _MOST_DEAD:  # mostly cancelled ones: without them it is done
                self._compact()
                return self._first(heap, limit)
            if not entry.cancelled:
                found.append(entry)
        return found

    def _show(self, entry: Entry, ahead: float) -> Schedule:
        cron = entry.cron
        due = moment(entry.due if cron else entry.due + ahead)
        expression, tz = (cron.expression, cron.tz or "UTC") if cron else (None, None)
        return Schedule(entry.id, entry.ref, entry.body, due, expression, tz, entry.misfire, entry.sender)

    def _check(self, ref: Ref, body: object) -> Any:
        """See to it that the message can be sent, as far as that can be told now; returns the body to keep."""
        dispatcher = self._dispatcher
        dispatcher.backpressure.check_running()
        router, registry = dispatcher.router, dispatcher.registry
        if router is not None and router.is_elsewhere(registry.check(ref)):
            pack_body(body)
        else:
            registry.type_of(ref)
        return copy_body(body) if dispatcher.options.serialize_local else body

    def _add(self, entry: Entry, heap: list[tuple[float, int, Entry]]) -> None:
        self._push(entry, heap)
        entry.id = f"{self._life}{self._number:x}"
        self._entries[entry.id] = entry

    def _push(self, entry: Entry, heap: list[tuple[float, int, Entry]]) -> None:
        self._number += 1  # those due at the same time are fired in the order in which they were made
        heappush(heap, (entry.due, self._number, entry))

    # -- with the host -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Nothing is pending yet."""

    def pause(self) -> None:
        """Fire nothing: the host freezes."""
        self._running = self._delivery.open = False
        self._disarm()

    def resume(self) -> None:
        """Go on, with what was missed first."""
        self._running = self._delivery.open = True
        self._delivery.retry()
        self._arm()

    def stop(self) -> None:
        """Fire nothing any more. What was due is a dead letter; the rest is lost, for it is in memory alone."""
        self.pause()
        self._delivery.drop(HostDraining("the host is stopping"))
        while self._due:
            self._delivery.keep(self._due.popleft())
        if self._entries:
            log.info("%d schedules were pending and end with their host", len(self._entries))
        for heap in (self._delays, self._crons):
            heap.clear()
        self._entries.clear()
        self._late.clear()

    def finish(self, timeout: float) -> None:
        """Nothing is left to wait for."""

    def abandon(self) -> None:
        """In a forked child: the schedules are the parent's."""
        self.pause()

    def counters(self) -> dict[str, int]:
        """Return what `METRICS` calls the counters of schedules."""
        return {
            "schedules_pending": len(self._entries),
            "schedules_fired": self._fired,
            "schedules_cancelled": self._cancelled,
            "schedules_recovered": 0,
            "schedules_lag_ms": int(1000 * self._lag()),
        }

    def _lag(self) -> float:
        """Return by how much the oldest due message is late."""
        now = self._dispatcher.monotonic()
        since = [due.since for due in (*self._delivery.waiting(), *self._due) if not due.entry.cancelled]
        self._prune()
        if self._delays:
            since.append(self._delays[0][0])
        if self._crons:
            since.append(now - self._clock.time() + self._crons[0][0])
        return max(0.0, now - min(since, default=now))

    # -- due ---------------------------------------------------------------------------------------------------

    def _prune(self) -> None:
        for heap in (self._delays, self._crons):
            while heap and heap[0][2].cancelled:
                heappop(heap)
                self._dead = max(0, self._dead - 1)

    def _compact(self) -> None:
        for heap in (self._delays, self._crons):
            heap[:] = [item for item in heap if not item[2].cancelled]
            heapify(heap)
        self._dead = 0

    def _watch_clock(self) -> None:
        """Look whether the wall clock was set back by hours: due times are then counted from the new time."""
        wall = self._clock.time()
        offset = wall - self._dispatcher.monotonic()
        if self._crons and stepped_back(offset, self._offset):
            log.warning("the wall clock was set back by %.0f s: due times are counted anew", self._offset - offset)
            entries = [entry for _, _, entry in self._crons if not entry.cancelled]
            self._crons.clear()
            for entry in entries:
                following = entry.cron.next_after(wall)
                entry.due = entry.due if following is None else following
                self._push(entry, self._crons)
        self._offset = offset

    def _due_in(self) -> float | None:
        """Return in how many seconds there is something to do, None if nothing is pending."""
        self._prune()
        if self._due:
            return 0.0
        found = []
        if self._delays:
            found.append(self._delays[0][0] - self._dispatcher.monotonic())
        if self._crons:
            found.append(min(self._look_every, self._crons[0][0] - self._clock.time()))
        if self._delivery.stalled:
            found.append(_RETRY)
        return max(0.0, min(found)) if found else None

    def _arm(self) -> None:
        if self._pumping or not self._running:
            return
        seconds = self._due_in()
        if seconds is None:
            self._disarm()
            return
        due = self._dispatcher.monotonic() + seconds
        if self._timer is not None:
            if self._timer_due <= due:
                return  # it looks again then
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._clock.call_later(seconds, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """In the hub: have a greenlet deliver what is due, since that may have to wait for room in the host."""
        self._timer = None
        if not self._running or self._pumping:
            return
        self._delivery.retry()
        if self._crons:
            self._watch_clock()
        if self._is_due():
            self._pumping = True
            Greenlet.spawn(self._pump)
        else:
            self._arm()

    def _is_due(self) -> bool:
        self._prune()
        return bool(
            self._due
            or (self._delays and self._delays[0][0] <= self._dispatcher.monotonic())
            or (self._crons and self._crons[0][0] <= self._clock.time())
        )

    def _pump(self) -> None:
        try:
            for _ in range(_SLICE):
                if not self._running:
                    break
                due = self._take()
                if due is None:
                    break
                self._delivery.deliver(due)
        except Exception:
            log.exception("due messages could not be delivered")
        finally:
            self._pumping = False
            self._arm()

    def _take(self) -> Due | None:
        """Return the next message that is due."""
        if self._due:
            return self._due.popleft()
        now, wall = self._dispatcher.monotonic(), self._clock.time()
        delays = self._delays
        while delays and delays[0][0] <= now:
            entry = heappop(delays)[2]
            if not entry.cancelled:
                self._late[entry.id] = entry
                firing = Firing(entry.id, micros(wall - (now - entry.due)))
                return Due(entry, firing, entry.due)
        while self._crons and self._crons[0][0] <= wall:
            entry = heappop(self._crons)[2]
            if not entry.cancelled:
                self._recur(entry, now, wall)
                if self._due:
                    return self._due.popleft()
        return None

    def _recur(self, entry: Entry, now: float, wall: float) -> None:
        cron, misfire = entry.cron, entry.misfire
        assert misfire is not None
        decision: Decision = decide(cron.next_after, int(entry.due), wall, misfire)
        for due in decision.fire:
            self._due.append(Due(entry, Firing(entry.id, micros(due)), now - (wall - due)))
        if decision.next_due is None:
            del self._entries[entry.id]
        else:
            entry.due = decision.next_due
            self._push(entry, self._crons)

    def _delivered(self, due: Due) -> None:
        self._fired += 1
        if due.entry.cron is None:
            self._entries.pop(due.entry.id, None)
            self._late.pop(due.entry.id, None)
