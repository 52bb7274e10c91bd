"""When a greenlet that looks again and again is to look next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gevent.event import Event

if TYPE_CHECKING:
    from ..clock import Clock


class Alarm:
    """Lets one greenlet sleep until the earliest time that anybody has named.

    What is named while that greenlet works counts for its next sleep: it may be about something that the work, which
    began before, has not seen any more.

    Args:
        clock: Its monotonic time is meant.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = math.inf
        self._changed = Event()

    def expect(self, due: float) -> None:
        """Have it look at the latest at `due`, in monotonic seconds."""
        if due < self._at:
            self._at = due
            self._changed.set()

    def begin(self) -> None:
        """It looks now: what has been named is done with."""
        self._at = math.inf

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until an earlier time that was named since `begin`, or is named meanwhile."""
        clock = self._clock
        self._at = min(self._at, clock.monotonic() + seconds)
        while (left := self._at - clock.monotonic()) > 0:
            self._changed.clear()
            timer = clock.call_later(left, self._changed.set)
            try:
                self._changed.wait()
            finally:
                timer.cancel()
