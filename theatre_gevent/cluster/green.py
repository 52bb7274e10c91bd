"""Connections to Postgres that never stop other greenlets, and never wait without an end.

psycopg2 asks one process-wide callback to wait whenever libpq has to. Ours looks at the thread it is called in: where
gevent runs, other greenlets go on meanwhile; in a native thread it waits as native threads do, and no hub comes into
being there. libpq leaves every deadline to such a callback, `connect_timeout` included, and a server that is stopped
can't keep its own; so each operation has one here. What was interrupted or came too late has lost its place in
the protocol: psycopg2 closes that connection, and it is of no use any more.
"""

from __future__ import annotations

import os
import random
import socket as sockets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg2
from gevent._hub_local import get_hub_if_exists  # the only way to look for a hub without making one
from gevent.monkey import get_original
from gevent.socket import wait_read, wait_write
from psycogreen.gevent import gevent_wait_callback
from psycopg2 import extensions

from ..clock import SystemClock
from . import dsn as dsns
from .resolving import resolve
from .store import AnswerLost, DatabaseError, DatabaseRefused, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Row = tuple[Any, ...]

TIMEOUT = 2.0
"""Seconds that a statement may take, its answer included; also for making a connection."""

_SERVER_SHARE = 0.9
"""Part of it after which the server gives up by itself: then the connection lives on, and the outcome is known."""

_UNASKED = 16  # notices and notifications are read in so many steps at most

_now = SystemClock().monotonic
_select = get_original("select", "select")
try:
    _poll = get_original("select", "poll")  # it takes file numbers above 1023 too
except AttributeError:  # Windows
    _poll = None

_SETTINGS = """
SELECT set_config('statement_timeout', %s, false), set_config('default_transaction_isolation', 'read committed', false),
    set_config('jit', 'off', false),
    set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
        ELSE current_setting('synchronous_commit') END, false),
    pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean, current_setting('server_encoding')
"""
# An asynchronous commit that a crash undoes would be an actor with two owners. Claims need each of their statements to
# see what was committed before it. Compiling queries takes longer than running them.

# What the server says when it ends the connection: the statement may have been committed just before.
_LOST = ("57P01", "57P02", "57P05")
# It did nothing, and may do it the next time: no resources, deadlock, lock not had, cancelled, starting, read-only
# after a failover, I/O error, internal error.
_PASSING = ("08", "40", "53", "55P03", "55006", "57014", "57P03", "25006", "58", "XX")


class DeadlinePassed(psycopg2.OperationalError):
    """No answer came in time."""


class _Late(Exception):
    """Ends a wait; never leaves this module."""


class GreenConnection(extensions.connection):
    """A connection of ours: each statement is a transaction by itself, has a deadline, and fails with our errors.

    Made by `connect`. It is used by one greenlet or thread at a time.

    Attributes:
        statement_timeout: Seconds that a statement may take.
    """

    def __init__(self, parameters: Mapping[str, str], statement_timeout: float, deadline: float) -> None:
        self.statement_timeout = statement_timeout
        self._deadline: float | None = deadline
        try:
            super().__init__(extensions.make_dsn(**parameters))
        except BaseException:
            self._deadline = None
            self.close()  # the error holds this object, and with it the socket, for as long as anybody holds the error
            raise
        self._deadline = None
        self.autocommit = True

    def run(self, sql: str, arguments: Sequence[object] = (), timeout: float | None = None) -> list[Row]:
        """Run one statement, a transaction by itself, and return its rows.

        Args:
            sql: The statement, with `%s` where arguments go.
            arguments: Their values.
            timeout: Seconds, instead of `statement_timeout`; the server's own limit stays what it is.

        Raises:
            DatabaseUnavailable: It was not done; another time it may be.
            AnswerLost: Nobody knows whether it was done. The connection is closed.
            DatabaseRefused: It was not done and never will be.
        """
        if self.closed:
            raise DatabaseUnavailable("the connection to the database is closed")
        if self._deadline is not None:
            raise RuntimeError("a connection runs one statement at a time: this one is in use by another greenlet")
        install()
        self._deadline = _now() + (self.statement_timeout if timeout is None else timeout)
        try:
            with self.cursor() as cursor:
                cursor.execute(sql, arguments)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            self._deadline = None
            raise self._translate(error) from error
        except ValueError as error:  # psycopg2 can't write such a value: NUL, half of a surrogate pair
            raise DatabaseRefused(f"the database can't hold such a value: {error}") from error
        finally:
            self._deadline = None

    def notifications(self) -> list[str]:
        """Return the payloads of notifications that have arrived. Does not wait.

        Raises:
            DatabaseUnavailable: The server has closed the connection.
        """
        try:
            for _ in range(_UNASKED):  # a last word of the server and the end of file are two steps
                self.poll()
                if not self.is_readable():
                    break
        except psycopg2.Error as error:
            self.close()
            raise DatabaseUnavailable(f"the connection to the database was lost: {_text(error)}") from error
        found = [notification.payload for notification in self.notifies]
        self.notifies.clear()
        return found

    def is_readable(self) -> bool:
        """Tell whether the server has sent something, or has closed the connection."""
        return _wait_in_thread(self.fileno(), extensions.POLL_READ, 0.0)

    def is_at_rest(self) -> bool:
        """Tell whether it is open and in the middle of nothing."""
        return not self.closed and self.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE

    def close(self) -> None:
        """Close it; one that waits for an answer is interrupted, and closes then."""
        if self._deadline is None:
            super().close()
        else:
            self.interrupt()  # psycopg2's lock is held meanwhile, and `close` would wait for it with the whole thread

    def interrupt(self) -> None:
        """Make whoever waits for an answer fail at once; from any greenlet and any thread."""
        with suppress(psycopg2.Error, OSError):
            twin = get_original("socket", "socket")(fileno=os.dup(self.fileno()))
            with twin:
                twin.shutdown(sockets.SHUT_RDWR)

    def _translate(self, error: psycopg2.Error) -> DatabaseError:
        code = error.pgcode
        if code is None:
            if isinstance(error, psycopg2.ProgrammingError) and not self.closed:
                return DatabaseRefused(_text(error))
            self.close()
            return AnswerLost(f"the database's answer was lost: {_text(error)}")
        if code in _LOST:
            self.close()
            return AnswerLost(f"the database ended the connection: {_text(error)}")
        if code == "25006":
            self.close()  # the server has become a standby: the next connection finds the one that takes writes
        kind = DatabaseUnavailable if code.startswith(_PASSING) else DatabaseRefused
        return kind(f"the database says {code}: {_text(error)}")


