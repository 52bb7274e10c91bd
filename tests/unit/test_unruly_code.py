"""Whatever the user's code does, the actor goes on, who asked is answered, and the books balance."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import pytest
from gevent import Greenlet, GreenletExit
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, in_background, stop_actor, until
from theatre_gevent import (
    CallCycle,
    Context,
    DeadLetter,
    Host,
    HostDraining,
    HostFrozen,
    InboxFull,
    Initialize,
    InvalidRef,
    Ref,
    RemoteActorError,
    Shutdown,
)
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("b", "1")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


class Grave(BaseException):
    """As those of test frameworks, which is no Exception."""


class Broken(logging.Filter):
    """Of an application that has made a mistake."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("no filter")


def speechless(ctx: Context) -> None:
    raise Speechless


def grave(ctx: Context) -> None:
    raise Grave("grave")


def error_of(greenlet: Greenlet[..., Any]) -> BaseException | None:
    """Return what a greenlet of `in_background` raised."""
    with pytest.raises(Exception) as raised:
        greenlet.get()
    return raised.value


def ask_behind_another(host: Host, body: Any) -> BaseException | None:
    """Ask an actor while it has other messages; return the error."""
    go = Event()
    host.send(A, lambda ctx: go.wait())
    gevent.sleep(0)
    host.send(A, "before")
    asked = in_background(host.request, A, body)
    gevent.sleep(0)
    go.set()
    return error_of(asked)


@pytest.mark.parametrize("raises", [speechless, grave])
def test_an_error_that_is_no_usual_one_harms_nobody(real_host: Host, raises: Any) -> None:
    host = real_host
    host.register_actor("a", Recorder())
    for _ in range(2):
        with pytest.raises(RemoteActorError):
            host.request(A, raises)  # alone
        assert isinstance(ask_behind_another(host, raises), RemoteActorError)
    assert host.request(A, lambda ctx: ctx.reply("still here")) == "still here"
    assert_balanced(host.metrics)


def test_the_text_of_an_error_that_has_none_says_so(real_host: Host, dead_letters: list[DeadLetter]) -> None:
    recorder = Recorder()
    real_host.register_actor("a", recorder)
    with pytest.raises(RemoteActorError, match="its __str__ raised RuntimeError"):
        real_host.request(A, speechless)
    recorder.on_initialize = speechless
    with pytest.raises(RemoteActorError, match="Speechless"):
        real_host.request(Ref("a", "2"), "hello")
    until(lambda: dead_letters)
    assert "Speechless" in dead_letters[0].reason


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("phase", ["message", "factory"])
def test_a_logging_filter_that_raises_leaves_no_actor_dead(make_host: MakeHost, phase: str) -> None:
    host = make_host()
    recorder = Recorder()
    host.register_actor("a", recorder)
    broken = Broken()
    logger = logging.getLogger("theatre_gevent.actor")
    logger.addFilter(broken)
    try:
        if phase == "factory":
            recorder.on_initialize = grave
            with pytest.raises(RemoteActorError):
                host.request(A, "hello")
        else:
            assert isinstance(ask_behind_another(host, speechless), RemoteActorError)
    finally:
        logger.removeFilter(broken)
    recorder.on_initialize = None
    assert host.request(A, lambda ctx: ctx.reply(1)) == 1


def test_a_receiver_is_looked_up_for_each_message(real_host: Host) -> None:
    got: list[str] = []

    class Becoming:
        def __init__(self) -> None:
            self.receive = self.first

        def first(self, ctx: Context) -> None:
            if ctx.message == "become":
                self.receive = self.second

        def second(self, ctx: Context) -> None:
            if isinstance(ctx.message, str):
                got.append(ctx.message)

    real_host.register_actor("a", lambda: Becoming())  # a class needs the method
    for message in ("become", "x", "y"):
        real_host.send(A, message)  # into one turn
    until(lambda: len(got) == 2)
    assert got == ["x", "y"]


