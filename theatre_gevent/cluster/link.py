"""The way to another host: a queue, and a connection that is made again whenever it breaks."""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING

from gevent.event import Event as Flag

from ..errors import PeerDown, TheatreError
from ..logic.connection import Connection
from ..logs import fields
from .logs import log
from .outbox import Outbox
from .quick_wire import QuickWire
from .sockets import describe, dial, prepare
from .wire import Wire

if TYPE_CHECKING:
    from ..errors import MessageNotSerializable
    from ..logic.envelopes import Message
    from ..logic.handshake import Identity
    from .handler import Handler
    from .sockets import Address
    from .transport import Transport

_STABLE = 2.0
"""Seconds after which a connection counts as a success, so that the next one is tried without a long wait."""


class Link(Outbox):
    """One peer that this host sends to. Its greenlet connects, reads, and connects again.

    What is queued while it is not up waits for the connection at most `Limits.dial` seconds and goes to `Handler.lost`
    then. What was written but not wholly when a connection broke is written again to the next one.

    Attributes:
        host_id: Who is expected there.
        address: Where.
        is_up: It has a connection; never true before the handshake.
        last_error: Why it is not up, None if it is or has not been tried.
        peer: What the host said about itself when it was last connected, None if it never was.
    """

    def __init__(self, transport: Transport, host_id: str, address: Address, queue_size: int) -> None:
        super().__init__(queue_size, transport.limits.link_bytes, transport.clock, transport.counts)
        self.host_id = host_id
        self.address = address
        self.is_up = False
        self.last_error: TheatreError | None = None
        self.peer: Identity | None = None
        self._transport = transport
        self._wire: Wire | None = None
        self._nudge = Flag()
        self._failures = 0
        self._last_attempt = -math.inf
        self._down_since = -math.inf

    def __str__(self) -> str:
        return f"host {self.host_id!r} at {self.address}"

    def waiting(self) -> int:
        """Return how many messages are queued."""
        return self._queued()

    def unsent(self) -> list[Message]:
        """Return the messages that certainly have not arrived: queued, or not wholly written."""
        return [message for _, messages, _ in self._frames for message in messages] + self._queue

    @property
    def may_give_back(self) -> bool:
        """True if something that was sent this way may come back. From a link that is down nothing does for a while."""
        return self.is_up or self._over is not None

    # -- connecting ----------------------------------------------------------------------------------------------

    def _run(self, handler: Handler) -> None:
        """Body of its greenlet, until `_end`."""
        clock, limits, random = self._clock, self._transport.limits, self._transport.random
        while self._over is None:
            self._nudge.clear()
            began = self._last_attempt = clock.monotonic()
            error: TheatreError
            try:
                error = self._session(handler)
            except Exception as mistake:  # noqa: BLE001 - one of this library's: the next attempt may do
                log.exception("%s: the connection failed", self, extra=fields(self._transport.identity.host_id))
                error = PeerDown(f"{type(mistake).__name__}: {mistake}")
            if self._ended():
                return
            self.last_error = error
            self._failures = 0 if self._up_for(began) >= _STABLE else self._failures + 1
            delay = min(limits.retry_max, limits.retry_min * 2 ** min(self._failures, 30)) * (0.5 + random() / 2)
            timer = clock.call_later(delay, self._nudge.set)
            try:
                self._nudge.wait()
            finally:
                timer.cancel()

    def _ended(self) -> bool:
        return self._over is not None or (self._transport.leaving is not None and self._is_empty())

    def _up_for(self, began: float) -> float:
        return self._down_since - began if self._down_since > began else 0.0

    def _session(self, handler: Handler) -> TheatreError:
        """Connect and stay connected; returns why it is over."""
        transport, counters = self._transport, self._counters
        wire: Wire | None = None
        try:
            wire = self._wire = self._connect(self.address)
            peer = self.peer = wire.handshake()
        except TheatreError as error:
            self._wire = None
            if wire is not None:
                wire.close(error)
            counters.connect_failures += 1
            if self._over is None:
                transport.gate.warning(f"dial {self.host_id}", f"cannot connect to {self}: {error}")
            return error
        except BaseException:
            if wire is not None:
                wire.close(PeerDown("the transport stops"))
            raise
        transport.gate.forget(f"dial {self.host_id}")
        encrypted = ", encrypted" if wire.encrypted else ""
        log.info("connected to %s, epoch %d%s", self, peer.epoch, encrypted, extra=fields(transport.identity.host_id))
        counters.connects += 1
        self.last_error = None
        self.is_up = True
        self._armed = True
        writer = transport.spawn(f"writer to {self.host_id}", wire.write, self)
        if transport.leaving is not None:
            wire.goodbye(transport.leaving, transport.life())
        transport.call(handler.up, self.host_id)
        try:
            reason = wire.run(self, handler, writer)
        finally:
            given_up = self._rewind()
            self.is_up = False
            self._wire = None
            self._armed = bool(self._queue)  # nothing to write: the next message asks for an early attempt
            self._limit = 1
            self._down_since = self._clock.monotonic()
        if self._over is None and transport.leaving is None:
            counters.failures += not wire.ended
            level = logging.INFO if wire.ended else logging.WARNING
            log.log(level, "lost the connection to %s: %s", self, reason, extra=fields(transport.identity.host_id))
        down = PeerDown(f"the connection to {self} broke: {reason}")
        if given_up:
            text = f"several connections to {self} broke one after the other while this was being written: {reason}"
            transport.reports.lost(self.host_id, given_up, PeerDown(text))
        transport.call(handler.down, self.host_id, down)
        return reason

    def _connect(self, address: Address) -> Wire:
        transport = self._transport
        sock = dial(address, transport.limits.dial)
        if self._over is not None or self.address != address:  # meanwhile
            sock.close()
            raise self._over or PeerDown(f"its address is {self.address} now")
        try:
            prepare(sock)
        except OSError as error:  # gone already
            sock.close()
            raise PeerDown(describe(error)) from error
        connection = Connection(
            "dialler",
            transport.identity,
            nonce=os.urandom(16),
            now=self._clock.monotonic(),
            secret=transport.secret,
            expect_peer=self.host_id,
            limits=transport.limits,
        )
        kind = QuickWire if transport.client_tls is None else Wire
        wire = kind(sock, connection, self._clock, self._counters, transport.limits)
        if transport.client_tls is not None:
            wire.encrypt(transport.client_tls, address.host)
        return wire

    # -- from time to time ---------------------------------------------------------------------------------------

    def _tick(self, now: float, late: bool) -> None:
        wire = self._wire
        if wire is not None:
            wire.tick(now, late=late)
        if self.is_up:
            return
        self._pack()
        limit = self._transport.limits.dial
        if now - self._down_since >= limit:
            messages = self._take_older(now - limit)
            if messages:
                reason = self.last_error or "no connection yet"
                self._transport.reports.lost(self.host_id, messages, PeerDown(f"{self} cannot be reached: {reason}"))
        if self._frames:
            self._hurry(now)

    def _hurry(self, now: float) -> None:
        if now - self._last_attempt >= self._transport.limits.retry_early:
            self._nudge.set()

    def _move(self, address: Address) -> None:
        """The peer is elsewhere now."""
        self.address = address
        self._failures = 0
        if self._wire is not None:
            self._wire.close(PeerDown(f"its address is {address} now"))
        self._nudge.set()

    def _end(self, error: PeerDown) -> None:
        """Close it, and give what is queued to the handler."""
        if self._over is not None:
            return
        self._finish(error)
        self._nudge.set()
        if self._wire is not None:
            self._wire.close(error)
        self._undeliverable(self._take_all())

    # -- of an outbox --------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self.is_up and self._wire is not None:
            self._wire.rouse()
        else:
            self._hurry(self._clock.monotonic())

    def _watch_line(self) -> None:
        self._transport.watch_lines()

    def _refused(self, message: Message, error: MessageNotSerializable) -> None:
        self._transport.reports.lost(self.host_id, [message], error)

    def _undeliverable(self, messages: list[Message]) -> None:
        if messages:
            self._transport.reports.lost(self.host_id, messages, self._over or PeerDown("the transport has stopped"))
