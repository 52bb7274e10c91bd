"""The load test's mix on a host of ours: random actors, some sends, some requests. A child of other benchmarks.

Every actor is activated before the clock starts, and the clock stops when everything has been handled: what is counted
was done, not only accepted. With `--huge-pages` the process asks for them first, as the load test does. The last line
of the output is the result as JSON.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import gc
import random
import sys
from time import perf_counter

import gevent

from mix_common import BATCH, mix_parser, tell
from theatre_gevent import Context, Host, Ref
from theatre_gevent.memory import use_huge_pages


class Echo:
    """Counts what it gets, and answers a ping."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def receive(self, ctx: Context) -> None:
        self.count += 1
        if ctx.message == "ping":
            ctx.reply("pong")


def work(host: Host, refs: list[Ref], share: float, until: float, seed: int) -> int:
    """Operate on random actors until the time is up; return how many operations were made."""
    rng = random.Random(seed)
    pick, number = rng.random, len(refs)
    send, request = host.send, host.request
    operations = 0
    while perf_counter() < until:
        for _ in range(BATCH):
            ref = refs[int(pick() * number)]
            if pick() < share:
                send(ref, "tick")
            elif request(ref, "ping", 3.0) != "pong":
                raise AssertionError(f"{ref} gave a wrong answer")
        operations += BATCH
    return operations


def activate(host: Host, refs: list[Ref]) -> None:
    """Bring all actors to life and wait until they are idle."""
    for ref in refs:
        host.send(ref, "tick")
    wait_until_handled(host)


def wait_until_handled(host: Host) -> None:
    with gevent.Timeout(120):
        while True:
            counts = host.metrics.snapshot()
            if counts["messages_received"] == counts["messages_sent"]:
                return
            gevent.sleep(0.001)


def main() -> None:
    parser = mix_parser(__doc__.splitlines()[0], "greenlets", "sends")
    parser.add_argument("--huge-pages", action="store_true", help="have objects in pages of 2 MiB (compiled, Linux)")
    args = parser.parse_args()
    if args.huge_pages and not use_huge_pages():
        parser.error("argument --huge-pages: they are not to be had here, see theatre_gevent.memory.use_huge_pages")

    host = Host(idle_timeout=86400).start()
    host.register_actor("echo", Echo)
    refs = [Ref("echo", str(number)) for number in range(args.actors)]
    activate(host, refs)
    gc.collect()
    gc.freeze()
    begin = perf_counter()
    workers = [
        gevent.spawn(work, host, refs, args.sendpct / 100, begin + args.seconds, args.seed * 1000 + number)
        for number in range(args.workers)
    ]
    gevent.joinall(workers, raise_error=True)
    wait_until_handled(host)
    elapsed = perf_counter() - begin
    operations = sum(worker.value or 0 for worker in workers)
    counts = host.metrics.snapshot()
    if counts["messages_received"] != operations + args.actors or counts["actors_active"] != args.actors:
        sys.exit(f"{operations} operations on {args.actors} actors, but the host counts {counts}")
    tell(operations, elapsed)
    # The host is not stopped: a million Shutdowns are not what is measured here.


if __name__ == "__main__":
    main()
