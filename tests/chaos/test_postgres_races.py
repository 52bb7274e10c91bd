"""Many hosts want the same actors: first messages, actors that leave when idle, and hosts that leave in good order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gevent
import pytest

from tests.chaos.pg_cluster import (
    LEASE,
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
from tests.support import until

pytestmark = pytest.mark.faults


def test_five_hosts_want_a_thousand_actors_at_once(cluster: PgCluster) -> None:
    """Each comes alive once, wherever the first message for it came from."""
    cluster.start(*"abcde", options={"lease_duration": 8.0})
    actors = refs(1000)
    began = boottime()
    floods = [
        cluster[name].begin("flood", refs=actors if name in "ace" else actors[::-1], sender=name) for name in "abcde"
    ]
    assert [flood.get(timeout=40) for flood in floods] == [{"answered": 1000}] * 5
    figure("1 000 actors claimed, 5 000 requests answered", boottime() - began)
    begun = Counter(record.ref for record in cluster.records("init"))
    assert len(begun) == 1000
    assert set(begun.values()) == {1}
    hosts = {record.ref: (record.host, record.epoch) for record in cluster.records("init")}
    assert hosts == cluster.owners()
    assert set(Counter(host for host, _ in hosts.values())) == set("abcde")
    cluster.at_least = 5000


def test_all_hosts_are_wrong_about_the_ring(cluster: PgCluster) -> None:
    """Everybody activates the same actors by hand while messages come for them: one host gets each."""
    cluster.start(*"abc")
    actors = refs(30)
    floods = [cluster[name].begin("flood", refs=actors, sender=name) for name in "abc"]
    spawns = {(name, ref): cluster[name].begin("spawn", ref=ref) for ref in actors for name in "abc"}
    outcomes: dict[str, set[str]] = {ref: set() for ref in actors}
    for (name, ref), result in spawns.items():
        try:
            result.get(timeout=20)
        except Failed as error:
            assert error.kind == "NoOwner"  # noqa: PT017
        else:
            outcomes[ref].add(name)
    assert [flood.get(timeout=40) for flood in floods] == [{"answered": 30}] * 3
    owners = cluster.owners()
    for ref, names in outcomes.items():
        assert names <= {owners[f"w/{ref}"][0]}
        assert len(list(activations(cluster.records(), ref))) == 1


@pytest.mark.parametrize("shutdown_time", [0.03])
def test_idle_actors_leave_while_messages_come(cluster: PgCluster, shutdown_time: float) -> None:
    """Hundreds of times: never two at once, nothing lost, each sender's order kept."""
    options: dict[str, Any] = {"idle_timeout": 0.04, "cleanup_interval": 0.02, "lease_duration": 8.0}
    cluster.start("a", "b", "c", options=options, shutdown_time=shutdown_time)
    for name in "abc":
        cluster[name].call("start", lane=name, refs=refs(6), pause=0.02)
        cluster[name].call("start", lane=f"{name}2", refs=refs(4, "s"), pause=0.03)
    cluster.until_progress(by=60, timeout=30)
    cluster.halt()
    assert failures(cluster) == {}
    begun = cluster.records("init")
    assert len(begun) > 100
    print(f"{len(begun)} activations of 10 actors, {Counter(r.note for r in begun)}")
    assert cluster.records("dead") == []
    until(lambda: cluster.owners() == {}, 10)
    cluster.at_least = 900


def test_a_new_host_takes_its_share(cluster: PgCluster) -> None:
    """Actors stay where they are until they have been idle; then they come alive on the host that joined."""
    cluster.start("a", "b", options={"idle_timeout": 0.3, "cleanup_interval": 0.05})
    traffic(cluster, "a", "b", actors=refs(20), pause=0.03)
    cluster.start("c", options={"idle_timeout": 0.3, "cleanup_interval": 0.05})
    ring = [ref for ref in refs(20) if cluster["a"].call("owner", ref=ref) == "c"]
    assert ring
    until(lambda: {owner for ref in ring if (owner := cluster.owners().get(f"w/{ref}", ("?", 0))[0])} == {"c"}, 20)
    cluster.until_progress(by=20)
    assert failures(cluster) == {}
    assert cluster.records("dead") == []
    cluster.at_least = 200


# -- leaving ---------------------------------------------------------------------------------------------------------


