"""Says who stands still with the whole host on top: an actor that never lets others run.

Greenlets are cooperative, so a receiver that computes for long, or calls something that blocks, stops every actor,
timer and connection of its thread. Nothing in that thread can notice, therefore a native thread looks from outside.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING

from gevent.monkey import get_original

from ..clock import SystemClock
from ..logs import fields

if TYPE_CHECKING:
    from ..clock import Clock, Timer
    from .dispatcher import Dispatcher

log = logging.getLogger("theatre_gevent.host")

INTERVAL = 0.25
"""Seconds between ticks of the hub, and between two looks at them."""
LIMIT = 0.6
"""Seconds without a tick that are told. With the look it makes less than a second from the last switch to the line."""
AGAIN = 10.0
"""Seconds after which it is told again, while it lasts."""
_FRAMES = 20

_allocate_lock = get_original("_thread", "allocate_lock")
_start_new_thread = get_original("_thread", "start_new_thread")


class Watchdog:
    """Watches the hub of one host.

    Args:
        host_id: For what it says.
        dispatcher: Knows which actor is running.
        clock: Must be the machine's: under a virtual one nothing is watched, since its time stands still.
    """

    def __init__(self, host_id: str, dispatcher: Dispatcher, clock: Clock) -> None:
        self._host_id = host_id
        self._dispatcher = dispatcher
        self._clock = clock
        self._timer: Timer | None = None
        self._over = _allocate_lock()
        self._ticked = 0.0
        self._told = 0.0

    def start(self) -> None:
        """Watch from now on, the hub of the calling thread."""
        if not isinstance(self._clock, SystemClock):
            return
        self._over.acquire()
        self._set()
        _start_new_thread(self._watch, ())

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._over.release()

    def _set(self) -> None:
        self._ticked = self._clock.monotonic()
        self._timer = self._clock.call_later(INTERVAL, self._tick)

    def _tick(self) -> None:
        before = self._ticked
        self._set()
        if self._told:
            self._told = 0.0
            log.warning(
                "host %s runs again after %.1f s", self._host_id, self._ticked - before, extra=fields(self._host_id)
            )

    # -- in the native thread ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        monotonic = self._clock.monotonic
        asked = monotonic()
        while not self._over.acquire(timeout=INTERVAL):
            now = monotonic()
            late, asked = now - asked - INTERVAL, now
            stands = now - self._ticked
            # Who was late himself can't tell a hub that stands from a machine that did.
            if late < INTERVAL and stands > LIMIT and now - self._told > (AGAIN if self._told else 0.0):
                self._told = now
                try:
                    self._tell(stands)
                except Exception:  # noqa: BLE001, S112 - a handler of the program's that fails must not end the watch  # nosec B112  # as said
                    continue

    def _tell(self, stands: float) -> None:
        frame = sys._current_frames().get(self._dispatcher.thread)
        stack = "".join(traceback.format_stack(frame, _FRAMES)) if frame is not None else ""
        log.warning(
            "host %s has stood still for %.1f s: %s does not let others run; it is at\n%s",
            *(self._host_id, stands, self._culprit(), stack),
            extra=fields(self._host_id),
        )

    def _culprit(self) -> str:
        """Return who runs in the hub's thread: of all greenlets only the one that runs has no frame put by."""
        for worker in list(self._dispatcher.workers):
            activation = worker.desk.activation
            if activation is not None and worker.gr_frame is None and not worker.dead:
                return f"actor {activation.ref}"
        return "something that is no actor"