def test_a_receiver_without_receive_fails_its_messages_and_nothing_else(real_host: Host) -> None:
    class Losing:
        broken = False

        def receive(self, ctx: Context) -> None:
            if isinstance(ctx.message, str):
                ctx.reply(ctx.message)

        def __getattribute__(self, name: str) -> Any:
            if name == "receive" and Losing.broken:
                raise AttributeError("gone")
            return object.__getattribute__(self, name)

    real_host.register_actor("a", Losing)
    assert real_host.request(A, "one") == "one"
    Losing.broken = True
    for _ in range(3):
        real_host.send(A, "lost")
    until(lambda: real_host.metrics.snapshot()["receiver_errors"] == 3)
    Losing.broken = False
    assert real_host.request(A, "two") == "two"
    assert_balanced(real_host.metrics)


def test_panic_recovery_off_sees_what_is_no_exception(make_host: MakeHost, clock: VirtualClock) -> None:
    for on_shutdown in (False, True):
        host = make_host(panic_recovery=False, idle_timeout=1)
        recorder = Recorder()
        host.register_actor("a", recorder)
        host.send(A, "alive" if on_shutdown else grave)
        if on_shutdown:
            recorder.on_shutdown = grave
            clock.settle()
        clock.advance(5)
        assert host.state in ("draining", "stopped")
        assert isinstance(host.stopped_by, Grave)


