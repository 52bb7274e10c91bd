"""Order, and nothing lost, where actors are claimed: they may be elsewhere than the ring says, come back, and move."""

from __future__ import annotations

import gevent
import pytest

from tests.integration.cluster_support import Cluster, router_of, users_only
from tests.integration.leased_support import Gate, PostgresCluster
from tests.integration.order_support import addresses, leave_in_mid_work, moving, slow
from tests.support import in_background, until
from theatre_gevent import Context, Ref, TheatreError


def numbers(cluster: Cluster, ref: Ref) -> list[int]:
    """Return the numbers that an actor was sent, in the order in which they came."""
    return [body for body in cluster.actors.at(ref) if isinstance(body, int)]


def test_what_stands_in_line_stays_where_the_actor_does(dsn: str) -> None:
    """The ring says c, which has joined later, say: ways are looked up anew from time to time, and nothing moves."""
    with PostgresCluster(dsn, "abc", actor_inbox_size=2, request_timeout=30.0, placement_ttl=0.2) as cluster:
        a, b, _ = cluster
        ref = cluster.ref("c")
        cluster.own("b", ref)
        a.send(ref, ("hold", 0))
        until(lambda: cluster.actors.holding == 1)
        for number in range(1, 25):
            a.send(ref, number)
            if number % 3 == 0:
                before = router_of(a)._ways_until
                until(lambda before=before: a._dispatcher.monotonic() > before)  # type: ignore[misc]
        until(lambda: b._dispatcher.backpressure.waiting() == 22)
        assert a.metrics.snapshot()["messages_returned"] == 1, "the first, which went to c"
        cluster.actors.gate.set()
        until(lambda: len(numbers(cluster, ref)) == 24)
        assert numbers(cluster, ref) == list(range(1, 25))
        assert cluster.actors.hosts_of(ref) == {"b"}


def test_more_than_an_inbox_moves_with_its_actor(dsn: str) -> None:
    with PostgresCluster(dsn, "abc", actor_inbox_size=4, request_timeout=20.0) as cluster:
        got: list[int] = []

        def handle(ctx: Context) -> None:
            got.append(ctx.message)
            gevent.sleep(0.02)

        for host in cluster:
            host.register_actor("n", users_only(handle))
        ref = moving("abc", "b", "ac", "c", "n")
        leaving = leave_in_mid_work(cluster, ref, got, last=60, in_line=41)
        cluster["a"].send(ref, 61)
        leaving.get(timeout=20)
        until(lambda: len(got) == 62, 20)
        assert got == list(range(62))


@pytest.mark.parametrize("woken_by", ["another host", "its own"])
def test_an_actor_that_comes_back_before_it_was_given_back(dsn: str, woken_by: str) -> None:
    """It has left, and what is sent meanwhile goes where the ring says. Then it comes alive here again."""
    with PostgresCluster(dsn, "abc", idle_timeout=0.2, cleanup_interval=0.05) as cluster:
        cluster.lossy = True
        a, b, c = cluster
        ref = cluster.ref("b") if woken_by == "another host" else moving("abc", "b", "ac", "a")
        cluster.own("a", ref)
        assert c.request(ref, "hello") == "hello"
        assert cluster.actors.hosts_of(ref) == {"a"}
        gate = Gate(a)
        gate.open.clear()
        in_background(lambda: a.request(cluster.refs("a", 2)[1], "its claim takes long, and releases come after it"))
        until(lambda: len(gate.claims) == 1)
        until(lambda: ref not in a._registry.actors)
        free = slow(a, "b")
        a.send(ref, 1)
        if woken_by == "another host":
            c.send(ref, "woken")
            gevent.sleep(0.1)
        else:
            assert b._joined is not None
            b._joined.leave("it leaves")
            until(lambda: a.ring_owner(ref) == "a")
        a.send(ref, 2)
        gevent.sleep(0.1)
        free()
        gevent.sleep(0.1)
        gate.open.set()
        until(lambda: len(numbers(cluster, ref)) == 2)
        assert numbers(cluster, ref) == [1, 2]


def test_a_host_that_only_sends_remembers_old_ways_and_forgets_them_in_time() -> None:
    """Nothing is handled there, so that nobody looks at the clock."""
    with Cluster("abc", idle_timeout=0.2, cleanup_interval=0.05) as cluster:
        cluster.lossy = True
        a = cluster["a"]
        ref = moving("ab", "b", "abc", "c")
        for name in "ab":
            cluster[name].set_peers(addresses(cluster, "ab"))
        until(lambda: a.metrics.snapshot()["peers_up"] == 1)
        a.send(ref, 1)
        until(lambda: cluster.actors.at(ref) == [1])
        free = slow(a, "b")
        a.send(ref, 2)
        until(lambda: ref not in cluster["b"]._registry.actors)
        a._dispatcher.now -= 20  # without a turn in between, as if nothing had run for so long
        cluster.acquaint()
        a._dispatcher.now += 20
        cluster.acquaint()
        a.send(ref, 3)
        gevent.sleep(0.1)
        free()
        until(lambda: len(cluster.actors.at(ref)) == 3)
        assert cluster.actors.at(ref) == [1, 2, 3]
    with Cluster("ab", cleanup_interval=0.05) as cluster:
        a = cluster["a"]
        before = a._dispatcher.now
        until(lambda: a._dispatcher.now > before + 0.2)


def test_the_goodbye_of_a_host_that_has_lost_a_lease_before(dsn: str) -> None:
    with PostgresCluster(dsn, "abc") as cluster:
        cluster.lossy = True
        a, b, c = cluster
        ref, old = cluster.ref("b"), cluster.epoch("b")
        cluster.sql("UPDATE hosts SET fenced_at = clock_timestamp() WHERE host_id = 'b' RETURNING 1")
        until(lambda: b.state == "active" and cluster.epoch("b") != old, 15)
        until(lambda: a.ring_owner(ref) == "b" == c.ring_owner(ref), 10)
        until(lambda: a.metrics.snapshot()["peers_up"] == 2)
        assert b._joined is not None
        assert b._cluster is not None

        def away() -> None:
            raise TheatreError("the database can't be told")

        b._cluster.set_leaving = away  # type: ignore[union-attr, method-assign]
        b._joined.leave("it leaves")
        until(lambda: a.ring_owner(ref) != "b" != c.ring_owner(ref), 0.9)  # before a poll could tell
        del b._cluster.set_leaving  # type: ignore[union-attr]


def test_what_comes_back_when_the_lease_has_ended(dsn: str) -> None:
    """It is not sent on, and holds up nothing that comes later."""
    with PostgresCluster(dsn, "abc", request_timeout=3.0) as cluster:
        cluster.lossy = True
        a, b, c = cluster
        ref = moving("abc", "c", "ab", "a")
        a.send(ref, 1)
        until(lambda: cluster.actors.at(ref) == [1])
        free = slow(a, "c")
        a.send(ref, 2)
        assert a._joined is not None
        assert c._joined is not None
        c._joined.leave("it leaves")
        c._closer.hand_over()
        until(lambda: cluster.owner(ref) is None and a.ring_owner(ref) == "a" == b.ring_owner(ref), 5)
        assert a._joined._guard is not None
        a._joined._guard.expire()
        free()
        until(lambda: [letter.message for letter in cluster.dead["a"]] == [2], 5)
        until(lambda: a.state == "active", 10)
        assert a.request(ref, "again", timeout=5) == "again"
        assert router_of(a).held() == 0
