"""Looking at schedules, of which there may be a million: a few at a time."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..core.scheduled import Schedules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..logic.schedules import Schedule

T = TypeVar("T")


class ListedSchedules(Schedules, Protocol):
    """The schedules of a host as those see them who look at them.

    Attributes:
        shared: True if all hosts of the cluster have the same.
    """

    shared: bool

    def first(self, limit: int) -> tuple[list[Schedule], int]:
        """Return those that are due first, in their order, and about how many there are.

        It takes as long for a million as for a few. Of a message that is large not all need be there.
        """


def in_order(heap: list[T]) -> Iterator[T]:
    """Go through a heap in its order, and leave it as it is.

    The cost is the logarithm of how many were taken, for each; the heap must not change meanwhile.
    """
    ahead: list[tuple[Any, int]] = [(heap[0], 0)] if heap else []
    while ahead:
        item, place = heappop(ahead)
        yield item
        for below in (2 * place + 1, 2 * place + 2):
            if below < len(heap):
                heappush(ahead, (heap[below], below))
