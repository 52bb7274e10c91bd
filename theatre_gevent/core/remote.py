"""Where the core meets other hosts: who asks from afar, and who finds the way there. The sockets are in `cluster`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from gevent import Greenlet

from .context import Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ..errors import TheatreError
    from ..logic.schedules import Firing
    from ..messages import Ref
    from .context import Context, Request
    from .requests import Pending

    Outcome: TypeAlias = Callable[[Context, TheatreError | None], None]
    """Told what became of a parked message: None once it is in the inbox, else why it never will be."""


class Internal(Greenlet):  # type: ignore[type-arg]
    """Runs the library's own work, which nothing that users give may hold up."""


class RemoteAsker:
    """The asker of a `RemoteRequest`, in the place of the greenlet that waits.

    Attributes:
        chain: The refs whose handlers wait for this request there, the first asker first.
    """

    __slots__ = ("chain",)
    chain: list[Ref]

    def pack(self, result: Any) -> Any:
        """Prepare a reply for its way, in the call of who gives it.

        Raises:
            MessageNotSerializable: It can't travel.
        """
        raise NotImplementedError

    def deliver(self, request: Request) -> None:
        """Send the result; must not block."""
        raise NotImplementedError


class Parked:
    """A message from afar in line at a full inbox: who reads the connection can't wait for it, so no greenlet does.

    Attributes:
        ctx: The message.
        outcome: Called with None once the message is in the inbox, else with the reason why it never will be.
        source: Where it came from, None if it may not be sent back there.
    """

    __slots__ = ("ctx", "outcome", "source")

    def __init__(self, ctx: Context, outcome: Outcome, source: object = None) -> None:
        self.ctx = ctx
        self.outcome = outcome
        self.source = source

    def deliver(self, pending: Pending) -> None:
        """Tell what became of it."""
        dispatcher = self.ctx._activation.actor_type.dispatcher
        dispatcher.backpressure.unpark(self.ctx, pending, self.outcome)


class Asked:
    """A request that is answered elsewhere, in the place of its activation.

    Attributes:
        ref: Who is asked.
        seq: Its number in this host's life.
        host_id: Where it was sent last.
        body: The packed body.
        attempt: How often it was sent before.
    """

    __slots__ = ("attempt", "body", "chain", "host_id", "ref", "seq")

    def __init__(self, ref: Ref, seq: int, body: Any, chain: list[Ref] | None) -> None:
        self.ref = ref
        self.seq = seq
        self.host_id = ""
        self.body = body
        self.chain = chain
        self.attempt = 0


class Leased(Protocol):
    """What may be used until some time only."""

    lease_until: float
    """A reading of the host's clock, in seconds; written by another thread."""


class Unlimited:
    """The lease of a host that needs none."""

    lease_until = math.inf


UNLIMITED = Unlimited()


class Router:
    """Finds the way to actors that are not active here. The base of `ClusterRouter`, which the core does not know.

    Attributes:
        forwarded: Messages that other hosts have, or are on their way there.
        taken: Messages of this host's senders that went the way to other hosts.
        requests: Requests among them.
        dropped: Sends among them that became dead letters on their way.
    """

    forwarded: int
    taken: int
    requests: int
    dropped: int

    def is_elsewhere(self, ref: Ref) -> bool:
        """Tell whether an actor that is not active here belongs to another host."""
        raise NotImplementedError

    def acquire(self, ref: Ref, deadline: float) -> None:
        """Wait until an actor that is not active here may be activated here.

        Raises:
            NoOwner: It belongs to another host.
        """
        raise NotImplementedError

    def held(self) -> int:
        """Return how many messages wait until it is known where they go."""
        raise NotImplementedError

    def way(self, ref: Ref) -> Any:
        """Return the way to an actor that is not active here, None if it belongs here.

        Raises:
            InvalidRef: `ref` is not a Ref.
            NoOwner: Nobody can take it.
        """
        raise NotImplementedError

    def send(self, way: Any, ref: Ref, body: object, sender: Ref | None, firing: Firing | None = None) -> None:
        """Send a message that way, perhaps one from a schedule. Waits while it is full."""
        raise NotImplementedError

    def ask(self, way: Any, ref: Ref, request: Request) -> None:
        """Send a request likewise; the reply completes it."""
        raise NotImplementedError

    def forget(self, request: Request) -> None:
        """The requester goes on: a reply that comes later is late."""
        raise NotImplementedError

    def trouble(self, request: Request) -> TheatreError | None:
        """Return why no reply has come, as far as the connection to who was asked tells."""
        raise NotImplementedError

    def counters(self) -> dict[str, int]:
        """Return what `METRICS` calls the cluster's counters."""
        raise NotImplementedError
