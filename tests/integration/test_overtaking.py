"""Messages that come back from a host which does not take them are not overtaken by those that were sent after them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.cluster_support import Cluster
from tests.support import until
from tests.transports import Node
from theatre_gevent import Ref
from theatre_gevent.cluster import barriers
from theatre_gevent.logic import envelopes


def give_back(node: Node, message: Any, owner: str) -> None:
    """Say that a plain message belongs to another host."""
    headers = message.headers or envelopes.Headers()
    headers.owner = owner
    returned = envelopes.Returned(message.ref, message.body, envelopes.NOT_HERE, "not here", message.sender, headers)
    node.records.inlets["a"].send(returned)


class Stranger(Node):
    """A host in the hands of a test: it keeps the messages that it gets."""

    def __init__(self) -> None:
        super().__init__("x")
        self.got: list[Any] = []
        self.records.received = self._received  # type: ignore[method-assign]

    def _received(self, source: Any, messages: list[Any], unmade: list[Any]) -> None:
        self.records.inlets[source.peer.host_id] = source
        for message in messages:
            headers = getattr(message, "headers", None)
            if (headers is not None and getattr(headers, "barrier", False)) or isinstance(message, envelopes.Send):
                self.got.append(message)


@contextmanager
def with_stranger() -> Iterator[tuple[Cluster, Stranger, Ref]]:
    """Hosts a and b, a stranger x that a alone knows, and an actor that is x's for a and b's for b."""
    with Cluster("ab") as cluster:
        a, b = cluster["a"], cluster["b"]
        stranger = Stranger()
        try:
            a.set_peers({"b": str(b.address), "x": stranger.addr})
            b.set_peers({"a": str(a.address)})
            until(lambda: a.metrics.snapshot()["peers_up"] == 2)
            yield (
                cluster,
                stranger,
                next(
                    ref
                    for n in range(1000)
                    if a.ring_owner(ref := Ref("x", str(n))) == "x" and b.ring_owner(ref) == "b"
                ),
            )
        finally:
            stranger.transport.stop(0.5)


def test_a_message_that_comes_back_late_is_not_overtaken() -> None:
    with with_stranger() as (cluster, stranger, ref):
        cluster.lossy = True
        a = cluster["a"]
        a.send(ref, 1)
        a.send(ref, 2)
        until(lambda: len(stranger.got) == 2)
        give_back(stranger, stranger.got[0], "b")
        until(lambda: cluster.actors.at(ref) == [1] or len(stranger.got) > 2)
        a.send(ref, 3)
        until(lambda: cluster.actors.at(ref) == [1, 3] or len(stranger.got) > 2)
        give_back(stranger, stranger.got[1], "b")
        for message in stranger.got[2:]:
            stranger.records.inlets["a"].send(
                envelopes.Reply(message.seq, stranger.records.inlets["a"].peer.epoch, None)
            )
        until(lambda: len(cluster.actors.at(ref)) == 3)
        assert cluster.actors.at(ref) == [1, 2, 3]


def test_an_answer_that_nobody_waits_for_any_more_is_no_late_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barriers, "_PATIENCE", 0.1)
    with with_stranger() as (cluster, stranger, ref):
        a = cluster["a"]
        a.send(ref, 1)
        until(lambda: len(stranger.got) == 1)
        give_back(stranger, stranger.got[0], "b")
        until(lambda: cluster.actors.at(ref) == [1])  # without an answer
        question = stranger.got[1]
        inlet = stranger.records.inlets["a"]
        inlet.send(envelopes.Reply(question.seq, inlet.peer.epoch, None))
        inlet.send(envelopes.Reply(10**9, inlet.peer.epoch, None))  # behind it, and to nothing
        until(lambda: a.metrics.snapshot()["replies_late"] > 0)
        assert a.metrics.snapshot()["replies_late"] == 1
