"""The same mix on xoscar: actors on an asyncio loop, called through local references. A child of `peers.py`.

All is in one process, whose pool has no further ones, and on uvloop, where xoscar has brought it along. Every actor is
made before the clock starts, and the clock stops when everything has been handled. The last line of the output is the
result as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from argparse import Namespace
from time import perf_counter
from typing import Any

import xoscar

import mix_common
from mix_common import BATCH, mix_parser, tell

try:
    from uvloop import run
except ImportError:
    from asyncio import run


class Echo(mix_common.Echo, xoscar.Actor):  # type: ignore[misc, unused-ignore]
    """On the asyncio loop."""


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
    tell(operations, elapsed)


def main() -> None:
    run(measure(mix_parser(__doc__.splitlines()[0], "tasks", "tells").parse_args()))


if __name__ == "__main__":
    main()
