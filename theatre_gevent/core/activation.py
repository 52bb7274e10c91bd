"""A live actor instance, and every state it can be in.

    state      means                                        goes on to
    NEW        in the registry; its factory and Initialize  ACTIVE, STOPPED (they failed)
               run at the start of its first turn
    ACTIVE     handles messages                             LEAVING (idle, or the host stops), STOPPING (StopActor)
    LEAVING    is to leave, unless a message comes first    ACTIVE (one came), STOPPING
    STOPPING   its Shutdown handler runs                    STOPPED
    STOPPED    over: out of the registry, contexts fenced   -

An activation is at work while it has an inbox, and is then in the ready queue or with a worker, or while a worker
has it for a request that was handed over. One that is idle has given both back and keeps its ref, receiver and
counters only. What arrives from STOPPING on goes to its successor, which takes over inbox and place in the registry
in one step, so that order is kept and no message is lost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..messages import InitReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..messages import Receiver, Ref
    from .context import Context, Request
    from .dispatcher import Dispatcher
    from .requests import Pending
    from .worker import Worker

NEW, ACTIVE, LEAVING, STOPPING, STOPPED = range(5)
STATE_NAMES = ("new", "active", "leaving", "stopping", "stopped")
TRANSITIONS = {
    NEW: {ACTIVE, STOPPED},
    ACTIVE: {LEAVING, STOPPING, STOPPED},
    LEAVING: {ACTIVE, STOPPING, STOPPED},
    STOPPING: {STOPPED},
    STOPPED: set(),
}
"""The allowed transitions. STOPPED is reached from ACTIVE and LEAVING when a host stops hard."""


class ActorType:
    """A registered type: how its receivers are made, and where its actors live."""

    __slots__ = ("create", "dispatcher", "name")

    def __init__(self, name: str, create: Callable[[], Receiver], dispatcher: Dispatcher) -> None:
        self.name = name
        self.create = create
        self.dispatcher = dispatcher


class Activation:
    """One actor instance on one host. A million of these are alive at once, so every slot costs 8 MB."""

    __slots__ = (
        "actor_type",
        "created_at",
        "deferred",
        "errors_total",
        "inbox",
        "last_active",
        "messages_total",
        "reason",
        "receiver",
        "ref",
        "state",
        "waiting",
        "worker",
    )

    def __init__(self, ref: Ref, actor_type: ActorType, reason: InitReason = InitReason.NEW) -> None:
        self.ref = ref
        self.actor_type = actor_type
        self.reason = reason
        self.state = NEW
        self.receiver: Receiver | None = None
        self.inbox: deque[Context] | None = None
        self.worker: Worker | None = None
        self.waiting: deque[tuple[Context, Pending]] | None = None
        """Senders at the full inbox, in the order they came."""
        self.deferred: list[Request] | None = None
        """Requests whose handler returned without a reply: it comes from another greenlet."""
        self.messages_total = 0
        self.errors_total = 0
        self.created_at = 0.0
        self.last_active = 0.0

    def __repr__(self) -> str:
        return f"<Activation {self.ref} {STATE_NAMES[self.state]}>"

    def has_deferred(self) -> bool:
        """Tell whether somebody still waits for a reply of this actor; forgets those who do not."""
        deferred = self.deferred
        if deferred is not None:
            deferred[:] = [request for request in deferred if not request.done]
            if not deferred:
                self.deferred = None
        return self.deferred is not None

    def defer(self, request: Request) -> None:
        """Remember a request that is answered later."""
        deferred = self.deferred
        if deferred is None:
            self.deferred = [request]
            return
        deferred.append(request)
        if not len(deferred) & 63:  # so that an actor that always answers late does not pile them up
            self.has_deferred()


class FunctionReceiver:
    """Gives a plain function `f(ctx)` the shape of a receiver."""

    __slots__ = ("receive",)

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.receive = function
