"""The counters, and invariant 4: sent = processed + dead-lettered + still queued, at every moment."""

from __future__ import annotations

import sys

import gevent
import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, fail, in_background, stop_actor, until
from theatre_gevent import Context, DeadLetter, Host, Initialize, Ref, RemoteActorError, Shutdown, StopActor, build
from theatre_gevent.core import activation as activations
from theatre_gevent.metrics import METRICS
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")


def test_a_snapshot_is_whole_and_a_copy(host: Host) -> None:
    snapshot = host.metrics.snapshot()
    assert list(snapshot) == list(METRICS)
    assert set(snapshot.values()) == {0}
    snapshot["messages_sent"] = 7
    assert host.metrics.snapshot()["messages_sent"] == 0


def test_each_counter_counts_what_it_says(host: Host, clock: VirtualClock) -> None:
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.register_actor("broken", lambda: 1 / 0)
    kept: list[Context] = []
    host.send(A, "one")
    host.request(A, "two")
    with pytest.raises(RemoteActorError):
        host.request(A, fail)
    host.send(B, stop_actor)
    host.send(Ref("broken", "1"), "lost")
    late = in_background(host.request, A, kept.append, 1.0)
    clock.advance(1.1)
    assert late.ready()
    kept[0].reply("late")
    killed = gevent.spawn(host.request, A, kept.append)
    clock.settle()
    killed.kill()
    waiting = in_background(host.request, A, kept.append)
    clock.settle()
    assert host.metrics.snapshot() == {
        "messages_sent": 8,
        "messages_received": 7,
        "messages_dead_lettered": 1,
        "messages_queued": 0,
        "requests_total": 5,
        "requests_timed_out": 1,
        "requests_abandoned": 1,
        "requests_pending": 1,
        "replies_late": 1,
        "activations_total": 2,
        "activations_failed": 1,
        "activations_ended": 1,
        "actors_active": 1,
        "receiver_errors": 1,
        "inbox_full": 0,
        "senders_waiting": 0,
        "messages_forwarded": 0,
        "messages_arrived": 0,
        "messages_returned": 0,
        "peers_up": 0,
        "placements_cached": 0,
        "messages_held": 0,
        "claims_total": 0,
        "releases_total": 0,
        "claim_statements": 0,
        "claims_waiting": 0,
        "schedules_pending": 0,
        "schedules_fired": 0,
        "schedules_cancelled": 0,
        "schedules_recovered": 0,
        "schedules_lag_ms": 0,
    }
    kept[2].reply("done")
    waiting.get()
    assert host.metrics.snapshot()["requests_pending"] == 0


def test_initialize_and_shutdown_are_no_messages(host: Host, clock: VirtualClock) -> None:
    host.register_actor("a", Recorder())
    host.spawn_local(A)
    clock.advance(30)
    counts = host.metrics.snapshot()
    assert (counts["messages_sent"], counts["messages_received"]) == (0, 0)
    assert (counts["activations_total"], counts["activations_ended"]) == (1, 1)


def test_the_books_balance_wherever_one_looks(make_host: MakeHost, clock: VirtualClock) -> None:
    """Inside of handlers, of factories, of Initialize and Shutdown, of the dead-letter handler, before and after."""
    looks: set[str] = set()

    def look(where: str) -> None:
        assert_balanced(host.metrics)
        looks.add(where)

    def note_dead(letter: DeadLetter) -> None:
        look("dead-letter handler")

    host = make_host(dead_letter_handler=note_dead, actor_inbox_size=4, idle_timeout=2, cleanup_interval=0.5)
    problems: list[BaseException] = []

    class Actor:
        def __init__(self) -> None:
            look("factory")

        def receive(self, ctx: Context) -> None:
            try:
                self.handle(ctx)
            except AssertionError as error:
                problems.append(error)

        def handle(self, ctx: Context) -> None:
            match ctx.message:
                case Initialize():
                    look("Initialize")
                    if ctx.actor_ref.id == "3":
                        raise ValueError
                case Shutdown():
                    look("Shutdown")
                    gevent.sleep(0)
                    look("Shutdown, later")
                case "stop":
                    look("stop")
                    raise StopActor
                case "fail":
                    look("fail")
                    raise ValueError
                case "ask":
                    look("ask")
                    ctx.reply(ctx.request(Ref("a", "4"), "plain"))
                    look("asked")
                case "wait":
                    gevent.sleep(0)
                    look("waited")
                    ctx.reply(None)
                case _:
                    look("handler")
                    ctx.reply(None)
                    look("replied")

    host.register_actor("a", Actor)

    def work(seed: int) -> None:
        kinds = ["plain", "wait", "ask", "stop", "fail"]
        for number in range(50):
            ref = Ref("a", str((seed + number) % 4))
            try:
                (host.request if number % 3 else host.send)(ref, kinds[(seed * 3 + number) % 5])
            except RemoteActorError:
                pass
            look("outside")

    tasks = [in_background(work, seed) for seed in range(6)]
    for _ in range(200):
        clock.advance(0.5)
        look("between")
    for task in tasks:
        task.get(block=False)
    assert problems == []
    assert looks == {
        "factory",
        "Initialize",
        "Shutdown",
        "Shutdown, later",
        "stop",
        "fail",
        "ask",
        "asked",
        "waited",
        "handler",
        "replied",
        "outside",
        "between",
        "dead-letter handler",
    }


