"""Why a run ends before its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Stop:
    """Asks a run to end. The first reason counts, and what went wrong counts more than a wish.

    Attributes:
        wanted: True once somebody asked.
        error: What went wrong, None if somebody just wished it.
        exit_code: What the command shall return.
    """

    __slots__ = ("_listeners", "error", "exit_code", "wanted")

    def __init__(self) -> None:
        self.wanted = False
        self.error: str | None = None
        self.exit_code = 0
        self._listeners: list[Callable[[], object]] = []

    def ask(self, exit_code: int, error: str | None = None) -> None:
        """End the run soon."""
        if not self.wanted or (error is not None and self.error is None):
            self.wanted = True
            self.error = error
            self.exit_code = exit_code
        while self._listeners:
            self._listeners.pop()()

    def on_ask(self, listener: Callable[[], object]) -> None:
        """Call `listener` when somebody asks, once; at once if somebody has asked already. It must not wait."""
        if self.wanted:
            listener()
        else:
            self._listeners.append(listener)
