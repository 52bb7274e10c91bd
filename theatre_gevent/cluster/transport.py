"""Connections to and from the other hosts, over TCP.

There is one connection per direction and peer: a `Link` for what this host sends and asks, an `Inlet` for what a peer
sends and asks, each of which carries the answers back. Both ends may thus connect at the same time without a conflict,
and a reader may stop reading what others send without holding up the answers to its own host.

A connection has one greenlet that reads and one that writes; a link's reader also connects. Without encryption the hub
does what needs no waiting in their place (`quick_wire`). A single ticker looks after all times, so nothing sets a timer
for a message.
"""

from __future__ import annotations

import socket as names
import ssl
from random import Random
from typing import TYPE_CHECKING, Any

import gevent
from gevent.hub import get_hub
from gevent.pool import Group
from greenlet import getcurrent
from msgspec.structs import replace

from ..clock import SystemClock
from ..core.remote import Internal
from ..errors import InvalidOption, PeerDown, TheatreError
from ..logic.handshake import Identity
from ..logs import fields
from .acceptor import Acceptor
from .handler import Counters, Limits
from .inlet import Inlet
from .link import Link
from .logs import LogGate, log
from .sockets import Address, is_wildcard, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gevent import Greenlet

    from ..clock import Clock, Timer
    from ..logic.envelopes import Message
    from .handler import Handler
    from .wire import Wire

__all__ = ["Inlet", "Limits", "Link", "PeerDown", "Transport"]

_LINE_TICK = 0.05  # seconds: how precise waiting for room is
_LATE = 1.0  # seconds by which a tick has to be late to be a sign that this host was stopped
_TICK = 0.25  # seconds between looks at connections, whose times are seconds


