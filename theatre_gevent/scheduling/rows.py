"""What a row of a schedule says: to those who send its message, and to those who look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..logic.bodies import load_body
from ..logic.schedules import MAX_DUE, Schedule, check_due, moment
from ..messages import Ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..logic.schedules import Row
    from .cron import Cron


class _TooLarge:
    def __repr__(self) -> str:
        return f"<more than {LISTED} bytes>"


LISTED = 1024
"""Bytes of the largest messages that are shown in a list; the others would take long, and nobody reads them there."""

TOO_LARGE = _TooLarge()
"""What is shown instead."""

_UNKNOWN = "?"
_NOBODY = Ref(_UNKNOWN, _UNKNOWN)


class Held:
    """A claimed row, and what it says once it has been read.

    Attributes:
        again: When there will be more to do about the schedule, in monotonic seconds.
    """

    __slots__ = ("again", "body", "cron", "ref", "row", "sender")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.ref = _NOBODY
        self.sender: Ref | None = None
        self.body: Any = None
        self.cron: Cron | None = None
        self.again: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Which due time of which schedule."""
        return self.row.id, self.row.due_us

    def read(self, cron: Callable[[str, str | None], Cron | None]) -> None:
        """Read the row.

        Args:
            cron: Makes the recurrence of expression and time zone.

        Raises:
            TheatreError: It says nothing that can be sent.
            BadBody: The same, of the message itself.
        """
        row = self.row
        self.body = TOO_LARGE if row.body is None else load_body(row.body)
        check_due(row.due_us)
        self.ref = Ref(row.actor_type, row.actor_id)
        if row.sender_type is not None and row.sender_id is not None:
            self.sender = Ref(row.sender_type, row.sender_id)
        if row.expression is not None:
            self.cron = cron(row.expression, row.tz)


def show(row: Row) -> Schedule:
    """Return a row as `host.schedules()` shows it: as much of it as can be shown."""
    held, error = Held(row), row.error
    try:
        held.read(lambda *_: None)  # making it takes its time, and nobody asks for it
    except Exception as problem:  # noqa: BLE001 - a row that can't be read is shown to be seen
        error = error or str(problem) or type(problem).__name__
    ref = Ref(row.actor_type or _UNKNOWN, row.actor_id or _UNKNOWN)
    sender = Ref(row.sender_type, row.sender_id) if row.sender_type and row.sender_id else None
    due = moment(min(max(row.due_us, 0), MAX_DUE) / 1e6)
    tz = None if row.expression is None else row.tz or "UTC"
    return Schedule(row.id, ref, held.body, due, row.expression, tz, row.misfire, sender, row.attempt, error)
