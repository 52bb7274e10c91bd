"""Delayed and recurring messages of a host without a database, under a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, in_background, run_in_steps
from theatre_gevent import (
    ClaimLost,
    Context,
    DeadLetter,
    Host,
    HostDraining,
    HostFrozen,
    HostNotRunning,
    Initialize,
    InvalidRef,
    InvalidSchedule,
    Ref,
    Schedule,
    Shutdown,
    UnregisteredActorType,
)
from theatre_gevent.scheduling import memory
from theatre_gevent.scheduling.listing import in_order
from theatre_gevent.scheduling.memory import MemorySchedules
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")
MIDNIGHT = 1_767_225_600.0
"""2026-01-01T00:00:00Z, a Thursday."""


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(epoch=MIDNIGHT)


class Times(Recorder):
    """Writes down when each message came, from which schedule and due time."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock = clock
        self.came: list[tuple[float, Any]] = []
        self.contexts: list[Context] = []
        self.factory = super().__call__

    def __call__(self) -> Any:
        inner = self.factory()
        outer = self

        class Receiver:
            def receive(self, ctx: Context) -> None:
                if not isinstance(ctx.message, (Initialize, Shutdown)):
                    outer.came.append((outer.clock.time() - MIDNIGHT, ctx.message))
                    outer.contexts.append(ctx)
                inner.receive(ctx)

        return Receiver()


@pytest.fixture
def times(host: Host, clock: VirtualClock) -> Times:
    times = Times(clock)
    host.register_actor("a", times)
    return times


def count(host: Host, name: str) -> int:
    return host.metrics.snapshot()[f"schedules_{name}"]


# -- single messages ---------------------------------------------------------------------------------------------


def test_a_delayed_message_comes_at_its_time(host: Host, clock: VirtualClock, times: Times) -> None:
    host.send_after(A, "later", 2.5)
    clock.advance(2.49)
    assert times.came == []
    clock.advance(1)
    assert times.came == [(2.5, "later")]
    clock.advance(1000)
    assert len(times.came) == 1


def test_a_delay_of_zero_is_due_at_once(host: Host, clock: VirtualClock, times: Times) -> None:
    host.send_after(A, "now", 0)
    clock.advance(0)
    assert times.came == [(0.0, "now")]


def test_what_is_due_already_does_not_hold_up_what_comes_later(host: Host, clock: VirtualClock, times: Times) -> None:
    """An item that is due when it is made must not park the timer."""
    host.send_after(A, "far", 3600)
    host.send_after(A, "now", 0)
    host.send_after(A, "soon", 0.25)
    clock.advance(0.25)
    assert times.came == [(0.0, "now"), (0.25, "soon")]
    clock.advance(3600)
    assert times.came[-1] == (3600.0, "far")


def test_messages_due_at_one_time_come_in_the_order_made(host: Host, clock: VirtualClock, times: Times) -> None:
    for number in range(600):
        host.send_after(A if number % 2 else B, number, 1)
    clock.advance(1)
    assert [number for _, number in times.came if number % 2] == list(range(1, 600, 2))
    assert [number for _, number in times.came if not number % 2] == list(range(0, 600, 2))


def test_the_context_tells_where_the_message_comes_from(host: Host, clock: VirtualClock, times: Times) -> None:
    schedule = host.send_after(A, "later", 60)
    clock.advance(60)
    host.send(A, "plain")
    clock.settle()
    later, plain = times.contexts
    assert (later.schedule_id, later.attempt, later.sender) == (schedule, 1, None)
    assert later.due == datetime(2026, 1, 1, 0, 1, tzinfo=timezone.utc)
    assert later.occurrence == f"{schedule}@2026-01-01T00:01:00Z"
    assert not later.is_request
    later.reply("goes nowhere")
    assert (plain.schedule_id, plain.attempt, plain.due, plain.occurrence) == (None, 0, None, None)


