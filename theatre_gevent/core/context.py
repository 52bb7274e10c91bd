"""What a receiver is given: one message, and the means to act on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent.event import Event

from .._accel import COMPILED
from ..errors import ClaimLost
from ..messages import Ref
from .activation import STOPPED
from .record import Record

if TYPE_CHECKING:
    from datetime import datetime

    from ..logic.schedules import Firing
    from .activation import Activation
    from .remote import RemoteAsker


class Failure:
    """The result of a wait that has failed: `error` is raised in the waiter. None if nobody waits any more."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


OPEN: Any = Failure(None)
"""The result of a wait that has none yet."""


class Context(Record):
    """One message on its way to an actor, and what the actor's `receive` gets to handle it.

    A context may be kept and used after `receive` has returned, from other greenlets and native threads too, for as
    long as the activation lives; after that its verbs raise `ClaimLost`.

    Attributes:
        message: The body.
        sender: The actor that sent it with `ctx.send` or `ctx.request`, None when it came from outside.
    """

    # It is the envelope in the inbox as well, so that a message costs one object.
    _activation: Activation
    message: Any
    sender: Ref | None

    @property
    def actor_ref(self) -> Ref:
        """The ref of the actor that handles this message."""
        return self._activation.ref

    @property
    def is_request(self) -> bool:
        """True if somebody waits for a reply to this message."""
        return False

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
        activation.actor_type.dispatcher.send(ref, body, activation.ref, self)

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
        if self._activation.state == STOPPED:
            raise self._fenced("reply")

    # -- schedules ---------------------------------------------------------------------------------------------

    @property
    def schedule_id(self) -> str | None:
        """The schedule that this message comes from, None if it comes from none."""
        firing: Firing | None = getattr(self, "_firing", None)
        return None if firing is None else firing.schedule_id

    @property
    def due(self) -> datetime | None:
        """When the schedule was due, in UTC."""
        firing: Firing | None = getattr(self, "_firing", None)
        return None if firing is None else firing.due

    @property
    def occurrence(self) -> str | None:
        """Schedule and due time as one text, the same for every attempt: what to remember to handle each once."""
        firing: Firing | None = getattr(self, "_firing", None)
        return None if firing is None else firing.occurrence

    @property
    def attempt(self) -> int:
        """1 for the first time that a schedule's message is sent, more when it may have been handled before.

        0 for a message that comes from no schedule.
        """
        firing: Firing | None = getattr(self, "_firing", None)
        return 0 if firing is None else firing.attempt

    def send_after(self, ref: Ref, body: object, delay: float) -> str:
        """Send `body` to an actor in `delay` seconds, as `Host.send_after` does, with this actor as the sender.

        It may be this actor itself, which may leave meanwhile and then comes back for it. Works in `Initialize` too.

        Raises:
            ClaimLost: The activation of this context has ended.
        """
        activation = self._activation
        if activation.state == STOPPED:
            raise self._fenced("send")
        return activation.actor_type.dispatcher.schedules.send_after(ref, body, delay, activation.ref)

    def send_cron(self, ref: Ref, body: object, expression: str, tz: str | None = None, misfire: str = "once") -> str:
        """Send `body` to an actor again and again, as `Host.send_cron` does, with this actor as the sender.

        Raises:
            ClaimLost: The activation of this context has ended.
        """
        activation = self._activation
        if activation.state == STOPPED:
            raise self._fenced("send")
        schedules = activation.actor_type.dispatcher.schedules
        return schedules.send_cron(ref, body, expression, tz, misfire, activation.ref)

    def cancel_schedule(self, schedule_id: str) -> bool:
        """Cancel a schedule, as `Host.cancel_schedule` does; tells whether it was in time.

        Raises:
            ClaimLost: The activation of this context has ended.
        """
        activation = self._activation
        if activation.state == STOPPED:
            raise self._fenced("cancel a schedule")
        return activation.actor_type.dispatcher.schedules.cancel(schedule_id)

    def _fenced(self, verb: str) -> ClaimLost:
        return ClaimLost(f"{self._activation.ref} has stopped: a context of an ended activation can't {verb}")


