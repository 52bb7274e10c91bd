"""Two ends wired back to back, and one end against whatever a peer may do."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import encode

from theatre_gevent import InvalidOption, Ref
from theatre_gevent.logic import codec, connection
from theatre_gevent.logic.bodies import pack_body
from theatre_gevent.logic.connection import (
    AWAIT_CHALLENGE,
    CLOSED,
    OPEN,
    TRANSITIONS,
    Connection,
    Ended,
    Event,
    Failed,
    Leaving,
    Limits,
    Opened,
    PeerSilent,
    Received,
)
from theatre_gevent.logic.envelopes import Message, Send
from theatre_gevent.logic.handshake import HandshakeError, Identity, Introduction

A, B = Identity("a", 3, "127.0.0.1:7001"), Identity("b", 4, "127.0.0.1:7002")
REF = Ref("greeter", "1")


def dialler(identity: Identity = A, **options: Any) -> Connection:
    return Connection("dialler", identity, nonce=b"d" * 16, now=0.0, **options)


def acceptor(identity: Identity = B, **options: Any) -> Connection:
    return Connection("acceptor", identity, nonce=b"a" * 16, now=0.0, **options)


def pump(one: Connection, other: Connection, now: float = 0.0) -> tuple[list[Event], list[Event]]:
    """Carry bytes until both are silent; return what each was told."""
    events: tuple[list[Event], list[Event]] = [], []
    while (data := one.data_to_send()) or (back := other.data_to_send()):
        if data:
            events[1].extend(other.receive_data(data, now))
        else:
            events[0].extend(one.receive_data(back, now))
    return events


def opened(**options: Any) -> tuple[Connection, Connection]:
    one, other = dialler(**options), acceptor(**options)
    assert pump(one, other) == ([Opened(B)], [Opened(A)])
    return one, other


def failure(events: list[Event]) -> codec.ProtocolError:
    assert isinstance(events[-1], Failed)
    return events[-1].error


def test_the_table_names_handlers_that_exist_and_every_state() -> None:
    for handlers in TRANSITIONS.values():
        for kind, handler in handlers.items():
            assert kind in codec.KIND_NAMES
            assert callable(getattr(Connection, handler))
    states = {value for name, value in vars(connection).items() if name.startswith("AWAIT_")} | {OPEN, CLOSED}
    assert set(TRANSITIONS) == states


@pytest.mark.parametrize("secret", [None, b"secret"])
def test_both_know_each_other_and_messages_pass_both_ways(secret: bytes | None) -> None:
    one, other = opened(secret=secret)
    assert (one.peer, other.peer) == (B, A)
    assert one.send([Send(REF, 1), Send(REF, 2)]) == []
    assert other.send([Send(REF, 3)]) == []
    one.goodbye("drain\ning", 7)
    told_one, told_other = pump(one, other)
    assert told_other == [Received([Send(REF, 1), Send(REF, 2)], []), Leaving("'drain\\ning'", 7)]
    assert told_one == [Received([Send(REF, 3)], [])]
    assert one.receive_eof(1.0) == [Ended()]
    assert one.state is CLOSED
    assert one.receive_eof(1.0) == one.receive_data(b"x", 1.0) == one.check(99.0) == []
    assert one.next_deadline() == math.inf


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers() | st.text(max_size=300), min_size=1, max_size=4)), max_size=8
    ),
    st.randoms(use_true_random=False),
    st.sampled_from([None, b"s"]),
)
def test_both_ends_agree_however_the_bytes_are_cut(
    batches: list[tuple[bool, list[Any]]], random: Any, secret: bytes | None
) -> None:
    ends = dialler(secret=secret), acceptor(secret=secret)
    wires = [b"", b""]  # what is on its way from each end
    got: list[list[Any]] = [[], []]
    waiting = list(batches)
    while True:
        for number in (0, 1):
            wires[number] += ends[number].data_to_send()
        if waiting and all(end.state is OPEN for end in ends):
            second, bodies = waiting.pop(0)
            assert not ends[second].send([Send(REF, pack_body(body)) for body in bodies])
            continue
        moving = [number for number in (0, 1) if wires[number]]
        if not moving:
            break
        number = random.choice(moving)
        cut = random.randint(1, min(len(wires[number]), 40))
        for event in ends[1 - number].receive_data(wires[number][:cut], 0.0):
            assert isinstance(event, Opened | Received)
            if isinstance(event, Received):
                got[1 - number] += [message.body for message in event.messages if isinstance(message, Send)]
        wires[number] = wires[number][cut:]
    assert not waiting
    assert [end.state for end in ends] == [OPEN, OPEN]
    for receiver in (0, 1):
        assert got[receiver] == [body for second, bodies in batches if second != bool(receiver) for body in bodies]


@given(st.sampled_from(["dialler", "acceptor", "open"]), st.binary(max_size=120), st.booleans(), st.integers(1, 30))
def test_whatever_a_peer_sends_is_an_event(who: str, data: bytes, framed: bool, step: int) -> None:
    end = {"dialler": dialler, "acceptor": acceptor, "open": lambda: opened()[1]}[who]()
    if framed and data:
        data = len(data).to_bytes(4, "big") + data
    events: list[Event] = []
    for start in range(0, len(data), step):
        events += end.receive_data(data[start : start + step], 0.0)
    events += end.receive_eof(1.0)
    assert end.state is CLOSED
    last = events.pop()
    assert isinstance(last, Ended | Failed)
    assert not any(isinstance(event, Ended | Failed) for event in events)
    if isinstance(last, Failed):
        assert isinstance(last.error, codec.ProtocolError)
        assert str(last.error).isprintable()


@pytest.mark.parametrize(
    ("one", "other", "code", "text"),
    [
        (
            {"secret": b"x"},
            {"secret": b"y"},
            "wrong secret",
            "host 'a' at 127.0.0.1:7001 has another shared secret",
        ),
        ({"secret": b"x"}, {}, "secret unused", "host 'a' demands the shared secret and 'b' was given none"),
        ({}, {"secret": b"x"}, "secret missing", "host 'b' demands the shared secret and 'a' was given none"),
        (
            {"expect_peer": "c"},
            {},
            "wrong host",
            "host 'b' answers at 127.0.0.1:7002, where 'c' was expected",
        ),
        (
            {"identity": Identity("b", 9, "127.0.0.1:7003")},
            {},
            "same host",
            "host id 'b' is used twice: at 127.0.0.1:7002 with epoch 4, and at 127.0.0.1:7003 with epoch 9",
        ),
        (
            {"identity": Identity("a", 3, "127.0.0.1:7001", "blue")},
            {},
            "wrong cluster",
            "host 'a' belongs to cluster 'blue', 'b' to ''",
        ),
        (
            {},
            {"admit": lambda peer: f"{peer.host_id} is no member"},
            "not admitted",
            "host 'a' at 127.0.0.1:7001 is not admitted: a is no member",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_and_both_logs_say_why(
    one: dict[str, Any], other: dict[str, Any], code: str, text: str
) -> None:
    first, second = dialler(**one), acceptor(**other)
    told_first, told_second = pump(first, second)
    refuser = failure(told_second)
    assert isinstance(refuser, HandshakeError)
    assert (refuser.code, str(refuser), refuser.by_peer) == (code, text, False)
    refused = failure(told_first)
    assert isinstance(refused, HandshakeError)
    assert (refused.code, refused.by_peer) == (code, True)
    assert str(refused) == f"the peer refused this connection: {text}"
    assert first.state is second.state is CLOSED
    with pytest.raises(RuntimeError, match="need an open connection"):
        first.send([Send(REF, 1)])


def test_the_dialler_refuses_too() -> None:
    """An acceptor that has not the secret can only find out; one that lies about its id is seen through."""
    one, other = dialler(admit=lambda _peer: "not today"), acceptor()
    told_one, told_other = pump(one, other)
    assert str(failure(told_one)) == "host 'b' at 127.0.0.1:7002 is not admitted: not today"
    assert isinstance(told_other[0], Opened)
    assert "refused this connection" in str(failure(told_other))


def test_a_proof_played_back_is_worth_nothing() -> None:
    one, other = dialler(secret=b"s"), acceptor(secret=b"s")
    hello = one.data_to_send()
    other.receive_data(hello, 0)
    one.receive_data(other.data_to_send(), 0)
    proof = one.data_to_send()
    replay = Connection("acceptor", B, nonce=b"x" * 16, now=0.0, secret=b"s")
    replay.receive_data(hello, 0)
    assert "another shared secret" in str(failure(replay.receive_data(proof, 0)))
    mirror = proof[:4] + bytes([codec.WELCOME]) + proof[5:]
    assert "another shared secret" in str(failure(one.receive_data(mirror, 0)))
    assert [type(event) for event in other.receive_data(proof, 0)] == [Opened]


def hello_frame(*, version: Any = codec.VERSION, changes: dict[int, Any] | None = None) -> bytes:
    value = Introduction(A, None, False, b"n" * 16).to_wire()
    value[1] = version
    for index, item in (changes or {}).items():
        value[index] = item
    return codec.encode_frame(codec.HELLO, value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (hello_frame(version=2), "the peer speaks protocol version 2, this host speaks version 1"),
        (codec.encode_frame(codec.HELLO, ["theatre", 7]), "protocol version 7"),
        (hello_frame(changes={0: "circus"}), "does not speak this protocol"),
        (hello_frame(changes={2: ""}), "introduction is damaged: host_id must be printable text"),
        (hello_frame(changes={2: "x\n"}), "host_id must be printable text of 1 to 255 characters"),
        (hello_frame(changes={3: -1}), "epoch must be an integer of 0 or more"),
        (hello_frame(changes={3: True}), "epoch must be an integer"),
        (hello_frame(changes={4: "x" * 300}), "address must be printable text"),
        (hello_frame(changes={8: b"short"}), "the nonce must be 16 bytes"),
        (codec.encode_frame(codec.HELLO, ["theatre", 1]), "introduction is damaged"),
        (codec.encode_frame(codec.MESSAGES, []), "sent MESSAGES to a connection that is waiting for HELLO"),
        (codec.encode_frame(codec.PING, None), "sent PING to a connection that is waiting for HELLO"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "it began with 'GET / HT'"),
        (b"\x00\x00\x40\x01" + bytes(20), "frame of length 16385, over the limit of 16384 bytes"),
    ],
)
def test_strangers_are_turned_away_with_a_text_for_the_log(data: bytes, text: str) -> None:
    end = acceptor()
    events = end.receive_data(data, 0)
    assert len(events) == 1
    assert text in str(failure(events))
    assert end.data_to_send()[4] == codec.REFUSE
    assert end.receive_data(hello_frame(), 0) == []


def test_more_elements_in_an_introduction_are_room_for_later() -> None:
    value = [*Introduction(A, None, False, b"n" * 16).to_wire(), "more", {"x": 1}]
    assert acceptor().receive_data(codec.encode_frame(codec.HELLO, value), 0) == []


def test_what_came_before_an_error_is_still_given() -> None:
    one, other = opened()
    one.send([Send(REF, 1)])
    events = other.receive_data(one.data_to_send() + bytes(4), 0)
    assert events[0] == Received([Send(REF, 1)], [])
    assert str(failure(events)) == "frame of length 0"


def test_the_end_of_the_stream_tells_where_it_came() -> None:
    assert "during the handshake, after 2.0 s" in str(failure(dialler().receive_eof(2.0)))
    one, _ = opened()
    one.receive_data(b"\x00\x00", 1.0)
    assert "in mid-frame, after 2 bytes" in str(failure(one.receive_eof(1.0)))


def test_a_large_announcement_costs_what_has_come() -> None:
    one, _ = opened()
    one.receive_data(codec.MAX_FRAME.to_bytes(4, "big") + b"\x01" + bytes(5), 1.0)
    assert len(one._reader) == 10
    assert one._reader._buffer.__sizeof__() < 200


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_handshake_has_a_deadline() -> None:
    for end in (dialler(), acceptor()):
        assert end.next_deadline() == 5.0
        assert end.check(4.9) == []
        error = failure(end.check(5.0))
        assert isinstance(error, PeerSilent)
        assert "the handshake was not done after 5 s" in str(error)


def test_pings_keep_a_silent_connection_and_each_other_from_being_needed() -> None:
    one, other = opened()
    now, pings = 0.0, 0
    while now < 100.0:
        now = min(one.next_deadline(), other.next_deadline())
        for end, peer in ((one, other), (other, one)):
            assert end.check(now) == []
            data = end.data_to_send()
            pings += data[4:5] == bytes([codec.PING])
            assert pump_from(data, end, peer, now) == []
    assert one.state is other.state is OPEN
    assert pings == 50  # one every two seconds: being asked is a sign of life too


def pump_from(data: bytes, end: Connection, peer: Connection, now: float) -> list[Event]:
    events = peer.receive_data(data, now) if data else []
    answer = peer.data_to_send()
    return events + (end.receive_data(answer, now) if answer else [])


def test_a_peer_that_says_nothing_is_given_up() -> None:
    one, _ = opened()
    sent = []
    for _ in range(10):
        now = one.next_deadline()
        events = one.check(now)
        if events:
            break
        sent.append((now, one.data_to_send()[4]))
    assert sent == [(2.0, codec.PING), (4.0, codec.PING)]
    assert now == 6.0
    assert "nothing came from the peer for 6 s" in str(failure(events))


def test_what_this_host_slept_through_is_not_held_against_the_peer() -> None:
    one, other = opened()
    assert one.check(2.0) == []
    ping = one.data_to_send()
    assert one.check(300.0) == []  # stopped for minutes: the answer may lie in the socket, unread
    pump_from(ping, one, other, 300.0)
    assert one.state is OPEN
    assert 300.0 < one.next_deadline() <= 306.0
    now = 300.0
    while one.state is OPEN:
        now = one.next_deadline()
        one.check(now)
    assert now == 306.0


def test_a_frame_that_trickles_is_given_up() -> None:
    one, _ = opened(limits=Limits(frame=10.0))
    now = 0.0
    one.receive_data(b"\x00\x01\x00\x00\x01", now)
    while not (events := one.check(now)):
        now += 1.0
        one.data_to_send()
        assert one.receive_data(b"x", now) == []
        assert now < 20.0
    assert now == 10.0
    assert "more than 10 s for one frame" in str(failure(events))


def test_many_frames_in_a_row_do_not_count_as_one_that_trickles() -> None:
    one, other = opened(limits=Limits(frame=10.0))
    other.send([Send(REF, "x")])
    frame = other.data_to_send()
    assert one.receive_data(frame[:7], 0.5) == []
    for second in range(1, 50):
        assert one.receive_data(frame[7:] + frame[:7], float(second)) == [Received([Send(REF, "x")], [])]
        assert one.check(float(second)) == []


def test_mistakes_of_this_host_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="a nonce has 16 bytes, got 3"):
        Connection("dialler", A, nonce=b"abc", now=0)
    with pytest.raises(ValueError, match="an empty secret is none"):
        dialler(secret=b"")
    for bad in ({"host_id": ""}, {"epoch": -1}, {"address": "a\nb"}, {"cluster": "x" * 256}):
        with pytest.raises(InvalidOption, match=next(iter(bad))):
            Identity(**{"host_id": "a", "epoch": 1, "address": "x:1", **bad})  # type: ignore[arg-type]
    end = dialler()
    assert end.state is AWAIT_CHALLENGE
    end.close()
    assert end.receive_data(encode(1), 0) == []
    messages: list[Message] = [Send(Ref("a", "\ud800"), 1)]
    assert opened()[0].send(messages)[0][0] is messages[0]


def test_one_answer_does_for_many_questions() -> None:
    one, other = opened()
    other.receive_data(codec.encode_frame(codec.PING, None) * 1000, 1.0)
    assert other.data_to_send() == codec.encode_frame(codec.PONG, None)
    assert one.receive_data(codec.encode_frame(codec.PONG, None), 1.0) == []
