"""Requests that are handed over directly, and who asked is interrupted before the hub has run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from greenlet import getcurrent

from tests.conftest import MakeHost
from tests.support import Recorder, assert_balanced
from theatre_gevent import Context, Host, Ref
from theatre_gevent.testing import VirtualClock

A, B, C = Ref("a", "1"), Ref("a", "2"), Ref("a", "3")


class Interrupt(BaseException):
    """As KeyboardInterrupt: it comes when it likes."""


def interrupt(asker: Any) -> Callable[[Context], None]:
    """What a signal handler does: raise in who asked, while the handler still runs and the hub has not."""

    def handle(ctx: Context) -> None:
        gevent.get_hub().loop.run_callback(getcurrent().switch)
        asker.throw(Interrupt())

    return handle


@pytest.mark.parametrize("depth", [1, 2])
def test_the_asker_is_interrupted_at_once(make_host: MakeHost, clock: VirtualClock, depth: int) -> None:
    host: Host = make_host()
    recorder = Recorder()
    host.register_actor("a", recorder)
    seen: list[str] = []

    def ask() -> None:
        for ref in (A, B, C):
            host.request(ref, "warm")
        outer = getcurrent()

        def nested(ctx: Context) -> None:
            ctx.request(C, interrupt(outer))

        try:
            host.request(A, interrupt(outer) if depth == 1 else nested)
        except Interrupt:
            seen.append("interrupted")
        seen.append(host.request(B, "still there"))

    asking = gevent.spawn(ask)
    clock.settle()
    assert asking.ready()
    assert seen == ["interrupted", "still there"]
    clock.advance(10)
    assert host.request(A, "and here") == "and here"
    assert host.metrics.snapshot()["requests_pending"] == 0
    assert_balanced(host.metrics)
