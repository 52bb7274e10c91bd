"""What other hosts send to this one: messages for its actors, and the replies that go back."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from .. import direct
from ..core import native
from ..core.context import OPEN, Context, Failure, RemoteRequest, make_context, make_remote_request
from ..core.inbox import NEVER
from ..core.remote import RemoteAsker
from ..core.scheduled import context
from ..errors import HostNotRunning, InboxFull, NoOwner, TheatreError, UnregisteredActorType
from ..logic import envelopes
from ..logic.bodies import pack_body, unpack_body
from ..logic.routing import RETRIED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.activation import Activation
    from ..core.context import Request
    from ..core.dispatcher import Dispatcher
    from ..messages import Ref
    from .inlet import Inlet
    from .router import ClusterRouter

SEND, REQUEST, REPLY = envelopes.Send, envelopes.Request, envelopes.Reply

_PATIENCE = 2.0
"""Seconds for which a reader waits for room in the host; the peer gives a connection up that takes nothing for 5."""

_MAX_REFUSED = 1 << 17
"""Refs remembered at most of each connection, of which something was refused."""

_NO_CHAIN: list[Ref] = []


class ReplyTo(RemoteAsker):
    """The asker of a request that came over an inlet; the reply goes back the same way."""

    __slots__ = ("_inlet", "_seq")

    def __init__(self, inlet: Inlet, seq: int, chain: list[Ref]) -> None:
        self._inlet = inlet
        self._seq = seq
        self.chain = chain

    def pack(self, result: Any) -> Any:
        """Pack the reply's body, in the call of `ctx.reply`."""
        return pack_body(result)

    def deliver(self, request: Request) -> None:
        """Send the reply, or what went wrong."""
        inlet, result = self._inlet, request.result
        epoch = inlet.epoch
        if type(result) is not Failure:
            inlet.send(REPLY(self._seq, epoch, result))
            return
        error: BaseException = result.error or NoOwner("the request was given up")
        if isinstance(error, HostNotRunning):
            # It was taken, and its handler may have begun: the asker must not send it again by itself.
            error = NoOwner(f"the host gave the request up before it was answered: {error}")
        inlet.send(envelopes.failure_of(self._seq, epoch, error))


