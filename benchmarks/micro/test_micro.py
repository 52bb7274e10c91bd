"""Micro-benchmarks for pytest-benchmark: `python -m pytest -n 0 benchmarks/micro`. Not part of the test suite."""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

from collections.abc import Iterator
from typing import Any, TypeAlias

import gevent
import pytest
from msgspec.msgpack import Encoder

from theatre_gevent import Context, Host, Ref
from theatre_gevent.logic.bodies import load_body, pack_body
from theatre_gevent.logic.codec import FrameReader, MessageDecoder, encode_messages
from theatre_gevent.logic.envelopes import Message, Send
from theatre_gevent.logic.ring import HashRing

BenchmarkFixture: TypeAlias = Any
"""That of pytest-benchmark, which checks of types can do without."""

REFS = [Ref("counter", str(number)) for number in range(1000)]
BATCH = 128


@pytest.fixture
def host() -> Iterator[Host]:
    def receive(ctx: Context) -> None:
        if ctx.message == "ask":
            ctx.reply(1)

    with Host(idle_timeout=86400) as host:
        host.register_actor("counter", receive)
        for ref in REFS:
            host.spawn_local(ref)
        yield host


@pytest.mark.parametrize("body", [7, "hello, world", {"op": "add", "value": 7}], ids=["int", "str", "dict"])
def test_body(benchmark: BenchmarkFixture, body: Any) -> None:
    """Pack a body and unpack it."""
    encode = Encoder().encode
    assert benchmark(lambda: load_body(encode(pack_body(body)))) == body


def batch() -> list[Message]:
    return [Send(ref, pack_body("hello, world")) for ref in REFS[:BATCH]]


def test_encode(benchmark: BenchmarkFixture) -> None:
    """Encode a batch of messages."""
    messages = batch()
    frames, *_ = benchmark(lambda: encode_messages(messages))
    assert frames


def test_decode(benchmark: BenchmarkFixture) -> None:
    """Decode a batch of messages."""
    frame = b"".join(encode_messages(batch())[0])
    reader, decoder = FrameReader(), MessageDecoder()

    def decode() -> Any:
        reader.feed(frame)
        found = reader.next_frame()
        assert found is not None
        return decoder.decode(found[1])

    assert benchmark(decode)


def test_ring_look_up(benchmark: BenchmarkFixture) -> None:
    """Find the owners of a thousand refs among ten hosts."""
    ring = HashRing([f"host-{number}" for number in range(10)])
    assert benchmark(lambda: sum(ring.owner(ref) is not None for ref in REFS)) == len(REFS)


def test_ring_making(benchmark: BenchmarkFixture) -> None:
    """Make the ring of ten hosts."""
    members = [f"host-{number}" for number in range(10)]
    assert len(benchmark(lambda: HashRing(members))) == 10


def test_send(benchmark: BenchmarkFixture, host: Host) -> None:
    """Send a message to each of a thousand idle actors, without their handling it."""

    def handled() -> None:
        while host.metrics.snapshot()["messages_queued"]:
            gevent.sleep(0)

    def send() -> None:
        for ref in REFS:
            host.send(ref, "tell")

    benchmark.pedantic(send, setup=handled, rounds=50, warmup_rounds=5)
    handled()


def test_request(benchmark: BenchmarkFixture, host: Host) -> None:
    """Ask an idle actor."""
    assert benchmark(lambda: host.request(REFS[0], "ask")) == 1


def test_turn(benchmark: BenchmarkFixture, host: Host) -> None:
    """Have one actor handle 64 messages that wait for it, in a turn."""

    def fill() -> None:
        for _ in range(64):
            host.send(REFS[0], "tell")

    def turn() -> None:
        while host.metrics.snapshot()["messages_queued"]:
            gevent.sleep(0)

    benchmark.pedantic(turn, setup=fill, rounds=200, warmup_rounds=5)
