"""What a receiver is given: one message, and the means to act on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from gevent.event import Event

from ..errors import ClaimLost
from ..messages import Ref
from .activation import STOPPED

if TYPE_CHECKING:
    from .activation import Activation
    from .requests import Pending


class Context(msgspec.Struct, eq=False):
    """One message on its way to an actor, and what the actor's `receive` gets to handle it.

    A context may be kept and used after `receive` has returned, from other greenlets and native threads too, for as
    long as the activation lives; after that its verbs raise `ClaimLost`.

    Attributes:
        message: The body.
        sender: The actor that sent it with `ctx.send` or `ctx.request`, None when it came from outside.
    """

    # It is the envelope in the inbox as well, so that a message costs one object. A Struct is made in 60 ns, a class
    # with slots in 129.
    _activation: Activation
    message: Any
    sender: Ref | None
    _pending: Pending | None

    @property
    def actor_ref(self) -> Ref:
        """The ref of the actor that handles this message."""
        return self._activation.ref

    @property
    def is_request(self) -> bool:
        """True if somebody waits for a reply to this message."""
        return self._pending is not None and not self._pending.done

    @property
    def cancelled(self) -> Event:
        """An event that is set when the host freezes or stops hard: long handlers should look at it or wait for it."""
        return self._activation.actor_type.dispatcher.cancelled

    def send(self, ref: Ref, body: object) -> None:
        """Send `body` to another actor, or to oneself, without waiting for its handling.

        Waits while the receiver's inbox is full, at most the host's `request_timeout` seconds.

        Raises:
            InboxFull: The inbox stayed full, or it is this actor's own.
            UnregisteredActorType: Nobody registered `ref.type`.
            ClaimLost: The activation of this context has ended.
        """
        activation = self._activation
        if activation.state == STOPPED:
            raise self._fenced("send")
        activation.actor_type.dispatcher.send(ref, body, activation.ref)

    def request(self, ref: Ref, body: object, timeout: float | None = None) -> Any:
        """Send `body` to another actor and wait for its reply.

        Args:
            ref: Whom to ask.
            body: What to ask.
            timeout: Seconds, by default the host's `request_timeout`; never longer than what is left to the request
                that is being handled.

        Returns:
            The body of the reply.

        Raises:
            RequestTimeout: No reply came in time.
            CallCycle: The actor asked waits, directly or through others, for this one.
            RemoteActorError: The receiver raised an exception.
            ClaimLost: The activation of this context has ended.
        """
        activation = self._activation
        if activation.state == STOPPED:
            raise self._fenced("request")
        return activation.actor_type.dispatcher.request(ref, body, timeout, self)

    def reply(self, body: object) -> None:
        """Answer the request that is being handled; nobody waits for a reply to a plain message, and it goes nowhere.

        A second reply, and one that comes after the request has timed out, is counted in `replies_late`.

        Raises:
            ClaimLost: The activation of this context has ended.
        """
        activation = self._activation
        if activation.state == STOPPED:
            raise self._fenced("reply")
        pending = self._pending
        if pending is not None:
            activation.actor_type.dispatcher.complete(pending, body, None)

    def _fenced(self, verb: str) -> ClaimLost:
        return ClaimLost(f"{self._activation.ref} has stopped: a context of an ended activation can't {verb}")
