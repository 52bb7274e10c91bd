"""The keeper's connection to the database, and the lock on the host id, which lasts as long as the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DatabaseUnavailable
from . import postgres
from .green import GreenConnection, connect

if TYPE_CHECKING:
    from collections.abc import Callable

_AGAIN = 0.02  # seconds between looks whether a lost session has ended
_GHOST = 1.0  # seconds that it may take to end
_CONNECT = 0.5  # seconds that making a connection gets at least
_LEAST = 0.1  # seconds that a statement gets at least, or its connection would be lost for nothing


class Session:
    """One connection at a time; used by one thread.

    Args:
        dsn: Connection string.
        host_id: Whose lock.
        patience: Seconds for each statement.
        gone_after: Seconds after which the server shall notice that this machine is gone, and free the lock.
        boottime: Reads the time.
        pause: Waits for so many seconds.

    Attributes:
        connection: None while there is none.
        locked: The lock is held by this connection.
        holder: Who has it instead; empty while it was not refused.
    """

    def __init__(
        self,
        dsn: str,
        host_id: str,
        patience: float,
        gone_after: float,
        boottime: Callable[[], float],
        pause: Callable[[float], None],
    ) -> None:
        self._dsn = dsn
        self._host_id = host_id
        self._patience = patience
        self._gone_after = gone_after
        self._boottime = boottime
        self._pause = pause
        self._pid = 0  # of the server's process
        self._lost: set[int] = set()  # those of earlier connections, which may have the lock still
        self.connection: GreenConnection | None = None
        self.locked = False
        self.holder = ""

    def open(self) -> None:
        """Connect, try to take the lock, and listen to what changes.

        Raises:
            DatabaseError: It did not work; there is no connection.
        """
        try:
            self.connection = connect(
                self._dsn,
                connect_timeout=max(_CONNECT, self._patience),  # several attempts within a lease
                statement_timeout=self._patience,
                application_name=f"theatre_gevent keeper of {self._host_id}",
            )
            self._pid = postgres.open_session(self.connection, self._gone_after)
            self.lock()
            postgres.listen(self.connection)
        except BaseException:
            self.close()
            raise

    def lock(self) -> bool:
        """Try to take the lock; `holder` says who has it otherwise.

        The server may not have noticed yet that an earlier connection of this very keeper is lost: that one is ended.

        Raises:
            DatabaseError: The database did not answer, or the earlier connection does not end.
        """
        connection = self.use()
        end = self._boottime() + _GHOST
        while not postgres.try_lock(connection, self._host_id):
            holder = postgres.lock_holder(connection, self._host_id)
            if holder is not None and holder.pid not in self._lost:
                self.holder = str(holder)
                return False
            if holder is not None:
                postgres.end_session(connection, holder.pid)
            if self._boottime() >= end:
                raise DatabaseUnavailable(f"a lost connection still holds the lock on host id {self._host_id!r}")
            self._pause(_AGAIN)
        self._lost.clear()
        self.holder = ""
        self.locked = True
        return True

    def use(self, seconds: float | None = None) -> GreenConnection:
        """Return the connection, for statements that take `seconds` at most.

        Raises:
            DatabaseUnavailable: There is none.
        """
        if self.connection is None or self.connection.closed:
            raise DatabaseUnavailable("there is no connection to the database now")
        self.connection.statement_timeout = self._patience if seconds is None else max(_LEAST, seconds)
        return self.connection

    def tidy(self) -> None:
        """Let go of a connection that has closed by itself."""
        if self.connection is not None and self.connection.closed:
            self.close()

    def close(self) -> None:
        """Close the connection, and let go of the lock."""
        connection, self.connection = self.connection, None
        self.locked = False
        if self._pid:
            self._lost.add(self._pid)
            self._pid = 0
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """Make a statement that is under way fail at once; from any thread."""
        connection = self.connection
        if connection is not None:
            connection.interrupt()
