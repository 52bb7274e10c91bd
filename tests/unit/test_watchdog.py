"""A receiver that never lets others run is named, with its stack, by a thread that it can't stop."""

from __future__ import annotations

import logging
import time

import pytest
from gevent.monkey import get_original

from tests.conftest import MakeHost
from tests.support import until
from theatre_gevent import Context, Host, Ref, SystemClock
from theatre_gevent.core.watchdog import INTERVAL, LIMIT

_sleep = get_original("time", "sleep")


def lines(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_an_actor_that_never_yields_is_named_while_it_does_not(
    real_host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def monopolise(ctx: Context) -> None:
        if ctx.message == "go":
            end = time.monotonic() + 30
            while not seen and time.monotonic() < end:  # computes; nothing here switches
                seen.extend(lines(caplog, "stood still"))

    real_host.register_actor("burner", monopolise)
    real_host.register_actor("waiter", lambda ctx: _sleep(0.01))
    with caplog.at_level(logging.WARNING, "theatre_gevent.host"):
        real_host.send(Ref("waiter", "1"), "hello")
        real_host.send(Ref("burner", "7"), "go")
        until(lambda: lines(caplog, "runs again after"), 40)
    assert len(seen) == 1
    assert f"host {real_host.host_id} has stood still" in seen[0]
    assert "actor burner/7 does not let others run" in seen[0]
    assert "in monopolise" in seen[0], "the stack says where"


def test_what_is_no_actor_is_told_too(real_host: Host, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "theatre_gevent.host"):
        end = time.monotonic() + 30
        while not lines(caplog, "stood still") and time.monotonic() < end:
            _sleep(0.01)
    assert "something that is no actor does not let others run" in lines(caplog, "stood still")[0]
    assert "test_what_is_no_actor_is_told_too" in lines(caplog, "stood still")[0]


def test_a_host_that_is_idle_or_has_stopped_is_not_told(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    host = make_host(clock=SystemClock())
    watchdog = host._watchdog
    with caplog.at_level(logging.WARNING, "theatre_gevent.host"):
        before = watchdog._ticked
        until(lambda: watchdog._ticked > before + 1.0)
        host.stop()
        _sleep(1.0)  # the hub stands, but it is nobody's any more
    assert not lines(caplog, "stood still")


def test_it_is_told_within_a_second() -> None:
    """The look that finds the limit passed comes one interval later at most."""
    assert LIMIT + INTERVAL < 1.0


def test_nobody_is_watched_under_a_virtual_clock(host: Host) -> None:
    assert host._watchdog._timer is None
