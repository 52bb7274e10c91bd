"""A PostgreSQL server of one's own, as a Python object."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TheatreError
from .binaries import candidates

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

USER = "postgres"
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_ORDER_TIMEOUT = 60.0
_STOP_TIMEOUT = 30.0

SETTINGS: dict[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 200,
    "shared_buffers": "64MB",
    "huge_pages": "off",
    # The operating system does not crash in a test; what a killed server had written is there when it starts again.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_logical_replication_workers": 0,
    "max_wal_size": "1GB",
    "checkpoint_timeout": "30min",
    "dynamic_shared_memory_type": "mmap",  # in the directory: other kinds outlive a server that is killed
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""PostgreSQL's settings: for a server that is thrown away. Commits are kept over `kill`."""


class EmbeddedPostgresError(TheatreError):
    """The private PostgreSQL can't be started, or does not do what it was told; the message says why.

    The fault of the machine, mostly of missing programs: `pip install theatre_gevent[embedded]` has them.
    """


class EmbeddedPostgres:
    """A private PostgreSQL server with a directory of its own, for tests, examples and load tests; not for production.

    ```python
    with EmbeddedPostgres() as postgres:
        psycopg2.connect(postgres.dsn)
    ```

    The server listens at a free port of 127.0.0.1 alone and demands a random password, which is in `dsn`. It does not
    outlive the program: a small process of its own watches over it and kills it and removes its directory when the
    program ends, also by Ctrl+C or `kill -9`. Run by root, the server runs as the user `nobody`.

    PostgreSQL's programs are searched in `THEATRE_PG_BIN` (a folder; if set, the only one), PATH, the folders where
    systems install them, and the wheel of the extra `theatre_gevent[embedded]`; of several versions the newest that
    works is taken.

    A method that is interrupted, by a `gevent.Timeout` for instance, or that took too long is carried out all the same;
    the next one begins after it.

    Works with and without gevent's monkey patching; with it, only the calling greenlet waits. Any number of servers
    run side by side. Linux and macOS; all methods belong to the process that called `start`, and with monkey patching
    to its main thread.

    Args:
        settings: Settings of PostgreSQL that add to or replace those of `SETTINGS`, as in `postgresql.conf`.
        start_timeout: Seconds that the start may take.
    """

    def __init__(self, *, settings: Mapping[str, str | int] | None = None, start_timeout: float = 60.0) -> None:
        self._settings = {**SETTINGS, **(settings or {})}
        self._start_timeout = start_timeout
        self._password = secrets.token_urlsafe(18)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._unread = b""
        self._orders = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._about: dict[str, Any] = {}
        self._directory: Path | None = None

    def start(self) -> Self:
        """Start the server and wait until it lets clients in; about a second.

        Raises:
            EmbeddedPostgresError: There are no programs of PostgreSQL, none of them works, it took longer than
                `start_timeout`, or this server was started already.
        """
        if self._process is not None:
            raise EmbeddedPostgresError("this PostgreSQL was started already")
        if os.name != "posix":
            raise EmbeddedPostgresError("an embedded PostgreSQL needs Linux or macOS; give the DSN of a server")
        try:
            found = candidates()
        except LookupError as error:
            raise EmbeddedPostgresError(str(error)) from error
        self._directory = Path(_temporary_folder(), f"theatre-postgres-{secrets.token_hex(8)}")
        self._owner = os.getpid()
        self._socket, theirs = socket.socketpair()
        self._unread = b""
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own program  # nosec B603  # as said
                    [sys.executable, "-I", "-S", str(_SUPERVISOR), str(self._owner)],
                    stdin=theirs.fileno(),
                    # Whoever waits for the end of our output shall not wait for the supervisor.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,  # Ctrl+C in a terminal is for the program, which ends the server
                )
            given = {
                "directory": str(self._directory),
                "candidates": found,
                "settings": self._settings,
                "user": USER,
                "password": self._password,
            }
            self._send(given)
            self._about = self._order("start", self._start_timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill the server and remove everything it left. Harmless when it does not run."""
        if self._owner != os.getpid():
            return  # a forked copy of the program: the server is the other one's
        sock, process, self._socket, self._process = self._socket, self._process, None, None
        self._about = {}
        if sock is not None:
            sock.close()
        if process is not None:
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._directory is not None:
            # Nothing is left of it, unless somebody killed the supervisor.
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start the server."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    # -- what clients need ---------------------------------------------------------------------------------------

    @property
    def dsn(self) -> str:
        """How to connect, to the database `postgres` and as superuser."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Return how to connect to another database of the server."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    @property
    def port(self) -> int:
        """The TCP port; it stays the same over restarts."""
        return int(self._known("port"))

    @property
    def version(self) -> str:
        """PostgreSQL's version, such as 18.1."""
        return str(self._known("version"))

    @property
    def binaries(self) -> Path:
        """The folder of the programs that run: a copy when the server's user could not run the ones found."""
        return Path(self._known("bin"))

    @property
    def directory(self) -> Path:
        """Where its data and its log are."""
        if self._directory is None:
            raise EmbeddedPostgresError("this PostgreSQL does not run")
        return self._directory

    @property
    def supervisor(self) -> int:
        """The id of the process that watches over the server; the server and all of its processes descend from it."""
        if self._process is None:
            raise EmbeddedPostgresError("this PostgreSQL does not run")
        return self._process.pid

    def _known(self, name: str) -> Any:
        if name not in self._about:
            raise EmbeddedPostgresError("this PostgreSQL does not run")
        return self._about[name]

    # -- faults --------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Stop the server as an administrator would: clients are disconnected, connections refused, data is kept."""
        self._order("shutdown")

    def restart(self) -> None:
        """Start the server again with its data and at its port; if it runs, `shutdown` comes first."""
        self._order("restart")

    def kill(self) -> None:
        """Kill all processes of the server at once, as a crash would; `restart` recovers what was committed."""
        self._order("kill")

    def pause(self) -> None:
        """Stop all processes of the server where they are (SIGSTOP): nobody is answered, no connection is closed."""
        self._order("pause")

    def resume(self) -> None:
        """Let a paused server go on."""
        self._order("resume")

    # -- the supervisor -------------------------------------------------------------------------------------------

    def _order(self, what: str, timeout: float = _ORDER_TIMEOUT) -> dict[str, Any]:
        with self._lock:
            self._orders += 1
            self._send({"do": what, "number": self._orders})
            answer = self._receive(what, timeout)
            while answer["number"] != self._orders:  # that of an order for which nobody waits any more
                answer = self._receive(what, timeout)
        if "failed" in answer:
            raise EmbeddedPostgresError(answer["failed"])
        done: dict[str, Any] = answer["done"] or {}
        return done

    def _connected(self) -> socket.socket:
        if self._owner and self._owner != os.getpid():
            raise EmbeddedPostgresError("this PostgreSQL belongs to the process that this one was forked from")
        if self._socket is None:
            raise EmbeddedPostgresError("this PostgreSQL does not run")
        return self._socket

    def _send(self, value: dict[str, Any]) -> None:
        try:
            self._connected().sendall(json.dumps(value).encode() + b"\n")
        except OSError as error:
            raise EmbeddedPostgresError(f"the process that watches over PostgreSQL is gone: {error}") from error

    def _receive(self, what: str, timeout: float) -> dict[str, Any]:
        sock = self._connected()
        sock.settimeout(timeout)
        try:
            while b"\n" not in self._unread:
                data = sock.recv(65536)
                if not data:
                    raise EmbeddedPostgresError("the process that watches over PostgreSQL has ended")
                self._unread += data  # what has come is kept, should the next wait be interrupted
        except TimeoutError as error:
            raise EmbeddedPostgresError(f"PostgreSQL did not {what} in {timeout:g} s") from error
        except OSError as error:
            raise EmbeddedPostgresError(f"the process that watches over PostgreSQL is gone: {error}") from error
        line, self._unread = self._unread.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer


def _temporary_folder() -> str:
    """Return where to put the server's directory: somewhere that `nobody` can get to, if that is who runs it."""
    folder = tempfile.gettempdir()
    if os.geteuid() != 0:
        return folder
    for each in (folder, "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - the directory has a random name and mode 0700  # nosec B108  # likewise
        path = Path(each).resolve()
        if path.is_dir() and all(part.stat().st_mode & 0o001 for part in (path, *path.parents)):
            return each
    raise EmbeddedPostgresError(
        f"run by root, PostgreSQL runs as the user nobody, who can't get to {folder}; set TMPDIR to a folder for all"
    )
