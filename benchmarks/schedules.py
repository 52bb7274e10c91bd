"""Schedules: a million single messages pending, and what making, cancelling and firing them costs then.

The cost of a tick is that of a message sent with a delay of 10 ms while so many others are pending, from the call to
its handling, less the delay; constant means that it does not grow with how many there are.

With `--database`: a private Postgres and three hosts in processes of their own. So many rows become due at one time;
measured is how many a second are claimed, sent, handled and confirmed, until the table is empty.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import gc
import json
import statistics
import subprocess
import sys
from contextlib import closing
from time import perf_counter, process_time
from typing import Any

import gevent
import psutil
import psycopg2
from gevent.event import Event

from report import Parser, machine, positive, table, versions
from theatre_gevent import Context, Host, Ref, migrate_schema
from theatre_gevent.embedded import EmbeddedPostgres

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


def drain(host: Host, sink: Sink, number: int) -> tuple[float, float]:
    """Return how many messages a second are delivered that are due at one time, and us of CPU for each."""
    sink.expect(number)
    target = perf_counter() + 1.0 + number * 5e-5
    for index in range(number):
        host.send_after(Ref("sink", str(index % 1000)), None, max(0.0, target - perf_counter()))
    gevent.sleep(max(0.0, target - perf_counter()))
    begin, before = perf_counter(), process_time()
    if not sink.done.wait(120):
        sys.exit("messages did not come")
    return number / (perf_counter() - begin), 1e6 * (process_time() - before) / number


# -- with a database -----------------------------------------------------------------------------------------------

_ROWS = """
    INSERT INTO schedules (id, actor_type, actor_id, body, due_us, at_us)
    SELECT %s || n, 'sink', (n %% %s)::text, '\\x01', due, due
    FROM generate_series(1, %s) n, (
        SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + %s AS due
    ) d
"""


def cpu(pid: int) -> float:
    """Return how many seconds of CPU a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def child(given: dict[str, Any]) -> None:
    """Be one of the hosts, until the standard input ends."""
    host = Host(
        host_id=given["name"],
        listen="127.0.0.1:0",
        dsn=given["dsn"],
        idle_timeout=3600.0,
        schedule_recovery_interval=1.0,
        log_level="ERROR",
    )
    host.register_actor("sink", lambda ctx: None)
    host.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    gevent.get_hub().threadpool.apply(sys.stdin.readline)
    sys.stdout.write(json.dumps(host.metrics.snapshot()["schedules_fired"]) + "\n")
    sys.stdout.flush()
    host.stop()


def database(number: int, actors: int) -> None:
    """Three hosts drain what becomes due at one time."""
    with EmbeddedPostgres() as postgres, closing(psycopg2.connect(postgres.dsn)) as connection:
        migrate_schema(postgres.dsn)
        connection.autocommit = True
        cursor = connection.cursor()
        children = []
        for name in "abc":
            command = [sys.executable, __file__, "--child", json.dumps({"name": name, "dsn": postgres.dsn})]
            pipe = subprocess.PIPE
            children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        for process in children:
            assert process.stdout is not None
            process.stdout.readline()
        gevent.sleep(2)
        for what, count in (("warm-up", 2 * actors), ("measured", number)):
            cursor.execute(_ROWS, (what, actors, count, 3_000_000 + 20 * count))
            cursor.execute("ANALYZE schedules")
            cursor.execute("SELECT min(due_us) - extract(epoch FROM clock_timestamp()) * 1000000 FROM schedules")
            (left,) = cursor.fetchone() or (0,)
            # A host finds what others have written when it looks next; rows of its own calls it knows at once.
            gevent.sleep(float(left) / 1e6)
            servers = psutil.Process(postgres.supervisor).children(recursive=True)
            begin, used = perf_counter(), [cpu(process.pid) for process in children]
            served = sum(cpu(server.pid) for server in servers)
            while True:
                cursor.execute("SELECT EXISTS (SELECT FROM schedules)")
                if not (cursor.fetchone() or (False,))[0]:
                    break
                gevent.sleep(0.02)
            spent = perf_counter() - begin
            used = [cpu(process.pid) - before for process, before in zip(children, used, strict=True)]
            served = sum(cpu(server.pid) for server in servers) - served
        reports = []
        for process in children:
            output, _ = process.communicate("\n", timeout=60)
            reports.append(json.loads(output.splitlines()[-1]))
        rows = [
            [f"host {name}", f"{fired:,}", f"{cpu_used:.1f}"]
            for name, fired, cpu_used in zip("abc", reports, used, strict=True)
        ]
        rows.append(["Postgres", "", f"{served:.1f}"])
        rows.append(["all, us for each", "", f"{1e6 * (sum(used) + served) / number:.0f}"])
        print(table(["process", "sent, with the warm-up", "s CPU"], rows))
        print(f"\n{number:,} due at one time, {actors:,} actors on 3 hosts: {number / spent:,.0f}/s until confirmed")


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--pending", type=positive, default=1_000_000, help="schedules pending (default: %(default)s)")
    parser.add_argument("--due", type=positive, default=100_000, help="due at one time (default: %(default)s)")
    parser.add_argument("--database", action="store_true", help="three hosts on a private Postgres")
    parser.add_argument("--actors", type=positive, default=3000, help="with --database (default: %(default)s)")
    parser.add_argument("--child", help="what a host of --database is started with")
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return
    print(machine())
    print(versions("theatre_gevent", "gevent", "cronsim"))
    if args.database:
        database(args.due, args.actors)
        return
    sink = Sink()
    host = Host(idle_timeout=86400).start()
    host.register_actor("sink", lambda: sink)
    rows = []
    made: list[str] = []
    for pending in (0, args.pending // 100, args.pending):
        before, begin = resident(), process_time()
        new = pending - len(made)
        made += [host.send_after(REF, None, 3600 + index % 3600) for index in range(new)]
        spent = process_time() - begin
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
    print(table(["pending", "us CPU to make", "bytes each", "ms late", "us CPU a tick"], rows))
    rate, each = drain(host, sink, args.due)
    begin = process_time()
    for schedule in made:
        host.cancel_schedule(schedule)
    spent = process_time() - begin
    print(f"\n{args.due:,} due at one time, delivered: {rate:,.0f}/s, {each:.1f} us CPU each")
    print(f"{len(made):,} cancelled: {1e6 * spent / len(made):.1f} us CPU each")
    host.stop()


if __name__ == "__main__":
    main()
