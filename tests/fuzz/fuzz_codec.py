"""Coverage-guided fuzzing of everything that looks at bytes from a peer. Not part of the test suite.

pip install atheris
python tests/fuzz/fuzz_codec.py -runs=10000000

Any exception but the codec's own (and `BadBody` for a stored body) ends the run and leaves the input in a file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["theatre_gevent.logic", "theatre_gevent.message_types"]):
    from theatre_gevent.logic import codec, handshake
    from theatre_gevent.logic.bodies import dump_body, load_body, pack_body
    from theatre_gevent.logic.body_types import BadBody
    from theatre_gevent.logic.connection import OPEN, Connection, Event, Failed
from theatre_gevent import MessageNotSerializable, Ref
from theatre_gevent.logic.envelopes import Failure, Headers, Reply, Request, Returned, Send

A, B = handshake.Identity("a", 1, "127.0.0.1:1"), handshake.Identity("b", 2, "127.0.0.1:2")
NONCE = bytes(handshake.NONCE_SIZE)
DECODER = codec.MessageDecoder()
KNOWN = {Send, Request, Reply, Failure, Returned}
KINDS = sorted(codec.KIND_NAMES)


def opened() -> Connection:
    """Return an acceptor that a dialler has been let into."""
    dialler, acceptor = Connection("dialler", A, nonce=NONCE, now=0), Connection("acceptor", B, nonce=NONCE, now=0)
    while dialler.state is not OPEN or acceptor.state is not OPEN:
        acceptor.receive_data(dialler.data_to_send(), 0)
        dialler.receive_data(acceptor.data_to_send(), 0)
    return acceptor


def seeds() -> list[bytes]:
    """Return inputs to begin with: the first byte says what is fuzzed."""
    ref, body = Ref("greeter", "1"), pack_body({"a": (1, {2}), "b": [1 << 70, Ref("x", "y")]})
    batch: list[Any] = [
        Send(ref, "hello"),
        Send(ref, body, ref, Headers(1, 2.0, [ref], {"traceparent": "00"})),
        Request(ref, body, 7, 1.5, ref),
        Reply(7, 1, body),
        Failure(7, 1, 5, "UnregisteredActorType", "no", ["a", "b"]),
        Returned(ref, body, 1),
    ]
    frames, _ = codec.encode_messages(batch)
    found = [
        b"\x00" + dump_body({"a": (1, {2}, frozenset({3})), (1,): b"x"}),
        b"\x01" + frames[0][5:],
        b"\x02" + frames[0],
    ]
    hello = codec.encode_frame(codec.HELLO, handshake.Introduction(A, "b", False, NONCE).to_wire())
    found += [b"\x03" + hello + codec.encode_frame(codec.PROOF, [b""]), b"\x04" + hello[:4] + b"\x11" + hello[5:]]
    return found + [
        b"\x02" + codec.encode_frame(kind, value) for kind, value in ((2, None), (4, ["bye"]), (20, ["a", "b"]))
    ]


def feed(connection: Connection, data: bytes, step: int) -> None:
    """Give `data` in pieces of `step` bytes, and hold the connection to what it promises."""
    events: list[Event] = []
    for start in range(0, len(data), step):
        events += connection.receive_data(data[start : start + step], 1.0)
    events += connection.receive_eof(1.0)
    failures = [event for event in events if type(event) is Failed]
    assert len(failures) <= 1
    assert not failures or events[-1] is failures[0]
    for failure in failures:
        assert isinstance(failure.error, codec.ProtocolError)
        assert str(failure.error)
    connection.data_to_send()


def one_input(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    what, data = data[0] % 6, data[1:]
    if what == 0:
        try:
            body = load_body(data)
        except BadBody:
            return
        try:
            dump_body(body)
        except (MessageNotSerializable, RecursionError):
            pass  # deeper than a sender may nest
    elif what == 1:
        try:
            messages, bad = DECODER.decode(data)
        except codec.ProtocolError:
            return
        assert all(type(message) in KNOWN for message in messages)
        assert all(reason for _, reason in bad)
    elif what == 2:
        feed(opened(), data, 1 + len(data) // 3)
    elif what == 3:
        feed(Connection("acceptor", B, nonce=NONCE, now=0), data, max(1, len(data) // 2))
    elif what == 4:
        feed(Connection("dialler", A, nonce=NONCE, now=0, secret=b"s"), data, len(data) or 1)
    elif data:  # a payload in a well-formed frame, so that length and kind need not be guessed
        kind = KINDS[data[0] % len(KINDS)]
        feed(opened(), len(data).to_bytes(4, "big") + bytes([kind]) + data[1:], len(data) + 4)


def main() -> None:
    """Fuzz until the runs are done."""
    with TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds()):
            one_input(seed)
            (Path(corpus) / f"seed{number}").write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
