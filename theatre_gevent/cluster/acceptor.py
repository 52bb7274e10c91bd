"""The accepting side of a transport: strangers until they have shaken hands, inlets from then on."""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent
from msgspec.structs import replace

from ..config import is_loopback
from ..errors import PeerDown, TheatreError
from ..logic.connection import Connection
from ..logs import fields
from ..pauses import let_others_run
from .inlet import Inlet
from .logs import log
from .quick_wire import QuickWire
from .sockets import Address, is_out_of_files, listen, prepare
from .wire import Wire

if TYPE_CHECKING:
    from gevent import Greenlet

    from ..logic.handshake import Identity
    from .sockets import Socket
    from .transport import Transport


class Acceptor:
    """Listens, and keeps what was accepted.

    Args:
        transport: Whose part it is.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._listener: Socket | None = None
        self._accepting: Greenlet[..., Any] | None = None
        self._strangers: dict[Wire, None] = {}  # in the order they came
        self.wires: set[Wire] = set()
        self.inlets: dict[str, tuple[Inlet, Greenlet[..., Any]]] = {}
        """One for each peer, with the greenlet that reads it."""

    def listen(self) -> Address:
        """Take the address; returns it with its port.

        Raises:
            CannotListen: It is in use, say.
        """
        wanted = self._transport.listen_at
        self._listener = listen(wanted)
        return Address(wanted.host, self._listener.getsockname()[1])

    def start(self, bound: Address) -> None:
        """Accept connections."""
        self._warn_if_open(bound)
        assert self._listener is not None
        self._accepting = self._transport.spawn("acceptor", self._accept, self._listener)

    def refuse_all(self, error: PeerDown) -> None:
        """Accept no more; those who have not shaken hands yet are closed."""
        if self._accepting is not None:
            self._accepting.kill()
        if self._listener is not None:
            self._listener.close()
        for wire in list(self._strangers):
            wire.close(error)

    def abandon(self) -> None:
        """In a forked child: listen no more, which the parent does still."""
        if self._listener is not None:
            self._listener.close()

    def close(self, error: PeerDown) -> None:
        """Close the inlets too."""
        for inlet, _ in list(self.inlets.values()):
            inlet._end(error)
        for wire in list(self.wires):
            wire.close(error)

    def _accept(self, listener: Socket) -> None:
        transport = self._transport
        while True:
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if transport.leaving is not None:
                    return
                text = f"host {transport.identity.host_id!r} cannot accept connections at {transport.addr} now: {error}"
                transport.gate.warning("accept", text)
                # Without a file to spare, the connection stays in the system's queue: trying at once would spin.
                transport.clock.sleep(0.2 if is_out_of_files(error) else 0.01)
                continue
            try:
                prepare(sock)
            except OSError:  # it is gone already
                sock.close()
                continue
            self._welcome(sock)
            let_others_run()

    def _welcome(self, sock: Socket) -> None:
        transport = self._transport
        if len(self._strangers) >= transport.limits.strangers:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.close(PeerDown(f"more than {transport.limits.strangers} connections have not shaken hands"))
        connection = Connection(
            "acceptor",
            transport.identity,
            nonce=os.urandom(16),
            now=transport.clock.monotonic(),
            secret=transport.secret,
            admit=self._admit,
            # It asks later than the dialler: one of them is enough.
            limits=replace(transport.limits, ping=transport.limits.ping * 1.5),
        )
        kind = QuickWire if transport.server_tls is None else Wire
        wire = kind(sock, connection, transport.clock, transport.counts, transport.limits)
        self._strangers[wire] = None
        self.wires.add(wire)
        transport.spawn(f"inlet from {wire.where}", self._serve, wire)

    def _serve(self, wire: Wire) -> None:
        """Body of an accepted connection's greenlet."""
        transport = self._transport
        try:
            try:
                if transport.server_tls is not None:
                    wire.encrypt(transport.server_tls, None)
                peer = wire.handshake()
            except TheatreError as error:
                transport.counts.refusals += 1
                if transport.leaving is None:
                    what = getattr(error, "code", None) or type(error).__name__
                    kind = f"{what} {wire.where.rpartition(':')[0]}"
                    transport.gate.warning(
                        kind, f"host {transport.identity.host_id!r} refused a connection from {wire.where}: {error}"
                    )
                return
            finally:
                self._strangers.pop(wire, None)
            self._serve_peer(wire, peer)
        finally:
            wire.close(PeerDown("the connection has ended"))
            self.wires.discard(wire)

    def _serve_peer(self, wire: Wire, peer: Identity) -> None:
        transport = self._transport
        inlet = Inlet(peer, wire, transport.clock, transport.counts, transport.limits, transport.reports)
        former = self.inlets.get(peer.host_id)
        me: Any = getcurrent()
        self.inlets[peer.host_id] = inlet, me
        transport.counts.accepts += 1
        extra = fields(transport.identity.host_id)
        log.info("%s connected, epoch %d, reached at %s", inlet, peer.epoch, peer.address, extra=extra)
        try:
            inlet._armed = True
            if transport.leaving is not None:
                wire.goodbye(transport.leaving, transport.life())
            # It writes from now on, so that the peer does not give up a connection that nobody reads yet.
            writer = transport.spawn(f"writer to {wire.where}", wire.write, inlet)
            if former is not None:
                # What it has read is handled first, or a sender's messages could overtake each other.
                former[0]._end(PeerDown("the peer has connected anew"))
                wire.hold(True)
                former[1].join()
                wire.hold(False)
            error = wire.run(inlet, transport.handler, writer)
            if transport.leaving is None and not inlet.closed:
                transport.counts.failures += not wire.ended
                level = logging.INFO if wire.ended else logging.WARNING
                log.log(level, "%s is disconnected: %s", inlet, error, extra=extra)
        finally:
            inlet._end(PeerDown("the connection has ended"))
            entry = self.inlets.get(peer.host_id)
            if entry is not None and entry[0] is inlet:
                del self.inlets[peer.host_id]

    def _admit(self, peer: Identity) -> str | None:
        transport = self._transport
        try:
            refusal = transport.handler.admit(peer)  # it may take its time, others connect meanwhile
        except Exception as error:  # noqa: BLE001 - the router's mistake: in doubt, nobody comes in
            log.exception(
                "host %r: the transport's handler failed",
                transport.identity.host_id,
                extra=fields(transport.identity.host_id),
            )
            return f"the host could not decide: {type(error).__name__}"
        entry = self.inlets.get(peer.host_id)
        if refusal is None and entry is not None and not entry[0].closed:
            present = entry[0].peer
            if peer.epoch < present.epoch:
                return f"epoch {peer.epoch} is over, epoch {present.epoch} is connected from {present.address}"
            if peer.epoch == present.epoch and peer.address != present.address:
                return f"host id {peer.host_id!r} is used twice: {present.address} is connected with the same epoch"
        return refusal

    def _warn_if_open(self, bound: Address) -> None:
        transport = self._transport
        authenticated = transport.server_tls is not None and transport.server_tls.verify_mode == ssl.CERT_REQUIRED
        if transport.secret is None and not authenticated and not is_loopback(bound.host):
            log.warning(
                "host %r listens at %s without a shared secret and without TLS that demands a certificate: "
                "whoever reaches that address can send messages to its actors",
                transport.identity.host_id,
                bound,
                extra=fields(transport.identity.host_id),
            )
