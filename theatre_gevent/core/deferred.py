"""Requests whose handler has returned without a reply: it comes from another greenlet, or never."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .activation import Activation
    from .context import Request


class DeferredReplies:
    """Who waits for a later reply of which activation, so that its end is told to them."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        self._requests: dict[Activation, list[Request]] = {}

    def add(self, activation: Activation, request: Request) -> None:
        """Remember a request that is answered later."""
        requests = self._requests.setdefault(activation, [])
        requests.append(request)
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

    def take(self, activation: Activation) -> list[Request]:
        """Return the requests that still wait, and forget them all."""
        requests = self.open(activation)
        self._requests.pop(activation, None)
        return requests
