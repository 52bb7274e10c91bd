"""Bounded inboxes: who waits, in which order, for how long, and who never may."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, in_background, stop_actor, until
from theatre_gevent import (
    Context,
    DeadLetter,
    Host,
    InboxFull,
    InvalidRef,
    Ref,
    RequestTimeout,
    SystemClock,
    UnregisteredActorType,
)
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")


class Gate:
    """A message that holds its actor until it is opened."""

    def __init__(self) -> None:
        self.event = Event()
        self.entered = False

    def __call__(self, ctx: Context) -> None:
        self.entered = True
        self.event.wait()

    def open(self) -> None:
        self.event.set()


def crowd(make_host: MakeHost, **options: Any) -> tuple[Host, Recorder, Gate]:
    """A host whose actor A is held at a gate."""
    host = make_host(**options)
    recorder = Recorder()
    host.register_actor("a", recorder)
    gate = Gate()
    host.send(A, gate)
    gevent.sleep(0)
    gevent.sleep(0)
    assert gate.entered
    return host, recorder, gate


# -- one inbox -------------------------------------------------------------------------------------------------


def test_an_inbox_takes_its_size_and_then_senders_wait(make_host: MakeHost, clock: VirtualClock) -> None:
    host, recorder, gate = crowd(make_host, actor_inbox_size=3)
    for number in range(3):
        host.send(A, number)
    waiting = in_background(host.send, A, 3)
    clock.settle()
    assert not waiting.ready()
    counts = host.metrics.snapshot()
    assert (counts["senders_waiting"], counts["messages_queued"], counts["messages_sent"]) == (1, 3, 4)
    gate.open()
    clock.settle()
    assert waiting.ready()
    assert recorder.users(A) == [gate, 0, 1, 2, 3]
    assert host.metrics.snapshot()["senders_waiting"] == 0


def test_waiting_senders_go_on_in_the_order_in_which_they_came(make_host: MakeHost, clock: VirtualClock) -> None:
    host, recorder, gate = crowd(make_host, actor_inbox_size=1)
    host.send(A, 0)
    tasks = []
    for number in range(1, 20):
        verb = host.request if number % 3 == 0 else host.send
        tasks.append(in_background(verb, A, number))
        clock.settle()
    gate.open()
    clock.settle()
    assert recorder.users(A) == [gate, *range(20)]
    assert all(task.ready() for task in tasks)
    assert [task.get() for task in tasks[2::3]] == [3, 6, 9, 12, 15, 18]


def test_newcomers_do_not_overtake_those_in_line(make_host: MakeHost, clock: VirtualClock) -> None:
    host, recorder, gate = crowd(make_host, actor_inbox_size=1)
    host.send(A, "in")
    second = Gate()
    tasks = [in_background(host.send, A, message) for message in (second, "third", "fourth")]
    clock.settle()
    gate.open()
    clock.settle()
    assert second.entered
    # "third" has gone into the inbox, "fourth" is in line: a newcomer must go behind it.
    tasks.append(in_background(host.send, A, "newcomer"))
    clock.settle()
    second.open()
    clock.settle()
    assert recorder.users(A) == [gate, "in", second, "third", "fourth", "newcomer"]


def test_a_sender_waits_for_the_request_timeout_and_then_gets_inbox_full(
    make_host: MakeHost, clock: VirtualClock, dead_letters: list[DeadLetter]
) -> None:
    host, recorder, gate = crowd(make_host, actor_inbox_size=1, request_timeout=3)
    host.send(A, "in")
    waiting = in_background(host.send, A, "refused")
    clock.advance(2.9)
    assert not waiting.ready()
    clock.advance(0.2)
    with pytest.raises(InboxFull, match=r"the inbox of a/1 stayed full \(actor_inbox_size=1\) for 3 s"):
        waiting.get(block=False)
    counts = host.metrics.snapshot()
    assert (counts["inbox_full"], counts["senders_waiting"], counts["messages_sent"]) == (1, 0, 2)
    assert dead_letters == [], "it was never accepted: its sender knows"
    gate.open()
    clock.settle()
    assert recorder.users(A) == [gate, "in"]


def test_a_request_in_line_waits_no_longer_than_its_own_timeout(make_host: MakeHost, clock: VirtualClock) -> None:
    host, _, gate = crowd(make_host, actor_inbox_size=1, request_timeout=10)
    host.send(A, "in")
    waiting = in_background(host.request, A, "refused", 1.0)
    clock.advance(1.02)
    with pytest.raises((InboxFull, RequestTimeout)):
        waiting.get(block=False)
    gate.open()


def test_time_in_line_counts_towards_a_requests_timeout(make_host: MakeHost, clock: VirtualClock) -> None:
    host, _, gate = crowd(make_host, actor_inbox_size=1, request_timeout=10)
    host.send(A, "in")
    waiting = in_background(host.request, A, lambda ctx: None, 2.0)
    clock.advance(1.5)
    gate.open()
    clock.advance(0.4)
    assert not waiting.ready()
    clock.advance(0.12)
    with pytest.raises(RequestTimeout):
        waiting.get(block=False)


def test_an_actor_waits_at_a_full_inbox_too(make_host: MakeHost, clock: VirtualClock) -> None:
    host, recorder, gate = crowd(make_host, actor_inbox_size=2)
    sent: list[int] = []

    def flood(ctx: Context) -> None:
        for number in range(5):
            ctx.send(A, number)
            sent.append(number)

    host.send(B, flood)
    clock.settle()
    assert sent == [0, 1]
    gate.open()
    clock.settle()
    assert sent == [0, 1, 2, 3, 4]
    assert recorder.users(A) == [gate, 0, 1, 2, 3, 4]


def test_an_actor_is_told_at_once_that_its_own_inbox_is_full(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(actor_inbox_size=2)
    recorder = Recorder()
    host.register_actor("a", recorder)
    errors: list[InboxFull] = []

    def flood(ctx: Context) -> None:
        for number in range(4):
            try:
                ctx.send(A, number)
            except InboxFull as error:
                errors.append(error)

    before = clock.monotonic()
    host.send(A, flood)
    clock.settle()
    assert clock.monotonic() == before
    assert [str(error) for error in errors] == [
        "the inbox of a/1 is full (2 messages), and an actor can't wait for itself"
    ] * 2
    assert recorder.users(A) == [flood, 0, 1]


def test_the_hub_is_told_at_once(make_host: MakeHost, clock: VirtualClock) -> None:
    host, _, gate = crowd(make_host, actor_inbox_size=1, host_inbox_size=3)
    errors: list[str] = []

    def from_the_hub() -> None:
        for ref in (A, A, B, B):
            try:
                host.send(ref, "x")
            except InboxFull as error:
                errors.append(str(error))

    clock.call_later(1, from_the_hub)
    clock.advance(1)
    assert len(errors) == 2
    assert "a/1 is full" in errors[0]
    assert "the hub can't wait" in errors[0]
    assert "the host is full, and the hub can't wait" in errors[1]
    gate.open()


def test_other_actors_are_not_slowed_by_a_full_inbox(make_host: MakeHost, clock: VirtualClock) -> None:
    host, _, gate = crowd(make_host, actor_inbox_size=1)
    host.send(A, "in")
    waiting = [in_background(host.send, A, number) for number in range(10)]
    clock.settle()
    assert host.request(B, "free") == "free"
    assert not any(task.ready() for task in waiting)
    gate.open()


def test_a_killed_sender_leaves_the_line_and_its_message_with_it(make_host: MakeHost, clock: VirtualClock) -> None:
    host, recorder, gate = crowd(make_host, actor_inbox_size=1)
    host.send(A, "in")
    tasks = [in_background(host.send, A, number) for number in range(3)]
    clock.settle()
    tasks[1].kill()
    assert host.metrics.snapshot()["senders_waiting"] == 2
    gate.open()
    clock.settle()
    assert recorder.users(A) == [gate, "in", 0, 2]
    assert_balanced(host.metrics)


def test_the_line_moves_on_when_the_actor_stops_itself(make_host: MakeHost, clock: VirtualClock) -> None:
    host, recorder, gate = crowd(make_host, actor_inbox_size=1)
    host.send(A, stop_actor)
    tasks = [in_background(host.send, A, number) for number in range(5)]
    clock.settle()
    gate.open()
    clock.settle()
    assert recorder.users(A) == [gate, stop_actor, *range(5)]
    assert all(task.ready() for task in tasks)
    assert recorder.instances == 2


def test_the_line_moves_on_when_initialize_fails(
    make_host: MakeHost, clock: VirtualClock, dead_letters: list[DeadLetter]
) -> None:
    host = make_host(actor_inbox_size=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    gate = Gate()

    def hold_and_fail(ctx: Context) -> None:
        gate(ctx)
        recorder.on_initialize = None
        raise ZeroDivisionError

    recorder.on_initialize = hold_and_fail
    host.send(A, "woke it")
    clock.settle()
    tasks = [in_background(host.send, A, number) for number in range(5)]
    clock.settle()
    gate.open()
    clock.settle()
    assert [letter.message for letter in dead_letters] == ["woke it"]
    assert recorder.users(A) == list(range(5))
    assert all(task.ready() for task in tasks)


# -- the whole host --------------------------------------------------------------------------------------------


def test_outside_senders_wait_for_room_in_the_host(make_host: MakeHost, clock: VirtualClock) -> None:
    host, recorder, gate = crowd(make_host, host_inbox_size=4)
    for number in range(3):
        host.send(A, number)
    waiting = [in_background(host.send, B, number) for number in range(3)]
    asking = in_background(host.request, B, "asked")
    clock.settle()
    assert not any(task.ready() for task in [*waiting, asking]), "though their actor is idle"
    assert host.metrics.snapshot()["senders_waiting"] == 4
    gate.open()
    clock.settle()
    assert all(task.ready() for task in waiting)
    assert asking.get(block=False) == "asked"
    assert recorder.users(B) == [0, 1, 2, "asked"]


def test_actors_do_not_wait_for_room_in_the_host(make_host: MakeHost, clock: VirtualClock) -> None:
    """An actor that waited for the host's room could never make any."""
    host, recorder, gate = crowd(make_host, host_inbox_size=2)
    got: list[Any] = []

    def busy(ctx: Context) -> None:
        gate.event.wait()
        for number in range(10):
            ctx.send(Ref("a", f"other {number}"), number)
        got.append(ctx.request(Ref("a", "other"), "asked"))

    host.send(B, busy)
    outside = in_background(host.send, Ref("a", "3"), "outside")
    clock.settle()
    assert not outside.ready()
    before = clock.monotonic()
    gate.open()
    clock.settle()
    assert got == ["asked"]
    assert clock.monotonic() == before
    assert outside.ready()
    assert len(recorder.events) == 3 * 2 + 11 * 2


