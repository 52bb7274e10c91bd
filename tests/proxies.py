"""A way to a server that can be slowed, cut, and made to swallow everything."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket
from gevent.event import Event
from psycopg2.extensions import make_dsn, parse_dsn

from tests.transports import RawPeer

if TYPE_CHECKING:
    from typing_extensions import Self


class Proxy:
    """Stands between clients and a TCP server; a context manager.

    Args:
        host: Where the server itself is.
        port: Likewise.

    Attributes:
        port: Where the proxy is, at 127.0.0.1.
        delay: Seconds by which everything that a client says is held back: each statement takes so much longer.
        connections: How many were accepted.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]
        self.delay = 0.0
        self.connections = 0
        self._questions, self._answers = Event(), Event()
        self._questions.set()
        self._answers.set()
        self._refusing = False
        self._sockets: list[socket.socket] = []
        self._greenlets: list[Any] = [gevent.spawn(self._accept)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        gevent.killall(self._greenlets)
        for sock in self._sockets:
            sock.close()

    def cut(self) -> None:
        """Reset all connections, and every new one, until `heal`."""
        self._refusing = True
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with suppress(OSError):  # it is closed already
                RawPeer(sock).reset()

    def drop(self) -> None:
        """Close all connections in good order; new ones are welcome."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Let nothing pass and nothing end, as on a cut cable, until `heal`."""
        self._questions.clear()
        self._answers.clear()

    def mute(self) -> None:
        """Let what the client says pass, and nothing that the server answers, until `heal`."""
        self._answers.clear()

    def heal(self) -> None:
        """Let everything pass again. What was swallowed meanwhile never comes: its connections are reset."""
        if not self._answers.is_set():
            self.cut()
        self._refusing = False
        self._questions.set()
        self._answers.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self._refusing:
                RawPeer(near).reset()
            else:
                self._sockets.append(near)
                self._greenlets.append(gevent.spawn(self._join, near))

    def _join(self, near: socket.socket) -> None:
        self._questions.wait()
        try:
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        self._sockets.append(far)
        self._greenlets += (
            gevent.spawn(self._pass, near, far, self._questions),
            gevent.spawn(self._pass, far, near, self._answers),
        )

    def _pass(self, source: socket.socket, sink: socket.socket, gate: Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if gate is self._questions and self.delay:
                    gevent.sleep(self.delay)
                gate.wait()
                sink.sendall(data)
        # Either way: the server's end of a session is the client's, and the other way round.
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class DatabaseProxy(Proxy):
    """Stands between one client and its Postgres.

    Args:
        dsn: How to connect to the server itself, over TCP.

    Attributes:
        dsn: How to connect through the proxy.
    """

    def __init__(self, dsn: str) -> None:
        parameters = parse_dsn(dsn)
        super().__init__(parameters["host"], int(parameters["port"]))
        self.dsn = make_dsn(dsn, host="127.0.0.1", port=self.port)
