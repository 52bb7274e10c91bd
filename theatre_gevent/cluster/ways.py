"""Where a host believes that actors are which it has sent something to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.remote import Router

if TYPE_CHECKING:
    from ..core.dispatcher import Dispatcher
    from ..messages import Ref
    from .link import Link

_MAX_WAYS = 1 << 18
"""Placements remembered at most."""

_OLD = 10.0
"""Seconds for which messages may be on a way that is in use no more: they may wait at its end for a claim."""


class Ways(Router):
    """The part of a router that remembers placements, and those that were in use before.

    Args:
        dispatcher: Its clock.
        ttl: Seconds for which a placement is remembered.
    """

    def __init__(self, dispatcher: Dispatcher, ttl: float) -> None:
        self.dispatcher = dispatcher
        self._ttl = ttl
        # Placements that are remembered: forgotten all at once when they get old, which costs a look at the ring each,
        # so that the look-up of every message is one dict access.
        self._ways: dict[Ref, Link] = {}
        self._ways_until = 0.0
        # Those that were in use until the members changed or their time was over: messages may be on their way there.
        self._old_ways: dict[Ref, Link] = {}
        self._old_until = 0.0

    def learn(self, ref: Ref, link: Link) -> None:
        """Remember where an actor is."""
        now = self.dispatcher.now
        if now >= self._ways_until or len(self._ways) >= _MAX_WAYS:
            self._forget_ways()
        self._ways[ref] = link

    def known(self, ref: Ref) -> str | None:
        """Return the host that an actor is remembered to be on."""
        link = self._ways.get(ref)
        return None if link is None or self.dispatcher.now >= self._ways_until else link.host_id

    def evict(self, ref: Ref, host_id: str) -> None:
        """Use a way no more that led to the wrong host; not one that has been found since."""
        link = self._ways.get(ref)
        if link is not None and link.host_id == host_id:
            del self._ways[ref]
            self._keep_old({ref: link})

    def leave_way(self, ref: Ref) -> Link | None:
        """Forget where an actor is believed to be; return the way that messages for it may be on."""
        way = self._ways.pop(ref, None)
        old = self._old_ways.pop(ref, None)
        return old if way is None else way

    def _forget_ways(self, host_id: str | None = None) -> None:
        """Look for actors anew, for those at one host or for all. What their ways were stays known for a while."""
        now = self.dispatcher.monotonic()  # the dispatcher's reading is old where nothing is handled
        gone = self._ways
        if host_id is None:
            self._ways = {}
            self._ways_until = now + self._ttl
        else:
            self._ways = {ref: link for ref, link in gone.items() if link.host_id != host_id}
            gone = {ref: link for ref, link in gone.items() if link.host_id == host_id}
        self._keep_old(gone)

    def _keep_old(self, gone: dict[Ref, Link]) -> None:
        now = self.dispatcher.monotonic()
        if now >= self._old_until or len(self._old_ways) >= _MAX_WAYS:
            self._old_ways = gone
        else:
            self._old_ways.update(gone)
        self._old_until = now + _OLD
