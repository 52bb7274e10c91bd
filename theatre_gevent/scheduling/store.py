"""What durable schedules need of a database. The cluster's implementation holds the SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..logic.bodies import MAX_BODY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..logic.schedules import Claim, Row, Tally
    from ..messages import Ref


class ScheduleStore(Protocol):
    """Where schedules are kept. Every call may block the calling greenlet.

    All raise `DatabaseError`s: `DatabaseUnavailable` if nothing was done, `AnswerLost` if nobody knows.
    """

    def now(self) -> int:
        """Return the database's time, in microseconds since the epoch."""

    def problem(self, ref: Ref) -> str | None:
        """Return why a ref can't be kept, None if it can. Does not block."""

    def insert(self, rows: Sequence[Row]) -> dict[str, int]:
        """Write schedules down; returns when they are due, of those that were not there already.

        A single message's `due_us` is a delay from the database's present time.
        """

    def claim(self, at_most: int) -> Claim | None:
        """Claim due rows for this host's present life; None while it has none."""

    def adjust(self, epoch: int, changes: Sequence[tuple[str, int, int]]) -> None:
        """Change which due times claimed rows are fired for: id, old, new."""

    def done(self, handled: Sequence[tuple[str, int, int | None]]) -> None:
        """Confirm due times: id, due time, the next one. May be said again."""

    def give_back(self, epoch: int, rows: Sequence[tuple[str, int, int, int]], *, untried: bool) -> None:
        """Give claimed rows back: id, due time, `at_us`, microseconds until the next attempt. May be said again."""

    def park(self, epoch: int, schedule_id: str, error: str) -> None:
        """Put a row aside that can't be fired."""

    def unpark(self) -> int:
        """Have what was put aside tried again; returns how many rows that are."""

    def recover(self) -> int:
        """Free what lives of hosts have claimed that are over; returns how many rows that are."""

    def claimed(self) -> tuple[int, list[tuple[str, int, int]]]:
        """Return this host's epoch, and id, due time and `at_us` of what it has claimed."""

    def tally(self, at_most: int) -> Tally:
        """Count schedules up to `at_most`, and find out how late those are that nobody has claimed."""

    def cancel(self, schedule_id: str) -> bool:
        """Remove a schedule; tells whether that was in time."""

    def read(self, at_most: int, largest: int = MAX_BODY) -> list[Row]:
        """Return schedules, those that can't be fired first, then the next due ones; without larger bodies."""

    def close(self) -> None:
        """Let go of the connections."""

    def abandon(self) -> None:
        """In a forked child: the connections are the parent's."""
