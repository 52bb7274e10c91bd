"""What cannot be processed is accounted for, with its reason, and its sender is told if it asked."""

from __future__ import annotations

from typing import Any

import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, fail, in_background, stop_actor
from theatre_gevent import (
    Context,
    DeadLetter,
    Host,
    HostDraining,
    HostFrozen,
    HostNotRunning,
    Ref,
    RemoteActorError,
)
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")


def hold(host: Host, clock: VirtualClock, ref: Ref = A) -> Event:
    """Keep an actor busy until the returned event is set."""
    go = Event()
    host.send(ref, lambda ctx: go.wait())
    clock.settle()
    return go


def test_each_reason_is_told(make_host: MakeHost, clock: VirtualClock, dead_letters: list[DeadLetter]) -> None:
    host = make_host()
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.register_actor("broken", lambda: 1 / 0)
    recorder.on_initialize = fail
    host.send(A, "Initialize raises")
    clock.settle()
    recorder.on_initialize = stop_actor
    host.send(A, "Initialize stops")
    clock.settle()
    recorder.on_initialize = None
    host.send(Ref("broken", "1"), "factory raises")
    clock.settle()
    assert [(letter.message, letter.reason) for letter in dead_letters] == [
        ("Initialize raises", "the actor could not be activated: ZeroDivisionError: as told"),
        ("Initialize stops", "the actor stopped itself in Initialize"),
        ("factory raises", "the actor could not be activated: ZeroDivisionError: division by zero"),
    ]
    assert [type(letter.error).__name__ for letter in dead_letters] == [
        "ZeroDivisionError",
        "StopActor",
        "ZeroDivisionError",
    ]
    assert host.metrics.snapshot()["messages_dead_lettered"] == 3


def test_frozen_with_messages_queued(host: Host, clock: VirtualClock, dead_letters: list[DeadLetter]) -> None:
    host.register_actor("a", Recorder())
    go = hold(host, clock)
    host.send(A, "queued")
    asked = in_background(host.request, A, "asked")
    clock.settle()
    freezing = in_background(host.freeze)
    clock.settle()
    assert [(letter.message, letter.reason) for letter in dead_letters] == [
        ("queued", "the host has frozen"),
        ("asked", "the host has frozen"),
    ]
    with pytest.raises(HostFrozen):
        asked.get(block=False)
    go.set()
    clock.settle()
    freezing.get(block=False)
    assert_balanced(host.metrics)


def test_stopped_with_messages_that_nobody_gets_to(
    make_host: MakeHost, clock: VirtualClock, dead_letters: list[DeadLetter]
) -> None:
    host = make_host(drain_timeout=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    hold(host, clock)
    host.send(A, "queued")
    asked = in_background(host.request, A, "asked", 60)
    clock.settle()
    stopping = in_background(host.stop)
    clock.advance(5)
    stopping.get(block=False)
    assert [letter.message for letter in dead_letters] == ["queued", "asked"]
    assert all("stop" in letter.reason or "shutting" in letter.reason for letter in dead_letters)
    with pytest.raises((HostDraining, RemoteActorError)):
        asked.get(block=False)
    assert_balanced(host.metrics)


def test_a_message_sent_to_an_actor_that_is_being_shut_down(
    host: Host, clock: VirtualClock, dead_letters: list[DeadLetter]
) -> None:
    """Messages to actors that were dying or absent vanished without a trace."""
    recorder = Recorder()
    host.register_actor("a", recorder)

    def send_to_both(ctx: Context) -> None:
        for ref in (A, B):
            ctx.send(ref, f"from {ctx.actor_ref}")

    recorder.on_shutdown = send_to_both
    host.send(A, "x")
    clock.settle()
    stopping = in_background(host.stop)
    clock.advance(1)
    stopping.get(block=False)
    assert [(letter.ref, letter.message, letter.sender, letter.reason) for letter in dead_letters] == [
        (A, "from a/1", A, "the host is shutting its actors down"),
        (B, "from a/1", A, "the host is shutting its actors down"),
    ]
    assert_balanced(host.metrics)


def test_the_sender_is_named(host: Host, clock: VirtualClock, dead_letters: list[DeadLetter]) -> None:
    host.register_actor("a", Recorder())
    host.register_actor("broken", lambda: 1 / 0)

    def both(ctx: Context) -> None:
        ctx.send(Ref("broken", "1"), "sent")
        with pytest.raises(RemoteActorError):
            ctx.request(Ref("broken", "1"), "asked")

    host.send(A, both)
    clock.settle()
    assert sorted((letter.message, letter.sender) for letter in dead_letters) == [("asked", A), ("sent", A)]


@pytest.mark.parametrize("error", [ValueError("handler"), TimeoutError()])
def test_a_handler_that_raises_does_no_harm(
    make_host: MakeHost, clock: VirtualClock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def handler(letter: DeadLetter) -> None:
        raise error

    host = make_host(dead_letter_handler=handler)
    broken = True
    recorder = Recorder()

    def factory() -> Any:
        return recorder() if not broken else 1 / 0

    host.register_actor("a", factory)
    with pytest.raises(RemoteActorError, match="ZeroDivisionError"):
        host.request(A, "x")
    broken = False
    assert host.request(A, "y") == "y"
    assert any("dead_letter_handler raised for a/1" in record.getMessage() for record in caplog.records)
    assert host.metrics.snapshot()["messages_dead_lettered"] == 1


def test_a_handler_may_send_and_wait(make_host: MakeHost, clock: VirtualClock) -> None:
    recorder = Recorder()
    host: Host

    def handler(letter: DeadLetter) -> None:
        clock.sleep(1)
        host.send(B, f"lost: {letter.message}")

    host = make_host(dead_letter_handler=handler)
    host.register_actor("a", recorder)
    host.register_actor("broken", lambda: 1 / 0)
    host.send(Ref("broken", "1"), "one")
    host.send(Ref("broken", "1"), "two")
    clock.settle()
    host.send(Ref("broken", "1"), "three, while the handler waits")
    clock.advance(5)
    assert recorder.users(B) == ["lost: one", "lost: two", "lost: three, while the handler waits"]


def test_without_a_handler_the_log_has_it(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    host = make_host(dead_letter_handler=None)
    host.register_actor("broken", lambda: 1 / 0)
    with caplog.at_level("INFO", logger="theatre_gevent"), pytest.raises(RemoteActorError):
        host.request(Ref("broken", "1"), "x")
    assert any("dead letter for broken/1" in record.getMessage() for record in caplog.records)


def test_what_was_refused_is_no_dead_letter(host: Host, clock: VirtualClock, dead_letters: list[DeadLetter]) -> None:
    """Its sender got an exception and knows; only what was accepted is accounted for."""
    host.register_actor("a", Recorder())
    stopping = in_background(host.stop)
    clock.advance(1)
    stopping.get(block=False)
    with pytest.raises(HostNotRunning):
        host.send(A, "x")
    assert dead_letters == []
    assert host.metrics.snapshot()["messages_sent"] == 0
