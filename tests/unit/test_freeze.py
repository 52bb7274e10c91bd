"""Invariant 6: a frozen host processes nothing, answers HostFrozen, and has failed all its pending requests."""

from __future__ import annotations

from collections.abc import Callable
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
    HostFrozen,
    HostNotRunning,
    Initialize,
    InitReason,
    Ref,
    Shutdown,
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


def freeze(host: Host, clock: VirtualClock) -> float:
    before = clock.monotonic()
    run_in_steps(clock, host.freeze)
    assert host.state == "frozen"
    return clock.monotonic() - before


def test_an_idle_host_freezes_at_once(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    host.request(A, "x")
    assert freeze(host, clock) == 0


def test_a_frozen_host_answers_host_frozen(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    host.request(A, "x")
    freeze(host, clock)
    verbs: list[Callable[[], Any]] = [
        lambda: host.send(A, "y"),
        lambda: host.request(A, "y"),
        lambda: host.spawn_local(B),
    ]
    for verb in verbs:
        with pytest.raises(HostFrozen, match=f"{host.host_id} is frozen"):
            verb()
    clock.advance(100)
    assert recorder.of(A) == [NEW, "x"], "not even its Shutdown for being idle"
    assert recorder.of(B) == []


def test_idle_actors_keep_their_state_and_go_on(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    host.request(A, "x")
    freeze(host, clock)
    host.unfreeze()
    assert host.state == "active"
    assert host.request(A, "y") == "y"
    assert recorder.instances == 1
    clock.advance(20)
    assert recorder.of(A) == [NEW, "x", "y", Shutdown()]


def test_every_open_request_fails_at_once(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    go = Event()
    kept: list[Context] = []
    tasks = [
        in_background(host.request, A, lambda ctx: go.wait(), 60),
        in_background(host.request, A, "queued", 60),
        in_background(host.request, B, kept.append, 60),
        in_background(host.request, Ref("a", "3"), lambda ctx: ctx.request(A, "nested", 60), 60),
    ]
    clock.settle()
    freezing = in_background(host.freeze)
    clock.settle()
    for task in tasks:
        with pytest.raises(HostFrozen):
            task.get(block=False)
    go.set()
    clock.advance(3)
    freezing.get(block=False)
    assert host.metrics.snapshot()["requests_pending"] == 0
    assert_balanced(host.metrics)


def test_handlers_see_cancelled_and_get_their_grace(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(freeze_grace_period=2)
    recorder = Recorder()
    host.register_actor("a", recorder)
    steps: list[str] = []

    def careful(ctx: Context) -> None:
        ctx.cancelled.wait()
        steps.append("cancelled")
        clock.sleep(1)
        steps.append("cleaned up")
        with pytest.raises(HostFrozen):
            ctx.send(B, "x")
        with pytest.raises(HostFrozen):
            ctx.request(B, "x")

    host.send(A, careful)
    clock.settle()
    assert 1 <= freeze(host, clock) <= 1.2
    assert steps == ["cancelled", "cleaned up"]
    host.unfreeze()
    assert host.request(A, "still the same") == "still the same"
    assert recorder.instances == 1


def test_handlers_that_take_too_long_are_killed(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(freeze_grace_period=2)
    recorder = Recorder()
    host.register_actor("a", recorder)
    ended: list[str] = []

    def hang(ctx: Context) -> None:
        try:
            Event().wait()
        finally:
            ended.append("killed")

    host.send(A, hang)
    host.request(B, "x")
    clock.settle()
    assert 2 <= freeze(host, clock) <= 3
    assert ended == ["killed"]
    host.unfreeze()
    assert host.request(A, "anew") == "anew"
    assert host.request(B, "same") == "same"
    assert recorder.of(A)[-2:] == [NEW, "anew"], "its last activation has ended"
    assert recorder.instances == 3


def test_a_zombie_of_a_frozen_host_reaches_nobody(
    make_host: MakeHost, clock: VirtualClock, dead_letters: list[DeadLetter]
) -> None:
    """An actor that had been stopped by force on a frozen host went on to send to others."""
    host = make_host(freeze_grace_period=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    fenced: list[str] = []

    def stubborn(ctx: Context) -> None:
        while not go.is_set():
            try:
                go.wait()
            except BaseException:
                pass
        for verb in (ctx.send, ctx.request):
            try:
                verb(B, "from a zombie")
            except ClaimLost as error:
                fenced.append(str(error))

    host.send(A, stubborn)
    clock.settle()
    assert freeze(host, clock) <= 3
    host.unfreeze()
    assert host.request(A, "successor") == "successor", "a stubborn one does not stand in its successor's way"
    go.set()
    clock.settle()
    assert len(fenced) == 2
    assert recorder.of(B) == []
    assert host.request(A, "still there") == "still there"
    assert_balanced(host.metrics)


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_zombie_ends_with_its_handler(make_host: MakeHost, clock: VirtualClock, waiting: int) -> None:
    """Its worker had taken other work instead, and so its actor was never given back."""
    host = make_host(freeze_grace_period=1)
    host.register_actor("a", Recorder())
    go = Event()
    zombies: list[Any] = []

    def stubborn(ctx: Context) -> None:
        zombies.append(gevent.getcurrent())
        while not go.is_set():
            try:
                go.wait()
            except BaseException:
                pass

    host.request(A, "comes to be, and waits")
    for body in (stubborn, *["and one more"] * waiting):
        host.send(A, body)
    clock.settle()
    assert freeze(host, clock) <= 3
    host.unfreeze()
    assert [zombie.dead for zombie in zombies] == [False]
    go.set()
    clock.settle()
    assert [zombie.dead for zombie in zombies] == [True]
    assert host.request(A, "others work on") == "others work on"


def test_cancelled_is_a_new_event_after_unfreeze(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    seen: list[bool] = []

    def look(ctx: Context) -> None:
        seen.append(ctx.cancelled.is_set())
        ctx.reply(None)

    host.request(A, look)
    freeze(host, clock)
    host.unfreeze()
    host.request(A, look)
    assert seen == [False, False]


def test_freeze_and_unfreeze_again_are_harmless(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    host.unfreeze()
    freeze(host, clock)
    freeze(host, clock)
    host.unfreeze()
    host.unfreeze()
    assert host.request(A, "x") == "x"


def test_unfreeze_during_the_grace_period_spares_the_new_work(make_host: MakeHost, clock: VirtualClock) -> None:
    """The end of a grace period must not kill what began after the host was active again."""
    host = make_host(freeze_grace_period=2)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.send(A, lambda ctx: clock.sleep(10))
    clock.settle()
    freezing = in_background(host.freeze)
    clock.advance(1)
    host.unfreeze()

    def work(ctx: Context) -> None:
        clock.sleep(3)
        ctx.reply("done")

    task = in_background(host.request, B, work)
    clock.advance(5)
    assert task.get(block=False) == "done"
    assert freezing.ready()
    assert host.state == "active"


def test_what_cannot_freeze_says_why(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    errors: list[str] = []

    def freeze_own_host(ctx: Context) -> None:
        try:
            host.freeze()
        except HostNotRunning as error:
            errors.append(str(error))

    host.send(A, freeze_own_host)
    clock.settle()
    assert "an actor can't wait for itself" in errors[0]
    assert host.state == "active"
    run_in_steps(clock, host.stop)
    with pytest.raises(HostNotRunning, match="can't freeze: it is stopped"):
        host.freeze()
    with pytest.raises(HostNotRunning, match="can't unfreeze: it is stopped"):
        host.unfreeze()
    with pytest.raises(HostNotRunning, match="can't freeze: it is new"):
        Host().freeze()
    with pytest.raises(HostNotRunning, match="can't unfreeze: it is new"):
        Host().unfreeze()


def test_a_loop_callback_cannot_freeze(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    """It could not wait for the handlers, and would leave the host half frozen."""
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    errors: list[Exception] = []

    def callback() -> None:
        try:
            host.freeze()
        except HostNotRunning as error:
            errors.append(error)

    clock.call_later(1, callback)
    clock.advance(1)
    assert len(errors) == 1
    assert host.state == "active"
    go.set()


def test_a_frozen_host_can_be_stopped(host: Host, clock: VirtualClock, recorder: Recorder) -> None:
    host.request(A, "x")
    freeze(host, clock)
    run_in_steps(clock, host.stop)
    assert recorder.of(A) == [NEW, "x", Shutdown()]


def test_a_host_can_be_stopped_while_it_freezes(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(freeze_grace_period=10, drain_timeout=3)
    recorder = Recorder()
    host.register_actor("a", recorder)
    go = Event()
    host.send(A, lambda ctx: go.wait())
    clock.settle()
    freezing = in_background(host.freeze)
    clock.advance(1)
    stopping = in_background(host.stop)
    clock.advance(1)
    go.set()
    clock.advance(15)
    assert freezing.ready()
    assert stopping.ready()
    assert host.state == "stopped"
    assert recorder.of(A)[-1] == Shutdown()


def test_frozen_while_an_actor_comes_and_another_leaves(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(freeze_grace_period=1, idle_timeout=1, cleanup_interval=0.1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.send(A, "x")
    clock.settle()
    recorder.on_initialize = lambda ctx: clock.sleep(100)
    recorder.on_shutdown = lambda ctx: clock.sleep(100)
    clock.advance(2)
    assert recorder.of(A)[-1] == Shutdown()
    host.send(B, "y")
    clock.settle()
    assert recorder.of(B) == [NEW]
    freeze(host, clock)
    recorder.on_initialize = recorder.on_shutdown = None
    host.unfreeze()
    assert host.request(A, "again") == "again"
    assert host.request(B, "again") == "again"
    assert recorder.users(B) == ["again"]
    assert host.metrics.snapshot()["actors_active"] == 2
    assert_balanced(host.metrics)
