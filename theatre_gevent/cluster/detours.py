"""Messages that can't go on yet: for actors that are being claimed, or that have come back and are sent again.

A detour holds all messages for one ref in the order they came, those of this host's senders and those that other
hosts sent, until it is known where the actor is. As nothing for the ref goes past it, order is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from ..core.context import OPEN, Failure, Request
from ..core.requests import make_pending
from ..errors import InboxFull, RequestTimeout
from ..logic import envelopes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..core.dispatcher import Dispatcher
    from ..core.requests import Pending
    from ..messages import Ref
    from .inlet import Inlet


class HeldSend:
    """A plain message of a sender on this host."""

    __slots__ = ("body", "headers", "sender")

    def __init__(self, body: Any, sender: Ref | None, headers: envelopes.Headers | None = None) -> None:
        self.body = body
        self.sender = sender
        self.headers = headers


class Arrived:
    """A message from another host, which has not been accepted yet."""

    __slots__ = ("inlet", "message")

    def __init__(self, inlet: Inlet, message: envelopes.Send | envelopes.Request) -> None:
        self.inlet = inlet
        self.message = message


class Detour:
    """What waits for one ref.

    Attributes:
        ref: The ref.
        back: How many of the first entries have come back from other hosts.
        entries: `HeldSend`, `core.context.Request` and `Arrived`, in the order they came.
        awaited: The hosts from which messages may come back, until they say that nothing more will.
        line: Who waits for room, and callers of `spawn_local` that wait for the actor to be placed.
        owner: The host that is said to own the actor, None if nobody has said so.
        since: When it last got a message, in the clock's monotonic seconds.
    """

    __slots__ = ("_detours", "awaited", "back", "entries", "line", "owner", "ref", "since")

    def __init__(self, detours: Detours, ref: Ref, since: float) -> None:
        self._detours = detours
        self.ref = ref
        self.since = since
        self.entries: list[HeldSend | Request | Arrived] = []
        self.back = 0
        self.awaited: set[str] = set()
        self.line: list[Pending] = []
        self.owner: str | None = None

    def __str__(self) -> str:
        return str(self.ref)

    @property
    def full(self) -> bool:
        """True if senders have to wait."""
        detours = self._detours
        return len(self.entries) >= detours.size or detours.held >= detours.limit


class Detours:
    """All detours of a host, and how many messages they hold.

    Attributes:
        size: Messages that one detour takes; more wait for room or are refused.
        limit: Messages that all of them take.
        held: Messages that they have now.
        by_ref: The open ones; the same dict for good.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.size = dispatcher.options.actor_inbox_size
        self.limit = dispatcher.options.host_inbox_size
        self.held = 0
        self.by_ref: dict[Ref, Detour] = {}

    def __len__(self) -> int:
        return len(self.by_ref)

    def __iter__(self) -> Iterator[Detour]:
        return iter(list(self.by_ref.values()))

    def get(self, ref: Ref) -> Detour | None:
        """Return the detour of `ref`, None if its messages need none."""
        return self.by_ref.get(ref)

    def open(self, ref: Ref) -> Detour:
        """Return the detour of `ref`, a new one if there is none."""
        detour = self.by_ref.get(ref)
        if detour is None:
            detour = self.by_ref[ref] = Detour(self, ref, self._dispatcher.monotonic())
        return detour

    def hold(self, detour: Detour, entry: HeldSend | Request | Arrived) -> None:
        """Put a message behind those that wait. Each may wait as long as the first."""
        detour.since = self._dispatcher.monotonic()
        detour.entries.append(entry)
        self.held += 1

    def hold_again(self, detour: Detour, entry: HeldSend | Request) -> None:
        """Put a message that has come back before those that were sent after it, and are here already."""
        detour.entries.insert(detour.back, entry)
        detour.back += 1
        self.held += 1

    def take_out(self, detour: Detour, inlet: Inlet) -> list[Arrived]:
        """Return what another host sent, in its order, and hold it no longer."""
        taken = [entry for entry in detour.entries if type(entry) is Arrived and entry.inlet is inlet]
        detour.entries = [entry for entry in detour.entries if type(entry) is not Arrived or entry.inlet is not inlet]
        self.held -= len(taken)
        return taken

    def close(self, detour: Detour) -> list[HeldSend | Request | Arrived]:
        """End a detour: return what it held, and let everybody in its line look for the actor again."""
        if self.by_ref.get(detour.ref) is detour:
            del self.by_ref[detour.ref]
        entries, detour.entries = detour.entries, []
        line, detour.line = detour.line, []
        self.held -= len(entries)
        for pending in line:
            if pending.result is OPEN:
                self._dispatcher.complete(pending, True)
        return entries

    def wait(self, detour: Detour, deadline: float, *, is_caller: bool = False) -> None:
        """Wait until a detour has ended, or until `deadline`.

        Raises:
            InboxFull: The deadline came first, or the caller is the hub, which can't wait.
            RequestTimeout: The deadline came first, for a caller of `spawn_local`.
            TheatreError: The host stops or freezes.
        """
        dispatcher = self._dispatcher
        me = getcurrent()
        if me is dispatcher.hub:
            raise InboxFull(f"too many messages wait for {detour.ref} to be placed, and the hub can't wait")
        pending = make_pending(me, deadline)
        detour.line.append(pending)
        try:
            dispatcher.wait(pending)
        except BaseException as error:
            if pending in detour.line:
                detour.line.remove(pending)
            activation = dispatcher.actors.get(detour.ref)
            if activation is not None:
                dispatcher.registry.forget_unused(activation)  # it was placed for who does not want it any more
            if type(error) is not RequestTimeout:
                raise
            if is_caller:
                raise RequestTimeout(f"{detour.ref} was not placed in time") from None
            raise InboxFull(f"{detour.ref} was not placed in time, and too many messages wait for it") from None

    def fail_line(self, detour: Detour, error: Any) -> None:
        """Tell those in line that there is no use in waiting."""
        line, detour.line = detour.line, []
        for pending in line:
            if pending.result is OPEN:
                self._dispatcher.complete(pending, Failure(error.copy()))
