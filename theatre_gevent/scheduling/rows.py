"""What a row of a schedule says: to those who send its message, and to those who look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..logic.bodies import load_body
from ..logic.body_types import BadBody
from ..logic.schedules import Schedule, check_due, moment
from ..messages import Ref
from .cron import Cron

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..logic.schedules import Row

_NOBODY = Ref("?", "?")


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

    def read(self, cron: Callable[[str, str | None], Cron]) -> None:
        """Read the row.

        Args:
            cron: Makes the recurrence of expression and time zone.

        Raises:
            TheatreError: It says nothing that can be sent.
            BadBody: The same, of the message itself.
        """
        row = self.row
        check_due(row.due_us)
        self.ref = Ref(row.actor_type, row.actor_id)
        self.sender = _sender(row)
        self.body = load_body(row.body)
        if row.expression is not None:
            self.cron = cron(row.expression, row.tz)


def show(row: Row) -> Schedule:
    """Return a row as `host.schedules()` shows it."""
    error, body = row.error, None
    try:
        body = load_body(row.body)
    except BadBody as problem:
        error = error or str(problem)
    tz = None if row.expression is None else row.tz or "UTC"
    ref, due = Ref(row.actor_type, row.actor_id), moment(row.due_us / 1e6)
    return Schedule(row.id, ref, body, due, row.expression, tz, row.misfire, _sender(row), row.attempt, error)


def _sender(row: Row) -> Ref | None:
    return None if row.sender_type is None or row.sender_id is None else Ref(row.sender_type, row.sender_id)