def test_setting_the_wall_clock_does_not_change_a_delay(host: Host, clock: VirtualClock, times: Times) -> None:
    host.send_after(A, "later", 100)
    clock.step_wall_time(3600)
    clock.advance(99)
    assert times.came == []
    clock.step_wall_time(-7200)
    clock.advance(1)
    assert [message for _, message in times.came] == ["later"]


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "1", None, True])
def test_a_bad_delay_is_refused_at_once(host: Host, times: Times, delay: Any) -> None:
    with pytest.raises(InvalidSchedule, match="delay"):
        host.send_after(A, "x", delay)
    assert host.schedules() == []


def test_a_bad_receiver_is_refused_at_once(host: Host, times: Times) -> None:
    verbs: list[Callable[[Any], object]] = [
        lambda ref: host.send_after(ref, "x", 1),
        lambda ref: host.send_cron(ref, "x", "* * * * *"),
    ]
    for verb in verbs:
        with pytest.raises(InvalidRef):
            verb("a/1")
        with pytest.raises(UnregisteredActorType):
            verb(Ref("unknown", "1"))
    assert host.schedules() == []


def test_a_host_that_does_not_run_refuses(clock: VirtualClock) -> None:
    host = Host(clock=clock)
    host.register_actor("a", Recorder())
    for verb in (
        lambda: host.send_after(A, "x", 1),
        lambda: host.send_cron(A, "x", "* * * * *"),
        lambda: host.cancel_schedule("mem-1"),
        host.schedules,
    ):
        with pytest.raises(HostNotRunning):
            verb()
    host.start()
    run_in_steps(clock, host.stop)
    with pytest.raises(HostDraining):
        host.send_after(A, "x", 1)
    for verb in (lambda: host.cancel_schedule("mem-1"), host.schedules):
        with pytest.raises(HostNotRunning, match="it is stopped"):
            verb()


def test_from_another_thread(real_host: Host) -> None:
    recorder = Recorder()
    real_host.register_actor("a", recorder)
    came = Event()
    pool = gevent.get_hub().threadpool
    schedule = pool.apply(real_host.send_after, (A, lambda ctx: came.set(), 0.01))
    recurring = pool.apply(real_host.send_cron, (A, "x", "0 0 1 1 *"))
    assert {item.id for item in pool.apply(real_host.schedules)} >= {recurring}
    assert pool.apply(real_host.cancel_schedule, (recurring,))
    assert came.wait(5)
    assert not pool.apply(real_host.cancel_schedule, (schedule,))


def test_never_early_by_the_machine_s_clock(real_host: Host) -> None:
    clock = real_host._clock
    early: list[float] = []
    done = Event()
    left = [200]

    def receive(ctx: Context) -> None:
        if isinstance(ctx.message, float):
            if clock.monotonic() < ctx.message:
                early.append(ctx.message)
            left[0] -= 1
            if not left[0]:
                done.set()

    real_host.register_actor("a", receive)
    for number in range(200):
        delay = (number * 7 % 200) / 1000
        real_host.send_after(A, clock.monotonic() + delay, delay)
    assert done.wait(10)
    assert early == []


# -- cancel ------------------------------------------------------------------------------------------------------


def test_cancel_in_time_and_too_late(host: Host, clock: VirtualClock, times: Times) -> None:
    first = host.send_after(A, "first", 10)
    second = host.send_after(A, "second", 10)
    assert host.cancel_schedule(first)
    assert not host.cancel_schedule(first), "it is gone"
    clock.advance(10)
    assert [message for _, message in times.came] == ["second"]
    assert not host.cancel_schedule(second), "it has been sent"
    assert not host.cancel_schedule("mem-of-another-life")
    assert (count(host, "cancelled"), count(host, "fired"), count(host, "pending")) == (1, 1, 0)


def test_an_id_that_is_none(host: Host) -> None:
    with pytest.raises(InvalidSchedule):
        host.cancel_schedule(5)  # type: ignore[arg-type]


