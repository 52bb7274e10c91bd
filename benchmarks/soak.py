"""Steady load on three hosts for half an hour, with actors coming and going: does anything grow for ever?

Each host is a process of its own and sends a fixed number of messages a second to actors out of a window that moves
on: the ones it has left behind end after their idle time, new ones come. Every few seconds each host tells what it
holds; everything goes into a CSV file and a plot. With `--postgres` the hosts form a cluster in a private Postgres,
which is measured too; without, the ring alone says who owns what.

What a host holds has levelled off if the straight line that fits the second half of the samples best rises over that
half by no more than 5 % of its mean, or by no more than an amount that is noise for what is measured (`ALLOWED`).
Placements are forgotten all at once, every `placement_ttl`, so their number is a saw: there the largest value of the
second half must not exceed that of the first by more than that. The exit code is 1 if something has not levelled off,
or if a host's books do not balance in the end.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import csv
import gc
import itertools
import json
import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import gevent
import psutil
import psycopg2
from gevent.fileobject import FileObject
from greenlet import greenlet

from report import Parser, machine, positive, seconds, table, versions
from theatre_gevent import Context, Host, Initialize, Ref, Shutdown, TheatreError, migrate_schema
from theatre_gevent.embedded import EmbeddedPostgres

HOSTS = ("a", "b", "c")
IDLE = 10.0
"""Seconds after which an actor ends to which nothing comes."""
ANSWER = 60.0

SHARE = 0.05
ALLOWED = {
    "rss_mb": 2.0,
    "greenlets": 10.0,
    "sockets": 3.0,
    "actors": 30.0,
    "placements": 30.0,
    "open": 10.0,
    "connections": 3.0,
    "owned": 60.0,
    "life_rows": 3.0,
}
"""What is measured, and the rise over the second half that is noise whatever the mean is."""
TITLES = {
    "rss_mb": "resident memory, MB",
    "greenlets": "greenlets",
    "sockets": "sockets",
    "actors": "active actors",
    "placements": "placements remembered",
    "open": "messages queued and requests open",
    "connections": "database connections",
    "owned": "rows of ownership",
    "life_rows": "rows of hosts",
}
OF_HOSTS = ("rss_mb", "greenlets", "sockets", "actors", "placements", "open")


# -- the process of a host -----------------------------------------------------------------------------------------


class Process:
    """One host and its load; answers each line of its input with a line."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.rate: float = given["rate"]
        self.window: int = given["window"]
        self.pace: float = given["pace"]
        options = {"dsn": given["dsn"], "lease_duration": 6.0} if given["dsn"] else {}
        self.host = Host(
            host_id=given["name"],
            listen="127.0.0.1:0",
            idle_timeout=IDLE,
            placement_ttl=IDLE,
            log_level="ERROR",
            **options,
        )
        self.host.register_actor("soak", Worker)
        self.process = psutil.Process()
        self.offered = 0
        self.errors: dict[str, int] = {}
        self.lanes: list[gevent.Greenlet[..., None]] = []
        self.halted = False

    def do(self, order: dict[str, Any]) -> Any:
        match order["do"]:
            case "join":
                if order["peers"]:
                    self.host.set_peers(order["peers"])
            case "peers":
                return self.host.metrics.snapshot()["peers_up"]
            case "work":
                self.lanes = [gevent.spawn(self.work, order["start"], number) for number in range(4)]
            case "halt":
                self.halted = True
                gevent.joinall(self.lanes, raise_error=True)
            case "sample":
                return self.sample()
            case "books":
                return {**self.host.metrics.snapshot(), "offered": self.offered, "errors": self.errors}
            case "stop":
                self.host.stop()
        return None

    def work(self, start: float, lane: int) -> None:
        """Body of a greenlet: two messages and a request in turns, at a fixed pace."""
        pick = random.Random(f"{self.host.host_id}{lane}")
        began = time.monotonic()
        for number in itertools.count():
            if self.halted:
                return
            first = int((time.time() - start) * self.pace)  # the same on all hosts, or nearly
            ref = Ref("soak", str(first + pick.randrange(self.window)))
            try:
                if number % 3:
                    self.host.send(ref, ("note", number))
                else:
                    self.host.request(ref, ("ask", number))
            except TheatreError as error:
                name = type(error).__name__
                self.errors[name] = self.errors.get(name, 0) + 1
            self.offered += 1
            due = began + number * 4 / self.rate
            gevent.sleep(max(0.0, due - time.monotonic()))

    def sample(self) -> dict[str, float]:
        counters = self.host.metrics.snapshot()
        sockets = sum(
            str(entry.readlink()).startswith("socket:")
            for entry in Path("/proc/self/fd").iterdir()
            if entry.is_symlink()
        )
        return {
            "rss_mb": round(self.process.memory_info().rss / 2**20, 2),
            "greenlets": sum(isinstance(thing, greenlet) and not thing.dead for thing in gc.get_objects()),
            "sockets": sockets,
            "actors": counters["actors_active"],
            "placements": counters["placements_cached"],
            "open": counters["messages_queued"] + counters["requests_pending"] + counters["messages_held"],
        }


