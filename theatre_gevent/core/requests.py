"""Waiting for something with a deadline: a reply, room in an inbox, an activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._accel import COMPILED
from ..messages import Initialize, Ref, Shutdown
from .context import OPEN, Context, Request, fill
from .inbox import NEVER
from .remote import RemoteAsker

if TYPE_CHECKING:
    from .activation import Activation


class Pending(Request):
    """One greenlet's wait for something that is no reply. Never reused, so that nothing late reaches the wrong waiter.

    It is a request without a message, so that all waits are of one kind.
    """


def make_pending(greenlet: Any, deadline: float, parent: Context | None = None) -> Pending:
    """Return a new wait of `greenlet` until `deadline`; `parent` is the context whose handler waits, if one does."""
    pending: Pending = Pending.__new__(Pending)
    fill(pending, None, None, None, greenlet, deadline, parent, False, None, OPEN, NEVER)
    return pending


def _make_plain(greenlet: Any, deadline: float, parent: Context | None = None) -> Pending:
    make: Any = Pending
    return make(None, None, None, greenlet, deadline, parent, False, None, OPEN, NEVER)  # type: ignore[no-any-return]


if not COMPILED:
    globals()["make_pending"] = _make_plain


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


def asked_by(ctx: Context, activation: Activation) -> Request | None:
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