def test_cancelled_ones_do_not_pile_up(host: Host, clock: VirtualClock, times: Times) -> None:
    kept = host.send_after(A, "kept", 50)
    for _ in range(20):
        for schedule in [host.send_after(A, "dropped", 3600) for _ in range(1000)]:
            assert host.cancel_schedule(schedule)
    assert isinstance(host._schedules, MemorySchedules)
    heap = host._schedules._delays
    assert len(heap) < 3000
    assert [schedule.id for schedule in host.schedules()] == [kept]
    clock.advance(3600)
    assert [message for _, message in times.came] == ["kept"]
    assert heap == []
    assert clock.pending_timers() <= 2, "the sweep of idle actors, and perhaps a cancelled one"


def test_a_message_that_waits_for_a_full_inbox(make_host: MakeHost, clock: VirtualClock) -> None:
    """What stands in line at the inbox is too late to be cancelled, what stands behind it is not."""
    host = make_host(actor_inbox_size=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    host.send(A, "fills the inbox")
    in_line, behind, last = (host.send_after(A, text, 1) for text in ("in line", "behind", "last"))
    clock.advance(1)
    assert count(host, "pending") == 3
    assert not host.cancel_schedule(in_line)
    assert host.cancel_schedule(behind)
    go.set()
    clock.settle()
    assert [text for text in recorder.users(A) if isinstance(text, str)] == ["fills the inbox", "in line", "last"]
    assert not host.cancel_schedule(last)


# -- recurring messages -----------------------------------------------------------------------------------------


def test_every_five_minutes(host: Host, clock: VirtualClock, times: Times) -> None:
    schedule = host.send_cron(A, "tick", "*/5 * * * *")
    clock.advance(899)
    assert times.came == [(300.0, "tick"), (600.0, "tick")]
    assert [ctx.occurrence for ctx in times.contexts] == [
        f"{schedule}@2026-01-01T00:05:00Z",
        f"{schedule}@2026-01-01T00:10:00Z",
    ]
    assert host.cancel_schedule(schedule)
    clock.advance(3600)
    assert len(times.came) == 2


def test_in_a_time_zone(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(cleanup_interval=3600, schedule_recovery_interval=3600)
    times = Times(clock)
    host.register_actor("a", times)
    host.send_cron(A, "tick", "0 9 * * *", tz="Asia/Tokyo")
    clock.advance(86_400)
    assert times.came == [(86_400.0, "tick")], "nine o'clock there is midnight here"


def test_bad_ones_are_refused_at_once(host: Host, times: Times) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"expression": "61 * * * *"}, "minute '61'"),
        ({"expression": "0 0 30 2 *"}, "never due"),
        ({"expression": 5}, "five fields"),
        ({"expression": ["*"]}, "five fields"),
        ({"expression": "* * * * *", "tz": "Nowhere"}, "tz must be"),
        ({"expression": "* * * * *", "tz": []}, "tz must be"),
        ({"expression": "* * * * *", "misfire": "maybe"}, "misfire"),
    ]
    for arguments, words in bad:
        with pytest.raises(InvalidSchedule, match=words):
            host.send_cron(A, "x", **arguments)
    assert host.schedules() == []


def test_a_year_of_cron(make_host: MakeHost, clock: VirtualClock) -> None:
    """Every hour of 2026 by the clocks of Berlin: 8760 firings, and two changes of the clocks."""
    host = make_host(cleanup_interval=1e6, idle_timeout=1e8, schedule_recovery_interval=1e5)
    times = Times(clock)
    host.register_actor("a", times)
    host.send_cron(A, "hour", "0 * * * *", tz="Europe/Berlin")
    host.send_cron(B, "night", "30 2 * * *", tz="Europe/Berlin")
    host.send_cron(B, "leap day", "0 0 29 2 *", tz="Europe/Berlin")
    clock.advance(365 * 86_400)
    hours = [time for time, message in times.came if message == "hour"]
    assert hours == [3600.0 * number for number in range(1, 8761)]
    nights = [ctx.due for ctx in times.contexts if ctx.message == "night"]
    assert len(nights) == 365
    assert datetime(2026, 3, 29, 1, 0, tzinfo=timezone.utc) in nights, "three o'clock, right after the hour left out"
    assert datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc) in nights, "once, the first time"
    assert datetime(2026, 10, 25, 1, 30, tzinfo=timezone.utc) not in nights
    assert [item.due for item in host.schedules() if item.body == "leap day"] == [
        datetime(2028, 2, 28, 23, 0, tzinfo=timezone.utc)
    ]