class Request(Context):
    """The context of a message whose sender waits for a reply.

    It is the wait as well, so that a request costs one object; it is never reused, so that nothing late can reach the
    wrong waiter.

    Attributes:
        greenlet: Who waits: a greenlet or an `Asker`; None once it has gone on.
        deadline: When it gives up, in the clock's monotonic seconds.
        parent: The context whose handler makes this request, None when it comes from outside.
        in_hand: True while it is handed over directly and the hub has not run since: its worker switches straight
            back, and its deadline is not yet watched.
        below: The request that was handed over before it and is in hand still.
        result: OPEN, then the reply or a `Failure`; whoever sets it first decides the outcome.
        bucket: Where `Deadlines` keeps it.
    """

    greenlet: Any
    deadline: float
    parent: Context | None
    in_hand: bool
    below: Request | None
    result: Any
    bucket: int

    @property
    def is_request(self) -> bool:
        """True until the sender has its reply, or has given up."""
        return self.result is OPEN

    @property
    def done(self) -> bool:
        """True once there is a result."""
        return self.result is not OPEN

    @property
    def answered(self) -> bool:
        """True once there is a reply."""
        return type(self.result) is not Failure

    def reply(self, body: object) -> None:
        """Answer the request. Only the first reply counts; a later one is counted in `replies_late`.

        Raises:
            ClaimLost: The activation of this context has ended.
        """
        answer(self, body)


class RemoteRequest(Request):
    """The context of a request from another host: `greenlet` is its `RemoteAsker`, and the reply goes there at once.

    With a firing, it is a message from a schedule: what is waited for is that it has been handled, not a reply.
    """

    _firing: Firing | None

    @property
    def is_request(self) -> bool:
        """True until the sender has its reply, or has given up."""
        return self._firing is None and self.result is OPEN

    def reply(self, body: object) -> None:
        """Answer the request, as `Request.reply` does."""
        if self._firing is None:
            answer(self, body)
        else:
            Context.reply(self, body)


def answer(request: Request, body: object) -> None:
    """Answer a request; see `Request.reply`, whose body this is, where types can be told for C."""
    if request is None or (activation := request._activation) is None:  # in C nothing else stops at it
        raise TypeError("a reply needs a request on its way to an actor")
    if activation.state == STOPPED:
        raise request._fenced("reply")
    in_hand = request.in_hand
    if request.result is not OPEN or not in_hand:
        activation.actor_type.dispatcher.complete(request, body)
        return
    request.result = body
    if not request.in_hand:  # said in a native thread, and the hub began to watch over the request just now
        activation.actor_type.dispatcher.resume(request)


def make_context(activation: Activation, message: Any, sender: Ref | None) -> Context:
    """Return a new context."""
    ctx: Context = Context.__new__(Context)
    ctx._activation = activation
    ctx.message = message
    ctx.sender = sender
    return ctx


def make_request(
    activation: Any,
    message: Any,
    sender: Ref | None,
    greenlet: Any,
    deadline: float,
    parent: Context | None,
    in_hand: bool,
    below: Request | None,
    result: Any,
    bucket: int,
) -> Request:
    """Return a new request. Each field is given, in their order."""
    request: Request = Request.__new__(Request)
    fill(request, activation, message, sender, greenlet, deadline, parent, in_hand, below, result, bucket)
    return request


def make_remote_request(
    activation: Activation,
    message: Any,
    sender: Ref | None,
    greenlet: RemoteAsker,
    deadline: float,
    parent: Context | None,
    in_hand: bool,
    below: Request | None,
    result: Any,
    bucket: int,
    firing: Firing | None,
) -> RemoteRequest:
    """Return a new request from another host, likewise."""
    request: RemoteRequest = RemoteRequest.__new__(RemoteRequest)
    fill(request, activation, message, sender, greenlet, deadline, parent, in_hand, below, result, bucket)
    request._firing = firing
    return request


def fill(
    request: Request,
    activation: Any,
    message: Any,
    sender: Ref | None,
    greenlet: Any,
    deadline: float,
    parent: Context | None,
    in_hand: bool,
    below: Request | None,
    result: Any,
    bucket: int,
) -> None:
    """Set all fields of a request that has been made without them."""
    request._activation = activation
    request.message = message
    request.sender = sender
    request.greenlet = greenlet
    request.deadline = deadline
    request.parent = parent
    request.in_hand = in_hand
    request.below = below
    request.result = result
    request.bucket = bucket


if not COMPILED:
    answer.__doc__, answer.__qualname__ = Request.reply.__doc__, Request.reply.__qualname__
    answer.__name__ = "reply"
    Request.reply = answer  # type: ignore[method-assign, assignment]  # a call less
    # The classes take the same arguments, and as Structs are made faster than by a function.
    globals().update(make_context=Context, make_request=Request, make_remote_request=RemoteRequest)
