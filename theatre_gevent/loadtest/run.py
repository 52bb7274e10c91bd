"""One host's part of a load test: a spec in, a plain dict out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from theatre_gevent.host import Host

from .monitor import Monitor, RareGc
from .profiling import MemoryProfile, cpu_profile
from .workload import ACTOR_TYPE, LoadActor, Tally, make_refs, warm, work

if TYPE_CHECKING:
    from collections.abc import Callable

    from theatre_gevent.messages import Ref

    from .options import LoadOptions
    from .result import HostResult, Progress, Warmth
    from .stop import Stop

REQUEST_TIMEOUT = 3.0
CLEANUP_INTERVAL = 0.5

_END_GRACE = REQUEST_TIMEOUT + 5.0
"""Seconds after the deadline within which every worker has ended: what it waits for has a timeout."""

_STOP_TIMEOUT = 60.0
"""Seconds for a million Shutdown messages."""


@dataclass(frozen=True)
class HostSpec:
    """Which part of a test this is.

    Attributes:
        index: Number of this host, from 0.
        options: The whole test.
    """

    index: int
    options: LoadOptions

    @property
    def name(self) -> str:
        """The host's id."""
        return f"host-{self.index + 1}"

    def rng(self, worker: int) -> Random:
        """Return a worker's own random numbers: the same ones for the same seed, host and worker."""
        return Random(f"{self.options.seed}/{self.index}/{worker}")


@dataclass(frozen=True)
class Watcher:
    """Who hears about a part while it runs."""

    progress: Callable[[Progress], None]
    warmed: Callable[[Warmth], None]
    stopping: Callable[[], None]


def build() -> str:
    """Return `compiled` if the hot path is, else `pure`."""
    file = sys.modules[Host.__module__.rpartition(".")[0] + ".core.dispatcher"].__file__ or ""
    return "pure" if file.endswith(".py") else "compiled"


def run_host(spec: HostSpec, stop: Stop, watcher: Watcher) -> HostResult:
    """Run one host and its workers in this process, from set-up to the host's stop.

    Args:
        spec: Which part this is.
        stop: Ends it earlier; a cause found here is left there, too.
        watcher: Hears how it goes.
    """
    options = spec.options
    memory = MemoryProfile(options.memprofile)
    memory.start()
    tally = Tally(options.actors)
    host = Host(
        host_id=spec.name,
        idle_timeout=options.idle_timeout,
        request_timeout=REQUEST_TIMEOUT,
        cleanup_interval=CLEANUP_INTERVAL,
        drain_timeout=_STOP_TIMEOUT,
        actor_inbox_size=options.actor_inbox,
        host_inbox_size=options.host_inbox,
    )
    host.register_actor(ACTOR_TYPE, partial(LoadActor, tally))
    refs = make_refs(options.actors)
    with RareGc() as rare_gc:
        monitor = Monitor(tally, options.memlimit, stop, partial(_greenlets, host), rare_gc, watcher.progress)
        host.start()
        warmth = None
        if options.warm:
            warmth = _warm(host, refs, tally, stop, watcher)
            rare_gc.collect()
        with cpu_profile(options.cpuprofile):
            cpu = monitor.cpu_seconds()
            started = monitor.start_clock()
            _work(host, refs, tally, spec, started + options.duration, stop)
            _wait_until_quiet(host)
            duration = perf_counter() - started
            cpu = monitor.cpu_seconds() - cpu
            monitor.stop_clock()
        metrics = host.metrics.snapshot()
        memory.write(f"{tally.alive():,} of {options.actors:,} actors alive, at the end of the run")
        watcher.stopping()
        alive_peak = tally.alive_peak()
        host.stop()
        stopped = host.metrics.snapshot()
        monitor.close()
    _check_balance(stopped, stop)
    return {
        "host": spec.name,
        "duration": duration,
        "sends": tally.sends,
        "requests": tally.requests,
        "send_errors": tally.send_errors,
        "reply_errors": tally.reply_errors,
        "examples": tally.examples,
        "inits": tally.inits,
        "shutdowns": tally.shutdowns,
        "actors_active_peak": alive_peak,
        "activated": bytes(tally.activated),
        "latencies": tally.latencies.data(),
        "warm": warmth,
        "peak_rss": monitor.peak_rss,
        "cpu_seconds": cpu,
        "gc_collections": rare_gc.collections,
        "gc_seconds": rare_gc.seconds,
        "metrics": metrics,
        "metrics_stopped": stopped,
        "error": stop.error,
        "exit_code": stop.exit_code,
    }


def _warm(host: Host, refs: list[Ref], tally: Tally, stop: Stop, watcher: Watcher) -> Warmth:
    started = perf_counter()
    try:
        warm(host, refs, stop)
    except Exception as error:  # noqa: BLE001 - whatever it is ends the run and is reported
        stop.ask(1, f"the warm start failed: {type(error).__name__}: {error}")
    _wait_until_quiet(host)
    warmth: Warmth = {
        "actors_alive": tally.alive(),
        "activations": tally.inits,
        "seconds": perf_counter() - started,
    }
    watcher.warmed(warmth)
    return warmth


def _work(host: Host, refs: list[Ref], tally: Tally, spec: HostSpec, deadline: float, stop: Stop) -> None:
    """Run the workers and wait for their end."""
    options = spec.options
    ended = Event()

    def one(number: int) -> None:
        try:
            work(host, refs, tally, spec.rng(number), options.sendpct, deadline, stop)
        except Exception as error:  # noqa: BLE001 - whatever it is ends the run and is reported
            stop.ask(1, f"a worker failed: {type(error).__name__}: {error}")
        finally:
            tally.working -= 1
            if not tally.working:
                ended.set()

    tally.working = options.workers
    workers = [gevent.spawn(one, number) for number in range(options.workers)]
    last = deadline + _END_GRACE
    while not ended.wait(0.1):
        now = perf_counter()
        if stop.wanted:
            last = min(last, now + _END_GRACE)
        if now > last:
            stop.ask(1, f"{tally.working} workers did not end within {_END_GRACE:g} s of the deadline")
            gevent.killall(workers, timeout=1.0)
            break


def _wait_until_quiet(host: Host) -> None:
    """Wait until what was accepted has been handled, at most as long as a stop would."""
    deadline = perf_counter() + _STOP_TIMEOUT
    while host.metrics.snapshot()["messages_queued"] and perf_counter() < deadline:
        gevent.sleep(0.002)


def _check_balance(metrics: dict[str, int], stop: Stop) -> None:
    """A load test whose host lost a message has failed, whatever its speed."""
    sent, received, dead, queued = (
        metrics[f"messages_{word}"] for word in ("sent", "received", "dead_lettered", "queued")
    )
    if sent != received + dead + queued:
        stop.ask(1, f"the counters do not balance: {sent} sent, {received} received, {dead} dead, {queued} queued")


def _greenlets(host: Host) -> int:
    return len(host._dispatcher.workers)