# -- clocks that are set, frozen hosts: what was missed ----------------------------------------------------------


def test_an_hour_forward_fires_once(host: Host, clock: VirtualClock, times: Times) -> None:
    host.send_cron(A, "once", "*/10 * * * *")
    host.send_cron(A, "all", "*/10 * * * *", misfire="all")
    host.send_cron(A, "skip", "*/10 * * * *", misfire="skip")
    clock.advance(300)
    clock.step_wall_time(3600 - 120)  # it is 01:03
    clock.advance(10)
    assert [message for _, message in times.came] == ["once", *["all"] * 6]
    assert times.contexts[0].due == datetime(2026, 1, 1, 1, 0, tzinfo=timezone.utc)
    assert len({ctx.occurrence for ctx in times.contexts}) == 7
    clock.advance(600)
    assert sorted(message for _, message in times.came[7:]) == ["all", "once", "skip"]


def test_an_hour_back_fires_nothing_twice(host: Host, clock: VirtualClock, times: Times) -> None:
    host.send_cron(A, "tick", "*/10 * * * *")
    clock.advance(1900)
    assert len(times.came) == 3
    clock.step_wall_time(-3600)
    clock.advance(3600)
    assert len(times.came) == 3
    clock.advance(1000)
    assert len({ctx.occurrence for ctx in times.contexts}) == len(times.came) == 4


def test_a_day_back_begins_anew(host: Host, clock: VirtualClock, times: Times) -> None:
    """A clock that was wrong by a day must not silence a schedule for a day."""
    host.send_cron(A, "tick", "*/10 * * * *")
    clock.advance(700)
    clock.step_wall_time(-86_400)
    clock.advance(1200)
    assert len(times.came) == 3


def test_a_suspended_machine(host: Host, clock: VirtualClock, times: Times) -> None:
    host.send_cron(A, "tick", "*/10 * * * *")
    host.send_after(A, "later", 60)
    clock.suspend(7200)
    clock.advance(10)
    assert [message for _, message in times.came] == ["tick"]
    clock.advance(50)
    assert [message for _, message in times.came] == ["tick", "later"], "a delay is time in which the host could run"


def test_a_frozen_host_fires_nothing_and_catches_up(host: Host, clock: VirtualClock, times: Times) -> None:
    for policy in ("once", "all", "skip"):
        host.send_cron(A, policy, "*/10 * * * *", misfire=policy)
    host.send_after(A, "single", 700)
    doomed = host.send_after(A, "cancelled while frozen", 700)
    clock.advance(660)
    assert len(times.came) == 3
    run_in_steps(clock, host.freeze)
    with pytest.raises(HostFrozen):
        host.send_after(A, "x", 1)
    with pytest.raises(HostFrozen):
        host.send_cron(A, "x", "* * * * *")
    clock.advance(3100)
    assert len(times.came) == 3
    assert count(host, "lag_ms") == 3060_000
    assert host.cancel_schedule(doomed)
    host.unfreeze()
    clock.advance(0)
    assert [message for _, message in times.came[3:]] == ["single", "once", *["all"] * 5]
    assert count(host, "lag_ms") == 0
    clock.advance(600)
    assert sorted(message for _, message in times.came[10:]) == ["all", "once", "skip"]


