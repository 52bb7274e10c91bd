"""Which activations to look at for idleness, and when.

Every activation is filed under the time at which it would be idle if nothing more came. When that time has passed it
is looked at once: either it is idle, or it is filed again under its new time. So an activation is looked at once per
idle timeout, however many messages it gets, and a message costs nothing here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class IdleWheel(Generic[T]):
    """Things filed under the time of their next look.

    Args:
        granularity: Width of a bucket in seconds.
    """

    __slots__ = ("_buckets", "_due", "_granularity", "_size")

    def __init__(self, granularity: float) -> None:
        self._granularity = granularity
        self._buckets: dict[int, list[T]] = {}
        self._due: deque[T] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, item: T, due: float) -> None:
        """File `item` for a look at `due` or up to one granularity later."""
        number = int(due / self._granularity) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = []
        bucket.append(item)
        self._size += 1

    def collect(self, now: float) -> int:
        """Move all that is due at `now` to where `take` finds it; return how many wait there."""
        current = int(now / self._granularity)
        for number in sorted(number for number in self._buckets if number <= current):
            self._due.extend(self._buckets.pop(number))
        return len(self._due)

    def take(self) -> T | None:
        """Return the next thing to look at, None when all that is due has been taken."""
        if not self._due:
            return None
        self._size -= 1
        return self._due.popleft()

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Forget what is not `wanted` any more, for when most of what is filed has gone before its time."""
        for number, bucket in list(self._buckets.items()):
            bucket[:] = filter(wanted, bucket)
            if not bucket:
                del self._buckets[number]
        self._due = deque(filter(wanted, self._due))
        self._size = len(self._due) + sum(map(len, self._buckets.values()))

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self._due.clear()
        self._size = 0
