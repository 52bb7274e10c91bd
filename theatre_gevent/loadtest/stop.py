"""Why a run ends before its time."""

from __future__ import annotations


class Stop:
    """Asks a run to end. The first reason counts, and what went wrong counts more than a wish.

    Attributes:
        wanted: True once somebody asked.
        error: What went wrong, None if somebody just wished it.
        exit_code: What the command shall return.
    """

    __slots__ = ("error", "exit_code", "wanted")

    def __init__(self) -> None:
        self.wanted = False
        self.error: str | None = None
        self.exit_code = 0

    def ask(self, exit_code: int, error: str | None = None) -> None:
        """End the run soon."""
        if not self.wanted or (error is not None and self.error is None):
            self.wanted = True
            self.error = error
            self.exit_code = exit_code
