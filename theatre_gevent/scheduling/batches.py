"""Calls to a database that wait for each other are made together: many rows in one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gevent import Greenlet
from gevent.event import AsyncResult

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
R = TypeVar("R")


class Batches(Generic[T, R]):
    """Collects items while a batch is under way, and makes the next one of them.

    Args:
        run: Takes items and returns a result or an exception for each; may block. What it raises is everybody's.
        size: Items in a batch at most.
    """

    def __init__(self, run: Callable[[list[T]], list[R | BaseException]], size: int) -> None:
        self._run = run
        self._size = size
        self._waiting: list[tuple[T, AsyncResult[R]]] = []
        self._greenlet: Greenlet[..., None] | None = None

    def call(self, item: T) -> R:
        """Have an item in the next batch, and wait for its result. Raises what became of it otherwise."""
        result: AsyncResult[R] = AsyncResult()
        self._waiting.append((item, result))
        if self._greenlet is None or self._greenlet.ready():
            self._greenlet = Greenlet.spawn(self._work)
        return result.get()  # type: ignore[return-value]  # its stub forgets the type

    def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            outcomes: list[Any]
            try:
                outcomes = self._run([item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - raised in everybody who waits
                outcomes = [error] * len(batch)
            for (_, result), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    copy = getattr(outcome, "copy", None)
                    result.set_exception(outcome if copy is None else copy())
                else:
                    result.set(outcome)
