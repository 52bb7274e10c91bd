"""Room in the host after a request that was handed over, and whose handler then blocked."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced, in_background, stop_actor
from theatre_gevent import Context, Ref
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
B = Ref("a", "2")


@pytest.mark.parametrize("how", ["reply", "stop", "raise", "exit"])
def test_15_room_after_a_handed_over_request_that_blocked(make_host: MakeHost, clock: VirtualClock, how: str) -> None:
    host = make_host(host_inbox_size=1)
    recorder = Recorder()
    host.register_actor("a", recorder)
    host.request(A, "warm")
    host.request(A, "warm")
    go = Event()

    def block(ctx: Context) -> None:
        go.wait()
        if how == "stop":
            stop_actor(ctx)
        if how == "raise":
            raise ValueError
        if how == "exit":
            raise gevent.GreenletExit
        ctx.reply(None)

    def ask() -> None:
        host.request(A, "warm again, so that the next one is handed over")
        try:
            host.request(A, block)
        except Exception:
            pass

    asking = gevent.spawn(ask)
    clock.settle()
    waiting = [in_background(host.send, B, number) for number in range(3)]
    clock.settle()
    blocked = not waiting[0].ready()
    go.set()
    clock.settle()
    assert all(task.ready() for task in waiting), f"blocked at all: {blocked}"
    assert asking.ready()
    assert recorder.users(B) == [0, 1, 2]
    assert_balanced(host.metrics)
