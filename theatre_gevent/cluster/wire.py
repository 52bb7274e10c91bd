"""One socket with its `Connection`: the loops that read and write, and what has to be done from time to time."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from gevent.event import Event as Flag

from ..errors import PeerDown, TheatreError
from ..logic import codec
from ..logic.codec import ProtocolError
from ..logic.connection import OPEN, Ended, Failed, Leaving, Opened, PeerSilent, Received
from ..pauses import let_others_run, let_sockets_run
from .logs import log
from .sockets import describe, encrypt, finish_writing, peer_name

if TYPE_CHECKING:
    from ssl import SSLContext

    from gevent import Greenlet

    from ..clock import Clock
    from ..logic.connection import Connection, Event
    from ..logic.handshake import Identity
    from .handler import Counters, Handler, Limits
    from .inlet import Inlet
    from .link import Link
    from .outbox import Outbox
    from .sockets import Socket

READ_MIN, _READ_MAX = 16 * 1024, 256 * 1024  # a large buffer costs more to get than a small batch to read
JOIN = 256 * 1024
_SLICE = 0.002
"""Seconds of reading or writing after which sockets and timers get their turn, however much there is to do: what this
adds to the time of an answer. A loop that only lets greenlets run comes to its sockets every 5 ms."""
_WAITED = 0.0005
"""Seconds after which a read must have waited, so that everything else has had its turn."""
_TLS_SLICE = 64 * 1024  # OpenSSL shows no progress before all it was given is written


class Wire:
    """A socket and its connection. Whoever closes it, for whatever reason, calls `close` with that reason.

    Args:
        sock: Connected, prepared.
        connection: New.
        clock: Time.
        counters: Of the transport.
        limits: Of the transport.
    """

    def __init__(self, sock: Socket, connection: Connection, clock: Clock, counters: Counters, limits: Limits) -> None:
        self.sock = sock
        self.where = peer_name(sock)
        self.error: TheatreError | None = None
        self.encrypted = False
        self.ended = False  # by the peer, in good order
        self._wake = Flag()
        self._connection = connection
        self._clock, self._counters, self._limits = clock, counters, limits
        self._control: list[bytes] = []
        self._early: list[Event] = []
        self._writing_since: float | None = None
        self._held_up = False  # by the handler: what the peer sends stays unread meanwhile
        self._signed = 0.0
        self._read_until = self._write_until = 0.0  # when the slice is over
        self._write_error: TheatreError | None = None
        self._leaving = False
        self._read_size = READ_MIN

    # -- beginning and end ---------------------------------------------------------------------------------------

    def encrypt(self, context: SSLContext, server_host: str | None) -> None:
        """Have `handshake` begin with that of TLS. The arguments are those of `sockets.encrypt`.

        Raises:
            PeerDown: The context does not go together with this connection.
        """
        try:
            self.sock = encrypt(self.sock, context, server_host=server_host)
        except (OSError, ValueError) as error:
            self.sock.close()
            raise PeerDown(describe(error)) from error
        self.encrypted = True

    def handshake(self) -> Identity:
        """Do the handshakes, TLS first if the socket is to be encrypted, and return who is there.

        Raises:
            TheatreError: They failed, or the wire was closed meanwhile; the text says why.
        """
        connection = self._connection
        try:
            if self.encrypted:
                self.sock.do_handshake()  # type: ignore[attr-defined]
            while True:
                self._send(connection.data_to_send())
                if connection.state is OPEN:
                    assert connection.peer is not None
                    return connection.peer
                for event in self._read():
                    if isinstance(event, Failed):
                        with suppress(OSError):
                            self._send(connection.data_to_send())
                        raise event.error
                    if not isinstance(event, Opened):
                        self._early.append(event)
        except OSError as error:
            raise self.error or PeerDown(describe(error)) from error
        except (ValueError, AttributeError) as error:  # of a TLS socket that was closed a moment ago
            if self.error is None:
                raise
            raise self.error from error

    def close(self, error: TheatreError) -> None:
        """End it: whoever reads or writes gets an error. The first reason stands."""
        if self.error is None:
            self.error = error
        self._connection.close()
        self._wake.set()
        self.sock.close()

    def abandon(self) -> None:
        """In a forked child: let go of the socket, which is the parent's, without a word."""
        self.sock.close()

    def goodbye(self, reason: str, epoch: int) -> None:
        """Tell the peer that this host takes no new work in its life `epoch`."""
        if not self._leaving:
            self._leaving = True
            self._connection.goodbye(reason, epoch)
            self._tell()

    def is_idle(self, outbox: Outbox) -> bool:
        """Tell whether all that was queued has been given to the socket."""
        return outbox._is_empty() and not self._control and self._writing_since is None

    def finish(self) -> None:
        """Nothing more is written; the peer sees the end, and `run` returns when the peer has closed its end too."""
        finish_writing(self.sock)

    # -- reading -------------------------------------------------------------------------------------------------

    def run(self, owner: Inlet | Link, handler: Handler, writer: Greenlet[..., None]) -> TheatreError:
        """Read until the end, closes and returns the reason.

        Args:
            owner: Whose connection it is.
            handler: Gets the events.
            writer: Runs `write`; ended too.
        """
        try:
            self._dispatch(self._early, owner, handler)
            self._read_on(owner, handler)
        except OSError as error:
            reason: TheatreError = self.error or PeerDown(describe(error))
        except TheatreError as error:
            reason = self.error or error
            if isinstance(error, ProtocolError):
                self._last_words()
        except Exception as mistake:  # noqa: BLE001 - one of this library's: a new connection may do
            # A TLS socket that was closed a moment ago raises such things as well.
            if self.error is None or not isinstance(mistake, (ValueError, AttributeError)):
                log.exception("%s: the connection failed", owner)
            reason = self.error or PeerDown(f"{type(mistake).__name__}: {mistake}")
        finally:
            writer.kill()
            self.close(PeerDown("this host ends the connection"))
        self.error = reason
        return reason

    def _read_on(self, owner: Inlet | Link, handler: Handler) -> None:
        """Read until an error ends it."""
        while True:
            events = self._read()
            self._dispatch(events, owner, handler)
            self._tell()
            if self._slice_is_over():  # also where nothing but parts of a frame comes, without a pause
                continue
            if len(events) > 1:  # there was much, so there may be more: the answers come first
                let_others_run()

    def _read(self) -> list[Event]:
        before = self._clock.monotonic()
        data = self.sock.recv(self._read_size)
        now = self._clock.monotonic()
        if now - before > _WAITED:
            self._read_until = now + _SLICE
        if len(data) == self._read_size:
            self._read_size = min(_READ_MAX, 2 * self._read_size)
        elif len(data) < READ_MIN // 2:
            self._read_size = READ_MIN
        if not data:
            return self._connection.receive_eof(now)
        self._counters.bytes_in += len(data)
        return self._connection.receive_data(data, now)

    def _slice_is_over(self) -> bool:
        """Let sockets have their turn if it is time; tells whether it was."""
        monotonic = self._clock.monotonic
        if monotonic() < self._read_until:
            return False
        let_sockets_run()
        self._read_until = monotonic() + _SLICE
        return True

    def _dispatch(self, events: list[Event], owner: Inlet | Link, handler: Handler) -> None:
        counters = self._counters
        for event in events:
            if type(event) is Received:
                counters.batches_in += 1
                counters.messages_in += len(event.messages) + len(event.unmade)
                self._held_up = True
                try:
                    handler.received(owner, event.messages, event.unmade)
                except Exception:  # noqa: BLE001 - the router's mistake, of which the peer knows nothing
                    log.exception("%s: a batch of messages could not be handled", owner)
                self._slice_is_over()
                self._held_up = False
            elif isinstance(event, Leaving):
                try:
                    handler.leaving(owner.host_id, event.epoch, event.reason)
                except Exception:  # noqa: BLE001 - as above
                    log.exception("%s: its goodbye could not be handled", owner)
            elif isinstance(event, Ended):
                self.ended = True
                raise PeerDown("the peer closed the connection")
            elif isinstance(event, Failed):
                raise event.error

    def hold(self, held_up: bool) -> None:
        """Nothing is read for a while for a reason of this host's own, which does not count against the peer."""
        self._held_up = held_up

    def _tell(self) -> None:
        """Have the writer write what the connection has to say."""
        data = self._connection.data_to_send()
        if data:
            if data not in self._control:  # a peer may ask without reading the answers: one will do
                self._control.append(data)
            self.rouse()

    def _last_words(self) -> None:
        """Try to tell the peer why, if that does not have to wait."""
        data = self._connection.data_to_send()
        if data and self._writing_since is None and self.error is None:
            with suppress(OSError):
                self.sock.settimeout(0.0)
                self.sock.send(data)

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, outbox: Outbox) -> None:
        """Write what is queued, for as long as the wire lives. Runs in a greenlet of its own."""
        try:
            while self.error is None:
                self._wake.clear()
                if not self._write_some(outbox) and not self._control:
                    self._rest(outbox)
                    self._wake.wait()
        except OSError as error:
            # The reader finds what the peer may have said before it went, and ends; if not, `tick` sees to it.
            self._write_error = PeerDown(describe(error))

    def rouse(self) -> None:
        """There is something to write."""
        self._wake.set()

    def _rest(self, outbox: Outbox) -> None:
        """All is written."""
        outbox._rest()

    def _write_some(self, outbox: Outbox) -> bool:
        """Write what is queued now; tells whether that were messages."""
        if self._control:
            data = b"".join(self._control)
            self._control.clear()
            self._send(data)
        outbox._pack()
        data = outbox._head(JOIN)
        if not data:
            return False
        self._send(data, outbox)
        monotonic = self._clock.monotonic
        if monotonic() >= self._write_until:
            let_sockets_run()
            self._write_until = monotonic() + _SLICE
        elif outbox._queue:
            # Whoever has something to send in this iteration of the loop gets the chance to add it.
            let_others_run()
        return True

    def _send(self, data: bytes | memoryview, outbox: Outbox | None = None) -> None:
        if not data:
            return
        sock, counters, monotonic = self.sock, self._counters, self._clock.monotonic
        total, done = len(data), 0
        view = memoryview(data)
        while done < total:
            self._writing_since = monotonic()
            end = min(total, done + _TLS_SLICE) if self.encrypted else total
            sent = sock.send(view[done:end])
            done += sent
            counters.bytes_out += sent
            if outbox is not None:
                outbox._wrote(sent)
        self._writing_since = None

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float, *, late: bool) -> None:
        """See to what is due.

        Args:
            now: Monotonic seconds.
            late: This host has not looked for a while: what waited for it meanwhile is no fault of the peer's.
        """
        if self.error is not None:
            return
        since = self._writing_since
        if since is not None:
            if late:
                self._writing_since = now
            elif now - since >= self._limits.write:
                text = f"no byte could be written for {self._limits.write:g} s: the peer does not read"
                self.close(self._write_error or PeerSilent(text))
                return
        connection = self._connection
        if since is not None:
            connection.took(since)
        if self._held_up and connection.state is OPEN:
            if now - self._signed >= self._limits.ping:  # its pings stay unread, and it must not give us up
                self._signed = now
                self._control.append(codec.encode_frame(codec.PONG, None))
                self.rouse()
            return
        if now < connection.next_deadline():
            return
        for event in connection.check(now):
            if isinstance(event, Failed):
                self.close(event.error)
                return
        self._tell()
