"""Wires whose sockets the hub itself reads and writes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TypeVar

import gevent
import pytest
from gevent.socket import socket, socketpair

from tests.support import until
from theatre_gevent import Ref
from theatre_gevent.clock import SystemClock
from theatre_gevent.cluster.handler import Counters, Limits
from theatre_gevent.cluster.outbox import Outbox
from theatre_gevent.cluster.quick_wire import Flushes, QuickWire
from theatre_gevent.errors import PeerDown
from theatre_gevent.logic.connection import Connection
from theatre_gevent.logic.envelopes import Send
from theatre_gevent.logic.handshake import Identity


class Queue(Outbox):
    """What is queued for a wire."""

    wire: QuickWire

    def _wake(self) -> None:
        self.wire.rouse()


class Noted(QuickWire):
    """Notes that it was told to write, and fails if it is to."""

    wrote: list[str]
    name = ""
    fails: BaseException | None = None

    def _flush(self) -> None:
        self.wrote.append(self.name)
        if self.fails is not None:
            raise self.fails


Wired = TypeVar("Wired", bound=QuickWire)


def make(kind: type[Wired], name: str = "a") -> tuple[Wired, socket]:
    """Return a wire and the other end of its socket."""
    sock, other = socketpair()
    connection = Connection("dialler", Identity(name, 1, "127.0.0.1:1"), nonce=os.urandom(16), now=0.0)
    return kind(sock, connection, SystemClock(), Counters(), Limits()), other


@pytest.fixture
def wires() -> Iterator[list[Noted]]:
    """Three wires that note what they do, in one list."""
    made = {name: make(Noted, name) for name in "abc"}
    wrote: list[str] = []
    for name, (wire, _) in made.items():
        wire.name, wire.wrote = name, wrote
    yield [wire for wire, _ in made.values()]
    for wire, other in made.values():
        wire.close(PeerDown("the test is over"))
        other.close()


def test_one_that_fails_does_not_keep_the_others_from_writing(
    wires: list[Noted], caplog: pytest.LogCaptureFixture
) -> None:
    flushes, wrote = Flushes(gevent.get_hub()), wires[0].wrote
    wires[1].fails = RuntimeError("this library's mistake")
    for wire in wires:
        flushes.add(wire)
    assert wrote == []  # by the end of this iteration of the loop, with what comes until then
    with caplog.at_level(logging.ERROR, "theatre_gevent.cluster"):
        until(lambda: len(wrote) == 3)
    assert wrote == ["a", "b", "c"]
    assert [record.message for record in caplog.records] == [f"{wires[1].where}: what was queued could not be written"]
    assert [wire.error is None for wire in wires] == [True, False, True]
    assert "this library's mistake" in str(wires[1].error)
    flushes.add(wires[2])
    until(lambda: wrote[3:] == ["c"])


def test_an_interrupt_does_not_keep_the_others_from_writing(
    wires: list[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = gevent.get_hub()
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(hub, "handle_error", lambda _context, kind, *_: seen.append(kind))
    flushes, wrote = Flushes(hub), wires[0].wrote
    wires[0].fails = KeyboardInterrupt()
    for wire in wires:
        flushes.add(wire)
    until(lambda: len(wrote) == 3)
    assert wrote == ["a", "b", "c"]
    assert seen == [KeyboardInterrupt]


def test_a_copy_in_a_forked_child_writes_into_no_other_socket() -> None:
    """What the child opens first gets the numbers of the sockets that it has let go of."""
    wire, other = make(QuickWire)
    queue = Queue(100, 1 << 20, SystemClock(), Counters())
    queue.wire = wire
    wire._rest(queue)
    queue.send(Send(Ref("a", "1"), "secret", None, None))
    numbers = {wire.sock.fileno(), other.fileno()}
    wire.abandon()
    other.close()
    mine, its_end = socketpair()
    with mine, its_end:
        assert {mine.fileno(), its_end.fileno()} == numbers
        for end in (mine, its_end):
            end.settimeout(0.1)
            with pytest.raises(TimeoutError):
                end.recv(100)
    assert not queue._is_empty()
    wire.close(PeerDown("the test is over"))
