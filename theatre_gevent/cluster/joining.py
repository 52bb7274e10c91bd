"""Puts the parts of a cluster together for one host, and takes them apart in the right order."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..config import check_margin
from ..errors import InvalidOption, TheatreError
from ..logs import fields
from .guard import LeaseGuard
from .membership import RingOnlyCluster
from .router import ClusterRouter
from .transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..config import HostOptions
    from ..core.closing import Closer
    from ..core.dispatcher import Dispatcher
    from ..core.states import HostStates
    from .postgres_cluster import Cluster
    from .schedule_store import PostgresSchedules

log = logging.getLogger("theatre_gevent.host")

_RELEASE_TIMEOUT = 2.0
"""Seconds that a stopping host gives the database to take back what it owned."""


class Joined:
    """A host's place in its cluster.

    Attributes:
        cluster: Who the members are.
        transport: The connections to them.
        router: The way to their actors.
    """

    def __init__(
        self,
        host_id: str,
        options: HostOptions,
        clock: Clock,
        dispatcher: Dispatcher,
        closer: Closer,
        transport: Transport | None,
        cluster: RingOnlyCluster | Cluster | None,
        admin_addr: Callable[[Transport], str],
    ) -> None:
        if cluster is None and options.dsn is not None:
            from .postgres_cluster import Cluster, ClusterConfig  # only who has a database needs its driver

            config = ClusterConfig(host_id, lease_duration=options.lease_duration, poll_interval=options.poll_interval)
            cluster = Cluster(options.dsn, config)
        leased = None if cluster is None or isinstance(cluster, RingOnlyCluster) else cluster
        if leased is not None:
            check_margin(options.safety_margin, leased.config.lease_duration)
        self._began = leased is not None and not leased.started
        started: Transport | None = None
        try:
            if leased is not None and self._began:
                leased.start()
            self.transport = _transport(host_id, options, clock, transport, cluster)
            self.cluster: RingOnlyCluster | Cluster = cluster or RingOnlyCluster(
                host_id, options.advertise or "", self.transport.identity.epoch
            )
            if self.cluster.epoch != self.transport.identity.epoch:
                raise InvalidOption(
                    f"the cluster's epoch is {self.cluster.epoch} and the transport's "
                    f"{self.transport.identity.epoch}: give both the same"
                )
            self.transport.life = lambda: self.cluster.epoch
            store = None if leased is None else leased.store()
            self.router = ClusterRouter(dispatcher, self.cluster, self.transport, options.placement_ttl, store)
            dispatcher.router = self.router
            self.transport.set_admin_addr(admin_addr(self.transport))
            started = self.transport
            started.start(self.router)
            if leased is not None:
                leased.register(self.transport.addr, self.transport.identity.admin_addr or None)
            self.router.join()  # the others know this host only now
        except BaseException:
            dispatcher.router = None
            if started is not None:
                started.stop(0.0, "the host could not start")
            if leased is not None and self._began:
                leased.stop()
            raise
        self._leased = leased
        self._closer = closer
        self._dispatcher = dispatcher
        self._options = options
        self._guard: LeaseGuard | None = None

    def watch(self, states: HostStates) -> None:
        """Have the host obey its lease from now on, if there is one."""
        if self._leased is not None:
            self._guard = LeaseGuard(
                self._leased.host_id, states, self._leased, self._dispatcher, self._closer, self.router, self._options
            )
            self._guard.start()
        self.router.opened.set()

    @property
    def has_lease(self) -> bool:
        """True if what this host owns is written down in a database."""
        return self._leased is not None

    def schedules(self) -> PostgresSchedules | None:
        """Return where schedules are kept, None if that is each host's memory."""
        return None if self._leased is None else self._leased.schedules()

    def leave(self, reason: str) -> None:
        """Tell everybody that this host takes no new actors, before it hands over those that it has."""
        if self._leased is None:
            return
        try:
            self._leased.set_leaving()
        except TheatreError as error:
            log.warning("the database can't be told that the host leaves: %s", error, extra=fields(self.router.host_id))
        self.router.leave(lambda: self.transport.announce(reason))

    def abandon(self) -> None:
        """In a forked child: the connections and the lease are the parent's."""
        if self._guard is not None:
            self._guard.stop()
        if self._leased is not None:
            self._leased.abandon()
        self.transport.abandon()

    def stop(self, refusal: TheatreError) -> None:
        """Give back what is owned, once nothing runs any more, and close everything."""
        if self._guard is not None:
            self._guard.stop()
        self.router.give_up(refusal)
        claiming, extra = self.router.claiming, fields(self.router.host_id)
        if claiming is not None and self._leased is not None:
            if self._closer.lingering:
                # Their handlers may go on for a while: nobody else may have these actors before the lease ends.
                number = len(self._closer.lingering)
                log.warning("%d handlers run still: the lease is left to end by itself", number, extra=extra)
            else:
                claiming.ownership.settle(_RELEASE_TIMEOUT)
                try:
                    self._leased.resign(_RELEASE_TIMEOUT)
                except TheatreError as error:
                    log.warning("what the host owned is given back when its lease ends: %s", error, extra=extra)
            claiming.ownership.stop()
        self.transport.stop(timeout=1.0)
        self.router.give_up(refusal)  # what other hosts gave back meanwhile
        if self._leased is not None:
            self._leased.stop()


def _transport(
    host_id: str,
    options: HostOptions,
    clock: Clock,
    transport: Transport | None,
    cluster: RingOnlyCluster | Cluster | None,
) -> Transport:
    if transport is not None:
        return transport
    assert options.listen is not None
    return Transport(
        host_id,
        options.listen,
        epoch=int(clock.time() * 1_000_000) if cluster is None else cluster.epoch,
        advertise=options.advertise,
        secret=options.secret,
        server_tls=options.server_tls,
        client_tls=options.client_tls,
        clock=clock,
    )
