"""Hosts in one process over a real Postgres: who owns what, and how it is given back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.integration.cluster_support import router_of
from tests.integration.leased_support import LEASED, PostgresCluster
from tests.postgres import execute
from tests.proxies import DatabaseProxy
from tests.support import in_background, until
from theatre_gevent import (
    Context,
    DatabaseUnavailable,
    Host,
    HostIdConflict,
    Initialize,
    InvalidRef,
    MessageNotSerializable,
    NoOwner,
    Ref,
    RemoteActorError,
    RequestTimeout,
    Shutdown,
    SystemClock,
)

boottime = SystemClock().boottime


@pytest.fixture
def abc(dsn: str) -> Iterator[PostgresCluster]:
    with PostgresCluster(dsn) as made:
        yield made


class Lives:
    """A receiver that writes down how activations begin and end; messages are answered with the host's id."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, Ref]] = []
        self.gate = Event()  # for Shutdown
        self.gate.set()
        self.kept = Event()  # for handlers that can't be killed
        self.keeping = 0

    def on(self, host_id: str) -> Any:
        def receive(ctx: Context) -> None:
            if isinstance(ctx.message, Initialize):
                self.events.append((ctx.message.reason.name, host_id, ctx.actor_ref))
            elif isinstance(ctx.message, Shutdown):
                self.gate.wait()
                self.events.append(("over", host_id, ctx.actor_ref))
            elif ctx.message == "kept":
                self.keeping += 1
                while not self.kept.is_set():
                    with suppress(BaseException):
                        self.kept.wait()
                self.events.append(("ended", host_id, ctx.actor_ref))
            else:
                ctx.reply(host_id)

        return receive

    def of(self, ref: Ref) -> list[tuple[str, str]]:
        return [(what, host_id) for what, host_id, to in self.events if to == ref]


def lives_of(cluster: PostgresCluster) -> Lives:
    lives = Lives()
    for name, host in cluster.hosts.items():
        host.register_actor("life", lives.on(name))
    return lives


# -- who owns what ---------------------------------------------------------------------------------------------------


def test_every_actor_is_owned_by_the_host_that_has_it(abc: PostgresCluster) -> None:
    lives = lives_of(abc)
    refs = [Ref("life", str(n)) for n in range(60)]
    for host in abc:
        answers = [in_background(host.request, ref, "who") for ref in refs]
        assert [task.get() for task in answers] == [host.ring_owner(ref) for ref in refs]
    assert [lives.of(ref) for ref in refs] == [[("NEW", abc["a"].ring_owner(ref))] for ref in refs]
    assert [abc.owner(ref) for ref in refs] == [abc["a"].ring_owner(ref) for ref in refs]
    assert {epoch for (epoch,) in abc.sql("SELECT DISTINCT epoch FROM actor_ownership")} == set(map(abc.epoch, "abc"))
    assert abc.sum("claims_total") == 60
    assert abc.sum("claim_statements") < 60, "claims are made together"
    for name in "abc":
        abc.leave(name)
    assert abc.sql("SELECT count(*) FROM actor_ownership") == [(0,)]
    assert abc.sql("SELECT count(*) FROM hosts WHERE fenced_at IS NULL") == [(0,)]


def test_an_idle_actor_is_given_back(dsn: str) -> None:
    with PostgresCluster(dsn, "ab", idle_timeout=0.1, cleanup_interval=0.05) as cluster:
        lives = lives_of(cluster)
        ref = next(
            Ref("life", str(n)) for n in itertools.count() if cluster["a"].ring_owner(Ref("life", str(n))) == "b"
        )
        assert cluster["a"].request(ref, "who") == "b"
        assert cluster["b"].metrics.snapshot()["claims_total"] == 1  # which a slow machine may have given back by now
        until(lambda: cluster.owner(ref) is None)
        assert lives.of(ref) == [("NEW", "b"), ("over", "b")]
        assert cluster["a"].request(ref, "who") == "b"
        assert lives.of(ref)[-1] == ("NEW", "b")


