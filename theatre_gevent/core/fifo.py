# cython: boundscheck=False, wraparound=False
"""First in, first out: what inboxes and ready queues are. In plain Python it is `collections.deque`.

Compiled code can only call a deque's methods by their names, 50 ns each and four of them for each message; those of a
class of its own cost it 5.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .._accel import COMPILED

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIRST = 8
_LARGE = 256
"""Places above which an empty one lets go of them: thousands of empty inboxes are kept for reuse."""


class Fifo:
    """A ring in a list, whose length is a power of two and grows when it is full."""

    __slots__ = ("_head", "_items", "_size")

    def __init__(self) -> None:
        self._items: list[Any] = [None] * _FIRST
        self._head = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter(self._in_order())

    def __getitem__(self, index: int) -> Any:
        return self._in_order()[index]

    def append(self, item: Any) -> None:
        """Put an item behind the others."""
        items, size = self._items, self._size
        if size == len(items):
            items = self._items = self._in_order() + [None] * size
            self._head = 0
        items[(self._head + size) & (len(items) - 1)] = item
        self._size = size + 1

    def popleft(self) -> Any:
        """Take the first item out.

        Raises:
            IndexError: There is none.
        """
        if not self._size:
            raise IndexError("nothing is left to take")
        items, head = self._items, self._head
        item = items[head]
        items[head] = None
        self._head = (head + 1) & (len(items) - 1)
        self._size -= 1
        if not self._size and len(items) > _LARGE:
            self.clear()
        return item

    def clear(self) -> None:
        """Forget all items."""
        self._items = [None] * _FIRST
        self._head = self._size = 0

    def _in_order(self) -> list[Any]:
        ring = self._items[self._head :] + self._items[: self._head]
        return ring[: self._size]


if not COMPILED:
    globals()["Fifo"] = deque
