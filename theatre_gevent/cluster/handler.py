"""What a transport and its user agree on: the calls it makes, its times and bounds, its counters and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..logic import connection

if TYPE_CHECKING:
    from ..errors import TheatreError
    from ..logic.envelopes import Message
    from ..logic.handshake import Identity
    from .inlet import Inlet
    from .link import Link


class Limits(connection.Limits, frozen=True):
    """Times in seconds and bounds of a transport; the defaults suit a local network.

    Attributes:
        dial: Until a connection is made, the name's look-up included; a link's messages wait for one as long.
        write: A peer that takes no byte for so long is given up.
        retry_min: Wait before the second attempt to connect; it doubles with each, and is cut at random by up to half.
        retry_max: The longest wait.
        retry_early: An attempt is made at once when there is something to send and the last one is older than this.
        linger: How long `stop` waits for peers to close their ends.
        link_bytes: Encoded bytes queued for a peer above which its senders wait.
        inlet_bytes: Encoded bytes of replies queued above which a peer that does not read them is cut off.
        strangers: Accepted connections that have not shaken hands; one more costs the oldest of them its place.
    """

    dial: float = 5.0
    write: float = 5.0
    retry_min: float = 0.05
    retry_max: float = 2.0
    retry_early: float = 0.25
    linger: float = 1.0
    link_bytes: int = 16 * 1024 * 1024
    inlet_bytes: int = 48 * 1024 * 1024
    strangers: int = 256


class Handler(Protocol):
    """What a transport calls. Only `received` of an `Inlet` may block; the others come from any greenlet."""

    def received(self, source: Inlet | Link, messages: list[Message], unmade: list[tuple[Message, str]]) -> None:
        """Take a batch, in the reader's greenlet; in the hub if `can_take` has just said that nothing has to wait.

        Args:
            source: For an `Inlet`, a call that blocks stops the reading from that peer and from no other: keep it
                well below the peer's `Limits.write`. For a `Link` (replies to this host) it must not block.
            messages: In the order sent.
            unmade: Those whose body could not be made here, and why.
        """

    def can_take(self, source: Inlet | Link, count: int) -> bool:
        """Tell whether `received` would take `count` messages without blocking. False is always right."""

    def lost(self, host_id: str, messages: list[Message], error: TheatreError) -> None:
        """Take back messages that were certainly not delivered: never wholly written, or not encodable."""

    def up(self, host_id: str) -> None:
        """A link has its connection."""

    def down(self, host_id: str, error: TheatreError) -> None:
        """A link has lost its connection: requests that were written may never be answered."""

    def admit(self, identity: Identity) -> str | None:
        """Return why a host that has proven itself is not let in, or None. Asked about accepted connections only.

        Called in the connection's greenlet: it may wait, for less than a handshake may take.
        """

    def leaving(self, host_id: str, epoch: int, reason: str) -> None:
        """A peer has said that it takes no new work in the life that `epoch` names."""


class Counters:
    """Plain integers, counted since the transport was made.

    Attributes:
        bytes_in: Read from sockets, after decryption.
        bytes_out: Written to sockets, before encryption.
        batches_in: MESSAGES frames.
        batches_out: MESSAGES frames wholly written.
        messages_in: Handed to the handler.
        messages_out: Wholly written.
        messages_lost: Given back to the handler.
        replies_dropped: Given to an inlet that was closed, or not written before it was.
        connects: Connections made by links.
        connect_failures: Attempts of links that failed.
        accepts: Peers let in.
        refusals: Accepted connections that did not get through the handshake.
        failures: Connections that broke after the handshake.
    """

    __slots__ = (
        "accepts",
        "batches_in",
        "batches_out",
        "bytes_in",
        "bytes_out",
        "connect_failures",
        "connects",
        "failures",
        "messages_in",
        "messages_lost",
        "messages_out",
        "refusals",
        "replies_dropped",
    )

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = self.batches_in = self.batches_out = 0
        self.messages_in = self.messages_out = self.messages_lost = self.replies_dropped = 0
        self.connects = self.connect_failures = self.accepts = self.refusals = self.failures = 0

    def as_dict(self) -> dict[str, int]:
        """Return name and value of all of them."""
        return {name: getattr(self, name) for name in self.__slots__}
