"""What a transport makes of slow lines, late connections, peers that ask for much, and interruptions."""

from __future__ import annotations

import logging
import math
import socket as plain
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest
import trustme
from gevent import monkey, socket

from tests.integration.test_transport_security import contexts
from tests.support import until
from tests.transports import QUICK, REF, Listener, Nodes, Proxy, RawPeer, note
from theatre_gevent import Host
from theatre_gevent.cluster.handler import Limits
from theatre_gevent.cluster.sockets import Address, dial
from theatre_gevent.logic import codec
from theatre_gevent.logic.codec import encode_frame, encode_messages
from theatre_gevent.logic.envelopes import Reply, Request

SMALL = 65536
"""Bytes of a socket's buffers, so that little is under way."""


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.stop()


class SlowLine(Proxy):
    """Passes on so many bytes a second."""

    speed = 2e6

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.listener.sock.setsockopt(plain.SOL_SOCKET, plain.SO_RCVBUF, SMALL)
        self.passed = 0

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            sink.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, SMALL)
            while data := source.recv(SMALL):
                sink.sendall(data)
                self.passed += len(data)
                gevent.sleep(len(data) / self.speed)
            sink.shutdown(plain.SHUT_WR)


# -- slow lines ------------------------------------------------------------------------------------------------------


def test_a_large_message_takes_longer_than_a_peer_may_be_silent(nodes: Nodes) -> None:
    """Questions whether it lives wait behind the message; that it takes the bytes is an answer."""
    limits = Limits(ping=0.4, dead=1.2, retry_min=0.01, retry_max=0.1)
    a, b = nodes("a", limits=limits), nodes("b", limits=limits)
    line = SlowLine(b.addr)
    a.transport.set_peers({"b": line.addr})
    until(lambda: a.link("b").is_up)
    wire: Any = a.link("b")._wire
    wire.sock.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, SMALL)
    a.send("b", bytes(6_000_000))
    a.send("b", "after")
    until(lambda: b.records.bodies[1:] == ["after"], 20)
    assert line.connections == 1
    assert a.records.downs == []
    line.close()


def test_a_message_that_no_connection_survives_is_given_up(nodes: Nodes) -> None:
    a, b = nodes("a", limits=QUICK), nodes("b", limits=QUICK)
    line = SlowLine(b.addr)
    a.transport.set_peers({"b": line.addr})
    until(lambda: a.link("b").is_up)
    a.send("b", bytes(15_000_000))
    until(lambda: a.link("b")._begun > 0)
    a.send("b", "after")
    for _ in range(3):
        until(lambda: a.link("b")._begun > 0)
        assert a.records.lost_messages == []
        ups = len(a.records.ups)
        line.cut()
        until(lambda ups=ups: len(a.records.ups) > ups)  # type: ignore[misc]
    until(lambda: len(a.records.lost_messages) == 1)
    assert "several connections" in str(a.records.errors[-1])
    until(lambda: b.records.bodies == ["after"])
    line.close()


def test_a_peer_that_asks_and_does_not_read_gets_one_answer(nodes: Nodes) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("p")
    until(lambda: b.transport.inlets() != [])
    wire: Any = b.transport.inlets()[0]._wire
    wire.sock.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, 4096)
    pings = encode_frame(codec.PING, None) * 20_000
    seen = b.counter("bytes_in")
    for _ in range(20):
        peer.sock.sendall(pings)
    until(lambda: b.counter("bytes_in") - seen == 20 * len(pings))
    assert sum(map(len, wire._control)) < 1000
    peer.sock.close()


# -- connections that come anew --------------------------------------------------------------------------------------


def test_a_second_connection_is_kept_alive_while_the_first_is_read(nodes: Nodes) -> None:
    a, b = nodes("a", limits=QUICK), nodes("b", limits=QUICK)
    line = Proxy(b.addr)
    a.transport.set_peers({"b": line.addr})
    until(lambda: a.link("b").is_up)
    b.records.may_read.clear()
    a.send("b", 1)
    until(lambda: b.counter("messages_in") == 1 or b.transport.inlets()[0]._wire._held_up)
    line.cut()
    until(lambda: len(a.records.ups) == 2, 5)
    downs = len(a.records.downs)
    for number in range(2, 30):
        a.send("b", number)
        gevent.sleep(0.1)  # longer than a silent peer is given, all together
    assert len(a.records.downs) == downs
    b.records.may_read.set()
    until(lambda: b.records.bodies == list(range(1, 30)))
    line.close()


