"""What several test modules need: waiting for conditions, running under a virtual clock, small receivers."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

import gevent
import psutil
from gevent import Greenlet

from theatre_gevent import Context, Initialize, Metrics, Ref, Shutdown, StopActor
from theatre_gevent.clock import SystemClock
from theatre_gevent.testing import VirtualClock

T = TypeVar("T")

_now = SystemClock().monotonic


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Let the hub run until `condition` holds; fails after `timeout` real seconds."""
    deadline = _now() + timeout
    while not condition():
        assert _now() < deadline, f"not within {timeout} s"
        gevent.sleep(0.001)


def drained(reading: int) -> bytes:
    """Return what a pipe that does not block holds now."""
    pieces = []
    with suppress(BlockingIOError):
        while piece := os.read(reading, 1 << 20):
            pieces.append(piece)
    return b"".join(pieces)


def gone(processes: Iterable[psutil.Process]) -> bool:
    """Tell whether all of these have ended; whether somebody has reaped them does not matter."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it may end between the two questions
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


class AheadClock(SystemClock):
    """Time that is ahead of the timers, as after a signal has stopped this process for a while.

    Attributes:
        ahead: By how many seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        real = self.monotonic
        self.ahead = 0.0
        self.monotonic = lambda: real() + self.ahead


def base_port(offsets: Iterable[int]) -> int:
    """Return a port such that those at these distances from it are free.

    They lie below the range that systems take ports from for whoever asks for any, as each outgoing connection does: a
    port of that range may be somebody else's by the time that the program under test wants it.
    """
    distances, dice = tuple(offsets), random.SystemRandom()
    while True:
        base = dice.randrange(10_000, 30_000)
        with ExitStack() as open_ones:
            try:
                for distance in distances:
                    open_ones.enter_context(socket.socket()).bind(("127.0.0.1", base + distance))
            except OSError:
                continue
            return base


def in_background(function: Callable[..., T], *args: Any) -> Greenlet[..., T]:
    """Run `function` in a greenlet that keeps quiet about its error: `get()` raises it."""

    def run() -> tuple[bool, Any]:
        try:
            return True, function(*args)
        except Exception as error:
            return False, error

    class Quiet(Greenlet):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            fine, value = super().get(block, timeout)
            if not fine:
                raise value
            return value

    return Quiet.spawn(run)


def run_in_steps(clock: VirtualClock, function: Callable[[], T], step: float = 0.05, at_most: float = 60.0) -> T:
    """Run a blocking call while its clock is advanced; returns or raises what it does."""
    task = in_background(function)
    clock.settle()
    end = clock.monotonic() + at_most
    while not task.ready():
        assert clock.monotonic() < end, f"still blocked after {at_most} s"
        clock.advance(step)
        if not task.ready():
            gevent.sleep(0)  # what runs under a real clock must get on as well
    return task.get()


def assert_balanced(metrics: Metrics) -> None:
    """Invariant 4 at this moment: sent = processed + dead-lettered + still queued + given to other hosts."""
    counts = metrics.snapshot()
    words = ("received", "dead_lettered", "queued", "forwarded")
    accounted = sum(counts[f"messages_{word}"] for word in words)
    assert counts["messages_sent"] == accounted, counts
    assert counts["actors_active"] == counts["activations_total"] - counts["activations_ended"], counts
    assert min(counts.values()) >= 0, counts


class Recorder:
    """Makes receivers that write down everything they get, in one list over all actors.

    What to do with a message is said by the message: a callable is called with the context, everything else is
    answered with itself.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Ref, Any]] = []
        self.on_initialize: Callable[[Context], object] | None = None
        self.on_shutdown: Callable[[Context], object] | None = None
        self.instances = 0

    def __call__(self) -> RecordingReceiver:
        self.instances += 1
        return RecordingReceiver(self)

    def of(self, ref: Ref) -> list[Any]:
        """What the actor `ref` got, in order."""
        return [message for to, message in self.events if to == ref]

    def users(self, ref: Ref) -> list[Any]:
        """The same without Initialize and Shutdown."""
        return [message for message in self.of(ref) if not isinstance(message, (Initialize, Shutdown))]


class RecordingReceiver:
    """See `Recorder`."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def receive(self, ctx: Context) -> None:
        message = ctx.message
        self.recorder.events.append((ctx.actor_ref, message))
        if isinstance(message, Initialize):
            if self.recorder.on_initialize is not None:
                self.recorder.on_initialize(ctx)
        elif isinstance(message, Shutdown):
            if self.recorder.on_shutdown is not None:
                self.recorder.on_shutdown(ctx)
        elif callable(message):
            message(ctx)
        else:
            ctx.reply(message)


def stop_actor(ctx: Context) -> None:
    """A message for a `Recorder`: stop."""
    raise StopActor


def fail(ctx: Context) -> None:
    """A message for a `Recorder`: raise."""
    raise ZeroDivisionError("as told")
