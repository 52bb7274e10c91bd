"""The way back to a host that has connected to this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import PeerDown
from ..logic.envelopes import Reply, Request, Returned, failure_of
from .outbox import Outbox

if TYPE_CHECKING:
    from ..clock import Clock
    from ..errors import MessageNotSerializable
    from ..logic.envelopes import Message
    from ..logic.handshake import Identity
    from ..messages import Ref
    from .handler import Counters, Limits
    from .transport import Reports
    from .wire import Wire

_NO_BOUND = 1 << 62


class Inlet(Outbox):
    """One accepted connection: what it brings goes to the handler, `send` answers.

    Answers never wait. A peer that does not read them is cut off when they have become too many bytes.

    Attributes:
        peer: Who is on the other side.
        epoch: Which of the peer's lives it is.
        closed: The connection is gone; what is sent now is dropped and counted, since nobody is left to answer.
        refused: Refs of which something was given back that the peer will send again, until it says that nothing else
            is on its way: to accept what comes behind would let it overtake.
    """

    def __init__(
        self, peer: Identity, wire: Wire, clock: Clock, counters: Counters, limits: Limits, reports: Reports
    ) -> None:
        super().__init__(_NO_BOUND, limits.inlet_bytes, clock, counters)
        self.peer = peer
        self.epoch = peer.epoch
        self.closed = False
        self.refused: dict[Ref, None] = {}
        self._wire = wire
        self._reports = reports

    def __str__(self) -> str:
        return f"host {self.peer.host_id!r} at {self._wire.where}"

    @property
    def host_id(self) -> str:
        """Who is on the other side."""
        return self.peer.host_id

    def _wake(self) -> None:
        self._wire.rouse()

    def _overflow(self) -> None:
        text = f"the peer does not read its replies: {self._queued()} of them wait, with {self._bytes} bytes"
        self._end(PeerDown(text))

    def _refused(self, message: Message, error: MessageNotSerializable) -> None:
        if isinstance(message, Reply):  # who asked is told at once
            self.send(failure_of(message.seq, message.epoch, error))
        else:
            self._reports.lost(self.peer.host_id, [message], error)

    def _undeliverable(self, messages: list[Message]) -> None:
        # Replies are dropped, since nobody is left to take them. What can't be given back is not, nor is a request,
        # which does not belong here.
        kept: list[Message] = [message for message in messages if isinstance(message, (Returned, Request))]
        if kept:
            self._reports.lost(self.peer.host_id, kept, self._over or PeerDown("the connection is closed"))
        self._counters.replies_dropped += len(messages) - len(kept)

    def _end(self, error: PeerDown) -> None:
        """Close it and drop what is queued."""
        if self.closed:
            return
        self.closed = True
        self._finish(error)
        self._wire.close(error)
        self._undeliverable(self._take_all())
