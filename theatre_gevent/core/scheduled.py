"""Messages that come from a schedule, and what the core knows of schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .._accel import COMPILED
from ..logic.schedules import Firing
from .context import Context, make_context

if TYPE_CHECKING:
    from ..logic.schedules import Schedule
    from ..messages import Ref


class Scheduled(Context):
    """The context of a message from a schedule: an ordinary one that knows its due time."""

    _firing: Firing
    result: ClassVar[None] = None
    """Nobody waits for it: workers look at the result of all that is no plain `Context`."""


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

    def pause(self) -> None:
        """Fire nothing: the host freezes."""

    def resume(self) -> None:
        """Go on, with what was missed first."""

    def stop(self) -> None:
        """Fire nothing any more: the host stops."""

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


if not COMPILED:
    globals()["make_scheduled"] = Scheduled
