"""What the tests of the transport need: a handler that writes down, peers that misbehave, a search for leaks."""

from __future__ import annotations

import gc
import os
import socket as plain
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
import psutil
from gevent import Greenlet, socket
from gevent.event import Event

from tests.support import until
from theatre_gevent import Ref, TheatreError
from theatre_gevent.clock import SystemClock
from theatre_gevent.cluster.transport import Inlet, Limits, Link, Transport
from theatre_gevent.logic.connection import Connection, Failed, Opened
from theatre_gevent.logic.connection import Event as ConnectionEvent
from theatre_gevent.logic.envelopes import Message, Reply, Request, Send
from theatre_gevent.logic.handshake import Identity

QUICK = Limits(
    handshake=1.0, ping=0.4, dead=1.2, frame=1.0, dial=1.0, write=1.0, retry_min=0.01, retry_max=0.1, retry_early=0.05
)
"""For tests that wait for a timeout."""

REF = Ref("echo", "1")
monotonic = SystemClock().monotonic


def note(body: Any) -> Send:
    return Send(REF, body)


def bodies_of(messages: list[Message]) -> list[Any]:
    return [message.body for message in messages if isinstance(message, (Send, Request))]


class Records:
    """A handler that writes down what it is told, and answers requests with their body."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.answers: list[Message] = []
        self.unmade: list[tuple[Message, str]] = []
        self.lost_messages: list[Any] = []
        self.errors: list[TheatreError] = []
        self.ups: list[str] = []
        self.downs: list[tuple[str, TheatreError]] = []
        self.leavers: list[tuple[str, int, str]] = []
        self.refusal: Callable[[Identity], str | None] = lambda _: None
        self.inlets: dict[str, Inlet] = {}
        self.may_read = Event()
        self.may_read.set()

    def received(self, source: Inlet | Link, messages: list[Message], unmade: list[tuple[Message, str]]) -> None:
        if isinstance(source, Inlet):
            self.inlets[source.peer.host_id] = source
            self.may_read.wait()
        self.unmade += unmade
        for message in messages:
            if isinstance(message, Send):
                self.bodies.append(message.body)
            elif isinstance(message, Request):
                assert isinstance(source, Inlet)
                source.send(Reply(message.seq, source.peer.epoch, message.body))
            else:
                self.answers.append(message)

    def lost(self, host_id: str, messages: list[Message], error: TheatreError) -> None:
        self.lost_messages += bodies_of(messages)
        self.errors.append(error)

    def up(self, host_id: str) -> None:
        self.ups.append(host_id)

    def down(self, host_id: str, error: TheatreError) -> None:
        self.downs.append((host_id, error))

    def can_take(self, source: Inlet | Link, count: int) -> bool:
        return not isinstance(source, Inlet) or self.may_read.is_set()

    def admit(self, identity: Identity) -> str | None:
        return self.refusal(identity)

    def leaving(self, host_id: str, epoch: int, reason: str) -> None:
        self.leavers.append((host_id, epoch, reason))


class Node:
    """A started transport with its records."""

    def __init__(self, host_id: str, listen: str = "127.0.0.1:0", **options: Any) -> None:
        self.records = Records()
        self.transport = Transport(host_id, listen, **options)
        self.transport.start(self.records)

    @property
    def addr(self) -> str:
        return self.transport.addr

    def link(self, host_id: str) -> Link:
        link = self.transport.link(host_id)
        assert link is not None
        return link

    def counter(self, name: str) -> int:
        return self.transport.counters()[name]

    def send(self, host_id: str, body: Any, timeout: float = 30.0) -> None:
        """Send as the router does."""
        link = self.link(host_id)
        if link.full:
            link.wait_for_room(timeout)
        link.send(note(body))

    def connect(self, *others: Node) -> None:
        self.transport.set_peers({other.transport.identity.host_id: other.addr for other in others})
        until(lambda: all(link.is_up for link in self.transport.links()))

    def ask(self, host_id: str, seq: int, body: Any) -> Any:
        self.link(host_id).send(Request(REF, body, seq, 5.0))
        until(lambda: any(isinstance(answer, Reply) and answer.seq == seq for answer in self.records.answers))
        return next(answer.body for answer in self.records.answers if isinstance(answer, Reply) and answer.seq == seq)


class Nodes:
    """Makes nodes and stops those that a test leaves running."""

    def __init__(self) -> None:
        self.all: list[Node] = []

    def __call__(self, host_id: str, listen: str = "127.0.0.1:0", **options: Any) -> Node:
        node = Node(host_id, listen, **options)
        self.all.append(node)
        return node

    def stop(self) -> None:
        for node in self.all:
            node.records.may_read.set()
        for task in [gevent.spawn(node.transport.stop, 0.5) for node in self.all]:
            task.get()


def live_greenlets() -> set[int]:
    return {id(thing) for thing in gc.get_objects() if isinstance(thing, Greenlet) and not thing.dead}


def open_sockets() -> int:
    return len(psutil.Process().net_connections("tcp")) + psutil.Process().num_fds()


@contextmanager
def no_leaks() -> Iterator[None]:
    """Check that what runs inside leaves no greenlet and no socket behind."""
    gc.collect()
    socket.getaddrinfo("127.0.0.1", 1)  # the resolver's thread pool is made when it is first needed
    greenlets, sockets = live_greenlets(), open_sockets()
    yield
    gc.collect()
    until(lambda: not live_greenlets() - greenlets, 5.0)
    until(lambda: open_sockets() <= sockets, 5.0)


class RawPeer:
    """One end of a real connection in the hands of a test: it shakes hands, and then does what it likes."""

    def __init__(self, sock: socket.socket, connection: Connection | None = None) -> None:
        self.sock = sock
        self.connection = connection
        sock.settimeout(10.0)

    @classmethod
    def dial(cls, address: str) -> RawPeer:
        host, _, port = address.rpartition(":")
        return cls(socket.create_connection((host, int(port)), 10.0))

    def shake_hands(
        self, host_id: str, role: Any = "dialler", epoch: int = 1, address: str = ""
    ) -> list[ConnectionEvent]:
        """Return the events up to Opened or Failed, or to the end of the stream."""
        identity = Identity(host_id, epoch, address or f"{host_id}:7000")
        self.connection = Connection(role, identity, nonce=os.urandom(16), now=monotonic())
        events: list[ConnectionEvent] = []
        while not any(isinstance(event, (Opened, Failed)) for event in events):
            self.flush()
            data = self.sock.recv(65536)
            events += (
                self.connection.receive_data(data, monotonic()) if data else self.connection.receive_eof(monotonic())
            )
        self.flush()
        return events

    def flush(self) -> None:
        assert self.connection is not None
        self.sock.sendall(self.connection.data_to_send())

    def events(self) -> list[ConnectionEvent]:
        """Wait for something and return it; b"" or a reset counts as the end."""
        assert self.connection is not None
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        return self.connection.receive_data(data, monotonic()) if data else self.connection.receive_eof(monotonic())

    def is_closed_by_peer(self) -> bool:
        """Read until the other end has closed it; what comes before is dropped."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            pass
        return True

    def reset(self) -> None:
        """Close with a reset in place of a FIN."""
        self.sock.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class Listener:
    """Accepts at an address and leaves the rest to the test."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(16)
        self.sock.settimeout(10.0)
        self.addr = f"127.0.0.1:{self.sock.getsockname()[1]}"

    def accept(self) -> RawPeer:
        return RawPeer(self.sock.accept()[0])

    def close(self) -> None:
        self.sock.close()


class Proxy:
    """Passes bytes on, until it is told to fall silent: then nothing passes and nothing ends, as on a cut cable."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.target = host, int(port)
        self.gate = Event()
        self.gate.set()
        self.chunk = 65536
        self.connections = 0
        self.sockets: list[socket.socket] = []
        self.listener = Listener()
        self.addr = self.listener.addr
        self.greenlets: list[Any] = [gevent.spawn(self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.sock.accept()
                far = socket.create_connection(self.target)
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            self.sockets += near, far
            self.greenlets += gevent.spawn(self._pass, near, far), gevent.spawn(self._pass, far, near)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while True:
                data = source.recv(self.chunk)
                self.gate.wait()
                if not data:
                    break
                sink.sendall(data)
            sink.shutdown(plain.SHUT_WR)

    def cut(self) -> None:
        """Reset all connections."""
        sockets, self.sockets = self.sockets, []
        for sock in sockets:
            RawPeer(sock).reset()

    def close(self) -> None:
        self.listener.close()
        for sock in self.sockets:
            sock.close()
        gevent.killall(self.greenlets)
