"""Draining and stopping: within a bounded time, whatever the actors do, and nobody is left waiting."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, fail, in_background, run_in_steps, stop_actor, until
from theatre_gevent import (
    ClaimLost,
    Context,
    DeadLetter,
    Host,
    HostDraining,
    HostNotRunning,
    Initialize,
    InitReason,
    Ref,
    RemoteActorError,
    Shutdown,
    SystemClock,
    TheatreError,
)
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")
NEW = Initialize(InitReason.NEW)


@pytest.fixture
def recorder(host: Host) -> Recorder:
    recorder = Recorder()
    host.register_actor("a", recorder)
    return recorder


def stop(host: Host, clock: VirtualClock) -> float:
    """Stop the host; return how many virtual seconds that took."""
    before = clock.monotonic()
    run_in_steps(clock, host.stop)
    assert host.state == "stopped"
    return clock.monotonic() - before


# -- the usual end ---------------------------------------------------------------------------------------------


def test_what_was_accepted_is_handled_first(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    for number in range(50):
        host.send(A, number)
        host.send(B, number)
    stop(host, clock)
    for ref in (A, B):
        assert recorder.of(ref) == [NEW, *range(50), Shutdown()]
    assert host.metrics.snapshot()["actors_active"] == 0


def test_idle_actors_get_their_shutdown(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    for number in range(5_000):
        host.spawn_local(Ref("a", str(number)))
    stop(host, clock)
    assert sum(isinstance(message, Shutdown) for _, message in recorder.events) == 5_000


def test_actors_may_still_talk_to_each_other_while_draining(host: Host, clock: VirtualClock) -> None:
    recorder = Recorder()
    host.register_actor("a", recorder)
    got: list[Any] = []

    def slow_chain(ctx: Context) -> None:
        clock.sleep(1)
        ctx.send(B, "sent while draining")
        got.append(ctx.request(Ref("a", "new"), "asked while draining"))

    host.send(A, slow_chain)
    clock.settle()
    stop(host, clock)
    assert recorder.of(B) == [NEW, "sent while draining", Shutdown()]
    assert got == ["asked while draining"]


def test_an_open_request_is_answered_while_draining(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    kept: list[Context] = []
    task = in_background(host.request, A, kept.append)
    clock.settle()
    stopping = in_background(host.stop)
    clock.advance(1)
    assert not stopping.ready()
    kept[0].reply("in time")
    clock.advance(1)
    assert task.get(block=False) == "in time"
    assert stopping.ready()


def test_outside_work_is_refused_from_the_first_moment_on(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    """What was sent too late crashed its sender."""
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    stopping = in_background(host.stop)
    clock.settle()
    verbs: list[Callable[[], Any]] = [
        lambda: host.send(A, "x"),
        lambda: host.request(A, "x"),
        lambda: host.spawn_local(B),
    ]
    for verb in verbs:
        with pytest.raises(HostDraining, match="is stopping and takes no messages"):
            verb()
    go.set()
    clock.advance(1)
    assert stopping.ready()
    for verb in verbs:
        with pytest.raises(HostDraining, match="has stopped and takes no messages"):
            verb()
    assert recorder.users(A)[1:] == []


def test_a_host_cannot_be_started_twice(host: Host, clock: VirtualClock) -> None:
    with pytest.raises(HostNotRunning, match="it is active"):
        host.start()
    stop(host, clock)
    with pytest.raises(HostNotRunning, match="it is stopped; make a new Host"):
        host.start()


def test_stopping_what_was_never_started() -> None:
    host = Host()
    host.stop()
    host.stop()
    assert host.state == "stopped"
    with pytest.raises(HostNotRunning):
        host.start()


def test_the_context_manager_starts_and_stops(real_host: Host) -> None:
    recorder = Recorder()
    with Host() as host:
        host.register_actor("a", recorder)
        assert host.state == "active"
        host.send(A, "x")
    assert host.state == "stopped"
    assert recorder.of(A) == [NEW, "x", Shutdown()]


def test_the_context_manager_stops_after_an_error_and_lets_it_pass() -> None:
    recorder = Recorder()
    host = Host()

    def use() -> None:
        with host:
            host.register_actor("a", recorder)
            host.send(A, "x")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        use()
    assert host.state == "stopped"
    assert recorder.of(A) == [NEW, "x", Shutdown()]


def test_stop_again_and_stop_at_the_same_time(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    stopping = [in_background(host.stop) for _ in range(5)]
    clock.settle()
    assert not any(task.ready() for task in stopping)
    go.set()
    clock.advance(1)
    assert all(task.ready() for task in stopping)
    assert recorder.of(A).count(Shutdown()) == 1
    host.stop()
    assert host.state == "stopped"


def test_a_killed_stop_goes_on_in_the_background(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    stopping = in_background(host.stop)
    clock.settle()
    stopping.kill()
    go.set()
    clock.advance(1)
    assert host.state == "stopped"


# -- from within -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["message", "request", "initialize", "shutdown"])
def test_stop_from_within_an_actor(host: Host, clock: VirtualClock, recorder: Recorder, when: str) -> None:
    def stop_it(ctx: Context) -> None:
        host.stop()
        if when == "request":
            ctx.reply("stopping")

    if when == "initialize":
        recorder.on_initialize = stop_it
        host.send(A, "x")
    elif when == "shutdown":
        recorder.on_shutdown = stop_it
        host.send(A, stop_actor)
    elif when == "request":
        assert host.request(A, stop_it) == "stopping"
    else:
        host.send(A, stop_it)
    host_stopped = in_background(lambda: until(lambda: host.state == "stopped"))
    for _ in range(20):
        clock.advance(0.5)
    host_stopped.get()
    assert recorder.of(A)[-1] == Shutdown()
    assert recorder.of(A).count(Shutdown()) == 1


def test_stop_from_a_greenlet_of_an_actor(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    host.send(A, lambda ctx: gevent.spawn(host.stop))
    clock.advance(1)
    assert host.state == "stopped"


def test_an_actor_of_another_host_may_wait_for_the_stop(host: Host, make_host: MakeHost, clock: VirtualClock) -> None:
    other = make_host()
    recorder = Recorder()
    host.register_actor("a", recorder)
    other.register_actor("a", recorder)
    other.send(B, lambda ctx: clock.sleep(1))
    clock.settle()
    states: list[str] = []

    def stop_other(ctx: Context) -> None:
        other.stop()
        states.append(other.state)

    host.send(A, stop_other)
    clock.advance(2)
    assert states == ["stopped"]


def test_stop_from_a_loop_callback(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    host.send(A, "x")
    clock.call_later(1, host.stop)
    clock.advance(2)
    assert host.state == "stopped"
    assert recorder.of(A)[-1] == Shutdown()


# -- Shutdown handlers that make trouble -----------------------------------------------------------------------


def shutdown_stops_itself(ctx: Context) -> None:
    stop_actor(ctx)


def shutdown_sends_to_itself(ctx: Context) -> None:
    ctx.send(ctx.actor_ref, "again")


def shutdown_asks_itself(ctx: Context) -> None:
    ctx.request(ctx.actor_ref, "again")


def shutdown_raises(ctx: Context) -> None:
    fail(ctx)


def shutdown_asks_another(ctx: Context) -> None:
    ctx.request(Ref("a", "never seen"), "again")


TROUBLE = [
    shutdown_stops_itself,
    shutdown_sends_to_itself,
    shutdown_asks_itself,
    shutdown_raises,
    shutdown_asks_another,
]


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_troublesome_shutdown_does_not_hold_the_stop_up(
    host: Host, clock: VirtualClock, recorder: Recorder, trouble: Callable[[Context], None]
) -> None:
    """A Shutdown handler that stopped itself, or sent to itself, hung the stop for ever."""
    recorder.on_shutdown = trouble
    host.send(A, "x")
    host.spawn_local(B)
    assert stop(host, clock) < 1
    for ref in (A, B):
        assert recorder.of(ref).count(Shutdown()) == 1
    assert_balanced(host.metrics)


def test_a_hanging_shutdown_is_ended_by_force(
    host: Host, clock: VirtualClock, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    def hang(ctx: Context) -> None:
        if ctx.actor_ref == A:
            try:
                Event().wait()
            finally:
                ended.append("killed")

    recorder.on_shutdown = hang
    host.send(A, "x")
    host.send(B, "x")
    assert 5 <= stop(host, clock) <= 7
    assert ended == ["killed"]
    assert recorder.of(B)[-1] == Shutdown()
    assert any("a/1 did not end in time" in record.getMessage() for record in caplog.records)


def test_a_hanging_handler_is_ended_by_force_and_its_requester_is_told(
    host: Host, clock: VirtualClock, recorder: Recorder
) -> None:
    """Requests in flight were still blocked long after the stop."""
    task = in_background(host.request, A, lambda ctx: Event().wait(), 600)
    clock.settle()
    assert 10 <= stop(host, clock) <= 12
    with pytest.raises(HostDraining):
        task.get(block=False)
    assert host.metrics.snapshot()["requests_pending"] == 0


def test_an_owed_reply_is_given_up_at_the_end(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    kept: list[Context] = []
    task = in_background(host.request, A, kept.append, 600)
    clock.settle()
    assert stop(host, clock) <= 6
    with pytest.raises((HostDraining, RemoteActorError)):
        task.get(block=False)
    with pytest.raises(ClaimLost):
        kept[0].reply("too late")


def test_a_handler_that_swallows_its_kill_is_fenced(
    host: Host, clock: VirtualClock, recorder: Recorder, dead_letters: list[DeadLetter]
) -> None:
    """What had been stopped by force went on to send."""
    go = Event()
    after: list[str] = []

    def stubborn(ctx: Context) -> None:
        while not go.is_set():
            try:
                go.wait()
            except BaseException:
                after.append("swallowed")
        for verb in (ctx.send, ctx.request):
            try:
                verb(B, "from a zombie")
            except ClaimLost:
                after.append("fenced")
        try:
            ctx.reply("from a zombie")
        except ClaimLost:
            after.append("fenced")

    task = in_background(host.request, A, stubborn, 600)
    clock.settle()
    assert stop(host, clock) <= 13
    with pytest.raises(HostDraining):
        task.get(block=False)
    go.set()
    clock.settle()
    assert after == ["swallowed", "fenced", "fenced", "fenced"]
    assert recorder.of(B) == []
    assert dead_letters == []


def test_an_endless_self_send_does_not_hold_the_stop_up(make_host: MakeHost) -> None:
    host = make_host(clock=SystemClock(), drain_timeout=0.1)

    @host.actor("endless")
    def endless(ctx: Context) -> None:
        if not isinstance(ctx.message, (Initialize, Shutdown)):
            ctx.send(ctx.actor_ref, "again")

    host.send(Ref("endless", "1"), "go")
    gevent.sleep(0.01)
    clock = SystemClock()
    start = clock.monotonic()
    host.stop()
    assert clock.monotonic() - start < 5
    assert host.state == "stopped"
    assert host.metrics.snapshot()["messages_dead_lettered"] >= 1
    assert_balanced(host.metrics)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_drain_timeout_of_nothing(make_host: MakeHost, clock: VirtualClock, timeout: float) -> None:
    host = make_host(drain_timeout=timeout)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.send(A, lambda ctx: Event().wait())
    clock.settle()
    host.send(A, "behind")
    assert stop(host, clock) <= 2
    assert_balanced(host.metrics)


def test_senders_in_line_and_at_the_door_are_told(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(actor_inbox_size=1, host_inbox_size=3, drain_timeout=1, request_timeout=100)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    host.send(A, "in")
    in_line = [in_background(verb, A, "in line") for verb in (host.send, host.request)]
    clock.settle()
    host.send(B, lambda ctx: go.wait())
    at_the_door = [in_background(verb, Ref("a", "3"), "at the door") for verb in (host.send, host.request)]
    clock.settle()
    assert host.metrics.snapshot()["senders_waiting"] == 4
    stop(host, clock)
    for task in [*in_line, *at_the_door]:
        with pytest.raises(HostDraining):
            task.get(block=False)
    assert host.metrics.snapshot()["senders_waiting"] == 0


def test_who_waits_in_spawn_local_is_told(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(drain_timeout=1, request_timeout=100)
    recorder = Recorder()
    host.register_actor("a", recorder)
    recorder.on_initialize = lambda ctx: Event().wait()
    task = in_background(host.spawn_local, A)
    clock.settle()
    stop(host, clock)
    with pytest.raises(TheatreError):
        task.get(block=False)


def test_cancelled_is_set_only_when_the_host_stops_hard(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    seen: list[bool] = []

    def watch(ctx: Context) -> None:
        seen.append(ctx.cancelled.is_set())
        ctx.cancelled.wait()
        seen.append(ctx.cancelled.is_set())

    host.send(A, watch)
    clock.settle()
    stop(host, clock)
    assert seen == [False, True]


def test_nothing_is_left_running(clock: VirtualClock) -> None:
    def workers() -> list[Any]:
        gc.collect()
        return [thing for thing in gc.get_objects() if isinstance(thing, gevent.Greenlet) and not thing.dead]

    before = len(workers())
    timers = clock.pending_timers()
    host = Host(clock=clock).start()
    recorder = Recorder()
    host.register_actor("a", recorder)
    for number in range(50):
        host.send(Ref("a", str(number)), lambda ctx: clock.sleep(0.1))
    clock.advance(1)
    assert len(workers()) > before
    stop(host, clock)
    clock.advance(60)
    until(lambda: len(workers()) <= before)
    assert clock.pending_timers() == timers


# -- panic -----------------------------------------------------------------------------------------------------


def test_without_panic_recovery_an_exception_stops_the_host(
    make_host: MakeHost, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    host = make_host(panic_recovery=False)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.send(B, "bystander")
    with pytest.raises(RemoteActorError, match="ZeroDivisionError"):
        run_in_steps(clock, lambda: host.request(A, fail))
    run_in_steps(clock, lambda: until(lambda: host.state == "stopped"))
    assert recorder.of(B)[-1] == Shutdown()
    with pytest.raises(HostDraining) as caught:
        host.send(B, "x")
    assert isinstance(caught.value.__cause__, ZeroDivisionError), "it says why"
    assert host.stopped_by is caught.value.__cause__
    assert any(record.levelname == "CRITICAL" for record in caplog.records)


def test_without_panic_recovery_stop_actor_is_no_panic(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(panic_recovery=False)
    host.register_actor("a", Recorder())
    host.send(A, stop_actor)
    clock.settle()
    assert host.state == "active"


def test_with_panic_recovery_the_host_goes_on(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    for _ in range(10):
        host.send(A, fail)
    clock.settle()
    assert host.state == "active"
    assert host.request(A, "x") == "x"
