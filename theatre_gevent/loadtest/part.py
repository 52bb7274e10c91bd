"""One host's part of a load test: the host, its workers, and the steps that all hosts take together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from theatre_gevent.errors import CannotListen
from theatre_gevent.host import Host

from .options import host_names
from .workload import ACTOR_TYPE, LoadActor, Tally, warm, work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from theatre_gevent.messages import Ref

    from .options import LoadOptions
    from .result import PartResult, Warmth
    from .stop import Stop

REQUEST_TIMEOUT = 3.0
CLEANUP_INTERVAL = 0.5

END_GRACE = REQUEST_TIMEOUT + 5.0
"""Seconds after the deadline within which every worker has ended: what it waits for has a timeout."""

_JOIN_TIMEOUT = 20.0
"""Seconds until all hosts are connected."""

STOP_TIMEOUT = 60.0
"""Seconds for a million Shutdown messages."""

COUNTERS = ("sent", "received", "dead_lettered", "queued", "forwarded", "arrived")
"""Of a host's messages: those that stand still when a cluster has come to rest."""

_BUSY = ("messages_queued", "messages_held", "claims_waiting")
"""What a host has accepted and not handled, or not given back yet."""

_FIRST_ADMIN_PORT = 8081


@dataclass(frozen=True)
class HostSpec:
    """Which part of a test this is.

    Attributes:
        index: Number of this host, from 0.
        options: The whole test.
        admin: Whether the host gets an admin server, at a port from 8081 up, or at a free one.
    """

    index: int
    options: LoadOptions
    admin: bool = False

    @property
    def name(self) -> str:
        """The host's id."""
        return host_names(self.index + 1)[-1]

    @property
    def workers(self) -> int:
        """How many workers enter through this host."""
        options = self.options
        if options.mode != "forward":
            return options.workers
        return 0 if self.index else options.workers * options.hosts

    @property
    def admin_addr(self) -> str | None:
        """Where the host's admin server is to listen, None for none."""
        return f"127.0.0.1:{_FIRST_ADMIN_PORT + self.index}" if self.admin else None

    def rng(self, worker: int) -> Random:
        """Return a worker's own random numbers: the same ones for the same seed, host and worker."""
        return Random(f"{self.options.seed}/{self.index}/{worker}")  # nosec B311  # a load, to be repeated