class Worker:
    """An actor with a little state."""

    def __init__(self) -> None:
        self.notes: list[int] = []

    def receive(self, ctx: Context) -> None:
        if isinstance(ctx.message, (Initialize, Shutdown)):
            return
        word, number = ctx.message
        self.notes = [*self.notes[-9:], number]
        if word == "ask":
            ctx.reply(len(self.notes))


def serve() -> None:
    stdin = FileObject(sys.stdin.fileno(), "rb", close=False)
    process = Process(json.loads(stdin.readline()))
    process.host.start()
    write(process.host.address)
    while line := stdin.readline():
        write(process.do(json.loads(line)))
    os._exit(0)


def write(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


# -- the benchmark ---------------------------------------------------------------------------------------------------


class Child:
    """A host's process, as the benchmark sees it."""

    def __init__(self, **given: Any) -> None:
        self.name = given["name"]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tell(given)
        self.address = self.answer()

    def get(self, do: str, **arguments: Any) -> Any:
        self.tell({"do": do, **arguments})
        return self.answer()

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        with gevent.Timeout(ANSWER, SystemExit(f"soak.py: host {self.name} does not answer")):
            line = self.process.stdout.readline()
        if not line:
            sys.exit(f"soak.py: host {self.name} has ended")
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Database:
    """What the hosts have in it, as seen over a connection of the benchmark's own."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True

    def sample(self) -> dict[str, float]:
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'theatre_gevent %'), "
                "(SELECT count(*) FROM actor_ownership), (SELECT count(*) FROM hosts)"
            )
            return dict(zip(("connections", "owned", "life_rows"), cursor.fetchone() or (), strict=True))

    def close(self) -> None:
        self._connection.close()


def run(options: Any, stack: ExitStack) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Return the samples and what the hosts' books say in the end."""
    dsn, database = "", None
    if options.postgres:
        dsn = stack.enter_context(EmbeddedPostgres()).dsn
        migrate_schema(dsn)
        database = stack.enter_context(closing(Database(dsn)))
    given = {"dsn": dsn, "rate": options.rate, "window": options.window, "pace": options.window / options.stay}
    children = [stack.enter_context(closing(Child(name=name, **given))) for name in HOSTS]
    peers = {} if options.postgres else {child.name: child.address for child in children}
    for child in children:
        child.get("join", peers={name: address for name, address in peers.items() if name != child.name})
    deadline = time.monotonic() + ANSWER
    while any(child.get("peers") < len(HOSTS) - 1 for child in children):
        if time.monotonic() > deadline:
            sys.exit("soak.py: the hosts do not find each other")
        gevent.sleep(0.1)
    began, wall = time.monotonic(), time.time()
    for child in children:
        child.get("work", start=wall)
    samples: list[dict[str, float]] = []
    while (now := time.monotonic() - began) < 60 * options.minutes:
        sample: dict[str, float] = {"seconds": round(now, 1)}
        for child in children:
            sample.update({f"{name}_{child.name}": value for name, value in child.get("sample").items()})
        if database is not None:
            sample.update(database.sample())
        samples.append(sample)
        gevent.sleep(options.every)
    for child in children:
        child.get("halt")
    return samples, [settled(child) for child in children]


def settled(child: Child) -> dict[str, Any]:
    """Return the books of a host when nothing is on its way any more, or when that takes too long."""
    deadline = time.monotonic() + ANSWER
    while True:
        books: dict[str, Any] = child.get("books")
        if (
            not books["messages_queued"] + books["messages_held"] + books["requests_pending"]
            or time.monotonic() > deadline
        ):
            return books
        gevent.sleep(0.1)


def rise(samples: list[dict[str, float]], column: str) -> tuple[float, float]:
    """Return the mean of the second half, and by how much the line that fits it best rises over it."""
    half = samples[len(samples) // 2 :]
    times, values = [sample["seconds"] for sample in half], [sample[column] for sample in half]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - middle) ** 2 for t in times)
    slope = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True)) / spread if spread else 0.0
    return mean, slope * (times[-1] - times[0])


