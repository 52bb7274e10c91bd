"""Ways between hosts that are slow or full when a test wants it, and actors that move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.cluster_support import transport_of
from tests.support import in_background, until
from theatre_gevent import Ref
from theatre_gevent.logic.ring import HashRing

if TYPE_CHECKING:
    from collections.abc import Callable

    import gevent

    from tests.integration.cluster_support import Cluster
    from tests.integration.leased_support import PostgresCluster
    from theatre_gevent import Host


def slow(host: Host, peer: str) -> Callable[[], None]:
    """Keep what is sent to a peer from now on under way, until the returned function is called."""
    link = transport_of(host).link(peer)
    assert link is not None
    link._armed, link._limit = True, 10_000

    def free() -> None:
        link._armed, link._limit = False, 1
        link._more()

    return free


def jam(host: Host, peer: str) -> Callable[[], None]:
    """Have everybody wait who sends to a peer, as if much were queued, until the returned function is called."""
    link = transport_of(host).link(peer)
    assert link is not None
    link._pack()
    room = link._room
    link._room, link.full = 0, True

    def free() -> None:
        link._room = room
        link._make_room()

    return free


def waiting(host: Host, peer: str) -> int:
    """Return how many senders wait for room on the way to a peer."""
    link = transport_of(host).link(peer)
    assert link is not None
    return len(link._line)


def moving(before: str, owner: str, after: str, heir: str, kind: str = "x") -> Ref:
    """Return an actor that is at one host of a cluster, and at another one when the members have changed."""
    old, new = HashRing(list(before)), HashRing(list(after))
    refs = (Ref(kind, str(number)) for number in range(10_000))
    return next(ref for ref in refs if old.owner(ref) == owner and new.owner(ref) == heir)


def addresses(cluster: Cluster, names: str) -> dict[str, str]:
    """Return where these hosts are reached."""
    return {name: str(cluster[name].address) for name in names}


def leave_in_mid_work(
    cluster: PostgresCluster, ref: Ref, got: list[int], last: int, in_line: int
) -> gevent.Greenlet[..., Host]:
    """Have host b leave while numbers up to `last`, which a has sent to a slow actor there, stand in line at it.

    Args:
        cluster: The hosts; both know that b leaves when this comes back.
        ref: The actor.
        got: What it writes its numbers to.
        last: The last number.
        in_line: How many have to stand in line before b leaves.
    """
    a, b = cluster["a"], cluster["b"]
    a.send(ref, 0)
    until(lambda: got == [0], 5)
    for number in range(1, last + 1):
        a.send(ref, number)
    until(lambda: b._dispatcher.backpressure.waiting() >= in_line, 5)
    leaving = in_background(lambda: cluster.leave("b"))
    until(lambda: a.ring_owner(ref) != "b", 5)
    return leaving