class Reports:
    """Gives messages back to the handler, from the loop: never from within the `send` that found out."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: list[tuple[str, list[Message], TheatreError]] = []

    def lost(self, host_id: str, messages: list[Message], error: TheatreError) -> None:
        """Report `messages` soon."""
        self._waiting.append((host_id, messages, error))
        if len(self._waiting) == 1:
            get_hub().loop.run_callback(self.flush)

    def flush(self) -> None:
        """Report now what has not been reported yet."""
        waiting, self._waiting = self._waiting, []
        for host_id, messages, error in waiting:
            self._transport.counts.messages_lost += len(messages)
            self._transport.call(self._transport.handler.lost, host_id, messages, error)


class Transport:
    """This host's connections. Belongs to the thread that starts it.

    Args:
        host_id: This host's id.
        listen: `host:port` to listen at; port 0 takes a free one.
        epoch: Which of its lives this is.
        advertise: `host:port` at which others reach it, if that is not where it listens; port 0 stands for the one
            that it listens at.
        cluster: Name of the cluster; hosts of another one are refused.
        secret: Shared by all hosts, text or bytes; None for none.
        server_tls: For accepted connections. Set its `verify_mode` to `ssl.CERT_REQUIRED`, or anybody may connect.
        client_tls: For connections to others; its `check_hostname` compares with the host part of their addresses.
        queue_size: Messages queued for a peer above which its senders wait.
        clock: Time; the machine's by default.
        limits: Times and bounds.
        random: Gives numbers in [0, 1) that spread the attempts to connect.

    Attributes:
        addr: `host:port` at which others reach it, after `start`.

    Raises:
        InvalidOption: One of them is not usable; the text names it.
    """

    def __init__(
        self,
        host_id: str,
        listen: str = "127.0.0.1:0",
        *,
        epoch: int = 1,
        advertise: str | None = None,
        cluster: str = "",
        secret: str | bytes | None = None,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        queue_size: int = 8192,
        clock: Clock | None = None,
        limits: Limits | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        self.listen_at = parse_address(listen, "listen")
        self.advertise = None if advertise is None else parse_address(advertise, "advertise")
        self.identity = Identity(host_id, epoch, str(self.advertise or self.listen_at), cluster)
        self.secret = _secret(secret)
        self.server_tls = _context("server_tls", server_tls)
        self.client_tls = _context("client_tls", client_tls)
        if type(queue_size) is not int or queue_size < 1:
            raise InvalidOption(f"queue_size must be an integer of 1 or more, got {queue_size!r}")
        self.clock: Clock = clock or SystemClock()
        self.limits = limits or Limits()
        self.random = random or Random().random  # nosec B311  # spreads reconnections, nothing is secret
        self.gate = LogGate(self.clock, host_id)
        self.counts = Counters()
        self.reports = Reports(self)
        self.leaving: str | None = None
        self.life: Callable[[], int] = lambda: self.identity.epoch
        """Which life this is now: after a lease was lost it is a later one than peers were told."""
        self.addr = ""
        self._queue_size = queue_size
        self._links: dict[str, Link] = {}
        self._acceptor = Acceptor(self)
        self._line_timer: Timer | None = None
        self._greenlets = Group()
        self._handler: Handler | None = None

    # -- start and stop ------------------------------------------------------------------------------------------

    def start(self, handler: Handler) -> Transport:
        """Listen, and connect to the peers that were set.

        Raises:
            CannotListen: The address is in use, say.
            TheatreError: It was started before.
        """
        if self._handler is not None:
            raise TheatreError("this transport was started before: make a new one")
        bound = self._acceptor.listen()
        self._handler = handler
        address = self.advertise or (Address(names.gethostname(), 0) if is_wildcard(bound.host) else bound)
        self.addr = str(Address(address.host, address.port or bound.port))
        self.identity = identity = replace(self.identity, address=self.addr)
        me, also = identity.host_id, "" if str(bound) == self.addr else f", as {self.addr}"
        log.info("host %r listens at %s%s", me, bound, also, extra=fields(me))
        self._acceptor.start(bound)
        self.spawn("ticker", self._tick)
        for link in self._links.values():
            self._start_link(link)
        return self

    def announce(self, reason: str) -> None:
        """Tell the peers that this host takes no new work, well before `stop`."""
        for _, wire in self._connections():
            wire.goodbye(reason, self.life())

    def set_admin_addr(self, admin_addr: str) -> None:
        """Tell peers where this host's admin server is, whenever they connect; before `start`."""
        self.identity = replace(self.identity, admin_addr=admin_addr)

    def stop(self, timeout: float = 5.0, reason: str = "the host stops") -> None:
        """Say goodbye, write what is queued, close everything. Harmless when it is not running.

        Args:
            timeout: Seconds for the writing; what is left then goes to `Handler.lost`.
            reason: For the peers.
        """
        if self._handler is None or self.leaving is not None:
            return
        self.leaving = reason
        self._acceptor.refuse_all(PeerDown(reason))
        deadline = self.clock.monotonic() + timeout
        pairs = self._connections()
        for _, wire in pairs:
            wire.goodbye(reason, self.life())
        while not self._all_written() and self.clock.monotonic() < deadline:
            self.clock.sleep(0.01)
        # Closing at once could cost the peer what it has not read yet: a socket closed with unread data sends a reset.
        pairs = self._connections()
        for owner, wire in pairs:
            if wire.is_idle(owner):
                wire.finish()
        until = min(max(deadline, self.clock.monotonic() + 0.1), self.clock.monotonic() + self.limits.linger)
        while any(wire.error is None for _, wire in pairs) and self.clock.monotonic() < until:
            self.clock.sleep(0.01)
        self._close(PeerDown(reason))

    def abandon(self) -> None:
        """In a forked child: let go of all sockets without a word. They are the parent's, which uses them."""
        self.leaving = "this process was forked from the one that has the connections"
        wires = [*self._acceptor.wires, *(link._wire for link in self._links.values() if link._wire is not None)]
        self._acceptor.abandon()
        for wire in wires:
            wire.abandon()
        self._greenlets.kill(block=False)

    def _close(self, error: PeerDown) -> None:
        for link in self._links.values():
            link._end(error)
        self._acceptor.close(error)
        me = getcurrent()
        if isinstance(me, gevent.Greenlet):
            self._greenlets.discard(me)  # a handler that stops the transport must not wait for itself
        self._greenlets.kill()
        self.reports.flush()
        self._greenlets.join()
        if self._line_timer is not None:
            self._line_timer.cancel()
        log.info(
            "host %r does not listen at %s any more",
            self.identity.host_id,
            self.addr,
            extra=fields(self.identity.host_id),
        )

    def _connections(self) -> list[tuple[Link | Inlet, Wire]]:
        pairs: list[tuple[Link | Inlet, Wire]] = [
            (link, link._wire) for link in self._links.values() if link.is_up and link._wire is not None
        ]
        return pairs + [(inlet, inlet._wire) for inlet in self.inlets()]

    def _all_written(self) -> bool:
        waiting = any(not link.is_up and not link._is_empty() for link in self._links.values())
        return not waiting and all(wire.error is not None or wire.is_idle(owner) for owner, wire in self._connections())

    # -- peers ---------------------------------------------------------------------------------------------------

    def set_peers(self, peers: Mapping[str, str]) -> None:
        """Set whom this host sends to, as host id and `host:port`; may be called at any time, before `start` too.

        New ones are connected to, those that are missing are dropped and what was queued for them goes to
        `Handler.lost`, changed addresses are connected to anew with their queue kept. This host's own id is
        passed over.

        Raises:
            InvalidOption: An address is not usable. Nothing has changed then.
        """
        wanted = {
            host_id: parse_address(address, f"address of host {host_id!r}")
            for host_id, address in peers.items()
            if host_id != self.identity.host_id
        }
        for host_id in [host_id for host_id in self._links if host_id not in wanted]:
            link = self._links.pop(host_id)
            link._end(PeerDown(f"host {host_id!r} is not a member any more"))
            self.gate.forget(f"dial {host_id}")
        for host_id, address in wanted.items():
            existing = self._links.get(host_id)
            if existing is None:
                link = self._links[host_id] = Link(self, host_id, address, self._queue_size)
                if self._handler is not None and self.leaving is None:
                    self._start_link(link)
            elif existing.address != address:
                existing._move(address)

    def link(self, host_id: str) -> Link | None:
        """Return the way to `host_id`, None if it is no peer."""
        return self._links.get(host_id)

    def links(self) -> list[Link]:
        """Return all of them."""
        return list(self._links.values())

    def inlets(self) -> list[Inlet]:
        """Return the connections that peers have made."""
        return [inlet for inlet, _ in self._acceptor.inlets.values()]

    def counters(self) -> dict[str, int]:
        """Return what was counted since the beginning, see `Counters`."""
        return self.counts.as_dict()

    def _start_link(self, link: Link) -> None:
        self.spawn(f"link to {link.host_id}", link._run, self.handler)

    # -- for links and inlets ------------------------------------------------------------------------------------

    @property
    def handler(self) -> Handler:
        """What `start` was given."""
        assert self._handler is not None, "nothing happens before start"
        return self._handler

    def spawn(self, name: str, function: Callable[..., Any], *args: Any) -> Greenlet[..., Any]:
        """Run `function` in a greenlet that ends with the transport."""
        greenlet: Greenlet[..., Any] = Internal(function, *args)
        greenlet.name = f"{self.identity.host_id}: {name}"
        self._greenlets.start(greenlet)
        return greenlet

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call the handler; what it raises is logged and harms no connection."""
        try:
            function(*args)
        except Exception:  # noqa: BLE001 - the router's mistake
            log.exception(
                "host %r: the transport's handler failed", self.identity.host_id, extra=fields(self.identity.host_id)
            )

    # -- from time to time ---------------------------------------------------------------------------------------

    def _tick(self) -> None:
        clock = self.clock
        # A connection that nobody looks at for a `ping` takes that for a pause of this host's.
        every = min(_TICK, self.limits.ping / 4)
        now = clock.monotonic()
        while True:
            due = now + every
            clock.sleep(every)
            now = clock.monotonic()
            late = now - due > _LATE
            for link in list(self._links.values()):
                link._tick(now, late)
            for wire in list(self._acceptor.wires):
                wire.tick(now, late=late)

    def watch_lines(self) -> None:
        """A sender waits for room: see to it that it does not wait for too long."""
        if self._line_timer is None:
            self._line_timer = self.clock.call_later(_LINE_TICK, self._look_at_lines)

    def _look_at_lines(self) -> None:
        self._line_timer = None
        now = self.clock.monotonic()
        for link in self._links.values():
            if link._line:
                link._look_at_line(now)
        if any(link._line for link in self._links.values()):
            self.watch_lines()


def _secret(secret: object) -> bytes | None:
    if secret is None:
        return None
    if not isinstance(secret, (str, bytes)) or not secret:
        raise InvalidOption("secret must be text or bytes that are not empty, or None for none")
    try:
        return secret.encode() if isinstance(secret, str) else secret
    except UnicodeEncodeError:
        raise InvalidOption("secret has characters that UTF-8 has not: give it as bytes") from None


def _context(name: str, context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    # Not by its class: one that was made before the program was patched is as good, and is no heir of the patched one.
    if context is None or hasattr(context, "wrap_bio"):
        return context
    raise InvalidOption(f"{name} must be an ssl.SSLContext or None, got a {type(context).__name__}")