def test_a_rolling_restart(cluster: PgCluster) -> None:
    """One host after the other: every request succeeds within its deadline, and actors move within a second."""
    cluster.start("a", "b", "c")
    for name in "abc":
        cluster[name].call("start", lane=name, refs=refs(24), timeout=5.0)
    cluster.until_progress(by=30)
    moves = []
    for name in "abc":
        others = [(other, other) for other in cluster.hosts if other != name]
        cluster.halt([name])
        actors = owned_by(cluster, name)
        began = boottime()
        cluster.stop(name)
        stopped = boottime()
        cluster.until_progress(*others, by=48)
        first = [
            next(r for r in activations(cluster.records(), ref) if r.t > began and r.host != name) for ref in actors
        ]
        assert {r.note for r in first} == {"NEW"}
        overs = {r.ref: r.t for r in cluster.records("over", host=name)}
        moves += [r.t - overs[r.ref] for r in first]
        figure(f"{name} stopped in {stopped - began:.2f} s; the last of its actors was without a host for", max(moves))
        cluster.start(name)
        cluster[name].call("start", lane=name, refs=refs(24), timeout=5.0)
        cluster.until_progress(by=30)
    cluster.halt()
    assert failures(cluster) == {}
    assert cluster.records("failed", "dead", "refused") == []
    assert sorted(moves)[len(moves) // 2] < 1.0
    cluster.at_least = 700


def test_all_hosts_leave_at_once(cluster: PgCluster) -> None:
    """Nobody waits for anybody, and nothing is owned any more."""
    cluster.start(*"abc")
    traffic(cluster, *"abc", timeout=2.0)
    began = boottime()
    pids = [host.pid for host in cluster.hosts.values()]
    for host in cluster.hosts.values():
        host.signal(15)
    for name in list(cluster.hosts):
        assert cluster.hosts.pop(name).wait() == 0
    figure("three hosts stopped at once", boottime() - began)
    assert {r.pid for r in cluster.records("stopped")} == set(pids)
    assert cluster.owners() == {}
    assert len(cluster.fenced()) == 3
    cluster.note_fault(began, boottime())


def test_a_handler_that_goes_on_while_its_host_stops(cluster: PgCluster) -> None:
    """Nobody else has the actor before it has returned, whatever is done to it; and it reaches nobody any more."""
    cluster.start("a", "b", linger=6.0, options={"drain_timeout": 0.3, "lease_duration": 6.0})
    mine = [ref for ref in refs(20) if cluster["a"].call("owner", ref=ref) == "b"]
    asked = cluster["a"].begin("request", ref=mine[0], body=["swallow", "", 0, 4.0], timeout=20)
    fine = cluster["a"].begin("request", ref=mine[1], body=["sleep", "", 0, 0.1], timeout=20)
    begun = cluster.until_record(lambda r: r.what == "begin" and r.ref == f"w/{mine[0]}")
    fine.get(timeout=5)
    stopping = cluster["b"].begin("stop")
    cluster["a"].call("start", lane="a", refs=mine[:2], timeout=12.0)
    later = cluster.until_record(lambda r: r.what == "init" and r.ref == f"w/{mine[1]}" and r.host == "a")
    figure("an actor without a handler moved in", later.t - begun.t)
    with pytest.raises(Failed):
        asked.get(timeout=10)
    end = cluster.until_record(lambda r: r.what == "end" and r.ref == f"w/{mine[0]}" and r.host == "b", timeout=30)
    assert end.note == "fenced"
    moved = cluster.until_record(lambda r: r.what == "init" and r.ref == f"w/{mine[0]}" and r.host == "a", timeout=30)
    figure("an actor whose handler swallowed its kill moved after its end in", moved.t - end.t)
    assert moved.note == "FAILOVER"
    assert moved.t > end.t
    stopping.get(timeout=10)
    assert cluster.hosts.pop("b").wait() == 0
    cluster.until_progress(by=4)


def test_hosts_come_and_go(cluster: PgCluster) -> None:
    """In good order and otherwise, all at the same time."""
    cluster.start("a", "b", "c", options={"idle_timeout": 0.5, "cleanup_interval": 0.1})
    traffic(cluster, *"abc", actors=refs(15), timeout=2.0)
    options: dict[str, Any] = {"idle_timeout": 0.5, "cleanup_interval": 0.1}
    for round_ in range(2):
        cluster.kill("b")
        cluster.halt(["c"])
        since = boottime()
        cluster.stop("c")
        cluster.start("b", "d" if round_ else "c", options=options)
        for name in cluster.hosts.keys() - {"a"}:
            cluster[name].call("start", lane=name, refs=refs(15), timeout=2.0)
        gevent.sleep(LEASE)
        cluster.until_progress(by=20)
        cluster.note_fault(since, since)
        if not round_:
            cluster.hosts["c"] = cluster.hosts.pop("c")
    cluster.at_least = 300
