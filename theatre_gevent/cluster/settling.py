"""The end of a detour: its messages are delivered here, go to another host, or fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.context import Failure, Request
from ..core.scheduled import context
from ..errors import NoOwner, TheatreError
from ..logic import envelopes
from ..logic.bodies import pack_body
from ..messages import InitReason
from .detours import HeldSend

if TYPE_CHECKING:
    from ..core.context import Context
    from ..messages import Ref
    from .detours import Detour
    from .link import Link
    from .router import ClusterRouter


class Settling:
    """Ends the detours of a router. Nothing here waits, so it may be called in the hub."""

    def __init__(self, router: ClusterRouter) -> None:
        self._router = router
        self._dispatcher = router.dispatcher

    def again(self, detour: Detour) -> None:
        """Look where the actor is, and send on what waits for it, unless it has to be claimed first."""
        from .router import MUST_CLAIM

        router, ref = self._router, detour.ref
        if router.detours.get(ref) is not detour:
            return  # it has ended meanwhile
        if ref in self._dispatcher.actors:
            self.here(detour, InitReason.NEW)
            return
        refusal = self._dispatcher.backpressure.refusal_of_accepted()
        if refusal is not None:  # not even to other hosts, which may have the actors by now
            self.failed(detour, refusal)
            return
        # A host that leaves must not believe that it is the owner: it would claim, and give back, for ever.
        owner = None if router.is_leaving and detour.owner == router.host_id else detour.owner
        try:
            place = router.place(ref, owner)
        except TheatreError as error:
            self.failed(detour, error)
            return
        if place is MUST_CLAIM:
            assert router.claiming is not None
            router.claiming.claim(ref)
        elif place is None:
            self.here(detour, InitReason.NEW)
        else:
            self.at(detour, place)

    def here(self, detour: Detour, reason: InitReason) -> None:
        """Deliver everything to the actor on this host; `reason` is why it comes into being, if it does now."""
        router, dispatcher = self._router, self._dispatcher
        registry, ref = dispatcher.registry, detour.ref
        try:
            is_new = ref not in dispatcher.actors
            activation = registry.activate(ref)
        except TheatreError as error:
            self.failed(detour, error)
            return
        if is_new and reason is not InitReason.NEW:
            dispatcher.lifecycle.reasons[activation] = reason
        is_awaited = bool(detour.line)  # who stands there will send at once, or forget the activation
        for entry in router.detours.close(detour):
            current = registry.activate(ref)
            if isinstance(entry, HeldSend):
                router.take_back()
                self.deliver(context(current, entry.body, entry.sender, entry.headers))
            elif isinstance(entry, Request):
                router.take_back()
                if entry.done:
                    continue
                asked: Any = entry._activation
                router.pending.pop(asked.seq, None)
                entry._activation = current
                router.requests -= 1
                dispatcher.requests_queued += 1
                self.deliver(entry)
            else:
                router.incoming.take(entry.inlet, entry.message, current)
        if not is_awaited:
            current = registry.activate(ref)
            if current not in dispatcher.backpressure.lines:
                registry.forget_unused(current)

    def at(self, detour: Detour, link: Link) -> None:
        """Send everything on to the host that has the actor."""
        router, ref = self._router, detour.ref
        router.learn(ref, link)
        for entry in router.detours.close(detour):
            if isinstance(entry, HeldSend):
                try:
                    packed = pack_body(entry.body)
                except TheatreError as error:
                    router.forwarded -= 1
                    self.lose(ref, entry.body, entry.sender, str(error), error)
                    continue
                link.send(envelopes.Send(ref, packed, entry.sender, entry.headers))
            elif isinstance(entry, Request):
                self._ask_at(link, entry)
            else:
                refusal = envelopes.NotHere(f"{ref} belongs to host {link.host_id!r}", link.host_id)
                router.incoming.refuse(entry.inlet, entry.message, refusal)

    def _ask_at(self, link: Link, request: Request) -> None:
        if request.done:
            self._router.take_back()
            return
        asked: Any = request._activation
        if asked.body is None:
            try:
                asked.body = pack_body(request.message)
            except TheatreError as error:
                self._router.take_back()
                self._dispatcher.complete(request, Failure(error))
                return
        self._router.ask_at(link, asked, request)

    def failed(self, detour: Detour, error: TheatreError) -> None:
        """Answer who asked with `error`; plain messages become dead letters, those of other hosts go back."""
        router, ref = self._router, detour.ref
        router.detours.fail_line(detour, error)
        for entry in router.detours.close(detour):
            if isinstance(entry, HeldSend):
                router.forwarded -= 1
                self.lose(ref, entry.body, entry.sender, str(error), error)
            elif isinstance(entry, Request):
                router.take_back()
                if not entry.done:
                    asked: Any = entry._activation
                    router.pending.pop(asked.seq, None)
                    self._dispatcher.complete(entry, Failure(error.copy()))
            else:
                router.incoming.refuse(entry.inlet, entry.message, error)

    def deliver(self, ctx: Context) -> None:
        """Deliver a message here, without waiting."""
        dispatcher = self._dispatcher
        refusal = dispatcher.backpressure.refusal_of_accepted()
        if refusal is not None:
            dispatcher.registry.forget_unused(ctx._activation)
            dispatcher.accepted += 1
            dispatcher.lifecycle.fail(ctx, "the host takes no messages any more", refusal, refusal)
        elif not dispatcher.deliver(ctx._activation, ctx):
            dispatcher.backpressure.park(ctx._activation, ctx, self._was_parked)

    def _was_parked(self, ctx: Context, error: TheatreError | None) -> None:
        if error is not None:
            self._dispatcher.accepted += 1
            self._dispatcher.lifecycle.fail(ctx, str(error), error, error)

    def lose(self, ref: Ref, body: Any, sender: Ref | None, reason: str, error: BaseException | None) -> None:
        """Account for a plain message that is lost on its way."""
        self._router.dropped += 1
        self._dispatcher.lifecycle.report(ref, body, sender, reason, error)


def no_owner(ref: Ref, reason: str) -> NoOwner:
    """Return the error of a message that nobody took."""
    return NoOwner(f"{ref} has no owner: {reason}")
