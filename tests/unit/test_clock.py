"""One contract for every clock, and what the virtual one adds."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import pytest
from gevent.hub import get_hub
from greenlet import getcurrent

from tests.support import in_background, until
from theatre_gevent import Clock, DatabaseUnavailable, Host, Ref, Shutdown, SystemClock
from theatre_gevent.testing import VirtualClock

Pass = Callable[[float], object]


@pytest.fixture(params=["system", "virtual"])
def any_clock(request: pytest.FixtureRequest) -> tuple[Clock, Pass]:
    """A clock, and how to let its time pass."""
    if request.param == "system":
        system = SystemClock()
        return system, system.sleep
    virtual = VirtualClock()
    return virtual, virtual.advance


def test_monotonic_moves_by_what_has_passed(any_clock: tuple[Clock, Pass]) -> None:
    clock, let_pass = any_clock
    before, wall, boot = clock.monotonic(), clock.time(), clock.boottime()
    let_pass(0.02)
    assert clock.monotonic() - before >= 0.019
    assert clock.boottime() - boot >= 0.019
    assert clock.time() > wall


def test_timers_run_in_the_hub_in_the_order_of_their_times(any_clock: tuple[Clock, Pass]) -> None:
    clock, let_pass = any_clock
    ran: list[tuple[str, bool, float]] = []
    start = clock.monotonic()

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.append((name, getcurrent() is get_hub(), clock.monotonic() - start))

    clock.call_later(0.03, note("late"))
    clock.call_later(0.01, note("early"))
    clock.call_later(-5.0, note("overdue"))
    let_pass(0.001)
    let_pass(0.06)
    assert [name for name, _, _ in ran] == ["overdue", "early", "late"]
    assert all(in_hub for _, in_hub, _ in ran)
    assert ran[1][2] >= 0.0099
    assert ran[2][2] >= 0.0299


def test_a_cancelled_timer_never_runs(any_clock: tuple[Clock, Pass]) -> None:
    clock, let_pass = any_clock
    ran: list[int] = []
    timer = clock.call_later(0.01, lambda: ran.append(1))
    timer.cancel()
    timer.cancel()
    fired = clock.call_later(0.01, lambda: ran.append(2))
    let_pass(0.03)
    fired.cancel()
    assert ran == [2]


def test_sleep_lets_others_run(any_clock: tuple[Clock, Pass]) -> None:
    clock, let_pass = any_clock
    order: list[str] = []

    def sleeper() -> None:
        order.append("sleeps")
        clock.sleep(0.01)
        order.append("woke")

    task = in_background(sleeper)
    other = in_background(order.append, "other")
    other.join()
    let_pass(0.03)
    until(task.ready)
    assert order == ["sleeps", "other", "woke"]


def test_virtual_time_stands_still_by_itself(clock: VirtualClock) -> None:
    before = clock.monotonic(), clock.time()
    gevent.sleep(0.002)
    assert (clock.monotonic(), clock.time()) == before


def test_virtual_timers_each_run_at_their_own_time(clock: VirtualClock) -> None:
    start = clock.monotonic()
    ran: list[float] = []

    def again() -> None:
        ran.append(clock.monotonic() - start)
        clock.call_later(10, again)

    clock.call_later(10, again)
    clock.advance(35)
    assert ran == [10, 20, 30]
    assert clock.monotonic() == start + 35
    assert clock.pending_timers() == 1


def test_greenlets_settle_between_two_timers(clock: VirtualClock) -> None:
    order: list[str] = []

    def work() -> None:
        for step in range(3):
            order.append(f"work {step}")
            gevent.sleep(0)

    clock.call_later(1, lambda: gevent.spawn(work))
    clock.call_later(1, lambda: order.append("next timer"))
    clock.advance(1)
    assert order == ["work 0", "work 1", "work 2", "next timer"]


def test_wall_time_can_be_stepped_alone(clock: VirtualClock) -> None:
    monotonic, wall = clock.monotonic(), clock.time()
    clock.step_wall_time(-3600)
    assert clock.monotonic() == monotonic
    assert clock.time() == pytest.approx(wall - 3600)


def test_a_suspended_machine_is_seen_by_boottime_and_wall_time_alone(clock: VirtualClock) -> None:
    ran: list[int] = []
    clock.call_later(10, lambda: ran.append(1))
    monotonic, boot, wall = clock.monotonic(), clock.boottime(), clock.time()
    clock.suspend(3600)
    clock.advance(1)
    assert ran == []
    assert clock.monotonic() == monotonic + 1
    assert clock.boottime() == boot + 3601
    assert clock.time() == pytest.approx(wall + 3601)


def test_a_host_with_a_lease_goes_by_the_time_that_counts_suspension() -> None:
    """The lease is at the database, which goes on while this machine sleeps."""
    clock = SystemClock()
    assert clock.monotonic is time.monotonic
    host = Host(clock=clock, listen="127.0.0.1:0", dsn="host=127.0.0.1 port=1 dbname=none connect_timeout=2")
    with pytest.raises(DatabaseUnavailable):
        host.start()
    assert clock.monotonic is clock.boottime
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert clock.boottime.args == (time.CLOCK_BOOTTIME,)  # type: ignore[attr-defined]


def test_an_interrupted_virtual_sleep_leaves_no_timer(clock: VirtualClock) -> None:
    task = gevent.spawn(clock.sleep, 100)
    clock.settle()
    assert clock.pending_timers() == 1
    task.kill()
    assert clock.pending_timers() == 0


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        pytest.fail.Exception("no"),
        pytest.skip.Exception("not here"),
        gevent.Timeout(1),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_function_raises_comes_out_of_run(clock: VirtualClock, error: BaseException) -> None:
    def wait_and_raise() -> None:
        clock.sleep(60)
        raise error

    with pytest.raises(type(error)) as caught:
        clock.run(wait_and_raise)
    assert caught.value is error
    assert clock.pending_timers() == 0


@pytest.mark.parametrize("bad", [-1, -0.001, float("nan"), float("inf"), float("-inf")])
def test_time_runs_neither_backwards_nor_for_ever(clock: VirtualClock, bad: float) -> None:
    before, ran = clock.monotonic(), list[int]()
    clock.call_later(1, lambda: ran.append(1))
    with pytest.raises(ValueError, match=f"0 seconds or more, and not for ever, got {bad}"):
        clock.advance(bad)
    assert (clock.monotonic(), ran) == (before, [])


@pytest.mark.parametrize("start", [1_000.0, 3e6], ids=["1000 s", "a month"])
@pytest.mark.parametrize(("step", "count", "total"), [(0.3, 10, 3), (0.1, 600, 60), (0.01, 100, 1), (0.001, 1000, 1)])
def test_many_small_steps_add_up(start: float, step: float, count: int, total: float) -> None:
    clock = VirtualClock(start=start)
    readings, ran = [start], list[float]()
    clock.call_later(total, lambda: ran.append(clock.monotonic()))
    for _ in range(count):
        assert ran == []
        clock.advance(step)
        readings.append(clock.monotonic())
    assert ran == [start + total]
    assert readings == sorted(readings)
    assert readings[-1] == pytest.approx(start + total, abs=1e-6)


def test_a_timer_that_is_noticeably_later_waits(clock: VirtualClock) -> None:
    ran: list[int] = []
    clock.call_later(1.000_001, lambda: ran.append(1))
    clock.advance(1)
    assert ran == []


def test_a_message_that_is_sent_later_comes_after_many_small_steps(clock: VirtualClock) -> None:
    got: list[object] = []
    with Host(clock=clock) as host:
        host.register_actor("a", lambda ctx: got.append(ctx.message))
        host.send_after(Ref("a", "1"), "now", 3)
        for _ in range(9):
            clock.advance(0.3)
        assert "now" not in got
        clock.advance(0.3)
        assert "now" in got


def test_two_greenlets_cannot_advance_at_once(clock: VirtualClock) -> None:
    inner: list[BaseException] = []

    def meddle() -> None:
        try:
            clock.advance(1)
        except RuntimeError as error:
            inner.append(error)

    clock.call_later(1, lambda: gevent.spawn(meddle))
    clock.advance(2)
    assert "another greenlet" in str(inner[0])


def test_settle_gives_up_on_what_never_rests(clock: VirtualClock) -> None:
    def restless() -> None:
        while True:
            gevent.sleep(0)

    task = gevent.spawn(restless)
    try:
        with pytest.raises(RuntimeError, match="did not come to rest"):
            clock.settle(at_most=0.05)
    finally:
        task.kill()


def test_a_host_under_a_virtual_clock_passes_an_hour_at_once(clock: VirtualClock) -> None:
    left: list[float] = []
    start = clock.monotonic()

    def receiver(ctx: object) -> None:
        if isinstance(getattr(ctx, "message", None), Shutdown):
            left.append(clock.monotonic() - start)

    with Host(clock=clock, idle_timeout=3600) as host:
        host.register_actor("a", receiver)
        host.send(Ref("a", "1"), "hi")
        clock.advance(3599)
        assert left == []
        clock.advance(2)
        assert len(left) == 1
        assert 3600 <= left[0] <= 3601
