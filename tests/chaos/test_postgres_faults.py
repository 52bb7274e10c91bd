"""Clusters over a real Postgres, each host a process of its own, to which bad things happen while traffic runs.

Whatever happens, the judge reads what every handler wrote down: no actor has two lives at once, nothing is handled
after a lease, each sender's messages keep their order, nothing is lost without a word, every reply is the right one.
Times are printed (`pytest -s`); what is asserted about them is what the documentation promises, and two seconds for a
machine that has other things to do.
"""

from __future__ import annotations

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
from tests.support import until
from theatre_gevent.embedded import EmbeddedPostgres

pytestmark = pytest.mark.faults

# -- a host dies -----------------------------------------------------------------------------------------------------


def test_a_host_is_killed(cluster: PgCluster) -> None:
    """Its actors go on elsewhere within lease and poll, as FAILOVER; who had asked them is told at once."""
    cluster.start("a", "b", "c")
    traffic(cluster, "a", "b", "c")
    actors = owned_by(cluster, "b")
    waiting = [cluster["a"].begin("request", ref=actors[0], body=["sleep", "", 0, 30], timeout=20)]
    cluster.until_record(lambda r: r.what == "begin" and r.sender == "" and r.host == "b")
    killed = cluster.kill("b")
    for result in waiting:
        with pytest.raises(Failed, match="NoOwner"):
            result.get(timeout=5)
    assert boottime() - killed < 1.0 + BUSY
    cluster.ask_until_answered("a", actors)
    for ref in actors:
        later = [each for each in activations(cluster.records(), ref) if each.t > killed]
        assert later[0].note == "FAILOVER"
        assert later[0].t - killed < LEASE + POLL + BUSY
    first = min(each.t for ref in actors for each in activations(cluster.records(), ref) if each.t > killed)
    figure("killed, failover of the first actor", first - killed)
    cluster.until_progress(("a", "a"), ("c", "c"), by=50)
    cluster.at_least = 200


def test_a_killed_host_comes_back(cluster: PgCluster) -> None:
    """With a new epoch, before its old lease has ended: what it owned is its own only when that has."""
    cluster.start("a", "b")
    traffic(cluster, "a", actors=refs(10))
    before = cluster["b"].epoch
    actors = owned_by(cluster, "b")
    killed = cluster.kill("b")
    cluster.start("b")
    assert cluster["b"].epoch > before
    cluster.ask_until_answered("b", actors)
    later = [each for ref in actors for each in activations(cluster.records(), ref) if each.t > killed]
    assert {each.note for each in later} == {"FAILOVER"}
    fenced = cluster.fenced()[("b", before)]
    figure("killed and restarted, first failover", min(each.t for each in later) - killed)
    assert fenced - killed < LEASE + POLL + BUSY
    cluster.until_progress()


# -- a host is paused ------------------------------------------------------------------------------------------------


def test_a_host_is_paused_for_longer_than_its_lease(cluster: PgCluster) -> None:
    """It handles nothing when it goes on, though its sockets are full of messages; then it comes back by itself."""
    cluster.start("a", "b", "c")
    traffic(cluster, "a", "b", "c")
    actors = owned_by(cluster, "b")
    epoch = cluster["b"].epoch
    at_work = []
    for ref, word in zip(actors, ("nap", "burn"), strict=False):
        at_work.append(cluster["a"].begin("request", ref=ref, body=[word, "", 0, 1.5, "r-late"], timeout=20))
        cluster.until_record(lambda r: r.what == "begin" and (r.sender, r.ref) == ("", f"w/{ref}"))  # noqa: B023
    assert len(at_work) == 2
    paused = cluster.pause("b")
    cluster.until_record(lambda r: r.what == "init" and r.note == "FAILOVER" and r.host != "b" and r.t > paused)
    cluster.ask_until_answered("c", actors)
    figure("paused, all failed over", boottime() - paused)
    cluster.until_progress(("a", "a"), ("c", "c"), by=50)
    resumed = cluster.resume("b")
    cluster.note_fault(paused, boottime())
    back = cluster.until_state("b", "active", since=resumed)
    figure("resumed, active again", back.t - resumed)
    assert back.t - resumed < 2.0 + BUSY
    assert back.epoch > epoch
    for result in at_work:
        with pytest.raises(Failed, match="NoOwner"):
            result.get(timeout=20)
    cluster.until_progress(by=50)
    assert cluster["b"].call("report")["notes"] == []
    begun = cluster.records("begin", host="b", epoch=epoch)
    assert [r for r in begun if r.t > resumed + 0.1] == []
    cluster.at_least = 300


