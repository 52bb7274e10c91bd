"""The guard of a lease acts in the order in which it has decided, whenever its greenlets get their turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.support import Recorder, assert_balanced
from theatre_gevent import Host, HostFrozen, Ref
from theatre_gevent.cluster.guard import LeaseGuard
from theatre_gevent.cluster.postgres_cluster import Cluster, Health
from theatre_gevent.cluster.router import ClusterRouter
from theatre_gevent.testing import VirtualClock

A = Ref("a", "1")
GOOD = Health(remaining=20.0, failures=0, fenced=False, conflict=False, reachable=True)
ENDING = Health(remaining=1.0, failures=0, fenced=False, conflict=False, reachable=False)


class Lease:
    """What the guard asks of a cluster, with values that the test gives."""

    state = GOOD

    def health(self) -> Health:
        return self.state

    def remaining_lease(self) -> float:
        return self.state.remaining

    def on_news(self, watcher: Callable[[], None]) -> None:
        pass


class NothingWaits:
    """A router without detours."""

    claiming = None

    def give_up(self, error: Exception) -> None:
        pass


@pytest.fixture
def lease() -> Lease:
    return Lease()


@pytest.fixture
def guard(host: Host, lease: Lease) -> LeaseGuard:
    cluster, router = cast(Cluster, cast(Any, lease)), cast(ClusterRouter, cast(Any, NothingWaits()))
    return LeaseGuard("h", host._states, cluster, host._dispatcher, host._closer, router, host.options)


def look_at(guard: LeaseGuard, lease: Lease, *states: Health) -> None:
    for lease.state in states:
        guard.look()


def test_a_lease_that_is_renewed_at_once_leaves_the_host_active(
    host: Host, guard: LeaseGuard, lease: Lease, clock: VirtualClock
) -> None:
    """A hub that was held up hears of the lease's end and of its renewal in one go."""
    recorder = Recorder()
    host.register_actor("a", recorder)
    look_at(guard, lease, ENDING)
    assert host.state == "frozen"
    look_at(guard, lease, GOOD)
    assert host.state == "active"
    clock.settle()
    assert host.request(A, "x") == "x", "it is not only called active"
    assert_balanced(host.metrics)


def test_a_freeze_takes_no_message_from_the_first_instant(host: Host, guard: LeaseGuard, lease: Lease) -> None:
    host.register_actor("a", Recorder())
    look_at(guard, lease, ENDING)
    with pytest.raises(HostFrozen):
        host.send(A, "x")
    look_at(guard, lease, GOOD)
    host.send(A, "y")


def test_frozen_again_before_the_first_freeze_had_its_turn(
    host: Host, guard: LeaseGuard, lease: Lease, clock: VirtualClock
) -> None:
    host.register_actor("a", Recorder())
    look_at(guard, lease, ENDING, GOOD, ENDING)
    clock.settle()
    with pytest.raises(HostFrozen):
        host.send(A, "x")
    look_at(guard, lease, GOOD)
    host.send(A, "y")
    clock.settle()
    assert_balanced(host.metrics)
