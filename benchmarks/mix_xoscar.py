"""The same mix on xoscar: actors on an asyncio loop, called through local references. A child of `peers.py`.

All is in one process, whose pool has no further ones, and on uvloop, where xoscar has brought it along. Every actor is
made before the clock starts, and the clock stops when everything has been handled. The last line of the output is the
result as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
from argparse import Namespace
from time import perf_counter
from typing import Any

import xoscar

from report import Parser, percent, positive, seconds

try:
    from uvloop import run
except ImportError:
    from asyncio import run

BATCH = 64


class Echo(xoscar.Actor):  # type: ignore[misc, unused-ignore]
    """Counts what it gets, and answers a ping."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def receive(self, message: str) -> Any:
        self.count += 1
        if message == "ping":
            return "pong"
        return self.count if message == "count" else None


async def work(refs: list[Any], share: float, until: float, seed: int) -> int:
    """Operate on random actors until the time is up; return how many operations were made."""
    rng = random.Random(seed)
    pick, number = rng.random, len(refs)
    operations = 0
    while perf_counter() < until:
        for _ in range(BATCH):
            ref = refs[int(pick() * number)]
            if pick() < share:
                await ref.receive.tell("tick")
            elif await ref.receive.send("ping") != "pong":
                raise AssertionError(f"{ref} gave a wrong answer")
        operations += BATCH
    return operations


async def measure(args: Namespace) -> None:
    pool = await xoscar.create_actor_pool("127.0.0.1", n_process=0)
    address = pool.external_address
    refs = []
    for number in range(args.actors):
        made = await xoscar.create_actor(Echo, address=address, uid=str(number))
        # Asked for in the actor's own process, it is a local one, whose calls are not messages to a server.
        refs.append(await xoscar.actor_ref(made))
    for ref in refs:
        await ref.receive.send("ping")
    if {type(ref).__name__ for ref in refs} != {"LocalActorRef"}:
        sys.exit("xoscar gave references that are not local")
    gc.collect()
    gc.freeze()
    begin = perf_counter()
    done = await asyncio.gather(
        *(
            work(refs, args.sendpct / 100, begin + args.seconds, args.seed * 1000 + number)
            for number in range(args.workers)
        )
    )
    # An actor is locked in the order of the calls: the answer to this one comes after all before it were handled.
    counts = await asyncio.gather(*(ref.receive.send("count") for ref in refs))
    elapsed = perf_counter() - begin
    operations, handled = sum(done), sum(counts) - 2 * args.actors
    if handled != operations:
        sys.exit(f"{operations} operations were made, {handled} were handled")
    await pool.stop()
    print(json.dumps({"operations": operations, "elapsed": elapsed, "ops_per_second": operations / elapsed}))


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--actors", type=positive, default=1000, help="number of actors (default: %(default)s)")
    parser.add_argument("--workers", type=positive, default=10, help="tasks at work (default: %(default)s)")
    parser.add_argument("--sendpct", type=percent, default=70, help="share of tells in percent (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=5.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (default: %(default)s)")
    run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
