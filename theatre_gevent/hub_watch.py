"""How late the hub is: a timer a second that says when it should have come."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .clock import Clock, Timer

INTERVAL = 1.0
"""Seconds between two looks."""


class HubWatch:
    """Measures by how much a timer comes late: what a request to an idle host would wait for the hub.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timer: Timer | None = None
        self._due = 0.0
        self._late = 0.0

    def start(self) -> None:
        """Look from now on, in the hub of the calling thread."""
        self._set()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def lag(self) -> float:
        """Return seconds: how late the last look was, or how late the next one is already if that is more."""
        if self._timer is None:
            return 0.0
        return max(self._late, self._clock.monotonic() - self._due, 0.0)

    def _set(self) -> None:
        self._due = self._clock.monotonic() + INTERVAL
        self._timer = self._clock.call_later(INTERVAL, self._look)

    def _look(self) -> None:
        self._late = max(0.0, self._clock.monotonic() - self._due)
        self._set()
