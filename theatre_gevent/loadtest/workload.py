"""The actor, the workers, and what they count."""

from __future__ import annotations

from contextlib import contextmanager
from math import floor
from random import Random
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING

import gevent

from theatre_gevent.errors import HostNotRunning, TheatreError
from theatre_gevent.messages import Initialize, Ref, Shutdown

from .histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Protocol

    from theatre_gevent.core.context import Context

    from .stop import Stop

    class Target(Protocol):
        """What the workers need of a host."""

        def send(self, ref: Ref, body: object) -> None:
            """Send a message."""

        def request(self, ref: Ref, body: object) -> Any:
            """Ask and wait."""


ACTOR_TYPE = "worker"

TIMED_EVERY = 8
"""One in so many requests is timed, chosen at random: timing each would cost a request a tenth of its own time."""

_CHUNK = 64
"""Operations between two looks at the clock, and between two additions to the tally."""

_LATE = 0.001
"""Seconds after the deadline: a timer may go off a little early, and a worker is to use its whole time."""


class Tally:
    """What the workers and actors of one host count. One thread only, so plain integers do.

    Args:
        actors: Size of the pool of actors.
    """

    __slots__ = (
        "_peak",
        "activated",
        "examples",
        "inits",
        "latencies",
        "reply_errors",
        "requests",
        "send_errors",
        "sends",
        "shutdowns",
        "working",
    )

    def __init__(self, actors: int) -> None:
        self.activated = bytearray(actors)
        self.inits = 0
        self.shutdowns = 0
        self._peak = 0
        self.sends = 0
        self.requests = 0
        self.send_errors: dict[str, int] = {}
        self.reply_errors: dict[str, int] = {}
        self.examples: dict[str, str] = {}
        self.latencies = Histogram()
        self.working = 0

    def operations(self) -> int:
        """Return how many operations succeeded so far, up to a chunk per worker late."""
        return self.sends + self.requests - sum(self.reply_errors.values())

    def alive(self) -> int:
        """Return how many actors are alive: their Initialize has begun and their Shutdown has not."""
        return self.inits - self.shutdowns

    def alive_peak(self) -> int:
        """Return the most that were ever alive at once."""
        return max(self._peak, self.alive())

    def born(self, ref: Ref) -> None:
        """An actor got Initialize."""
        self.inits += 1
        self.activated[int(ref.id)] = 1

    def gone(self) -> None:
        """An actor got Shutdown. The number alive peaks just before such a moment, or at the end."""
        alive = self.inits - self.shutdowns
        if alive > self._peak:
            self._peak = alive
        self.shutdowns += 1

    def failed(self, errors: dict[str, int], error: TheatreError) -> None:
        """Count an error by its kind and keep the first of each in its own words."""
        kind = type(error).__name__
        errors[kind] = errors.get(kind, 0) + 1
        self.examples.setdefault(kind, str(error))


PING, ECHO = "ping", "echo"
"""What is sent, and what is requested."""


class LoadActor:
    """Answers an echo with itself, takes a ping in silence, and tells the tally when it comes and goes."""

    __slots__ = ("_tally",)

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def receive(self, ctx: Context) -> None:
        """Handle one message."""
        message = ctx.message
        if message == ECHO:
            ctx.reply(message)
        elif message == PING:
            pass
        elif type(message) is Initialize:
            self._tally.born(ctx.actor_ref)
        elif type(message) is Shutdown:
            self._tally.gone()


def make_refs(actors: int) -> list[Ref]:
    """Return the refs of the whole pool; their ids are their places in it."""
    return [Ref(ACTOR_TYPE, str(number)) for number in range(actors)]


def work(
    host: Target, refs: Sequence[Ref], tally: Tally, rng: Random, sendpct: int, deadline: float, stop: Stop
) -> None:
    """Send to and request from random actors until the deadline or a stop, and then end the operation under way.

    The loop runs on the same core as what it measures, so it is kept to about 0.2 us per operation: one random number
    gives the actor (its whole part), what to do (its fraction), and whether to time it.

    Args:
        host: Whom to ask.
        refs: Whom to address.
        tally: Where to count.
        rng: This worker's own random numbers.
        sendpct: Percentage of sends.
        deadline: When to end, in seconds of `perf_counter`.
        stop: Ends it earlier.

    Raises:
        HostNotRunning: The host has stopped under way.
    """
    random, clock, clock_ns = rng.random, perf_counter, perf_counter_ns
    send, request, record = host.send, host.request, tally.latencies.record
    size = float(len(refs))  # a product of floats takes a third of the time of a mixed one
    send_below = sendpct / 100
    time_below = send_below + (1 - send_below) / TIMED_EVERY
    share = 0.0
    started = 0
    with _chunk(deadline, stop) as chunk:
        while chunk and clock() < deadline:
            sends = done = 0
            try:
                for done in chunk:  # noqa: B007 - it counts what was done
                    place = random() * size
                    number = floor(place)
                    share = place - number
                    if share < send_below:
                        send(refs[number], PING)
                        sends += 1
                    elif share < time_below:
                        started = clock_ns()
                        request(refs[number], ECHO)
                        record(clock_ns() - started)
                    else:
                        request(refs[number], ECHO)
                done += 1
            except TheatreError as error:
                if share < send_below:
                    tally.failed(tally.send_errors, error)
                else:
                    if share < time_below:
                        record(clock_ns() - started)
                    tally.requests += 1
                    tally.failed(tally.reply_errors, error)
                if isinstance(error, HostNotRunning):
                    raise
                gevent.sleep(0)  # an error may come at once, and a row of them must not keep the hub
            finally:
                tally.sends += sends
                tally.requests += done - sends


@contextmanager
def _chunk(deadline: float, stop: Stop) -> Iterator[list[int]]:
    """Give the numbers of a chunk's operations, in a list that the deadline or a stop empties.

    A loop over a list ends where the list does, so that a worker in the middle of a chunk ends with the operation that
    it is at, which may take seconds, and a fast one pays nothing for that: no look at a clock, not one instruction, and
    0.19 us per operation where a loop over a range took 0.20.
    """
    chunk = list(range(_CHUNK))
    stop.on_ask(chunk.clear)
    bell = gevent.spawn_later(max(0.0, deadline - perf_counter()) + _LATE, chunk.clear)
    try:
        yield chunk
    finally:
        bell.kill(block=False)


def warm(host: Target, refs: Sequence[Ref], stop: Stop) -> None:
    """Send every actor its first message; waits at a full host like any sender.

    Raises:
        TheatreError: A message was refused.
    """
    send = host.send
    for first in range(0, len(refs), 256):
        if stop.wanted:
            return
        for ref in refs[first : first + 256]:
            send(ref, "warm")
