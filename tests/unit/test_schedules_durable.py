"""Schedules that are rows of a table: one in memory, under a virtual clock, and slow where a test says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import gevent
import pytest
from gevent.event import Event
from msgspec.structs import replace

from theatre_gevent import AnswerLost, Context, DatabaseUnavailable, Host, Initialize, Ref, Shutdown
from theatre_gevent.logic.schedules import Claim, Row, Tally
from theatre_gevent.scheduling import carriers, durable
from theatre_gevent.scheduling.durable import DurableSchedules
from theatre_gevent.scheduling.rows import Held
from theatre_gevent.testing import VirtualClock

A, B = Ref("a", "1"), Ref("a", "2")
HOUR = 3600 * 1_000_000
EPOCH = 7


class Table:
    """A `ScheduleStore` in memory.

    Attributes:
        held: Calls by name whose answers wait, once each, for an event.
        failing: Calls by name that raise, once each, before they do anything.
        lost: Calls by name whose answers are lost, once each: what they ask for has been done.
        returned: When rows were given back.
        away: While it is true, nothing is done and all calls raise.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.rows: dict[str, Row] = {}
        self.at: dict[str, int] = {}
        self.held: dict[str, Event] = {}
        self.failing: dict[str, Exception] = {}
        self.lost: set[str] = set()
        self.returned: list[float] = []
        self.away = False

    def hold(self, name: str) -> Event:
        self.held[name] = event = Event()
        return event

    def _begin(self, name: str) -> None:
        if self.away:
            raise DatabaseUnavailable("away")
        if name in self.failing:
            raise self.failing.pop(name)

    def _end(self, name: str) -> None:
        if name in self.held:
            self.held.pop(name).wait()
        if name in self.lost:
            self.lost.discard(name)
            raise AnswerLost("lost")

    def _change(self, key: str, old_us: int, **changes: Any) -> None:
        row = self.rows.get(key)
        if row is not None and row.due_us == old_us:
            self.rows[key] = replace(row, **changes)

    def now(self) -> int:
        return int(self._clock.time() * 1_000_000)

    def problem(self, ref: Ref) -> str | None:
        return None

    def insert(self, rows: Sequence[Row]) -> dict[str, int]:
        self._begin("insert")
        dues = {}
        for row in rows:
            dues[row.id] = self.at[row.id] = row.due_us + (self.now() if row.expression is None else 0)
            self.rows[row.id] = replace(row, due_us=dues[row.id])
        self._end("insert")
        return dues

    def claim(self, at_most: int) -> Claim | None:
        self._begin("claim")
        now = self.now()
        waiting = sorted(
            ((self.at[key], key) for key, row in self.rows.items() if row.epoch is None and row.error is None),
            key=lambda item: item[0],
        )
        for key in (due := [key for at, key in waiting if at <= now][:at_most]):
            row = self.rows[key]
            self.rows[key] = replace(row, host_id="x", epoch=EPOCH, attempt=row.attempt + 1, at_us=self.at[key])
        rows = [self.rows[key] for key in due]
        next_us = next((at for at, _ in waiting if at > now), None)
        self._end("claim")
        return Claim(now, next_us, rows)

    def adjust(self, epoch: int, changes: Sequence[tuple[str, int, int]]) -> None:
        self._begin("adjust")
        for key, old, new in changes:
            self._change(key, old, due_us=new)
        self._end("adjust")

    def done(self, handled: Sequence[tuple[str, int, int | None]]) -> None:
        self._begin("done")
        for key, due_us, following in handled:
            if following is not None:
                self.at[key] = following
                self._change(key, due_us, due_us=following, attempt=0, host_id=None, epoch=None)
            elif key in self.rows and self.rows[key].due_us == due_us:
                del self.rows[key]
        self._end("done")

    def give_back(self, epoch: int, rows: Sequence[tuple[str, int, int, int]], *, untried: bool) -> None:
        self._begin("give back")
        self.returned += [self._clock.monotonic()] * len(rows)
        for key, due_us, at_us, wait in rows:
            if key in self.rows and self.rows[key].epoch == epoch and self.at[key] == at_us:
                self.at[key] = max(self.now() + wait, at_us + 1)
                attempt = self.rows[key].attempt - untried
                self._change(key, due_us, host_id=None, epoch=None, attempt=attempt)
        self._end("give back")

    def park(self, epoch: int, schedule_id: str, error: str) -> None:
        self.rows[schedule_id] = replace(self.rows[schedule_id], error=error, host_id=None, epoch=None)

    def unpark(self) -> int:
        return 0

    def recover(self) -> int:
        self._begin("recover")
        self._end("recover")
        return 0

    def claimed(self) -> tuple[int, list[tuple[str, int, int]]]:
        return EPOCH, [(row.id, row.due_us, row.at_us) for row in self.rows.values() if row.epoch == EPOCH]

    def tally(self, at_most: int) -> Tally:
        self._begin("tally")
        now = self.now()
        waiting = sorted(
            (self.at[key], row.due_us) for key, row in self.rows.items() if row.epoch is None and row.error is None
        )
        retried = [due for at, due in waiting if due <= now < at]
        self._end("tally")
        return Tally(now, len(self.rows), waiting[0][1] if waiting else None, min(retried, default=None))

    def cancel(self, schedule_id: str) -> bool:
        return self.rows.pop(schedule_id, None) is not None

    def read(self, at_most: int, largest: int = 0) -> list[Row]:
        return sorted(self.rows.values(), key=lambda row: (row.error is None, row.due_us))[:at_most]

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class Seen:
    """What the actors got, and when."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        self.came: list[tuple[float, Any]] = []
        self.stuck: Event | None = None
        """What actors wait for before they handle anything, but for `A`."""

    def receive(self, ctx: Context) -> None:
        if not isinstance(ctx.message, (Initialize, Shutdown)):
            if self.stuck is not None and ctx.actor_ref != A:
                self.stuck.wait()
            self.came.append((self._clock.monotonic() - self._start, ctx.message))

    def messages(self) -> list[Any]:
        return [message for _, message in self.came]


@pytest.fixture
def seen(host: Host, clock: VirtualClock) -> Seen:
    seen = Seen(clock)
    host.register_actor("a", seen.receive)
    return seen


@pytest.fixture
def table(clock: VirtualClock) -> Table:
    return Table(clock)


@pytest.fixture
def schedules(host: Host, clock: VirtualClock, seen: Seen, table: Table) -> Iterator[DurableSchedules]:
    """They look at the table each minute, and have just done so."""
    schedules = DurableSchedules(host._dispatcher, table, 60.0)
    schedules.start()
    clock.settle()
    yield schedules
    schedules.stop()
    schedules.finish(0.0)
    clock.settle()


def make_overdue(schedules: DurableSchedules, table: Table) -> str:
    """Make a recurring one that has been missed for hours: what is fired is written down before."""
    key = schedules.send_cron(A, "recurring", "0 * * * *", None, "once")
    row = table.rows[key]
    table.rows[key] = replace(row, due_us=row.due_us - 5 * HOUR)
    table.at[key] = 0
    return key


# -- when it looks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["claim", "adjust", "recover"])
def test_what_is_written_while_the_table_is_asked_is_not_overslept(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen, call: str
) -> None:
    make_overdue(schedules, table)
    if call == "recover":
        clock.advance(59)
    gate = table.hold(call)
    schedules.send_after(A, "first", 0)
    clock.advance(1)
    assert not table.held, "it is asked and has not answered"
    schedules.send_after(A, "second", 0)
    schedules.send_after(A, "third", 2)
    clock.settle()
    gate.set()
    clock.settle()
    assert sorted(seen.messages()) == ["first", "recurring", "second"]
    clock.advance(2)
    assert sorted(seen.messages()) == ["first", "recurring", "second", "third"]


def test_at_the_very_beginning_too(host: Host, clock: VirtualClock, table: Table, seen: Seen) -> None:
    """Before the first answer nobody knows the table's time."""
    schedules = DurableSchedules(host._dispatcher, table, 60.0)
    gate = table.hold("claim")
    schedules.start()
    clock.settle()
    schedules.send_after(A, "x", 0)
    gate.set()
    clock.settle()
    assert seen.messages() == ["x"]
    schedules.stop()
    schedules.finish(0.0)


