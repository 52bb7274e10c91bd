"""One connection as a state machine without I/O: bytes and `now` in, events and bytes out.

Whoever has the socket does this, and nothing more, in whatever way it likes to wait:

    connection = Connection("dialler", identity, nonce=os.urandom(16), now=clock())
    socket.sendall(connection.data_to_send())
    for event in connection.receive_data(socket.recv(65536), clock()): ...   # receive_eof(now) where it gave b""
    for event in connection.check(clock()): ...                              # not later than next_deadline()

After each of the calls `data_to_send()` may have something. A `Failed` event is the last one: send what there is (it
may tell the peer why), log the error's text, close. Nothing here raises over what the peer does.

Time: the handshake has to be done `handshake` seconds after the start. Then a PING goes out when nothing has come for
`ping` seconds, and the peer is given up when nothing has come for `dead`; a frame that has begun has to be complete
within `frame` seconds. What this host slept through (a stopped process, a handler that kept the processor) does not
count against the peer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from . import codec
from .codec import FrameReader, MessageDecoder, ProtocolError, encode_frame, encode_messages
from .envelopes import clean_text
from .handshake import (
    NONCE_SIZE,
    NOT_ADMITTED,
    HandshakeError,
    Identity,
    Introduction,
    check_introduction,
    check_proof,
    make_proof,
    read_introduction,
    read_reason,
    read_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .envelopes import Message

    Role = Literal["dialler", "acceptor"]

AWAIT_HELLO, AWAIT_CHALLENGE, AWAIT_PROOF, AWAIT_WELCOME, OPEN, CLOSED = (
    "waiting for HELLO",
    "waiting for CHALLENGE",
    "waiting for PROOF",
    "waiting for WELCOME",
    "open",
    "closed",
)

_PONG = encode_frame(codec.PONG, None)

# Which frames may come in which state, and who takes them. Whatever is not here is a ProtocolError.
#
#   dialler   (sends HELLO)  AWAIT_CHALLENGE  -CHALLENGE/sends PROOF->  AWAIT_WELCOME  -WELCOME->  OPEN
#   acceptor                 AWAIT_HELLO  -HELLO/sends CHALLENGE->  AWAIT_PROOF  -PROOF/sends WELCOME->  OPEN
#   all                      -error, refusal, silence, end of the stream, close()->  CLOSED
TRANSITIONS: dict[str, dict[int, str]] = {
    AWAIT_HELLO: {codec.HELLO: "_on_hello"},
    AWAIT_CHALLENGE: {codec.CHALLENGE: "_on_challenge", codec.REFUSE: "_on_refuse"},
    AWAIT_PROOF: {codec.PROOF: "_on_proof", codec.REFUSE: "_on_refuse"},
    AWAIT_WELCOME: {codec.WELCOME: "_on_welcome", codec.REFUSE: "_on_refuse"},
    OPEN: {
        codec.MESSAGES: "_on_messages",
        codec.PING: "_on_ping",
        codec.PONG: "_on_pong",
        codec.GOODBYE: "_on_goodbye",
        codec.REFUSE: "_on_refuse",
    },
    CLOSED: {},
}


class Limits(Struct, frozen=True):
    """The times of a connection in seconds.

    Attributes:
        handshake: From the start until both have accepted each other.
        ping: Silence of the peer after which it is asked for a sign.
        dead: Silence after which it is given up.
        frame: From the first byte of a frame to its last.
    """

    handshake: float = 5.0
    ping: float = 2.0
    dead: float = 6.0
    frame: float = 30.0


class PeerSilent(ProtocolError):
    """The peer has sent nothing for too long, or is too slow: it or the network hangs."""


class Opened(Struct, frozen=True):
    """Both sides have accepted each other: messages may pass. The acceptor knows `peer` from here on only."""

    peer: Identity


class Received(Struct, frozen=True):
    """A batch has arrived.

    Attributes:
        messages: In the order sent.
        unmade: Those whose body could not be made here, with the reason. Answer the requests among them with a failure.
    """

    messages: list[Message]
    unmade: list[tuple[Message, str]]


class Leaving(Struct, frozen=True):
    """The peer takes no new work, since it is stopping; replies still pass in both directions.

    Attributes:
        reason: In its own words.
        epoch: Which of its lives ends; after it has lost a lease that is a later one than that of its introduction.
    """

    reason: str
    epoch: int


class Ended(Struct, frozen=True):
    """The peer has closed the connection between two frames."""


class Failed(Struct, frozen=True):
    """The connection is of no use any more. The last event."""

    error: ProtocolError


Event = Opened | Received | Leaving | Ended | Failed


class Connection:
    """One end of a connection.

    Args:
        role: `dialler` for who has connected, `acceptor` for who was connected to.
        identity: This host.
        nonce: 16 bytes that nobody can foresee, new for each connection.
        now: Monotonic seconds; every later `now` is of the same clock.
        secret: The shared secret, None to demand none. A peer that differs in this is refused.
        expect_peer: The host id that has to answer, None for any.
        admit: Asked about a peer that has proven itself; returns why it is not let in, or None. Peers that know the
            secret are trusted to give their own host id: check here that it is a member, and its address and epoch.
        limits: Times.

    Attributes:
        state: One of the states above.
        peer: Who is on the other side, None until it is `Opened`.
    """

    def __init__(
        self,
        role: Role,
        identity: Identity,
        *,
        nonce: bytes,
        now: float,
        secret: bytes | None = None,
        expect_peer: str | None = None,
        admit: Callable[[Identity], str | None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"a nonce has {NONCE_SIZE} bytes, got {len(nonce)}")
        if secret is not None and not secret:
            raise ValueError("an empty secret is none: give None for that")
        self.state = AWAIT_CHALLENGE if role == "dialler" else AWAIT_HELLO
        self.peer: Identity | None = None
        self._ours = Introduction(identity, expect_peer, secret is not None, nonce)
        self._theirs: Introduction | None = None
        self._secret = secret
        self._admit = admit
        self._limits = limits or Limits()
        self._reader = FrameReader(codec.MAX_HANDSHAKE_FRAME)
        self._decoder = MessageDecoder()
        self._out: list[bytes] = []
        self._hello = self._challenge = b""
        self._started = self._heard = self._checked = now
        self._asked = -math.inf  # when the last PING went out
        self._frame_since: float | None = None
        if role == "dialler":
            self._hello = self._introduce(codec.HELLO)

    # --- what goes out ------------------------------------------------------------------------------------------------

    def send(self, messages: list[Message]) -> list[tuple[Message, str]]:
        """Queue a batch for `data_to_send`.

        Args:
            messages: One or more.

        Returns:
            Those that cannot travel at all, with the reason; the others do.

        Raises:
            RuntimeError: The connection is not open, which the caller could have known.
        """
        if self.state is not OPEN:
            raise RuntimeError(f"messages need an open connection, this one is {self.state}")
        frames, refused = encode_messages(messages)
        self._out += frames
        return refused

    def goodbye(self, reason: str, epoch: int) -> None:
        """Tell the peer that this host takes no new work in its life `epoch`, if it can be told."""
        if self.state is OPEN:
            self._out.append(encode_frame(codec.GOODBYE, [clean_text(reason), epoch]))

    def data_to_send(self) -> bytes:
        """Return what has to be written now, and forget it."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def close(self) -> None:
        """End it from this side: nothing that still arrives is looked at."""
        self.state = CLOSED

    # --- what comes in ------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take what the socket gave, any number of bytes, and return what it means."""
        events: list[Event] = []
        if self.state is CLOSED:
            return events
        self._heard = now
        reader = self._reader
        reader.feed(data)
        try:
            while (frame := reader.next_frame()) is not None:
                kind, payload = frame
                if kind == codec.MESSAGES and self.state is OPEN:  # nearly all of them
                    event = self._on_messages(payload)
                else:
                    handler = TRANSITIONS[self.state].get(kind)
                    if handler is None:
                        told = codec.KIND_NAMES[kind]
                        raise ProtocolError(f"the peer sent {told} to a connection that is {self.state}")
                    event = getattr(self, handler)(payload)
                self._frame_since = None
                if event is not None:
                    events.append(event)
            if not len(reader):
                self._frame_since = None
            elif self._frame_since is None:
                self._frame_since = now
        except ProtocolError as error:
            events.append(self._fail(error))
        return events

    def receive_eof(self, now: float) -> list[Event]:
        """Take the end of the stream."""
        if self.state is CLOSED:
            return []
        kept = len(self._reader)
        if kept:
            return [self._fail(ProtocolError(f"the peer closed the connection in mid-frame, after {kept} bytes"))]
        if self.state is not OPEN:
            after = now - self._started
            return [
                self._fail(ProtocolError(f"the peer closed the connection during the handshake, after {after:.1f} s"))
            ]
        self.state = CLOSED
        return [Ended()]

    def took(self, when: float) -> None:
        """The peer has taken some of what is written to it: a sign of life, since a question may stand behind much."""
        self._heard = max(self._heard, when)

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when `check` has to be called at the latest; it does no harm to call it more often."""
        if self.state is CLOSED:
            return math.inf
        if self.state is not OPEN:
            return self._started + self._limits.handshake
        ping = max(self._heard, self._asked) + self._limits.ping
        until = min(ping, self._heard + self._limits.dead)
        return until if self._frame_since is None else min(until, self._frame_since + self._limits.frame)

    def check(self, now: float) -> list[Event]:
        """Look at the time: ask for a sign, or give up."""
        if self.state is CLOSED:
            return []
        limits = self._limits
        if self.state is not OPEN:
            if now >= self._started + limits.handshake:
                text = f"the handshake was not done after {limits.handshake:g} s, {self.state}"
                return [self._fail(PeerSilent(text))]
            return []
        late = now - max(self.next_deadline(), self._checked)
        if late > limits.ping:  # nobody looked: what came meanwhile has not been read yet
            self._heard += late
            if self._frame_since is not None:
                self._frame_since += late
        self._checked = now
        if now >= self._heard + limits.dead:
            return [self._fail(PeerSilent(f"nothing came from the peer for {limits.dead:g} s, pings included"))]
        if self._frame_since is not None and now >= self._frame_since + limits.frame:
            return [self._fail(PeerSilent(f"the peer took more than {limits.frame:g} s for one frame"))]
        if now >= max(self._heard, self._asked) + limits.ping:
            self._asked = now
            self._out.append(encode_frame(codec.PING, None))
        return []

    # --- the handlers of TRANSITIONS ----------------------------------------------------------------------------------

    def _on_hello(self, payload: bytes | memoryview) -> Event | None:
        self._hello = bytes(payload)
        self._theirs = read_introduction(codec.HELLO, self._hello)
        check_introduction(self._ours, self._theirs)
        self._challenge = self._introduce(codec.CHALLENGE)
        self.state = AWAIT_PROOF
        return None

    def _on_challenge(self, payload: bytes | memoryview) -> Event | None:
        self._challenge = bytes(payload)
        self._theirs = read_introduction(codec.CHALLENGE, self._challenge)
        check_introduction(self._ours, self._theirs)
        self._out.append(encode_frame(codec.PROOF, [self._proof("dialler")]))
        self.state = AWAIT_WELCOME
        return None

    def _on_proof(self, payload: bytes | memoryview) -> Event | None:
        opened = self._open(codec.PROOF, payload, "dialler")
        self._out.append(encode_frame(codec.WELCOME, [self._proof("acceptor")]))
        return opened

    def _on_welcome(self, payload: bytes | memoryview) -> Event | None:
        return self._open(codec.WELCOME, payload, "acceptor")

    def _on_refuse(self, payload: bytes | memoryview) -> Event | None:
        raise read_refusal(codec.REFUSE, bytes(payload))

    def _on_messages(self, payload: bytes | memoryview) -> Event | None:
        return Received(*self._decoder.decode(payload))

    def _on_ping(self, payload: bytes | memoryview) -> Event | None:
        codec.decode_control(codec.PING, payload)
        if _PONG not in self._out:  # one answers all that were asked meanwhile
            self._out.append(_PONG)
        return None

    def _on_pong(self, payload: bytes | memoryview) -> Event | None:
        codec.decode_control(codec.PONG, payload)
        return None

    def _on_goodbye(self, payload: bytes | memoryview) -> Event | None:
        value = codec.decode_control(codec.GOODBYE, payload)
        if type(value) is not list or not value or type(value[0]) is not str:
            raise ProtocolError("GOODBYE frame is damaged: it has no reason")
        assert self.peer is not None  # or the frame would have been refused
        epoch = value[1] if len(value) > 1 and type(value[1]) is int else self.peer.epoch
        return Leaving(read_reason(value[0]), epoch)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _introduce(self, kind: int) -> bytes:
        frame = encode_frame(kind, self._ours.to_wire())
        self._out.append(frame)
        return frame[5:]

    def _proof(self, role: Role) -> bytes:
        return make_proof(self._secret, role, self._hello, self._challenge)

    def _open(self, kind: int, payload: bytes | memoryview, role: Role) -> Opened:
        assert self._theirs is not None, "the table brings nobody here without an introduction"
        peer = self._theirs.identity
        check_proof(kind, bytes(payload), self._proof(role), peer)
        reason = self._admit(peer) if self._admit is not None else None
        if reason is not None:
            raise HandshakeError(NOT_ADMITTED, f"host {peer.host_id!r} at {peer.address} is not admitted: {reason}")
        self.peer = peer
        self.state = OPEN
        self._reader.limit = codec.MAX_FRAME
        return Opened(peer)

    def _fail(self, error: ProtocolError) -> Failed:
        """Close, and tell the peer why unless it is the one who refused or hangs."""
        told: list[str] | None = None
        if isinstance(error, HandshakeError):
            told = None if error.by_peer else [error.code, str(error)]
        elif not isinstance(error, PeerSilent):
            told = ["protocol error", str(error)]
        if told is not None:
            self._out.append(encode_frame(codec.REFUSE, [clean_text(part) for part in told]))
        self.state = CLOSED
        return Failed(error)
