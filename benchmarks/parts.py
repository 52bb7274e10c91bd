"""The parts of the suite: what each runs, and which figures it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from suite import Failed, Run

Body = Callable[[Run], None]


@dataclass(frozen=True)
class Part:
    """One entry of the suite.

    Attributes:
        body: Does it.
        about: What it is about, in a line.
        both: Whether it runs under both builds.
    """

    body: Body
    about: str
    both: bool = True


PARTS: dict[str, Part] = {}


def part(name: str, *, both: bool = True) -> Callable[[Body], Body]:
    """Make a function a part; its docstring says what it is about."""

    def add(body: Body) -> Body:
        PARTS[name] = Part(body, (body.__doc__ or "").strip().splitlines()[0], both)
        return body

    return add


LOADS: dict[str, list[str]] = {
    "small": ["-profile", "small", "-hosts", "1"],
    "medium": ["-profile", "medium", "-hosts", "1"],
    "large": ["-profile", "large", "-hosts", "1"],
    "massive": ["-profile", "massive", "-hosts", "1"],
    "massive, -warm": ["-profile", "massive", "-hosts", "1", "-warm"],
    "small, 2 hosts, local": ["-profile", "small", "-hosts", "2", "-mode", "local"],
    "small, 3 hosts": ["-profile", "small", "-hosts", "3"],
    "medium, 3 hosts": ["-profile", "medium", "-hosts", "3"],
    "large, 3 hosts": ["-profile", "large", "-hosts", "3"],
    "massive, 3 hosts": ["-profile", "massive", "-hosts", "3"],
    "small, 3 hosts, Postgres": ["-profile", "small", "-hosts", "3", "-dsn", "embedded"],
    "medium, 3 hosts, Postgres": ["-profile", "medium", "-hosts", "3", "-dsn", "embedded"],
    "large, 3 hosts, Postgres": ["-profile", "large", "-hosts", "3", "-dsn", "embedded"],
}
"""Rows of the load test by name, and their flags."""
SECONDS = {
    "massive": 20,
    "massive, -warm": 20,
    "massive, 3 hosts": 30,
    "large, 3 hosts, Postgres": 20,
}
"""How long those take that have to activate many actors first; the others 8."""


@part("loadtest")
def load_test(run: Run) -> None:
    """The load test's profiles on one host, on hosts without a database, and on Postgres."""
    for number, (name, flags) in enumerate(LOADS.items()):
        if run.quick and "massive" in name:
            flags = [*flags, "-actors", "20000"]
        duration = run.size(SECONDS.get(name, 8), 1)
        try:
            result = run.loadtest(*flags, "-duration", f"{duration}s")
        except Failed as error:  # the other rows are worth having
            run.row(name, "failed")
            run.figures.failures.append(f"{name}, {run.build}: {error}")
            continue
        run.row(name, describe(result))
        run.point("loadtest", name, number, result["ops_per_second"])


def describe(result: dict[str, Any]) -> str:
    """Return the figures of one load test in a line."""
    words = [f"{result['ops_per_second']:,.0f} ops/s", f"{result['peak_rss_bytes'] / 2**20:,.0f} MiB"]
    if result["latency_ms"]["p99"] is not None:
        words.append(f"p99 {result['latency_ms']['p99']:.2f} ms")
    words.append(f"{1e6 * result['cpu_seconds'] / max(1, result['operations']):.2f} us CPU per operation")
    if "activations_per_second" in result:
        words.append(f"{result['activations_per_second']:,.0f} activations/s")
    words.append(f"{result['different_actors_activated']:,} actors, {result['reply_errors']} reply errors")
    return ", ".join(words)


@part("raw", both=False)
def raw_limits(run: Run) -> None:
    """What any framework here pays: switch pair, gevent queue, msgspec, loopback TCP."""
    run.script_rows("raw.py", "--seconds", run.size(1, 0.1))


@part("request")
def request(run: Run) -> None:
    """A local request in raw greenlet switch pairs."""
    run.script_rows("round_trip.py", "--repetitions", run.size(11, 2), "--requests", run.size(50_000, 2_000))


@part("peers")
def others(run: Run) -> None:
    """Our host beside Pykka and xoscar, where they are installed, on the same mix."""
    run.script_rows("peers.py", "--seconds", run.size(5, 0.5), "--runs", run.size(3, 1))


@part("memory")
def memory(run: Run) -> None:
    """Resident memory of an idle actor."""
    run.script_rows("memory.py", "--actors", str(run.count(1_000_000, 50_000)))


@part("codec")
def codec(run: Run) -> None:
    """Nanoseconds for each message in codec and bodies."""
    run.script_rows("codec.py", *(["--quick"] if run.quick else []))


