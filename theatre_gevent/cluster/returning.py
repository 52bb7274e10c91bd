"""What comes back over a link: replies, and messages that the other host did not take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import direct
from ..core.context import OPEN, Failure, Request
from ..errors import NoOwner, RemoteActorError, TheatreError
from ..logic import envelopes
from ..logic.bodies import unpack_body
from ..logic.routing import MAX_ATTEMPTS, RETRIED, Retry, decide_retry
from .detours import HeldSend
from .settling import no_owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..messages import Ref
    from .link import Link
    from .router import ClusterRouter

REPLY = envelopes.Reply

_NOT_TAKEN = RETRIED | {envelopes.INBOX_FULL, envelopes.UNREGISTERED, envelopes.BAD_BODY}
"""Codes of hosts that did not accept a request."""


def _was_refused(failure: envelopes.Failure) -> bool:
    return failure.code in _NOT_TAKEN or (failure.headers is not None and failure.headers.refused)


class Returning:
    """Completes requests, and sends again what was not taken, within bounds."""

    def __init__(self, router: ClusterRouter) -> None:
        self._router = router
        self._dispatcher = router.dispatcher

    def received(self, source: Link, messages: Sequence[Any], unmade: Sequence[Any]) -> None:
        """Take a batch of answers, in the hub most likely: it never waits."""
        router, dispatcher = self._router, self._dispatcher
        epoch, pending, resumes = router.transport.identity.epoch, router.pending, dispatcher.resumes
        for message in messages:
            kind = type(message)
            if kind is envelopes.Returned:
                self._came_back(source.host_id, message)
            elif kind is not REPLY and kind is not envelopes.Failure:
                text = f"host {source.host_id} sent a {kind.__name__} where only replies belong"
                router.transport.gate.warning(f"misplaced from {source.host_id}", text)
            elif direct.epoch_of(message) != epoch:
                dispatcher.replies_late += 1
            else:
                request = pending.pop(direct.seq_of(message), None)
                if request is None or request.result is not OPEN:
                    self._late(message)
                elif kind is REPLY:
                    request.result = direct.body_of(message)
                    resumes.append(request)
                else:
                    self._failed(source.host_id, request, message)
        if resumes and not dispatcher.armed:
            dispatcher.arm()
        for message, reason in unmade:
            self._unmade(source.host_id, message, reason)

    def _unmade(self, host_id: str, message: Any, reason: str) -> None:
        router = self._router
        if type(message) is envelopes.Returned:
            router.returned += 1
            router.forwarded -= 1
            reason = f"it came back from host {host_id!r}, and its body can't be made here: {reason}"
            router.settling.lose(message.ref, None, message.sender, reason, None)
            return
        epoch = router.transport.identity.epoch
        if getattr(message, "epoch", epoch) != epoch:
            return  # it answers a request of an earlier life
        request = router.pending.pop(getattr(message, "seq", -1), None)
        if request is not None:
            error = RemoteActorError("BadBody", f"its reply can't be made here: {reason}", request._activation.ref)
            self._dispatcher.complete(request, Failure(error))

    def _late(self, message: envelopes.Reply | envelopes.Failure) -> None:
        owner = message.body if type(message) is REPLY else None
        if self._router.barriers.answered(message.seq, owner if isinstance(owner, str) else None):
            return
        self._dispatcher.replies_late += 1
        if type(message) is envelopes.Failure and _was_refused(message):
            self._router.take_back()

    # -- not taken ---------------------------------------------------------------------------------------------

    def _failed(self, host_id: str, request: Request, failure: envelopes.Failure) -> None:
        router = self._router
        asked: Any = request._activation
        code = failure.code
        if code not in RETRIED:
            if _was_refused(failure):
                router.take_back()
            self._dispatcher.complete(request, Failure(envelopes.error_of(failure, asked.ref)))
            return
        router.returned += 1
        left = request.deadline - self._dispatcher.monotonic()
        verdict = decide_retry(code, asked.attempt, host_id, left)
        router.evict(asked.ref, host_id)
        if isinstance(verdict, Retry):
            owner = None if failure.headers is None else failure.headers.owner
            self._ask_again(request, owner, verdict.delay, host_id)
            return
        router.take_back()
        error = envelopes.error_of(failure, asked.ref)
        if code == envelopes.NOT_HERE:
            error = no_owner(asked.ref, verdict.reason)
        self._dispatcher.complete(request, Failure(error))

    def _ask_again(self, request: Request, owner: str | None, delay: float, by: str | None = None) -> None:
        asked: Any = request._activation
        asked.attempt += 1
        asked.host_id = ""  # nobody has it now; a host that goes down meanwhile does not take it along
        self._detour(asked.ref, request, owner, delay, by)

    def _came_back(self, host_id: str, message: envelopes.Returned) -> None:
        """A plain message was not taken. It stays counted as forwarded while it waits for its next attempt."""
        router = self._router
        router.returned += 1
        headers = message.headers or envelopes.Headers()
        verdict = decide_retry(message.code, headers.attempt, host_id, self._dispatcher.request_timeout)
        router.evict(message.ref, host_id)
        if isinstance(verdict, Retry):
            headers.attempt += 1
            owner, headers.owner = headers.owner, None
            entry = HeldSend(message.body, message.sender, headers)
            self._detour(message.ref, entry, owner, verdict.delay, host_id)
            return
        router.forwarded -= 1
        reason = message.text or verdict.reason
        router.settling.lose(message.ref, message.body, message.sender, reason, None)

    def _detour(
        self, ref: Ref, entry: HeldSend | Request, owner: str | None, delay: float, by: str | None = None
    ) -> None:
        """Have a message wait for its next attempt; what comes for the same actor meanwhile stays behind it.

        So does what else comes back from the host that it came back from, and from where the actor was believed to be
        since: all of that is awaited.
        """
        router = self._router
        detours = router.detours
        detour = detours.get(ref)
        is_new = detour is None
        if detour is None:
            detour = detours.open(ref)
        if owner is not None:
            detour.owner = owner
        detours.hold_again(detour, entry)
        links = [] if by is None else [router.transport.link(by)]
        if is_new:
            links.append(router.leave_way(ref))
        if not router.await_rest(detour, links, delay) and is_new:
            router.go_on(detour, delay)

    # -- connections that break --------------------------------------------------------------------------------

    def down(self, host_id: str, error: BaseException) -> None:
        """A link has lost its connection: what was written may have been handled, and will not be answered."""
        router = self._router
        router.barriers.down(host_id)
        link = router.transport.link(host_id)
        waiting = {getattr(message, "seq", None) for message in (() if link is None else link.unsent())}
        for seq, request in list(router.pending.items()):
            asked: Any = request._activation
            if asked.host_id == host_id and seq not in waiting and request.result is OPEN:
                del router.pending[seq]
                text = f"host {host_id!r} was lost while it had a request for {asked.ref}: {error}"
                self._dispatcher.complete(request, Failure(NoOwner(text)))

    def lost(self, host_id: str, messages: Sequence[Any], error: TheatreError) -> None:
        """Messages were certainly never sent: they go elsewhere if their actors are to be found elsewhere by now.

        Otherwise plain ones become dead letters, and askers are told.
        """
        router = self._router
        for message in messages:
            if type(message) is envelopes.Request and message.headers is not None and message.headers.barrier:
                router.barriers.answered(message.seq)
            elif type(message) is envelopes.Returned:
                router.incoming.keep(message, error)  # it could not even be given back
            elif type(message) is envelopes.Send:
                self._send_lost(host_id, message, error)
            elif type(message) is envelopes.Request:
                self._request_lost(host_id, message, error)

    def _may_move(self, host_id: str, ref: Ref, attempt: int) -> bool:
        router = self._router
        if router.claiming is None or attempt + 1 >= MAX_ATTEMPTS:
            return False
        router.evict(ref, host_id)
        return router.cluster.ring.owner(ref) not in (host_id, None)

    def _send_lost(self, host_id: str, message: envelopes.Send, error: TheatreError) -> None:
        router, ref = self._router, message.ref
        headers = message.headers or envelopes.Headers()
        body = unpack_body(message.body)
        if isinstance(error, NoOwner) and self._may_move(host_id, ref, headers.attempt):
            headers.attempt += 1
            self._detour(ref, HeldSend(body, message.sender, headers), None, 0.0)
            return
        router.forwarded -= 1
        router.settling.lose(ref, body, message.sender, f"host {host_id!r} can't be reached: {error}", error)

    def _request_lost(self, host_id: str, message: envelopes.Request, error: TheatreError) -> None:
        router = self._router
        request = router.pending.pop(message.seq, None)
        if request is None or request.done:
            router.take_back()
            return
        asked: Any = request._activation
        if isinstance(error, NoOwner) and self._may_move(host_id, asked.ref, asked.attempt):
            self._ask_again(request, None, 0.0)
            return
        router.take_back()
        failure = error if isinstance(error, TheatreError) else NoOwner(f"host {host_id!r} can't be reached: {error}")
        self._dispatcher.complete(request, Failure(failure))
