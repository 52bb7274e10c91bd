"""What became of claimed rows, told to the database: many in one statement, and for as long as it takes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gevent import Greenlet
from gevent.event import Event

from ..errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from .rows import Held
    from .store import ScheduleStore

log = logging.getLogger("theatre_gevent.schedules")

_BATCH = 1000
_RETRY_MIN, _RETRY_MAX = 0.05, 2.0


class Confirming:
    """Tells the database in a greenlet of its own.

    Args:
        store: The database.
        clock: Time between attempts.
        confirmed: Called with each row that the database knows about; must not block.
    """

    def __init__(self, store: ScheduleStore, clock: Clock, confirmed: Callable[[Held], None]) -> None:
        self._store = store
        self._clock = clock
        self._confirmed = confirmed
        self._handled: dict[Held, int | None] = {}
        self._back: dict[Held, int] = {}
        self._untried: dict[Held, int] = {}
        self._unfit: dict[Held, str] = {}
        self._work = Event()
        self._greenlet: Greenlet[..., None] | None = None
        self._failures = 0
        self._abandoned = False

    def done(self, held: Held, following: int | None) -> None:
        """It has been handled; `following` is its next due time."""
        self._handled[held] = following
        self._wake()

    def give_back(self, held: Held, wait: float, *, untried: bool) -> None:
        """It is to be sent again in `wait` seconds; `untried` if nobody has got it."""
        (self._untried if untried else self._back)[held] = int(wait * 1_000_000)
        self._wake()

    def park(self, held: Held, error: str) -> None:
        """Nobody can send it."""
        self._unfit[held] = error
        self._wake()

    def stop(self) -> None:
        """Tell nothing more."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def abandon(self) -> None:
        """In a forked child: ask the database nothing any more."""
        self._abandoned = True

    def _wake(self) -> None:
        if self._abandoned:
            return
        self._work.set()
        if self._greenlet is None or self._greenlet.ready():
            self._greenlet = Greenlet.spawn(self._run)

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            while (self._handled or self._back or self._untried or self._unfit) and not self._abandoned:
                self._try()

    def _try(self) -> None:
        try:
            self._tell()
            self._failures = 0
        except DatabaseError as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("schedules wait for the database to learn what became of them: %s", error)
            self._clock.sleep(min(_RETRY_MAX, _RETRY_MIN * 2 ** min(self._failures, 10)))

    def _tell(self) -> None:
        for held in list(self._unfit)[:_BATCH]:
            self._store.park(_epoch(held), held.row.id, self._unfit[held])
            self._forget(held, self._unfit)
        handled = list(self._handled.items())[:_BATCH]
        if handled:
            self._store.done([(*held.key, following) for held, following in handled])
            for held, _ in handled:
                self._forget(held, self._handled)
        for waiting, untried in ((self._back, False), (self._untried, True)):
            by_epoch: dict[int, list[Held]] = {}
            for held in list(waiting)[:_BATCH]:
                by_epoch.setdefault(_epoch(held), []).append(held)
            for epoch, group in by_epoch.items():
                self._store.give_back(
                    epoch, [(*held.key, held.row.at_us, waiting[held]) for held in group], untried=untried
                )
                for held in group:
                    self._forget(held, waiting)

    def _forget(self, held: Held, waiting: dict[Held, int | None] | dict[Held, int] | dict[Held, str]) -> None:
        del waiting[held]
        self._confirmed(held)


def _epoch(held: Held) -> int:
    assert held.row.epoch is not None
    return held.row.epoch
