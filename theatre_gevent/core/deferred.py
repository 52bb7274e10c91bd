"""Requests whose handler has returned without a reply: it comes from another greenlet, or never."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .context import RemoteRequest
from .inbox import NEVER

if TYPE_CHECKING:
    from .activation import Activation
    from .context import Request
    from .waits import Waits


class DeferredReplies:
    """Who waits for a later reply of which activation, so that its end is told to them."""

    __slots__ = ("_requests", "_waits")

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._requests: dict[Activation, list[Request]] = {}

    def add(self, activation: Activation, request: Request) -> None:
        """Remember a request that is answered later; a message from a schedule is done when its handler returns."""
        if getattr(request, "_firing", None) is not None:
            self._waits.complete(request, None)
            return
        requests = self._requests.setdefault(activation, [])
        requests.append(request)
        if type(request) is RemoteRequest and request.bucket == NEVER:
            self._waits.watch(request)  # its asker gives up elsewhere, and nobody would tell
        if not len(requests) & 63:  # so that an actor that always answers late does not pile them up
            self.open(activation)

    def open(self, activation: Activation) -> list[Request]:
        """Return the requests that still wait, the latest last; forgets the others."""
        requests = self._requests.get(activation)
        if requests is None:
            return []
        requests[:] = [request for request in requests if not request.done]
        if not requests:
            del self._requests[activation]
        return requests

    def owed_elsewhere(self, now: float) -> bool:
        """Tell whether an asker on another host still waits for a later reply; this host's own have deadlines here."""
        return any(
            type(request) is RemoteRequest and not request.done and request.deadline > now
            for requests in self._requests.values()
            for request in requests
        )

    def take(self, activation: Activation) -> list[Request]:
        """Return the requests that still wait, and forget them all."""
        requests = self.open(activation)
        self._requests.pop(activation, None)
        return requests