def test_an_actor_is_not_given_back_before_its_shutdown_has_returned(dsn: str) -> None:
    """And what comes for it meanwhile waits, also at the host that is to have it next."""
    with PostgresCluster(dsn, "ab", idle_timeout=0.1, cleanup_interval=0.05) as cluster:
        lives = lives_of(cluster)
        ref = next(
            Ref("life", str(n)) for n in itertools.count() if cluster["a"].ring_owner(Ref("life", str(n))) == "b"
        )
        cluster["a"].request(ref, "who")
        lives.gate.clear()
        until(lambda: cluster["b"].metrics.snapshot()["messages_queued"] == 0 and lives.of(ref) == [("NEW", "b")])
        gevent.sleep(0.3)
        tasks = [in_background(host.request, ref, "who") for host in cluster]
        gevent.sleep(0.2)
        assert cluster.owner(ref) == "b"
        assert lives.of(ref) == [("NEW", "b")]
        lives.gate.set()
        assert [task.get() for task in tasks] == ["b", "b"]
        assert lives.of(ref)[:2] == [("NEW", "b"), ("over", "b")]


@pytest.mark.parametrize("by", ["the ring's choice", "another host"])
def test_a_row_without_an_actor(abc: PostgresCluster, by: str) -> None:
    """A host's own row, left by a release that failed: that host takes the actor up, and nothing goes in circles."""
    lives = lives_of(abc)
    ref = Ref("life", "left")
    chosen = abc["a"].ring_owner(ref)
    owner = chosen if by == "the ring's choice" else next(name for name in "abc" if name != chosen)
    abc.own(owner, ref)
    for host in abc:
        assert host.request(ref, "who", 3.0) == owner
        host.send(ref, "nothing")
    until(lambda: lives.of(ref) == [("REACTIVATION", owner)])
    abc.settle()
    returned = abc.sum("messages_returned")
    gevent.sleep(0.2)
    assert abc.sum("messages_returned") == returned <= 10
    assert [abc.dead[name] for name in "abc"] == [[], [], []]


def test_the_row_of_a_host_that_is_gone(abc: PostgresCluster) -> None:
    lives = lives_of(abc)
    ref = Ref("life", "orphan")
    abc.sql("INSERT INTO actor_ownership VALUES ('life', 'orphan', 'z', 1, clock_timestamp(), 5, 1)")
    owner = abc["a"].ring_owner(ref)
    assert [host.request(ref, "who") for host in abc] == [owner] * 3
    assert lives.of(ref) == [("FAILOVER", owner)]
    assert abc.owner(ref) == owner


@pytest.mark.parametrize(
    ("text", "why"),
    [("nul\0inside", "a NUL character"), ("half \ud800", "surrogate"), ("x" * 3000, "2600 are the most")],
    ids=["NUL", "surrogate", "too long"],
)
def test_refs_that_no_row_can_hold(abc: PostgresCluster, text: str, why: str) -> None:
    """Who asks is told, a plain message becomes a dead letter, and what is claimed with it is not harmed."""
    bad, good = Ref("x", text), [Ref("x", f"good-{n}") for n in range(20)]
    for host in abc:
        tasks = [in_background(host.request, ref, "hi", 5.0) for ref in [*good[:10], bad, *good[10:]]]
        for n, task in enumerate(tasks):
            if n == 10:
                with pytest.raises((InvalidRef, RemoteActorError, MessageNotSerializable), match=why):
                    task.get()
            else:
                assert task.get() == "hi"
    sent = 0
    for host in abc:
        try:
            host.send(bad, "to nobody")
            sent += 1
        except (InvalidRef, MessageNotSerializable):
            pass
    until(lambda: sum(map(len, abc.dead.values())) == sent)
    assert abc.actors.at(bad) == []


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_spawn_local_claims(abc: PostgresCluster) -> None:
    lives = lives_of(abc)
    refs = [Ref("life", str(n)) for n in range(12)]
    foreign = [ref for ref in refs if abc["a"].ring_owner(ref) != "a"]
    own = [ref for ref in refs if ref not in foreign]
    for ref in own:
        abc["a"].spawn_local(ref)
        assert abc.owner(ref) == "a"
        assert lives.of(ref) == [("NEW", "a")]
    for ref in foreign:
        outcomes = [in_background(host.spawn_local, ref) for host in abc]
        gevent.joinall(outcomes)
        winners = [name for name, task in zip("abc", outcomes, strict=True) if not fails_with(task, NoOwner)]
        assert winners == [abc.owner(ref)]
        assert lives.of(ref) == [("NEW", winners[0])]
        assert [host.request(ref, "who") for host in abc] == winners * 3


def fails_with(task: Any, kind: type[BaseException]) -> bool:
    try:
        task.get()
    except kind:
        return True
    return False


# -- members come and go ---------------------------------------------------------------------------------------------


