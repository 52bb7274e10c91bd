"""Routing: where a message goes, and what follows when it comes back. Pure; the I/O is in the router.

A message goes to the activation on this host if there is one, else where its actor is remembered to be (both are dict
look-ups of the router), else where `decide` says. There nobody guesses: in a cluster with a database the host that
gets a message claims its actor, and learns who owns it if that fails.

A host answers NotHere, HostFrozen or HostDraining *instead of* taking a message, so sending it again cannot double it;
a broken connection or a timeout says nothing about what became of the message, and is never a reason to send it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from .envelopes import HOST_DRAINING, HOST_FROZEN, NOT_HERE

if TYPE_CHECKING:
    from collections.abc import Collection, Container

MAX_ATTEMPTS = 5
"""How often a message is sent before it is given up, the first time included."""
RETRY_DELAYS = (0.0, 0.02, 0.1, 0.3)
"""Seconds to wait before the second and later attempts: the first one costs a stale cache entry, the later ones wait
for a hand-over."""
RETRIED = frozenset({NOT_HERE, HOST_FROZEN, HOST_DRAINING})
"""Codes of hosts that did not take the message."""


def decide(owner: str | None, chosen: str | None, live: Container[str]) -> str | None:
    """Decide which host takes a message whose actor is not active here, and whose place is not remembered.

    Args:
        owner: The host that is said to own the actor, None if nobody has said so.
        chosen: The host that the ring names.
        live: Members that are believed to live, those that are leaving too.

    Returns:
        The first of owner and ring that names a live host, perhaps this one; None if nobody can take it.
    """
    if owner is not None and owner in live:
        return owner
    return chosen if chosen is not None and chosen in live else None


def why_nobody(owner: str | None, chosen: str | None, live: Collection[str]) -> str:
    """Return why `decide` found no host."""
    if not live:
        return "the cluster has no live members that this host knows"
    return f"its owner {chosen or owner!r} is not among the live members {sorted(live)}"


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
