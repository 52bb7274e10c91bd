"""Messages between the command and its processes."""

from __future__ import annotations

import io
import os

import gevent
import pytest
from gevent.fileobject import FileObject
from hypothesis import given
from hypothesis import strategies as st

from theatre_gevent.channel import BadLine, Sender, receive

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), plain), max_size=5))
def test_messages_arrive_as_they_were_sent(messages: list[dict[str, object]]) -> None:
    file = io.BytesIO()
    sender = Sender(file)
    for message in messages:
        sender.send(message)
    file.seek(0)
    assert list(receive(file)) == messages


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b"\xff\n", b"\n", b'{"a": 1} {"b": 2}\n', b"null\n"])
def test_anything_else_is_refused(line: bytes) -> None:
    messages = receive(io.BytesIO(b'{"a": 1}\n' + line))
    assert next(messages) == {"a": 1}
    with pytest.raises(BadLine, match="no JSON object"):
        next(messages)


def test_half_a_message_is_the_end() -> None:
    assert list(receive(io.BytesIO(b'{"a": 1}\n{"b": '))) == [{"a": 1}]


def test_several_greenlets_share_a_full_pipe() -> None:
    reading, writing = os.pipe()
    with FileObject(reading, "rb") as source:
        with FileObject(writing, "wb") as target:
            sender = Sender(target)
            sizes = range(100_000, 100_020)
            greenlets = [gevent.spawn(sender.send, {"n": size, "text": "x" * size}) for size in sizes]
            found = [message for _, message in zip(sizes, receive(source), strict=False)]
            gevent.joinall(greenlets, timeout=20, raise_error=True)
        assert list(receive(source)) == []
    assert sorted(message["n"] for message in found) == list(sizes)
    assert all(len(message["text"]) == message["n"] for message in found)


def test_a_pipe_that_nobody_reads_is_an_error() -> None:
    reading, writing = os.pipe()
    with FileObject(reading, "rb"):
        target = FileObject(writing, "wb")
    gevent.sleep(0)
    with pytest.raises(OSError, match="Broken pipe"):
        Sender(target).send({})
    with pytest.raises(OSError, match="Broken pipe"):
        target.close()
