"""The schedules of a cluster in its database: implements `theatre_gevent.scheduling.store.ScheduleStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..logic.bodies import MAX_BODY
from . import schedule_sql as sql
from .postgres import unstorable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..logic.schedules import Claim, Row, Tally
    from ..messages import Ref
    from .pool import Pool
    from .store import Life


class PostgresSchedules:
    """Schedules in Postgres, for one host.

    Args:
        pool: Connections for the greenlets of the host's hub, of its own: claims of actors never wait for these.
        life: Returns the present life of this host, None while it has none.
    """

    def __init__(self, pool: Pool, life: Callable[[], Life | None]) -> None:
        self._pool = pool
        self._life = life

    def now(self) -> int:
        """Return the database's time, in microseconds since the epoch."""
        with self._pool.connection() as connection:
            return sql.now(connection)

    def problem(self, ref: Ref) -> str | None:
        """Return why a ref can't be kept, None if it can."""
        return unstorable((ref,)).get(ref)

    def insert(self, rows: Sequence[Row]) -> dict[str, int]:
        """Write schedules down; returns when they are due, of those that were not there already."""
        with self._pool.connection() as connection:
            return sql.insert(connection, rows)

    def claim(self, at_most: int) -> Claim | None:
        """Claim due rows for this host's present life; None while it has none."""
        life = self._life()
        if life is None:
            return None
        with self._pool.connection() as connection:
            return sql.claim(connection, life, at_most)

    def adjust(self, epoch: int, changes: Sequence[tuple[str, int, int]]) -> None:
        """Change which due times claimed rows are fired for."""
        with self._pool.connection() as connection:
            sql.adjust(connection, epoch, changes)

    def done(self, handled: Sequence[tuple[str, int, int | None]]) -> None:
        """Confirm due times."""
        with self._pool.connection() as connection:
            sql.done(connection, handled)

    def give_back(self, epoch: int, rows: Sequence[tuple[str, int, int, int]], *, untried: bool) -> None:
        """Give claimed rows back."""
        with self._pool.connection() as connection:
            sql.give_back(connection, epoch, rows, untried=untried)

    def park(self, epoch: int, schedule_id: str, error: str) -> None:
        """Put a row aside that can't be fired."""
        with self._pool.connection() as connection:
            sql.park(connection, epoch, schedule_id, error)

    def unpark(self) -> int:
        """Have what was put aside tried again."""
        with self._pool.connection() as connection:
            return sql.unpark(connection)

    def recover(self) -> int:
        """Free what lives of hosts have claimed that are over."""
        with self._pool.connection() as connection:
            return sql.recover(connection)

    def claimed(self) -> tuple[int, list[tuple[str, int, int]]]:
        """Return this host's epoch, and id, due time and `at_us` of what it has claimed."""
        life = self._life()
        if life is None:
            return 0, []
        with self._pool.connection() as connection:
            return life.epoch, sql.claimed(connection, life.epoch)

    def tally(self, at_most: int) -> Tally:
        """Count schedules up to `at_most`, and find out how late those are that nobody has claimed."""
        with self._pool.connection() as connection:
            return sql.tally(connection, at_most)

    def cancel(self, schedule_id: str) -> bool:
        """Remove a schedule; tells whether that was in time."""
        with self._pool.connection() as connection:
            return sql.cancel(connection, schedule_id)

    def read(self, at_most: int, largest: int = MAX_BODY) -> list[Row]:
        """Return schedules, those that can't be fired first, then the next due ones; without larger bodies."""
        with self._pool.connection() as connection:
            return sql.read(connection, at_most, largest)

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.close()

    def abandon(self) -> None:
        """In a forked child: the connections are the parent's."""
        self._pool.abandon()