def test_an_outside_sender_gives_up_after_the_request_timeout(make_host: MakeHost, clock: VirtualClock) -> None:
    host, recorder, gate = crowd(make_host, host_inbox_size=1, request_timeout=2)
    waiting = in_background(host.send, B, "x")
    asking = in_background(host.request, B, "x", 1.0)
    clock.advance(1.1)
    assert asking.ready()
    assert not waiting.ready()
    clock.advance(1)
    with pytest.raises(InboxFull, match="the host held host_inbox_size=1 messages for 2 s"):
        waiting.get(block=False)
    with pytest.raises((InboxFull, RequestTimeout)):
        asking.get(block=False)
    gate.open()
    clock.settle()
    assert host.request(B, "later") == "later"
    assert recorder.users(B) == ["later"]


@pytest.mark.parametrize("kill", [[0], [1], [0, 1, 2], [4], [0, 1, 2, 3, 4]])
def test_killed_senders_give_their_place_to_the_next(make_host: MakeHost, clock: VirtualClock, kill: list[int]) -> None:
    host, recorder, gate = crowd(make_host, host_inbox_size=2)
    host.send(A, "in")
    tasks = [in_background(host.send, B, number) for number in range(5)]
    clock.settle()
    for number in kill:
        tasks[number].kill()
    gate.open()
    clock.settle()
    assert recorder.users(B) == [number for number in range(5) if number not in kill]
    assert host.metrics.snapshot()["senders_waiting"] == 0
    host.send(B, "room again")
    clock.settle()
    assert recorder.users(B)[-1] == "room again"
    assert_balanced(host.metrics)