def test_a_worker_that_is_killed_is_no_panic(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(panic_recovery=False)
    host.register_actor("a", Recorder())

    def killed(ctx: Context) -> None:
        raise GreenletExit

    host.send(A, killed)
    clock.settle()
    assert host.state == "active"
    assert host.stopped_by is None


def test_whom_a_factory_asks_knows_who_waits(real_host: Host) -> None:
    host = real_host

    def asks_a() -> Any:
        host.request(A, "back")
        return Recorder()

    host.register_actor("a", Recorder())
    host.register_actor("b", asks_a)
    host.register_actor("c", lambda: host.request(Ref("c", "1"), "myself"))
    with pytest.raises(RemoteActorError, match="CallCycle"):
        host.request(A, lambda ctx: ctx.reply(ctx.request(B, "hello")))
    with pytest.raises(RemoteActorError) as raised:
        host.request(Ref("c", "1"), "hello")
    assert raised.value.type_name == CallCycle.__name__


def test_a_ref_of_a_class_of_its_own_is_refused(real_host: Host) -> None:
    class AccountRef(Ref, frozen=True):
        """Equal to no other Ref, so that it would be another actor."""

    real_host.register_actor("a", Recorder())
    with pytest.raises(InvalidRef, match="AccountRef"):
        real_host.send(AccountRef("a", "1"), "hello")


# -- handlers of dead letters --------------------------------------------------------------------------------------


def test_no_message_is_handled_while_a_freeze_tells_its_dead_letters(make_host: MakeHost, clock: VirtualClock) -> None:
    told, handled = [], []

    def handler(letter: DeadLetter) -> None:
        told.append(letter)
        clock.sleep(0.1)

    host = make_host(dead_letter_handler=handler)

    @host.actor("a")
    def receive(ctx: Context) -> None:
        if ctx.message == "hold":
            clock.sleep(0.05)
        elif isinstance(ctx.message, int):
            handled.append((host.state, ctx.message))

    refs = [Ref("a", str(number)) for number in range(5)]
    for ref in refs:
        host.send(ref, "hold")
    clock.settle()
    for ref in refs:
        for number in range(3):
            host.send(ref, number)
    freezing = in_background(host.freeze)
    clock.advance(2)
    freezing.get(block=False)
    assert handled == []
    assert len(told) == 15
    assert_balanced(host.metrics)


def test_a_freeze_that_is_over_refuses_nobody(make_host: MakeHost, clock: VirtualClock) -> None:
    told = []

    def handler(letter: DeadLetter) -> None:
        told.append(letter.message)
        clock.sleep(1)

    host = make_host(dead_letter_handler=handler, actor_inbox_size=2)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.send(A, lambda ctx: clock.sleep(3))
    clock.settle()
    host.send(A, "old")
    freezing = in_background(host.freeze)
    clock.advance(0.1)
    host.unfreeze()
    senders = [in_background(host.send, A, f"new {number}") for number in range(6)]
    clock.advance(10)
    for greenlet in (freezing, *senders):
        greenlet.get(block=False)
    assert told == ["old"]
    assert [m for m in recorder.users(A) if isinstance(m, str)] == [f"new {number}" for number in range(6)]


@pytest.mark.parametrize("mode", ["stops the host", "blocks", "raises what is no Exception"])
def test_a_stop_ends_whatever_the_handler_does(make_host: MakeHost, clock: VirtualClock, mode: str) -> None:
    def handler(letter: DeadLetter) -> None:
        if mode == "stops the host":
            host.stop()
        elif mode == "blocks":
            clock.sleep(5)
        else:
            raise Grave

    host = make_host(dead_letter_handler=handler, drain_timeout=0.5)
    host.register_actor("a", Recorder())
    for ref in (A, Ref("a", "2")):
        host.send(ref, lambda ctx: clock.sleep(1000))
    clock.settle()
    for number in range(20):
        host.send(A, number)
    asked = in_background(host.request, A, "question")
    clock.settle()
    stopping = in_background(host.stop)
    clock.advance(4)  # two timeouts, a second for the killed handlers, and one for the handlers of dead letters
    stopping.get(block=False)
    assert host.state == "stopped"
    assert isinstance(error_of(asked), HostDraining)
    assert not host._registry.actors
    assert_balanced(host.metrics)


def test_who_asked_does_not_wait_for_the_handler(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(dead_letter_handler=lambda letter: clock.sleep(1))
    host.register_actor("a", lambda: 1 / 0)
    asked = in_background(host.request, A, "hello", 0.5)
    clock.settle()
    assert isinstance(error_of(asked), RemoteActorError)
    clock.advance(2)


def test_a_handler_that_raises_what_is_no_exception_ends_no_worker(make_host: MakeHost, clock: VirtualClock) -> None:
    def handler(letter: DeadLetter) -> None:
        raise Grave

    host = make_host(dead_letter_handler=handler)
    recorder = Recorder()
    host.register_actor("a", recorder)
    recorder.on_initialize = speechless
    host.send(A, "lost")
    clock.settle()
    recorder.on_initialize = None
    host.send(A, "found")
    clock.settle()
    assert "found" in recorder.users(A)
    assert_balanced(host.metrics)


def test_freezing_kills_no_shutdown_of_a_stop_that_follows(make_host: MakeHost, clock: VirtualClock) -> None:
    ended: list[str] = []
    host = make_host(freeze_grace_period=1, drain_timeout=10)

    @host.actor("a")
    def receive(ctx: Context) -> None:
        if isinstance(ctx.message, Shutdown):
            clock.sleep(1)
            ended.append(ctx.actor_ref.id)
        elif not isinstance(ctx.message, Initialize):
            clock.sleep(ctx.message)

    host.send(A, 0)
    host.send(Ref("a", "busy"), 0.9)
    clock.settle()
    freezing = in_background(host.freeze)
    clock.advance(0.5)
    assert host.state == "frozen"
    with pytest.raises(HostFrozen):
        host.send(A, 0)
    stopping = in_background(host.stop)
    clock.advance(5)
    for greenlet in (freezing, stopping):
        greenlet.get(block=False)
    assert sorted(ended) == ["1", "busy"]


@pytest.mark.parametrize("leaves", ["idle", "told to"])
def test_logging_that_raises_lets_an_actor_leave(make_host: MakeHost, clock: VirtualClock, leaves: str) -> None:
    host = make_host(idle_timeout=1)
    recorder = Recorder()
    recorder.on_shutdown = speechless
    host.register_actor("a", recorder)
    broken, logger = Broken(), logging.getLogger("theatre_gevent.actor")
    logger.addFilter(broken)
    try:
        host.send(A, stop_actor if leaves == "told to" else "hello")
        clock.advance(5)
    finally:
        logger.removeFilter(broken)
    assert host.metrics.snapshot()["actors_active"] == 0
    host.send(A, "again")
    clock.settle()
    assert "again" in recorder.users(A)
    assert recorder.instances == 2


def test_logging_that_raises_lets_a_host_freeze_and_stop(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(freeze_grace_period=0.5, drain_timeout=0.5)
    host.register_actor("a", Recorder())
    broken = Broken()
    loggers = [logging.getLogger(f"theatre_gevent.{name}") for name in ("actor", "host")]
    refs = [Ref("a", str(number)) for number in range(3)]
    for logger in loggers:
        logger.addFilter(broken)
    try:
        for end in ("freeze", "stop"):
            for ref in refs:
                host.send(ref, lambda ctx: clock.sleep(1000))
            clock.settle()
            ending = in_background(getattr(host, end))
            clock.advance(5)
            ending.get(block=False)
            assert not host._closer._busy()
            if end == "freeze":
                host.unfreeze()
    finally:
        for logger in loggers:
            logger.removeFilter(broken)
    assert host.state == "stopped"
    assert not host._registry.actors


def test_a_stop_returns_when_the_dead_letters_are_told(make_host: MakeHost, clock: VirtualClock) -> None:
    told: list[Any] = []

    def handler(letter: DeadLetter) -> None:
        clock.sleep(0.05)
        told.append(letter.message)

    host = make_host(dead_letter_handler=handler, drain_timeout=1)
    host.register_actor("a", Recorder())
    host.send(A, lambda ctx: clock.sleep(1.2))  # past the draining: what is behind it becomes dead letters
    clock.settle()
    for number in range(10):
        host.send(A, number)
    stopping = in_background(host.stop)
    while not stopping.ready():
        clock.advance(0.05)
        assert clock.monotonic() < 2000
    assert told == list(range(10))


def test_the_rest_of_the_dead_letters_is_told_though_the_handler_had_to_be_killed(
    make_host: MakeHost, clock: VirtualClock
) -> None:
    told: list[Any] = []

    def handler(letter: DeadLetter) -> None:
        told.append(letter.message)
        if letter.message == 0:
            clock.sleep(1000)

    host = make_host(dead_letter_handler=handler, drain_timeout=1)
    host.register_actor("a", Recorder())
    host.send(A, lambda ctx: clock.sleep(1.2))
    clock.settle()
    for number in range(10):
        host.send(A, number)
    stopping = in_background(host.stop)
    clock.advance(5)
    stopping.get(block=False)
    assert told == list(range(10))
    assert not host._dispatcher.workers


@pytest.mark.parametrize("cause", ["activation", "freeze"])
def test_dead_letters_of_an_actor_are_told_one_after_the_other(
    make_host: MakeHost, clock: VirtualClock, cause: str
) -> None:
    told: list[Any] = []
    at_once = [0]

    def handler(letter: DeadLetter) -> None:
        at_once[0] += 1
        assert at_once[0] == 1
        clock.sleep(0.3 if letter.message == 0 else 0.1)
        at_once[0] -= 1
        told.append(letter.message)

    host = make_host(dead_letter_handler=handler)
    recorder = Recorder()
    host.register_actor("a", recorder)
    if cause == "activation":
        recorder.on_initialize = speechless
    else:
        host.send(A, lambda ctx: clock.sleep(0.1))
        clock.settle()
    for number in range(8):
        host.send(A, number)
    if cause == "freeze":
        in_background(host.freeze)
    clock.advance(1.5)
    assert told == list(range(8))
    assert host.metrics.snapshot()["messages_dead_lettered"] == 8


def test_a_greenlet_that_an_actor_has_left_behind_waits_for_room(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(host_inbox_size=10, request_timeout=1)
    host.register_actor("a", Recorder())
    ended: list[BaseException] = []

    def pump(ctx: Context) -> None:
        try:
            for number in range(1000):
                ctx.send(Ref("a", f"slow {number}"), lambda ctx: clock.sleep(100))
        except InboxFull as error:
            ended.append(error)

    host.send(A, lambda ctx: gevent.spawn(pump, ctx) and None)
    host.send(A, lambda ctx: clock.sleep(50))  # at work again, with another message
    clock.advance(3)
    assert ended
    assert host.metrics.snapshot()["messages_sent"] < 20
