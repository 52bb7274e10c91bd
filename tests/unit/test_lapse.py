"""A lease that ends: nothing is handled after it, whatever stands in the inboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent
import pytest

from tests.support import AheadClock
from theatre_gevent import Host, HostFrozen, Ref
from theatre_gevent.core.closing import Closer

if TYPE_CHECKING:
    from collections.abc import Iterator

A = Ref("a", "1")


class Lease:
    """Lasts for 50 seconds."""

    def __init__(self, clock: AheadClock) -> None:
        self.lease_until = clock.monotonic() + 50.0
        self.lapses: list[int] = []


@pytest.fixture
def clock() -> AheadClock:
    return AheadClock()


@pytest.fixture
def host(clock: AheadClock) -> Iterator[Host]:
    with Host(clock=clock, drain_timeout=0.1, idle_timeout=1000.0) as host:
        yield host


@pytest.fixture
def lease(host: Host, clock: AheadClock) -> Lease:
    """The host lives until the lease ends, and is fenced then."""
    lease, dispatcher = Lease(clock), host._dispatcher

    def lapse() -> None:
        lease.lapses.append(1)
        frozen = HostFrozen("the lease has ended")
        Closer(dispatcher).fence_all(frozen)
        gevent.spawn(Closer(dispatcher).force, frozen)

    dispatcher.lease = lease
    dispatcher.on_lapse = lapse
    return lease


def record(host: Host) -> list[Any]:
    seen: list[Any] = []
    host.register_actor("a", lambda ctx: seen.append(ctx.message))
    return seen


def pause(clock: AheadClock) -> None:
    clock.ahead += 60.0


def users(seen: list[Any]) -> list[Any]:
    return [message for message in seen if isinstance(message, int)]


def test_nothing_accepted_before_the_end_is_handled_after_it(host: Host, lease: Lease, clock: AheadClock) -> None:
    seen = record(host)
    host.spawn_local(A)
    for number in range(5):
        host.send(A, number)
    host.send(Ref("a", "2"), 7)
    pause(clock)
    gevent.idle()
    assert users(seen) == []
    assert lease.lapses == [1]
    with pytest.raises(HostFrozen):
        host.send(A, 6)


def test_a_turn_ends_with_the_lease(host: Host, lease: Lease, clock: AheadClock) -> None:
    seen: list[int] = []

    def receive(ctx: Any) -> None:
        if isinstance(ctx.message, int):
            seen.append(ctx.message)
            if ctx.message == 2:
                pause(clock)

    host.register_actor("a", receive)
    host.spawn_local(A)
    for number in range(5):
        host.send(A, number)
    gevent.idle()
    assert seen == [0, 1, 2]
    assert lease.lapses == [1]


def test_the_next_actor_has_no_turn_after_the_end(host: Host, lease: Lease, clock: AheadClock) -> None:
    seen: list[str] = []

    def receive(ctx: Any) -> None:
        if isinstance(ctx.message, int):
            seen.append(ctx.actor_ref.id)
            pause(clock)

    host.register_actor("a", receive)
    refs = [Ref("a", str(number)) for number in range(3)]
    for ref in refs:
        host.spawn_local(ref)
    for ref in refs:
        host.send(ref, 1)
    gevent.idle()
    assert seen == ["0"]


def test_a_request_is_not_handed_over_after_the_end(host: Host, lease: Lease, clock: AheadClock) -> None:
    seen = record(host)
    host.spawn_local(A)
    assert host._dispatcher.parked  # there is somebody to hand it to
    pause(clock)
    with pytest.raises(HostFrozen):
        host.request(A, 1, timeout=5.0)
    assert users(seen) == []


def test_what_was_fenced_is_cleared_and_accounted_for(host: Host, lease: Lease, clock: AheadClock) -> None:
    record(host)
    host.spawn_local(A)
    for number in range(5):
        host.send(A, number)
    pause(clock)
    gevent.idle()
    found = host.metrics.snapshot()
    assert found["actors_active"] == 0
    assert found["messages_dead_lettered"] == 5
    assert found["messages_queued"] == 0
    assert found["messages_sent"] == found["messages_received"] + 5
