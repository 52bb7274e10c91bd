"""Initialize first, Shutdown last, and every way in which an actor begins and ends."""

from __future__ import annotations

import contextvars
import gc
import weakref
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, fail, in_background, stop_actor
from theatre_gevent import (
    ClaimLost,
    Context,
    DeadLetter,
    Host,
    Initialize,
    InitReason,
    Ref,
    RemoteActorError,
    RequestTimeout,
    Shutdown,
    StopActor,
)
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")
NEW = Initialize(InitReason.NEW)
AGAIN = Initialize(InitReason.REACTIVATION)


@pytest.fixture
def recorder(host: Host) -> Recorder:
    recorder = Recorder()
    host.register_actor("a", recorder)
    return recorder


def test_initialize_comes_first_and_shutdown_last(host: Host, recorder: Recorder) -> None:
    host.send(A, "one")
    host.send(A, "two")
    host.stop()
    assert recorder.of(A) == [NEW, "one", "two", Shutdown()]


def test_an_actor_without_a_message_never_begins(host: Host, recorder: Recorder) -> None:
    host.stop()
    assert recorder.events == []


def test_stop_actor_ends_it_and_the_next_message_begins_a_new_one(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    host.send(A, stop_actor)
    clock.settle()
    assert recorder.of(A) == [NEW, stop_actor, Shutdown()]
    assert host.metrics.snapshot()["actors_active"] == 0
    host.send(A, "later")
    clock.settle()
    assert recorder.of(A)[3:] == [NEW, "later"]
    assert recorder.instances == 2


def test_messages_behind_stop_actor_go_to_the_next_activation(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    for message in ("one", stop_actor, "two", "three"):
        host.send(A, message)
    clock.settle()
    assert recorder.of(A) == [NEW, "one", stop_actor, Shutdown(), AGAIN, "two", "three"]


def test_stop_actor_may_reply_first(host: Host, recorder: Recorder) -> None:
    def reply_and_stop(ctx: Context) -> None:
        ctx.reply("goodbye")
        raise StopActor

    assert host.request(A, reply_and_stop) == "goodbye"


def test_stop_actor_without_a_reply_answers_the_requester(host: Host, recorder: Recorder) -> None:
    with pytest.raises(RemoteActorError, match="a/1 raised StopActor") as caught:
        host.request(A, stop_actor)
    assert caught.value.ref == A


def test_a_request_that_stops_its_actor_may_be_answered_in_shutdown(host: Host, recorder: Recorder) -> None:
    kept: list[Context] = []
    recorder.on_shutdown = lambda ctx: kept[0].reply("from Shutdown")

    def keep_and_stop(ctx: Context) -> None:
        kept.append(ctx)
        raise StopActor

    assert host.request(A, keep_and_stop) == "from Shutdown"


# -- idleness --------------------------------------------------------------------------------------------------


def test_an_idle_actor_leaves_after_its_timeout_and_not_before(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(idle_timeout=10, cleanup_interval=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.send(A, "x")
    clock.advance(9.9)
    assert recorder.of(A) == [NEW, "x"]
    clock.advance(1.2)
    assert recorder.of(A) == [NEW, "x", Shutdown()]
    assert host.metrics.snapshot()["actors_active"] == 0


def test_every_message_renews_the_idle_time(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(idle_timeout=10, cleanup_interval=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    for number in range(20):
        (host.send if number % 2 else host.request)(A, number)
        clock.advance(9)
    assert recorder.of(A) == [NEW, *range(20)]
    clock.advance(3)
    assert recorder.of(A)[-1] == Shutdown()


def test_a_busy_actor_is_not_idle_however_long_it_takes(make_host: MakeHost, clock: VirtualClock) -> None:
    """An actor in the middle of a long message was taken for idle, and sent away under its own feet."""
    host = make_host(idle_timeout=1, cleanup_interval=0.1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.send(A, lambda ctx: clock.sleep(100))
    clock.advance(99)
    assert Shutdown() not in recorder.of(A)
    clock.advance(1.5)
    assert Shutdown() not in recorder.of(A), "its idle time begins when the message has been handled"
    clock.advance(1)
    assert recorder.of(A)[-1] == Shutdown()


def test_one_long_handler_delays_neither_idle_removal_nor_timeouts(make_host: MakeHost, clock: VirtualClock) -> None:
    """The clean-up waited for an actor, on the same task that ended requests: one stuck actor stopped both."""
    host = make_host(idle_timeout=5, cleanup_interval=1, request_timeout=2)
    recorder = Recorder()
    host.register_actor("a", recorder)
    stuck = Event()
    recorder.on_shutdown = lambda ctx: stuck.wait() if ctx.actor_ref == A else None
    host.send(A, "x")
    clock.advance(6)
    assert recorder.of(A)[-1] == Shutdown(), "it hangs in Shutdown now"
    host.send(B, "y")
    request = in_background(host.request, A, "to the stuck one")
    clock.advance(2.1)
    with pytest.raises(RequestTimeout):
        request.get(block=False)
    clock.advance(4)
    assert recorder.of(B) == [NEW, "y", Shutdown()]
    stuck.set()
    clock.settle()
    assert recorder.of(A) == [NEW, "x", Shutdown(), AGAIN, "to the stuck one"]


def test_an_actor_that_owes_a_reply_is_not_idle(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(idle_timeout=1, cleanup_interval=0.1, request_timeout=60)
    recorder = Recorder()
    host.register_actor("a", recorder)
    kept: list[Context] = []
    request = in_background(host.request, A, kept.append)
    clock.advance(30)
    assert recorder.of(A)[-1] != Shutdown()
    kept[0].reply("at last")
    assert request.get() == "at last"
    clock.advance(3)
    assert recorder.of(A)[-1] == Shutdown()


def test_a_message_during_shutdown_waits_for_the_next_activation(make_host: MakeHost, clock: VirtualClock) -> None:
    """The registration was given back while the handler still ran: two handlers of one actor at once."""
    host = make_host(idle_timeout=1, cleanup_interval=0.1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    recorder.on_shutdown = lambda ctx: go.wait()
    host.send(A, "one")
    clock.advance(2)
    assert recorder.of(A) == [NEW, "one", Shutdown()]
    host.send(A, "two")
    request = in_background(host.request, A, "three")
    clock.settle()
    assert recorder.of(A) == [NEW, "one", Shutdown()], "its last Shutdown has not returned yet"
    recorder.on_shutdown = None
    go.set()
    clock.settle()
    assert recorder.of(A) == [NEW, "one", Shutdown(), AGAIN, "two", "three"]
    assert request.get(block=False) == "three"


def test_the_end_of_an_activation_does_not_take_its_successor_away(make_host: MakeHost, clock: VirtualClock) -> None:
    """A late removal went by the ref and not by the activation, and deleted the living successor."""
    host = make_host(idle_timeout=1, cleanup_interval=0.1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    for _ in range(5):
        host.send(A, stop_actor)
        host.send(A, "next")
    clock.settle()
    assert host.metrics.snapshot()["actors_active"] == 1
    instances = recorder.instances
    host.request(A, "the same one")
    assert recorder.instances == instances
    clock.advance(3)
    assert host.metrics.snapshot()["actors_active"] == 0


# -- trouble ---------------------------------------------------------------------------------------------------


def test_a_receiver_that_raises_answers_its_requester_and_lives_on(
    host: Host, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RemoteActorError, match=r"^a/1 raised ZeroDivisionError: as told$") as caught:
        host.request(A, fail)
    assert (caught.value.type_name, caught.value.message, caught.value.ref) == ("ZeroDivisionError", "as told", A)
    assert host.request(A, "still here") == "still here"
    assert recorder.instances == 1
    record = next(record for record in caplog.records if record.levelname == "ERROR")
    assert "a/1" in record.getMessage()
    assert getattr(record, "theatre_ref", None) == "a/1"
    assert record.exc_info is not None
    assert host.metrics.snapshot()["receiver_errors"] == 1


def test_a_receiver_that_raises_does_not_disturb_what_is_behind(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    for message in ("one", fail, "two", fail, "three"):
        host.send(A, message)
    clock.settle()
    assert recorder.users(A) == ["one", fail, "two", fail, "three"]
    assert host.metrics.snapshot()["receiver_errors"] == 2
    assert host.metrics.snapshot()["messages_received"] == 5


@pytest.mark.parametrize(
    "error", [gevent.Timeout(1), gevent.GreenletExit(), TypeError()], ids=lambda error: type(error).__name__
)
def test_an_actor_survives_odd_exceptions(host: Host, recorder: Recorder, error: BaseException) -> None:
    """A gevent timeout is no Exception, and the end of a greenlet is none either: neither may take the actor along."""

    def raise_it(ctx: Context) -> None:
        raise error

    with pytest.raises(RemoteActorError, match=type(error).__name__):
        host.request(A, raise_it, timeout=1)
    host.send(A, raise_it)
    host.send(A, "behind")
    assert host.request(A, "still here", timeout=1) == "still here"
    assert recorder.users(A) == [raise_it, raise_it, "behind", "still here"]
    assert recorder.instances == 1


def test_a_failing_initialize_fails_the_message_that_woke_it(
    host: Host, recorder: Recorder, dead_letters: list[DeadLetter], clock: VirtualClock
) -> None:
    """An actor whose Initialize had failed went on to serve requests."""
    recorder.on_initialize = fail
    with pytest.raises(RemoteActorError, match="ZeroDivisionError: as told"):
        host.request(A, "one")
    assert recorder.users(A) == []
    assert Shutdown() not in recorder.of(A), "what never lived is not shut down"
    counts = host.metrics.snapshot()
    assert (counts["activations_failed"], counts["activations_total"], counts["actors_active"]) == (1, 0, 0)
    assert [(letter.ref, letter.message, letter.sender) for letter in dead_letters] == [(A, "one", None)]
    assert isinstance(dead_letters[0].error, ZeroDivisionError)
    recorder.on_initialize = None
    assert host.request(A, "two") == "two"
    assert recorder.of(A) == [NEW, NEW, "two"]
    assert_balanced(host.metrics)


def test_each_queued_message_tries_again_after_a_failed_initialize(
    host: Host, recorder: Recorder, dead_letters: list[DeadLetter], clock: VirtualClock
) -> None:
    def fail_twice(ctx: Context) -> None:
        if recorder.instances <= 2:
            fail(ctx)

    recorder.on_initialize = fail_twice
    for number in range(4):
        host.send(A, number)
    clock.settle()
    assert [letter.message for letter in dead_letters] == [0, 1]
    assert recorder.users(A) == [2, 3]
    assert host.metrics.snapshot()["activations_failed"] == 2


def test_a_failing_factory_leaves_no_half_made_actor(
    host: Host, dead_letters: list[DeadLetter], clock: VirtualClock
) -> None:
    broken = True
    recorder = Recorder()

    def factory() -> Any:
        if broken:
            raise OSError("no more files")
        return recorder()

    host.register_actor("a", factory)
    with pytest.raises(RemoteActorError, match="OSError: no more files"):
        host.request(A, "asked")
    host.send(A, "sent")
    clock.settle()
    assert [letter.message for letter in dead_letters] == ["asked", "sent"]
    assert all("no more files" in letter.reason and isinstance(letter.error, OSError) for letter in dead_letters)
    counts = host.metrics.snapshot()
    assert (counts["activations_failed"], counts["actors_active"], counts["messages_dead_lettered"]) == (2, 0, 2)
    broken = False
    assert host.request(A, "now") == "now"


def test_a_factory_that_returns_no_receiver(host: Host, dead_letters: list[DeadLetter]) -> None:
    host.register_actor("a", lambda: 5)
    with pytest.raises(RemoteActorError, match=r"factory of actor type 'a' returned 5, which has no receive"):
        host.request(A, "x")
    assert len(dead_letters) == 1


def test_stop_actor_in_initialize(
    host: Host, recorder: Recorder, dead_letters: list[DeadLetter], clock: VirtualClock
) -> None:
    recorder.on_initialize = stop_actor
    with pytest.raises(RemoteActorError, match="StopActor"):
        host.request(A, "x")
    assert "stopped itself in Initialize" in dead_letters[0].reason
    assert host.metrics.snapshot()["activations_failed"] == 0, "it is the actor's own choice"
    assert host.metrics.snapshot()["actors_active"] == 0


def test_a_raising_shutdown_is_logged_and_ends_all_the_same(
    host: Host, recorder: Recorder, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.on_shutdown = fail
    host.send(A, stop_actor)
    host.send(A, "next")
    clock.settle()
    assert recorder.of(A) == [NEW, stop_actor, Shutdown(), AGAIN, "next"]
    assert any("raised in Shutdown" in record.getMessage() for record in caplog.records)


def test_initialize_and_shutdown_may_send_and_request(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    got: list[Any] = []

    def talk(ctx: Context) -> None:
        if ctx.actor_ref == A:
            ctx.send(B, f"from {type(ctx.message).__name__}")
            got.append(ctx.request(B, "question"))

    recorder.on_initialize = recorder.on_shutdown = talk
    host.send(A, stop_actor)
    clock.settle()
    assert recorder.users(B) == ["from Initialize", "question", "from Shutdown", "question"]
    assert got == ["question", "question"]


def test_an_actor_may_send_to_itself_in_initialize(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    recorder.on_initialize = lambda ctx: ctx.send(A, "to myself")
    host.send(A, "first")
    clock.settle()
    assert recorder.of(A) == [NEW, "first", "to myself"]


def test_an_actor_that_sends_to_itself_in_shutdown_comes_back(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    def once(ctx: Context) -> None:
        recorder.on_shutdown = None
        ctx.send(A, "from the last life")

    recorder.on_shutdown = once
    host.send(A, stop_actor)
    clock.settle()
    assert recorder.of(A) == [NEW, stop_actor, Shutdown(), AGAIN, "from the last life"]


# -- the fence -------------------------------------------------------------------------------------------------


def test_the_context_of_an_ended_activation_can_do_nothing(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    kept: list[Context] = []
    host.send(A, kept.append)
    host.send(A, stop_actor)
    clock.settle()
    (ctx,) = kept
    for verb in (lambda: ctx.send(B, "x"), lambda: ctx.request(B, "x"), lambda: ctx.reply("x")):
        with pytest.raises(ClaimLost, match="a/1 has stopped"):
            verb()
    clock.settle()
    assert recorder.of(B) == []


def test_a_kept_context_works_for_as_long_as_its_activation_lives(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    kept: list[Context] = []
    host.send(A, kept.append)
    clock.settle()
    kept[0].send(B, "sent later")
    assert kept[0].request(B, "asked later") == "asked later"
    clock.settle()
    assert recorder.users(B) == ["sent later", "asked later"]


def test_nothing_of_an_ended_actor_stays_in_memory(make_host: MakeHost, clock: VirtualClock) -> None:
    """Thousands of actors that had stopped left a context each behind."""
    host = make_host(idle_timeout=5, cleanup_interval=1)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Fleeting:
        def __init__(self) -> None:
            alive.add(self)

        def receive(self, ctx: Context) -> None:
            if ctx.message == "stop":
                raise StopActor

    host.register_actor("a", Fleeting)
    for number in range(500):
        host.send(Ref("a", str(number)), "stop" if number % 2 else "stay")
    clock.advance(8)
    gc.collect()
    assert len(alive) == 0
    assert host.metrics.snapshot()["activations_ended"] == 500


def test_actors_that_stop_themselves_do_not_pile_up_until_their_idle_time(
    make_host: MakeHost, clock: VirtualClock
) -> None:
    host = make_host(idle_timeout=3600, cleanup_interval=1)
    host.register_actor("a", Recorder())
    for round_ in range(10):
        for number in range(500):
            host.send(Ref("a", f"{round_}-{number}"), stop_actor)
            if number % 50 == 0:
                clock.settle()
        clock.advance(2)
    gc.collect()
    activations = [thing for thing in gc.get_objects() if type(thing).__name__ == "Activation"]
    assert len(activations) < 2_000, "of 5 000, none of which is alive"


# -- spawn_local -----------------------------------------------------------------------------------------------


def test_spawn_local_activates_without_a_message(host: Host, recorder: Recorder) -> None:
    host.spawn_local(A)
    assert recorder.of(A) == [NEW]
    assert host.metrics.snapshot()["actors_active"] == 1
    host.spawn_local(A)
    assert recorder.instances == 1
    host.request(A, "x")
    assert recorder.instances == 1


def test_spawn_local_waits_for_initialize(host: Host, recorder: Recorder, clock: VirtualClock) -> None:
    recorder.on_initialize = lambda ctx: clock.sleep(2)
    spawning = [in_background(host.spawn_local, A) for _ in range(3)]
    clock.advance(1.9)
    assert not any(task.ready() for task in spawning)
    clock.advance(0.2)
    assert all(task.ready() for task in spawning)
    assert [task.get(block=False) for task in spawning] == [None] * 3
    assert recorder.instances == 1


def test_spawn_local_reports_what_initialize_raised(
    host: Host, recorder: Recorder, dead_letters: list[DeadLetter]
) -> None:
    recorder.on_initialize = fail
    with pytest.raises(RemoteActorError, match="ZeroDivisionError"):
        host.spawn_local(A)
    assert dead_letters == [], "there was no message"
    assert host.metrics.snapshot()["activations_failed"] == 1
    recorder.on_initialize = None
    host.spawn_local(A)
    assert host.metrics.snapshot()["actors_active"] == 1


def test_spawn_local_gives_up(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(request_timeout=3)
    recorder = Recorder()
    host.register_actor("a", recorder)
    recorder.on_initialize = lambda ctx: clock.sleep(10)
    spawning = in_background(host.spawn_local, A)
    clock.advance(3.1)
    with pytest.raises(RequestTimeout, match=r"a/1 was not initialized within 3 s"):
        spawning.get(block=False)
    clock.advance(10)
    assert host.metrics.snapshot()["actors_active"] == 1


def test_spawn_local_while_the_actor_leaves(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(idle_timeout=1, cleanup_interval=0.1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    recorder.on_shutdown = lambda ctx: go.wait()
    host.send(A, "x")
    clock.advance(2)
    spawning = in_background(host.spawn_local, A)
    clock.settle()
    assert not spawning.ready()
    go.set()
    clock.settle()
    assert spawning.ready()
    assert recorder.of(A) == [NEW, "x", Shutdown(), AGAIN]


# -- what must not leak from one actor into another ------------------------------------------------------------


def test_context_variables_of_one_actor_are_not_seen_by_the_next(
    host: Host, recorder: Recorder, clock: VirtualClock
) -> None:
    """Workers are used again: what one actor put into contextvars must not meet another."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
    seen: list[str] = []

    def taint(ctx: Context) -> None:
        seen.append(variable.get())
        variable.set("tainted")
        ctx.reply(None)

    for number in range(10):
        host.send(Ref("a", str(number)), taint)
    clock.settle()
    for number in range(10):
        host.request(Ref("a", str(number + 100)), taint)
    assert seen == ["clean"] * 20
    assert variable.get() == "clean"
