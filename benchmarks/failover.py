"""How fast a cluster with Postgres gets over a fault: a host killed, a host stopped in order, the database away.

Each host is a process of its own; the database is private to the benchmark. For each length of lease:

- kill: `kill -9` of one of three hosts. Until its actors answer from the others, and until a request that one of them
  was handling has failed.
- stop: until they do for a host that stops in order, with no handler at work.
- freeze: the database is stopped (SIGSTOP), so that no host can renew. Until the last one is frozen, and, when the
  database goes on after twice the lease, until the first and the last host are active again.
- idle: statements a second that each of three hosts needs when nothing happens.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
from gevent.fileobject import FileObject

from report import Parser, machine, positive, seconds, table, versions
from theatre_gevent import Context, Host, Ref, TheatreError, migrate_schema
from theatre_gevent.embedded import EmbeddedPostgres

HOSTS = ("a", "b", "c")
TIMEOUT = 60.0
IDLE_SECONDS = 10.0
PACE = 0.01
"""Seconds between two attempts to reach an actor."""


# -- the process of a host -----------------------------------------------------------------------------------------


class Process:
    """One host; told what to do in lines of JSON, answers in such lines."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.name = given["name"]
        self.host = Host(
            host_id=self.name,
            listen="127.0.0.1:0",
            dsn=given["dsn"],
            lease_duration=given["lease"],
            poll_interval=given["poll"],
            safety_margin=given["margin"],
            request_timeout=2.0,
            idle_timeout=3600.0,
            log_level="CRITICAL",
            on_state=self.changed,
        )
        self.states: list[tuple[str, float]] = []
        self.host.register_actor("bench", self.receive)

    def changed(self, state: str) -> None:
        self.states.append((state, time.monotonic()))

    def receive(self, ctx: Context) -> None:
        if ctx.message == "work":
            gevent.sleep(TIMEOUT)
        elif isinstance(ctx.message, str):
            ctx.reply(self.name)

    def do(self, order: dict[str, Any]) -> Any:
        refs = [Ref("bench", name) for name in order.get("actors", ())]
        match order["do"]:
            case "peers":
                return self.host.metrics.snapshot()["peers_up"]
            case "where":
                return [self.host.request(ref, "where", timeout=TIMEOUT) for ref in refs]
            case "until elsewhere":
                tasks = [gevent.spawn(self.answered, ref, order["than"]) for ref in refs]
                gevent.joinall(tasks, raise_error=True)
                return [task.value for task in tasks]
            case "in flight":
                try:
                    self.host.request(refs[0], "work", timeout=TIMEOUT)
                except TheatreError as error:
                    return [type(error).__name__, time.monotonic()]
                return ["answered", time.monotonic()]
            case "states":
                return self.states
            case "stop":
                self.host.stop()
        return None

    def answered(self, ref: Ref, than: str) -> float:
        """Return when the actor first answered from another host."""
        while True:
            try:
                if self.host.request(ref, "where") != than:
                    return time.monotonic()
            except TheatreError:
                pass
            gevent.sleep(PACE)


def serve() -> None:
    stdin = FileObject(sys.stdin.fileno(), "rb", close=False)
    process = Process(json.loads(stdin.readline()))

    def answer(number: int, order: dict[str, Any]) -> None:
        write({"number": number, "value": process.do(order)})

    process.host.start()
    write({"number": 0, "value": process.host.address})
    number = 0
    while line := stdin.readline():
        number += 1
        gevent.spawn(answer, number, json.loads(line))
    os._exit(0)