def test_an_actor_never_lets_others_run(cluster: PgCluster) -> None:
    """The host says which while it stands, others take over what it has, and what comes of it reaches nobody."""
    cluster.start("a", "b", "c")
    traffic(cluster, "a", "b", "c")
    actors = owned_by(cluster, "b")
    epoch = cluster["b"].epoch
    began = boottime()
    burning = cluster["a"].begin("request", ref=actors[0], body=["burn", "", 0, 4 * LEASE, "r-late"], timeout=40)
    cluster.until_record(lambda r: r.what == "begin" and (r.sender, r.ref) == ("", f"w/{actors[0]}"))
    log = cluster.folder / "b.log"
    told = f"actor w/{actors[0]} does not let others run"
    until(lambda: told in log.read_text(), 20)
    assert "in _handle" in log.read_text(), "the stack says where"
    figure("never yields, told", boottime() - began)
    assert not cluster.records("end", sender="", ref=f"w/{actors[0]}"), "it was told while it lasted"
    cluster.until_record(lambda r: r.what == "init" and r.note == "FAILOVER" and r.host != "b" and r.t > began)
    cluster.ask_until_answered("c", actors)
    back = cluster.until_state("b", "active", since=began, timeout=40)
    cluster.note_fault(began, boottime())
    assert back.epoch > epoch
    with pytest.raises(Failed, match=r"NoOwner|HostFrozen"):
        burning.get(timeout=20)
    assert cluster["b"].call("report")["notes"] == [], "its sends, requests and replies were refused"
    cluster.until_progress(by=50)
    cluster.at_least = 200


def test_a_host_is_paused_for_less_than_its_lease(cluster: PgCluster) -> None:
    """Nobody notices more than slow replies."""
    cluster.start("a", "b")
    traffic(cluster, "a", "b", actors=refs(10))
    cluster.pause("b")
    gevent.sleep(0.8)
    cluster.resume("b")
    cluster.until_progress(by=50)
    assert failures(cluster) == {}
    assert cluster.fenced() == {}
    assert {r.note for r in cluster.records("state")} == {"starting", "active"}


def test_two_hosts_take_turns_in_being_paused(cluster: PgCluster) -> None:
    """Whoever goes on last has lost everything, and nobody handles a message that is another's by now."""
    cluster.start("a", "b", "c")
    traffic(cluster, "a", "b", "c", actors=refs(12), timeout=1.0)
    for name in ("a", "b", "a"):
        paused = cluster.pause(name)
        life = (name, max(epoch for host, epoch in cluster.lives() if host == name))
        until(lambda: life in cluster.fenced(), 15)  # noqa: B023
        resumed = cluster.resume(name)
        cluster.note_fault(paused, boottime())
        cluster.until_state(name, "active", since=resumed)
    cluster.until_progress(by=30)
    cluster.at_least = 500


# -- Postgres goes away ----------------------------------------------------------------------------------------------


def test_postgres_is_restarted(fragile: PgCluster, server: EmbeddedPostgres) -> None:
    """Who sends to actors that are placed does not notice."""
    fragile.start("a", "b", "c", options={"lease_duration": 6.0})
    traffic(fragile, "a", "b", "c")
    began = boottime()
    server.restart()
    figure("Postgres away for a restart", boottime() - began)
    fragile.until_progress(by=100)
    assert failures(fragile) == {}
    assert {r.note for r in fragile.records("state")} == {"starting", "active"}
    assert fragile["a"].request("new-one")[1] == "w/new-one"
    fragile.at_least = 300


def test_postgres_crashes(fragile: PgCluster, server: EmbeddedPostgres) -> None:
    """The same with a kill, and new actors are wanted meanwhile: they come when it is back."""
    fragile.start("a", "b", options={"lease_duration": 6.0})
    traffic(fragile, "a", "b", actors=refs(10))
    server.kill()
    new = [
        fragile[name].begin("request", ref=ref, body=["work", "", 0], timeout=10)
        for ref in refs(5, "n")
        for name in "ab"
    ]
    fragile.until_progress(by=20)
    server.restart()
    for answer in new:
        answer.get(timeout=15)
    fragile.until_progress(by=50)
    assert failures(fragile) == {}


def test_postgres_is_away_for_less_than_the_lease(fragile: PgCluster, server: EmbeddedPostgres) -> None:
    """Nobody freezes."""
    fragile.start("a", "b", options={"lease_duration": 4.0})
    traffic(fragile, "a", "b", actors=refs(10))
    server.shutdown()
    gevent.sleep(1.0)
    server.restart()
    fragile.until_progress(by=50)
    assert failures(fragile) == {}
    assert {r.note for r in fragile.records("state")} == {"starting", "active"}
    assert fragile.fenced() == {}


