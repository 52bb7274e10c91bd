"""The verbs of a host that have to do with schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import HostNotRunning

if TYPE_CHECKING:
    from ..logic.schedules import Schedule
    from ..messages import Ref
    from .listing import ListedSchedules


class ScheduleVerbs:
    """What a host can do about schedules. Each may be called from any greenlet and any native thread."""

    _schedules: ListedSchedules

    if TYPE_CHECKING:
        host_id: str

        @property
        def state(self) -> str:
            """The host's state."""

    def send_after(self, ref: Ref, body: object, delay: float) -> str:
        """Send a message to an actor later, once.

        The message is never sent early. The delay is measured by the monotonic clock, which nobody sets; with a
        database by the clock of its server.

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
            DatabaseError: The schedule could not be written down: the database is away (DatabaseUnavailable), refuses
                the message for its size (DatabaseRefused), or has not said whether it has it (AnswerLost).
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
            DatabaseError: The schedule could not be written down: the database is away (DatabaseUnavailable), refuses
                the message for its size (DatabaseRefused), or has not said whether it has it (AnswerLost).
        """
        return self._schedules.send_cron(ref, body, expression, tz, misfire)

    def cancel_schedule(self, schedule_id: str) -> bool:
        """Cancel a schedule: it is not fired any more.

        With a database, any host of the cluster can cancel any schedule. Of a recurring one, what is on its way
        already still comes: a message that is sent, or stands in the line of an actor whose inbox is full.

        Returns:
            True if that was in time. False if there is no such schedule any more, or if it is a single message that has
            been sent, is being sent, or, with a database, may have been handled by a host that has died since; it is
            not sent again then.

        Raises:
            InvalidSchedule: The id is no text.
            HostNotRunning: The host is not started, or has stopped.
            DatabaseError: The database is away, or has not said whether it was in time.
        """
        self._check_started()
        return self._schedules.cancel(schedule_id)

    def schedules(self) -> list[Schedule]:
        """Return the schedules that are pending.

        Without a database they are those that this host has made, in that order. With one they are those of the whole
        cluster, 10 000 at most: first those that can't be sent, whose `error` says why, then those that are due next.

        Raises:
            HostNotRunning: The host is not started, or has stopped.
            DatabaseError: The database is away.
        """
        self._check_started()
        return self._schedules.pending()

    def _check_started(self) -> None:
        """A frozen or stopping host can still be asked; one that is over has no schedules, or no connection to them."""
        if self.state in ("new", "stopped"):
            raise HostNotRunning(f"host {self.host_id} has no schedules: it is {self.state}")