class Incoming:
    """Delivers what arrives, without ever waiting for one actor: its messages stand in line at the full inbox.

    For room in the host it does wait, and so its reader stops: the peer's queue fills up and its senders wait. Replies
    to this host's own requests come over other connections and are not held up.
    """

    def __init__(self, dispatcher: Dispatcher, router: ClusterRouter) -> None:
        self._dispatcher = dispatcher
        self._router = router
        self.arrived = 0
        self._is_open = False

    def received(self, inlet: Inlet, messages: Sequence[Any], unmade: Sequence[Any]) -> None:
        """Deliver a batch; where it has to wait, in the greenlet that reads the inlet."""
        if not self._is_open:
            # The others know this host a moment before it has started, when it does not look at its lease yet.
            self._router.opened.wait()
            self._is_open = True
        dispatcher = self._dispatcher
        actors = dispatcher.actors
        refused = inlet.refused
        patience = _PATIENCE
        for message in messages:
            kind = type(message)
            if kind is not SEND and kind is not REQUEST:
                text = f"host {inlet.peer.host_id} sent a {kind.__name__} where only requests belong"
                self._router.transport.gate.warning(f"misplaced from {inlet.peer.host_id}", text)
                continue
            if kind is REQUEST and (headers := direct.headers_of(message)) is not None and headers.barrier:
                self._barrier(inlet, message)
                continue
            ref = direct.ref_of(message)
            if refused and ref in refused:
                self._refuse_after(inlet, message)
                continue
            if dispatcher.accepted >= dispatcher.accept_limit:
                refusal = dispatcher.backpressure.make_room(ref, patience)
                if refusal is not None:
                    patience = 0.0  # the rest of the batch has waited as well
                    self._turn_away(inlet, message, refusal)
                    continue
                if refused and ref in refused:  # since then
                    self._refuse_after(inlet, message)
                    continue
            activation = actors.get(ref)
            if activation is None:
                activation = self._activate(inlet, message)
                if activation is None:
                    continue
            self.take(inlet, message, activation)
        for message, reason in unmade:
            self._unmade(inlet, message, reason)

    def _barrier(self, inlet: Inlet, message: envelopes.Request) -> None:
        """Give back what came before and is not accepted, and say that nothing can come back any more.

        The other host has chosen another way for the actor. What waits here might wait for a claim, and for long. But
        where this host has claimed the actor and keeps it, that is the answer, and what stands in line stays.
        """
        ref, router = message.ref, self._router
        stays = ref in self._dispatcher.actors and ref not in inlet.refused and router.keeps_actors()
        if not stays:
            error = envelopes.NotHere(f"{ref} is looked for elsewhere, and this was not accepted yet")
            self._give_back(inlet, ref, error)
        inlet.refused.pop(ref, None)
        inlet.send(REPLY(message.seq, inlet.epoch, pack_body(router.host_id) if stays else None))

    def _give_back(self, inlet: Inlet, ref: Ref, error: TheatreError) -> None:
        """Give back what came over an inlet for an actor and was not accepted, in its order."""
        detours, actors = self._router.detours, self._dispatcher.actors
        if (detour := detours.get(ref)) is not None:
            for entry in detours.take_out(detour, inlet):
                self.refuse(inlet, entry.message, error)
        if (activation := actors.get(ref)) is not None:
            self._dispatcher.backpressure.take_out(activation, inlet, error)

    def _refuse_after(self, inlet: Inlet, message: Any) -> None:
        """Refuse what follows something that was refused, though it might be accepted by now: it must not overtake."""
        error = self._dispatcher.backpressure.refusal()
        if error is None:
            error = envelopes.NotHere(f"something that was sent to {message.ref} before this has been given back")
        self.refuse(inlet, message, error)

    def take(self, inlet: Inlet, message: Any, activation: Activation) -> None:
        """Deliver a message to an activation of this host, without waiting."""
        dispatcher = self._dispatcher
        ctx: Context
        body, sender, headers = direct.body_of(message), direct.sender_of(message), direct.headers_of(message)
        if type(message) is SEND:
            if headers is None:
                ctx = make_context(activation, body, sender)
            else:
                ctx = context(activation, body, sender, headers)
        else:
            chain = _NO_CHAIN if headers is None or headers.chain is None else headers.chain
            asker = ReplyTo(inlet, direct.seq_of(message), chain)
            deadline = native.read(dispatcher.monotonic) + direct.timeout_of(message)
            firing = None if headers is None else headers.schedule
            ctx = make_remote_request(activation, body, sender, asker, deadline, None, False, None, OPEN, NEVER, firing)
        if dispatcher.deliver(activation, ctx):
            self.arrived += 1
        else:
            dispatcher.backpressure.park(activation, ctx, self._outcome(inlet, message), inlet)

    def _activate(self, inlet: Inlet, message: Any) -> Activation | None:
        ref = message.ref
        registry = self._dispatcher.registry
        try:
            registry.type_of(ref)
        except UnregisteredActorType as error:
            self.refuse(inlet, message, error)
            return None
        verdict = self._router.arriving(inlet, message)
        if verdict is True:
            return registry.activate(ref)
        if verdict is not False:
            self._turn_away(inlet, message, verdict)
        return None

    def _turn_away(self, inlet: Inlet, message: Any, error: TheatreError) -> None:
        """Refuse what has just come; what came before it and was not accepted goes back first."""
        if not isinstance(error, InboxFull):
            self._give_back(inlet, message.ref, error)
        self.refuse(inlet, message, error)

    def refuse(self, inlet: Inlet, message: Any, error: TheatreError) -> None:
        """Give back a message that was not accepted.

        If the peer is going to send it again, so is everything from there that comes before the peer knows.
        """
        seq = message.seq if type(message) is REQUEST else 0
        failure = envelopes.failure_of(seq, inlet.epoch, error)
        code, ref, refused = failure.code, message.ref, inlet.refused
        if code in RETRIED and ref not in refused:
            if len(refused) >= _MAX_REFUSED:  # half of them at once: to look for the first of a dict takes long
                for old in list(islice(refused, _MAX_REFUSED // 2)):
                    del refused[old]
            refused[ref] = None
        if type(message) is REQUEST:
            if failure.headers is None:
                failure.headers = envelopes.Headers(refused=True)
            inlet.send(failure)
            return
        body = pack_body(message.body)
        headers = message.headers
        if isinstance(error, envelopes.NotHere) and error.owner is not None:
            headers = headers or envelopes.Headers()
            headers.owner = error.owner
        inlet.send(envelopes.Returned(ref, body, code, str(error), message.sender, headers))

    def _outcome(self, inlet: Inlet, message: Any) -> Any:
        def outcome(ctx: Context, error: TheatreError | None) -> None:
            if error is None:
                self.arrived += 1
            else:
                if type(ctx) is RemoteRequest:
                    ctx.greenlet = None
                self.refuse(inlet, message, error)

        return outcome

    def keep(self, message: envelopes.Returned, error: BaseException) -> None:
        """A message that was refused and can't go back is this host's dead letter."""
        self.arrived += 1
        self._dispatcher.accepted += 1
        body = unpack_body(message.body)
        self._dispatcher.lifecycle.dead_letter(message.ref, body, message.sender, message.text, error)

    def _unmade(self, inlet: Inlet, message: Any, reason: str) -> None:
        """A body that can't be made here: the asker is told, a plain message becomes a dead letter."""
        if type(message) is REQUEST:
            inlet.send(envelopes.Failure(message.seq, inlet.epoch, envelopes.BAD_BODY, "BadBody", reason))
        elif type(message) is SEND:
            self.arrived += 1
            self._dispatcher.accepted += 1
            reason = f"its body, sent by host {inlet.peer.host_id}, can't be made here: {reason}"
            self._dispatcher.lifecycle.dead_letter(message.ref, None, message.sender, reason, None)
