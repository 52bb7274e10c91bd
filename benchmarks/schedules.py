"""Schedules: a million single messages pending, and what making, cancelling and firing them costs then.

The cost of a tick is that of a message sent with a delay of 10 ms while so many others are pending, from the call to
its handling, less the delay; constant means that it does not grow with how many there are.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import gc
import statistics
import sys
from time import perf_counter, process_time

import gevent
import psutil
from gevent.event import Event

from report import Parser, machine, positive, table, versions
from theatre_gevent import Context, Host, Ref

REF = Ref("sink", "1")


def resident() -> int:
    """Resident memory of this process in bytes, after a garbage collection."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


class Sink:
    """Counts messages and notes when the last one came."""

    def __init__(self) -> None:
        self.left = 0
        self.done = Event()

    def expect(self, number: int) -> None:
        self.left = number
        self.done.clear()

    def receive(self, ctx: Context) -> None:
        if ctx.schedule_id is not None:
            self.left -= 1
            if not self.left:
                self.done.set()


def probe(host: Host, sink: Sink, number: int) -> tuple[float, float]:
    """Return lateness in ms, and CPU in us for each of `number` short delays, one after the other."""
    late = []
    before = process_time()
    for _ in range(number):
        sink.expect(1)
        begin = perf_counter()
        host.send_after(REF, None, 0.01)
        if not sink.done.wait(5):
            sys.exit("a message did not come")
        late.append(1000 * (perf_counter() - begin - 0.01))
    return statistics.median(late), 1e6 * (process_time() - before) / number


def drain(host: Host, sink: Sink, number: int) -> float:
    """Return how many messages a second are delivered that are due at one time."""
    sink.expect(number)
    target = perf_counter() + 1.0 + number * 5e-5
    for index in range(number):
        host.send_after(Ref("sink", str(index % 1000)), None, max(0.0, target - perf_counter()))
    gevent.sleep(max(0.0, target - perf_counter()))
    begin = perf_counter()
    if not sink.done.wait(120):
        sys.exit("messages did not come")
    return number / (perf_counter() - begin)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--pending", type=positive, default=1_000_000, help="schedules pending (default: %(default)s)")
    parser.add_argument("--due", type=positive, default=100_000, help="due at one time (default: %(default)s)")
    args = parser.parse_args()
    print(machine())
    print(versions("theatre_gevent", "gevent", "cronsim"))
    sink = Sink()
    host = Host(idle_timeout=86400).start()
    host.register_actor("sink", lambda: sink)
    rows = []
    made: list[str] = []
    for pending in (0, args.pending // 100, args.pending):
        before, begin = resident(), perf_counter()
        new = pending - len(made)
        made += [host.send_after(REF, None, 3600 + index % 3600) for index in range(new)]
        spent = perf_counter() - begin
        gained = resident() - before
        gc.freeze()  # what is pending is not what a tick costs
        late, cost = probe(host, sink, 100)
        rows.append(
            [
                f"{pending:,}",
                f"{1e6 * spent / new:.1f}" if new else "",
                f"{gained / new:.0f}" if new else "",
                f"{late:.2f}",
                f"{cost:.0f}",
            ]
        )
    print(table(["pending", "us to make", "bytes each", "ms late", "us CPU a tick"], rows))
    rate = drain(host, sink, args.due)
    begin = perf_counter()
    for schedule in made:
        host.cancel_schedule(schedule)
    spent = perf_counter() - begin
    print(f"\n{args.due:,} due at one time, delivered: {rate:,.0f}/s")
    print(f"{len(made):,} cancelled: {1e6 * spent / len(made):.1f} us each")
    host.stop()


if __name__ == "__main__":
    main()
