"""The table of hosts: registering, renewing, fencing, leaving, and who hears of it."""

from __future__ import annotations

import pytest

from tests.integration.postgres_support import Cluster, cluster, heard, terminate
from tests.support import in_background, until
from theatre_gevent import DatabaseRefused, DatabaseUnavailable, Ref
from theatre_gevent.cluster import postgres
from theatre_gevent.cluster.store import Life

__all__ = ["cluster"]


def test_epochs_rise_over_all_hosts(cluster: Cluster) -> None:
    connections = [cluster.connect() for _ in range(3)]

    def draw(number: int) -> list[int]:
        return [postgres.next_epoch(connections[number]) for _ in range(20)]

    tasks = [in_background(draw, number) for number in range(3)]
    drawn = [task.get() for task in tasks]
    assert all(epochs == sorted(epochs) for epochs in drawn)
    assert len({epoch for epochs in drawn for epoch in epochs}) == 60
    assert postgres.next_epoch(cluster.admin) > max(max(epochs) for epochs in drawn)


def test_a_life_begins(cluster: Cluster) -> None:
    life = Life("ü'\"\\", postgres.next_epoch(cluster.admin))
    postgres.register(cluster.admin, life, "10.0.0.1:7001", 12.5, admin_addr="10.0.0.1:9090")
    (row,) = postgres.hosts(cluster.admin)
    assert (row.life, row.address, row.admin_addr) == (life, "10.0.0.1:7001", "10.0.0.1:9090")
    assert (row.lease_duration, row.renewals, row.leaving, row.fenced) == (12.5, 0, False, False)
    assert 0 < row.remaining <= 12.5
    assert postgres.renew(cluster.admin, life) == 1
    assert postgres.renew(cluster.admin, life) == 2
    assert postgres.hosts(cluster.admin)[0].renewals == 2


def test_an_epoch_is_used_once(cluster: Cluster) -> None:
    life = cluster.life("a")
    with pytest.raises(DatabaseRefused):
        postgres.register(cluster.admin, life, "127.0.0.1:1", 3.0)
    with pytest.raises(DatabaseRefused, match="lease_duration"):
        postgres.register(cluster.admin, Life("a", postgres.next_epoch(cluster.admin)), "127.0.0.1:1", 0.0)


def test_registering_ends_the_earlier_life_that_is_named_and_no_other(cluster: Cluster) -> None:
    first, second, other = cluster.life("a"), cluster.life("a"), cluster.life("b")
    third = cluster.life("a", previous_epoch=first.epoch)
    assert [row.life for row in postgres.hosts(cluster.admin)] == [second, third, other]
    assert [row.life for row in postgres.hosts(cluster.admin, fenced=True) if row.fenced] == [first]
    assert postgres.renew(cluster.admin, first) is None
    cluster.life("a", previous_epoch=other.epoch)
    assert postgres.renew(cluster.admin, other) == 1, "the epoch of another host"
    cluster.life("a", previous_epoch=987654321)


def test_a_registration_that_fails_ends_nothing(cluster: Cluster) -> None:
    first, second = cluster.life("a"), cluster.life("a")
    with pytest.raises(DatabaseRefused):
        postgres.register(cluster.admin, second, "127.0.0.1:1", 3.0, previous_epoch=first.epoch)
    assert postgres.renew(cluster.admin, first) == 1


# -- fencing ---------------------------------------------------------------------------------------------------


def test_fencing_is_for_ever_and_for_who_saw_no_renewal(cluster: Cluster) -> None:
    a = cluster.life("a")
    postgres.renew(cluster.admin, a)
    assert not postgres.fence(cluster.admin, a, 0)
    assert not postgres.fence(cluster.admin, a, 2)
    assert postgres.fence(cluster.admin, a, 1)
    assert not postgres.fence(cluster.admin, a, 1), "it is over already"
    assert not postgres.fence_self(cluster.admin, a)
    assert not postgres.set_leaving(cluster.admin, a)
    assert postgres.renew(cluster.admin, a) is None
    assert not postgres.fence(cluster.admin, Life("nobody", 7), 0)
    assert postgres.hosts(cluster.admin) == []


def test_a_fence_loses_against_a_renewal_that_is_under_way(cluster: Cluster) -> None:
    a = cluster.life("a")
    renewing, fencing = cluster.connect(), cluster.connect()
    renewing.run("BEGIN")
    assert postgres.renew(renewing, a) == 1
    fence = in_background(postgres.fence, fencing, a, 0)
    cluster.until_blocked(fencing)
    renewing.run("COMMIT")
    assert fence.get() is False
    assert postgres.renew(cluster.admin, a) == 2


