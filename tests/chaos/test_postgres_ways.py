"""Hosts that lose the way to Postgres or to each other, or lose connections; two that claim to be the same one."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from tests.chaos.pg_cluster import (
    BUSY,
    LEASE,
    POLL,
    Failed,
    PgCluster,
    activations,
    boottime,
    failures,
    figure,
    owned_by,
    refs,
    traffic,
)
from tests.postgres import execute
from tests.proxies import DatabaseProxy
from tests.support import until
from tests.transports import Proxy

pytestmark = pytest.mark.faults


@pytest.fixture
def proxy(dsn: str) -> Iterator[DatabaseProxy]:
    """The way of one host to Postgres; ask for it before the cluster, whose end needs it."""
    with DatabaseProxy(dsn) as made:
        yield made


# -- no way to Postgres ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "swallow", "mute"])
def test_one_host_is_cut_off_from_postgres(proxy: DatabaseProxy, cluster: PgCluster, how: str) -> None:
    """It stops before its lease has ended, the others take over, and it comes back with a new epoch by itself."""
    cluster.start("a", "c")
    cluster.hosts["b"] = cluster.launch("b", dsn=proxy.dsn).wait_started()
    cluster.until_acquainted()
    traffic(cluster, "a", "b", "c", timeout=1.0)
    actors, epoch = owned_by(cluster, "b"), cluster["b"].epoch
    cut = boottime()
    getattr(proxy, how)()
    frozen = cluster.until_state("b", "frozen", since=cut)
    figure(f"cut off from Postgres ({how}), frozen", frozen.t - cut)
    assert frozen.t - cut < LEASE + BUSY
    with pytest.raises(Failed, match="HostFrozen"):
        cluster["b"].request(actors[0])
    cluster.ask_until_answered("a", actors)
    later = [each for ref in actors for each in activations(cluster.records(), ref) if each.t > cut]
    assert {each.note for each in later} == {"FAILOVER"}
    assert {each.host for each in later} <= {"a", "c"}
    figure(f"cut off from Postgres ({how}), all failed over", max(each.t for each in later) - cut)
    cluster.until_progress(("a", "a"), ("c", "c"), by=30)
    assert ("b", epoch) in cluster.fenced()
    healed = boottime()
    proxy.heal()
    back = cluster.until_state("b", "active", since=healed)
    figure(f"way back to Postgres ({how}), active", back.t - healed)
    assert back.t - healed < 2.0 + BUSY
    assert back.epoch > epoch
    cluster.note_fault(cut, boottime())
    cluster.until_progress(by=30)
    cluster.at_least = 300


def test_a_short_cut_is_not_noticed(proxy: DatabaseProxy, cluster: PgCluster) -> None:
    cluster.start("a")
    cluster.hosts["b"] = cluster.launch("b", dsn=proxy.dsn, options={"lease_duration": 4.0}).wait_started()
    cluster.until_acquainted()
    traffic(cluster, "a", "b", actors=refs(10))
    for how in ("cut", "swallow"):
        getattr(proxy, how)()
        gevent.sleep(0.7)
        proxy.heal()
        assert cluster["b"].request(f"after-{how}", timeout=8.0)[1] == f"w/after-{how}"
    cluster.until_progress(by=30)
    assert failures(cluster) == {}
    assert {r.note for r in cluster.records("state")} == {"starting", "active"}


def test_a_host_stops_while_it_is_cut_off(proxy: DatabaseProxy, cluster: PgCluster) -> None:
    """It ends within its bounds; what it could not give back is free when its lease has ended."""
    cluster.start("a")
    cluster.hosts["b"] = cluster.launch("b", dsn=proxy.dsn).wait_started()
    cluster.until_acquainted()
    traffic(cluster, "a", "b", timeout=1.0)
    cluster.halt()
    actors = owned_by(cluster, "b")
    proxy.cut()
    cut = boottime()
    host = cluster.hosts.pop("b")
    report = host.call("stop")
    figure("stopped without a database", boottime() - cut)
    assert report["state"] == "stopped"
    assert report["metrics"]["actors_active"] == 0
    assert host.wait() == 0
    cluster.note_fault(cut, boottime())
    cluster.ask_until_answered("a", actors)
    later = [each for ref in actors for each in activations(cluster.records(), ref) if each.t > cut]
    assert {(each.note, each.host) for each in later} == {("FAILOVER", "a")}


def test_answers_of_claims_are_lost(proxy: DatabaseProxy, cluster: PgCluster) -> None:
    """The claims were written down, and nobody was told: asking again finds out, and no row is left behind."""
    cluster.start("a")
    cluster.hosts["b"] = cluster.launch("b", dsn=proxy.dsn, options={"lease_duration": 6.0}).wait_started()
    cluster.until_acquainted()
    for number in range(3):
        actors = refs(30, f"lost-{number}-")
        proxy.mute()
        flood = cluster["b"].begin("flood", refs=actors, sender=f"b{number}")
        other = cluster["a"].begin("flood", refs=actors, sender=f"a{number}")
        until(lambda: any(ref in cluster.owners() for ref in [f"w/{each}" for each in actors]))  # noqa: B023
        gevent.sleep(0.3)
        proxy.heal()
        assert flood.get(timeout=30) == {"answered": 30}
        assert other.get(timeout=30) == {"answered": 30}
        begun = {ref: list(activations(cluster.records(), ref)) for ref in actors}
        assert {len(each) for each in begun.values()} == {1}
        assert {each[0].note for each in begun.values()} == {"NEW"}
    assert {r.note for r in cluster.records("state")} == {"starting", "active"}
    cluster.at_least = 180


def test_the_database_is_slow(proxy: DatabaseProxy, cluster: PgCluster) -> None:
    """A second for each statement: who is active does not notice, new actors take their time, no lease is lost."""
    cluster.dsn, straight = proxy.dsn, cluster.dsn
    cluster.start("a", "b", options={"lease_duration": 6.0, "request_timeout": 8.0})
    cluster.dsn = straight
    traffic(cluster, "a", "b", actors=refs(10))
    proxy.delay = 1.0
    since = boottime()
    cluster.until_progress(by=30)
    wanted = [
        cluster[name].begin("request", ref=f"n{name}{n}", body=["work", "", 0], timeout=8)
        for name in "ab"
        for n in "12"
    ]
    for answer in wanted:
        answer.get(timeout=10)
    figure("a second for each statement, four new actors", boottime() - since)
    gevent.sleep(max(0.0, 7.0 - (boottime() - since)))
    cluster.until_progress(by=30)
    assert failures(cluster) == {}
    assert {r.note for r in cluster.records("state")} == {"starting", "active"}
    assert cluster.fenced() == {}
    proxy.delay = 0.0


@pytest.mark.parametrize("whose", ["all", "the lock's"])
def test_connections_are_terminated(cluster: PgCluster, whose: str) -> None:
    """Hosts connect again; the actors go on, and new ones come."""
    cluster.start("a", "b")
    traffic(cluster, "a", "b", actors=refs(10))
    locks = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)"
    condition = {"all": "true", "the lock's": locks}[whose]
    ended = 0
    for number in range(3):
        began = boottime()
        ended += cluster.terminate(condition)
        for name in "ab":
            assert cluster[name].request(f"new-{name}-{number}")[1] == f"w/new-{name}-{number}"
        figure(f"connections terminated ({whose}), a new actor on each host", boottime() - began)
        until(lambda: len(execute(cluster.dsn, f"SELECT pid FROM pg_stat_activity WHERE {locks}")) == 2)  # noqa: S608
        figure(f"connections terminated ({whose}), both hosts have their lock", boottime() - began)
        gevent.sleep(0.4)
    assert ended >= 3
    cluster.until_progress(by=30)
    assert failures(cluster) == {}
    assert {r.note for r in cluster.records("state")} == {"starting", "active"}
    assert cluster.fenced() == {}


# -- no way to each other --------------------------------------------------------------------------------------------


def test_one_host_can_not_be_reached_by_its_peers(cluster: PgCluster) -> None:
    """It lives, so nobody takes its actors; who asks for them is told, and everything else goes on."""
    cluster.start("a", "c")
    given = {"options": {"listen": "127.0.0.1:0"}}
    probe = cluster.launch("probe", **given).wait_started()
    address = probe.address
    probe.call("stop")
    probe.wait()
    way = Proxy(address)
    try:
        options = {"listen": address, "advertise": way.addr}
        cluster.hosts["b"] = cluster.launch("b", options=options).wait_started()
        cluster.until_acquainted()
        traffic(cluster, "a", "b", "c", timeout=1.0)
        actors = owned_by(cluster, "b")
        mine = [ref.partition("/")[2] for ref, (host, _) in cluster.owners().items() if host == "a"]
        cut = boottime()
        way.gate.clear()
        with pytest.raises(Failed, match=r"RequestTimeout|NoOwner"):
            cluster["a"].request(actors[0], timeout=1.0)
        assert cluster["b"].request(actors[0])[1] == f"w/{actors[0]}"
        assert cluster["c"].request(mine[0])[1] == f"w/{mine[0]}"
        gevent.sleep(LEASE + POLL)
        assert cluster["b"].request(actors[0])[1] == f"w/{actors[0]}"
        assert cluster.fenced().keys() == {("probe", probe.epoch)}
        way.cut()
        way.gate.set()
        until(lambda: cluster["a"].call("report")["metrics"]["peers_up"] == 2, 15)
        cluster.note_fault(cut, boottime())
        cluster.until_progress(by=30)
        assert {r.note for r in cluster.records("state", host="b")} == {"starting", "active"}
        assert len(list(activations(cluster.records(), actors[0]))) == 1
        cluster.halt()
    finally:
        way.close()


# -- two of a name ---------------------------------------------------------------------------------------------------


def test_two_processes_with_one_host_id(cluster: PgCluster) -> None:
    """The second is told so and does not start; once the first is dead, the next one may be what it was."""
    cluster.start("a", "b")
    traffic(cluster, "a", actors=refs(10))
    with pytest.raises(Failed, match="'b'") as refused:
        cluster.launch("b").wait_started()
    assert refused.value.kind == "HostIdConflict"
    cluster.until_progress(by=30)
    assert failures(cluster) == {}
    cluster.kill("b")
    cluster.start("b")
    cluster.until_progress(by=30)


def test_the_lock_goes_to_another_process_meanwhile(cluster: PgCluster) -> None:
    """A paused host loses its connections, and a twin starts in its place: only one of them ever handles messages."""
    cluster.start("a", "b")
    traffic(cluster, "a", "b", actors=refs(10), timeout=1.0)
    paused = cluster.pause("b")
    old = cluster.hosts.pop("b")
    cluster.terminate("application_name = 'b'")
    cluster.start("b")
    fresh = cluster["b"]
    cluster.until_progress(("a", "a"), by=30)
    resumed = boottime()
    cluster.hosts["old"] = old
    cluster.resume("old")
    until(lambda: old.state() in ("rejoining", "frozen"))
    cluster.note_fault(paused, boottime())
    figure("resumed beside a twin, at rest", boottime() - resumed)
    cluster.until_progress(("a", "a"), by=30)
    assert old.state() in ("rejoining", "frozen")
    assert fresh.state() == "active"
    begun = [r for r in cluster.records("begin") if r.pid == old.pid and r.t > resumed + 0.1]
    assert begun == []
    # When the twin has left, it is again what it was.
    cluster.stop("b")
    until(lambda: old.state() == "active", 10)
    cluster.until_progress(("old", "b"), by=10)
    cluster.note_fault(resumed, boottime())