def test_what_stands_in_line_when_the_host_freezes_comes_afterwards(
    make_host: MakeHost, clock: VirtualClock, dead_letters: list[DeadLetter]
) -> None:
    host = make_host(actor_inbox_size=1, freeze_grace_period=0)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    host.send(A, "fills the inbox")
    for number in range(3):
        host.send_after(A, number, 1)
    clock.advance(1)
    go.set()
    run_in_steps(clock, host.freeze)
    assert [letter.message for letter in dead_letters] == ["fills the inbox"]
    assert count(host, "pending") == 3
    host.unfreeze()
    clock.advance(0.1)
    assert recorder.users(A)[1:] == [0, 1, 2]
    assert_balanced(host.metrics)


def test_a_stopping_host_fires_no_more(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host()
    times = Times(clock)
    host.register_actor("a", times)
    go = Event()
    host.send_after(A, "never", 1)
    host.send_cron(A, "never", "* * * * *")
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    stopping = in_background(host.stop)
    clock.advance(2)
    go.set()
    clock.advance(100)
    assert stopping.ready()
    assert [message for _, message in times.came if message == "never"] == []
    assert count(host, "pending") == 0


def test_what_was_due_when_the_host_stops_is_a_dead_letter(
    make_host: MakeHost, clock: VirtualClock, dead_letters: list[DeadLetter]
) -> None:
    host = make_host(actor_inbox_size=1, drain_timeout=0)
    host.register_actor("a", Recorder())
    host.send(A, lambda ctx: Event().wait())
    clock.settle()
    host.send(A, "fills the inbox")
    for number in range(3):
        host.send_after(A, number, 1)
    clock.advance(1)
    run_in_steps(clock, host.stop)
    assert sorted(str(letter.message) for letter in dead_letters) == ["0", "1", "2", "fills the inbox"]
    assert all("schedule" in letter.reason for letter in dead_letters if letter.message != "fills the inbox")


# -- full inboxes and full hosts --------------------------------------------------------------------------------


def test_a_full_inbox_holds_up_nobody_else(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(actor_inbox_size=2, request_timeout=1)
    times = Times(clock)
    host.register_actor("a", times)
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    for number in range(50):
        host.send_after(A, number, 1)
        host.send_after(B, number, 1)
    clock.advance(1)
    assert [message for _, message in times.came[1:]] == list(range(50)), "all of B's"
    clock.advance(20)  # far longer than a sender would wait
    assert count(host, "pending") == 48
    assert count(host, "lag_ms") >= 20_000
    go.set()
    clock.advance(1)
    assert [message for _, message in times.came[51:]] == list(range(50)), "and A's in their order"
    assert (count(host, "pending"), count(host, "lag_ms"), count(host, "fired")) == (0, 0, 100)
    assert_balanced(host.metrics)


def test_a_full_host_is_waited_for(make_host: MakeHost, clock: VirtualClock) -> None:
    """Due messages stay in the schedule while the host holds as many as it may."""
    host = make_host(host_inbox_size=8, actor_inbox_size=64)
    go = Event()
    seen: list[Any] = []
    most: list[int] = []

    def receive(ctx: Context) -> None:
        if isinstance(ctx.message, int):
            go.wait()
            seen.append(ctx.message)

    host.register_actor("slow", receive)
    for number in range(100):
        host.send_after(Ref("slow", str(number % 20)), number, 1)
    for _ in range(30):
        clock.advance(1)
        counts = host.metrics.snapshot()
        most.append(counts["messages_queued"] + counts["messages_received"] - len(seen))
    assert max(most) <= 9
    assert count(host, "pending") >= 90
    go.set()
    clock.advance(2)
    assert sorted(seen) == list(range(100))
    assert_balanced(host.metrics)


def test_many_full_inboxes(make_host: MakeHost, clock: VirtualClock) -> None:
    """More actors have full inboxes than may stand in line at once."""
    host = make_host(actor_inbox_size=1, host_inbox_size=4)
    go = Event()
    seen: list[Any] = []

    def receive(ctx: Context) -> None:
        if isinstance(ctx.message, int):
            go.wait()
            seen.append(ctx.message)

    host.register_actor("slow", receive)
    for number in range(30):
        host.send_after(Ref("slow", str(number % 10)), number, 1)
    clock.advance(30)
    assert len(seen) == 0
    go.set()
    clock.advance(10)
    assert sorted(seen) == list(range(30))
    assert_balanced(host.metrics)


def test_what_can_not_be_delivered_is_a_dead_letter(
    host: Host, clock: VirtualClock, dead_letters: list[DeadLetter]
) -> None:
    host.register_actor("broken", lambda: 1 / 0)
    host.send_after(Ref("broken", "1"), "lost", 1)
    clock.advance(1)
    assert [(letter.ref, letter.message) for letter in dead_letters] == [(Ref("broken", "1"), "lost")]
    assert count(host, "pending") == 0
    assert_balanced(host.metrics)


# -- from within actors ----------------------------------------------------------------------------------------


def test_a_timer_made_in_initialize_outlives_its_activation(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(idle_timeout=5, cleanup_interval=1)
    recorder = Recorder()
    recorder.on_initialize = lambda ctx: ctx.send_after(ctx.actor_ref, "wake up", 60)
    host.register_actor("a", recorder)
    host.spawn_local(A)
    clock.advance(30)
    assert host.metrics.snapshot()["actors_active"] == 0
    clock.advance(31)
    assert recorder.of(A) == [Initialize(), Shutdown(), Initialize(), "wake up"]
    assert count(host, "pending") == 1, "the next one, made in the second Initialize"


def test_the_sender_is_the_actor(host: Host, clock: VirtualClock, times: Times) -> None:
    made: list[str] = []
    answers: list[bool] = []

    def make(ctx: Context) -> None:
        made.append(ctx.send_after(B, "after", 1))
        made.append(ctx.send_cron(B, "cron", "* * * * *", tz="UTC", misfire="skip"))

    host.send(A, make)
    clock.advance(60)
    assert [(ctx.message, ctx.sender, ctx.schedule_id) for ctx in times.contexts[1:]] == [
        ("after", A, made[0]),
        ("cron", A, made[1]),
    ]
    host.send(A, lambda ctx: answers.append(ctx.cancel_schedule(made[1])))
    clock.settle()
    assert answers == [True]
    assert host.schedules() == []


def test_a_context_of_an_ended_activation_can_not(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(idle_timeout=1)
    host.register_actor("a", Recorder())
    kept: list[Context] = []
    host.send(A, kept.append)
    clock.advance(10)
    ctx = kept[0]
    verbs: list[Callable[[], object]] = [
        lambda: ctx.send_after(B, "x", 1),
        lambda: ctx.send_cron(B, "x", "* * * * *"),
        lambda: ctx.cancel_schedule("mem-1"),
    ]
    for verb in verbs:
        with pytest.raises(ClaimLost):
            verb()
    assert host.schedules() == []


def test_an_actor_that_raises_gets_the_next_one(host: Host, clock: VirtualClock, times: Times) -> None:
    def boom(ctx: Context) -> None:
        raise ZeroDivisionError

    host.send_cron(A, boom, "* * * * *")
    clock.advance(180)
    assert len(times.came) == 3
    assert host.metrics.snapshot()["receiver_errors"] == 3


# -- looking at them -------------------------------------------------------------------------------------------


def test_what_is_pending_is_shown(host: Host, clock: VirtualClock, times: Times) -> None:
    first = host.send_after(A, {"n": 1}, 90)
    second = host.send_cron(B, "tick", " 0  9 * *  MON ", tz="Europe/Berlin", misfire="all")
    third = host.send_cron(B, "tock", "@daily")
    assert host.schedules() == [
        Schedule(first, A, {"n": 1}, datetime(2026, 1, 1, 0, 1, 30, tzinfo=timezone.utc)),
        Schedule(
            second,
            B,
            "tick",
            datetime(2026, 1, 5, 8, 0, tzinfo=timezone.utc),
            "0 9 * * MON",
            "Europe/Berlin",
            "all",
        ),
        Schedule(third, B, "tock", datetime(2026, 1, 2, tzinfo=timezone.utc), "@daily", "UTC", "once"),
    ]
    assert len({first, second, third}) == 3
    assert all(schedule.startswith("mem-") for schedule in (first, second, third))
    clock.advance(100)
    assert [schedule.id for schedule in host.schedules()] == [second, third]


def test_the_counters(host: Host, clock: VirtualClock, times: Times) -> None:
    host.send_cron(A, "tick", "* * * * *")
    doomed = host.send_after(A, "x", 30)
    host.send_after(A, "y", 30)
    assert count(host, "pending") == 3
    host.cancel_schedule(doomed)
    clock.advance(120)
    names = ("pending", "fired", "cancelled", "recovered", "lag_ms")
    assert [count(host, name) for name in names] == [1, 3, 1, 0, 0]


def test_bodies_are_copied_where_local_messages_are(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(serialize_local=True)
    recorder = Recorder()
    host.register_actor("a", recorder)
    body = ["as it was"]
    host.send_after(A, body, 1)
    body.append("changed later")
    clock.advance(1)
    assert recorder.users(A) == [["as it was"]]


# -- looking at many ---------------------------------------------------------------------------------------------


def listed(host: Host, limit: int) -> list[str]:
    return [schedule.id for schedule in host._schedules.first(limit)[0]]


@pytest.mark.parametrize("cancelled", [0, 2, 3, 40])
def test_the_first_ones_are_listed_in_the_order_of_their_times(host: Host, times: Times, cancelled: int) -> None:
    """Also if most of those that would be first were cancelled."""
    made = [host.send_after(A, number, 10.5 + number * 7919 % 5000) for number in range(5000)]
    crons = [host.send_cron(A, f"{minute}", f"{minute} 0 * * *") for minute in range(1, 60)]
    by_due = sorted((number * 7919 % 5000, key) for number, key in enumerate(made))
    for number, key in by_due:
        if cancelled and number < 4000 and number % cancelled:
            assert host.cancel_schedule(key)
    for key in crons[::2]:
        assert host.cancel_schedule(key)
    everything = sorted(host.schedules(), key=lambda schedule: schedule.due)
    for limit in (0, 1, 2, 100, 6000):
        assert listed(host, limit) == [schedule.id for schedule in everything[:limit]]
        assert host._schedules.first(limit)[1] == len(everything)


def test_what_is_due_and_not_delivered_is_listed_first(make_host: MakeHost, clock: VirtualClock) -> None:
    host, go = make_host(actor_inbox_size=1), Event()
    host.register_actor("a", lambda ctx: go.wait() if ctx.schedule_id else None)
    made = [host.send_after(A, number, 1) for number in range(6)]
    later = host.send_after(A, "later", 60)
    clock.advance(2)
    shown = listed(host, 100)
    assert shown == [schedule.id for schedule in host.schedules()]
    assert shown == [*made[-len(shown) + 1 :], later], "some have been delivered"
    assert len(shown) > 3
    assert listed(host, 2) == shown[:2]
    assert host.cancel_schedule(shown[2])
    assert listed(host, 100) == [*shown[:2], *shown[3:]]
    go.set()
    clock.advance(1)
    assert listed(host, 100) == [later]


def test_a_list_costs_what_is_in_it(host: Host, times: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20_000):
        host.send_after(A, number, 10 + number * 7919 % 20_000)
    looked: list[object] = []

    def look(heap: list[Any]) -> Iterator[Any]:
        for item in in_order(heap):
            looked.append(item)
            yield item

    monkeypatch.setattr(memory, "in_order", look)
    assert len(listed(host, 100)) == 100
    assert len(looked) < 110
