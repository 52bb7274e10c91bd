"""The same mix on Pykka: an actor is a native thread with an unbounded inbox. A child of `peers.py`.

Every actor is started before the clock starts, and the clock stops when everything has been handled. The last line of
the output is the result as JSON.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
from time import perf_counter

import pykka

import mix_common
from mix_common import BATCH, mix_parser, tell


class Echo(mix_common.Echo, pykka.ThreadingActor):
    """On a thread of its own."""

    use_daemon_thread = True

    on_receive = mix_common.Echo.receive


def work(refs: list[pykka.ActorRef[Echo]], share: float, until: float, seed: int, results: list[int]) -> None:
    """Operate on random actors until the time is up; append how many operations were made."""
    rng = random.Random(seed)
    pick, number = rng.random, len(refs)
    operations = 0
    while perf_counter() < until:
        for _ in range(BATCH):
            ref = refs[int(pick() * number)]
            if pick() < share:
                ref.tell("tick")
            elif ref.ask("ping", timeout=3.0) != "pong":
                raise AssertionError(f"{ref} gave a wrong answer")
        operations += BATCH
    results.append(operations)


def main() -> None:
    args = mix_parser(__doc__.splitlines()[0], "threads", "tells").parse_args()

    refs = [Echo.start() for _ in range(args.actors)]
    for ref in refs:
        ref.ask("ping")
    gc.collect()
    gc.freeze()
    results: list[int] = []
    begin = perf_counter()
    workers = [
        threading.Thread(
            target=work, args=(refs, args.sendpct / 100, begin + args.seconds, args.seed * 1000 + number, results)
        )
        for number in range(args.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # An inbox is served in order: the answer to this question comes after everything before it has been handled.
    answers = [ref.ask("count", block=False) for ref in refs]
    handled = sum(answer.get(timeout=120) for answer in answers) - 2 * args.actors
    elapsed = perf_counter() - begin
    operations = sum(results)
    if len(results) != args.workers or handled != operations:
        sys.exit(f"{len(results)} of {args.workers} workers made {operations} operations, {handled} were handled")
    pykka.ActorRegistry.stop_all()
    tell(operations, elapsed)


if __name__ == "__main__":
    main()
