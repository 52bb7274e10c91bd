"""A host as the admin server sees it: the one place that knows the host's insides and gives out plain values."""

from __future__ import annotations

import gc
import logging
import os
import platform
import reprlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gevent import Greenlet

from ._version import __version__
from .admin.view import Owner, Peer, TypeCounts
from .cluster.membership import RingOnlyCluster
from .core.activation import ACTIVE, STATE_NAMES, Activation, FunctionReceiver
from .core.context import Context
from .core.native import get_ident
from .core.statistics import BOUNDS
from .errors import TheatreError
from .hub_watch import HubWatch
from .journal import Journal, iso
from .logic.paging import Page, read_cursor
from .logs import fields
from .pauses import let_sockets_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .clock import Clock
    from .cluster.postgres_cluster import Cluster
    from .host import Host
    from .messages import Ref

T = TypeVar("T")

log = logging.getLogger("theatre_gevent.admin")

STUCK = 10.0
"""Seconds of a blocked hub after which a host is taken for hung."""

_SLICE = 2000
"""Actors looked at in one go, 0.3 ms."""
_SLICES = 8
"""Slices before the hub looks at sockets and timers again."""
_MANY = 100_000
"""Actors from which on one list of them serves several pages: it takes 16 ms to copy a million refs."""
_LIST_AGE = 5.0
_CALL_TIMEOUT = 5.0


