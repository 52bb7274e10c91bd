"""Nanoseconds per message for the codec: packing bodies, encoding and decoding batches.

python benchmarks/codec.py
"""

from __future__ import annotations

import platform
import time
import timeit
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.msgpack import Encoder

from theatre_gevent import Ref
from theatre_gevent.logic.bodies import load_body, pack_body
from theatre_gevent.logic.codec import FrameReader, MessageDecoder, encode_messages
from theatre_gevent.logic.envelopes import Message, Reply, Request, Send
from theatre_gevent.message_types import message

if TYPE_CHECKING:
    from collections.abc import Callable


@message("benchmark.order")
@dataclass
class Order:
    """A registered class."""

    number: int
    items: list[str]
    place: tuple[float, float]


BODIES: dict[str, Any] = {
    "int": 12345,
    "str, 11 characters": "hello world",
    "str, not ASCII": "grüße",
    "list of 5 ints": [1, 2, 3, 4, 5],
    "dict of 2": {"op": "add", "value": 7},
    "dict of 20": {f"key{n}": n for n in range(20)},
    "list of 10 dicts": [{"op": "add", "value": n} for n in range(10)],
    "tuple of 2": (1, 2),
    "UUID": uuid.UUID(int=7),
    "dataclass": Order(1, ["a", "b"], (1.0, 2.0)),
    "bytes, 64 KiB": bytes(65536),
    "list of 10 000 ints": list(range(10_000)),
}


def best(call: Callable[[], object]) -> float:
    """Return the best time of one call in nanoseconds of processor time."""
    timer = timeit.Timer(call, timer=time.process_time)
    number, _ = timer.autorange()
    number = max(1, number // 4)
    return min(timer.repeat(9, number)) / number * 1e9


def main() -> None:
    """Print the tables."""
    print(f"Python {platform.python_version()}, msgspec {msgspec.__version__}, {platform.machine()}")
    encode = Encoder().encode
    print(f"\n{'body':24}{'pack':>10}{'msgspec':>10}{'unpack':>10}   ns; msgspec: the same without keeping types")
    for name, body in BODIES.items():
        packed = encode(pack_body(body))
        times = best(lambda b=body: pack_body(b)), best(lambda b=body: encode(b)), best(lambda p=packed: load_body(p))  # type: ignore[misc]
        print(f"{name:24}" + "".join(f"{t:10.0f}" for t in times))

    print(f"\n{'batch of':>8}  {'body':24}{'encode':>10}{'decode':>10}{'bytes':>10}   ns and bytes per message")
    for size in (1, 16, 128):
        for name in ("str, 11 characters", "dict of 2", "dataclass", "bytes, 64 KiB"):
            batch: list[Message] = []
            for n in range(size):
                ref, body = Ref("greeter", str(n)), pack_body(BODIES[name])
                share = n % 10  # the load test's mix: 70 % send, 30 % request, and as many replies
                batch.append(
                    Send(ref, body) if share < 5 else Request(ref, body, n, 3.0) if share < 8 else Reply(n, 1, body)
                )
            report(size, name, batch)


def report(size: int, name: str, batch: list[Message]) -> None:
    """Print one line."""
    frame = b"".join(encode_messages(batch)[0])
    decoder, reader = MessageDecoder(), FrameReader()

    def decode() -> object:
        reader.feed(frame)
        found = reader.next_frame()
        assert found is not None
        return decoder.decode(found[1])

    encoding, decoding = best(lambda: encode_messages(batch)) / size, best(decode) / size
    print(f"{size:8}  {name:24}{encoding:10.0f}{decoding:10.0f}{len(frame) / size:10.0f}")


if __name__ == "__main__":
    main()
