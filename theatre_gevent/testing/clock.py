"""A clock that stands still until a test moves it."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.event import Event
from gevent.hub import get_hub

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_ROUNDING, _ROUNDINGS = 1e-9, 64
"""Seconds by which a timer may run early, and in how many last places of the reading, whichever is more: ten times
0.3 s, added to a reading one by one, make less than 3 s. From a day on the last places count."""


class _VirtualTimer:
    __slots__ = ("callback", "due", "number")

    def __init__(self, due: float, number: int, callback: Callable[[], object]) -> None:
        self.due = due
        self.number = number
        self.callback: Callable[[], object] | None = callback

    def __lt__(self, other: _VirtualTimer) -> bool:
        # Those due at the same instant run in the order in which they were set.
        return (self.due, self.number) < (other.due, other.number)

    def cancel(self) -> None:
        """Forget the call. Harmless when it was made already."""
        self.callback = None


class VirtualClock:
    """A `Clock` whose time passes only in `advance`: hours of idleness and timeouts, tested in microseconds.

        clock = VirtualClock()
        with Host(clock=clock, idle_timeout=3600) as host:
            ...
            clock.advance(3601)             # every idle actor has had its Shutdown now

    It belongs to one thread's hub. What waits for something real, a socket, a native thread or `gevent.sleep`, is not
    moved by it. A greenlet that waits for the host, in `request` for instance, needs another one that advances the
    clock: `run` does both.

    Args:
        start: First reading of `monotonic`, in seconds.
        epoch: First reading of `time`, in seconds since the epoch.
    """

    # Neither starts at 0, so that code which takes a reading of 0.0 for "never" is not flattered.
    def __init__(self, *, start: float = 1_000.0, epoch: float = 1_700_000_000.0) -> None:
        self._now = start
        self._wall = epoch - start
        self._suspended = 0.0
        self._timers: list[_VirtualTimer] = []
        self._set = 0
        self._advancing = False

    def monotonic(self) -> float:
        """Seconds since a fixed point; moved by `advance` alone."""
        return self._now

    def boottime(self) -> float:
        """Like `monotonic`, and moved by `suspend` too."""
        return self._now + self._suspended

    def time(self) -> float:
        """Wall time in seconds since the epoch; moved by `advance`, `suspend` and `step_wall_time`."""
        return self._wall + self._now

    def sleep(self, seconds: float) -> None:
        """Block the calling greenlet until the clock has been advanced by `seconds`."""
        awake = Event()
        timer = self.call_later(seconds, awake.set)
        try:
            awake.wait()
        finally:
            timer.cancel()

    def call_later(self, delay: float, callback: Callable[[], object]) -> _VirtualTimer:
        """Run `callback` in the hub when the clock has been advanced by `delay` seconds.

        A delay of zero or less is due too, but like every other it waits for the next `advance`, if only of 0 seconds.
        """
        self._set += 1
        timer = _VirtualTimer(self._now + max(0.0, delay), self._set, callback)
        heappush(self._timers, timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass.

        Timers that fall due run one by one in the order of their times, each at its own time, and after each the
        greenlets run until all of them wait for something. So what a timer sets in motion may set new timers, and
        those that fall within `seconds` run as well.

        Args:
            seconds: How long, 0 or more. 0 runs what is due now. A timer that is due a billionth of a second later is
                due as well, so that many small steps add up to a large one.

        Raises:
            ValueError: `seconds` is negative or not finite.
            RuntimeError: Another greenlet is advancing this clock, or the greenlets did not come to rest.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a clock can only be advanced by 0 seconds or more, and not for ever, got {seconds!r}")
        self._advance_to(self._now + seconds)

    def run(self, function: Callable[..., T], *args: Any, at_most: float = 3600.0) -> T:
        """Call a function that waits for this clock, and let as much time pass as it takes.

        `clock.run(host.request, ref, "how many?")` is a request whose timeout takes no time. The function runs in a
        greenlet of its own, and time goes from timer to timer: no further than the function needs.

        Args:
            function: What to call. What it waits for must depend on this clock alone.
            *args: Its arguments.
            at_most: Seconds of this clock.

        Returns:
            What the function returns.

        Raises:
            BaseException: What the function raises, be it an outcome such as that of `pytest.fail`.
            RuntimeError: It waited still after `at_most`, or for something that no timer will bring; or as `advance`.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                results.append(function(*args))
            except BaseException as error:  # noqa: BLE001 - raised in the caller
                errors.append(error)

        task = gevent.spawn(call)
        end = self._now + at_most
        try:
            self.settle()
            while not task.ready():
                due = min((timer.due for timer in self._timers if timer.callback is not None), default=end + 1.0)
                if due > end:
                    raise RuntimeError(f"{function!r} waits still after {at_most:g} s of the virtual clock")
                self._advance_to(due)
        finally:
            task.kill()
        if errors:
            raise errors[0]
        return results[0]

    def _advance_to(self, end: float) -> None:
        if self._advancing:
            raise RuntimeError("the clock is being advanced by another greenlet")
        self._advancing = True
        try:
            self.settle()
            self._run_timers(end, self.settle)
        finally:
            self._advancing = False

    def force(self, seconds: float) -> None:
        """Let `seconds` pass regardless of greenlets that never come to rest, or of one that advances this clock.

        After each timer the greenlets get one round of the loop. It is a way out for what `advance` and `settle` give
        up on: to stop a host with an actor that sends to itself for ever.

        Args:
            seconds: How long, 0 or more.
        """
        self._run_timers(self._now + seconds, lambda: gevent.sleep(0))

    def _run_timers(self, end: float, then: Callable[[], object]) -> None:
        last = end + max(_ROUNDING, _ROUNDINGS * math.ulp(end))
        while self._timers and self._timers[0].due <= last:
            timer = heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is None:
                continue
            self._now = max(self._now, timer.due)
            get_hub().loop.run_callback(callback)
            then()
        self._now = max(self._now, end)

    def step_wall_time(self, seconds: float) -> None:
        """Set the wall clock forward, or back when negative, as an administrator would; `monotonic` is untouched."""
        self._wall += seconds

    def suspend(self, seconds: float) -> None:
        """Let `seconds` pass unnoticed, as when a virtual machine is suspended: no timer moves, `monotonic` neither."""
        self._suspended += seconds
        self._wall += seconds

    def pending_timers(self) -> int:
        """Return how many calls are due later: a way to find timers that were forgotten."""
        return sum(timer.callback is not None for timer in self._timers)

    def settle(self, at_most: float = 10.0) -> None:
        """Let the greenlets of this thread run, without time passing, until all of them wait for something.

        Args:
            at_most: Real seconds after which it gives up.

        Raises:
            RuntimeError: They still ran after `at_most`: something sends to itself for ever, say.
        """
        # The loop calls an idle watcher when it finds neither due timers nor ready sockets. Twice, because callbacks
        # that the last of those added may be still to come at the first.
        with gevent.Timeout(at_most, RuntimeError(f"the greenlets did not come to rest within {at_most:g} s")):
            gevent.idle()
            gevent.idle()
