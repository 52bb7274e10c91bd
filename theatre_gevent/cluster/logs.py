"""Log lines that strangers and dead peers cannot turn into a flood."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from ..logs import fields

if TYPE_CHECKING:
    from ..clock import Clock

log = logging.getLogger("theatre_gevent.cluster")

INTERVAL = 60.0
"""Seconds between two lines about the same matter."""
_MATTERS = 1024


class LogGate:
    """Lets the first line about a matter through, and then one a minute with the number of those held back."""

    def __init__(self, clock: Clock, host_id: str | None = None) -> None:
        self._extra = fields(host_id)
        self._clock = clock
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def warning(self, matter: str, text: str) -> None:
        """Log `text`, unless a line about `matter` was logged within the last minute."""
        now = self._clock.monotonic()
        if now - self._last.get(matter, -math.inf) < INTERVAL:
            self._held[matter] = self._held.get(matter, 0) + 1
            return
        if len(self._last) >= _MATTERS:  # strangers choose their addresses: forget the one that was logged first
            oldest = next(iter(self._last))
            self.forget(oldest)
        self._last.pop(matter, None)
        self._last[matter] = now
        held = self._held.pop(matter, 0)
        more = f" ({held} more like it since the last line)" if held else ""
        log.warning("%s%s", text, more, extra=self._extra)

    def forget(self, matter: str) -> None:
        """The matter is settled: the next line about it is a first one again."""
        self._last.pop(matter, None)
        self._held.pop(matter, None)