@pytest.mark.parametrize("call", ["claim", "adjust"])
def test_a_slow_answer_does_not_add_to_the_wait(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen, call: str
) -> None:
    make_overdue(schedules, table)
    gate = table.hold(call)
    schedules.send_after(A, "later", 8)
    schedules.send_after(A, "first", 0)
    clock.advance(5)
    assert not table.held
    gate.set()
    clock.advance(10)
    assert [came for came in seen.came if came[1] == "later"] == [(8.0, "later")]


def test_resumed_while_it_sweeps_it_sweeps_again(
    clock: VirtualClock, schedules: DurableSchedules, table: Table
) -> None:
    """What the sweep has seen was of the time before."""
    gate = table.hold("recover")
    clock.advance(60)
    assert not table.held
    schedules.pause()
    schedules.resume()
    again = table.hold("recover")
    gate.set()
    clock.settle()
    assert not table.held
    again.set()
    clock.settle()


# -- rows that can't be sent -------------------------------------------------------------------------------------


@pytest.mark.parametrize("due_us", [-(1 << 62), -1, 250_000_000_000_000_001, (1 << 63) - 1])
@pytest.mark.parametrize("attempt", [0, 3])
@pytest.mark.parametrize("recurs", ["", "once", "all", "skip"])
def test_a_due_time_beyond_all_calendars_is_put_aside_and_blocks_nothing(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen, due_us: int, attempt: int, recurs: str
) -> None:
    bad = schedules.send_cron(A, "bad", "* * * * *", None, recurs) if recurs else schedules.send_after(A, "bad", 1)
    table.rows[bad] = replace(table.rows[bad], due_us=due_us, attempt=attempt)
    table.at[bad] = 0
    for number in range(5):
        schedules.send_after(A, number, 0)
    clock.advance(0)
    assert seen.messages() == list(range(5))
    row = table.rows.pop(bad)
    assert row.error is not None
    assert str(due_us) in row.error
    assert table.rows == {}
    assert not schedules._held
    assert schedules.counters()["schedules_lag_ms"] == 0