def test_a_connection_that_is_replaced_before_it_was_read(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    b = nodes("b", limits=QUICK)
    raised: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *given: raised.append(given[2]))
    b.records.may_read.clear()
    peers = []
    for number in range(3):
        peer = RawPeer.dial(b.addr)
        peer.shake_hands("p")
        peers.append(peer)
        if number == 0:
            peer.sock.sendall(encode_messages([note(1)])[0][0])
        until(lambda number=number: b.counter("accepts") == number + 1)  # type: ignore[misc]
    b.records.may_read.set()
    until(lambda: b.records.bodies == [1])
    peers[2].sock.sendall(encode_messages([note(2)])[0][0])
    until(lambda: b.records.bodies == [1, 2])
    for peer in peers:
        peer.sock.close()
    assert raised == []


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the name service take its time over `localhost`."""
    look_up = socket.getaddrinfo

    def slowly(host: Any, *given: Any, **more: Any) -> Any:
        if host == "localhost":
            gevent.sleep(0.5)
            host = "127.0.0.1"
        return look_up(host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)


@pytest.mark.usefixtures("slow_names")
def test_a_peer_is_removed_while_it_is_dialled(nodes: Nodes) -> None:
    a, b = nodes("a", limits=QUICK), nodes("b", limits=QUICK)
    a.transport.set_peers({"b": f"localhost:{b.addr.rpartition(':')[2]}"})
    gevent.sleep(0.1)
    a.transport.set_peers({})
    gevent.sleep(0.7)
    assert a.records.ups == []
    assert b.transport.inlets() == []
    a.transport.set_peers({"b": b.addr})
    until(lambda: a.link("b").is_up)
    assert (a.records.ups, a.records.downs) == (["b"], [])


@pytest.mark.usefixtures("slow_names")
def test_a_peer_moves_while_it_is_dialled(nodes: Nodes) -> None:
    a, b = nodes("a", limits=QUICK), nodes("b", limits=QUICK)
    old, new = Proxy(b.addr), Proxy(b.addr)
    a.transport.set_peers({"b": f"localhost:{old.addr.rpartition(':')[2]}"})
    gevent.sleep(0.1)
    a.transport.set_peers({"b": new.addr})
    until(lambda: a.link("b").is_up)
    assert new.connections == 1
    old.close()
    new.close()


def test_another_address_is_tried_when_the_first_swallows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Listener()
    port = int(there.addr.rpartition(":")[2])
    hole, make = plain.socket(), monkey.get_original("socket", "socket")
    hole.bind(("127.0.0.9", port))
    hole.listen(0)
    queue = [make() for _ in range(4)]
    for sock in queue:
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.9", port))
    found = [(plain.AF_INET, plain.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    try:
        sock = dial(Address("two.example", port), 2.0)
        assert sock.getpeername()[0] == "127.0.0.1"
        sock.close()
    finally:
        there.close()
        for each in (*queue, hole):
            each.close()


# -- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_connection_is_closed_just_when_something_has_come(
    nodes: Nodes, encrypted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    options = contexts(authority, authority) if encrypted else {}
    a, b = nodes("a", **options), nodes("b", **options)
    port = b.addr.rpartition(":")[2]
    near, far = socket.socketpair()
    word = encode_messages([Reply(1, 1, "x")])[0][0]
    caplog.set_level(logging.ERROR)
    a.transport.set_peers({"b": b.addr})
    for number in range(12):
        until(lambda: a.link("b").is_up and len(b.transport.inlets()) == 1)
        wire: Any = b.transport.inlets()[0]._wire

        def move(number: int = number) -> None:
            near.recv(1)
            a.transport.set_peers({"b": f"localhost:{port}" if number % 2 == 0 else b.addr})

        moving = gevent.spawn(move)
        gevent.sleep(0.001)
        if number % 4 < 2:
            far.send(b"x")
            wire.sock.send(word)
        else:
            wire.sock.send(word)
            far.send(b"x")
        time.sleep(0.01)  # for all of the process: then both are ready at once
        moving.join()
        until(lambda number=number: len(a.records.downs) == number + 1)  # type: ignore[misc]
    until(lambda: a.link("b").is_up)
    near.close()
    far.close()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_an_interrupt_while_the_hub_reads(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    a.send("b", 0)
    until(lambda: b.records.bodies == [0])
    seen: list[object] = []
    received = b.records.received

    def interrupted(*_: object) -> None:
        b.records.received = received  # type: ignore[method-assign]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gevent.get_hub(), "handle_error", lambda *given: seen.append(given[1]))
        b.records.received = interrupted  # type: ignore[method-assign, assignment]
        a.send("b", 1)
        until(lambda: seen == [KeyboardInterrupt])
    a.send("b", 2)
    until(lambda: b.records.bodies == [0, 2], 2)


# -- peers that are not what they should be --------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [math.inf, 1e9, 1e307])
def test_a_request_that_would_wait_for_ever_is_no_message(nodes: Nodes, timeout: float) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("p")
    peer.sock.sendall(encode_messages([Request(REF, None, 1, timeout)])[0][0])
    until(lambda: b.counter("failures") == 1, 3)  # a peer that says nothing would be given up later
    peer.sock.close()


def test_misplaced_messages_and_odd_goodbyes_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    with Host(host_id="b", listen="127.0.0.1:0") as b:
        b.set_peers({"p": listener.addr})
        peer = RawPeer.dial(b.address or "")
        peer.shake_hands("p", address=listener.addr)
        caplog.set_level(logging.INFO, logger="theatre_gevent")  # which a host of another test may have set higher
        peer.sock.sendall(encode_messages([Reply(1, 1, None)] * 5000)[0][0])
        peer.sock.sendall(encode_frame(codec.GOODBYE, ["bye\nERROR theatre_gevent.host: forged", "x"]))
        until(lambda: any("leaves" in message for message in caplog.messages))
        peer.sock.close()
    assert sum("where only requests belong" in message for message in caplog.messages) == 1
    assert [message for message in caplog.messages if "\n" in message] == []
    listener.close()
