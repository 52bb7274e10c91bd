"""Deadlines of many things at once, kept on one timer.

A hashed wheel of buckets, one per `resolution` seconds (G. Varghese, T. Lauck: "Hashed and Hierarchical Timing
Wheels", SOSP 1987, scheme 6, with a heap of bucket numbers in place of the array). Adding and removing cost one set
operation; only buckets are ordered. A FIFO per distinct timeout would be as cheap, but requests that inherit what is
left of another deadline all have a timeout of their own.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


_CROWD = 2048
"""Buckets from which on it is looked for empty ones: 20 s of them, if requests are made all the time."""


class Deadlines:
    """A set of things with deadlines; whoever adds one remembers the number of its bucket.

    Args:
        resolution: Width of a bucket in seconds. A thing expires at its deadline or up to `resolution` later, never
            before.
    """

    __slots__ = ("_buckets", "_crowded", "_order", "_resolution")

    def __init__(self, resolution: float = 0.01) -> None:
        self._resolution = resolution
        self._buckets: dict[int, set[Any]] = {}
        self._order: list[int] = []
        self._crowded = _CROWD

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def __iter__(self) -> Iterator[Any]:
        """Go through all of them, in no order."""
        return chain.from_iterable(self._buckets.values())

    def add(self, item: Any, deadline: float) -> int:
        """Watch over the deadline of `item`; return the number of its bucket."""
        number = int(deadline / self._resolution) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            if len(self._order) >= self._crowded:
                self._tidy()
            bucket = self._buckets[number] = set()
            heappush(self._order, number)
        bucket.add(item)
        return number

    def discard(self, item: Any, number: int) -> None:
        """Forget `item`, which was put into the bucket of that number. Harmless when it has expired."""
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket.discard(item)

    def _tidy(self) -> None:
        """Let go of empty buckets. They stay else until their time, since most are used again and again before."""
        self._buckets = {number: bucket for number, bucket in self._buckets.items() if bucket}
        self._order[:] = self._buckets
        heapify(self._order)
        self._crowded = max(_CROWD, 2 * len(self._order))

    def next_due(self) -> float | None:
        """When `expire` is to be called next, None when nothing is watched."""
        order, buckets = self._order, self._buckets
        while order:
            if buckets[order[0]]:
                return order[0] * self._resolution
            del buckets[heappop(order)]
        return None

    def expire(self, now: float) -> list[Any]:
        """Remove and return what has expired at `now`, earlier buckets first."""
        expired: list[Any] = []
        while (due := self.next_due()) is not None and due <= now:
            expired.extend(self._buckets.pop(heappop(self._order)))
        return expired

    def clear(self) -> list[Any]:
        """Remove and return everything."""
        items = [item for bucket in self._buckets.values() for item in bucket]
        self._buckets.clear()
        self._order.clear()
        return items
