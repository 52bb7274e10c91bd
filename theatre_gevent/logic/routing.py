"""Routing: where a message goes, and what follows when it comes back. Pure; the I/O is in the router.

`decide` looks, in this order, at: an activation here, the placement cache, the ownership that the database told, the
ring. A host answers NotHere, HostFrozen or HostDraining *instead of* taking a message, so sending it again cannot
double it; a broken connection or a timeout says nothing about what became of the message, and is never a reason to
send it again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import Struct

from .envelopes import HOST_DRAINING, HOST_FROZEN, NOT_HERE

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..messages import Ref

MAX_ATTEMPTS = 5
"""How often a message is sent before it is given up, the first time included."""
RETRY_DELAYS = (0.0, 0.02, 0.1, 0.3)
"""Seconds to wait before the second and later attempts: the first one costs a stale cache entry, the later ones wait
for a hand-over."""
RETRIED = frozenset({NOT_HERE, HOST_FROZEN, HOST_DRAINING})
"""Codes of hosts that did not take the message."""


class Local(Struct, frozen=True):
    """Deliver it here."""


class Forward(Struct, frozen=True):
    """Send it to this host."""

    host_id: str


class NoRoute(Struct, frozen=True):
    """Nobody can take it: NoOwner, with this text."""

    reason: str


Decision = Local | Forward | NoRoute

LOCAL = Local()


def decide(
    me: str,
    *,
    active: bool,
    cached: str | None,
    owner: str | None,
    chosen: str | None,
    live: Collection[str],
    avoid: str | None = None,
) -> Decision:
    """Decide where a message goes.

    Args:
        me: This host's id.
        active: The actor has an activation here.
        cached: Whom the placement cache names.
        owner: Whom the database names, None without one.
        chosen: Whom the ring names.
        live: Members that are believed to live, this host among them unless it is leaving.
        avoid: The host that has just refused the message: a hint that names it again is passed over, the database and
            the ring are not, since it may own the actor by now.

    Returns:
        What to do.
    """
    if active:
        return LOCAL
    # The row which decides is the first that names somebody; the last one is there if there are members at all.
    if cached is not None and cached != avoid and cached in live:
        host_id = cached
    elif owner is not None and owner in live:
        host_id = owner
    elif chosen is not None and chosen in live:
        host_id = chosen
    elif not live:
        return NoRoute("the cluster has no live members that this host knows")
    else:
        return NoRoute(f"its owner {chosen or owner or cached!r} is not among the live members {sorted(live)}")
    return LOCAL if host_id == me else Forward(host_id)


class Retry(Struct, frozen=True):
    """Forget the placement and decide anew after `delay` seconds."""

    delay: float


class GiveUp(Struct, frozen=True):
    """Tell the sender; `reason` completes "could not be delivered: ..."."""

    reason: str


def decide_retry(code: int, attempt: int, host_id: str, remaining: float) -> Retry | GiveUp:
    """Decide what follows when a host did not take a message.

    Args:
        code: The answer's code (`envelopes`).
        attempt: Which attempt failed, from 0.
        host_id: Who refused.
        remaining: Seconds that are left to the message.

    Returns:
        `Retry` if the code allows it, attempts are left, and its delay ends before the deadline.
    """
    if code not in RETRIED:
        return GiveUp(f"host {host_id!r} refused it")
    if attempt + 1 >= MAX_ATTEMPTS:
        return GiveUp(f"{MAX_ATTEMPTS} attempts, the last one refused by host {host_id!r}")
    delay = RETRY_DELAYS[min(attempt, len(RETRY_DELAYS) - 1)]
    if delay >= remaining:
        return GiveUp(f"its deadline came after {attempt + 1} attempts, the last one refused by host {host_id!r}")
    return Retry(delay)


class PlacementCache:
    """Which host owned a ref when it was last heard of: a bounded LRU whose entries expire.

    Args:
        ttl: Seconds for which an entry is believed.
        max_size: Number of entries; the least recently used one makes room.
    """

    __slots__ = ("_entries", "_max_size", "_ttl")

    def __init__(self, ttl: float, max_size: int = 100_000) -> None:
        if max_size < 1 or ttl <= 0:
            raise ValueError(f"ttl must be above 0 and max_size 1 or more, got {ttl} and {max_size}")
        self._ttl = ttl
        self._max_size = max_size
        self._entries: OrderedDict[Ref, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, ref: Ref, now: float) -> str | None:
        """Return the host id, None if it is not known or too old."""
        entry = self._entries.get(ref)
        if entry is None:
            return None
        if entry[1] <= now:
            del self._entries[ref]
            return None
        self._entries.move_to_end(ref)
        return entry[0]

    def put(self, ref: Ref, host_id: str, now: float) -> None:
        """Remember the host for `ttl` seconds from `now`."""
        entries = self._entries
        entries[ref] = (host_id, now + self._ttl)
        entries.move_to_end(ref)
        if len(entries) > self._max_size:
            entries.popitem(last=False)

    def evict(self, ref: Ref, host_id: str | None = None) -> bool:
        """Forget a ref; with `host_id` only if that host is what is remembered, so that late news does no harm."""
        entry = self._entries.get(ref)
        if entry is None or (host_id is not None and entry[0] != host_id):
            return False
        del self._entries[ref]
        return True

    def evict_host(self, host_id: str) -> int:
        """Forget all refs of a host that is gone, and return how many. Linear in the size of the cache."""
        gone = [ref for ref, entry in self._entries.items() if entry[0] == host_id]
        for ref in gone:
            del self._entries[ref]
        return len(gone)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