class Inspection:
    """Implements `admin.view.HostView` for a `Host`."""

    def __init__(self, host: Host) -> None:
        self.host_id = host.host_id
        self.clock: Clock = host._clock
        self.bounds: Sequence[float] = BOUNDS
        self.admin_addr = ""
        self.journal = Journal(host._clock)
        self.watch = HubWatch(host._clock)
        self._host = host
        self._dispatcher = host._dispatcher
        self._registry = host._registry
        self._started = self._started_at = 0.0
        self._list: list[Ref] = []
        self._listed_at = 0.0

    def open(self, started: float, started_at: float) -> None:
        """Listen to what goes wrong from now on.

        Args:
            started: When the host started, in the clock's monotonic seconds.
            started_at: The same as wall time.
        """
        self._started, self._started_at = started, started_at
        self._dispatcher.lifecycle.journal = self.journal.dead_letter
        self.journal.open()
        self.watch.start()

    def close(self) -> None:
        """The host has stopped."""
        self.watch.stop()
        self.journal.shut()

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the host's thread and wait for it."""
        dispatcher = self._dispatcher
        if self._host.state == "new" or get_ident() == dispatcher.thread:
            return function(*args)
        result: T = dispatcher.threads.call(function, args, _CALL_TIMEOUT)
        return result

    # -- the host ----------------------------------------------------------------------------------------------

    def state(self) -> str:
        """Return the host's state."""
        return self._host.state

    def metrics(self) -> dict[str, int]:
        """Return the counters and gauges of `host.metrics`."""
        return self._host.metrics.snapshot()

    def lease(self) -> float | None:
        """Return the seconds left to the lease, None for a host without."""
        cluster = self._host._cluster
        return None if cluster is None or isinstance(cluster, RingOnlyCluster) else cluster.remaining_lease()

    def started_at(self) -> float:
        """Return the wall time of the start, 0.0 before."""
        return self._started_at

    def hub_lag(self) -> float:
        """Return by how many seconds the hub was late lately."""
        return self.watch.lag()

    def status(self) -> dict[str, Any]:
        """Return what `/cluster/status` says."""
        host, dispatcher, cluster = self._host, self._dispatcher, self._host._cluster
        metrics = self.metrics()
        lease = self.lease()
        return {
            "host_id": self.host_id,
            "state": host.state,
            "epoch": None if cluster is None else cluster.epoch,
            "remaining_lease_ms": None if lease is None else round(1000 * lease),
            **_lease_details(cluster),
            "active_actors": metrics["actors_active"],
            "pending_schedules": metrics["schedules_pending"],
            "registered_types": sorted(self._registry.types),
            "placement_cache_size": metrics["placements_cached"],
            "metrics": metrics,
            "address": host.address,
            "admin_addr": self.admin_addr or None,
            "started_at": iso(self._started_at) if self._started_at else None,
            "uptime_ms": round(1000 * (self.clock.monotonic() - self._started)) if self._started_at else 0,
            "hub_lag_ms": round(1000 * self.hub_lag(), 1),
            "workers": len(dispatcher.workers),
            "workers_busy": dispatcher.busy(),
            "inbox_depth": metrics["messages_queued"],
            "inbox_cap": host.options.host_inbox_size,
            **self._transport_status(),
            "handling": self._handling(),
            "process": os.getpid(),
            "rss_bytes": _resident(),
            "gc_collections": sum(generation["collections"] for generation in gc.get_stats()),
            "python": platform.python_version(),
            "version": __version__,
        }

    def _transport_status(self) -> dict[str, Any]:
        transport = self._host._transport
        links = [] if transport is None else transport.links()
        return {
            "transport_peers": len(links),
            "transport_connections": sum(link.is_up for link in links) + len(transport.inlets() if transport else ()),
            "transport_send_queue": sum(link.waiting() for link in links),
            "transport_peers_detail": [
                {
                    "host_id": link.host_id,
                    "address": str(link.address),
                    "connected": link.is_up,
                    "send_queue": link.waiting(),
                    "error": None if link.last_error is None else str(link.last_error)[:500],
                }
                for link in links
            ],
        }

    def _handling(self) -> dict[str, Any]:
        counts = [0] * (len(BOUNDS) + 1)
        for kind in self._registry.types.values():
            counts = [a + b for a, b in zip(counts, kind.times, strict=True)]
        return {"bounds_ms": [1000 * bound for bound in BOUNDS], "counts": counts}

    def types(self) -> list[TypeCounts]:
        """Return what was counted, by registered type."""
        return [
            TypeCounts(
                name=kind.name,
                messages=kind.messages,
                activations=kind.activations,
                failed=kind.failed,
                active=kind.activations - kind.ended,
                errors=kind.errors,
                times=tuple(kind.times),
                seconds=kind.seconds,
            )
            for _, kind in sorted(self._registry.types.items())
        ]

    # -- the cluster -------------------------------------------------------------------------------------------

    def peers(self) -> list[Peer]:
        """Return the hosts of the cluster, this one among them, sorted by id."""
        host, cluster, transport = self._host, self._host._cluster, self._host._transport
        lease = self.lease()
        me = Peer(
            self.host_id,
            host.address or "",
            self.admin_addr,
            None if cluster is None else cluster.epoch,
            None if lease is None else iso(self.clock.time() + lease),
            connected=True,
        )
        peers = [me]
        if cluster is None:
            return peers
        for host_id, address in cluster.hosts.items():
            if host_id == self.host_id:
                continue
            link = None if transport is None else transport.link(host_id)
            said = None if link is None else link.peer
            member = None if isinstance(cluster, RingOnlyCluster) else cluster.members.get(host_id)
            peers.append(
                Peer(
                    host_id,
                    address,
                    "" if said is None else said.admin_addr,
                    member.epoch if member is not None else None if said is None else said.epoch,
                    None,
                    connected=link is not None and link.is_up,
                )
            )
        return sorted(peers)

    def owner(self, ref: Ref) -> Owner:
        """Return where an actor belongs; may ask a database."""
        cluster = self._host._cluster
        if ref in self._registry.actors:
            return Owner(self.host_id, None if cluster is None else cluster.epoch, owned=True)
        chosen = self._host.ring_owner(ref)
        if cluster is None or isinstance(cluster, RingOnlyCluster):
            return Owner(chosen, None, owned=False if chosen == self.host_id else None)
        try:
            found = cluster.store().owner(ref)
        except TheatreError as error:
            log.info("the database does not tell who owns %s: %s", ref, error, extra=fields(ref=ref))
            return Owner(chosen, None, owned=None)
        if found is None or not found.alive:
            return Owner(chosen, None, owned=False)
        return Owner(found.owner.host_id, found.owner.epoch, owned=True)

    # -- actors ------------------------------------------------------------------------------------------------

    def detail(self, ref: Ref) -> dict[str, Any] | None:
        """Return what `/cluster/actor-detail` says of an activation on this host, None if there is none."""
        activation = self._registry.actors.get(ref)
        if activation is None:
            return None
        receiver: Any = activation.receiver
        if isinstance(receiver, FunctionReceiver):
            receiver = receiver.receive
        elif receiver is not None:
            receiver = type(receiver)
        created = activation.created_at
        now = self.clock.monotonic()
        return {
            **self._entry(activation),
            "receiver_type": None if receiver is None else _name(receiver),
            "created_at": self._wall(created) if created else None,
            "uptime_ms": round(1000 * max(0.0, now - created)) if created else 0,
            "senders_waiting": len(self._dispatcher.backpressure.lines.get(activation) or ()),
            "replies_owed": len(self._dispatcher.lifecycle.deferred.open(activation)),
            "running": activation.worker is not None,
        }

    def _entry(self, activation: Activation) -> dict[str, Any]:
        inbox = activation.inbox
        return {
            "type": activation.ref.type,
            "id": activation.ref.id,
            "host_id": self.host_id,
            "status": "active" if activation.state == ACTIVE else "inactive",
            "state": STATE_NAMES[activation.state],
            "last_message": self._wall(activation.last_active) if activation.last_active else None,
            "messages_total": activation.messages_total,
            "errors_total": self._dispatcher.lifecycle.errors.get(activation, 0),
            "inbox_size": 0 if inbox is None else 1 if isinstance(inbox, Context) else len(inbox),
            "inbox_cap": self._dispatcher.inbox_size,
        }

    def _wall(self, monotonic: float) -> str:
        return iso(self.clock.time() - (self.clock.monotonic() - monotonic))

    def actors(self, kind: str | None, prefix: str, after: str | None, limit: int) -> dict[str, Any]:
        """Return a page of the activations on this host. Lets others run meanwhile."""
        page = Page(limit, kind, prefix, None if after is None else read_cursor(after))
        refs = self._refs()
        for number, start in enumerate(range(0, len(refs), _SLICE), 1):
            page.show(refs[start : start + _SLICE])
            if not number % _SLICES:
                let_sockets_run()
        actors = self._registry.actors
        entries = [self._entry(actors[ref]) for ref in page.refs() if ref in actors]
        return {"actors": entries, "total": page.total, "next": page.next()}

    def _refs(self) -> list[Ref]:
        actors, now = self._registry.actors, self.clock.monotonic()
        if len(actors) < _MANY:
            self._list = []
            return list(actors)
        if not self._list or now - self._listed_at > _LIST_AGE:
            self._list, self._listed_at = list(actors), now
            self.clock.call_later(_LIST_AGE + 1, self._forget_list)
        return self._list

    def _forget_list(self) -> None:
        if self.clock.monotonic() - self._listed_at > _LIST_AGE:
            self._list = []

    # -- schedules and errors ----------------------------------------------------------------------------------

    def schedules(self, limit: int) -> dict[str, Any]:
        """Return what `/cluster/schedules` says, the earliest first."""
        schedules = self._host._schedules
        found, total = schedules.first(limit)
        entries = [
            {
                "id": schedule.id,
                "actor_type": schedule.ref.type,
                "actor_id": schedule.ref.id,
                "body": reprlib.repr(schedule.body),
                "kind": "one-shot" if schedule.expression is None else "cron",
                "cron_expr": schedule.expression,
                "tz": schedule.tz,
                "misfire": schedule.misfire,
                "next_fire": iso(schedule.due.timestamp()),
                "attempt": schedule.attempt,
                "error": schedule.error,
                "host_id": None if schedules.shared else self.host_id,  # any host may send what all have
            }
            for schedule in found
        ]
        return {"schedules": entries, "total": total, "scope": "cluster" if schedules.shared else "host"}

    def errors(self, limit: int) -> dict[str, Any]:
        """Return what `/cluster/errors` says: the last warnings and dead letters, the newest first."""
        entries = self.journal.entries(limit)
        return {"errors": [{**entry, "host_id": self.host_id} for entry in entries], "total": len(self.journal)}

    # -- health and orders -------------------------------------------------------------------------------------

    def unready(self) -> str | None:
        """Return why the host should get no work, None if it should."""
        state, lease = self._host.state, self.lease()
        if state != "active":
            return f"the host is {state}"
        margin = self._host.options.safety_margin
        if lease is not None and lease < margin:
            return f"the lease has {max(0.0, lease):.1f} s left, less than the safety margin of {margin:g} s"
        return None

    def stuck(self) -> str | None:
        """Return why the host must be taken for hung, None if it is well."""
        if self._host.state in ("new", "stopped"):
            return f"the host is {self._host.state}"
        lag = self.hub_lag()
        return f"the hub was blocked for {lag:.1f} s" if lag > STUCK else None

    def drain(self) -> None:
        """Begin to stop the host."""
        Greenlet.spawn(self._host.stop)

    def freeze(self) -> None:
        """Freeze the host."""
        self._host.freeze()


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', type(thing).__name__)}"


def _lease_details(cluster: RingOnlyCluster | Cluster | None) -> dict[str, Any]:
    if cluster is None or isinstance(cluster, RingOnlyCluster):
        return {"lease_duration_ms": None, "renewal_failures": None, "database_reachable": None}
    health = cluster.health()
    return {
        "lease_duration_ms": round(1000 * cluster.config.lease_duration),
        "renewal_failures": health.failures,
        "database_reachable": health.reachable,
    }


def _resident() -> int | None:
    """Return the process's resident bytes, where the system tells."""
    if sys.platform != "linux":
        return None
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