def connect(
    dsn: str,
    *,
    connect_timeout: float | None = None,
    statement_timeout: float = TIMEOUT,
    application_name: str = "theatre_gevent",
) -> GreenConnection:
    """Connect to the server that takes writes, in a greenlet or in a native thread.

    Args:
        dsn: Connection string of libpq, of one server or several. What it says about keepalives and the application's
            name goes before what is said here.
        connect_timeout: Seconds for everything: looking up names, all servers, the log-in. By default what `dsn` says.
        statement_timeout: Seconds for each statement later; a little less at the server, so that it gives up first.
        application_name: What the server shows for this connection.

    Raises:
        InvalidOption: `dsn` is no connection string.
        DatabaseUnavailable: No server took the connection in time; the text says why.
        DatabaseRefused: The database does not keep text as UTF-8.
    """
    install()
    parameters = dsns.parse(dsn)
    deadline = _now() + (timeout_of(dsn) if connect_timeout is None else connect_timeout)
    given = {
        "application_name": application_name,
        "keepalives_idle": "10",
        "keepalives_interval": "3",
        "keepalives_count": "3",
        "tcp_user_timeout": str(max(1, int(statement_timeout * 1000))),
        **parameters,
        "client_encoding": "UTF8",
    }
    servers, failure = dsns.servers(given, lambda name: resolve(name, deadline - _now()))
    if parameters.get("load_balance_hosts") == "random":
        random.shuffle(servers)
    error: Exception = DatabaseUnavailable(f"the database's name can't be looked up: {failure}")
    for n, server in enumerate(servers):
        # What is left is shared out evenly, so that a server that is mute does not take the time of the others.
        share = (deadline - _now()) / (len(servers) - n)
        try:
            return _prepare(GreenConnection(server, statement_timeout, _now() + share), share)
        except psycopg2.Error as problem:
            error = DatabaseUnavailable(f"no connection to the database: {_text(problem)}")
            error.__cause__ = problem
        except DatabaseError as problem:
            error = problem
    raise error


def timeout_of(dsn: str) -> float:
    """Return how many seconds a connection may take by the connection string, or by default.

    Raises:
        InvalidOption: `dsn` is no connection string.
    """
    asked = dsns.effective(dsns.parse(dsn), "connect_timeout")
    return float(asked) if asked.isdecimal() and int(asked) else TIMEOUT


def install() -> None:
    """See to it that psycopg2 waits with our callback; connections that aren't ours are left to the one before."""
    global _before
    present = extensions.get_wait_callback()
    if present is not _wait:
        _before = present or gevent_wait_callback
        extensions.set_wait_callback(_wait)


_before: Callable[[Any], object] = gevent_wait_callback  # psycopg2 has one for the whole process, so this is global too


def _prepare(connection: GreenConnection, timeout: float) -> GreenConnection:
    limit = f"{max(1, int(connection.statement_timeout * 1000 * _SERVER_SHARE))}ms"
    try:
        row = connection.run(_SETTINGS, (limit,), timeout)[0]
        if row[4]:
            raise DatabaseUnavailable("the database server takes no writes: it is a standby, or read-only")
        if row[5] != "UTF8":
            raise DatabaseRefused(f"the database must keep text as UTF8, its encoding is {row[5]}")
    except AnswerLost as error:
        raise DatabaseUnavailable(f"no connection to the database: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _wait(connection: Any) -> None:
    """Wait until libpq has what it waits for: psycopg2's callback, in the thread and greenlet of the caller."""
    green = get_hub_if_exists() is not None
    deadline = connection._deadline if isinstance(connection, GreenConnection) else None
    if green and deadline is None:
        _before(connection)
        return
    wait = _wait_in_greenlet if green else _wait_in_thread
    late = False
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        if late:
            raise DeadlinePassed("it did not answer in time")
        # After the deadline one more look: it may be us who came late, and the answer be there.
        left = None if deadline is None else max(0.0, deadline - _now())
        late = not wait(connection.fileno(), state, left)


def _wait_in_greenlet(number: int, state: int, seconds: float | None) -> bool:
    wait = wait_read if state == extensions.POLL_READ else wait_write
    try:
        wait(number, seconds, _Late())
    except _Late:
        return False
    return True


def _wait_in_thread(number: int, state: int, seconds: float | None) -> bool:
    reading = state == extensions.POLL_READ
    if _poll is None:
        return any(_select(*(([number], [], []) if reading else ([], [number], [])), seconds))
    poll = _poll()
    poll.register(number, 1 if reading else 4)  # POLLIN and POLLOUT; errors and the end of file come unasked
    return bool(poll.poll(None if seconds is None else int(seconds * 1000) + (seconds > 0)))


def _text(error: BaseException) -> str:
    """What a driver's error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
