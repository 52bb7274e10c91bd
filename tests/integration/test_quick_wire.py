"""Wires whose sockets the hub itself reads and writes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import gevent
import pytest
from gevent.socket import socketpair

from tests.support import until
from theatre_gevent.clock import SystemClock
from theatre_gevent.cluster.handler import Counters, Limits, PeerDown
from theatre_gevent.cluster.quick_wire import Flushes, QuickWire
from theatre_gevent.logic.connection import Connection
from theatre_gevent.logic.handshake import Identity


class Noted(QuickWire):
    """Notes that it was told to write, and fails if it is to."""

    wrote: list[str]
    name = ""
    fails = False

    def _flush(self) -> None:
        self.wrote.append(self.name)
        if self.fails:
            raise RuntimeError("this library's mistake")


@pytest.fixture
def wires() -> Iterator[list[Noted]]:
    """Three wires and their other ends."""
    made: list[Noted] = []
    others, wrote = [], list[str]()
    for name in "abc":
        sock, other = socketpair()
        connection = Connection("dialler", Identity(name, 1, "127.0.0.1:1"), nonce=os.urandom(16), now=0.0)
        wire = Noted(sock, connection, SystemClock(), Counters(), Limits())
        wire.name, wire.wrote = name, wrote
        made.append(wire)
        others.append(other)
    yield made
    for wire, other in zip(made, others, strict=True):
        wire.close(PeerDown("the test is over"))
        other.close()


def test_one_that_fails_does_not_keep_the_others_from_writing(
    wires: list[Noted], caplog: pytest.LogCaptureFixture
) -> None:
    flushes, wrote = Flushes(gevent.get_hub()), wires[0].wrote
    wires[1].fails = True
    for wire in wires:
        flushes.add(wire)
    assert wrote == []  # by the end of this iteration of the loop, with what comes until then
    with caplog.at_level(logging.ERROR, "theatre_gevent.cluster"):
        until(lambda: len(wrote) == 3)
    assert wrote == ["a", "b", "c"]
    assert [record.message for record in caplog.records] == [f"{wires[1].where}: what was queued could not be written"]
    flushes.add(wires[2])
    until(lambda: wrote[3:] == ["c"])
