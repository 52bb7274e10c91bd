"""The verbs of a host that have to do with its cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..clock import SystemClock
from ..errors import HostNotRunning, InvalidOption
from .membership import RingOnlyCluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..clock import Clock
    from ..config import HostOptions
    from ..messages import Ref
    from .postgres_cluster import Cluster
    from .transport import Transport


class ClusterVerbs:
    """What a host is told about its cluster, and what it tells."""

    options: HostOptions
    host_id: str
    _clock: Clock
    _transport: Transport | None
    _cluster: RingOnlyCluster | Cluster | None

    if TYPE_CHECKING:

        @property
        def state(self) -> str:
            """The host's state."""

    @property
    def address(self) -> str | None:
        """Where other hosts reach this one, `host:port`; None for a host by itself or not started yet."""
        return (None if self._transport is None else self._transport.addr) or None

    def set_transport(self, transport: Transport) -> None:
        """Use a transport made elsewhere instead of the options `listen` and so on; before `start`.

        Raises:
            InvalidOption: It is another host's, or the host has the option `listen` as well.
            HostNotRunning: The host was started before.
        """
        self._check_not_started("transport")
        if transport.identity.host_id != self.host_id:
            raise InvalidOption(
                f"the transport is that of host {transport.identity.host_id!r}, this is {self.host_id!r}"
            )
        if self.options.listen is not None:
            raise InvalidOption("give either the option listen or a transport, not both")
        self._transport = transport

    def set_cluster(self, cluster: RingOnlyCluster | Cluster) -> None:
        """Use a cluster made elsewhere instead of the options `peers` or `dsn`; before `start`.

        Raises:
            InvalidOption: It is another host's.
            HostNotRunning: The host was started before.
        """
        self._check_not_started("cluster")
        if cluster.host_id != self.host_id:
            raise InvalidOption(f"the cluster is that of host {cluster.host_id!r}, this is {self.host_id!r}")
        self._cluster = cluster

    def set_peers(self, peers: Mapping[str, str]) -> None:
        """Replace the other members of the cluster: host ids and addresses, the same on every host.

        Raises:
            InvalidOption: An id or address is not what it should be.
            HostNotRunning: The host is by itself: it was started without `listen`, or not started.
        """
        if self._cluster is None:
            raise HostNotRunning(f"host {self.host_id} has no cluster: start it with listen='host:port'")
        if not isinstance(self._cluster, RingOnlyCluster):
            raise InvalidOption(f"the members of host {self.host_id}'s cluster are those in its database")
        self._cluster.set_hosts({host_id: address for host_id, address in peers.items() if host_id != self.host_id})

    def ring_owner(self, ref: Ref) -> str:
        """Return the id of the host that the ring gives `ref` to: this one without a cluster."""
        if self._cluster is None:
            return self.host_id
        return self._cluster.ring.owner(ref) or self.host_id

    def _check_not_started(self, what: str) -> None:
        if self.state != "new":
            raise HostNotRunning(f"the {what} of host {self.host_id} can't be set: it is {self.state}")

    def _count_suspension(self) -> None:
        """A lease runs on while the machine is suspended, so time has to, for a host that has one."""
        if self.options.dsn is None and (self._cluster is None or isinstance(self._cluster, RingOnlyCluster)):
            return
        if not isinstance(self._clock, SystemClock):
            raise InvalidOption(f"a cluster with a database needs the system's clock, not {self._clock!r}")
        self._clock.count_suspension()
