"""Clusters for tests, the end of their hosts, and calls under a virtual clock."""

from __future__ import annotations

import socket
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.support import until
from theatre_gevent import Host, HostNotRunning, InvalidOption, Ref, Shutdown, TheatreError
from theatre_gevent.testing import TestCluster, VirtualClock
from theatre_gevent.testing.hosts import stop_hosts
from theatre_gevent.testing.xdist import NativeEvent


def test_all_hosts_know_all_when_it_has_started_and_none_runs_when_it_has_stopped() -> None:
    cluster = TestCluster(3, own={"host-2": {"idle_timeout": 1}}, request_timeout=20)
    cluster.start()
    try:
        assert [host.host_id for host in cluster] == ["host-1", "host-2", "host-3"]
        assert [host.options.idle_timeout for host in cluster] == [15, 1, 15]
        assert {host.options.request_timeout for host in cluster} == {20}
        cluster.register_actor("where", Where)
        for owner in cluster:
            ref = cluster.ref_on(owner, "where")
            for asker in cluster:
                assert asker.request(ref, "?") == ref.id
                assert asker.ring_owner(ref) == owner.host_id
    finally:
        cluster.stop()
    assert {host.state for host in cluster} == {"stopped"}


class Where:
    def receive(self, ctx: Any) -> None:
        if ctx.message == "?":
            ctx.reply(ctx.actor_ref.id)


