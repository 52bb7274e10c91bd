"""Latency of requests against load: they arrive by themselves, whether or not earlier ones are done.

The full load is measured first, with requests waiting all the time. Then they arrive at random (exponential gaps) at
10 to 90 % of it, and each one's latency counts from the moment at which it was due to arrive, so that a wait before it
could even be made is part of it. The last line of the output is the result as JSON; latencies in milliseconds.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import gc
import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import gevent
from gevent.queue import Queue

from report import Parser, positive, seconds
from theatre_gevent import Context, Host, Ref
from theatre_gevent.cli.run import free_ports
from theatre_gevent.logic.ring import HashRing
from theatre_gevent.pauses import let_sockets_run

LOADS = range(10, 100, 10)
WORKERS = 200
"""Requests that may be under way at once; those that arrive meanwhile wait, which counts."""


def answer(ctx: Context) -> None:
    ctx.reply(ctx.message)


@contextmanager
def local(actors: int) -> Iterator[tuple[Host, list[Ref]]]:
    """Give a host alone, and the refs of its actors."""
    with Host(idle_timeout=86400, host_inbox_size=65536) as host:
        host.register_actor("answer", answer)
        yield host, [Ref("answer", str(n)) for n in range(actors)]


@contextmanager
def remote(actors: int) -> Iterator[tuple[Host, list[Ref]]]:
    """Give a host, and refs of which all live on the host of another process."""
    here, there = (f"127.0.0.1:{port}" for port in free_ports(2))
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--serve", there, here],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    ring = HashRing(["here", "there"])
    refs = (Ref("answer", str(n)) for n in range(100 * actors))
    chosen = [ref for ref in refs if ring.owner(ref) == "there"][:actors]
    try:
        if child.stdout.readline().strip() != "ready":
            sys.exit("the other host did not start")
        with Host(host_id="here", listen=here, peers={"there": there}, idle_timeout=86400) as host:
            host.register_actor("answer", answer)
            yield host, chosen
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()


def serve(listen: str, peer: str) -> None:
    """Be the other process, until standard input ends."""
    with Host(host_id="there", listen=listen, peers={"here": peer}, idle_timeout=86400) as host:
        host.register_actor("answer", answer)
        print("ready", flush=True)
        gevent.get_hub().threadpool.apply(sys.stdin.read)


def measure(host: Host, refs: list[Ref], rate: float | None, duration: float) -> tuple[float, list[float]]:
    """Return requests a second, and the latency of each in seconds; `rate` None: as many as there can be."""
    arrivals: Queue[tuple[float, Ref] | None] = Queue(1024 if rate is None else None)
    latencies: list[float] = []
    pick, gap = random.Random(1), random.Random(2)

    def work() -> None:
        while (arrival := arrivals.get()) is not None:
            due, ref = arrival
            host.request(ref, 1, 30.0)
            latencies.append(perf_counter() - due)

    workers = [gevent.spawn(work) for _ in range(WORKERS)]
    gc.collect()
    gc.disable()
    began = perf_counter()
    end, due = began + duration, began
    while True:
        now = perf_counter()
        if rate is None:
            if now >= end:
                break
            arrivals.put((now, pick.choice(refs)))
            continue
        while due <= now and due < end:
            arrivals.put((due, pick.choice(refs)))
            due += gap.expovariate(rate)
        if due >= end:
            break
        # Neither asleep, as a timer of less than a millisecond would come too late, nor by `sleep(0)`: the loop looks
        # at no socket for up to 5 ms then.
        let_sockets_run()
    for _ in workers:
        arrivals.put(None)
    gevent.joinall(workers, raise_error=True)
    gc.enable()
    return len(latencies) / (perf_counter() - began), sorted(latencies)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--remote", action="store_true", help="the actors live on the host of another process")
    parser.add_argument("--actors", type=positive, default=1000, help="asked at random (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=3.0, help="for each load (default: %(default)s)")
    parser.add_argument("--serve", nargs=2, metavar="ADDRESS", help="be the other process, at the first of two")
    args = parser.parse_args()
    logging.disable()  # that one of the two ends before the other
    if args.serve:
        serve(*args.serve)
        return
    with (remote if args.remote else local)(args.actors) as (host, refs):
        measure(host, refs, None, args.seconds / 3)  # warms up
        full, _ = measure(host, refs, None, args.seconds)
        loads = []
        for load in LOADS:
            _, times = measure(host, refs, full * load / 100, args.seconds)
            if not times:
                sys.exit(f"no request arrived at {load} % of {full:,.0f} requests/s")
            found = {f"p{percent}": 1e3 * times[len(times) * percent // 100] for percent in (50, 95, 99)}
            loads.append({"load": load, **found, "max": 1e3 * times[-1], "count": len(times)})
    print(json.dumps({"full": full, "loads": loads}))


if __name__ == "__main__":
    main()
