"""The way to actors on other hosts, and what comes back from there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from ..core.context import OPEN, Context, Failure, Request
from ..core.remote import Asked
from ..core.requests import waiting_refs
from ..errors import InboxFull, NoOwner, RemoteActorError, TheatreError
from ..logic import envelopes
from ..logic.bodies import pack_body
from ..logic.routing import RETRIED, Forward, NoRoute, Retry, decide, decide_retry
from .incoming import Incoming, unpack
from .inlet import Inlet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.dispatcher import Dispatcher
    from ..logic.handshake import Identity
    from ..messages import Ref
    from .link import Link
    from .membership import RingOnlyCluster
    from .transport import Transport

log = logging.getLogger("theatre_gevent.cluster")

_NOT_TAKEN = RETRIED | {envelopes.INBOX_FULL, envelopes.UNREGISTERED, envelopes.BAD_BODY}
"""Codes of hosts that did not accept a request."""


_MAX_WAYS = 1 << 18
"""Placements remembered at most."""


class ClusterRouter:
    """Routes by the ring, remembers placements, and retries what comes back.

    Args:
        dispatcher: Delivers what belongs here.
        cluster: Who the members are.
        transport: Links to them.
        placement_ttl: Seconds for which a placement is remembered.
    """

    def __init__(
        self, dispatcher: Dispatcher, cluster: RingOnlyCluster, transport: Transport, placement_ttl: float
    ) -> None:
        self._dispatcher = dispatcher
        self._cluster = cluster
        self._transport = transport
        # Placements that are remembered: forgotten all at once when they get old, which costs a look at the ring each,
        # so that the look-up of every message is one dict access.
        self._ways: dict[Ref, Link] = {}
        self._ways_until = 0.0
        self._ttl = placement_ttl
        self._incoming = Incoming(dispatcher, self)
        self._pending: dict[int, Request] = {}
        self._seq = 0
        self.host_id = cluster.host_id
        self.taken = 0
        self.forwarded = 0
        self.requests = 0
        self.dropped = 0
        self.returned = 0
        cluster.on_change(self._members_changed)
        self._members_changed()

    def counters(self) -> dict[str, int]:
        """Return what `METRICS` calls the cluster's counters."""
        return {
            "messages_forwarded": self.forwarded,
            "messages_arrived": self._incoming.arrived,
            "messages_returned": self.returned,
            "peers_up": sum(link.is_up for link in self._transport.links()),
            "placements_cached": len(self._ways),
        }

    def _members_changed(self) -> None:
        self._ways.clear()
        self._transport.set_peers({h: a for h, a in self._cluster.hosts.items() if h != self.host_id})

    # -- where to ----------------------------------------------------------------------------------------------

    def is_elsewhere(self, ref: Ref) -> bool:
        """Tell whether an actor that is not active here belongs to another host."""
        owner = self._cluster.ring.owner(ref)
        return owner is not None and owner != self.host_id

    def way(self, ref: Ref) -> Link | None:
        """Return the way to an actor that is not active here, None if it belongs here.

        Raises:
            InvalidRef: `ref` is not a Ref.
            NoOwner: Nobody can take it.
        """
        try:
            link = self._ways.get(ref)
        except TypeError:
            link = None  # not hashable: not a Ref
        if link is None or self._dispatcher.now >= self._ways_until:
            return self._find(self._dispatcher.registry.check(ref))
        return link

    def _find(self, ref: Ref, avoid: str | None = None) -> Link | None:
        chosen = self._cluster.ring.owner(ref)
        decision = decide(
            self.host_id, active=False, cached=None, owner=None, chosen=chosen, live=self._cluster.hosts, avoid=avoid
        )
        if isinstance(decision, NoRoute):
            raise NoOwner(f"{ref} has no owner: {decision.reason}")
        if not isinstance(decision, Forward):
            return None
        link = self._transport.link(decision.host_id)
        if link is None:
            raise NoOwner(f"{ref} belongs to host {decision.host_id!r}, which this host has no address of")
        now = self._dispatcher.now
        if now >= self._ways_until or len(self._ways) >= _MAX_WAYS:
            self._ways.clear()
            self._ways_until = now + self._ttl
        self._ways[ref] = link
        return link

    def _evict(self, ref: Ref, host_id: str) -> None:
        """Forget a way that led to the wrong host; not one that has been found since."""
        link = self._ways.get(ref)
        if link is not None and link.host_id == host_id:
            del self._ways[ref]

    # -- out ---------------------------------------------------------------------------------------------------

    def send(self, way: Link, ref: Ref, body: object, sender: Ref | None) -> None:
        """Send a message that way. Waits while it is full."""
        packed = pack_body(body)
        if way.full:
            self._wait_for_room(way, self._dispatcher.request_timeout)
        way.send(envelopes.Send(ref, packed, sender))
        self.taken += 1
        self.forwarded += 1

    def ask(self, way: Link, ref: Ref, request: Request) -> None:
        """Send a request likewise; the reply completes it."""
        packed = pack_body(request.message)
        chain = None if request.parent is None else waiting_refs(request.parent)
        self._seq = seq = self._seq + 1
        asked: Any = Asked(ref, seq, packed, chain)
        request._activation = asked
        if way.full:
            dispatcher = self._dispatcher
            self._wait_for_room(way, min(dispatcher.request_timeout, request.deadline - dispatcher.monotonic()))
        self._pending[seq] = request
        self.taken += 1
        self.requests += 1
        self.forwarded += 1
        self._ask(way, asked, request)

    def _wait_for_room(self, way: Link, timeout: float) -> None:
        if getcurrent() is self._dispatcher.hub:
            raise InboxFull(f"too much is queued for {way}, and the hub can't wait")
        way.wait_for_room(timeout)

    def _ask(self, link: Link, asked: Asked, request: Request) -> None:
        asked.host_id = link.host_id
        left = request.deadline - self._dispatcher.monotonic()
        headers = None
        if asked.chain is not None or asked.attempt:
            headers = envelopes.Headers(attempt=asked.attempt, chain=asked.chain)
        link.send(envelopes.Request(asked.ref, asked.body, asked.seq, max(0.0, left), request.sender, headers))

    def forget(self, request: Request) -> None:
        """The requester goes on: a reply that comes later is late."""
        asked: Any = request._activation
        if type(asked) is Asked:
            self._pending.pop(asked.seq, None)

    # -- back --------------------------------------------------------------------------------------------------

    def received(self, source: Inlet | Link, messages: Sequence[Any], unmade: Sequence[Any]) -> None:
        """Take a batch from a connection, in the greenlet that reads it."""
        if isinstance(source, Inlet):
            self._incoming.received(source, messages, unmade)
            return
        epoch, pending, dispatcher = self._cluster.epoch, self._pending, self._dispatcher
        resumes = dispatcher.resumes
        for message in messages:
            kind = type(message)
            if kind is envelopes.Returned:
                self._came_back(source.host_id, message)
            elif kind is not envelopes.Reply and kind is not envelopes.Failure:
                log.warning("host %s sent a %s where only replies belong", source.host_id, kind.__name__)
            elif message.epoch != epoch:
                dispatcher.replies_late += 1
            else:
                request = pending.pop(message.seq, None)
                if request is None or request.result is not OPEN:
                    self._late(message)
                elif kind is envelopes.Reply:
                    request.result = message.body
                    resumes.append(request)
                else:
                    self._failed(source.host_id, request, message)
        if resumes and not dispatcher.armed:
            dispatcher.arm()
        for message, reason in unmade:
            if type(message) is envelopes.Returned:
                self.returned += 1
                self.forwarded -= 1
                reason = f"it came back from host {source.host_id!r}, and its body can't be made here: {reason}"
                self._lose(message.ref, None, message.sender, reason, None)
                continue
            if getattr(message, "epoch", epoch) != epoch:
                continue  # it answers a request of an earlier life
            request = self._pending.pop(getattr(message, "seq", -1), None)
            if request is not None:
                error = RemoteActorError("BadBody", f"its reply can't be made here: {reason}", request._activation.ref)
                self._dispatcher.complete(request, Failure(error))

    def _late(self, message: envelopes.Reply | envelopes.Failure) -> None:
        self._dispatcher.replies_late += 1
        if type(message) is envelopes.Failure and message.code in _NOT_TAKEN:
            self._take_back()

    def _take_back(self) -> None:
        """A message did not go to another host after all."""
        self.forwarded -= 1
        self.taken -= 1

    def _failed(self, host_id: str, request: Request, failure: envelopes.Failure) -> None:
        asked: Any = request._activation
        code = failure.code
        if code not in RETRIED:
            if code in _NOT_TAKEN:
                self._take_back()
            self._dispatcher.complete(request, Failure(envelopes.error_of(failure, asked.ref)))
            return
        self.returned += 1
        left = request.deadline - self._dispatcher.monotonic()
        verdict = decide_retry(code, asked.attempt, host_id, left)
        self._evict(asked.ref, host_id)
        if isinstance(verdict, Retry):
            asked.attempt += 1
            asked.host_id = ""  # nobody has it now; a host that goes down meanwhile does not take it along
            self._pending[asked.seq] = request
            self._dispatcher.clock.call_later(verdict.delay, lambda: self._ask_again(request, host_id))
            return
        self._take_back()
        error = envelopes.error_of(failure, asked.ref)
        if code == envelopes.NOT_HERE:
            error = NoOwner(f"{asked.ref} has no owner: {verdict.reason}")
        self._dispatcher.complete(request, Failure(error))

    def _ask_again(self, request: Request, avoid: str) -> None:
        """In the hub: a request that was not taken goes where its actor is now."""
        asked: Any = request._activation
        if request.result is not OPEN:
            self._take_back()
            return
        try:
            activation = self._dispatcher.actors.get(asked.ref)
            link = None if activation is not None else self._find(asked.ref, avoid)
            if link is not None:
                self._ask(link, asked, request)
                return
            self._pending.pop(asked.seq, None)
            request._activation = self._dispatcher.registry.activate(asked.ref)
            self._take_back()
            self.requests -= 1
            self._dispatcher.requests_queued += 1
            self._deliver_here(request)
        except TheatreError as error:
            self._pending.pop(asked.seq, None)
            self._take_back()
            self._dispatcher.complete(request, Failure(error))

    def _deliver_here(self, ctx: Context) -> None:
        dispatcher = self._dispatcher
        refusal = dispatcher.backpressure.refusal()
        if refusal is not None:
            dispatcher.registry.forget_unused(ctx._activation)
            self._dispatcher.accepted += 1
            dispatcher.lifecycle.fail(ctx, "the host takes no messages any more", refusal, refusal)
        elif not dispatcher.deliver(ctx._activation, ctx):
            dispatcher.backpressure.park(ctx._activation, ctx, self._was_parked)

    def _was_parked(self, ctx: Context, error: TheatreError | None) -> None:
        if error is not None:
            self._dispatcher.accepted += 1
            self._dispatcher.lifecycle.fail(ctx, str(error), error, error)

    def _came_back(self, host_id: str, message: envelopes.Returned) -> None:
        """A plain message was not taken. It stays counted as forwarded while it waits for its next attempt."""
        self.returned += 1
        headers = message.headers or envelopes.Headers()
        verdict = decide_retry(message.code, headers.attempt, host_id, self._dispatcher.request_timeout)
        self._evict(message.ref, host_id)
        if isinstance(verdict, Retry):
            headers.attempt += 1
            message.headers = headers
            self._dispatcher.clock.call_later(verdict.delay, lambda: self._send_again(message, host_id))
            return
        self.forwarded -= 1
        self._lose(message.ref, message.body, message.sender, message.text or verdict.reason, None)

    def _send_again(self, message: envelopes.Returned, avoid: str) -> None:
        ref, body, sender = message.ref, message.body, message.sender
        try:
            activation = self._dispatcher.actors.get(ref)
            link = None if activation is not None else self._find(ref, avoid)
            if link is not None:
                link.send(envelopes.Send(ref, pack_body(body), sender, message.headers))
                return
            activation = self._dispatcher.registry.activate(ref)
        except TheatreError as error:
            self.forwarded -= 1
            self._lose(ref, body, sender, str(error), error)
            return
        self._take_back()
        self._deliver_here(Context(activation, body, sender))

    def _lose(self, ref: Ref, body: Any, sender: Ref | None, reason: str, error: BaseException | None) -> None:
        """A plain message is lost on its way."""
        self.dropped += 1
        self._dispatcher.lifecycle.report(ref, body, sender, reason, error)

    # -- links come and go -------------------------------------------------------------------------------------

    def admit(self, identity: Identity) -> str | None:
        """Return why a peer is refused, None if it is welcome."""
        if identity.host_id not in self._cluster.hosts:
            return f"host {identity.host_id!r} is not a member of this cluster"
        return None

    def up(self, host_id: str) -> None:
        """A link has connected."""
        log.info("host %s: connected to %s", self.host_id, host_id)

    def leaving(self, host_id: str, reason: str) -> None:
        """A peer takes no new work."""
        log.info("host %s: %s leaves: %s", self.host_id, host_id, reason)
        self._ways = {ref: link for ref, link in self._ways.items() if link.host_id != host_id}

    def down(self, host_id: str, error: BaseException) -> None:
        """A link has lost its connection: what was written may have been handled, and will not be answered."""
        waiting = {getattr(message, "seq", None) for message in self._unsent(host_id)}
        for seq, request in list(self._pending.items()):
            asked: Any = request._activation
            if asked.host_id == host_id and seq not in waiting and request.result is OPEN:
                del self._pending[seq]
                text = f"host {host_id!r} was lost while it had a request for {asked.ref}: {error}"
                self._dispatcher.complete(request, Failure(NoOwner(text)))

    def _unsent(self, host_id: str) -> Sequence[Any]:
        link = self._transport.link(host_id)
        return [] if link is None else link.unsent()

    def lost(self, host_id: str, messages: Sequence[Any], error: BaseException) -> None:
        """Messages were certainly never sent: plain ones become dead letters, askers are told."""
        for message in messages:
            if type(message) is envelopes.Returned:
                self._incoming.keep(message, error)  # it could not even be given back
                continue
            self.forwarded -= 1
            text = f"host {host_id!r} can't be reached: {error}"
            if type(message) is envelopes.Send:
                body = unpack(message.body)
                self._lose(message.ref, body, message.sender, text, error)
            elif type(message) is envelopes.Request:
                self.taken -= 1
                request = self._pending.pop(message.seq, None)
                if request is not None:
                    failure = error if isinstance(error, TheatreError) else NoOwner(text)
                    self._dispatcher.complete(request, Failure(failure))
