"""The wire format, version 1: bytes in, frames and messages out. No sockets, no time.

    frame   = length kind payload
    length  = 4 bytes, big-endian: bytes of kind and payload, 1 to 16 MiB
    kind    = 1 byte
    payload = one MessagePack value

| kind | frame | payload |
|---|---|---|
| 1 | MESSAGES | array of messages (`envelopes`), whatever was queued for the peer at that moment |
| 2, 3 | PING, PONG | nil |
| 4 | GOODBYE | array: reason, epoch. The sender is leaving and takes no new work; replies still pass |
| 16 to 19 | HELLO, CHALLENGE, PROOF, WELCOME | the handshake (`handshake`) |
| 20 | REFUSE | array: code, text. The connection ends |

A batch is encoded in one call and decoded in one, bodies included. A body that cannot be made here (a class that is
not registered, say) is the fate of its message alone: `decode_messages` gives it apart from the others. Everything
else that is not as above is a `ProtocolError`, the only exception of this module, and ends the connection.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import TYPE_CHECKING, Any

from msgspec.msgpack import Decoder, Encoder

from ..errors import TheatreError
from .body_types import BadBody, unpack_ext
from .envelopes import Failure, Reply, Request, Returned, Send

if TYPE_CHECKING:
    from .envelopes import Message

VERSION = 1
MAX_FRAME = 16 * 1024 * 1024
"""Largest length of a frame in bytes."""
MAX_HANDSHAKE_FRAME = 16 * 1024
"""The same before the handshake is done: a stranger makes nobody keep more than that."""

MESSAGES, PING, PONG, GOODBYE = 1, 2, 3, 4
HELLO, CHALLENGE, PROOF, WELCOME, REFUSE = 16, 17, 18, 19, 20
_MESSAGES = MESSAGES  # a number of C's when compiled, which other modules can't see
_COPIED = 4096  # bytes of payload
KIND_NAMES = {
    MESSAGES: "MESSAGES",
    PING: "PING",
    PONG: "PONG",
    GOODBYE: "GOODBYE",
    HELLO: "HELLO",
    CHALLENGE: "CHALLENGE",
    PROOF: "PROOF",
    WELCOME: "WELCOME",
    REFUSE: "REFUSE",
}

_head = Layout(">IB").pack
_encode = Encoder().encode
_AnyMessage = Send | Request | Reply | Failure | Returned


class ProtocolError(TheatreError):
    """The peer sent what is not this protocol: its fault, or a stranger's. The connection ends, nothing else."""


def encode_frame(kind: int, value: Any) -> bytes:
    """Return one frame with a small payload: everything but MESSAGES."""
    payload = _encode(value)
    return _head(len(payload) + 1, kind) + payload


def encode_messages(messages: list[Message]) -> tuple[list[bytes], list[tuple[Message, str]]]:
    """Encode a batch.

    Args:
        messages: At least one; their bodies are packed (`pack_body`).

    Returns:
        The frames, more than one when the batch does not fit into one, and what cannot travel at all with the reason:
        one message that alone is over the limit, or that holds what is not encodable. The others are not held up by it.
    """
    reason = ""
    try:
        payload = _encode(messages)
        size = len(payload) + 1
        if size <= MAX_FRAME:
            return [_head(size, MESSAGES) + payload], []
        if len(messages) == 1:
            reason = f"it has {size} bytes when encoded, at most {MAX_FRAME} fit into a frame"
        del payload
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one must not take the others along
        reason = f"{type(error).__name__}: {error}"
    if len(messages) == 1:
        return [], [(messages[0], reason)]
    middle = len(messages) // 2
    frames, refused = encode_messages(messages[:middle])
    more_frames, more_refused = encode_messages(messages[middle:])
    return frames + more_frames, refused + more_refused


