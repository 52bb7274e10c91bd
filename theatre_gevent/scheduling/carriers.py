"""How due rows of a database reach their actors: each is carried by a greenlet until it has been handled.

A few of one actor are under way at a time, the others wait behind them, so that an actor that is slow or stuck takes
neither all greenlets nor the turns of others. Many that are stuck take no more than half of the greenlets, as far as
one for each leaves room, and a bounded number of places to wait: what is beyond goes back to the database, for as long
as its actor has not moved already, so that those behind it in the table get their turns.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from gevent import Greenlet
from greenlet import getcurrent

from ..core.scheduled import send_and_wait
from ..errors import (
    HostNotRunning,
    InboxFull,
    InvalidRef,
    MessageNotSerializable,
    RemoteActorError,
    TheatreError,
    UnregisteredActorType,
)
from ..logic.schedules import Firing
from ..logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.dispatcher import Dispatcher
    from ..messages import Ref
    from .rows import Held

log = logging.getLogger("theatre_gevent.schedules")

PER_ACTOR = 16
"""Messages for one actor that are under way at a time."""

BEHIND = 1000
"""Messages that wait here behind them; what is more goes back to the database for a while."""

ALL_BEHIND = 10_000
"""The same for all actors together: above that half of the longest line goes back."""

CARRIERS = 4096
"""Messages under way at a time; above that this host takes nothing more."""

SHARED = CARRIERS // 2
"""Messages under way from which on no actor gets a second one."""

CROWDED, LONGEST = 1.0, 30.0
"""Seconds until what went back is tried again, least and most: as long as its actor has not moved already."""

HANDLING = 3600.0
"""Seconds that an actor may take from a message's sending to the end of its handling, before it is sent again."""

_PAUSE = 0.1
"""Seconds to wait for an actor that takes nothing, beyond the time in which it was waited for anyway."""

_PARKED = 512
"""Greenlets kept for later."""

HANDLED, TRIED, UNTRIED = range(3)
"""How it went: it has been handled, or is a dead letter; perhaps it has been handled; nobody has got it."""


class Carriers:
    """Carries claimed rows to their actors.

    Args:
        dispatcher: Takes the messages.
        settle: Told how it went with each, one of the constants above, and in how many seconds it is to be tried
            again if nobody has got it; must not block.

    Attributes:
        open: False while the host handles nothing.
    """

    def __init__(self, dispatcher: Dispatcher, settle: Callable[[Held, int, float], None]) -> None:
        self._dispatcher = dispatcher
        self._settle = settle
        self._under_way: dict[Ref, int] = {}
        self._moved: dict[Ref, float] = {}
        """When one of those under way was done last."""
        self._behind: dict[Ref, deque[Held]] = {}
        self._waiting = 0
        self._greenlets: set[Greenlet[..., None]] = set()
        self._parked: list[Any] = []
        self.open = True

    @property
    def full(self) -> bool:
        """True if nothing more should be claimed now."""
        return self._busy >= CARRIERS

    @property
    def _busy(self) -> int:
        return len(self._greenlets) - len(self._parked)

    def carry(self, held: Held) -> None:
        """See to it that a message is delivered."""
        ref = held.ref
        number = self._under_way.get(ref, 0)
        if not self.open:
            self._settle(held, UNTRIED, 0.0)
        elif number < (PER_ACTOR if self._busy < SHARED else 1):
            self._under_way[ref] = number + 1
            if not number:
                self._moved[ref] = self._dispatcher.monotonic()
            if self._parked:
                self._dispatcher.hub.loop.run_callback(self._parked.pop().switch, held)
            else:
                greenlet = Greenlet(self._run, held)
                self._greenlets.add(greenlet)
                greenlet.start()
        else:
            self._stand_behind(ref, held)

    def _stand_behind(self, ref: Ref, held: Held) -> None:
        behind = self._behind.setdefault(ref, deque())
        behind.append(held)
        self._waiting += 1
        if len(behind) > BEHIND:
            self._shorten(ref, 1)
        elif self._waiting > ALL_BEHIND:
            longest = max(self._behind, key=lambda other: len(self._behind[other]))
            self._shorten(longest, (len(self._behind[longest]) + 1) // 2)

    def _shorten(self, ref: Ref, number: int) -> None:
        """Give back the last ones that stand behind an actor's messages."""
        wait = min(LONGEST, max(CROWDED, self._dispatcher.monotonic() - self._moved[ref]))
        behind = self._behind[ref]
        for _ in range(number):
            self._settle(behind.pop(), UNTRIED, wait)
        self._waiting -= number
        if not behind:
            del self._behind[ref]

    def empty(self) -> None:
        """Give back what has not been sent to anybody."""
        waiting = list(self._behind.values())
        self._behind.clear()
        self._waiting = 0
        for behind in waiting:
            for held in behind:
                self._settle(held, UNTRIED, CROWDED)

    def kill(self) -> None:
        """Wait no longer for those that are under way."""
        self.empty()
        for greenlet in list(self._greenlets):
            greenlet.kill(block=False)

    def _run(self, held: Held | None) -> None:
        """Body of a carrier's greenlet, which carries one message after the other."""
        me: Any = getcurrent()
        try:
            while held is not None:
                self._carry_all(held)
                held = None
                if len(self._parked) < _PARKED:  # making a greenlet costs a fifth of all that is done for a message
                    self._parked.append(me)
                    while held is None:
                        held = self._dispatcher.hub.switch()
        finally:
            self._greenlets.discard(me)
            if me in self._parked:
                self._parked.remove(me)

    def _carry_all(self, held: Held) -> None:
        """Carry this message, then those behind it."""
        ref = held.ref
        current: Held | None = held
        try:
            while current is not None:
                outcome = TRIED
                try:
                    outcome = self._carry(current)
                finally:
                    self._moved[ref] = self._dispatcher.monotonic()
                    self._settle(current, outcome, CROWDED)
                current = self._next(ref)
        finally:
            left = self._under_way.pop(ref) - 1
            if left:
                self._under_way[ref] = left
            else:
                del self._moved[ref]

    def _next(self, ref: Ref) -> Held | None:
        behind = self._behind.get(ref)
        if behind is None:
            return None
        held = behind.popleft()
        self._waiting -= 1
        if not behind:
            del self._behind[ref]
        return held

    def _carry(self, held: Held) -> int:
        row, dispatcher = held.row, self._dispatcher
        firing = Firing(row.id, row.due_us, row.attempt)
        while True:
            if not self.open or dispatcher.backpressure.refusal() is not None:
                return UNTRIED
            try:
                send_and_wait(dispatcher, held.ref, held.body, held.sender, firing, HANDLING)
            except InboxFull:
                dispatcher.clock.sleep(_PAUSE)  # it has been waited for, mostly, and goes behind the others in line
                continue
            except RemoteActorError:
                pass  # it has been logged, where the actor is
            except (UnregisteredActorType, MessageNotSerializable, InvalidRef) as error:
                reason = f"a schedule's message: {error}"
                dispatcher.accepted += 1
                dispatcher.lifecycle.dead_letter(held.ref, held.body, held.sender, reason, error)
            except TheatreError as error:
                level = logging.DEBUG if isinstance(error, HostNotRunning) else logging.INFO
                log.log(
                    level,
                    "schedule %s for %s will be sent again: %s",
                    row.id,
                    held.ref,
                    error,
                    extra=fields(ref=held.ref),
                )
                return TRIED
            return HANDLED
