"""Knowing when everything that was sent to a host for an actor has been accepted there, or has come back.

Plain messages are not acknowledged. So before an actor's messages take another way, the host at the end of the old one
is asked a question that nobody handles. It gives back what it has not accepted, and then it answers: connections keep
order, so all that is to come back is back by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..logic import envelopes
from ..logic.bodies import pack_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock, Timer
    from ..messages import Ref
    from .link import Link

_PATIENCE = 5.0
"""Seconds that an answer may take; then messages go on all the same. The other host waits for nothing before it
answers: one that says nothing for so long hangs, and its connection is about to be given up."""


class _Question:
    """To one host. One that is waited for no longer is kept for as long as its answer may come."""

    __slots__ = ("_then", "_timer", "host_id")

    def __init__(self, host_id: str, then: Callable[[str | None], object], timer: Timer) -> None:
        self.host_id = host_id
        self._then: Callable[[str | None], object] | None = then
        self._timer = timer

    def end(self, owner: str | None) -> None:
        """Go on, if that has not been done yet."""
        then, self._then = self._then, None
        if then is not None:
            self._timer.cancel()
            then(owner)


class Barriers:
    """The questions of one host.

    Args:
        clock: For those that are not answered.
        next_seq: Numbers requests.
    """

    def __init__(self, clock: Clock, next_seq: Callable[[], int]) -> None:
        self._clock = clock
        self._next_seq = next_seq
        self._asked: dict[int, _Question] = {}

    def ask(self, ref: Ref, link: Link, then: Callable[[str | None], object]) -> None:
        """Call `then` in the hub, once nothing that was sent for `ref` over `link` can come back any more.

        It is given the other host's id if that has the actor and keeps it, else None.
        """
        seq = self._next_seq()
        timer = self._clock.call_later(_PATIENCE, lambda: self._asked[seq].end(None))
        self._asked[seq] = _Question(link.host_id, then, timer)
        headers = envelopes.Headers(barrier=True)
        link.send(envelopes.Request(ref, pack_body(None), seq, _PATIENCE, None, headers))

    def answered(self, seq: int, owner: str | None = None) -> bool:
        """A question was answered, or will not be; tells whether this was one."""
        asked = self._asked.pop(seq, None)
        if asked is None:
            return False
        asked.end(owner)
        return True

    def down(self, host_id: str) -> None:
        """A host has gone: what was sent to it does not come back."""
        for seq, asked in list(self._asked.items()):
            if asked.host_id == host_id:
                self.answered(seq)