def write(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
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
        self._answers: dict[int, Any] = {}
        self._asked = 0
        self._tell(given)
        self._reader = gevent.spawn(self._read)

    def ready(self) -> None:
        self.answer_to(0)

    def ask(self, do: str, **arguments: Any) -> int:
        """Give an order and return its number."""
        self._tell({"do": do, **arguments})
        self._asked += 1
        return self._asked

    def answer_to(self, number: int) -> Any:
        deadline = time.monotonic() + TIMEOUT
        while number not in self._answers:
            if time.monotonic() > deadline or (self._reader.ready() and number not in self._answers):
                sys.exit(f"failover.py: host {self.name} does not answer")
            gevent.sleep(0.001)
        return self._answers.pop(number)

    def get(self, do: str, **arguments: Any) -> Any:
        return self.answer_to(self.ask(do, **arguments))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            self._answers[message["number"]] = message["value"]


@contextmanager
def cluster(dsn: str, lease: float, actors: int) -> Iterator[tuple[list[Child], list[str], list[str]]]:
    """Give three hosts, all connected, the ids of actors that are alive, and where each of these is."""
    poll, margin = min(3.0, lease / 4), min(3.0, lease / 4)
    children = [Child(name=name, dsn=dsn, lease=lease, poll=poll, margin=margin) for name in HOSTS]
    try:
        for child in children:
            child.ready()
        while any(child.get("peers") < len(HOSTS) - 1 for child in children):
            gevent.sleep(0.05)
        names = [f"{time.monotonic_ns()}-{number}" for number in range(actors)]
        yield children, names, children[0].get("where", actors=names)
    finally:
        for child in children:
            child.close()


def fail_over(dsn: str, lease: float, actors: int, *, kill: bool) -> tuple[float, float, float]:
    """Take host c away; return the seconds until a request in flight failed, until an actor and until all were back."""
    with cluster(dsn, lease, actors) as (children, names, places):
        victim = children[-1]
        lost = [name for name, place in zip(names, places, strict=True) if place == victim.name]
        if kill:
            in_flight = children[0].ask("in flight", actors=lost[:1])
            gevent.sleep(0.5)
            started = time.monotonic()
            victim.process.send_signal(signal.SIGKILL)
        else:  # with a handler at work, the stop would wait for it
            started = time.monotonic()
            victim.ask("stop")
        back = children[0].get("until elsewhere", actors=lost[1:], than=victim.name)
        failed = children[0].answer_to(in_flight)[1] if kill else started
    return failed - started, min(back) - started, max(back) - started


def freeze(server: EmbeddedPostgres, dsn: str, lease: float) -> tuple[float, float, float]:
    """Take the database away for twice the lease; return the seconds until all are frozen, one and all are back."""
    with cluster(dsn, lease, len(HOSTS)) as (children, _, _):
        server.pause()
        stopped = time.monotonic()
        gevent.sleep(2 * lease)
        server.resume()
        resumed = time.monotonic()
        frozen = [first(child, "frozen", stopped) for child in children]
        active = [first(child, "active", resumed) for child in children]
    return max(frozen) - stopped, min(active) - resumed, max(active) - resumed


def first(child: Child, state: str, after: float) -> float:
    """Return when a host first was in a state after a moment."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for name, when in child.get("states"):
            if name == state and when > after:
                return float(when)
        gevent.sleep(0.01)
    sys.exit(f"failover.py: host {child.name} was not {state} within {TIMEOUT:g} s")


def idle(lease: float) -> float:
    """Return the statements a second and host that an idle cluster runs, as the server's log has them."""
    with EmbeddedPostgres(settings={"log_statement": "all"}) as server:
        migrate_schema(server.dsn)
        with cluster(server.dsn, lease, len(HOSTS)):
            log = server.directory / "log"
            gevent.sleep(1.0)
            before = log.read_text().count("LOG:  statement: ")
            gevent.sleep(IDLE_SECONDS)
            return (log.read_text().count("LOG:  statement: ") - before) / IDLE_SECONDS / len(HOSTS)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--leases", type=seconds, nargs="+", default=[3.0, 6.0, 20.0], help="seconds; 3 6 20")
    parser.add_argument("--actors", type=positive, default=300, help="in the cluster; 300")
    options = parser.parse_args()
    print(f"{machine()}\n{versions('theatre_gevent', 'gevent', 'psycopg2-binary')}")
    rows = []
    with EmbeddedPostgres() as server:
        print(f"PostgreSQL {server.version}, {len(HOSTS)} hosts, {options.actors} actors; seconds\n", flush=True)
        migrate_schema(server.dsn)
        for lease in options.leases:
            killed = fail_over(server.dsn, lease, options.actors, kill=True)
            stopped = fail_over(server.dsn, lease, options.actors, kill=False)
            frozen = freeze(server, server.dsn, lease)
            figures = [*killed, *stopped[1:], *frozen]
            rows.append([f"{lease:g} s", *(f"{figure:.2f}" for figure in figures), f"{idle(lease):.1f}"])
    head = ["lease", "in flight", "first back", "all back", "stop: first", "all", "frozen", "active: first", "all"]
    print(table([*head, "statements/s"], rows))


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        main()
