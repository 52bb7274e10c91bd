"""Frames and batches: what goes in comes out, and anything else is a ProtocolError."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import Ext, encode

from theatre_gevent import (
    CallCycle,
    ClaimLost,
    HostDraining,
    HostFrozen,
    InboxFull,
    NoOwner,
    Ref,
    RemoteActorError,
    RequestTimeout,
    UnregisteredActorType,
)
from theatre_gevent.logic.bodies import load_body, pack_body
from theatre_gevent.logic.body_types import OBJECT, TUPLE
from theatre_gevent.logic.codec import (
    KIND_NAMES,
    MAX_FRAME,
    MESSAGES,
    PING,
    FrameReader,
    MessageDecoder,
    ProtocolError,
    decode_control,
    encode_frame,
    encode_messages,
)
from theatre_gevent.logic.envelopes import (
    ACTOR_ERROR,
    BAD_BODY,
    Failure,
    Headers,
    Message,
    NotHere,
    Reply,
    Request,
    Returned,
    Send,
    error_of,
    failure_of,
)

REF, OTHER = Ref("greeter", "1"), Ref("counter", "é")
UNKNOWN = Ext(OBJECT, encode(["nobody.knows", {}]))

names = st.text(min_size=1, max_size=6)
refs = st.builds(Ref, names, names)
maybe_ref = st.none() | refs
headers = st.none() | st.builds(
    Headers,
    attempt=st.integers(0, 1000),
    deadline=st.none() | st.floats(0, 1e6),
    chain=st.none() | st.lists(refs, max_size=3),
    trace=st.none() | st.dictionaries(names, names, max_size=2),
)
numbers = st.integers(0, (1 << 63) - 1)
bodies = st.sampled_from([None, 1, "x", {"a": [1]}, (1, (2,)), {3}, uuid.UUID(int=1), [REF]])
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Send, refs, bodies, maybe_ref, headers),
    st.builds(Request, refs, bodies, numbers, st.floats(0, 1e6), maybe_ref, headers),
    st.builds(Reply, numbers, numbers, bodies, headers),
    st.builds(Failure, numbers, numbers, st.integers(0, 50), names, names, st.none() | st.lists(names), headers),
    st.builds(Returned, refs, bodies, st.integers(0, 50), names, maybe_ref, headers),
)


def packed(message: Message) -> Message:
    return message if isinstance(message, Failure) else msgspec.structs.replace(message, body=pack_body(message.body))


def decode_all(stream: bytes, step: int = 1 << 30) -> list[Message]:
    reader, decoder, found = FrameReader(), MessageDecoder(), []
    for start in range(0, len(stream), step):
        reader.feed(stream[start : start + step])
        while (frame := reader.next_frame()) is not None:
            assert frame[0] == MESSAGES
            good, bad = decoder.decode(frame[1])
            assert not bad
            found += good
    assert len(reader) == 0
    return found


@given(st.lists(st.lists(messages, min_size=1, max_size=5), max_size=4), st.integers(1, 50))
def test_batches_arrive_as_they_left_however_they_are_cut(batches: list[list[Message]], step: int) -> None:
    stream = b""
    for batch in batches:
        frames, refused = encode_messages(list(map(packed, batch)))
        assert len(frames) == 1
        assert not refused
        stream += frames[0]
    assert decode_all(stream, step) == [message for batch in batches for message in batch]


@given(st.binary(max_size=300), st.integers(1, 20))
def test_arbitrary_bytes_are_frames_or_a_protocol_error(data: bytes, step: int) -> None:
    reader, decoder = FrameReader(), MessageDecoder()
    try:
        for start in range(0, len(data), step):
            reader.feed(data[start : start + step])
            while (frame := reader.next_frame()) is not None:
                if frame[0] == MESSAGES:
                    decoder.decode(frame[1])
                else:
                    decode_control(*frame)
    except ProtocolError as error:
        text = str(error)
    else:
        return
    assert text
    assert "\n" not in text


@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_damaged_batches_are_messages_or_a_protocol_error(batch: list[Message], data: st.DataObject) -> None:
    payload = bytearray(encode_messages(list(map(packed, batch)))[0][0][5:])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        good, bad = MessageDecoder().decode(bytes(payload))
    except ProtocolError:
        return
    assert all(isinstance(message, Send | Request | Reply | Failure | Returned) for message in good)
    assert all(reason for _, reason in bad)


def test_a_body_that_cannot_be_made_is_the_fate_of_its_message_alone() -> None:
    nested = pack_body([1])
    batch: list[Message] = [
        Send(REF, "first"),
        Request(REF, UNKNOWN, 7, 1.0),
        Reply(8, 1, [{"deep": [UNKNOWN]}]),
        Send(REF, Ext(TUPLE, encode([UNKNOWN])), OTHER),
        Send(REF, Ext(99, b"")),
        Failure(9, 1, 0, "Error", "text", [UNKNOWN]),
        Send(REF, nested),
    ]
    decoder = MessageDecoder()
    payload = encode_messages(batch)[0][0][5:]
    good, bad = decoder.decode(payload)
    assert good == [Send(REF, "first"), Failure(9, 1, 0, "Error", "text", None), Send(REF, [1])]
    assert [message for message, _ in bad] == [
        Request(REF, None, 7, 1.0),
        Reply(8, 1, None),
        Send(REF, None, OTHER),
        Send(REF, None),
    ]
    unknown = "message class 'nobody.knows' is not registered on this host (@message)"
    assert [reason for _, reason in bad] == [unknown] * 3 + ["extension type 99 is unknown to this host"]
    assert decoder.decode(encode_messages([Send(REF, 1)])[0][0][5:]) == ([Send(REF, 1)], [])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [1],
        [[]],
        [[99, ["a", "b"], 1]],
        [[0, ["a", "b"]]],
        [[0, ["", "b"], 1]],
        [[0, ["a"], 1]],
        [[0, "a/b", 1]],
        [[1, ["a", "b"], 1, -1, 1.0]],
        [[1, ["a", "b"], 1, 1, -1.0]],
        [[1, ["a", "b"], 1, 1, float("nan")]],
        [[1, ["a", "b"], 1, 1 << 63, 1.0]],
        [[2, 1, "epoch", None]],
        [[0, ["a", "b"], 1, None, {"chain": [1]}]],
        [[0, Ext(1, b"\x90"), 1]],
    ],
)
def test_what_is_no_batch_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(ProtocolError, match=r"^MESSAGES frame is damaged: "):
        MessageDecoder().decode(encode(value))


def test_later_versions_may_say_more() -> None:
    value = [[0, ["a", "b"], 1, None, {"deadline": 2, "later": [Ext(99, b"x")]}, "more"], [0, ["a", "b", "c"], 2]]
    assert MessageDecoder().decode(encode(value)) == (
        [Send(Ref("a", "b"), 1, None, Headers(deadline=2)), Send(Ref("a", "b"), 2)],
        [],
    )


def test_a_batch_over_the_limit_becomes_several_frames_in_order() -> None:
    batch: list[Message] = [Send(Ref("a", str(n)), pack_body(bytes(3_000_000))) for n in range(20)]
    frames, refused = encode_messages(batch)
    assert not refused
    assert 4 <= len(frames) <= 8
    assert all(len(frame) <= MAX_FRAME + 4 for frame in frames)
    assert decode_all(b"".join(frames), 1 << 20) == [Send(Ref("a", str(n)), bytes(3_000_000)) for n in range(20)]


def test_a_message_that_cannot_travel_takes_no_other_along() -> None:
    large = Send(Ref("a", "x" * (MAX_FRAME + 1)), 1)
    broken = Send(Ref("a", "\ud800"), 1)
    others: list[Message] = [Send(Ref("a", str(n)), n) for n in range(50)]
    frames, refused = encode_messages([*others[:20], large, *others[20:40], broken, *others[40:]])
    assert decode_all(b"".join(frames)) == others
    assert [message for message, _ in refused] == [large, broken]
    assert refused[0][1].endswith(f"bytes when encoded, at most {MAX_FRAME} fit into a frame")
    assert "surrogates not allowed" in refused[1][1]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bytes(4), "frame of length 0"),
        ((MAX_FRAME + 1).to_bytes(4, "big"), f"frame of length {MAX_FRAME + 1}, over the limit of {MAX_FRAME} bytes"),
        (b"\xff" * 4, "frame of length 4294967295, over the limit"),
        (b"GET / HTTP/1.1\r\n", "the peer does not speak this protocol: it began with 'GET / HT'"),
        (b"\x16\x03\x01\x02\x00\x01", "the peer speaks TLS, and this host was not told to"),
        (b"\x00\x00\x00\x01\x63", "frame of unknown kind 99"),
        (MAX_FRAME.to_bytes(4, "big") + b"\x00", "frame of unknown kind 0"),
    ],
)
def test_a_bad_head_is_refused_before_the_rest_has_come(data: bytes, text: str) -> None:
    reader = FrameReader()
    reader.feed(data)
    with pytest.raises(ProtocolError) as caught:
        reader.next_frame()
    assert text in str(caught.value)


def test_nothing_is_kept_but_what_has_come() -> None:
    reader = FrameReader()
    for byte in MAX_FRAME.to_bytes(4, "big") + b"\x01" + bytes(5):
        reader.feed(bytes([byte]))
        assert reader.next_frame() is None
    assert len(reader) == 10
    assert reader._buffer.__sizeof__() < 200


def test_frames_of_every_size_up_to_the_limit_pass_in_any_pieces() -> None:
    for size in (1, 2, 255, 65_536, MAX_FRAME - 6):
        frame = encode_frame(PING, bytes(size))
        for step in (1000, 65_536, len(frame)) if size > 255 else (1, 3, len(frame)):
            reader, found = FrameReader(), []
            stream = frame + encode_frame(PING, None)
            for start in range(0, len(stream), step):
                reader.feed(stream[start : start + step])
                while (got := reader.next_frame()) is not None:
                    found.append(decode_control(*got))
            assert found == [bytes(size), None]


@pytest.mark.parametrize("kind", sorted(KIND_NAMES))
def test_control_frames_hold_no_extensions(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"^{KIND_NAMES[kind]} frame is damaged"):
        decode_control(kind, encode([Ext(1, b"\x90")]))


@pytest.mark.parametrize(
    "error",
    [
        NotHere("x"),
        HostFrozen("x"),
        HostDraining("x"),
        InboxFull("x"),
        NoOwner("x"),
        RequestTimeout("x"),
        ClaimLost("x"),
        UnregisteredActorType("a", ["c", "b"], "on the host that it came to"),
        CallCycle([REF, OTHER, REF]),
        RemoteActorError("KeyError", "'k'", OTHER),
    ],
)
def test_the_errors_of_the_library_arrive_as_they_left(error: Exception) -> None:
    (failure,) = decode_all(encode_messages([failure_of(7, 3, error)])[0][0])
    assert isinstance(failure, Failure)
    assert (failure.seq, failure.epoch) == (7, 3)
    made = error_of(failure, REF)
    assert type(made) is type(error)
    assert str(made) == str(error)
    assert vars(made) == vars(error)


class Hostile(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("k"), "'k'"),
        (ValueError("\ud800" + "x" * 10_000), "\\ud800" + "x" * 8191 + "..."),
        (Hostile(), "<its text is not available: ValueError>"),
    ],
)
def test_any_exception_arrives_as_text(error: Exception, text: str) -> None:
    (failure,) = decode_all(encode_messages([failure_of(1, 1, error)])[0][0])
    assert isinstance(failure, Failure)
    made = error_of(failure, REF)
    assert isinstance(made, RemoteActorError)
    assert (made.type_name, made.message, made.ref) == (type(error).__qualname__, text, REF)


@pytest.mark.parametrize("detail", [None, [], [1], [[1, 2]], [["a", ""]], [["a", "b", "c"]], [None]])
@pytest.mark.parametrize("code", [ACTOR_ERROR, 8, BAD_BODY, 99])
def test_a_failure_with_a_detail_nobody_knows_is_still_an_error(code: int, detail: list[Any] | None) -> None:
    made = error_of(Failure(1, 1, code, "Odd", "text", detail), REF)
    assert isinstance(made, RemoteActorError)
    assert made.message == "text"


def test_packed_bodies_stand_in_envelopes_as_they_are() -> None:
    for body in (1, "a", [1, (2,)], {"k": {1}}):
        (message,) = decode_all(encode_messages([Send(REF, pack_body(body))])[0][0])
        assert isinstance(message, Send)
        assert message.body == body == load_body(encode(pack_body(body)))
