"""The verbs of a host that have to do with schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..logic.schedules import Schedule
    from ..messages import Ref
    from .listing import ListedSchedules


class ScheduleVerbs:
    """What a host can do about schedules. Each may be called from any greenlet and any native thread."""

    _schedules: ListedSchedules

    def send_after(self, ref: Ref, body: object, delay: float) -> str:
        """Send a message to an actor later, once.

        The delay is measured by the monotonic clock: setting the wall clock does not change it. The message is never
        sent early.

        Args:
            ref: Whom to send to.
            body: The message.
            delay: Seconds from now, 0 or more.

        Returns:
            The id of the schedule, for `cancel_schedule`; the message carries it as `ctx.schedule_id`.

        Raises:
            InvalidSchedule: The delay is no number of seconds from 0 on.
            InvalidRef: `ref` is not a Ref.
            UnregisteredActorType: The actor would live on this host, where nobody registered `ref.type`.
            MessageNotSerializable: The message has to travel and can't.
            HostNotRunning: The host is not started (HostDraining: is stopping; HostFrozen: is frozen).
        """
        return self._schedules.send_after(ref, body, delay)

    def send_cron(self, ref: Ref, body: object, expression: str, tz: str | None = None, misfire: str = "once") -> str:
        """Send a message to an actor again and again, at the times of a cron expression.

        Args:
            ref: Whom to send to.
            body: The message.
            expression: Minute, hour, day-of-month, month and day-of-week, such as `"*/5 8-17 * * MON-FRI"`, or
                `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. A day is due that matches either of the two day
                fields, if both are restricted.
            tz: Name of the time zone, such as `"Europe/Berlin"`; None for UTC.
            misfire: What becomes of times that were missed, because the host was frozen or too busy or the clock was
                set: `"once"` sends one message for the last of them, `"all"` one for each, `"skip"` none for those
                missed by more than a minute.

        Returns:
            The id of the schedule, for `cancel_schedule`; each message carries it as `ctx.schedule_id`.

        Raises:
            InvalidSchedule: Expression, time zone or misfire policy is no such thing, or the expression is never due.
            InvalidRef: `ref` is not a Ref.
            UnregisteredActorType: The actor would live on this host, where nobody registered `ref.type`.
            MessageNotSerializable: The message has to travel and can't.
            HostNotRunning: The host is not started (HostDraining: is stopping; HostFrozen: is frozen).
        """
        return self._schedules.send_cron(ref, body, expression, tz, misfire)

    def cancel_schedule(self, schedule_id: str) -> bool:
        """Cancel a schedule: it is not fired any more.

        Returns:
            True if that was in time. False if there is no such schedule, or its message has been sent.

        Raises:
            InvalidSchedule: The id is no text.
        """
        return self._schedules.cancel(schedule_id)

    def schedules(self) -> list[Schedule]:
        """Return the schedules that are pending, in the order in which they were made."""
        return self._schedules.pending()
