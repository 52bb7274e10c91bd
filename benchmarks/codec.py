"""Nanoseconds per message for the codec: packing bodies, encoding and decoding batches.

python benchmarks/codec.py
"""

from __future__ import annotations

import time
import timeit
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec.msgpack import Encoder

from report import Parser, machine, table, versions
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


def best(call: Callable[[], object], repetitions: int) -> float:
    """Return the best time of one call in nanoseconds of processor time."""
    timer = timeit.Timer(call, timer=time.process_time)
    number, _ = timer.autorange()
    number = max(1, number // 4)
    return min(timer.repeat(repetitions, number)) / number * 1e9


def main() -> None:
    """Print the tables."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two repetitions, and a few of the bodies")
    args = parser.parse_args()
    repetitions = 2 if args.quick else 9
    print(machine())
    print(versions("theatre_gevent", "msgspec"), "\n")
    encode = Encoder().encode
    rows = []
    for name, body in list(BODIES.items())[: 3 if args.quick else None]:
        packed = encode(pack_body(body))
        calls = [lambda b=body: pack_body(b), lambda b=body: encode(b), lambda p=packed: load_body(p)]
        rows.append([name, *(f"{best(call, repetitions):.0f}" for call in calls)])
    print(table(["body", "pack, ns", "msgspec without keeping types, ns", "unpack, ns"], rows), "\n")

    rows = []
    for size in (16,) if args.quick else (1, 16, 128):
        for name in ("dict of 2",) if args.quick else ("str, 11 characters", "dict of 2", "dataclass", "bytes, 64 KiB"):
            batch: list[Message] = []
            for n in range(size):
                ref, body = Ref("greeter", str(n)), pack_body(BODIES[name])
                share = n % 10  # the load test's mix: 70 % send, 30 % request, and as many replies
                batch.append(
                    Send(ref, body) if share < 5 else Request(ref, body, n, 3.0) if share < 8 else Reply(n, 1, body)
                )
            rows.append([f"{size} of {name}", *measure(batch, repetitions)])
    print(table(["batch of", "encode, ns each", "decode, ns each", "bytes each"], rows))


def measure(batch: list[Message], repetitions: int) -> list[str]:
    """Return nanoseconds of encoding and decoding, and bytes, for each message of the batch."""
    frame = b"".join(encode_messages(batch)[0])
    decoder, reader = MessageDecoder(), FrameReader()

    def decode() -> object:
        reader.feed(frame)
        found = reader.next_frame()
        assert found is not None
        return decoder.decode(found[1])

    times = best(lambda: encode_messages(batch), repetitions), best(decode, repetitions)
    return [f"{number / len(batch):.0f}" for number in (*times, len(frame))]


if __name__ == "__main__":
    main()
