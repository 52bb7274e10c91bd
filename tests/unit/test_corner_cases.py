"""Corners in which the core once went wrong."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent import Greenlet
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, fail, in_background, run_in_steps, stop_actor, until
from theatre_gevent import (
    CallCycle,
    Context,
    DeadLetter,
    Host,
    Initialize,
    Ref,
    RemoteActorError,
    RequestTimeout,
    Shutdown,
    SystemClock,
)
from theatre_gevent.core.context import Request as ContextRequest
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")


def test_room_is_given_when_the_last_turn_ends_by_stop_actor(make_host: MakeHost, clock: VirtualClock) -> None:
    """The host was empty, and a sender still waited for room until it gave up."""
    host = make_host(host_inbox_size=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()

    def wait_and_stop(ctx: Context) -> None:
        go.wait()
        stop_actor(ctx)

    host.send(A, wait_and_stop)
    waiting = in_background(host.send, B, "x")
    clock.settle()
    assert not waiting.ready()
    go.set()
    clock.settle()
    assert waiting.ready(), "the host is empty and the sender still waits"


def test_a_spawn_local_that_gave_up_is_forgotten(make_host: MakeHost, clock: VirtualClock) -> None:
    """It was counted for ever, so that the requests that wait became fewer than none."""
    host = make_host(request_timeout=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    recorder.on_initialize = lambda ctx: go.wait()
    task = in_background(host.spawn_local, A)
    clock.advance(2)
    with pytest.raises(RequestTimeout):
        task.get(block=False)
    try:
        assert host.metrics.snapshot()["requests_pending"] == 0
    finally:
        go.set()


def test_interrupted_in_line_just_when_room_came(make_host: MakeHost) -> None:
    """The reply to a request whose caller was interrupted switches into that caller, whatever it waits for now."""
    host = make_host(clock=SystemClock(), actor_inbox_size=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    clock = SystemClock()
    outcome: list[Any] = []
    fine = Event()

    def caller() -> None:
        try:
            host.request(A, "asked")
        except KeyError:
            outcome.append("interrupted")
        # an ordinary wait, which nobody but `fine` may end
        fine.wait()
        outcome.append("fine")

    task = Greenlet(caller)

    def first(ctx: Context) -> None:
        go.wait()

    def second(ctx: Context) -> None:
        # By now the line has moved up; the caller is interrupted before it goes on.
        task.kill(KeyError("interrupted"), block=False)
        end = clock.monotonic() + 0.02
        while clock.monotonic() < end:
            pass

    host.send(A, first)
    gevent.sleep(0.01)
    host.send(A, second)
    task.start()
    gevent.sleep(0.01)
    go.set()
    until(lambda: recorder.users(A)[-1:] == ["asked"])
    gevent.sleep(0.05)
    assert not task.ready()
    fine.set()
    task.join()
    assert outcome == ["interrupted", "fine"]
    assert task.successful()


def test_an_error_of_initialize_is_wrapped_as_every_other(make_host: MakeHost, clock: VirtualClock) -> None:
    """What Initialize raises reaches the requester as RemoteActorError, as what other handlers raise does."""
    host = make_host(request_timeout=1)
    recorder = Recorder()
    host.register_actor("a", recorder)

    def initialize(ctx: Context) -> None:
        raise RequestTimeout("of my own making")

    recorder.on_initialize = initialize
    with pytest.raises(RemoteActorError, match="of my own making"):
        run_in_steps(clock, lambda: host.request(A, "x"))
    assert host.metrics.snapshot()["requests_timed_out"] == 0


def test_a_request_made_too_late_is_a_dead_letter_with_its_sender(host: Host, dead_letters: list[DeadLetter]) -> None:
    """The dead letter of a request, unlike that of a message, named nobody."""
    recorder = Recorder()
    host.register_actor("a", recorder)

    def last(ctx: Context) -> None:
        if ctx.actor_ref == A:
            try:
                ctx.request(B, "too late")
            except Exception:
                pass

    recorder.on_shutdown = last
    host.send(A, "x")
    host.stop()
    assert [(letter.ref, letter.sender) for letter in dead_letters] == [(B, A)]


@pytest.mark.parametrize("timeout", [float("inf"), "5"])
def test_odd_timeouts(host: Host, timeout: Any) -> None:
    """They were found only after the message had been accepted."""
    host.register_actor("a", Recorder())
    host.request(A, "warm")
    with pytest.raises(ValueError, match="timeout"):
        host.request(A, lambda ctx: gevent.sleep(0.01), timeout=timeout)


def test_panic_in_initialize(make_host: MakeHost, clock: VirtualClock) -> None:
    """Without panic recovery every exception of a receiver stops the host."""
    host = make_host(panic_recovery=False)
    recorder = Recorder()
    host.register_actor("a", recorder)
    recorder.on_initialize = lambda ctx: 1 / 0
    host.send(A, "x")
    clock.settle()
    assert host.state in ("draining", "stopped")


def test_panic_in_shutdown(make_host: MakeHost, clock: VirtualClock) -> None:
    """Without panic recovery every exception of a receiver stops the host."""
    host = make_host(panic_recovery=False)
    recorder = Recorder()
    host.register_actor("a", recorder)
    recorder.on_shutdown = lambda ctx: 1 / 0
    host.send(A, stop_actor)
    clock.settle()
    assert host.state in ("draining", "stopped")


def test_a_cycle_through_shutdown(make_host: MakeHost, clock: VirtualClock) -> None:
    """A asks B, B stops itself, and its Shutdown asks A."""
    host = make_host()
    recorder = Recorder()
    host.register_actor("a", recorder)
    caught: list[BaseException] = []

    def shutdown(ctx: Context) -> None:
        if ctx.actor_ref == B:
            try:
                ctx.request(A, "hello?")
            except Exception as error:
                caught.append(error)

    recorder.on_shutdown = shutdown

    def ask(ctx: Context) -> None:
        try:
            ctx.request(B, stop_actor)
        except RemoteActorError as error:
            ctx.reply(error.type_name)

    task = in_background(host.request, A, ask)
    clock.settle()
    clock.advance(0.01)
    assert task.ready()
    assert isinstance(caught[0], CallCycle)


def test_a_cycle_through_spawn_local(make_host: MakeHost, clock: VirtualClock) -> None:
    """An actor activates another, whose Initialize asks it."""
    host = make_host()
    recorder = Recorder()
    host.register_actor("a", recorder)

    def initialize(ctx: Context) -> None:
        if ctx.actor_ref == B:
            ctx.request(A, "hello?")

    recorder.on_initialize = initialize

    def spawn(ctx: Context) -> None:
        host.spawn_local(B)

    task = in_background(host.request, A, spawn)
    clock.settle()
    clock.advance(0.01)
    assert task.ready()
    with pytest.raises(RemoteActorError, match="cycle"):
        task.get()


def test_each_waiter_gets_an_exception_of_its_own(host: Host, clock: VirtualClock) -> None:
    """A shared one collects the tracebacks of all."""
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    tasks = [in_background(host.request, A, n) for n in range(2)]
    clock.settle()
    freezing = in_background(host.freeze)
    clock.settle()
    go.set()
    freezing.join()
    errors = []
    for task in tasks:
        try:
            task.get(timeout=1)
        except Exception as error:
            errors.append(error)
    assert len(errors) == 2
    assert errors[0] is not errors[1]


def test_an_endless_self_send_yields_though_time_stands_still(make_host: MakeHost, clock: VirtualClock) -> None:
    """Only time bounded how long workers went on, and a virtual clock stands still."""
    host = make_host()
    seen = 0
    stopped = False

    @host.actor("endless")
    def endless(ctx: Context) -> None:
        nonlocal seen
        if isinstance(ctx.message, (Initialize, Shutdown)):
            return
        seen += 1
        if seen > 500_000:
            raise AssertionError("the hub never ran")
        if not stopped:
            ctx.send(ctx.actor_ref, "again")

    host.send(Ref("endless", "1"), "go")
    gevent.sleep(0)
    gevent.sleep(0)
    stopped = True
    clock.settle()
    assert seen < 500_000


def test_an_expired_request_has_no_time_left_for_others(host: Host, clock: VirtualClock) -> None:
    """What is left to a request whose deadline has passed is nothing, and not a whole new timeout."""
    recorder = Recorder()
    host.register_actor("a", recorder)
    took: list[float] = []

    def slow(ctx: Context) -> None:
        clock.sleep(2)
        start = clock.monotonic()
        try:
            ctx.request(B, lambda other: clock.sleep(100), timeout=50)
        except RequestTimeout:
            took.append(clock.monotonic() - start)

    task = in_background(host.request, A, slow, 1.0)
    clock.advance(60)
    with pytest.raises(RequestTimeout):
        task.get(block=False)
    assert took[0] < 1


def test_frozen_while_a_dead_letter_handler_blocks(make_host: MakeHost, clock: VirtualClock) -> None:
    """What could not be activated is on its way out when the host freezes; its end must not take a successor away."""
    go = Event()

    def stubborn(letter: DeadLetter) -> None:
        while not go.is_set():
            try:
                go.wait()
            except BaseException:
                pass

    host = make_host(freeze_grace_period=0.5, dead_letter_handler=stubborn)
    recorder = Recorder()
    host.register_actor("a", recorder)
    recorder.on_initialize = fail
    host.send(A, "x")
    clock.settle()
    freezing = in_background(host.freeze)
    clock.advance(3)
    assert freezing.ready()
    recorder.on_initialize = None
    host.unfreeze()
    assert run_in_steps(clock, lambda: host.request(A, "y")) == "y"
    instances = recorder.instances
    go.set()
    clock.settle()
    assert run_in_steps(clock, lambda: host.request(A, "z")) == "z"
    assert recorder.instances == instances
    assert_balanced(host.metrics)
    assert host.metrics.snapshot()["actors_active"] == 1


def test_a_request_on_its_way_to_nobody_cannot_be_answered() -> None:
    """In C, its activation would be used without being there."""
    with pytest.raises((TypeError, AttributeError)):
        ContextRequest.__new__(ContextRequest).reply("early")
