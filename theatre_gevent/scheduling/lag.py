"""How late the oldest due message is, as far as a host can tell, also while the database does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..logic.schedules import Claim, Tally

_NEVER = 1 << 62


class Lag:
    """Remembers when the oldest row was due that nobody had claimed. All times are the database's.

    A claim that leaves nothing due says which row is next. If no other claim follows once that one is due, since the
    database is away or all hosts are frozen, it is late, and the later the longer that lasts. What waits for another
    attempt is found by tallies alone, and taken to wait until the next one.
    """

    def __init__(self) -> None:
        self._waiting = self._retried = _NEVER
        self._written = _NEVER
        """The same of rows that this host has written since it asked last."""
        self._closed = False

    def write(self, due_us: int) -> None:
        """This host has written a row."""
        self._written = min(self._written, due_us)

    def begin(self) -> None:
        """The database is asked: what is written from now on, its answer need not know."""
        self._waiting = min(self._waiting, self._written)
        self._written = _NEVER

    def claimed(self, claim: Claim, *, all_due: bool) -> None:
        """A claim was answered; `all_due` if nothing due was left."""
        self._waiting = claim.now_us if not all_due else _NEVER if claim.next_us is None else claim.next_us

    def counted(self, tally: Tally) -> None:
        """A tally was answered."""
        self._waiting = _NEVER if tally.waiting_us is None else tally.waiting_us
        self._retried = _NEVER if tally.retried_us is None else tally.retried_us

    def seconds(self, now: float, held: Iterable[int]) -> float:
        """Return by how much the oldest message is late.

        Args:
            now: The present time, in seconds.
            held: When those were due, in microseconds, that this host has claimed.
        """
        oldest = min((_NEVER, *held))
        if not self._closed:
            oldest = min(oldest, self._waiting, self._retried, self._written)
        return max(0.0, now - oldest / 1e6)

    def close(self) -> None:
        """The host stops: what nobody has claimed is the business of others from now on."""
        self._closed = True
