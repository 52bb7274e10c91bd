"""Whole clusters over Postgres in one process."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import gevent
from gevent.event import Event

from tests.integration.cluster_support import Cluster, router_of
from tests.postgres import execute
from tests.support import in_background, until
from theatre_gevent import Host, Ref, migrate_schema
from theatre_gevent.cluster.ownership import Outcome, Ownership, OwnershipStore, StoreUnavailable

LEASED: dict[str, Any] = {"lease_duration": 3.0, "poll_interval": 0.5, "safety_margin": 0.5, "log_level": "WARNING"}


class PostgresCluster(Cluster):
    """Hosts that know each other by their database.

    Args:
        dsn: Of an empty database.
        names: Host ids, one letter each.
        **options: As for `Cluster`.
    """

    def __init__(self, dsn: str, names: str = "abc", **options: Any) -> None:
        super().__init__(names, **{**LEASED, "dsn": dsn, **options})
        self.dsn = dsn
        migrate_schema(dsn)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            gevent.joinall([in_background(host.stop) for host in self.hosts.values()])

    def acquaint(self, **others: str) -> None:
        """Wait until all hosts are connected."""
        count = len(self.hosts) - 1 + len(others)
        until(lambda: all(host.metrics.snapshot()["peers_up"] == count for host in self), 20)

    def join(self, name: str, life: Any = None, **options: Any) -> Host:
        """Start another host, whose actors of type `life` are made by `life`; wait until all are connected."""
        self.dead.setdefault(name, [])
        host = self.make(name, **options)
        if life is not None:
            host.register_actor("life", life)
        self.hosts[name] = host.start()
        self.acquaint()
        return host

    def leave(self, name: str) -> Host:
        """Stop a host in good order."""
        self.lossy = True  # what it has sent is counted nowhere any more
        host = self.hosts.pop(name)
        host.stop()
        return host

    def epoch(self, name: str) -> int:
        """Return a host's present life."""
        cluster = self[name]._cluster
        assert cluster is not None
        return cluster.epoch

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement in the database."""
        return execute(self.dsn, statement, *values)

    def owner(self, ref: Ref) -> str | None:
        """Return who owns an actor by the database."""
        rows = self.sql("SELECT host_id FROM actor_ownership WHERE (actor_type, actor_id) = (%s, %s)", ref.type, ref.id)
        return str(rows[0][0]) if rows else None

    def own(self, name: str, *refs: Ref) -> None:
        """Write down that a host's present life owns actors, behind its back."""
        for ref in refs:
            self.sql(
                "INSERT INTO actor_ownership VALUES (%s, %s, %s, %s, clock_timestamp(), 0, 1)",
                *(ref.type, ref.id, name, self.epoch(name)),
            )


class Gate:
    """A store whose claims can be held up after they were made, and that can be away."""

    def __init__(self, host: Host) -> None:
        self.away = False
        self.open = Event()
        self.open.set()
        self.claims: list[list[Ref]] = []
        claiming = router_of(host).claiming
        assert claiming is not None
        self.ownership: Ownership = claiming.ownership
        self._store: OwnershipStore = self.ownership._store
        self.ownership._store = self

    def claim(self, refs: list[Ref], again: list[int], number: int) -> list[Outcome]:
        self.claims.append(list(refs))
        if self.away:
            raise StoreUnavailable("away")
        outcomes = self._store.claim(refs, again, number)
        self.open.wait()
        return outcomes

    def release(self, refs: list[Ref], number: int) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self._store.release(refs, number)

    def is_quiet(self) -> bool:
        return self.ownership.waiting() == 0
