"""Messages that come from a schedule, and what the core knows of schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from greenlet import getcurrent

from .._accel import COMPILED
from ..logic.schedules import Firing
from .context import OPEN, Context, Request, fill, make_context
from .inbox import NEVER

if TYPE_CHECKING:
    from ..logic.schedules import Schedule
    from ..messages import Ref
    from .dispatcher import Dispatcher


class Scheduled(Context):
    """The context of a message from a schedule: an ordinary one that knows its due time."""

    _firing: Firing
    result: ClassVar[None] = None
    """Nobody waits for it: workers look at the result of all that is no plain `Context`."""


class ScheduledRequest(Request):
    """The context of a message from a schedule whose sender waits until it has been handled.

    For its actor it is no request: there is nothing to reply. It is done once the handler has returned or raised.
    """

    _firing: Firing

    @property
    def is_request(self) -> bool:
        """False: nobody waits for a reply."""
        return False

    def reply(self, body: object) -> None:
        """Nobody waits for a reply, and it goes nowhere."""
        Context.reply(self, body)


class Schedules(Protocol):
    """Keeps the schedules of a host."""

    def send_after(self, ref: Ref, body: object, delay: float, sender: Ref | None = None) -> str:
        """Send a message later; returns the schedule's id."""

    def send_cron(
        self, ref: Ref, body: object, expression: str, tz: str | None, misfire: str, sender: Ref | None = None
    ) -> str:
        """Send a message again and again; returns the schedule's id."""

    def cancel(self, schedule_id: str) -> bool:
        """Forget a schedule; tells whether it was in time."""

    def pending(self) -> list[Schedule]:
        """Return the schedules that are pending."""

    def start(self) -> None:
        """The host is active from now on."""

    def pause(self) -> None:
        """Fire nothing: the host freezes."""

    def resume(self) -> None:
        """Go on, with what was missed first."""

    def stop(self) -> None:
        """Fire nothing any more: the host stops."""

    def finish(self, timeout: float) -> None:
        """Wait until what has been fired is handled, and let go of the rest: the host's actors are about to end."""

    def abandon(self) -> None:
        """In a forked child: touch nothing any more, the schedules are the parent's."""

    def counters(self) -> dict[str, int]:
        """Return what `METRICS` calls the counters of schedules."""


def context(activation: Any, body: Any, sender: Ref | None, headers: Any) -> Context:
    """Return the context of a plain message from another host, whose envelope had these headers."""
    firing = None if headers is None else headers.schedule
    if firing is None:
        return make_context(activation, body, sender)
    return make_scheduled(activation, body, sender, firing)


def make_scheduled(activation: Any, message: Any, sender: Ref | None, firing: Firing) -> Scheduled:
    """Return the context of a message from a schedule."""
    ctx: Scheduled = Scheduled.__new__(Scheduled)
    ctx._activation = activation
    ctx.message = message
    ctx.sender = sender
    ctx._firing = firing
    return ctx


def make_scheduled_request(
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
    firing: Firing,
) -> ScheduledRequest:
    """Return the context of a message from a schedule whose handling is waited for."""
    request: ScheduledRequest = ScheduledRequest.__new__(ScheduledRequest)
    fill(request, activation, message, sender, greenlet, deadline, parent, in_hand, below, result, bucket)
    request._firing = firing
    return request


def send_and_wait(
    dispatcher: Dispatcher, ref: Ref, body: object, sender: Ref | None, firing: Firing, timeout: float
) -> None:
    """Send a message from a schedule and wait until its actor has handled it, here or on another host.

    Raises:
        RemoteActorError: The receiver raised, or the actor could not be activated.
        InboxFull: The inbox, or the host, stayed full for the host's `request_timeout`.
        RequestTimeout: It was not handled within `timeout` seconds.
        TheatreError: It could not be delivered, or nobody knows whether it was handled.
    """
    refusal = dispatcher.backpressure.refusal()
    if refusal is not None:
        raise refusal
    deadline = dispatcher.monotonic() + timeout
    me = getcurrent()
    request = make_scheduled_request(None, body, sender, me, deadline, None, False, None, OPEN, NEVER, firing)
    activation = dispatcher.actors.get(ref)
    if activation is None:
        router = dispatcher.router
        if router is not None and (way := router.way(ref)) is not None:
            router.ask(way, ref, request)
            dispatcher._await(request, timeout)
            return
        activation = dispatcher.registry.activate(ref)
    request._activation = activation
    dispatcher._queue(request, timeout, None)


if not COMPILED:
    globals().update(make_scheduled=Scheduled, make_scheduled_request=ScheduledRequest)
