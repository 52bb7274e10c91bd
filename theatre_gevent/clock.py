"""Time, in one place: every wait and every reading of a clock in the library goes through a `Clock`.

No other module imports `time` or sleeps (a test sees to it), so that a whole host runs under the virtual clock of
`theatre_gevent.testing`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import gevent
from gevent.hub import get_hub

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Forget the call. Harmless when it was made already."""


class Clock(Protocol):
    """The readings and waits that the library needs, all in seconds."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""

    def boottime(self) -> float:
        """The same, but it counts the time during which a virtual machine was suspended too, as a lease must."""

    def time(self) -> float:
        """Seconds since the epoch: wall time, which may jump."""

    def sleep(self, seconds: float) -> None:
        """Let other greenlets run for so long."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` in the hub after `delay` seconds; it must not block."""


class _LoopTimer:
    __slots__ = ("_watcher",)

    def __init__(self, watcher: Any, callback: Callable[[], object]) -> None:
        self._watcher = watcher
        watcher.start(self._fire, callback, update=True)

    def _fire(self, callback: Callable[[], object]) -> None:
        self.cancel()
        callback()

    def cancel(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()


class SystemClock:
    """The machine's clocks and the gevent loop's timers."""

    def __init__(self) -> None:
        self.monotonic: Callable[[], float] = time.monotonic  # 40 ns less than a method around it
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        self.boottime: Callable[[], float] = (
            time.monotonic if boottime is None else partial(time.clock_gettime, boottime)
        )

    def count_suspension(self) -> None:
        """Have `monotonic` count the time during which a virtual machine is suspended, as `boottime` does."""
        self.monotonic = self.boottime

    def time(self) -> float:
        """Wall time in seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Let other greenlets run for `seconds`."""
        gevent.sleep(max(0.0, seconds))

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` in the hub of the calling thread after `delay` seconds."""
        return _LoopTimer(get_hub().loop.timer(max(0.0, delay)), callback)