class Part:
    """One host and its workers. The steps are called once each in the order written here, `settle` several times.

    Args:
        spec: Which part this is.
        refs: The whole pool of actors.
        stop: Ends the run earlier; a cause found here is left there, too.
    """

    def __init__(self, spec: HostSpec, refs: Sequence[Ref], stop: Stop) -> None:
        self.spec = spec
        self.tally = Tally(spec.options.actors)
        self.host = self._make_host(spec.admin_addr)
        self._stop = stop
        self._refs = refs
        self._to_warm: Sequence[Ref] = refs
        self._warmth: Warmth | None = None
        self._started = self._quiet_at = 0.0
        self._counters: list[int] = []

    def _make_host(self, admin_addr: str | None) -> Host:
        options = self.spec.options
        host = Host(
            host_id=self.spec.name,
            idle_timeout=options.idle_timeout,
            request_timeout=REQUEST_TIMEOUT,
            cleanup_interval=CLEANUP_INTERVAL,
            drain_timeout=STOP_TIMEOUT,
            actor_inbox_size=options.actor_inbox,
            host_inbox_size=options.host_inbox,
            admin_addr=admin_addr,
            listen="127.0.0.1:0" if options.hosts > 1 or options.dsn is not None else None,
            dsn=options.dsn,
        )
        host.register_actor(ACTOR_TYPE, partial(LoadActor, self.tally))
        return host

    def start(self) -> str | None:
        """Start the host; return the address where other hosts reach it, None for one by itself.

        Its admin server listens at any free port if its own is taken, by another load test most likely.
        """
        try:
            return self.host.start().address
        except CannotListen:
            if self.spec.admin_addr is None:
                raise
            self.host = self._make_host("127.0.0.1:0")
            return self.host.start().address

    def admin(self) -> str | None:
        """Return the address of the host's admin server, None if it has none."""
        return self.host.admin_address

    def join(self, members: dict[str, str]) -> None:
        """Make the hosts of these names and addresses a cluster, and find out which actors are this host's own."""
        options, name, owner = self.spec.options, self.spec.name, self.host.ring_owner
        if options.dsn is None:
            self.host.set_peers({member: address for member, address in members.items() if member != name})
        self._wait_for_peers(len(members) - 1)
        if options.warm or options.mode == "local":
            self._to_warm = [ref for ref in self._refs if owner(ref) == name]
            if options.mode == "local":
                self._refs = self._to_warm

    def warm(self) -> Warmth:
        """Activate the actors that are this host's own, and wait until all are."""
        started = perf_counter()
        try:
            warm(self.host, self._to_warm, self._stop)
        except Exception as error:  # noqa: BLE001 - whatever it is ends the run and is reported
            self._fail(f"the warm start failed: {type(error).__name__}: {error}")
        self._wait_until_quiet()
        self._to_warm = ()
        self._warmth = {
            "actors_alive": self.tally.alive(),
            "activations": self.tally.inits,
            "seconds": perf_counter() - started,
        }
        return self._warmth

    def work(self, started: float) -> None:
        """Run the workers until the end of the test and wait for their own.

        Args:
            started: When the test started, in seconds of `perf_counter`.
        """
        spec, stop, tally = self.spec, self._stop, self.tally
        self._started = self._quiet_at = started
        deadline = started + spec.options.duration
        if not spec.workers or not self._refs:
            while not stop.wanted and perf_counter() < deadline:
                gevent.sleep(min(0.1, max(0.0, deadline - perf_counter())))
            return
        ended = Event()
        tally.working = spec.workers
        workers = [gevent.spawn(self._work, number, deadline, ended) for number in range(spec.workers)]
        last = deadline + END_GRACE
        while not ended.wait(0.1):
            now = perf_counter()
            if stop.wanted:
                last = min(last, now + END_GRACE)
            if now > last:
                self._fail(f"{tally.working} workers did not end within {END_GRACE:g} s of the deadline")
                gevent.killall(workers, timeout=1.0)
                break

    def _work(self, number: int, deadline: float, ended: Event) -> None:
        tally = self.tally
        try:
            work(self.host, self._refs, tally, self.spec.rng(number), self.spec.options.sendpct, deadline, self._stop)
        except Exception as error:  # noqa: BLE001 - whatever it is ends the run and is reported
            self._fail(f"a worker failed: {type(error).__name__}: {error}")
        finally:
            tally.working -= 1
            if not tally.working:
                ended.set()

    def settle(self) -> list[int]:
        """Wait until the host has handled what it accepted; return counters that stand still when nothing comes in."""
        self._wait_until_quiet()
        metrics = self.host.metrics.snapshot()
        counters = [metrics[f"messages_{word}"] for word in COUNTERS]
        if counters != self._counters:
            self._counters = counters
            self._quiet_at = perf_counter()
        return counters

    def finish(self) -> PartResult:
        """Stop the host and return what was counted."""
        tally = self.tally
        metrics = self.host.metrics.snapshot()
        alive_peak = tally.alive_peak()
        self.host.stop()
        stopped = self.host.metrics.snapshot()
        lost = imbalance(stopped)
        if lost is not None:
            self._fail(lost)
        return {
            "host": self.spec.name,
            "duration": self._quiet_at - self._started,
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
            "warm": self._warmth,
            "metrics": metrics,
            "metrics_stopped": stopped,
        }

    def greenlets(self) -> int:
        """Return how many greenlets the host keeps to run actors, at work or parked."""
        return len(self.host._dispatcher.workers)

    def _fail(self, error: str) -> None:
        self._stop.ask(1, f"{self.spec.name}: {error}")

    def _wait_for_peers(self, count: int) -> None:
        deadline = perf_counter() + _JOIN_TIMEOUT
        while (up := self.host.metrics.snapshot()["peers_up"]) < count and not self._stop.wanted:
            if perf_counter() > deadline:
                self._fail(f"only {up} of {count} other hosts could be reached within {_JOIN_TIMEOUT:g} s")
            gevent.sleep(0.01)

    def _wait_until_quiet(self) -> None:
        """Wait until what was accepted has been handled, at most as long as a stop would."""
        deadline = perf_counter() + STOP_TIMEOUT
        while perf_counter() < deadline:
            metrics = self.host.metrics.snapshot()
            if not any(metrics[word] for word in _BUSY):
                return
            gevent.sleep(0.002)


def imbalance(metrics: dict[str, int]) -> str | None:
    """Tell which counters contradict each other: a test whose host lost a message has failed, whatever its speed."""
    sent, received, dead, queued, forwarded, _ = (metrics[f"messages_{word}"] for word in COUNTERS)
    if sent == received + dead + queued + forwarded:
        return None
    return (
        f"the counters do not balance: {sent} sent, {received} received, {dead} dead, {queued} queued, "
        f"{forwarded} forwarded"
    )