@part("hosts")
def by_hosts(run: Run) -> None:
    """Throughput against the number of hosts, each a process of its own."""
    for mode in ("mixed", "local"):
        for hosts in (1, 2, 3, 4):
            flags = ["-profile", "small", "-hosts", str(hosts), "-mode", mode, "-duration", f"{run.size(6, 1)}s"]
            result = run.loadtest(*flags)
            run.row(f"{hosts} hosts, {mode}", f"{result['ops_per_second']:,.0f} ops/s")
            run.point("hosts", mode, hosts, result["ops_per_second"])


@part("workers")
def by_workers(run: Run) -> None:
    """Throughput of three hosts against the number of workers that wait: how much goes into one batch."""
    for workers in (10, 30, 100, 300):
        flags = ["-profile", "small", "-workers", str(workers), "-duration", f"{run.size(5, 1)}s"]
        result = run.loadtest(*flags)
        run.row(f"{workers} workers on each of 3 hosts", describe(result))
        run.point("workers", "three hosts, small", workers, result["ops_per_second"])


@part("bare", both=False)
def bare(run: Run) -> None:
    """The same mix between three processes with gevent and msgspec alone, by number of workers."""
    for _, cells in run.script_rows("bare.py", "--seconds", run.size(4, 0.5)):
        run.point("workers", "gevent and msgspec alone", float(cells[0]), float(cells[1].replace(",", "")))


@part("actors")
def by_actors(run: Run) -> None:
    """Throughput against the number of actors, all of them alive."""
    for actors in (1_000, 10_000, 100_000, *(() if run.quick else (1_000_000,))):
        result = run.script_json("mix.py", "--actors", str(actors), "--seconds", run.size(4, 0.5))
        rate = result["ops_per_second"]
        run.row(f"{actors:,} actors", f"{rate:,.0f} ops/s, {1e6 / rate:.2f} us each")
        run.point("actors", "mix of sends and requests", actors, rate)


@part("latency")
def latency(run: Run) -> None:
    """Latency of requests that arrive by themselves, at 10 to 90 % of full load, local and remote."""
    for where in ("local", "remote"):
        flags = ["--seconds", run.size(3, 0.3), *(["--remote"] if where == "remote" else [])]
        result = run.script_json("open_loop.py", *flags)
        run.row(f"{where}, full load", f"{result['full']:,.0f} requests/s")
        for found in result["loads"]:
            times = {name: found[name] for name in ("p50", "p95", "p99", "max")}
            said = ", ".join(f"{name} {value:.3f}" for name, value in times.items())
            run.row(f"{where}, {found['load']} % load", f"{said} ms, {found['count']:,} requests")
            for name in ("p50", "p95", "p99"):
                run.point(f"latency-{where}", name, found["load"], found[name])


@part("transport")
def transport(run: Run) -> None:
    """The transport by itself: messages a second, round trips at half load, frames by size, idle peers."""
    flags = ["--messages", str(run.count(500_000, 20_000)), "--runs", run.size(3, 1), "--duration", run.size(5, 0.5)]
    for head, cells in run.script_rows("transport.py", *flags, "--peers", str(run.count(100, 10))):
        if head[0] == "size of a message":
            run.point("frames", "sender", float(cells[0].split()[0]), float(cells[1].replace(",", "")))


@part("overload")
def overload(run: Run) -> None:
    """Producers ten times as fast as consumers: memory, the latency of other actors, the books."""
    # Two seconds on a machine that does other things say nothing about latency.
    flags = ["--any-latency"] if run.quick else []
    run.script_rows("overload.py", "--seconds", run.size(20, 2), "--rest", run.size(5, 1), *flags)


@part("claims", both=False)
def claims(run: Run) -> None:
    """Claims and releases of actors in Postgres."""
    run.script_rows("claims.py", "-actors", str(run.count(20_000, 5_000)), "-rounds", run.size(3, 1))


@part("schedules")
def schedules(run: Run) -> None:
    """Schedules pending in memory, and due ones that three hosts drain from Postgres."""
    due = ["--due", str(run.count(50_000, 2_000))]
    run.script_rows("schedules.py", "--pending", str(run.count(1_000_000, 20_000)), *due)
    run.script_rows("schedules.py", "--database", *due)


@part("failover", both=False)
def failover(run: Run) -> None:
    """How long actors are away when a host is killed or stops, or the database is away."""
    run.script_rows("failover.py", "--leases", "3", "--actors", str(run.count(300, 60)))


@part("scrape", both=False)
def scrape(run: Run) -> None:
    """What a scrape of /metrics every second costs under full load."""
    run.script_rows("scrape.py", "--pairs", str(run.count(160, 4)))
