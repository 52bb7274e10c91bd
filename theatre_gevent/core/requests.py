"""Waiting for something with a deadline: a reply, room in an inbox, an activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ..messages import Initialize, Ref
from .inbox import NEVER

if TYPE_CHECKING:
    from greenlet import greenlet

    from .activation import Activation
    from .context import Context


class Pending(msgspec.Struct, eq=False):
    """One greenlet's wait. Never reused, so that nothing late can reach the wrong waiter.

    Attributes:
        greenlet: Who waits, None once it has gone on.
        deadline: When it gives up, in the clock's monotonic seconds.
        parent: The context whose handler makes this request, None when it comes from outside.
        done: True once there is a result; whoever sets it decides the outcome.
        value: The result.
        error: Raised in the waiter instead of returning `value`.
        bucket: Where `Deadlines` keeps it.
        in_hand: True while it is handed over directly and the hub has not run since: its worker switches straight
            back, and its deadline is not yet watched.
    """

    greenlet: greenlet | None
    deadline: float
    parent: Context | None = None
    done: bool = False
    value: Any = None
    error: BaseException | None = None
    bucket: int = NEVER
    in_hand: bool = False


def call_chain(ctx: Context | None, target: Ref) -> list[Ref] | None:
    """Find the cycle that a request to `target` from the handler of `ctx` would close.

    Returns:
        The refs in the order of the requests, from `target` to `target`, or None when there is no cycle.
    """
    chain = [target]
    while ctx is not None:
        activation = ctx._activation
        chain.append(activation.ref)
        if activation.ref == target:
            return chain[::-1]
        pending = asked_by(ctx, activation)
        if pending is None or pending.done:
            return None
        ctx = pending.parent
    return None


def asked_by(ctx: Context, activation: Activation) -> Pending | None:
    """Return the request on whose behalf the handler of `ctx` runs."""
    if type(ctx.message) is Initialize and activation.inbox:
        return activation.inbox[0]._pending  # Initialize runs for the message that woke the actor
    return ctx._pending