def judge(samples: list[dict[str, float]]) -> tuple[list[list[str]], bool]:
    """Return a table's rows, and whether everything has levelled off."""
    rows, all_fine = [], True
    for column in samples[0]:
        if column == "seconds":
            continue
        kind = next(name for name in ALLOWED if column == name or column.rpartition("_")[0] == name)
        mean, growth = rise(samples, column)
        if kind == "placements":
            middle = len(samples) // 2
            first, second = (max(sample[column] for sample in half) for half in (samples[:middle], samples[middle:]))
            growth = second - first
        allowed = max(ALLOWED[kind], SHARE * mean)
        fine = growth <= allowed
        all_fine &= fine
        host = column.removeprefix(kind).strip("_") or "all"
        verdict = "yes" if fine else "NO"
        peak = max(sample[column] for sample in samples)
        rows.append([TITLES[kind], host, f"{mean:.1f}", f"{peak:g}", f"{growth:+.2f}", f"{allowed:.1f}", verdict])
    return rows, all_fine


def plot(samples: list[dict[str, float]], path: Path, title: str) -> None:
    """Draw all columns over time."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "soak"
    from matplotlib import pyplot as plt

    kinds = [kind for kind in ALLOWED if any(column == kind or column.startswith(f"{kind}_") for column in samples[0])]
    figure, axes = plt.subplots((len(kinds) + 2) // 3, 3, figsize=(13, 2.6 * ((len(kinds) + 2) // 3)), squeeze=False)
    minutes = [sample["seconds"] / 60 for sample in samples]
    for axis, kind in itertools.zip_longest(axes.flat, kinds):
        if kind is None:
            axis.set_visible(False)
            continue
        for column in samples[0]:
            if column == kind or column.rpartition("_")[0] == kind:
                label = column.removeprefix(kind).strip("_") or "all"
                axis.plot(minutes, [sample[column] for sample in samples], linewidth=0.8, label=label)
        axis.set_title(TITLES[kind], fontsize=9)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.grid(visible=True, linewidth=0.3)
    axes[0][0].legend(fontsize=7, title="host", title_fontsize=7)
    figure.suptitle(f"{title}; horizontal: minutes", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def write_csv(samples: list[dict[str, float]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, samples[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(samples)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=seconds, default=30.0, help="how long; 30")
    parser.add_argument(
        "--every", type=seconds, default=3.7, help="seconds between samples, not in step with anything; 3.7"
    )
    parser.add_argument("--rate", type=seconds, default=200.0, help="messages and requests a second of each host; 200")
    parser.add_argument("--window", type=positive, default=1000, help="actors that are sent to at a time; 1000")
    parser.add_argument("--stay", type=seconds, default=60.0, help="seconds for which an actor is among these; 60")
    parser.add_argument("--postgres", action="store_true", help="a cluster in a private Postgres")
    parser.add_argument("--judge", type=Path, help="only judge and draw such a CSV file of an earlier run")
    parser.add_argument("--output", type=Path, default=Path("soak"), help="where to write, less .csv and .svg; soak")
    options = parser.parse_args()
    mode = "cluster in Postgres" if options.postgres else "ring alone"
    print(f"{machine()}\n{versions('theatre_gevent', 'gevent', 'psycopg2-binary')}")
    what = f"{len(HOSTS)} hosts, {mode}, {options.rate:g} operations a second each, {options.minutes:g} minutes"
    print(what, flush=True)
    books: list[dict[str, Any]] = []
    if options.judge is not None:
        with options.judge.open() as file:
            samples = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    else:
        with ExitStack() as stack:
            samples, books = run(options, stack)
        write_csv(samples, options.output.with_suffix(".csv"))
    plot(samples, options.output.with_suffix(".svg"), what)
    rows, fine = judge(samples)
    head = ["what", "host", "mean of 2nd half", "peak", "its rise", "allowed", "levels off"]
    print("\n" + table(head, rows) + "\n")
    for name, book in zip(HOSTS, books, strict=False):
        gone = book["messages_received"] + book["messages_dead_lettered"] + book["messages_forwarded"]
        missing = book["messages_sent"] - gone - book["messages_queued"]
        fine &= missing == 0
        print(
            f"host {name}: {book['offered']} operations, {book['activations_total']} activations, "
            f"{book['messages_sent']} messages accepted, {missing} unaccounted for, errors: {book['errors'] or 'none'}"
        )
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        main()
