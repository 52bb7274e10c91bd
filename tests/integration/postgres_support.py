"""What tests of the cluster's database share: connections that get closed, lives of hosts, servers that misbehave."""

from __future__ import annotations

import socket as plain
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import Greenlet, socket
from psycopg2.extensions import make_dsn

from tests.support import until
from theatre_gevent import Ref, migrate_schema
from theatre_gevent.cluster import postgres
from theatre_gevent.cluster.green import GreenConnection, connect
from theatre_gevent.cluster.store import Life


class Cluster:
    """A migrated database, and connections to it.

    Attributes:
        dsn: How to connect to it.
        admin: A connection for looking at things.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._made: list[GreenConnection] = []
        self.admin = self.connect()

    def connect(self, **options: Any) -> GreenConnection:
        # Generous, since machines that run tests are busy; what is about deadlines says which.
        connection = connect(self.dsn, **{"statement_timeout": 20.0, "connect_timeout": 20.0, **options})
        self._made.append(connection)
        return connection

    def life(self, host_id: str, connection: GreenConnection | None = None, previous_epoch: int | None = None) -> Life:
        """Register a life of a host, by default on the connection `admin`."""
        connection = connection or self.admin
        life = Life(host_id, postgres.next_epoch(connection))
        postgres.register(connection, life, "127.0.0.1:7000", 3.0, previous_epoch=previous_epoch)
        return life

    def row(self, ref: Ref) -> tuple[str, int, int, int] | None:
        """Host id, epoch, claim and reason in the row of an actor."""
        rows = self.admin.run(
            "SELECT host_id, epoch, claim, reason FROM actor_ownership WHERE actor_type = %s AND actor_id = %s",
            (ref.type, ref.id),
        )
        return rows[0] if rows else None

    def until_blocked(self, *connections: GreenConnection) -> None:
        """Wait until each of these waits for a lock that another transaction has."""
        pids = [connection.get_backend_pid() for connection in connections]

        def blocked() -> bool:
            waiting = "SELECT count(*) FROM unnest(%s) AS p(id) WHERE cardinality(pg_blocking_pids(p.id)) > 0"
            return bool(self.admin.run(waiting, (pids,))[0][0] == len(pids))

        until(blocked)

    def close(self) -> None:
        for connection in self._made:
            connection.close()


@pytest.fixture
def cluster(dsn: str) -> Iterator[Cluster]:
    """A fresh database with the cluster's tables."""
    migrate_schema(dsn)
    cluster = Cluster(dsn)
    yield cluster
    cluster.close()


def terminate(cluster: Cluster, connection: GreenConnection) -> None:
    """Have the server end a connection, and wait until it has."""
    pid = connection.get_backend_pid()
    cluster.admin.run("SELECT pg_terminate_backend(%s)", (pid,))
    until(lambda: not cluster.admin.run("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)))


def heard(connection: GreenConnection) -> list[str]:
    """Wait for notifications and return what they say."""
    found: list[str] = []

    def listen() -> bool:
        found.extend(connection.notifications())
        return bool(found)

    until(listen)
    return found


class Proxy:
    """Passes TCP connections on to a server, until it is told not to.

    Attributes:
        hold: Connections that come now are accepted, and nothing else.
        swallow_answers: What the server says is read and thrown away.
        answers: How many bytes were thrown away.
    """

    def __init__(self, dsn: str) -> None:
        with_server = connect(dsn, connect_timeout=20.0)
        self._server = (with_server.info.host, with_server.info.port)
        with_server.close()
        self.hold = False
        self.swallow_answers = False
        self.answers = 0
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.dsn = make_dsn(dsn, host="127.0.0.1", hostaddr="127.0.0.1", port=self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = [self._listener]
        self._greenlets: list[Greenlet[..., None]] = [Greenlet.spawn(self._accept)]

    def cut(self) -> None:
        """End all connections."""
        for sock in self._sockets[1:]:
            try:
                sock.shutdown(plain.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        gevent.killall(self._greenlets)
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            self._sockets.append(client)
            if self.hold:
                continue
            host, port = self._server
            if host.startswith("/"):
                server = socket.socket(plain.AF_UNIX)
                server.connect(f"{host}/.s.PGSQL.{port}")
            else:
                server = socket.create_connection((host, port))
            self._sockets.append(server)
            self._greenlets.append(Greenlet.spawn(self._pass_on, client, server, False))
            self._greenlets.append(Greenlet.spawn(self._pass_on, server, client, True))

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers and self.swallow_answers:
                    self.answers += len(data)
                else:
                    target.sendall(data)
            target.shutdown(plain.SHUT_RDWR)
        except OSError:
            pass


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    """A proxy before the server of `dsn`."""
    proxy = Proxy(dsn)
    yield proxy
    proxy.close()


class MuteServer:
    """An address that takes no connection and refuses none, as one behind a firewall: its queue is full."""

    def __init__(self) -> None:
        self._listener = plain.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port = self._listener.getsockname()[1]
        self._fill: list[plain.socket] = []
        for _ in range(4):
            sock = plain.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.port))
            self._fill.append(sock)

    def close(self) -> None:
        for sock in (*self._fill, self._listener):
            sock.close()


@pytest.fixture
def mute_server() -> Iterator[MuteServer]:
    server = MuteServer()
    yield server
    server.close()


class Ticker:
    """Counts how often it gets its turn: what blocks the hub stops it."""

    def __init__(self) -> None:
        self.ticks = 0
        self._greenlet: Greenlet[..., None] = gevent.spawn(self._tick)

    def _tick(self) -> None:
        while True:
            gevent.sleep(0.002)
            self.ticks += 1

    def during(self, function: Callable[[], object]) -> int:
        """Return how many ticks there were while `function` ran."""
        before = self.ticks
        function()
        return self.ticks - before

    def stop(self) -> None:
        self._greenlet.kill()


@pytest.fixture
def ticker() -> Iterator[Ticker]:
    ticker = Ticker()
    yield ticker
    ticker.stop()


def refs(count: int, kind: str = "player") -> list[Ref]:
    return [Ref(kind, f"{number:05}") for number in range(count)]
