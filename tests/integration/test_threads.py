"""The host used from native threads other than its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.event import Event
from gevent.hub import get_hub

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, fail, in_background, until
from theatre_gevent import (
    Context,
    Host,
    HostDraining,
    HostNotRunning,
    InboxFull,
    Ref,
    RemoteActorError,
    RequestTimeout,
    Shutdown,
    SystemClock,
    TheatreError,
    UnregisteredActorType,
)

start_new_thread = monkey.get_original("_thread", "start_new_thread")
allocate_lock = monkey.get_original("_thread", "allocate_lock")
native_sleep = monkey.get_original("time", "sleep")

A = Ref("a", "1")
B = Ref("a", "2")


def by_threadpool(function: Callable[[], Any]) -> Any:
    return get_hub().threadpool.apply(function)


def by_thread(function: Callable[[], Any]) -> Any:
    """Run a function in a thread that gevent knows nothing of, while this hub goes on."""
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, function()))
        except BaseException as error:
            outcome.append((False, error))

    start_new_thread(run, ())
    until(lambda: outcome, timeout=20)
    fine, value = outcome[0]
    if not fine:
        raise value
    return value


ways = pytest.mark.parametrize("way", [by_threadpool, by_thread])
Way = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def recorder(real_host: Host) -> Recorder:
    recorder = Recorder()
    real_host.register_actor("a", recorder)
    return recorder


@ways
def test_every_verb(real_host: Host, recorder: Recorder, way: Way) -> None:
    way(lambda: real_host.send(A, "sent"))
    assert way(lambda: real_host.request(A, "asked")) == "asked"
    way(lambda: real_host.spawn_local(B))
    assert recorder.users(A) == ["sent", "asked"]
    assert len(recorder.of(B)) == 1
    way(real_host.freeze)
    assert real_host.state == "frozen"
    way(real_host.unfreeze)
    assert way(lambda: real_host.request(A, "again")) == "again"
    way(real_host.stop)
    assert real_host.state == "stopped"
    assert recorder.of(A)[-1] == Shutdown()


@ways
def test_messages_of_a_thread_keep_their_order(real_host: Host, recorder: Recorder, way: Way) -> None:
    def work() -> None:
        for number in range(200):
            if number % 10:
                real_host.send(A, number)
            else:
                assert real_host.request(A, number) == number

    way(work)
    until(lambda: len(recorder.users(A)) == 200)
    assert recorder.users(A) == list(range(200))
    assert_balanced(real_host.metrics)


def test_a_send_wakes_a_hub_that_waits_for_nothing_else(real_host: Host, recorder: Recorder) -> None:
    arrived = Event()

    def work() -> None:
        native_sleep(0.05)  # by now the hub sleeps
        real_host.send(A, lambda ctx: arrived.set())

    start_new_thread(work, ())
    assert arrived.wait(10)


@ways
def test_errors_reach_the_thread(real_host: Host, recorder: Recorder, way: Way) -> None:
    with pytest.raises(UnregisteredActorType):
        way(lambda: real_host.send(Ref("unknown", "1"), "x"))
    with pytest.raises(RemoteActorError, match="ZeroDivisionError"):
        way(lambda: real_host.request(A, fail))
    with pytest.raises(RequestTimeout):
        way(lambda: real_host.request(A, lambda ctx: None, 0.05))
    with pytest.raises(ValueError, match="timeout"):
        way(lambda: real_host.request(A, "x", 0))


@ways
def test_a_thread_feels_backpressure(make_host: MakeHost, way: Way) -> None:
    host = make_host(clock=SystemClock(), actor_inbox_size=2, request_timeout=0.2)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    host.send(A, lambda ctx: go.wait())
    until(lambda: recorder.users(A))
    way(lambda: host.send(A, 1))
    way(lambda: host.send(A, 2))
    with pytest.raises(InboxFull):
        way(lambda: host.send(A, 3))
    waiting = in_background(way, lambda: host.send(A, 4))
    until(lambda: host.metrics.snapshot()["senders_waiting"] == 1)
    go.set()
    waiting.get(timeout=10)
    until(lambda: recorder.users(A)[1:] == [1, 2, 4])


@ways
def test_a_reply_from_a_thread_after_receive_has_returned(real_host: Host, recorder: Recorder, way: Way) -> None:
    def later(ctx: Context) -> None:
        gevent.spawn(way, lambda: ctx.reply("from a thread"))

    assert real_host.request(A, later) == "from a thread"


def test_a_reply_from_a_thread_while_its_handler_burns_cpu(real_host: Host, recorder: Recorder) -> None:
    """The reply is given in the very moment in which the hub cannot run, before `receive` has returned."""

    def burn(ctx: Context) -> None:
        begun = allocate_lock()
        begun.acquire()

        def answer() -> None:
            begun.release()
            ctx.reply("from a thread")

        start_new_thread(answer, ())
        begun.acquire()
        native_sleep(0.01)

    for _ in range(20):
        assert real_host.request(A, burn) == "from a thread"
    assert real_host.metrics.snapshot()["requests_pending"] == 0


@ways
def test_a_context_may_send_and_ask_from_a_thread(real_host: Host, recorder: Recorder, way: Way) -> None:
    senders: list[Ref | None] = []

    def note(ctx: Context) -> None:
        senders.append(ctx.sender)
        ctx.reply("noted")

    def use(ctx: Context) -> None:
        way(lambda: ctx.send(B, note))
        ctx.reply(way(lambda: ctx.request(B, note)))

    assert real_host.request(A, use) == "noted"
    assert senders == [A, A]


def test_many_threads_and_greenlets_at_once(real_host: Host, recorder: Recorder) -> None:
    finished: list[Any] = []

    def work(name: str) -> None:
        try:
            for number in range(100):
                ref = Ref("a", str(number % 7))
                message = (name, number)
                if number % 3:
                    real_host.send(ref, message)
                elif real_host.request(ref, message) != message:
                    raise AssertionError(message)
            finished.append(name)
        except BaseException as error:
            finished.append(error)

    for number in range(4):
        start_new_thread(work, (f"thread {number}",))
        get_hub().threadpool.spawn(work, f"pool {number}")
        gevent.spawn(work, f"greenlet {number}")
    until(lambda: len(finished) == 12, timeout=30)
    assert all(isinstance(name, str) for name in finished), finished
    until(lambda: real_host.metrics.snapshot()["messages_queued"] == 0)
    for name in finished:
        for target in range(7):
            got = [number for who, number in recorder.users(Ref("a", str(target))) if who == name]
            assert got == [number for number in range(100) if number % 7 == target]
    assert_balanced(real_host.metrics)


@ways
def test_a_thread_is_refused_by_a_host_that_has_stopped_or_not_started(way: Way) -> None:
    host = Host()
    host.register_actor("a", Recorder())
    with pytest.raises(HostNotRunning, match="not started"):
        way(lambda: host.send(A, "x"))
    host.start()
    host.stop()
    with pytest.raises(HostDraining):
        way(lambda: host.send(A, "x"))
    with pytest.raises(HostDraining):
        way(lambda: host.request(A, "x"))


def test_a_thread_in_mid_request_is_told_when_the_host_stops(make_host: MakeHost) -> None:
    host = make_host(clock=SystemClock(), drain_timeout=0.05, request_timeout=60)
    recorder = Recorder()
    host.register_actor("a", recorder)
    asking = in_background(by_thread, lambda: host.request(A, lambda ctx: Event().wait()))
    until(lambda: recorder.users(A))
    host.stop()
    with pytest.raises(HostDraining):
        asking.get(timeout=10)


def test_a_thread_does_not_wait_for_ever_for_a_hub_that_is_blocked(make_host: MakeHost) -> None:
    """What the hub did not begin in time is withdrawn: its caller was told that it failed."""
    host = make_host(clock=SystemClock(), request_timeout=0.05)
    recorder = Recorder()
    host.register_actor("a", recorder)
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            host.send(A, "too late")
        except BaseException as error:
            outcome.append(error)

    start_new_thread(work, ())
    native_sleep(2)  # blocks the hub, as a receiver without monkey patching would
    assert [type(error) for error in outcome] == [TheatreError]
    assert "is its hub blocked?" in str(outcome[0])
    host.request(A, "afterwards")
    assert recorder.users(A) == ["afterwards"]
