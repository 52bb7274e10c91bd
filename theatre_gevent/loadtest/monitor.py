"""Memory, CPU and garbage collection while a test runs."""

from __future__ import annotations

import gc
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

import gevent
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Self

    from .result import Progress
    from .stop import Stop
    from .workload import Tally

SAMPLE_INTERVAL = 0.25
PROGRESS_INTERVAL = 5.0

GC_INTERVAL = 60.0
"""Seconds between collections."""

GC_BANNER = f"automatic collections off, one every {GC_INTERVAL:g} s, survivors frozen"


class RareGc:
    """Makes collections rare: a million live actors are no garbage, and looking at them costs half a microsecond each.

    Messages and replies are freed by their reference counts; only errors with tracebacks leave cycles behind. So the
    automatic collections are off, and a look at the clock now and then makes a full one. What survives it is frozen,
    which takes it out of all later ones: each lasting object is looked at once.

    Attributes:
        collections: How many there were.
        seconds: How long they took altogether.
    """

    def __init__(self) -> None:
        self.collections = 0
        self.seconds = 0.0
        self._started = 0.0
        self._due = 0.0
        self._was_enabled = False

    def __enter__(self) -> Self:
        self._was_enabled = gc.isenabled()
        gc.disable()
        self.collect()
        gc.callbacks.append(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._watch)
        gc.unfreeze()
        if self._was_enabled:
            gc.enable()

    def look(self) -> None:
        """Collect if it is time."""
        if perf_counter() >= self._due:
            self.collect()

    def collect(self) -> None:
        """Collect now, and freeze what survives."""
        gc.collect()
        gc.freeze()
        self._due = perf_counter() + GC_INTERVAL

    def _watch(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._started = perf_counter()
        else:
            self.collections += 1
            self.seconds += perf_counter() - self._started


class MemoryWatch:
    """Looks at the memory of all processes of a run four times a second, from a greenlet.

    Args:
        pids: The processes. One that has ended counts nothing.
        memlimit: Bytes of resident memory, summed over them, above which the run is stopped; 0 for no limit.
        stop: How it is stopped.

    Attributes:
        rss: Bytes at the last look.
        peak_rss: The most that was seen at one look.
    """

    def __init__(self, pids: Iterable[int], memlimit: int, stop: Stop) -> None:
        self._memlimit = memlimit
        self._stop = stop
        self._processes: list[psutil.Process] = []
        for pid in pids:
            self.add(pid)
        self.rss = 0
        self.peak_rss = 0
        self._look()
        self._greenlet = gevent.spawn(self._run)

    def add(self, pid: int) -> None:
        """Look at one more process."""
        with suppress(psutil.NoSuchProcess, OSError):
            self._processes.append(psutil.Process(pid))

    def close(self) -> None:
        """Look a last time and stop looking."""
        self._look()
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            gevent.sleep(SAMPLE_INTERVAL)
            self._look()

    def _look(self) -> None:
        rss = 0
        for process in self._processes:
            # It has ended, or there is no file left to look with, and whoever really needs one says so.
            with suppress(psutil.NoSuchProcess, OSError):
                rss += process.memory_info().rss
        self.rss = rss
        self.peak_rss = max(self.peak_rss, rss)
        if self._memlimit and rss > self._memlimit:
            mib = 1 << 20
            self._stop.ask(
                1, f"memory limit exceeded: {rss / mib:,.0f} MiB resident, -memlimit is {self._memlimit / mib:,.0f} MiB"
            )


class Monitor:
    """Looks at this process four times a second, from a greenlet.

    Args:
        tallies: What the workers count, one for each host of this process.
        host_greenlets: Tells how many greenlets the hosts have.
        rare_gc: Is told to look now and then.
        on_progress: Called every five seconds while workers work.
    """

    def __init__(
        self,
        tallies: Sequence[Tally],
        host_greenlets: Callable[[], int],
        rare_gc: RareGc,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._tallies = tallies
        self._host_greenlets = host_greenlets
        self._rare_gc = rare_gc
        self._on_progress = on_progress
        self._process = psutil.Process()
        self._clock_started: float | None = None
        self._report_due = 0.0
        self._last = (0.0, 0, 0.0, 0, 0.0)
        self.rss = 0
        self.peak_rss = 0
        self._look()
        self._greenlet = gevent.spawn(self._run)

    def start_clock(self) -> float:
        """The workers start: report progress from now on. Returns the time, in seconds of `perf_counter`."""
        now = perf_counter()
        self._clock_started = now
        self._report_due = now + PROGRESS_INTERVAL
        self._last = self._reading(now)
        return now

    def stop_clock(self) -> None:
        """The workers have ended."""
        self._look()
        self._clock_started = None

    def cpu_seconds(self) -> float:
        """Return how much CPU time the process has used so far."""
        times = self._process.cpu_times()
        return times.user + times.system

    def close(self) -> None:
        """Look a last time and stop looking."""
        self._look()
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            gevent.sleep(SAMPLE_INTERVAL)
            self._look()
            self._rare_gc.look()
            started = self._clock_started
            if started is not None:
                now = perf_counter()
                if now >= self._report_due:
                    self._report_due += PROGRESS_INTERVAL
                    self._report(now, started)

    def _look(self) -> None:
        self.rss = rss = self._process.memory_info().rss
        if rss > self.peak_rss:
            self.peak_rss = rss

    def _reading(self, now: float) -> tuple[float, int, float, int, float]:
        done = sum(tally.operations() for tally in self._tallies)
        return now, done, self.cpu_seconds(), self._rare_gc.collections, self._rare_gc.seconds

    def _report(self, now: float, started: float) -> None:
        before, current = self._last, self._reading(now)
        self._last = current
        interval = current[0] - before[0]
        self._on_progress(
            {
                "elapsed": now - started,
                "interval": interval,
                "operations": current[1] - before[1],
                "cpu_percent": 100 * (current[2] - before[2]) / interval,
                "rss": self.rss,
                "actors_active": sum(tally.alive() for tally in self._tallies),
                "load_greenlets": sum(tally.working for tally in self._tallies),
                "host_greenlets": self._host_greenlets(),
                "gc_collections": current[3] - before[3],
                "gc_seconds": current[4] - before[4],
            }
        )
