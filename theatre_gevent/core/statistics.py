"""What is counted by actor type, and how long handlers take.

One small integer by type is brought up to date with each message or turn; everything else happens seldom. Handling
times are sampled: one message in 64 on average, at random distances so that no rhythm of the messages is met again and
again, and each sample stands for the messages since the last one. A type's first messages are all timed.
"""

from __future__ import annotations

from bisect import bisect_left
from random import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDS = (
    *(0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5),
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of the buckets of handling times in seconds; one more bucket takes what is above."""

EVERY = 64
"""Messages for each that is timed, on average."""

ALL_TIMED = 64
"""First messages of a type, all of which are timed."""


class TypeStatistics:
    """The counts of one actor type on one host.

    Attributes:
        left: How many messages there are until one is timed. It is counted down and not up: below 256 an integer costs
            no memory, which is a third of what counting costs.
        activations: Activations that came into being.
        ended: Activations that have left.
        failed: Factories and Initialize handlers that raised.
        errors: Exceptions raised by receivers of live activations.
        times: How many messages took how long: a count for each bucket of `BOUNDS`, and one for what is above.
        seconds: How long all those messages took together.
    """

    __slots__ = ("_due", "_sampled", "activations", "ended", "errors", "failed", "left", "seconds", "times")

    def __init__(self) -> None:
        self.left = self._due = 1
        self.activations = 0
        self.ended = 0
        self.failed = 0
        self.errors = 0
        self.times = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self._sampled = 0

    @property
    def messages(self) -> int:
        """Messages handed to receivers, without Initialize and Shutdown."""
        return self._due - self.left

    def call(self, receive: Callable[[Any], object], ctx: Any, monotonic: Callable[[], float], handled: int) -> None:
        """Handle a message and time it.

        Args:
            receive: The handler.
            ctx: The message.
            monotonic: The clock.
            handled: Messages of this turn, this one included, that `left` does not count yet.
        """
        number = self._due - self.left + handled
        # Turns that overlap, since a handler of one waits, know nothing of each other's: counts must not go down.
        weight = max(0, number - self._sampled)
        self._sampled += weight
        distance = 1 if number < ALL_TIMED else 1 + int(random() * (2 * EVERY - 1))  # nosec B311  # picks a sample
        self._due = number + distance
        self.left = distance + handled
        began = monotonic()
        try:
            receive(ctx)
        finally:
            seconds = monotonic() - began
            self.times[bisect_left(BOUNDS, seconds)] += weight
            self.seconds += seconds * weight
