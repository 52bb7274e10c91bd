"""A whole test: all hosts, wherever they live, take the same steps together."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import gevent

from .children import ChildProcess, Crash
from .monitor import MemoryWatch
from .part import COUNTERS, STOP_TIMEOUT, HostSpec
from .process import LocalProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .options import LoadOptions
    from .result import HostResult, Progress, Warmth
    from .stop import Stop

    class Process(Protocol):
        """Some of the hosts; the steps are described in `Part`."""

        def start(self) -> dict[str, str | None]:
            """Start the hosts; return their addresses by name."""

        def admin(self) -> dict[str, str | None]:
            """Return the addresses of the hosts' admin servers by name."""

        def join(self, members: dict[str, str]) -> None:
            """Make the hosts of these names and addresses a cluster."""

        def warm(self) -> Warmth:
            """Activate the actors that are these hosts' own."""

        def work(self) -> None:
            """Run the workers, from now to the end of the test."""

        def settle(self) -> list[int]:
            """Wait until the hosts have handled what they accepted; return counters that then stand still."""

        def finish(self) -> list[HostResult]:
            """Stop the hosts and return what was counted."""

        def ask_to_stop(self) -> None:
            """Let the workers end soon."""

        def close(self) -> None:
            """Let go of everything; a process that was started ends."""


_LOOK = 0.1
_SETTLED_AGAIN = 0.05
"""Seconds between two looks at whether messages are still under way. Two equal looks show that none is."""


@dataclass(frozen=True)
class Watcher:
    """Who hears about a test while it runs."""

    progress: Callable[[list[Progress], int], None]
    """Gets one sample of each process, and the resident bytes of all of them."""
    warmed: Callable[[Warmth], None]
    stopping: Callable[[], None]
    serving: Callable[[list[str]], None] = lambda _: None
    """Gets the addresses of the admin servers, in the order of the hosts."""


@dataclass(frozen=True)
class Outcome:
    """What a test came to.

    Attributes:
        parts: What each host counted; empty if one of them crashed.
        peak_rss: Resident bytes of all processes together, the most at one time.
    """

    parts: list[HostResult]
    peak_rss: int


def run(options: LoadOptions, stop: Stop, watcher: Watcher) -> Outcome:
    """Run a test from set-up to the hosts' stop.

    Args:
        options: What test.
        stop: Ends it earlier; why it ended, if not in time, is left there.
        watcher: Hears how it goes.
    """
    specs = [HostSpec(index, options, admin=True) for index in range(options.hosts)]
    watch = MemoryWatch([os.getpid()], options.memlimit, stop)
    gathered = _Gathered(options.processes or 1, lambda samples: watcher.progress(samples, watch.rss))
    processes: list[Process] = []
    parts: list[HostResult] = []
    try:
        try:
            if options.processes:
                for number, spec in enumerate(specs):
                    child = ChildProcess(spec, stop, gathered.of(number))
                    processes.append(child)
                    watch.add(child.pid)
            else:
                processes.append(LocalProcess(specs, stop, gathered.of(0)))
            parts = _run(processes, options, stop, watcher)
        except Crash as crash:
            stop.ask(1, str(crash))
        finally:
            watch.close()
    finally:
        gevent.joinall([gevent.spawn(process.close) for process in processes])
    return Outcome(parts, watch.peak_rss)


def _run(processes: Sequence[Process], options: LoadOptions, stop: Stop, watcher: Watcher) -> list[HostResult]:
    def together(step: str, *arguments: object) -> list[Any]:
        return _together(processes, stop, step, *arguments)

    members: dict[str, str | None] = {}
    for addresses in together("start"):
        members.update(addresses)
    watcher.serving([address for served in together("admin") for address in served.values() if address is not None])
    if options.hosts > 1:
        together("join", members)
    if options.warm:
        done = together("warm")
        watcher.warmed(
            {
                "actors_alive": sum(warmth["actors_alive"] for warmth in done),
                "activations": sum(warmth["activations"] for warmth in done),
                "seconds": max(warmth["seconds"] for warmth in done),
            }
        )
    together("work")
    # The workers of all hosts have ended, but one host's last message may be on its way to another.
    last, counters = None, together("settle")
    deadline = perf_counter() + STOP_TIMEOUT
    while (counters != last or _under_way(counters)) and perf_counter() < deadline:
        gevent.sleep(_SETTLED_AGAIN)
        last, counters = counters, together("settle")
    watcher.stopping()
    results = [part for parts in together("finish") for part in parts]
    lost = _under_way(counters)
    if lost:
        stop.ask(1, f"the hosts' counters do not balance: {lost} more messages forwarded than arrived")
    return results


def _under_way(counters: list[list[int]]) -> int:
    """Return how many messages have left one host and not reached another."""
    flat = [counter for each in counters for counter in each]
    forwarded, arrived = (sum(flat[COUNTERS.index(word) :: len(COUNTERS)]) for word in ("forwarded", "arrived"))
    return forwarded - arrived


def _together(processes: Sequence[Process], stop: Stop, step: str, *arguments: object) -> list[Any]:
    """Let all processes take a step at the same time, and tell them when the run shall stop.

    Raises:
        Crash: One of them is gone; the others are not waited for.
    """
    outcomes = [gevent.spawn(_outcome, getattr(process, step), arguments) for process in processes]
    waiting, told = list(outcomes), False
    while waiting:
        if stop.wanted and not told:
            told = True
            for process in processes:
                process.ask_to_stop()
        gevent.wait(waiting, timeout=_LOOK, count=1)
        for outcome in waiting:
            if outcome.ready() and isinstance(outcome.value, Exception):
                raise outcome.value
        waiting = [outcome for outcome in waiting if not outcome.ready()]
    return [outcome.value for outcome in outcomes]


def _outcome(step: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
    """Return what a step returns, or its error: one that ended a greenlet would be printed as well as raised."""
    try:
        return step(*arguments)
    except Exception as error:  # noqa: BLE001 - it is raised by who waits
        return error


class _Gathered:
    """Puts the progress of several processes together, which comes at about the same time.

    Args:
        count: How many processes there are.
        tell: Gets one sample of each.
    """

    def __init__(self, count: int, tell: Callable[[list[Progress]], None]) -> None:
        self._samples: list[deque[Progress]] = [deque() for _ in range(count)]
        self._tell = tell

    def of(self, number: int) -> Callable[[Progress], None]:
        """Return what takes the samples of one process."""

        def take(sample: Progress) -> None:
            self._samples[number].append(sample)
            if all(self._samples):
                self._tell([samples.popleft() for samples in self._samples])

        return take