def test_the_host_never_holds_more_than_its_size_from_outside(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(host_inbox_size=8, actor_inbox_size=4)
    peak = 0

    @host.actor("b")
    def look(ctx: Context) -> None:
        nonlocal peak
        counts = host.metrics.snapshot()
        peak = max(peak, counts["messages_queued"])
        if ctx.message == "yield":
            gevent.sleep(0)

    def sender(seed: int) -> None:
        for number in range(100):
            host.send(Ref("b", str((seed * 7 + number) % 5)), "yield" if number % 3 else "go")

    tasks = [in_background(sender, seed) for seed in range(10)]
    clock.settle()
    assert all(task.ready() for task in tasks)
    assert host.metrics.snapshot()["messages_received"] == 1_000
    assert 4 <= peak <= 8


def test_a_refused_ref_does_not_use_up_room(make_host: MakeHost, clock: VirtualClock) -> None:
    host, _, gate = crowd(make_host, host_inbox_size=1)
    bad = [in_background(host.send, Ref("unknown", "1"), "x") for _ in range(3)]
    good = in_background(host.send, B, "x")
    clock.settle()
    gate.open()
    clock.settle()
    assert all(task.ready() for task in [*bad, good])
    for task in bad:
        with pytest.raises(UnregisteredActorType):
            task.get(block=False)
    for _ in range(3):
        assert host.request(B, "still room") == "still room"


def test_who_cannot_send_anyway_is_told_without_waiting_for_room(make_host: MakeHost, clock: VirtualClock) -> None:
    host, _, gate = crowd(make_host, host_inbox_size=1)
    with pytest.raises(UnregisteredActorType):
        host.send(Ref("unknown", "1"), "x")
    with pytest.raises(InvalidRef):
        host.request("not a ref", "x")  # type: ignore[arg-type]
    gate.open()


def test_room_that_is_not_used_goes_to_the_next(make_host: MakeHost, clock: VirtualClock) -> None:
    """Those that are let in first go on to wait at a full inbox; the next one is for an idle actor."""
    host = make_host(host_inbox_size=4, actor_inbox_size=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    slow, quick = Gate(), Gate()
    host.send(A, slow)
    host.send(B, quick)
    host.send(Ref("a", "3"), quick)
    clock.settle()
    host.send(A, "fills both")
    to_the_full = [in_background(host.send, A, number) for number in range(2)]
    to_the_idle = in_background(host.send, Ref("a", "4"), "x")
    clock.settle()
    assert not any(task.ready() for task in [*to_the_full, to_the_idle])
    quick.open()
    clock.settle()
    assert not any(task.ready() for task in to_the_full)
    assert to_the_idle.ready()
    slow.open()
    clock.settle()
    assert recorder.users(A) == [slow, "fills both", 0, 1]


def test_room_given_to_a_killed_sender_goes_to_the_next(make_host: MakeHost) -> None:
    """The sender is killed between being let in and going on."""
    clock = SystemClock()
    host = make_host(clock=clock, host_inbox_size=1, request_timeout=30)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    senders: list[Any] = []

    def kill_the_next(ctx: Context) -> None:
        go.wait()
        senders[0].kill(block=False)
        end = clock.monotonic() + 0.02  # longer than the dispatcher's time budget: the kill comes first
        while clock.monotonic() < end:
            pass

    host.send(A, kill_the_next)
    until(lambda: recorder.users(A))
    senders += [in_background(host.send, B, number) for number in range(3)]
    until(lambda: host.metrics.snapshot()["senders_waiting"] == 3)
    go.set()
    until(lambda: recorder.users(B) == [1, 2], timeout=5)
    assert_balanced(host.metrics)


def test_a_wait_for_room_and_one_in_line_take_one_timeout(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(host_inbox_size=6, actor_inbox_size=2, request_timeout=2)
    host.register_actor("a", Recorder())
    other, full = Ref("a", "other"), Ref("a", "full")
    for ref, seconds in ((other, 1.5), (full, 60)):
        host.send(ref, lambda ctx, seconds=seconds: clock.sleep(seconds))
    clock.settle()
    for ref in (full, other):
        host.send(ref, 1)
        host.send(ref, 2)
    sending = in_background(host.send, full, 3)
    clock.advance(1.9)
    assert host.metrics.snapshot()["senders_waiting"] == 1
    assert not sending.ready()
    clock.advance(0.2)
    with pytest.raises(InboxFull, match="inbox of a/full stayed full"):
        sending.get(block=False)


@pytest.mark.parametrize("full", [False, True])
def test_greenlets_of_a_handler_are_the_actors_own(make_host: MakeHost, clock: VirtualClock, full: bool) -> None:
    """A handler that fans out waits for them, so they can no more wait for room than itself."""
    host = make_host(host_inbox_size=2, request_timeout=3)
    host.register_actor("a", Recorder())
    answers: list[Any] = []

    def fan_out(ctx: Context) -> None:
        clock.sleep(1)
        asking = [in_background(ctx.request, Ref("a", f"part {n}"), n) for n in range(3)]
        gevent.joinall(asking)
        answers.extend(greenlet.get() for greenlet in asking)

    for number in range(2 if full else 1):
        host.send(Ref("a", f"whole {number}"), fan_out)
    clock.settle()
    stopping = None if full else in_background(host.stop)
    clock.advance(2)
    assert answers == [0, 1, 2] * (2 if full else 1)
    if stopping is not None:
        clock.advance(10)
        stopping.get(block=False)
