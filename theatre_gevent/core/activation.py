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

from typing import TYPE_CHECKING, Any

from .fifo import Fifo
from .statistics import TypeStatistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..messages import Receiver, Ref
    from .context import Context
    from .dispatcher import Dispatcher
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


class ActorType(TypeStatistics):
    """A registered type: how its receivers are made, where its actors live, and what was counted of them.

    Attributes:
        checked: The class of the last receiver: it has been looked at whether it can be one.
    """

    __slots__ = ("checked", "create", "dispatcher", "name")

    def __init__(self, name: str, create: Callable[[], Receiver], dispatcher: Dispatcher) -> None:
        super().__init__()
        self.name = name
        self.create = create
        self.checked: type | None = None
        self.dispatcher = dispatcher


class Activation:
    """One actor instance on one host. A million of these are alive at once, so every slot costs 8 MB.

    What few activations have at a time is kept beside them: senders in line, requests answered later, why they came.

    Attributes:
        ref: The actor's address.
        actor_type: Its registered type.
        state: One of the states above.
        receiver: What the factory made, while the state is neither NEW nor STOPPED.
        inbox: Messages that wait: None, one alone (a queue takes 600 bytes), or a queue.
        worker: Who runs it now.
        messages_total: Messages handled, brought up to date at the end of each turn.
        created_at: When it was initialized, in the clock's monotonic seconds to within 5 ms; 0.0 before.
        last_active: When it last handled a message, likewise.
    """

    __slots__ = (
        "actor_type",
        "created_at",
        "inbox",
        "last_active",
        "messages_total",
        "receiver",
        "ref",
        "state",
        "worker",
    )

    def __init__(self, ref: Ref, actor_type: ActorType) -> None:
        self.ref = ref
        self.actor_type = actor_type
        self.state = NEW
        self.receiver: Receiver | None = None
        self.inbox: Fifo | Context | None = None
        self.worker: Worker | None = None
        self.messages_total = 0
        self.created_at = 0.0
        self.last_active = 0.0

    def __repr__(self) -> str:
        return f"<Activation {self.ref} {STATE_NAMES[self.state]}>"

    def queue(self) -> Fifo | None:
        """Return the inbox as a queue, None if there is none."""
        inbox = self.inbox
        if inbox is None or isinstance(inbox, Fifo):
            return inbox
        self.inbox = queue = Fifo()
        queue.append(inbox)
        return queue


class FunctionReceiver:
    """Gives a plain function `f(ctx)` the shape of a receiver."""

    __slots__ = ("receive",)

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.receive = function