@pytest.mark.parametrize("how", ["shutdown", "pause"])
def test_postgres_is_away_for_longer_than_the_lease(fragile: PgCluster, server: EmbeddedPostgres, how: str) -> None:
    """All freeze before their leases end, none handles anything, and all serve again within 2 s of its return."""
    fragile.start("a", "b", "c")
    traffic(fragile, "a", "b", "c", timeout=1.0)
    mine = owned_by(fragile, "b")
    stubborn = fragile["a"].begin("request", ref=mine[0], body=["survive", "", 0, 4.0, "r-late"], timeout=20)
    sleeping = fragile["a"].begin("request", ref=mine[1], body=["sleep", "", 0, 20.0], timeout=20)
    for ref in mine[:2]:
        fragile.until_record(lambda r: r.what == "begin" and (r.sender, r.ref) == ("", f"w/{ref}"))  # noqa: B023
    gone = boottime()
    getattr(server, how)()
    frozen = [fragile.until_state(name, "frozen", since=gone) for name in "abc"]
    figure(f"Postgres gone ({how}), the last host frozen", max(r.t for r in frozen) - gone)
    assert max(r.t for r in frozen) - gone < LEASE + BUSY
    for asked in (stubborn, sleeping):
        with pytest.raises(Failed, match=r"NoOwner|HostFrozen"):
            asked.get(timeout=10)
    lost = [fragile.until_state(name, "rejoining", since=gone) for name in "abc"]
    for name in "abc":
        with pytest.raises(Failed, match="HostFrozen"):
            fragile[name].request("r1")
    fragile.note_fault(gone, boottime())
    quiet_since = max(r.t for r in lost)
    gevent.sleep(0.5)
    assert [r for r in fragile.records("begin") if r.t > quiet_since] == []
    back = boottime()
    server.resume() if how == "pause" else server.restart()
    up = boottime()
    again = [fragile.until_state(name, "active", since=back) for name in "abc"]
    figure(f"Postgres back ({how}), the last host active", max(r.t for r in again) - up)
    assert max(r.t for r in again) - up < 2.0 + BUSY
    fragile.note_fault(back, boottime())
    fragile.until_progress(by=30)
    assert {r.epoch for r in again}.isdisjoint({r.epoch for r in frozen})
    # A handler that can't be killed goes on in the host's next life, and reaches nobody.
    end = fragile.until_record(lambda r: r.what == "end" and r.sender == "" and r.ref == f"w/{mine[0]}")
    assert end.note == "fenced"
    report = fragile["b"].call("report")
    assert report["notes"] == []
    assert report["kills"] > 0
    fragile.at_least = 200


def test_postgres_is_away_and_the_hosts_are_to_stop(fragile: PgCluster, server: EmbeddedPostgres) -> None:
    """With `on_lease_lost="drain"` a lost lease is the end of the host."""
    fragile.start("a", "b", options={"on_lease_lost": "drain"})
    traffic(fragile, "a", "b", actors=refs(10), timeout=1.0)
    gone = boottime()
    server.shutdown()
    try:
        stopped = [fragile.until_state(name, "stopped", since=gone) for name in "ab"]
        figure("Postgres gone, the last host stopped", max(r.t for r in stopped) - gone)
        states = {name: [r.note for r in fragile.records("state", host=name) if r.t > gone] for name in "ab"}
        assert states == {name: ["frozen", "draining", "stopped"] for name in "ab"}
        fragile.note_fault(gone, boottime())
        for name in "ab":
            with pytest.raises(Failed, match="HostDraining"):
                fragile[name].request("r1")
            fragile.stop(name)
    finally:
        server.restart()
    left = owned_by(fragile, "a")  # nobody could be told
    fragile.start("c")
    fragile.ask_until_answered("c", left)
    later = [each for ref in left for each in activations(fragile.records(), ref) if each.host == "c"]
    assert {each.note for each in later} == {"FAILOVER"}


def test_postgres_stops_answering(fragile: PgCluster, server: EmbeddedPostgres) -> None:
    """Actors that are active go on, and no hub is held up, for as long as the leases last."""
    fragile.start("a", "b", options={"lease_duration": 8.0})
    traffic(fragile, "a", "b", actors=refs(10))
    for name in "ab":
        fragile[name].call("report")  # the longest tick is counted from here
    server.pause()
    try:
        wanted = [fragile[name].begin("request", ref=f"n-{name}", body=["work", "", 0], timeout=10) for name in "ab"]
        fragile.until_progress(by=100)
        ticks = [fragile[name].call("report")["tick"] for name in "ab"]
        figure("Postgres paused, the longest tick of a hub", max(ticks))
        assert max(ticks) < 1.0
    finally:
        server.resume()
    for answer in wanted:
        answer.get(timeout=15)
    assert failures(fragile) == {}
    assert {r.note for r in fragile.records("state")} == {"starting", "active"}