def test_renewals_that_waited_for_a_fence_fail(cluster: Cluster) -> None:
    a = cluster.life("a")
    fencing, renewing = cluster.connect(), [cluster.connect() for _ in range(3)]
    fencing.run("BEGIN")
    assert postgres.fence(fencing, a, 0)
    renewals = [in_background(postgres.renew, connection, a) for connection in renewing]
    cluster.until_blocked(*renewing)
    fencing.run("COMMIT")
    assert [renewal.get() for renewal in renewals] == [None, None, None]
    assert postgres.renew(cluster.admin, a) is None


def test_of_two_that_fence_at_once_one_does_it(cluster: Cluster) -> None:
    a = cluster.life("a")
    locking, fencing = cluster.connect(), [cluster.connect() for _ in range(2)]
    locking.run("BEGIN")
    locking.run("SELECT FROM hosts FOR UPDATE")
    fences = [in_background(postgres.fence, connection, a, 0) for connection in fencing]
    cluster.until_blocked(*fencing)
    locking.run("COMMIT")
    assert sorted(fence.get() for fence in fences) == [False, True]


# -- the lock of a host id -------------------------------------------------------------------------------------


def test_a_host_id_has_one_holder_for_as_long_as_its_connection_lives(cluster: Cluster) -> None:
    first, second = cluster.connect(), cluster.connect()
    assert postgres.try_lock(first, "a")
    assert not postgres.try_lock(second, "a")
    assert postgres.try_lock(second, "b")
    assert postgres.try_lock(second, "A")
    terminate(cluster, first)
    assert postgres.try_lock(second, "a")


def test_clusters_in_two_schemas_do_not_share_locks(cluster: Cluster) -> None:
    cluster.admin.run("CREATE SCHEMA other")
    cluster.admin.run("CREATE TABLE other.hosts ()")
    here, there = cluster.connect(), cluster.connect()
    there.run("SET search_path = other")
    assert postgres.try_lock(here, "a")
    assert postgres.try_lock(there, "a")


# -- news ------------------------------------------------------------------------------------------------------


def test_changes_are_announced(cluster: Cluster) -> None:
    listening = cluster.connect()
    postgres.listen(listening)
    assert listening.notifications() == []
    a = cluster.life("a")
    assert heard(listening) == [f"registered {a.epoch}"]
    postgres.renew(cluster.admin, a)
    assert postgres.set_leaving(cluster.admin, a)
    assert heard(listening) == [f"leaving {a.epoch}"], "and a renewal is no news"
    assert postgres.hosts(cluster.admin)[0].leaving
    postgres.fence(cluster.admin, a, 99)
    postgres.notify(cluster.admin, "hello 'ü'")
    assert heard(listening) == ["hello 'ü'"], "and a fence that failed is none"
    postgres.fence(cluster.admin, a, 1)
    assert heard(listening) == [f"fenced {a.epoch}"]


def test_notifications_come_with_statements_too(cluster: Cluster) -> None:
    listening = cluster.connect()
    postgres.listen(listening)
    postgres.notify(cluster.admin, "news")
    until(listening.is_readable)
    assert postgres.hosts(listening) == []
    assert listening.notifications() == ["news"]


def test_who_listens_learns_that_the_server_has_closed_the_connection(cluster: Cluster) -> None:
    listening = cluster.connect()
    postgres.listen(listening)
    terminate(cluster, listening)
    assert not listening.closed, "psycopg2 does not see it by itself"
    said: list[str] = []

    def lost() -> bool:
        try:
            listening.notifications()
        except DatabaseUnavailable as error:
            said.append(str(error))
        return bool(said)

    until(lost)
    assert "connection to the database was lost" in said[0]
    assert listening.closed


# -- what is left ----------------------------------------------------------------------------------------------


def test_rows_of_lives_that_are_over_go_when_they_own_nothing(cluster: Cluster) -> None:
    alive, owning, empty = cluster.life("alive"), cluster.life("owning"), cluster.life("empty")
    postgres.claim(cluster.admin, owning, 1, [Ref("player", "1")])
    postgres.fence_self(cluster.admin, owning)
    postgres.fence_self(cluster.admin, empty)
    assert postgres.forget_fenced(cluster.admin) == 0, "people may want to see them for a while"
    assert postgres.forget_fenced(cluster.admin, keep=0.0) == 1
    assert [row.life for row in postgres.hosts(cluster.admin, fenced=True)] == [alive, owning]
    assert postgres.claim(cluster.admin, alive, 1, [Ref("player", "1")]).mine
    assert postgres.forget_fenced(cluster.admin, keep=0.0) == 1
    assert postgres.forget_fenced(cluster.admin, keep=0.0) == 0
    assert [row.life for row in postgres.hosts(cluster.admin, fenced=True)] == [alive]
    assert postgres.renew(cluster.admin, empty) is None