def test_the_wall_clock_of_the_database_does_not_matter(abc: PostgresCluster) -> None:
    """What `lease_expiry` says is for people: by hand it is an hour wrong, both ways, and nobody loses anything."""
    lives = lives_of(abc)
    refs = [Ref("life", str(n)) for n in range(30)]
    for ref in refs:
        abc["a"].request(ref, "who")
    states = {name: host.state for name, host in abc.hosts.items()}
    end = boottime() + LEASED["lease_duration"] + 1.5
    for hours in itertools.cycle([-1, 1]):
        abc.sql("UPDATE hosts SET lease_expiry = lease_expiry + %s * interval '1 hour'", hours)
        for host in abc:
            host.request(refs[hours], "who")
        gevent.sleep(0.05)
        if boottime() > end:
            break
    assert {name: host.state for name, host in abc.hosts.items()} == states == dict.fromkeys("abc", "active")
    assert abc.sql("SELECT count(*) FROM hosts WHERE fenced_at IS NOT NULL") == [(0,)]
    assert [what for what, _, _ in lives.events] == ["NEW"] * 30


def test_a_host_that_joins_gets_its_share_when_actors_leave(dsn: str) -> None:
    with PostgresCluster(dsn, "ab", idle_timeout=2.0, cleanup_interval=0.05) as cluster:
        lives = lives_of(cluster)
        refs = [Ref("life", str(n)) for n in range(40)]
        first = [cluster["a"].request(ref, "who") for ref in refs]
        cluster.join("c", lives.on("c"))
        until(lambda: all(set(router_of(host).cluster.ring.members) == set("abc") for host in cluster))
        moved = [ref for ref in refs if cluster["a"].ring_owner(ref) == "c"]
        assert moved
        for host in cluster:  # who is active stays where it is
            assert [host.request(ref, "who") for ref in refs] == first
        until(lambda: cluster.sql("SELECT count(*) FROM actor_ownership") == [(0,)])
        for host in cluster:
            assert {host.request(ref, "who") for ref in moved} == {"c"}
        assert [lives.of(ref) for ref in moved] == [
            [("NEW", was), ("over", was), ("NEW", "c")] for ref, was in zip(refs, first, strict=True) if ref in moved
        ]


def test_a_host_that_stops_gives_everything_back_at_once(abc: PostgresCluster) -> None:
    lives = lives_of(abc)
    refs = [Ref("life", str(n)) for n in range(60)]
    for ref in refs:
        abc["a"].request(ref, "who")
    moved = [ref for ref in refs if abc["a"].ring_owner(ref) == "b"]
    epoch = abc.epoch("b")
    stopping = in_background(abc.leave, "b")
    asked = 0
    while not stopping.ready() or asked < 2 * len(refs):
        ref = refs[asked % len(refs)]
        assert abc["ac"[asked % 2]].request(ref, "who", 5.0) in "abc"
        asked += 1
    stopping.get()
    assert [lives.of(ref)[:3] for ref in moved] == [
        [("NEW", "b"), ("over", "b"), ("NEW", abc["a"].ring_owner(ref))] for ref in moved
    ]
    assert abc.sql("SELECT count(*) FROM actor_ownership WHERE epoch = %s", epoch) == [(0,)]
    assert abc.sql("SELECT fenced_at IS NULL FROM hosts WHERE epoch = %s", epoch) == [(False,)]
    assert abc.dead == {"a": [], "b": [], "c": []}


def test_the_last_host_stops(dsn: str) -> None:
    with PostgresCluster(dsn, "a") as cluster:
        refs = [Ref("x", str(n)) for n in range(20)]
        for ref in refs:
            assert cluster["a"].request(ref, "hi") == "hi"
        assert cluster.sql("SELECT count(*) FROM actor_ownership") == [(20,)]
        cluster["a"].stop()
        assert cluster.sql("SELECT count(*) FROM actor_ownership") == [(0,)]


def test_a_host_that_was_stopped_is_followed_by_one_of_the_same_name(dsn: str) -> None:
    with PostgresCluster(dsn, "ab") as cluster:
        lives = lives_of(cluster)
        refs = [Ref("life", str(n)) for n in range(20)]
        for ref in refs:
            cluster["a"].request(ref, "who")
        before = cluster.epoch("b")
        cluster.leave("b")
        cluster.join("b", lives.on("b"))
        assert cluster.epoch("b") > before
        assert [cluster["b"].request(ref, "who") for ref in refs] == [cluster["a"].request(ref, "who") for ref in refs]
        assert {what for what, _, _ in lives.events} <= {"NEW", "over"}


