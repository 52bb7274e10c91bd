"""Ways between hosts that are slow or full when a test wants it, and actors that move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevent.event import Event

from tests.integration.cluster_support import router_of, transport_of
from theatre_gevent import Ref
from theatre_gevent.logic.ring import HashRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.cluster_support import Cluster
    from theatre_gevent import Host
    from theatre_gevent.cluster.ownership import Outcome


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


class Gate:
    """Stands between a host and its database: answers to claims come when `gate` is open.

    Attributes:
        asked: How many claims were asked.
    """

    def __init__(self, host: Host) -> None:
        claiming = router_of(host).claiming
        assert claiming is not None
        self._store = claiming.ownership._store
        claiming.ownership._store = self
        self.gate = Event()
        self.asked = 0

    def claim(self, refs: list[Ref], again: list[int], number: int) -> list[Outcome]:
        self.asked += 1
        outcomes = self._store.claim(refs, again, number)
        self.gate.wait()
        return outcomes

    def release(self, refs: list[Ref], number: int) -> None:
        self._store.release(refs, number)
