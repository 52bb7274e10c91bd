"""Producers ten times as fast as a consumer: memory, the latency of other actors, and the books.

Some actors take a fixed time for each message, and producers offer them ten times what they can do. Another actor is
asked all the time, first with the producers at rest and then with them at work. Memory must stay within a bound, the
other actor's median and 99th percentile within three times what they were at rest (or below a floor that the noise of
a machine costs), and every message offered must be handled, refused to its sender, or a dead letter. The exit code is
1 if one of these fails.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import sys
import time

import gevent
import psutil

from report import Parser, machine, positive, seconds, table, versions
from theatre_gevent import Context, Host, InboxFull, Ref

CONSUMERS = 10
SERVICE = 0.005
"""Seconds for a message: 200 a second and consumer."""
FACTOR = 10
BODY = 10_000
MEMORY = 50.0
"""Megabytes that overload may add."""
FLOOR = 0.2
"""Milliseconds: below, a difference is the machine's noise and not the load's. A request at rest takes 0.03 to 0.1."""


class Run:
    """A host, its consumers, and what became of what was offered."""

    def __init__(self) -> None:
        self.handled = self.accepted = self.refused = self.dead = 0
        self.host = Host(request_timeout=0.3, dead_letter_handler=self.letter)
        self.host.register_actor("slow", self.consume)
        self.host.register_actor("echo", self.echo)

    def letter(self, _: object) -> None:
        self.dead += 1

    def consume(self, ctx: Context) -> None:
        if isinstance(ctx.message, bytes):
            gevent.sleep(SERVICE)
            self.handled += 1

    def echo(self, ctx: Context) -> None:
        if isinstance(ctx.message, int):
            ctx.reply(ctx.message)

    def produce(self, number: int, lanes: int, until: float) -> None:
        """Body of a greenlet: offers at a fixed pace, catching up after having waited."""
        ref = Ref("slow", str(number % CONSUMERS))
        pause = SERVICE / FACTOR * lanes
        due = time.monotonic()
        while time.monotonic() < until:
            try:
                self.host.send(ref, bytes(BODY))
                self.accepted += 1
            except InboxFull:
                self.refused += 1
            due = max(due + pause, time.monotonic() - 1.0)
            gevent.sleep(max(0.0, due - time.monotonic()))

    def latencies(self, until: float) -> list[float]:
        """Ask the other actor until then; returns milliseconds, sorted."""
        found = []
        while (began := time.perf_counter()) and time.monotonic() < until:
            self.host.request(Ref("echo", "1"), 1)
            found.append(1000 * (time.perf_counter() - began))
            gevent.sleep(0.002)
        return sorted(found)


def watch(process: psutil.Process, held: list[int]) -> None:
    """Body of a greenlet: append how much resident memory there is, ten times a second."""
    while True:
        held.append(process.memory_info().rss)
        gevent.sleep(0.1)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=seconds, default=20.0, help="of overload; 20")
    parser.add_argument("--rest", type=seconds, default=5.0, help="seconds at rest before; 5")
    parser.add_argument("--lanes", type=positive, default=40, help="producers for each consumer; 40")
    parser.add_argument("--any-latency", action="store_true", help="show latencies without judging them")
    options = parser.parse_args()
    print(f"{machine()}\n{versions('theatre_gevent', 'gevent')}\n")
    run, process = Run(), psutil.Process()
    with run.host:
        calm = run.latencies(time.monotonic() + options.rest)
        held = [process.memory_info().rss]
        watcher = gevent.spawn(watch, process, held)
        end = time.monotonic() + options.seconds
        lanes = [gevent.spawn(run.produce, n, options.lanes, end) for n in range(CONSUMERS * options.lanes)]
        busy = run.latencies(end)
        gevent.joinall(lanes, raise_error=True)
        watcher.kill()
    grown = (max(held) - held[0]) / 2**20
    missed = [] if grown <= MEMORY else ["memory"]
    rows = [["memory, MB more at most", "", f"{grown:.1f}", f"{MEMORY:g}"]]
    for name, share in (("median", 0.5), ("99th percentile", 0.99)):
        rest, load = (values[int(share * len(values))] for values in (calm, busy))
        allowed = max(3 * rest, FLOOR)
        if load > allowed and not options.any_latency:
            missed.append(f"latency, {name}")
        rows.append([f"latency of others, {name}, ms", f"{rest:.2f}", f"{load:.2f}", f"{allowed:.2f}"])
    lost = run.accepted - run.handled - run.dead
    if lost:
        missed.append("the books")
    books = {
        "offered": run.accepted + run.refused,
        "handled": run.handled,
        "refused with InboxFull": run.refused,
        "dead letters": run.dead,
    }
    rows += [[f"messages: {name}", "", str(count), ""] for name, count in books.items()]
    rows.append(["messages lost without a word", "", str(lost), "0"])
    print(table(["what", "at rest", "overloaded", "allowed"], rows))
    if missed:
        sys.exit(f"not as allowed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
