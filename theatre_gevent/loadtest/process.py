"""The hosts of one process, which share its memory, its garbage collector and its profiles."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import gevent

from ..memory import use_huge_pages
from .files import Unwritable
from .monitor import Monitor, RareGc
from .part import Part
from .profiling import MemoryProfile, cpu_profile
from .workload import make_refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Concatenate, ParamSpec

    from .part import HostSpec
    from .result import HostResult, ProcessUsage, Progress, Warmth
    from .stop import Stop

    P = ParamSpec("P")

T = TypeVar("T")


@contextmanager
def _without_news_of_peers() -> Iterator[None]:
    """Let the hosts come and go one after the other: some then refuse others or find them gone, and that is no news."""
    log = logging.getLogger("theatre_gevent.cluster")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


class LocalProcess:
    """The hosts of this process. Its steps are those of `Part`, for all of them at once.

    Args:
        specs: Which hosts; all of the same test.
        stop: Ends the run earlier; a cause found here is left there, too.
        on_progress: Called every five seconds while workers work.
    """

    def __init__(self, specs: Sequence[HostSpec], stop: Stop, on_progress: Callable[[Progress], None]) -> None:
        self._options = specs[0].options
        self._stop = stop
        self._on_progress = on_progress
        self._memory = MemoryProfile(self._options.memprofile)
        self._memory.start()
        use_huge_pages()  # before there is anything
        refs = make_refs(self._options.actors)
        self._parts = [Part(spec, refs, stop) for spec in specs]
        self._open = ExitStack()
        self._profiling = ExitStack()
        self._joining = ExitStack()
        self._rare_gc: RareGc
        self._monitor: Monitor
        self._cpu = 0.0

    def start(self) -> dict[str, str | None]:
        """Start the hosts; return their addresses by name."""
        self._rare_gc = self._open.enter_context(RareGc())
        tallies = [part.tally for part in self._parts]
        self._monitor = Monitor(tallies, self._greenlets, self._rare_gc, self._on_progress)
        self._open.callback(self._monitor.close)
        self._joining.enter_context(_without_news_of_peers())
        names = [part.spec.name for part in self._parts]
        return dict(zip(names, self._on_all(Part.start), strict=True))

    def admin(self) -> dict[str, str | None]:
        """Return the addresses of the hosts' admin servers by name."""
        names = [part.spec.name for part in self._parts]
        return dict(zip(names, [part.admin() for part in self._parts], strict=True))

    def join(self, members: dict[str, str]) -> None:
        """Make the hosts of these names and addresses a cluster."""
        self._on_all(Part.join, members)
        if not self._stop.wanted:  # a stop leaves a cluster that is half made, whose hosts refuse each other to the end
            self._joining.close()

    def warm(self) -> Warmth:
        """Activate the actors that are these hosts' own."""
        done = self._on_all(Part.warm)
        self._rare_gc.collect()
        return {
            "actors_alive": sum(warmth["actors_alive"] for warmth in done),
            "activations": sum(warmth["activations"] for warmth in done),
            "seconds": max(warmth["seconds"] for warmth in done),
        }

    def work(self) -> None:
        """Run the workers, from now to the end of the test."""
        self._profiling.enter_context(cpu_profile(self._options.cpuprofile))
        self._cpu = self._monitor.cpu_seconds()
        self._on_all(Part.work, self._monitor.start_clock())

    def settle(self) -> list[int]:
        """Wait until the hosts have handled what they accepted; return counters that then stand still."""
        return [counter for counters in self._on_all(Part.settle) for counter in counters]

    def finish(self) -> list[HostResult]:
        """Stop the hosts and return what was counted."""
        self._end_cpu_profile()
        monitor, rare_gc = self._monitor, self._rare_gc
        cpu = monitor.cpu_seconds() - self._cpu
        monitor.stop_clock()
        alive = sum(part.tally.alive() for part in self._parts)
        with self._without_losing_the_result("memprofile"):
            self._memory.write(f"{alive:,} of {self._options.actors:,} actors alive, at the end of the run")
        with _without_news_of_peers():
            results = self._on_all(Part.finish)
        self.close()
        usage: ProcessUsage = {
            "pid": os.getpid(),
            "peak_rss": monitor.peak_rss,
            "cpu_seconds": cpu,
            "gc_collections": rare_gc.collections,
            "gc_seconds": rare_gc.seconds,
        }
        return [{**result, "process": usage} for result in results]

    def ask_to_stop(self) -> None:
        """Nothing to do: the workers here look at the `stop` of the whole run."""

    def close(self) -> None:
        """Let go of what the process was changed by."""
        self._joining.close()
        self._end_cpu_profile()
        self._open.close()

    def _end_cpu_profile(self) -> None:
        with self._without_losing_the_result("cpuprofile"):
            self._profiling.close()

    @contextmanager
    def _without_losing_the_result(self, flag: str) -> Iterator[None]:
        """Fail the run for a profile that can't be written, but let it end in order: what it measured is worth more."""
        try:
            yield
        except Unwritable as error:
            self._stop.ask(1, f"-{flag} {error}")

    def _greenlets(self) -> int:
        return sum(part.greenlets() for part in self._parts)

    def _on_all(self, step: Callable[Concatenate[Part, P], T], *given: P.args, **named: P.kwargs) -> list[T]:
        """Let all parts take a step at the same time and wait for them; the first error is raised."""
        if len(self._parts) == 1:
            return [step(self._parts[0], *given, **named)]
        outcomes = [gevent.spawn(step, part, *given, **named) for part in self._parts]
        gevent.joinall(outcomes, raise_error=True)
        return [outcome.get() for outcome in outcomes]
