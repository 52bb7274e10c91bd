"""The same mix on Pykka: an actor is a native thread with an unbounded inbox. A child of `peers.py`.

Every actor is started before the clock starts, and the clock stops when everything has been handled. The last line of
the output is the result as JSON.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import threading
from time import perf_counter
from typing import Any

import pykka

from report import Parser, percent, positive, seconds

BATCH = 64


class Echo(pykka.ThreadingActor):
    """Counts what it gets, and answers a ping."""

    use_daemon_thread = True

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_receive(self, message: Any) -> Any:
        self.count += 1
        if message == "ping":
            return "pong"
        return self.count if message == "count" else None


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
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--actors", type=positive, default=1000, help="number of actors (default: %(default)s)")
    parser.add_argument("--workers", type=positive, default=10, help="threads at work (default: %(default)s)")
    parser.add_argument("--sendpct", type=percent, default=70, help="share of tells in percent (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=5.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (default: %(default)s)")
    args = parser.parse_args()

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
    print(json.dumps({"operations": operations, "elapsed": elapsed, "ops_per_second": operations / elapsed}))


if __name__ == "__main__":
    main()
