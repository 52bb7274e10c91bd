"""The database of a load test: a given one, one of its own, or none."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from theatre_gevent.cluster.green import connect
from theatre_gevent.embedded import EmbeddedPostgres
from theatre_gevent.embedded.binaries import candidates
from theatre_gevent.migration import migrate_schema

from .profiling import MissingPackage

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from theatre_gevent.cluster.green import GreenConnection

EMBEDDED = "embedded"
"""Value of `-dsn` for a private server."""

_CONNECTIONS_PER_HOST = 20
_CONNECTIONS_BESIDES = 20
_TIMEOUT = 10.0


def require_programs(dsn: str | None) -> None:
    """See whether a private server could be started, if one is wanted.

    Raises:
        MissingPackage: There are no programs of PostgreSQL.
    """
    if dsn == EMBEDDED:
        try:
            candidates()
        except LookupError as error:
            raise MissingPackage(f"-dsn {EMBEDDED}: {error}") from error


def private_server(hosts: int) -> EmbeddedPostgres:
    """Return a server, not started, that is large enough for a test with so many hosts."""
    connections = max(200, _CONNECTIONS_PER_HOST * hosts + _CONNECTIONS_BESIDES)
    return EmbeddedPostgres(settings={"max_connections": connections, "shared_buffers": "256MB"})


class Database:
    """What the hosts of a test share, ready for them while the block runs; a private server is gone after it.

    Args:
        dsn: How to connect, `embedded` for a private server, None for no database.
        hosts: How many hosts there will be.

    Attributes:
        dsn: How to connect, None without a database.
        name: What it is, for people; None without a database.
    """

    def __init__(self, dsn: str | None, hosts: int) -> None:
        self.dsn = dsn
        self.name: str | None = None
        self._server: EmbeddedPostgres | None = None
        if dsn == EMBEDDED:
            self._server = private_server(hosts)
        self._before = 0

    def __enter__(self) -> Self:
        """Start it, if it is ours, and make the tables, if they are not there.

        Raises:
            TheatreError: It can't be started or reached, or refuses the tables.
        """
        try:
            if self._server is not None:
                self.dsn = self._server.start().dsn
            if self.dsn is not None:
                migrate_schema(self.dsn)
                with self._connected() as connection:
                    version = str(connection.run("SHOW server_version")[0][0]).split()[0]
                    place = connection.info
                    self.name = f"PostgreSQL {version}" + (
                        ", embedded" if self._server is not None else f" at {place.host}:{place.port}/{place.dbname}"
                    )
                self._before = self.transactions()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it, if it is ours."""
        self._stop()

    def transactions(self) -> int:
        """Return how many transactions the database has seen since the block began, by whomever.

        What connections that are open have done is counted some seconds later.

        Raises:
            DatabaseError: It could not be asked.
        """
        with self._connected() as connection:
            rows = connection.run(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            )
        return int(rows[0][0]) - self._before

    def _connected(self) -> closing[GreenConnection]:
        assert self.dsn is not None
        return closing(connect(self.dsn, statement_timeout=_TIMEOUT, application_name="theatre_gevent load test"))

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
