"""What a second reading of the hot path found."""

from __future__ import annotations

from functools import partial

import gevent
import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, in_background, until
from theatre_gevent import Context, Host, HostFrozen, InboxFull, Initialize, Ref, StopActor
from theatre_gevent.testing import VirtualClock

A, B, C = Ref("x", "a"), Ref("x", "b"), Ref("x", "c")


def test_a_loop_of_requests_lets_others_run_even_if_the_clock_stands_still(host: Host) -> None:
    host.register_actor("x", Recorder())
    host.request(A, 1)
    ran: list[int] = []
    other = gevent.spawn(ran.append, 1)
    asked = 0
    while not ran and asked < 50_000:
        host.request(A, asked)
        asked += 1
    assert ran, f"{asked} requests, and the hub has not run"
    other.join()


def test_requests_in_loops_do_not_hold_up_who_is_in_line(real_host: Host) -> None:
    recorder = Recorder()
    real_host.register_actor("x", recorder)
    over = Event()
    rounds = [0] * 40

    def ask(number: int) -> None:
        mine = Ref("x", f"asked {number}")
        while not over.is_set():
            real_host.request(mine, number)
            rounds[number] += 1

    askers = [in_background(ask, number) for number in range(len(rounds))]
    try:
        until(lambda: all(rounds))
        before = sum(rounds)
        worst = 0
        for number in range(5):
            seen = list(rounds)
            real_host.send(Ref("x", f"in line {number}"), number)
            until(partial(recorder.users, Ref("x", f"in line {number}")))
            worst = max(worst, sum(now > then for now, then in zip(rounds, seen, strict=True)))
        assert sum(rounds) > before
        assert worst < len(rounds) / 2, f"{worst} of {len(rounds)} had their turns first"
    finally:
        over.set()
        gevent.joinall(askers)


def test_an_actor_that_is_asked_behind_its_messages_is_not_idle(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(idle_timeout=10.0, cleanup_interval=0.5)
    recorder = Recorder()
    host.register_actor("x", recorder)
    host.request(A, "begin")
    for number in range(35):
        clock.advance(1.0)
        host.request(B, number)  # the hub has just run: the next request is handed over
        host.send(A, "before")
        host.request(A, number)
        assert recorder.instances == 2, f"ended after {number} s, though it is asked every second"


def test_a_request_that_finds_no_room_leaves_no_activation(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(host_inbox_size=1)
    gate = Event()
    recorder = Recorder()
    host.register_actor("x", recorder)
    host.send(A, lambda ctx: gate.wait())
    clock.settle()
    asked = in_background(host.request, B, 1)
    clock.advance(5.1)
    with pytest.raises(InboxFull):
        asked.get(timeout=5)
    assert B not in host._registry.actors
    gate.set()


def test_who_was_granted_room_sends_nothing_to_a_frozen_host(make_host: MakeHost, clock: VirtualClock) -> None:
    host = make_host(host_inbox_size=1)
    gate = Event()
    recorder = Recorder()
    host.register_actor("x", recorder)
    host.send(A, lambda ctx: gate.wait())
    clock.settle()
    sender = in_background(host.send, B, "late")
    clock.settle()
    assert host.metrics.snapshot()["senders_waiting"] == 1
    backpressure = host._dispatcher.backpressure

    def grant_and_freeze() -> None:
        backpressure.grant(1)  # as a worker does when its turn ends
        host.freeze()

    freezer = in_background(grant_and_freeze)
    clock.settle()
    gate.set()
    clock.settle()
    clock.advance(3)
    freezer.get(timeout=5)
    with pytest.raises(HostFrozen):
        sender.get(timeout=5)
    assert recorder.users(B) == []
    assert_balanced(host.metrics)


def test_nothing_is_remembered_of_what_a_freeze_ended_in_its_initialize(
    make_host: MakeHost, clock: VirtualClock
) -> None:
    host = make_host(freeze_grace_period=0.5)
    gate = Event()
    recorder = Recorder()
    host.register_actor("x", recorder)

    def stop_with_one_more(ctx: Context) -> None:
        ctx.send(A, "next")
        recorder.on_initialize = lambda ctx: gate.wait()
        raise StopActor

    host.send(A, stop_with_one_more)
    clock.settle()
    assert [type(m) for m in recorder.of(A) if isinstance(m, Initialize)] == [Initialize] * 2
    freezer = in_background(host.freeze)
    clock.settle()
    clock.advance(2)
    clock.settle()
    freezer.get(timeout=5)
    assert host._dispatcher.lifecycle.reasons == {}
    assert_balanced(host.metrics)