class _Unmade:
    """Stands for a part of a body that could not be made, until its message is taken out of the batch."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class MessageDecoder:
    """Decodes MESSAGES payloads; one for each connection, since it keeps what failed while it decodes."""

    __slots__ = ("_decode", "_failed")

    def __init__(self) -> None:
        self._failed = False
        self._decode = Decoder(list[_AnyMessage], ext_hook=self._unpack_or_mark).decode

    def decode(self, payload: bytes | memoryview) -> tuple[list[Message], list[tuple[Message, str]]]:
        """Decode a batch.

        Returns:
            The messages in their order, and apart from them those whose body could not be made, with the reason: a
            class that is not registered here, most likely. Their `body` is None.

        Raises:
            ProtocolError: The payload is no batch of messages.
        """
        self._failed = False
        try:
            messages = self._decode(payload)
        except Exception as error:  # noqa: BLE001 - msgspec raises six different ones over bad bytes
            raise ProtocolError(f"MESSAGES frame is damaged: {_brief(error)}") from None
        if not self._failed:
            return messages, []
        good: list[Message] = []
        bad: list[tuple[Message, str]] = []
        for message in messages:
            if isinstance(message, Failure):  # its detail is an extra, without which it is as good
                if _reason(message.detail) is not None:
                    message.detail = None
                good.append(message)
                continue
            reason = _reason(message.body)
            if reason is None:
                good.append(message)
            else:
                message.body = None
                bad.append((message, reason))
        return good, bad

    def _unpack_or_mark(self, code: int, content: memoryview) -> Any:
        try:
            return unpack_ext(code, content)
        except Exception as error:  # noqa: BLE001 - a user's class may raise anything
            self._failed = True
            return _Unmade(str(error) if isinstance(error, BadBody) else _brief(error))


def _reason(body: Any) -> str | None:
    """Return why a part of `body` could not be made. Marks stand only in lists and dicts: an extension that contains a
    failed one fails as a whole.
    """  # noqa: D205
    stack = [body]
    while stack:
        part = stack.pop()
        kind = type(part)
        if kind is _Unmade:
            reason: str = part.reason
            return reason
        if kind is list:
            stack += part
        elif kind is dict:
            stack += part
            stack += part.values()
    return None


def decode_control(kind: int, payload: bytes | memoryview) -> Any:
    """Decode the payload of any frame but MESSAGES, without extensions.

    Raises:
        ProtocolError: It is no MessagePack value.
    """
    try:
        return _decode_plain(payload)
    except Exception as error:  # noqa: BLE001 - as above
        raise ProtocolError(f"{KIND_NAMES[kind]} frame is damaged: {_brief(error)}") from None


def _no_ext(code: int, _content: memoryview) -> Any:
    raise ValueError(f"extension type {code} has no place here")


_decode_plain = Decoder(ext_hook=_no_ext).decode


class FrameReader:
    """Cuts a stream of bytes into frames. Keeps what has arrived and not a byte more, whatever length is announced.

    Attributes:
        limit: Largest length that is accepted, in bytes; may be changed between frames.
    """

    __slots__ = ("_buffer", "_start", "limit")

    # Either `bytes` as they came from the socket, cut into frames without a copy, or a `bytearray` that begins with
    # an incomplete frame and grows: it is never resized again once a view of it has been given away.
    _buffer: bytes | bytearray

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self._buffer = b""
        self._start = 0

    def __len__(self) -> int:
        """Return how many bytes are kept."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Take what the socket gave."""
        buffer = self._buffer
        if type(buffer) is bytearray:
            buffer += data
        elif self._start == len(buffer):
            self._buffer, self._start = data, 0
        else:
            self._buffer, self._start = bytearray(buffer[self._start :]) + data, 0

    def next_frame(self) -> tuple[int, bytes | memoryview] | None:
        """Return kind and payload of the next frame, None until it is complete.

        Raises:
            ProtocolError: What arrives is not this protocol. It is of no use to go on.
        """
        buffer, start = self._buffer, self._start
        have = len(buffer) - start
        if have < 4:
            return None
        data = b""
        if type(buffer) is bytes:
            data = buffer
            length = data[start]  # byte by byte: compiled, a number of its own type is what does not overflow
            length = length << 8 | data[start + 1]
            length = length << 8 | data[start + 2]
            length = length << 8 | data[start + 3]
        else:
            length = int.from_bytes(buffer[start : start + 4], "big")
        if not 0 < length <= self.limit:
            raise ProtocolError(self._not_a_length(length, bytes(buffer[start : start + 8])))
        if have < 5:
            return None
        kind = buffer[start + 4]
        if kind != _MESSAGES and kind not in KIND_NAMES:
            raise ProtocolError(f"frame of unknown kind {kind}")
        if have < 4 + length:
            return None
        end = start + 4 + length
        payload: bytes | memoryview
        if type(buffer) is not bytes:
            payload = memoryview(buffer)[start + 5 : end]
            self._buffer, self._start = bytes(buffer[end:]), 0
        else:
            # A copy of little costs less than a view.
            payload = data[start + 5 : end] if length <= _COPIED else memoryview(data)[start + 5 : end]
            self._start = end
        return kind, payload

    def _not_a_length(self, length: int, first: bytes) -> str:
        if first[:2] == b"\x16\x03":
            return "the peer speaks TLS, and this host was not told to"
        if first[:4].isascii() and first[:4].decode("ascii").isprintable():
            return f"the peer does not speak this protocol: it began with {first.decode('ascii', 'replace')!r}"
        if length == 0:
            return "frame of length 0"
        return f"frame of length {length}, over the limit of {self.limit} bytes"


def _brief(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text[:300]}"
