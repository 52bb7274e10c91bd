"""The schedules of a cluster with a database: rows there before the call returns, sent at least once.

Each host claims due rows, sends their messages, and confirms them once they have been handled; a claim is worth what
the life of its host is worth, so the rows of a host that dies are free again. The clock of the database says what is
due. A host sleeps until the next row is due that it knows of, at most `schedule_recovery_interval`.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING

from gevent import Greenlet
from gevent.event import Event
from msgspec.structs import replace

from ..core.native import get_ident
from ..errors import AnswerLost, DatabaseError
from ..logic.schedules import ONCE, Schedule, check_delay, check_id, check_misfire, decide
from .alarm import Alarm
from .carriers import CROWDED, HANDLED, UNTRIED, Carriers
from .confirming import Confirming
from .cron import Cron
from .lag import Lag
from .remote_clock import RemoteClock
from .rows import LISTED, Held, show
from .writing import Writing, check_can_wait, is_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.dispatcher import Dispatcher
    from ..logic.schedules import Row
    from ..messages import Ref
    from .store import ScheduleStore

log = logging.getLogger("theatre_gevent.schedules")

_BATCH = 500
"""Rows that one statement claims."""

_HELD = 20_000
"""Rows that one host has claimed at a time."""

_SHOWN = 10_000
"""Schedules that `pending` returns at most."""

_COUNTED = 100_000
"""Schedules that are counted at most."""

_LAST_WORDS = 2.0
"""Seconds that a stopping host waits for each of its last statements."""

_DOUBTFUL_LOOKS = 3
"""How often it is looked for what a claim whose answer was lost has claimed: it may happen late."""


class DurableSchedules:
    """Implements `theatre_gevent.scheduling.listing.ListedSchedules`.

    Args:
        dispatcher: Takes the messages.
        store: Keeps the rows.
        interval: Seconds between looks for rows of hosts that are gone.
    """

    shared = True

    def __init__(self, dispatcher: Dispatcher, store: ScheduleStore, interval: float) -> None:
        self._dispatcher = dispatcher
        self._clock = dispatcher.clock
        self._store = store
        self._interval = interval
        self._cron = lru_cache(maxsize=1024)(Cron)
        self._carriers = Carriers(dispatcher, self._settle)
        self._writing = Writing(dispatcher, store)
        self._confirming = Confirming(store, self._clock, self._confirmed)
        self._held: dict[tuple[str, int], Held] = {}
        self._settled = Event()
        self._alarm = Alarm(self._clock)
        self._lag = Lag()
        self._greenlet: Greenlet[..., None] | None = None
        self._theirs = RemoteClock(self._clock)
        self._sweep_at = 0.0
        self._doubtful = 0
        self._failures = 0
        self._is_new = True
        self._starved = False
        self._running = False
        self._stopped = False
        self._claiming = False
        self._pending = 0
        self._fired = self._cancelled = self._recovered = 0

    # -- verbs -------------------------------------------------------------------------------------------------

    def send_after(self, ref: Ref, body: object, delay: float, sender: Ref | None = None) -> str:
        """Send a message later."""
        delay = check_delay(delay)
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            args = (ref, body, delay, sender)
            return dispatcher.threads.call(self.send_after, args, self._patience)  # type: ignore[no-any-return]
        row = self._writing.row(ref, body, sender, int(delay * 1_000_000))
        return self._write(row, row.due_us)

    def send_cron(
        self, ref: Ref, body: object, expression: str, tz: str | None, misfire: str, sender: Ref | None = None
    ) -> str:
        """Send a message again and again."""
        check_misfire(misfire)
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            args = (ref, body, expression, tz, misfire, sender)
            return dispatcher.threads.call(self.send_cron, args, self._patience)  # type: ignore[no-any-return]
        cron = Cron(expression, tz)
        row = self._writing.row(ref, body, sender, 0)
        asked = self._clock.monotonic()
        now_us = self._store.now()
        self._theirs.hear(now_us, asked)
        following = cron.next_after(now_us / 1e6)
        assert following is not None
        due_us = following * 1_000_000
        return self._write(replace(row, due_us=due_us, expression=cron.expression, tz=cron.tz, misfire=misfire))

    def cancel(self, schedule_id: str) -> bool:
        """Forget a schedule, whichever host made it; tells whether it was in time."""
        check_id(schedule_id)
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            return bool(dispatcher.threads.call(self.cancel, (schedule_id,), self._patience))
        check_can_wait(dispatcher)
        if not is_id(schedule_id):
            return False
        in_time = self._store.cancel(schedule_id)
        self._cancelled += in_time
        return in_time

    def pending(self) -> list[Schedule]:
        """Return the schedules of the cluster: those that can't be sent first, then the next due ones."""
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            return dispatcher.threads.call(self.pending, (), self._patience)  # type: ignore[no-any-return]
        check_can_wait(dispatcher)
        return [show(row) for row in self._store.read(_SHOWN)]

    def first(self, limit: int) -> tuple[list[Schedule], int]:
        """Return some of the schedules of the cluster, in the same order, and how many there were lately."""
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread:
            return dispatcher.threads.call(self.first, (limit,), self._patience)  # type: ignore[no-any-return]
        check_can_wait(dispatcher)
        found = [show(row) for row in self._store.read(limit, LISTED)]
        return found, len(found) if len(found) < limit else max(self._pending, len(found))

    @property
    def _patience(self) -> float:
        return 2 * self._dispatcher.request_timeout

    def _write(self, row: Row, delay_us: int | None = None) -> str:
        asked = self._clock.monotonic()
        due_us = self._writing.write(row)
        if due_us is None:
            self._alarm.expect(0.0)
            return row.id
        if delay_us is not None:
            self._theirs.hear(due_us - delay_us, asked)
        self._lag.write(due_us)
        self._alarm.expect(self._theirs.local(due_us))
        return row.id

    # -- with the host -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Claim what is due from now on."""
        self._running = self._claiming = True
        self._greenlet = Greenlet.spawn(self._run)

    def pause(self) -> None:
        """Send nothing: the host freezes. What has not been sent goes back to the database."""
        self._running = self._carriers.open = False
        self._carriers.empty()

    def resume(self) -> None:
        """Go on."""
        if not self._stopped:
            self._running = self._carriers.open = True
            self._sweep_at = 0.0
            self._alarm.expect(0.0)

    def stop(self) -> None:
        """Claim nothing any more: the host stops."""
        self._stopped = True
        self._running = False
        self._lag.close()
        self._carriers.empty()
        self._alarm.expect(0.0)

    def finish(self, timeout: float) -> None:
        """Wait until what has been sent is handled and confirmed; the rest goes back to the database."""
        now = self._clock.monotonic()
        self._wait_while(lambda: self._claiming, now + _LAST_WORDS)  # what it claims yet goes back as well
        self._wait_while(lambda: bool(self._held), now + timeout)
        self._carriers.open = False
        self._carriers.kill()
        self._wait_while(lambda: bool(self._held), self._clock.monotonic() + _LAST_WORDS)
        self._confirming.stop()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self._store.close()

    def abandon(self) -> None:
        """In a forked child: the connections are the parent's, and a byte written to one would harm it."""
        self._stopped = True
        self._running = self._carriers.open = False
        self._confirming.abandon()
        self._store.abandon()

    def _wait_while(self, condition: Callable[[], bool], deadline: float) -> None:
        while condition() and (left := deadline - self._clock.monotonic()) > 0:
            self._settled.clear()
            timer = self._clock.call_later(left, self._settled.set)
            try:
                self._settled.wait()
            finally:
                timer.cancel()

    def counters(self) -> dict[str, int]:
        """Return what `METRICS` calls the counters of schedules."""
        now = self._theirs.now()
        late = 0.0 if now is None else self._lag.seconds(now, (due for _, due in self._held))
        return {
            "schedules_pending": self._pending,
            "schedules_fired": self._fired,
            "schedules_cancelled": self._cancelled,
            "schedules_recovered": self._recovered,
            "schedules_lag_ms": round(1000 * late),
        }

    # -- claiming ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Body of the greenlet that claims."""
        try:
            while not self._stopped:
                self._alarm.begin()
                try:
                    wait = self._step() if self._running else self._watch()
                    self._failures = 0
                except DatabaseError as error:
                    wait = self._failed(error)
                except Exception:
                    log.exception("due schedules could not be looked for")
                    wait = 1.0
                self._alarm.wait(wait)
        finally:
            self._claiming = False
            self._settled.set()

    def _step(self) -> float:
        """Claim what is due; returns in how many seconds there is more to do."""
        now = self._clock.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + self._interval  # before it, since `resume` may ask for another one meanwhile
            try:
                self._sweep()
            except Exception:
                self._sweep_at = 0.0
                raise
        room = min(_BATCH, _HELD - len(self._held))
        self._starved = room < _BATCH or self._carriers.full
        if self._starved:
            return self._interval  # `_confirmed` tells when there is room
        self._lag.begin()
        asked = self._clock.monotonic()
        claim = self._store.claim(room)
        if claim is None:
            return min(1.0, self._interval)  # no life, no claim
        self._theirs.hear(claim.now_us, asked)
        full = len(claim.rows) == room
        self._lag.claimed(claim, all_due=not full)
        self._take(claim.rows, claim.now_us / 1e6)
        if full:
            return 0.0
        due = self._sweep_at if claim.next_us is None else min(self._sweep_at, self._theirs.local(claim.next_us))
        return max(0.0, due - self._clock.monotonic())

    def _watch(self) -> float:
        """Claim nothing, for the host is frozen, but see how late it gets; returns in how many seconds again."""
        self._count()
        return min(1.0, self._interval)  # soon, since other hosts may send what is due

    def _count(self) -> None:
        self._lag.begin()
        asked = self._clock.monotonic()
        tally = self._store.tally(_COUNTED)
        self._theirs.hear(tally.now_us, asked)
        self._pending = tally.total
        self._lag.counted(tally)

    def _failed(self, error: DatabaseError) -> float:
        self._failures += 1
        if self._failures == 1:
            log.warning("due schedules wait for the database: %s", error)
        if isinstance(error, AnswerLost):
            self._doubtful = _DOUBTFUL_LOOKS
            self._sweep_at = 0.0
        return min(2.0, 0.05 * 2.0 ** min(self._failures, 10))

    def _sweep(self) -> None:
        """Free what hosts have claimed that are gone, and what this one has claimed without getting to know."""
        store = self._store
        if self._is_new:
            store.unpark()
            self._is_new = False
        freed = store.recover()
        self._recovered += freed
        if freed:
            log.info("%d due schedules of hosts that are gone are free again", freed)
        self._count()
        if self._doubtful:
            self._doubtful -= 1
            epoch, claimed = store.claimed()
            lost = [(key, due, at_us, 0) for key, due, at_us in claimed if (key, due) not in self._held]
            if lost:
                store.give_back(epoch, lost, untried=False)

    # -- what was claimed --------------------------------------------------------------------------------------

    def _take(self, rows: list[Row], now: float) -> None:
        """Send claimed rows, of recurring schedules those due times that their misfire policies leave."""
        found = deque(map(Held, rows))
        self._held.update((held.key, held) for held in found)
        moved: deque[tuple[Held, int]] = deque()
        try:
            while found:
                held = found[0]
                due_us = self._choose(held, now)
                if due_us == held.row.due_us:
                    self._carriers.carry(held)
                elif due_us is not None:
                    moved.append((held, due_us))
                found.popleft()
            self._move(moved)
        except Exception:  # whatever it is, nobody else would ever give these back
            for held in (*found, *(held for held, _ in moved)):
                self._settle(held, UNTRIED, CROWDED)
            raise

    def _choose(self, held: Held, now: float) -> int | None:
        """Return for which due time a claimed row is to be sent, None if it is not to be sent now."""
        row = held.row
        try:
            held.read(self._cron)
            if held.cron is None or row.attempt > 1:
                return row.due_us
            decision = decide(held.cron.next_after, row.due_us // 1_000_000, now, row.misfire or ONCE, limit=1)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong with this row alone: put it aside
            log.error("schedule %s for %s/%s can't be sent: %s", row.id, row.actor_type, row.actor_id, error)
            self._confirming.park(held, str(error) or type(error).__name__)
            return None
        if not decision.fire:
            self._done(held, decision.next_due)
            return None
        return decision.fire[0] * 1_000_000

    def _move(self, moved: deque[tuple[Held, int]]) -> None:
        """Send rows for other due times than theirs. Written down before, so that another attempt is for the same."""
        if not moved:
            return
        epoch = moved[0][0].row.epoch
        assert epoch is not None
        self._store.adjust(epoch, [(*held.key, due_us) for held, due_us in moved])
        while moved:
            held, due_us = moved.popleft()
            del self._held[held.key]
            held.row = replace(held.row, due_us=due_us)
            self._held[held.key] = held
            self._carriers.carry(held)

    def _settle(self, held: Held, outcome: int, again: float) -> None:
        """A carrier knows what became of a row; if nobody has got it, it is tried again in so many seconds."""
        if outcome == HANDLED:
            self._fired += 1
            self._done(held, None if held.cron is None else held.cron.next_after(held.row.due_us / 1e6))
            return
        untried = outcome == UNTRIED
        wait = min(60.0, 0.5 * 2.0 ** min(10, held.row.attempt))
        if untried:
            wait = again if self._carriers.open else 0.0
        held.again = self._clock.monotonic() + wait
        self._confirming.give_back(held, wait, untried=untried)

    def _done(self, held: Held, following: int | None) -> None:
        """A due time is over; `following` is the next one."""
        if following is not None:
            held.again = self._theirs.local(following * 1_000_000)
        self._confirming.done(held, None if following is None else following * 1_000_000)

    def _confirmed(self, held: Held) -> None:
        """The database knows what became of a row."""
        if self._held.get(held.key) is held:  # else it has been claimed anew, before the answer came
            del self._held[held.key]
        self._settled.set()
        if held.again is not None:
            self._alarm.expect(held.again)
        if self._starved and len(self._held) <= _HELD - 2 * _BATCH and not self._carriers.full:
            self._starved = False
            self._alarm.expect(0.0)
