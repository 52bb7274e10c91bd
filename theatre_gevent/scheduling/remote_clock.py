"""The database's time, as far as its answers tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..clock import Clock


class RemoteClock:
    """Estimates another clock's time from readings that take their time to arrive.

    A reading was made between question and answer. What is known stays if that is possible, so that a slow answer does
    not make the other clock look slow; it is moved as little as it must be otherwise.

    Args:
        clock: This host's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead: float | None = None
        """The other clock's time less this host's monotonic time, in seconds; None before the first reading."""

    def hear(self, us: int, asked: float) -> None:
        """A reading has arrived.

        Args:
            us: It, in microseconds.
            asked: When it was asked for, in monotonic seconds.
        """
        most, least = us / 1e6 - asked, us / 1e6 - self._clock.monotonic()
        self._ahead = least if self._ahead is None else min(max(self._ahead, least), most)

    def now(self) -> float | None:
        """Return the other clock's time in seconds, None if nobody knows yet."""
        return None if self._ahead is None else self._clock.monotonic() + self._ahead

    def local(self, us: int) -> float:
        """Return a time of the other clock in this host's monotonic seconds; long ago if nobody knows yet."""
        return 0.0 if self._ahead is None else us / 1e6 - self._ahead
