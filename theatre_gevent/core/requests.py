"""Waiting for something with a deadline: a reply, room in an inbox, an activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ..messages import Initialize, Ref, Shutdown
from .context import OPEN, Context, Request
from .inbox import NEVER
from .remote import RemoteAsker

if TYPE_CHECKING:
    from typing import TypeAlias

    from .activation import Activation


class Pending(msgspec.Struct, eq=False):
    """One greenlet's wait for something that is no reply. Never reused, so that nothing late reaches the wrong waiter.

    The fields are those of `Request`, which see.
    """

    greenlet: Any
    deadline: float
    parent: Context | None = None
    result: Any = OPEN
    bucket: int = NEVER
    in_hand: bool = False

    @property
    def done(self) -> bool:
        """True once there is a result."""
        return self.result is not OPEN


if TYPE_CHECKING:
    Waiter: TypeAlias = Pending | Request


def call_chain(ctx: Context | None, target: Ref) -> list[Ref] | None:
    """Find the cycle that a request to `target` from the handler of `ctx` would close.

    Returns:
        The refs in the order of the requests, from `target` to `target`, or None when there is no cycle.
    """
    asking: Context | None = ctx
    while asking is not None:
        activation = asking._activation
        if activation.ref == target:
            return [*_refs(ctx, asking), target]
        asked = asked_by(asking, activation)
        if asked is None or asked.done:
            return None
        asker: Any = asked.greenlet
        if isinstance(asker, RemoteAsker) and target in asker.chain:
            return [*asker.chain[asker.chain.index(target) :], *_refs(ctx, asking), target]
        asking = asked.parent
    return None


def waiting_refs(ctx: Context | None) -> list[Ref]:
    """Return the refs whose handlers wait for what the handler of `ctx` asks, the first asker first."""
    refs: list[Ref] = []
    while ctx is not None:
        refs.append(ctx._activation.ref)
        asked = asked_by(ctx, ctx._activation)
        if asked is None or asked.done:
            break
        asker: Any = asked.greenlet
        if isinstance(asker, RemoteAsker):
            refs.extend(reversed(asker.chain))
        ctx = asked.parent
    return refs[::-1]


def _refs(ctx: Context | None, last: Context) -> list[Ref]:
    """Return the refs of the handlers from `last` to `ctx`, in the order of the requests."""
    refs = []
    while ctx is not None:
        refs.append(ctx._activation.ref)
        asked = None if ctx is last else asked_by(ctx, ctx._activation)
        ctx = None if asked is None else asked.parent
    return refs[::-1]


def asked_by(ctx: Context, activation: Activation) -> Waiter | None:
    """Return the wait on whose behalf the handler of `ctx` runs: that of a request, or of `spawn_local`."""
    if isinstance(ctx, Request):
        return ctx
    if type(ctx.message) is Initialize:  # it runs for the message that woke the actor
        queue = activation.queue()
        if queue and isinstance(queue[0], Request):
            return queue[0]
        spawning = activation.actor_type.dispatcher.lifecycle.spawning.get(activation.ref)
        return spawning[0] if spawning else None
    if type(ctx.message) is Shutdown:  # it runs before they are answered
        deferred = activation.actor_type.dispatcher.lifecycle.deferred.open(activation)
        return deferred[-1] if deferred else None
    return None
