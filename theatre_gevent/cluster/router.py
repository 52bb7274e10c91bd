"""The way to actors on other hosts: where a message goes, and how it gets there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gevent.event import Event
from greenlet import getcurrent

from ..core import native
from ..core.context import Request
from ..core.counters import CLUSTER_ZEROS
from ..core.remote import Asked
from ..core.requests import waiting_refs
from ..errors import InboxFull, NoOwner, PeerDown
from ..logic import envelopes
from ..logic.bodies import pack_body
from ..logic.routing import decide, why_nobody
from ..logs import fields
from ..messages import InitReason
from .barriers import Barriers
from .claiming import Claiming
from .detours import Arrived, Detour, Detours, HeldSend
from .incoming import Incoming
from .inlet import Inlet
from .returning import Returning
from .settling import Settling
from .ways import Ways

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..core.dispatcher import Dispatcher
    from ..errors import TheatreError
    from ..logic.handshake import Identity
    from ..logic.schedules import Firing
    from ..messages import Ref
    from .link import Link
    from .membership import Membership
    from .ownership import OwnershipStore
    from .transport import Transport

log = logging.getLogger("theatre_gevent.cluster")

SEND, REQUEST = envelopes.Send, envelopes.Request

MUST_CLAIM: Any = object()
"""A place that is here once the actor has been claimed."""


class ClusterRouter(Ways):
    """Routes by the ring, remembers placements, and takes care of what comes back.

    Args:
        dispatcher: Delivers what belongs here.
        cluster: Who the members are.
        transport: Links to them.
        placement_ttl: Seconds for which a placement is remembered.
        store: Where ownership is written down; None if the ring alone says who owns what.

    Attributes:
        pending: Requests that other hosts have, by number.
        detours: Messages that can't go on yet.
        claiming: What this host owns by claim; None if the ring alone says so.
        opened: Set when the host has started: what arrives before waits.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        cluster: Membership,
        transport: Transport,
        placement_ttl: float,
        store: OwnershipStore | None = None,
    ) -> None:
        super().__init__(dispatcher, placement_ttl)
        self.cluster = cluster
        self.transport = transport
        self._goodbyes: set[str] = set()
        """Who has said goodbye since it was connected to: it says so on each connection."""
        self.detours = Detours(dispatcher)
        self._detoured = self.detours.by_ref
        self.settling = Settling(self)
        self.claiming = None if store is None else Claiming(self, store)
        self._incoming = Incoming(dispatcher, self)
        self._returning = Returning(self)
        self.barriers = Barriers(dispatcher.clock, self._next_seq)
        self.pending: dict[int, Request] = {}
        self._seq = 0
        self.host_id = cluster.host_id
        self.taken = 0
        self.forwarded = 0
        self.requests = 0
        self.dropped = 0
        self.returned = 0
        self.is_leaving = False
        self.opened = Event()

    def join(self) -> None:
        """Connect to the members from now on, and follow their changes."""
        self.cluster.on_change(self._members_changed)
        self._members_changed()

    def counters(self) -> dict[str, int]:
        """Return what `METRICS` calls the cluster's counters."""
        claims = {} if self.claiming is None else self.claiming.counters()
        return {
            **CLUSTER_ZEROS,
            "messages_forwarded": self.forwarded,
            "messages_arrived": self._incoming.arrived,
            "messages_returned": self.returned,
            "peers_up": sum(link.is_up for link in self.transport.links()),
            "placements_cached": len(self._ways),
            "messages_held": self.detours.held,
            **claims,
        }

    def _members_changed(self) -> None:
        self._forget_ways()
        self.transport.set_peers({h: a for h, a in self.cluster.hosts.items() if h != self.host_id})

    # -- where to ----------------------------------------------------------------------------------------------

    def is_elsewhere(self, ref: Ref) -> bool:
        """Tell whether an actor that is not active here belongs to another host, as far as is known."""
        if ref in self._ways:
            return True
        owner = self.cluster.ring.owner(ref)
        return owner is not None and owner != self.host_id

    def way(self, ref: Ref) -> Link | Detour | None:
        """Return the way to an actor that is not active here, None if it belongs here.

        Raises:
            InvalidRef: `ref` is not a Ref.
            NoOwner: Nobody can take it.
            UnregisteredActorType: It would live here, and nobody registered its type.
        """
        try:
            link = self._ways.get(ref)
        except TypeError:
            link = None  # not hashable: not a Ref
        if link is None or self.dispatcher.now >= self._ways_until:
            return self._find(self.dispatcher.registry.check(ref))
        return link

    def _find(self, ref: Ref) -> Link | Detour | None:
        if self._detoured and (detour := self._detoured.get(ref)) is not None:
            return detour
        if self.dispatcher.now >= self._ways_until:
            self._forget_ways()
        old = self._old_ways.pop(ref, None) if self._old_ways else None
        if old is not None and not old.may_give_back:
            old = None
        if old is not None and self.cluster.ring.owner(ref) in (self.host_id, None):
            self.dispatcher.registry.type_of(ref)  # who can't send anyway is told at once
            return self._turn_off(ref, old)  # before it can come alive here, which nothing in this host would wait for
        place = self.place(ref)
        if old is not None and place is not old:
            return self._turn_off(ref, old)
        return self.claim(ref) if place is MUST_CLAIM else place

    def _turn_off(self, ref: Ref, old: Link) -> Detour:
        """Hold what is for an actor: what was sent the old way may come back, and nothing must go past it."""
        self.leave_way(ref)
        waiting = self.detours.open(ref)
        self.await_rest(waiting, [old])
        return waiting

    def await_rest(self, detour: Detour, links: Sequence[Link | None], delay: float = 0.0) -> bool:
        """Go on with a detour when nothing can come back any more from `links`, and `delay` seconds later.

        Returns:
            True if there is anything to await.
        """
        awaited = detour.awaited
        for link in links:
            if link is None or link.host_id in awaited or not link.may_give_back:
                continue
            host_id = link.host_id

            def over(owner: str | None, host_id: str = host_id) -> None:
                awaited.discard(host_id)
                if owner is not None:
                    detour.owner = owner
                if not awaited:
                    self.go_on(detour, delay)

            awaited.add(host_id)
            self.barriers.ask(detour.ref, link, over)
        return bool(awaited)

    def go_on(self, detour: Detour, delay: float) -> None:
        """Look where a detour leads, `delay` seconds later, unless something is to be awaited by then."""
        self.dispatcher.clock.call_later(delay, lambda: None if detour.awaited else self.settling.again(detour))

    def keeps_actors(self) -> bool:
        """Tell whether what is active here is this host's by claim, and will be for a while."""
        return self.claiming is not None and not self.is_leaving and self.dispatcher.backpressure.is_open()

    def place(self, ref: Ref, owner: str | None = None) -> Link | None:
        """Decide where an actor is that is not active here.

        Args:
            ref: The actor.
            owner: The host that is said to own it, instead of the one that the ring names.

        Returns:
            The way there; None if it is here, and `MUST_CLAIM` if it will be once it has been claimed.

        Raises:
            NoOwner: Nobody can take it.
            UnregisteredActorType: It would live here, and nobody registered its type.
        """
        chosen = self.cluster.ring.owner(ref) or self.host_id  # the last one that leaves has nobody else
        live = self.cluster.hosts
        host_id = decide(owner, chosen, live)
        if host_id is None:
            raise NoOwner(f"{ref} has no owner: {why_nobody(owner, chosen, live)}")
        if host_id != self.host_id:
            link = self.transport.link(host_id)
            if link is None:
                raise NoOwner(f"{ref} belongs to host {host_id!r}, which this host has no address of")
            self.learn(ref, link)
            return link
        if self.claiming is None:
            return None
        self.dispatcher.registry.type_of(ref)
        return None if self._take_back(ref) else MUST_CLAIM

    def _take_back(self, ref: Ref) -> bool:
        """Have an actor come alive again that was about to be given back; tells whether that was in time."""
        if self.claiming is None or not self.claiming.take_back(ref):
            return False
        activation = self.dispatcher.registry.activate(ref)
        self.dispatcher.lifecycle.reasons[activation] = InitReason.REACTIVATION
        return True

    def claim(self, ref: Ref) -> Detour:
        """Claim an actor for this host; what comes for it meanwhile waits."""
        assert self.claiming is not None
        detour = self.detours.open(ref)
        self.claiming.claim(ref)
        return detour

    def acquire(self, ref: Ref, deadline: float) -> None:
        """Wait until an actor that is not active here may be activated here.

        Raises:
            NoOwner: It belongs to another host.
            RequestTimeout: It was not decided in time.
        """
        while ref not in self.dispatcher.actors:
            way = self.way(ref)
            if way is None:
                return
            if not isinstance(way, Detour):
                raise NoOwner(f"{ref} belongs to another host and can't be activated here")
            self.detours.wait(way, deadline, is_caller=True)

    # -- out ---------------------------------------------------------------------------------------------------

    def send(
        self, way: Link | Detour, ref: Ref, body: object, sender: Ref | None, firing: Firing | None = None
    ) -> None:
        """Send a message that way, perhaps one from a schedule. Waits while it is full."""
        headers = None if firing is None else envelopes.Headers(schedule=firing)
        if type(way) is Detour:
            if way.full:
                self.detours.wait(way, self.dispatcher.monotonic() + self.dispatcher.request_timeout)
                if firing is not None:
                    raise InboxFull(f"too many messages waited for {ref} to be placed; now there is room")
                self.dispatcher.send(ref, body, sender)
                return
            self.detours.hold(way, HeldSend(body, sender, headers))
        else:
            packed = pack_body(body)
            link: Any = way
            if link.full and not self._wait_for_room(link, ref, self.dispatcher.request_timeout):
                if firing is not None:
                    raise InboxFull(f"{ref} was placed elsewhere while its message waited for room")
                self.dispatcher.send(ref, body, sender)
                return
            self.dispatcher.check_lease()
            link.send(SEND(ref, packed, sender, headers))
        self.taken += 1
        self.forwarded += 1

    def ask(self, way: Link | Detour, ref: Ref, request: Request) -> None:
        """Send a request likewise; the reply completes it."""
        chain = None if request.parent is None else waiting_refs(request.parent)
        asked: Any = Asked(ref, 0, None, chain)
        request._activation = asked
        link: Any = None
        if type(way) is Detour:
            if way.full:
                self.detours.wait(way, self.dispatcher.monotonic() + self._patience(request))
                self._ask_anew(ref, request)
                return
            self.detours.hold(way, request)
        else:
            asked.body = pack_body(request.message)
            link = way
            if link.full and not self._wait_for_room(link, ref, self._patience(request)):
                self._ask_anew(ref, request)
                return
            self.dispatcher.check_lease()
        self.taken += 1
        self.requests += 1
        self.forwarded += 1
        if link is not None:
            self.ask_at(link, asked, request)

    def _ask_anew(self, ref: Ref, request: Request) -> None:
        """Look for an actor again, perhaps here, that was placed while a request to it waited for room."""
        way = None if ref in self.dispatcher.actors else self.way(ref)
        if way is not None:
            self.ask(way, ref, request)
            return
        request._activation = self.dispatcher.registry.activate(ref)
        self.dispatcher.requests_queued += 1
        self.settling.deliver(request)

    def _patience(self, request: Request) -> float:
        return min(self.dispatcher.request_timeout, request.deadline - self.dispatcher.monotonic())

    def _wait_for_room(self, way: Link, ref: Ref, timeout: float) -> bool:
        """Wait for room on the way to an actor; tells whether it is the way there still."""
        if getcurrent() is self.dispatcher.hub:
            raise InboxFull(f"too much is queued for {way}, and the hub can't wait")
        removed: PeerDown | None = None
        try:
            way.wait_for_room(timeout)
        except PeerDown as error:
            removed = error
        self.dispatcher.backpressure.check_running()
        if ref in self.dispatcher.actors or self.way(ref) is not way:
            return False
        if removed is not None:
            raise removed
        return True

    def ask_at(self, link: Link, asked: Asked, request: Request) -> None:
        """Put a request that is packed into the queue of a link."""
        if not asked.seq:
            asked.seq = self._next_seq()
        self.pending[asked.seq] = request
        asked.host_id = link.host_id
        left = request.deadline - native.read(self.dispatcher.monotonic)
        headers = None
        # Only the requests of schedules, which are of a class of their own, have one.
        firing: Firing | None = None if type(request) is Request else getattr(request, "_firing", None)
        if asked.chain is not None or asked.attempt or firing is not None:
            headers = envelopes.Headers(attempt=asked.attempt, chain=asked.chain, schedule=firing)
        link.send(REQUEST(asked.ref, asked.body, asked.seq, max(0.0, left), request.sender, headers))

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def forget(self, request: Request) -> None:
        """The requester goes on: a reply that comes later is late."""
        asked: Any = request._activation
        if type(asked) is Asked:
            self.pending.pop(asked.seq, None)

    def trouble(self, request: Request) -> TheatreError | None:
        """Return why no reply has come, as far as the connection to who was asked tells."""
        asked: Any = request._activation
        link = self.transport.link(asked.host_id) if type(asked) is Asked and asked.host_id else None
        if link is None or link.is_up or link.last_error is None:
            return None
        return PeerDown(f"{link} cannot be reached: {link.last_error}")

    def take_back(self) -> None:
        """Account for a message that did not go to another host after all."""
        self.forwarded -= 1
        self.taken -= 1

    # -- in ----------------------------------------------------------------------------------------------------

    def received(self, source: Inlet | Link, messages: Sequence[Any], unmade: Sequence[Any]) -> None:
        """Take a batch from a connection; see `Handler.received`."""
        if isinstance(source, Inlet):
            self._incoming.received(source, messages, unmade)
        else:
            self._returning.received(source, messages, unmade)

    def can_take(self, source: Inlet | Link, count: int) -> bool:
        """Tell whether a batch can be taken without waiting."""
        dispatcher = self.dispatcher
        return not isinstance(source, Inlet) or dispatcher.accepted + count <= dispatcher.accept_limit

    def arriving(self, inlet: Inlet, message: Any) -> envelopes.NotHere | bool:
        """Decide about a message from another host whose actor is not active here.

        Returns:
            True if it may be activated here at once, False if the message was put on a detour, else the refusal.
        """
        ref, claiming = message.ref, self.claiming
        detour: Detour | None = self.detours.get(ref)
        if detour is None:
            was_away = ref in self._ways or ref in self._old_ways  # and what was sent there may come back
            if not was_away and self._take_back(ref):
                return True
            self.evict(ref, inlet.peer.host_id)  # who sends the message here has not got the actor
            first = message.headers is None or message.headers.attempt == 0
            if (first or claiming is None) and self.is_elsewhere(ref):
                owner = None if claiming is None else self.known(ref)
                return envelopes.NotHere(f"{ref} does not belong to host {self.host_id!r}", owner)
            old = self.leave_way(ref)  # what this host's own senders have sent that way may come back
            if old is not None and old.may_give_back:
                detour = self._turn_off(ref, old)
                detour.owner = None if claiming is None else self.host_id
            elif claiming is None:
                return True
            else:
                detour = self.claim(ref)
        # A detour may hold more of other hosts' messages than of this host's senders, as a line at an inbox may: who
        # has sent them can't wait any more.
        if self.detours.held >= self.detours.limit:
            self._incoming.refuse(inlet, message, InboxFull(f"too many messages wait for {ref} to be placed"))
        else:
            self.detours.hold(detour, Arrived(inlet, message))
        return False

    @property
    def incoming(self) -> Incoming:
        """What takes messages from other hosts."""
        return self._incoming

    # -- links come and go -------------------------------------------------------------------------------------

    def admit(self, identity: Identity) -> str | None:
        """Return why a peer is refused, None if it is welcome."""
        return self.cluster.refusal(identity.host_id)

    def up(self, host_id: str) -> None:
        """A link has connected."""
        self._goodbyes.discard(host_id)
        log.info("host %s: connected to %s", self.host_id, host_id, extra=fields(self.host_id))

    def leaving(self, host_id: str, epoch: int, reason: str) -> None:
        """A peer takes no new work."""
        if host_id not in self._goodbyes:
            self._goodbyes.add(host_id)
            log.info("host %s: %s leaves: %s", self.host_id, host_id, reason, extra=fields(self.host_id))
        self._forget_ways(host_id)
        self.cluster.mark_leaving(host_id, epoch)

    def down(self, host_id: str, error: BaseException) -> None:
        """A link has lost its connection: what was written may have been handled, and will not be answered."""
        self._returning.down(host_id, error)

    def lost(self, host_id: str, messages: Sequence[Any], error: TheatreError) -> None:
        """Messages were certainly never sent."""
        self._returning.lost(host_id, messages, error)

    # -- the host comes to rest --------------------------------------------------------------------------------

    def held(self) -> int:
        """Return how many messages wait on detours."""
        return self.detours.held

    def give_up(self, error: TheatreError) -> None:
        """Fail everything that waits on a detour, and who waits for room: the host freezes or stops.

        Other hosts' messages go back to them.
        """
        for link in self.transport.links():
            link.fail_line(error)
        for detour in self.detours:
            if self.claiming is not None:
                self.claiming.withdraw(detour.ref)
            self.settling.failed(detour, error)

    def leave(self, announce: Callable[[], object]) -> None:
        """Begin to leave: tell the peers, and find other places for what waits to be placed here."""
        self.is_leaving = True
        announce()
        self._forget_ways()
        if self.claiming is not None:
            for detour in self.detours:
                if self.claiming.withdraw(detour.ref):
                    self.settling.again(detour)
