"""Who belongs to the cluster. Ring-only: what the configuration says, no database."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from ..config import check_address, check_hosts
from ..logic.ring import HashRing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..messages import Ref


class LiveRing:
    """The ring in use: an immutable `HashRing` that is replaced whole."""

    __slots__ = ("_ring",)

    def __init__(self, members: Iterable[str] = ()) -> None:
        self._ring = HashRing(members)

    @property
    def members(self) -> tuple[str, ...]:
        """The members' host ids, sorted."""
        return tuple(sorted(self._ring.members))

    def set(self, members: Iterable[str]) -> None:
        """Use a ring of these members from now on."""
        self._ring = self._ring.with_members(members)

    def owner(self, ref: Ref) -> str | None:
        """Return the host id that a ref belongs to, None while there are no members."""
        return self._ring.owner(ref)


class Membership(Protocol):
    """What the router needs to know about a cluster."""

    host_id: str
    epoch: int
    ring: LiveRing
    """The hosts that take new actors."""
    hand_over_timeout: float
    """Seconds for which messages wait for an actor that its owner is about to give back."""

    @property
    def hosts(self) -> Mapping[str, str]:
        """The live hosts and their addresses, this one among them, and those that are leaving."""

    def on_change(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` whenever hosts or ring have changed."""

    def mark_leaving(self, host_id: str, epoch: int) -> None:
        """A host has said that it takes no new actors in that life."""

    def refusal(self, host_id: str) -> str | None:
        """Return why a host may not connect, None if it may."""


class RingOnlyCluster:
    """A fixed set of hosts and the hash ring over them: no database, no failover.

    Every host must be given the same members, else they disagree about who owns what; a message that comes to the
    wrong host is sent on, within bounds.

    Args:
        host_id: This host.
        address: Where others reach it, `host:port`; the transport's own address where it is empty.
        epoch: Which life of this host it is: above all earlier ones. The wall clock's microseconds do.
    """

    hand_over_timeout = 0.0

    def __init__(self, host_id: str, address: str = "", epoch: int = 1) -> None:
        if address:
            check_address(address, "the cluster's address")
        self.host_id = host_id
        self.epoch = epoch
        self.ring = LiveRing((host_id,))
        self._hosts: Mapping[str, str] = MappingProxyType({host_id: address})
        self._watchers: list[Callable[[], None]] = []

    @property
    def address(self) -> str:
        """Where others reach this host."""
        return self._hosts.get(self.host_id, "")

    @property
    def hosts(self) -> Mapping[str, str]:
        """The members and their addresses, this host among them: a snapshot that never changes."""
        return self._hosts

    def set_hosts(self, hosts: Mapping[str, str]) -> None:
        """Replace the members: host ids and addresses. This host is a member whether named or not.

        Raises:
            InvalidOption: A host id or an address is not what it should be, or two hosts share an address.
        """
        members = {self.host_id: self.address, **hosts}
        check_hosts({host_id: address for host_id, address in members.items() if address or host_id != self.host_id})
        self._hosts = MappingProxyType(members)
        self.ring.set(members)
        for watcher in self._watchers:
            watcher()

    def on_change(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` whenever the members have changed."""
        self._watchers.append(watcher)

    def mark_leaving(self, host_id: str, epoch: int) -> None:
        """A host leaves; it stays a member, since who the members are is configured."""

    def refusal(self, host_id: str) -> str | None:
        """Return why a host may not connect, None if it is a member."""
        return None if host_id in self._hosts else f"host {host_id!r} is not a member of this cluster"
