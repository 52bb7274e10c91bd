"""A small pool of connections for the greenlets of one hub: who finds all of them busy waits for its turn."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gevent.lock import Semaphore
from gevent.monkey import get_original

from ..clock import SystemClock
from .green import TIMEOUT, GreenConnection, connect, timeout_of
from .store import DatabaseError, DatabaseUnavailable, PoolTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator

_IDLE_CHECK = 30.0  # seconds after which an unused connection is tried: something in between may have forgotten it

_now = SystemClock().monotonic
_get_ident = get_original("_thread", "get_ident")


class Pool:
    """Up to `size` connections, made when they are needed and kept; the one used last is used next.

    Args:
        dsn: Connection string of libpq.
        size: Connections at most.
        connect_timeout: Seconds for making one; by default what `dsn` says.
        statement_timeout: Seconds for each statement.
        application_name: What the server shows for them.

    Raises:
        InvalidOption: `dsn` is no connection string.

    Attributes:
        size: Connections at most.
        waits: How often somebody found them all busy.
        connects: How many connections were made.
        discards: How many were thrown away: dead, interrupted, or in the middle of something.
    """

    def __init__(
        self,
        dsn: str,
        size: int = 4,
        *,
        connect_timeout: float | None = None,
        statement_timeout: float = TIMEOUT,
        application_name: str = "theatre_gevent",
    ) -> None:
        self.size = size
        self.waits = self.connects = self.discards = 0
        self._dsn = dsn
        self._connect_timeout = timeout_of(dsn) if connect_timeout is None else connect_timeout
        self._statement_timeout = statement_timeout
        self._application_name = application_name
        self._idle: list[tuple[GreenConnection, float]] = []
        self._busy: set[GreenConnection] = set()
        self._waiting = 0
        self._closed = False
        self._free = Semaphore(size)
        self._thread = _get_ident()

    @property
    def in_use(self) -> int:
        """How many connections greenlets have now."""
        return len(self._busy)

    @property
    def idle(self) -> int:
        """How many wait to be used."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many greenlets wait for a connection."""
        return self._waiting

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[GreenConnection]:
        """Have a connection to yourself, in a `with` block.

        It goes back to the pool when the block ends in order, or with an error that left it usable; otherwise it is
        thrown away.

        Args:
            timeout: Seconds to wait for one, the making of it included; by default `connect_timeout`.

        Raises:
            PoolTimeout: None came free in time.
            DatabaseUnavailable: No server took the connection, or the pool is closed.
            RuntimeError: Called in another thread than the one that made the pool.
        """
        if _get_ident() != self._thread:
            raise RuntimeError("a pool of connections belongs to the thread that made it")
        deadline = _now() + (self._connect_timeout if timeout is None else timeout)
        self._wait_for_turn(deadline)
        try:
            connection = self._take(deadline)
            try:
                yield connection
            except Exception:
                self._put_back(connection)
                raise
            except BaseException:
                self._discard(connection)  # killed: who knows what it was in the middle of
                raise
            else:
                self._put_back(connection)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close all connections. Who uses one has it until its `with` block ends; who waits gets an error now."""
        self._closed = True
        while self._idle:
            self._idle.pop()[0].close()
        for _ in range(self._waiting):
            self._free.release()

    def abandon(self) -> None:
        """In a forked child: keep copied greenlets that wait for an answer from taking it away from the parent."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for connection in [*self._busy, *(connection for connection, _ in self._idle)]:
            if not connection.closed:
                os.dup2(nothing, connection.fileno())
        os.close(nothing)
        self._closed = True

    def interrupt(self) -> None:
        """Make every statement that is under way fail now, with `AnswerLost`."""
        for connection in list(self._busy):
            connection.interrupt()

    def _wait_for_turn(self, deadline: float) -> None:
        self._check_open()
        if not self._free.acquire(blocking=False):
            self.waits += 1
            self._waiting += 1
            try:
                if not self._free.acquire(timeout=max(0.0, deadline - _now())):
                    raise PoolTimeout(f"all {self.size} connections to the database were busy for too long")
            finally:
                self._waiting -= 1
        if self._closed:
            self._free.release()
            self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseUnavailable("the pool of connections to the database is closed")

    def _take(self, deadline: float) -> GreenConnection:
        while self._idle:
            connection, since = self._idle.pop()
            self._busy.add(connection)
            if self._is_usable(connection, since, deadline):
                return connection
        # No lock is held here, only the right to one connection: others go on.
        connection = connect(
            self._dsn,
            connect_timeout=max(0.001, min(self._connect_timeout, deadline - _now())),
            statement_timeout=self._statement_timeout,
            application_name=self._application_name,
        )
        self.connects += 1
        self._busy.add(connection)
        return connection

    def _is_usable(self, connection: GreenConnection, since: float, deadline: float) -> bool:
        try:
            if not connection.closed and (connection.is_readable() or _now() - since > _IDLE_CHECK):
                # `closed` stays 0 when the server has gone, but then there is something to read: the end.
                connection.run("SELECT 1", timeout=max(0.001, deadline - _now()))
        except DatabaseError:
            connection.close()
        except BaseException:
            self._discard(connection)
            raise
        if connection.closed:
            self._discard(connection)
            return False
        return True

    def _put_back(self, connection: GreenConnection) -> None:
        if connection.is_at_rest() and not self._closed:
            self._busy.discard(connection)
            self._idle.append((connection, _now()))
        else:
            self._discard(connection)

    def _discard(self, connection: GreenConnection) -> None:
        self._busy.discard(connection)
        connection.close()
        self.discards += 1
