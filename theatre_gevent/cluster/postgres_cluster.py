"""Who belongs to the cluster: what Postgres says. Hosts come and go by themselves, and take over from dead ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

from ..clock import SystemClock
from ..config import MIN_LEASE, MIN_POLL, check_address
from ..errors import DatabaseError, DatabaseUnavailable, InvalidOption, TheatreError
from ..logic.lease import ATTEMPT, waits_for_dead
from ..logic.observation import Members, changes
from ..logs import fields
from ..migration import migrate_schema
from . import news, postgres
from .claim_store import PostgresClaims
from .dsn import parse
from .keeper import Keeper
from .logs import log
from .membership import LiveRing
from .pool import Pool
from .schedule_store import PostgresSchedules
from .store import Life

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from ..clock import Clock

_MAX_NAME = 255

_STRANGER_PATIENCE = 2.0
"""Seconds that a host is given to become known which connects; less than a handshake may take."""
_STRANGER_STEP = 0.01


@dataclass(frozen=True)
class ClusterConfig:
    """How a host takes part in a cluster; times in seconds.

    Attributes:
        host_id: This host, no other one has this id.
        address: Where others reach it, `host:port`; empty for where its transport listens.
        lease_duration: A host that has not been able to renew its lease for so long is dead, and others have its
            actors. Shorter means that they come back sooner after a crash, and that a shorter outage of the database
            stops everybody.
        poll_interval: How often each host looks at the others. Changes are announced as well; behind a pooler that
            swallows announcements this is how long they go unnoticed.

    Raises:
        InvalidOption: A field has a bad value; the text names it.
    """

    host_id: str
    address: str = ""
    lease_duration: float = 20.0
    poll_interval: float = 3.0

    def __post_init__(self) -> None:
        if not isinstance(self.host_id, str) or not 0 < len(self.host_id) <= _MAX_NAME or "\0" in self.host_id:
            raise InvalidOption(
                f"host_id must be a string of 1 to {_MAX_NAME} characters without NUL, got {self.host_id!r}"
            )
        if self.address != "":
            check_address(self.address, "address")
        for name, least in (("lease_duration", MIN_LEASE), ("poll_interval", MIN_POLL)):
            value = getattr(self, name)
            ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not ok or value < least:
                raise InvalidOption(f"{name} must be a finite number of seconds, {least:g} or more, got {value!r}")


class Health(Struct, frozen=True):
    """What decides whether a host may work: see `logic.lease.decide`.

    Attributes:
        remaining: Seconds left to the lease.
        failures: Renewals that failed in a row.
        fenced: This life was declared over.
        conflict: Another process has the lock on this host id.
        reachable: The database answers.
    """

    remaining: float
    failures: int
    fenced: bool
    conflict: bool
    reachable: bool


class Cluster:
    """The hosts that keep their leases in one database. Belongs to the hub of the thread that starts it.

        cluster = Cluster(dsn, ClusterConfig("host-1"))
        host = Host(host_id="host-1", listen="127.0.0.1:0")
        host.set_cluster(cluster)

    The host starts it, unless it was started before: `start` tells the epoch that a transport needs, and `register`
    makes other hosts see this one, once its transport listens.

    Args:
        dsn: Connection string of the database.
        config: This host's part.
        pool_size: Connections for claims, at most; one more keeps the lease.
        clock: Time; the machine's by default.

    Attributes:
        epoch: Which life of this host it is, the one to come before `register`; 0 before `start`.
        ring: The ring over the hosts that take new actors.
        lease_until: When the lease ends, by the clock's `boottime`; minus infinity without one. Another thread writes
            it.
        hand_over_timeout: Seconds for which messages wait for an actor whose owner leaves or has died: by then it has
            been given back, or the owner's lease has ended.

    Raises:
        InvalidOption: `dsn` is no connection string.
    """

    def __init__(self, dsn: str, config: ClusterConfig, *, pool_size: int = 4, clock: Clock | None = None) -> None:
        parse(dsn)
        self.dsn = dsn
        self.config = config
        self.host_id = config.host_id
        self.epoch = 0
        self.ring = LiveRing()
        self.lease_until = -math.inf
        # Others see a renewal a poll after it was made, at the latest, and to fence takes a statement.
        self.hand_over_timeout = waits_for_dead(config.lease_duration) + config.poll_interval + ATTEMPT
        self._clock: Clock = clock or SystemClock()
        self._address = config.address
        self._members = Members()
        self._hosts = self._members.hosts
        self._goodbyes: set[tuple[str, int]] = set()
        self._watchers: list[Callable[[], None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._pool_size = pool_size
        self._pool: Pool | None = None
        self.keeper = Keeper(
            dsn,
            config.host_id,
            config.lease_duration,
            config.poll_interval,
            boottime=self._clock.boottime,
            on_news=self._take_in,
            holder=self,
        )

    def __repr__(self) -> str:
        return f"<Cluster of {self.host_id!r}, epoch {self.epoch}, hosts {', '.join(self.hosts) or 'none'}>"

    # -- life --------------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """True between `start` and `stop`."""
        return self.keeper.running

    def start(self) -> Self:
        """Bring the database's tables up to date, take the lock on the host id, and get the epoch of the life to come.

        Returns:
            The cluster itself. Others do not see this host yet.

        Raises:
            HostIdConflict: Another process has this host id.
            DatabaseError: The database does not answer, or does not do what is needed.
            SchemaMismatch: Its tables are those of a newer version of this library.
        """
        if self.started:
            raise TheatreError(f"the cluster of host {self.host_id} is started")
        migrate_schema(self.dsn)
        self.epoch = self.keeper.start()
        self._set(self.keeper.members)
        self._pool = Pool(self.dsn, self._pool_size, application_name=f"theatre_gevent {self.host_id}")
        self._forget_old_lives()
        return self

    def _forget_old_lives(self) -> None:
        """Each life leaves a row, and each start removes old ones: their number stays small."""
        assert self._pool is not None
        try:
            with self._pool.connection() as connection:
                postgres.forget_fenced(connection)
        except DatabaseError as error:
            log.info("host %s: rows of old lives stay for now: %s", self.host_id, error, extra=fields(self.host_id))

    def register(self, address: str = "", admin_addr: str | None = None) -> None:
        """Begin the first life: others see this host and send to it from now on.

        Args:
            address: Where they reach it, if the configuration does not say so: `host:port`.
            admin_addr: Address of its admin server, None for none.

        Raises:
            InvalidOption: There is no address.
            HostIdConflict: Another process has this host id.
            DatabaseError: It did not work, or nobody knows whether it did: stop, and start anew.
        """
        address = self.config.address or address
        check_address(address, "address")
        self.keeper.register(address, admin_addr)
        self._address = address

    def set_leaving(self) -> None:
        """Get no new actors any more: out of this host's ring at once, and of the others' when they hear of it.

        Raises:
            DatabaseError: They could not be told.
        """
        self.keeper.set_leaving()

    def resign(self, timeout: float = 10.0) -> int:
        """Give back what is still owned, end this life, and tell the others; returns how many actors there were.

        Raises:
            DatabaseError: It did not work: the others take the actors when the lease has ended.
        """
        return self.keeper.resign(timeout)

    def rejoin(self) -> int:
        """Begin another life after the lease was lost, and return its epoch. No activation may be left.

        Raises:
            HostIdConflict: Another process has this host id.
            DatabaseError: It did not work: try again.
        """
        self.keeper.rejoin()
        return self.epoch

    def abandon(self) -> None:
        """In a forked child: the connections are the parent's."""
        if self._pool is not None:
            self._pool.abandon()

    def stop(self, timeout: float = 5.0) -> None:
        """Let go of the lock and all connections. The lease runs on in the database unless `resign` was called."""
        self.keeper.stop(timeout)
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    # -- what holds now ----------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where others reach this host; empty as long as that is not known."""
        return self._address

    @property
    def members(self) -> Members:
        """The hosts that live: a snapshot that never changes."""
        return self._members

    @property
    def hosts(self) -> Mapping[str, str]:
        """Their addresses, those that are leaving too: a snapshot that never changes."""
        return self._hosts

    def remaining_lease(self) -> float:
        """Return how many seconds are left until nobody may rely on this host any more; 0 without a lease.

        By this machine's own clock, from before the last renewal was sent: no wall clock takes part.
        """
        return self.keeper.remaining()

    def health(self) -> Health:
        """Return what decides whether this host may work."""
        keeper = self.keeper
        return Health(keeper.remaining(), keeper.failures, keeper.fenced, keeper.conflict, keeper.reachable)

    def refusal(self, host_id: str) -> str | None:
        """Return why a host may not connect, None if it lives; in a greenlet.

        One that isn't known may have registered just now: the database is asked, and the answer waited for a moment. To
        refuse it would cost an alarming line in the logs of both, and the time until it tries again.
        """
        if host_id in self._hosts:
            return None
        self.keeper.look()
        end = self._clock.monotonic() + _STRANGER_PATIENCE
        while host_id not in self._hosts:
            if self._clock.monotonic() >= end:
                return f"host {host_id!r} is not among the live hosts of this cluster that {self.host_id!r} knows yet"
            self._clock.sleep(_STRANGER_STEP)
        return None

    def store(self) -> PostgresClaims:
        """Return where claims of this host's actors are written down.

        Raises:
            DatabaseUnavailable: The cluster was not started.
        """
        if self._pool is None:
            raise DatabaseUnavailable(f"the cluster of host {self.host_id} is not started")
        return PostgresClaims(self._pool, lambda: Life(self.host_id, self.epoch), self.keeper.look)

    def schedules(self) -> PostgresSchedules:
        """Return where this host's schedules are written down: to be closed by whoever has asked for it."""
        pool = Pool(self.dsn, self._pool_size, application_name=f"theatre_gevent {self.host_id} schedules")
        return PostgresSchedules(pool, lambda: Life(self.host_id, self.epoch) if self.remaining_lease() > 0 else None)

    # -- changes -----------------------------------------------------------------------------------------------

    def on_news(self, listener: Callable[[], None]) -> None:
        """Call `listener` in the hub whenever `health` or the members may have changed; it must not block."""
        self._listeners.append(listener)

    def on_change(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` in the hub whenever the members have changed; it must not block."""
        self._watchers.append(watcher)

    def mark_leaving(self, host_id: str, epoch: int) -> None:
        """A peer has said goodbye: its life `epoch` gets no new actors any more, its next one does."""
        self._goodbyes.add((host_id, epoch))
        self._set(self.keeper.members)

    def _take_in(self, item: news.News) -> None:
        if type(item) is news.MembersChanged:
            self._set(item.members)
        elif type(item) is news.Begun:
            self.epoch = item.epoch
        for listener in self._listeners:
            listener()

    def _set(self, members: Members) -> None:
        self._goodbyes &= {(member.host_id, member.epoch) for member in members.members}
        for host_id, epoch in self._goodbyes:
            members = members.with_leaving(host_id, epoch)
        if not changes(self._members, members):
            return
        self._members = members
        self._hosts = members.hosts
        self.ring.set(members.ring)
        for watcher in self._watchers:
            watcher()
