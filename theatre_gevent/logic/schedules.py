"""What is due, what was missed, what is fired of it: values and the present time in, decisions out.

Wall times are seconds since the epoch. A recurring schedule is known here by one function, which gives the next due
time after a moment; the rules of cron are the library's behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct

from ..config import MAX_TIMEOUT
from ..errors import InvalidSchedule
from ..messages import Ref

NextAfter: TypeAlias = Callable[[float], "int | None"]
"""Returns the first due time after a moment; None when there is none any more."""

ONCE, ALL, SKIP = MISFIRES = ("once", "all", "skip")
"""What becomes of due times that were missed: the last one is fired, all are, or none."""

GRACE = 60.0
"""Seconds after which a due time counts as missed for `skip`. No cron expression is due twice in less."""

STEP_BACK = 3 * 3600.0
"""Seconds by which the wall clock may be set back before due times are counted anew, as cron(8) of Debian does."""

MAX_DUE = 250_000_000_000_000_000
"""The last due time that anything can have, in microseconds since the epoch: in the year 9892."""

_LOOK_BACK = (180.0, 7200.0, 2 * 86400.0, 64 * 86400.0, 3 * 366 * 86400.0)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Firing(Struct, frozen=True, array_like=True, gc=False):
    """One due time of a schedule, on its way to the actor.

    Attributes:
        schedule_id: The schedule.
        due_us: When it was due, in microseconds since the epoch.
        attempt: 1, and more where an earlier attempt may have been handled.
    """

    schedule_id: Annotated[str, Meta(max_length=200)]
    due_us: Annotated[int, Meta(ge=0, le=MAX_DUE)]
    attempt: Annotated[int, Meta(ge=1, le=1 << 31)] = 1

    @property
    def due(self) -> datetime:
        """When it was due, in UTC."""
        return moment(self.due_us / 1e6)

    @property
    def occurrence(self) -> str:
        """Schedule and due time as one text: the same for every attempt, and for nothing else."""
        return f"{self.schedule_id}@{self.due.isoformat().replace('+00:00', 'Z')}"


class Schedule(Struct, frozen=True):
    """A schedule that is pending, as `host.schedules()` shows it.

    Attributes:
        id: What `cancel_schedule` takes.
        ref: Whom the message is for.
        body: The message.
        due: When it is due next, in UTC.
        expression: The cron expression, None for a single message.
        tz: Name of the time zone of the expression.
        misfire: What becomes of due times that were missed.
        sender: The actor that made the schedule, None when it was made outside.
        attempt: How often it has been fired without having been handled for certain.
        error: Why it can't be fired, None if it can.
    """

    id: str
    ref: Ref
    body: Any
    due: datetime
    expression: str | None = None
    tz: str | None = None
    misfire: str | None = None
    sender: Ref | None = None
    attempt: int = 0
    error: str | None = None


class Row(Struct, frozen=True):
    """A schedule as a database holds it.

    Attributes:
        id: Its id.
        actor_type: Type and id of the ref it is for.
        sender_type: Type and id of the actor that made it, None if none did.
        body: The message, as `dump_body` makes it; None where it was not asked for.
        due_us: When it is due, in microseconds since the epoch.
        attempt: How often it has been claimed for this due time.
        expression: The cron expression, None for a single message.
        host_id: Host and epoch of the life that delivers it now.
        error: Why it can't be fired.
        at_us: When it was to be looked at; a claimed row that is given back gets a later one, so it tells claims apart.
    """

    id: str
    actor_type: str
    actor_id: str
    sender_type: str | None
    sender_id: str | None
    body: bytes | None
    due_us: int
    attempt: int = 0
    expression: str | None = None
    tz: str | None = None
    misfire: str | None = None
    host_id: str | None = None
    epoch: int | None = None
    error: str | None = None
    at_us: int = 0


class Claim(Struct, frozen=True):
    """What a claim of due rows has found.

    Attributes:
        now_us: The database's time.
        next_us: When the next row is to be looked at that is not due yet, None if there is none.
        rows: What this host has to deliver now, the oldest first.
    """

    now_us: int
    next_us: int | None
    rows: list[Row]


class Tally(Struct, frozen=True):
    """What there is in a database, and what of it nobody has claimed.

    Attributes:
        now_us: The database's time.
        total: How many schedules there are, up to a bound.
        waiting_us: When the first one to be looked at is, or was, due; None if none waits.
        retried_us: When the oldest one was due that waits for another attempt; None if none does.
    """

    now_us: int
    total: int
    waiting_us: int | None
    retried_us: int | None


class Decision(Struct, frozen=True):
    """What to do with a recurring schedule now.

    Attributes:
        fire: Due times to fire, in their order.
        next_due: When to look again: in the past if there is more to fire, None when it is never due again.
    """

    fire: tuple[int, ...]
    next_due: int | None


def decide(next_after: NextAfter, due: int, now: float, misfire: str, limit: int = 256) -> Decision:
    """Decide what a recurring schedule fires.

    Args:
        next_after: The recurrence.
        due: The first due time that was not fired.
        now: The present wall time.
        misfire: `once`: of several due times the last is fired; `all`: all are; `skip`: the last one, if it is not
            later than `GRACE`.
        limit: Most due times in one decision.
    """
    if due > now:
        return Decision((), due)
    following: int | None = due
    if misfire == ALL:
        found: list[int] = []
        while following is not None and following <= now and len(found) < limit:
            found.append(following)
            following = next_after(following)
        return Decision(tuple(found), following)
    last = last_due(next_after, due, now)
    following = next_after(last)
    if misfire == SKIP and now - last > GRACE:
        return Decision((), following)
    return Decision((last,), following)


def last_due(next_after: NextAfter, due: int, now: float) -> int:
    """Return the last due time that is not after `now`, `due` or a later one.

    It looks back a little at first and then further, so that a minute's schedule that was missed for a year costs a
    few steps and not half a million.
    """
    for span in _LOOK_BACK:
        if now - span <= due:
            break
        found = next_after(now - span)
        if found is not None and due < found <= now:
            due = found
            break
    while (following := next_after(due)) is not None and following <= now:
        due = following
    return due


def stepped_back(offset: float, before: float) -> bool:
    """Tell whether the wall clock was set back so far that due times are to be counted anew.

    Args:
        offset: Wall time less monotonic time, now.
        before: The same at the last look.
    """
    return before - offset > STEP_BACK


def check_delay(value: object) -> float:
    """Return a delay in seconds.

    Raises:
        InvalidSchedule: It is not a number of seconds from 0 on.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < MAX_TIMEOUT:
        return float(value)
    raise InvalidSchedule(f"delay must be a number of seconds, 0 or more and less than {MAX_TIMEOUT:g}, got {value!r}")


def check_due(value: int) -> int:
    """Return a due time, in microseconds since the epoch.

    Raises:
        InvalidSchedule: It is before 1970, or beyond all calendars.
    """
    if 0 <= value <= MAX_DUE:
        return value
    raise InvalidSchedule(f"due_us must be from 0 to {MAX_DUE}, the years 1970 to 9892, got {value}")


def check_misfire(value: object) -> str:
    """Return a misfire policy.

    Raises:
        InvalidSchedule: It is none.
    """
    if isinstance(value, str) and value in MISFIRES:
        return value
    raise InvalidSchedule(f"misfire must be one of {', '.join(map(repr, MISFIRES))}, got {value!r}")


def check_id(value: object) -> str:
    """Return what can be the id of a schedule.

    Raises:
        InvalidSchedule: It is no text.
    """
    if isinstance(value, str):
        return value
    raise InvalidSchedule(f"a schedule's id is the text that send_after or send_cron returned, got {value!r}")


def moment(seconds: float) -> datetime:
    """Return a wall time as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=round(seconds * 1e6))


def micros(seconds: float) -> int:
    """Return a wall time in whole microseconds, never below 0."""
    return max(0, math.floor(seconds * 1e6 + 0.5))
