"""What one sender sends to one actor arrives in order, whatever happens meanwhile to the hosts and the ways there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gevent
import pytest

from tests.integration.cluster_support import Cluster, users_only
from tests.integration.leased_support import PostgresCluster
from tests.integration.order_support import addresses, jam, leave_in_mid_work, moving, slow, waiting
from tests.support import in_background, until
from theatre_gevent import Context, HostFrozen, Ref

# -- a host freezes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("burst", [1, 20])
def test_a_host_that_freezes_for_a_moment(burst: int) -> None:
    with Cluster("ab") as cluster:
        cluster.lossy = True
        a, b = cluster["a"], cluster["b"]
        ref = cluster.ref("b")
        over = False

        def stream() -> int:
            number = 0
            while not over:
                for _ in range(burst):
                    number += 1
                    a.send(ref, number)
                gevent.sleep(0)
            return number

        sending = in_background(stream)
        for _ in range(20):
            gevent.sleep(0.03)
            b.freeze()
            gevent.sleep(0.01)
            b.unfreeze()
        over = True
        last = sending.get(timeout=5)
        dead = [*cluster.dead.values()]
        until(lambda: len(cluster.actors.got) + sum(map(len, dead)) == last, 10)
        assert [pair for pair in pairwise(cluster.actors.at(ref)) if pair[1] <= pair[0]] == []


def test_what_stands_in_line_when_its_host_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster("ab", actor_inbox_size=2) as cluster:
        cluster.lossy = True
        a, b = cluster["a"], cluster["b"]
        ref = cluster.ref("b")
        a.send(ref, ("hold", 0))
        until(lambda: cluster.actors.holding == 1)
        for number in range(1, 9):
            a.send(ref, number)
        until(lambda: b._dispatcher.backpressure.waiting() == 6)
        come_to_rest = b._closer.come_to_rest

        def come_late(*given: Any) -> None:
            until(lambda: a.metrics.snapshot()["messages_returned"] > 0)
            cluster.actors.gate.set()
            come_to_rest(*given)

        monkeypatch.setattr(b._closer, "come_to_rest", come_late)
        freezing = in_background(b.freeze)
        until(lambda: b.state == "frozen")
        for number in range(9, 12):
            a.send(ref, number)
        freezing.get(timeout=5)
        b.unfreeze()
        until(lambda: 11 in cluster.actors.at(ref), 5)
        assert cluster.actors.at(ref)[1:] == list(range(3, 12)), "1 and 2 were accepted, and are dead letters"


def test_who_waits_for_room_on_the_way_out_of_a_host_that_freezes() -> None:
    with Cluster("ab") as cluster:
        cluster.lossy = True
        a = cluster["a"]
        ref = cluster.ref("b")
        assert a.request(ref, "hello") == "hello"
        free = jam(a, "b")
        sending = in_background(lambda: a.send(ref, "sent"))
        asking = in_background(lambda: a.request(ref, "asked"))
        until(lambda: waiting(a, "b") == 2)
        a.freeze()
        for waits in (sending, asking):
            with pytest.raises(HostFrozen):
                waits.get(timeout=2)
        free()
        a.unfreeze()
        assert a.request(ref, "again") == "again"
        assert cluster.actors.at(ref) == ["hello", "again"]


# -- the members change ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", [False, True])
def test_who_waits_for_room_on_a_way_that_is_not_the_way_any_more(removed: bool) -> None:
    with Cluster("abc", idle_timeout=0.1, cleanup_interval=0.05) as cluster:
        cluster.lossy = True
        a = cluster["a"]
        ref = moving("ab", "b", "ac" if removed else "abc", "c")
        for name in "ab":
            cluster[name].set_peers(addresses(cluster, "ab"))
        until(lambda: a.metrics.snapshot()["peers_up"] == 1)
        a.send(ref, 1)
        until(lambda: cluster.actors.at(ref) == [1])
        free = jam(a, "b")

        def stream() -> Any:
            a.send(ref, 2)
            a.send(ref, 3)
            return a.request(ref, 4)

        sending = in_background(stream)
        asking = in_background(lambda: a.request(ref, "asked"))
        until(lambda: waiting(a, "b") == 2)
        until(lambda: cluster["b"].metrics.snapshot()["actors_active"] == 0)
        if removed:
            for name in "ac":
                cluster[name].set_peers(addresses(cluster, "ac"))
        else:
            cluster.acquaint()
        a.send(ref, "another sender's")
        until(lambda: "another sender's" in cluster.actors.at(ref), 5)
        free()
        assert sending.get(timeout=5) == 4
        assert asking.get(timeout=5) == "asked"
        got = [body for body in cluster.actors.at(ref) if isinstance(body, int)]
        assert got == [1, 2, 3, 4]
        assert [name for name, at, _ in cluster.actors.got if at == ref] == ["b", *["c"] * 5]


def test_what_stands_in_line_when_its_host_leaves(dsn: str) -> None:
    options = {"b": {"actor_inbox_size": 2, "drain_timeout": 0.5}}
    with PostgresCluster(dsn, "abc", request_timeout=20.0, own=options) as cluster:
        cluster.lossy = True
        got: list[int] = []

        def on(name: str) -> Callable[[Context], None]:
            def handle(ctx: Context) -> None:
                got.append(ctx.message)
                if name == "b":
                    gevent.sleep(0.4)

            return users_only(handle)

        for name, host in cluster.hosts.items():
            host.register_actor("n", on(name))
        ref = moving("abc", "b", "ac", "c", "n")
        leaving = leave_in_mid_work(cluster, ref, got, last=8, in_line=4)
        for number in range(9, 13):
            cluster["a"].send(ref, number)
        leaving.get(timeout=20)
        until(lambda: got[-1] == 12, 10)
        assert got == sorted(got)


def _heir(cluster: PostgresCluster) -> tuple[Ref, Callable[[], None]]:
    """Let c leave, which has had an actor that a is the next owner of, while what a has sent is on its way still."""
    ref = moving("acd", "c", "ad", "a")
    a, c, d = cluster
    a.send(ref, 1)
    until(lambda: cluster.actors.at(ref) == [1])
    free = slow(a, "c")
    a.send(ref, 2)
    assert c._joined is not None
    c._joined.leave("it leaves")
    c._closer.hand_over()
    until(lambda: cluster.owner(ref) is None, 5)
    until(lambda: a.ring_owner(ref) == d.ring_owner(ref) == "a", 5)
    d.send(ref, "another sender's")
    return ref, free


def test_an_actor_that_another_hosts_message_brings_here(dsn: str) -> None:
    with PostgresCluster(dsn, "acd") as cluster:
        cluster.lossy = True
        ref, free = _heir(cluster)
        gevent.sleep(0.1)  # enough for it to come alive
        cluster["a"].send(ref, 3)
        gevent.sleep(0.1)
        free()
        until(lambda: len(cluster.actors.at(ref)) == 4, 5)
        assert [body for body in cluster.actors.at(ref) if isinstance(body, int)] == [1, 2, 3]


def test_a_host_leaves_that_was_about_to_own_an_actor(dsn: str) -> None:
    with PostgresCluster(dsn, "acd") as cluster:
        cluster.lossy = True
        ref, free = _heir(cluster)
        a = cluster["a"]
        until(lambda: a.metrics.snapshot()["messages_held"] > 0)
        assert a._joined is not None
        a._joined.leave("it leaves")
        free()
        until(lambda: [name for name, at, body in cluster.actors.got if body == "another sender's"] == ["d"], 5)
        until(lambda: len(cluster.actors.at(ref)) == 3, 5)
        claims = a.metrics.snapshot()["claims_total"]
        gevent.sleep(0.2)
        assert a.metrics.snapshot()["claims_total"] == claims