@pytest.mark.parametrize(
    ("arguments", "options", "what"),
    [
        ((0,), {}, "1 host or more, got 0"),
        ((True,), {}, "1 host or more, got True"),
        ((2,), {"listen": "127.0.0.1:7001"}, "sets listen itself"),
        ((2,), {"own": {"host-1": {"clock": None}}}, "sets clock itself"),
        ((2,), {"own": {"host-3": {}}}, "'host-3', but the hosts are host-1, host-2"),
        ((2,), {"idle_timeuot": 1}, "did you mean 'idle_timeout'"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(arguments: Any, options: Any, what: str) -> None:
    with pytest.raises((ValueError, InvalidOption), match=what):
        TestCluster(*arguments, **options)


def test_a_host_that_does_not_stop_is_an_error_and_the_others_are_stopped(clock: VirtualClock) -> None:
    class Stuck(Host):
        def stop(self) -> None:
            never.wait()

    class Broken(Host):
        def stop(self) -> None:
            super().stop()
            raise ZeroDivisionError("in stop")

    never = Event()
    hosts = [Stuck(host_id="s", clock=clock), Broken(host_id="b", clock=clock), Host(host_id="h", clock=clock)]
    for host in hosts:
        host.start()
    with pytest.raises(RuntimeError, match="b: in stop; s: it did not stop in time and is active") as caught:
        stop_hosts(hosts, clock)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [host.state for host in hosts] == ["active", "stopped", "stopped"]
    never.set()
    clock.run(Host.stop, hosts[0])


def test_a_cluster_is_started_and_stopped_by_a_with_block() -> None:
    with TestCluster(2) as hosts:
        hosts.register_actor("where", Where)
        assert hosts[0].request(hosts.ref_on(hosts[1], "where"), "?")
    assert {host.state for host in hosts} == {"stopped"}


def test_a_host_that_a_receiver_has_stopped_is_an_error() -> None:
    def raising(ctx: Any) -> None:
        if ctx.message == "boom":
            raise LookupError("the reason")

    host = Host(host_id="h", panic_recovery=False).start()
    host.register_actor("raising", raising)
    host.send(Ref("raising", "1"), "boom")
    until(lambda: host.state == "stopped")
    with pytest.raises(RuntimeError, match="h: it has stopped by itself: LookupError: the reason") as caught:
        stop_hosts([host])
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value.__cause__.__cause__, LookupError)


@pytest.mark.parametrize("raises_at", [str, Shutdown])
def test_what_a_receiver_raises_while_its_host_stops_is_an_error_too(raises_at: type) -> None:
    def raising(ctx: Any) -> None:
        if isinstance(ctx.message, raises_at):
            raise LookupError("too late to stop the host")

    host = Host(host_id="h", panic_recovery=False).start()
    host.register_actor("raising", raising)
    host.send(Ref("raising", "1"), "boom")
    with pytest.raises(RuntimeError, match=r"h: (a receiver raised while it stop|it has stopped by itself)"):
        stop_hosts([host])
    assert host.state == "stopped"


def test_a_receiver_that_had_to_be_killed_has_not_raised(clock: VirtualClock) -> None:
    host = Host(clock=clock, panic_recovery=False).start()
    host.register_actor("slow", lambda ctx: Event().wait() if ctx.message == "wait" else None)
    host.send(Ref("slow", "1"), "wait")
    stop_hosts([host], clock)
    assert host.state == "stopped"


class Impatient(VirtualClock):
    """Gives up after a tenth of a second, for as long as that is what is tested."""

    patience = 0.1

    def settle(self, at_most: float = 10.0) -> None:
        super().settle(min(at_most, self.patience))


def test_an_actor_that_sends_to_itself_for_ever_is_an_error_and_ends_with_its_host() -> None:
    def busy(ctx: Any) -> None:
        if ctx.message == "go":
            handled.append(ctx.message)
            ctx.send(ctx.actor_ref, "go")

    handled: list[str] = []
    clock = Impatient()
    host = Host(host_id="h", clock=clock, drain_timeout=1).start()
    host.register_actor("busy", busy)
    host.send(Ref("busy", "1"), "go")
    with pytest.raises(RuntimeError, match=r": the clock: the greenlets did not come to rest within 0\.1 s$"):
        stop_hosts([host], clock)
    assert host.state == "stopped"
    before = len(handled)
    clock.patience = 10.0
    clock.advance(60)  # raises if anything runs on
    assert len(handled) == before


class Outcome(BaseException):
    """As what `pytest.fail` raises."""


@pytest.mark.parametrize("time", [None, VirtualClock()])
def test_an_outcome_that_comes_while_hosts_stop_is_raised_when_they_have(time: VirtualClock | None) -> None:
    def failing(ctx: Any) -> None:
        if isinstance(ctx.message, Shutdown):
            raise Outcome(ctx.actor_ref.id)

    hub = gevent.get_hub()
    before = hub.SYSTEM_ERROR
    hub.SYSTEM_ERROR = (*before, Outcome)
    try:
        host = Host(clock=time).start()
        host.register_actor("failing", failing)
        for number in "123":
            host.spawn_local(Ref("failing", number))
        with pytest.raises(Outcome, match=r"^[123]$"):
            stop_hosts([host], time, (Outcome,))
    finally:
        hub.SYSTEM_ERROR = before
    assert host.state == "stopped"
    assert host.metrics.snapshot()["receiver_errors"] == 3


def test_outcomes_without_end_do_not_keep_a_host_from_stopping(clock: VirtualClock) -> None:
    def failing(ctx: Any) -> None:
        if ctx.message == "go":
            ctx.send(ctx.actor_ref, "go")
            raise Outcome

    hub = gevent.get_hub()
    before = hub.SYSTEM_ERROR
    hub.SYSTEM_ERROR = (*before, Outcome)
    try:
        host = Host(clock=clock, drain_timeout=0.2).start()
        host.register_actor("failing", failing)
        host.send(Ref("failing", "1"), "go")
        with pytest.raises(Outcome):
            stop_hosts([host], clock, (Outcome,))
    finally:
        hub.SYSTEM_ERROR = before
    assert host.state == "stopped"


def test_a_cluster_that_could_not_start_leaves_no_host_running() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = {"host-3": {"admin_addr": f"127.0.0.1:{taken.getsockname()[1]}"}}
        cluster = TestCluster(3, own=own)
        with pytest.raises(TheatreError, match="in use"):
            cluster.start()
    assert [host.state for host in cluster] == ["stopped", "stopped", "new"]


def test_starting_a_cluster_again_leaves_it_alone() -> None:
    with TestCluster(1) as cluster:
        with pytest.raises(HostNotRunning):
            cluster.start()
        assert cluster[0].state == "active"


def test_hosts_that_need_their_time_get_it_from_the_virtual_clock(clock: VirtualClock) -> None:
    host = Host(clock=clock, drain_timeout=30).start()
    host.register_actor("slow", lambda ctx: Event().wait() if ctx.message == "wait" else None)
    host.send(Ref("slow", "1"), "wait")
    before = clock.monotonic()
    stop_hosts([host], clock)
    assert host.state == "stopped"
    assert clock.monotonic() - before >= 30


def test_run_returns_and_raises_what_the_function_does_and_takes_no_more_time_than_needed() -> None:
    clock = VirtualClock(start=0.0)
    clock.call_later(100.0, lambda: None)

    def wait(seconds: float) -> float:
        clock.sleep(seconds)
        return seconds

    assert clock.run(wait, 7.1) == 7.1
    assert clock.monotonic() == pytest.approx(7.1)
    with pytest.raises(HostNotRunning):
        clock.run(Host().request, Ref("x", "1"), "?")
    assert clock.run(lambda: "at once") == "at once"
    assert clock.monotonic() == pytest.approx(7.1)


def test_run_gives_up_on_what_no_timer_brings() -> None:
    clock = VirtualClock()
    never = Event()
    with pytest.raises(RuntimeError, match="waits still after 3600 s"):
        clock.run(never.wait)
    with pytest.raises(RuntimeError, match="waits still after 5 s"):
        clock.run(clock.sleep, 6.0, at_most=5.0)
    gevent.sleep(0)
    assert clock.pending_timers() == 0  # whoever waited does so no more


def test_an_event_of_a_worker_wakes_whoever_waits_in_whatever_thread() -> None:
    event = NativeEvent()
    assert not event.is_set()
    assert not event.wait(timeout=0.001)
    waiting = [gevent.get_hub().threadpool.spawn(event.wait, 30) for _ in range(2)]
    event.set()
    event.set()
    assert [one.get() for one in waiting] == [True, True]
    assert event.is_set()
    assert event.wait()
    event.clear()
    assert not event.wait(timeout=0.001)