def test_a_host_id_that_is_in_use(dsn: str) -> None:
    with PostgresCluster(dsn, "ab") as cluster:
        twin = cluster.make("b")
        with pytest.raises(HostIdConflict, match="'b'"):
            twin.start()
        assert twin.state == "new"
        assert cluster["a"].request(cluster.ref("b"), "hi") == "hi"
        assert cluster["b"].state == "active"


def test_hosts_that_start_at_once_make_the_tables(dsn: str) -> None:
    hosts = [Host(host_id=f"h{n}", listen="127.0.0.1:0", dsn=dsn, **LEASED) for n in range(4)]
    gevent.joinall([in_background(host.start) for host in hosts])
    assert {host.state for host in hosts} == {"active"}
    rows = execute(dsn, "SELECT host_id FROM hosts WHERE fenced_at IS NULL ORDER BY 1")
    assert rows == [("h0",), ("h1",), ("h2",), ("h3",)]
    gevent.joinall([in_background(host.stop) for host in hosts])
    assert {host.state for host in hosts} == {"stopped"}


def test_a_database_that_is_not_there() -> None:
    host = Host(host_id="a", listen="127.0.0.1:0", dsn="postgresql://nobody@127.0.0.1:1/none", **LEASED)
    with pytest.raises(DatabaseUnavailable, match="Connection refused"):
        host.start()
    assert host.state == "new"
    host.stop()


def test_a_handler_that_swallows_its_kill_keeps_its_actor(dsn: str) -> None:
    """The host has stopped, and still nobody else has the actor before the handler has returned."""
    with PostgresCluster(dsn, "ab", drain_timeout=0.1) as cluster:
        lives = lives_of(cluster)
        ref, other = [Ref("life", str(n)) for n in range(50) if cluster["a"].ring_owner(Ref("life", str(n))) == "b"][:2]
        cluster["a"].request(other, "who")
        cluster["a"].send(ref, "kept")
        until(lambda: cluster["b"].metrics.snapshot()["actors_active"] == 2 and lives.of(ref) == [("NEW", "b")])
        stopping = in_background(cluster.leave, "b")
        task = in_background(cluster["a"].request, ref, "who", 2.0)
        stopping.get()
        assert cluster.owner(ref) == "b"
        assert lives.of(ref) == [("NEW", "b")]
        with pytest.raises((RequestTimeout, NoOwner)):
            task.get()
        lives.kept.set()
        assert cluster["a"].request(ref, "who", 8.0) == "a"
        assert [what for what, _ in lives.of(ref)] == ["NEW", "ended", "FAILOVER"]


def test_idle_actors_are_handed_over_before_a_busy_one_has_finished(abc: PostgresCluster) -> None:
    lives = lives_of(abc)
    refs = [Ref("life", str(n)) for n in range(30)]
    for ref in refs:
        abc["a"].request(ref, "who")
    busy, *idle = (ref for ref in refs if abc["a"].ring_owner(ref) == "b")
    abc["a"].send(busy, "kept")
    until(lambda: lives.keeping)
    stopping = in_background(abc.leave, "b")
    for ref in idle:
        assert abc["a"].request(ref, "who", 3.0) in "ac"
    assert not stopping.ready()
    lives.kept.set()
    stopping.get()
    assert abc["a"].request(busy, "who") in "ac"


@pytest.mark.parametrize("is_long_ago", [False, True])
def test_what_waits_for_a_claim_elsewhere_is_not_overtaken_when_the_ring_changes(
    dsn: str, *, is_long_ago: bool
) -> None:
    """Its claim may take longer than anybody wants to wait: so it is given back, before what was sent after it."""
    way = DatabaseProxy(dsn)
    with PostgresCluster(dsn, "ab", own={"b": {"dsn": way.dsn}}, placement_ttl=0.3) as cluster, way:
        a, (ref, another) = cluster["a"], cluster.refs("b", 2)
        way.swallow()
        for number in range(3):
            a.send(ref, number)
        until(lambda: cluster["b"].metrics.snapshot()["messages_held"] == 3)
        if is_long_ago:
            near = cluster.ref("a")  # a host that only sends reads no clock
            until(lambda: a.request(near, "tick") and router_of(a).known(ref) is None)
            a.send(another, 0)  # the way of this one is remembered from now on, in place of all others
        router_of(a).cluster.ring.set(["a"])
        router_of(a)._members_changed()
        a.send(ref, 3)
        until(lambda: len(cluster.actors.at(ref)) == 4, 20)
        assert cluster.actors.at(ref) == [0, 1, 2, 3]
        way.heal()
        cluster.leave("b")
