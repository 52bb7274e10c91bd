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
    from collections.abc import Callable, Container

    from ..clock import Clock, Timer
    from ..messages import Ref
    from .link import Link

_PATIENCE = 5.0
"""Seconds that an answer may take; then messages go on all the same. The other host waits for nothing before it
answers: one that says nothing for so long hangs, and its connection is about to be given up."""


class Barriers:
    """The questions of one host.

    Args:
        clock: For those that are not answered.
        next_seq: Numbers requests.
    """

    def __init__(self, clock: Clock, next_seq: Callable[[], int]) -> None:
        self._clock = clock
        self._next_seq = next_seq
        self._asked: dict[int, tuple[str, Callable[[], object], Timer]] = {}

    def ask(self, ref: Ref, link: Link, then: Callable[[], object]) -> None:
        """Call `then` in the hub, once nothing that was sent for `ref` over `link` can come back any more."""
        seq = self._next_seq()
        timer = self._clock.call_later(_PATIENCE, lambda: self.answered(seq))
        self._asked[seq] = (link.host_id, then, timer)
        headers = envelopes.Headers(barrier=True)
        link.send(envelopes.Request(ref, pack_body(None), seq, _PATIENCE, None, headers))

    def answered(self, seq: int) -> bool:
        """A question was answered, whatever the answer; tells whether this was one."""
        asked = self._asked.pop(seq, None)
        if asked is None:
            return False
        _, then, timer = asked
        timer.cancel()
        then()
        return True

    def down(self, host_id: str, waiting: Container[int | None]) -> None:
        """A connection has broken: what was written to it does not come back. Questions in `waiting` were not."""
        for seq, (asked, _, _) in list(self._asked.items()):
            if asked == host_id and seq not in waiting:
                self.answered(seq)