@pytest.mark.parametrize("error", [RuntimeError("a bug"), DatabaseUnavailable("away")])
def test_whatever_fails_what_was_claimed_is_given_back(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen, error: Exception
) -> None:
    for _ in range(3):
        make_overdue(schedules, table)
    table.failing["adjust"] = error
    schedules.send_after(A, "first", 0)
    clock.advance(0)
    assert seen.messages() == ["first"]
    assert not schedules._held
    assert {row.attempt for row in table.rows.values()} == {0}, "nobody has got them"
    clock.advance(3)
    assert seen.messages() == ["first"] + 3 * ["recurring"]


def test_a_row_that_nobody_foresaw_is_put_aside(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [schedules.send_after(A, number, 1) for number in range(4)]
    read = Held.read

    def fail(held: Held, cron: Any) -> None:
        if held.row.id == made[1]:
            raise ZeroDivisionError
        read(held, cron)

    monkeypatch.setattr(Held, "read", fail)
    clock.advance(1)
    assert seen.messages() == [0, 2, 3]
    assert [row.error for row in table.rows.values()] == ["ZeroDivisionError"]
    assert not schedules._held


# -- actors that take nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("actors", "each"), [(1, 500), (8, 50), (30, 3)])
def test_stuck_actors_hold_up_nobody_else(
    clock: VirtualClock,
    schedules: DurableSchedules,
    table: Table,
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    actors: int,
    each: int,
) -> None:
    """They have more that is due than a host holds, or fill more than half of the greenlets."""
    for module, sizes in (
        (carriers, {"PER_ACTOR": 4, "BEHIND": 30, "ALL_BEHIND": 100, "CARRIERS": 80, "SHARED": 40}),
        (durable, {"_BATCH": 10, "_HELD": 200}),
    ):
        for name, size in sizes.items():
            monkeypatch.setattr(module, name, size)
    seen.stuck = Event()
    for number in range(actors * each):
        schedules.send_after(Ref("a", f"stuck{number % actors}"), number, 0)
    clock.advance(2)
    assert seen.came == []
    for number in range(20):
        schedules.send_after(A, f"free {number}", 0)
        clock.advance(0)
    assert seen.messages() == [f"free {number}" for number in range(20)]
    assert len(schedules._held) <= 140
    clock.advance(200)
    seen.stuck.set()
    clock.advance(60)
    assert sorted(seen.messages()[20:]) == list(range(actors * each)), "each once"
    assert table.rows == {}
    assert schedules._carriers._waiting == 0


def test_what_went_back_is_tried_less_often_the_longer_its_actor_is_stuck(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "BEHIND", 5)
    seen.stuck = Event()
    for number in range(16 + 5 + 1):
        schedules.send_after(Ref("a", "stuck"), number, 0)
    clock.advance(200)
    gaps = [round(after - before) for before, after in pairwise(table.returned)]
    assert gaps == [1, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30]
    seen.stuck.set()
    clock.advance(30)
    assert sorted(seen.messages()) == list(range(22))


# -- how late it is ----------------------------------------------------------------------------------------------


def lag(schedules: DurableSchedules) -> float:
    return schedules.counters()["schedules_lag_ms"] / 1000


def test_while_the_database_is_away_what_is_due_gets_later(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen
) -> None:
    schedules.send_after(A, "first", 10)
    clock.advance(5)
    schedules.send_after(A, "second", 20)
    table.away = True
    clock.advance(5)
    assert lag(schedules) == 0
    for late in (1, 60, 600):
        clock.advance(late - lag(schedules))
        assert lag(schedules) == late
    table.away = False
    clock.advance(2)
    assert seen.messages() == ["first", "second"]
    assert lag(schedules) == 0


def test_a_host_that_has_never_heard_of_the_database_again_knows_how_late_it_is(
    host: Host, clock: VirtualClock, table: Table, seen: Seen
) -> None:
    schedules = DurableSchedules(host._dispatcher, table, 60.0)
    gate = table.hold("claim")
    schedules.start()
    clock.settle()
    schedules.send_after(A, "x", 10)
    table.away = True
    clock.advance(15)
    assert lag(schedules) == 5
    table.away = False
    gate.set()
    clock.advance(1)
    assert seen.messages() == ["x"]
    schedules.stop()
    schedules.finish(0.0)


def test_what_was_written_while_a_claim_was_under_way_gets_later_too(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen
) -> None:
    gate = table.hold("claim")
    schedules.send_after(A, "first", 0)
    clock.settle()
    schedules.send_after(A, "second", 3)
    table.away = True
    gate.set()
    clock.advance(10)
    assert seen.messages() == ["first"]
    assert lag(schedules) >= 7, "the first one is not confirmed"
    table.away = False
    clock.advance(3)
    assert seen.messages() == ["first", "second"]
    assert lag(schedules) == 0


def test_while_all_are_frozen_what_is_due_gets_later(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen
) -> None:
    schedules.send_after(A, "mine", 10)
    other = schedules.send_after(A, "somebody else's", 20)
    schedules.pause()
    clock.advance(15)
    assert (lag(schedules), seen.messages()) == (5, [])
    del table.rows[next(key for key in table.rows if key != other)]
    clock.advance(1)
    assert lag(schedules) == 0, "another host has sent it"
    clock.advance(10)
    assert lag(schedules) == 6
    schedules.resume()
    clock.settle()
    assert seen.messages() == ["somebody else's"]
    assert lag(schedules) == 0


def test_what_waits_for_another_attempt_is_late(
    clock: VirtualClock, schedules: DurableSchedules, table: Table, seen: Seen
) -> None:
    key = schedules.send_after(A, "x", 1)
    row = table.rows[key]
    table.rows[key] = replace(row, due_us=row.due_us - HOUR, attempt=1)
    table.at[key] = table.now() + 80_000_000
    clock.advance(61)
    assert lag(schedules) == 3660
    clock.advance(60)
    assert seen.messages() == ["x"]
    assert lag(schedules) == 0


def test_a_host_that_stops_leaves_what_is_late_to_others(
    clock: VirtualClock, schedules: DurableSchedules, table: Table
) -> None:
    schedules.send_after(A, "x", 10)
    schedules.stop()
    clock.advance(20)
    assert lag(schedules) == 0


# -- a row that is claimed again before this host knows that it was given back ----------------------------------------


def claim_and_pause(schedules: DurableSchedules, table: Table, clock: VirtualClock) -> str:
    """A row is claimed while the host freezes, and goes back before anybody has got it; then the host goes on."""
    claimed = table.hold("claim")
    key = schedules.send_after(B, "x", 0)
    clock.settle()
    assert table.rows[key].epoch == EPOCH
    schedules.pause()
    claimed.set()
    clock.settle()
    assert table.rows[key].epoch is None
    clock.advance(0.01)
    schedules.resume()
    clock.settle()
    assert table.rows[key].epoch == EPOCH, "claimed again, and being handled"
    return key


def test_a_late_answer_is_not_taken_for_that_of_a_newer_claim(
    schedules: DurableSchedules, table: Table, seen: Seen, clock: VirtualClock
) -> None:
    seen.stuck = Event()
    answer = table.hold("give back")
    key = claim_and_pause(schedules, table, clock)
    answer.set()
    clock.settle()
    schedules.stop()
    finishing = gevent.spawn(schedules.finish, 10.0)
    clock.settle()
    assert not finishing.ready(), "a message is being handled"
    seen.stuck.set()
    clock.settle()
    assert finishing.ready()
    assert key not in table.rows
    assert seen.messages() == ["x"]


def test_told_again_it_is_not_taken_for_a_newer_claim(
    schedules: DurableSchedules, table: Table, seen: Seen, clock: VirtualClock
) -> None:
    seen.stuck = Event()
    table.lost.add("give back")
    key = claim_and_pause(schedules, table, clock)
    clock.advance(5)
    assert len(table.returned) == 2, "told again, since the answer was lost"
    assert table.rows[key].epoch == EPOCH
    seen.stuck.set()
    clock.advance(5)
    assert key not in table.rows
    assert seen.messages() == ["x"]


def test_what_is_being_claimed_when_the_host_stops_goes_back(
    schedules: DurableSchedules, table: Table, seen: Seen, host: Host, clock: VirtualClock
) -> None:
    claimed = table.hold("claim")
    key = schedules.send_after(B, "x", 0)
    clock.settle()
    assert table.rows[key].epoch == EPOCH
    schedules.stop()
    stopping = gevent.spawn(host.stop)
    finishing = gevent.spawn(schedules.finish, 10.0)
    clock.settle()
    assert not finishing.ready()
    claimed.set()
    clock.settle()
    assert finishing.ready()
    assert (table.rows[key].epoch, table.rows[key].attempt) == (None, 0)
    assert seen.messages() == []
    for _ in range(20):
        clock.advance(1.0)
    assert stopping.ready()