def test_messages_in_line_are_not_counted_before_they_are_in(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(actor_inbox_size=1)
    host.register_actor("a", Recorder())
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    host.send(A, "in")
    tasks = [in_background(verb, A, "in line") for verb in (host.send, host.request)]
    clock.settle()
    counts = host.metrics.snapshot()
    assert (counts["messages_sent"], counts["messages_queued"], counts["senders_waiting"]) == (2, 1, 2)
    assert (counts["requests_total"], counts["requests_pending"]) == (0, 0)
    assert_balanced(host.metrics)
    go.set()
    clock.settle()
    assert all(task.ready() for task in tasks)
    assert host.metrics.snapshot()["requests_total"] == 1


@pytest.mark.skipif(build == "compiled", reason="an attribute in C cannot be watched; the other build sets the same")
def test_an_activation_only_goes_where_its_table_allows(
    make_host: MakeHost, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every change of state of every activation, watched through a whole life of ups and downs."""
    slot = activations.Activation.__dict__["state"]
    seen: set[tuple[int | None, int]] = set()

    class Watched:
        def __get__(self, activation: object, kind: object = None) -> int:
            return slot.__get__(activation)  # type: ignore[no-any-return]

        def __set__(self, activation: object, state: int) -> None:
            try:
                before = slot.__get__(activation)
            except AttributeError:
                before = None
            seen.add((before, state))
            slot.__set__(activation, state)

    monkeypatch.setattr(activations.Activation, "state", Watched())
    host = make_host(idle_timeout=2, cleanup_interval=0.5, freeze_grace_period=0.5, drain_timeout=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.register_actor("broken", lambda: 1 / 0)
    recorder.on_shutdown = lambda ctx: clock.sleep(0.1)
    host.send(Ref("broken", "1"), "x")
    for number in range(8):
        host.send(Ref("a", str(number)), stop_actor if number % 2 else "x")
    clock.advance(5)
    host.send(A, lambda ctx: Event().wait())
    host.send(B, "x")
    clock.settle()
    freezing = in_background(host.freeze)
    clock.advance(2)
    assert freezing.ready()
    host.unfreeze()
    host.send(A, lambda ctx: Event().wait())
    host.send(B, "x")
    clock.settle()
    stopping = in_background(host.stop)
    clock.advance(10)
    assert stopping.ready()
    allowed: set[tuple[int | None, int]] = {
        (state, successor) for state, successors in activations.TRANSITIONS.items() for successor in successors
    }
    allowed |= {(state, state) for state in activations.TRANSITIONS} | {(None, activations.NEW)}
    assert seen <= allowed, seen - allowed
    names = {(before, after) for before, after in seen if before is not None and before != after}
    assert len(names) >= 5, "the life was eventful enough"


def test_a_sender_in_line_that_has_expired_is_no_pending_request(make_host: MakeHost, clock: VirtualClock) -> None:
    """Between its deadline and its going on it is in no queue of deadlines, and still a sender that waits."""
    host = make_host(actor_inbox_size=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    host.send(A, lambda _ctx: go.wait())
    clock.settle()
    host.send(A, "fills the inbox")
    waiting = in_background(host.send, A, "in line")
    clock.settle()
    deadlines = host._dispatcher.deadlines
    expired = deadlines.expire(clock.monotonic() + 100)
    assert len(expired) == 1
    assert host.metrics.snapshot()["requests_pending"] == 0
    for waiter in expired:
        waiter.bucket = deadlines.add(waiter, waiter.deadline)
    go.set()
    clock.settle()
    assert waiting.ready()


def test_a_snapshot_in_another_thread_changes_nothing(real_host: Host) -> None:
    host = real_host
    handled: list[int] = []
    host.register_actor("a", lambda ctx: handled.append(ctx.message) if isinstance(ctx.message, int) else None)
    stop: list[bool] = []
    snapshots: list[dict[str, int]] = []

    def look() -> None:
        while not stop:
            snapshots.append(host.metrics.snapshot())

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        looking = gevent.get_hub().threadpool.spawn(look)
        for number in range(20_000):
            host.send(Ref("a", str(number % 100)), number)
            if number % 100 == 99:
                gevent.sleep(0)
        until(lambda: host.metrics.snapshot()["messages_queued"] == 0)
        stop.append(True)
        looking.get()
    finally:
        sys.setswitchinterval(before)
        stop.append(True)
    assert sorted(handled) == list(range(20_000))
    words = ("received", "dead_lettered", "queued")
    assert snapshots
    assert all(s["messages_sent"] == sum(s[f"messages_{word}"] for word in words) for s in snapshots)


def test_a_snapshot_is_to_be_had_anywhere_before_the_start_and_after_the_stop(real_host: Host) -> None:
    new = Host()
    read = gevent.get_hub().threadpool.apply
    assert read(new.metrics.snapshot)["messages_sent"] == 0
    real_host.stop()
    assert read(real_host.metrics.snapshot)["messages_sent"] == 0
