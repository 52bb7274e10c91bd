"""Drives hosts that are processes of their own over one Postgres, does bad things to them, and judges what they did."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gevent
from gevent import subprocess
from gevent.event import AsyncResult
from psycopg2.extensions import make_dsn

from tests.chaos.excuses import Fault
from tests.chaos.judge import Judge
from tests.chaos.witness import Record, Witness, read
from tests.postgres import execute
from tests.support import in_background, until
from theatre_gevent import SystemClock, migrate_schema

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
LEASE, POLL, MARGIN = 2.0, 0.5, 0.5
BUSY = 2.0
"""Seconds that a busy machine may take for what takes none."""
OPTIONS: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "lease_duration": LEASE,
    "poll_interval": POLL,
    "safety_margin": MARGIN,
    "freeze_grace_period": 0.3,
    "request_timeout": 5.0,
    "drain_timeout": 3.0,
    "log_level": "WARNING",
}
boottime = SystemClock().boottime


class Failed(Exception):
    """A host did not do what it was told: the error's name and its text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class PgHost:
    """A host in a process of its own.

    Attributes:
        name: Its host id.
        address: Where others reach it, once it has started.
        epoch: Its first life.
        started: Has its first line: it has started or failed to.
    """

    def __init__(self, name: str, dsn: str, witness: Path, log: Path, given: dict[str, Any]) -> None:
        self.name = name
        program = given.pop("program", "tests.chaos.pg_host")
        environment = {**os.environ, **given.pop("environment", {})}
        options = {**OPTIONS, "dsn": make_dsn(dsn, application_name=name), **given.pop("options", {})}
        arguments = {"host_id": name, "witness": str(witness), "options": options, **given}
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", program, json.dumps(arguments)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self.pid: int = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._numbers = itertools.count(1)
        self._waiting: dict[int, AsyncResult[Any]] = {}
        self.started: AsyncResult[dict[str, Any]] = AsyncResult()
        self.address = ""
        self.epoch = 0
        self._reader = gevent.spawn(self._read)

    def _read(self) -> None:
        for line in self._stdout:
            answer = json.loads(line)
            if "id" not in answer:
                self.started.set(answer)
            elif "error" in answer:
                self._waiting.pop(answer["id"]).set_exception(Failed(answer["error"], answer["text"]))
            else:
                self._waiting.pop(answer["id"]).set(answer["done"])
        waiting, self._waiting = self._waiting, {}
        for result in waiting.values():
            result.set_exception(Failed("Ended", f"the process of {self.name} has ended"))
        if not self.started.ready():
            self.started.set({"error": "Ended", "text": "the process has ended before it had started"})

    def wait_started(self) -> PgHost:
        """Wait until it has started.

        Raises:
            Failed: It could not.
        """
        answer: dict[str, Any] = self.started.get(timeout=60)  # type: ignore[assignment]
        if "error" in answer:
            raise Failed(answer["error"], answer["text"])
        self.address, self.epoch = answer["address"], answer["epoch"]
        return self

    def begin(self, do: str, **order: Any) -> AsyncResult[Any]:
        """Give an order, and return what will have its answer."""
        number = next(self._numbers)
        result: AsyncResult[Any] = AsyncResult()
        self._waiting[number] = result
        self._stdin.write(json.dumps({"id": number, "do": do, **order}).encode() + b"\n")
        self._stdin.flush()
        return result

    def call(self, do: str, **order: Any) -> Any:
        """Give an order and wait until it has been carried out.

        Raises:
            Failed: It could not be.
        """
        return self.begin(do, **order).get(timeout=30)

    def request(self, ref: str, word: str = "work", *rest: Any, timeout: float = 5.0) -> Any:
        """Have the host make a request, which counts as nobody's in the records."""
        return self.call("request", ref=ref, body=[word, "", 0, *rest], timeout=timeout)

    def state(self) -> str:
        """Return the host's state."""
        return str(self.call("report")["state"])

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        self._process.send_signal(number)

    def is_running(self) -> bool:
        """Tell whether its process lives."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait for the end of its process, and return its exit code."""
        code: int = self._process.wait(timeout=30)
        self._reader.join(5)
        self._stdin.close()
        self._stdout.close()
        return code

    def kill(self) -> None:
        """Kill the process."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self.wait()


class PgCluster:
    """Hosts over one database, with their witness; a context manager.

    At the end, unless the test failed, all hosts are stopped in good order, their books are checked, and the judge has
    his say.

    Args:
        folder: For the witness' file and the hosts' logs.
        dsn: Of a database with nothing in it.

    Attributes:
        at_least: Handled messages without which nothing is proved.
    """

    def __init__(self, folder: Path, dsn: str) -> None:
        self.dsn = dsn
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "witness"
        self.hosts: dict[str, PgHost] = {}
        self.faults: list[Fault] = []
        self.killed: dict[int, float] = {}
        self.at_least = 1
        self._witness = Witness(str(self.path), "")
        self._made: list[PgHost] = []
        migrate_schema(dsn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.end()
        except BaseException as problem:
            error = problem
            raise
        finally:
            if error is not None:
                self._tell()
            self.abandon()

    def abandon(self) -> None:
        """Kill what runs, and write no more."""
        for host in self._made:
            if host.is_running():
                host.kill()
        self._witness.close()

    def _tell(self) -> None:
        """Print what helps to find out what went wrong."""
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            print(f"-- {log.name}, {len(lines)} lines", *lines[-40:], sep="\n")
        for record in self.records("state"):
            print(f"{record.t:.3f} {record.host} {record.epoch} {record.note}")
        with suppress(Exception):
            print("now", boottime(), "lives", self.lives())
            print(*self.judge().violations[:20], sep="\n")

    def __getitem__(self, name: str) -> PgHost:
        return self.hosts[name]

    def launch(self, name: str, **given: Any) -> PgHost:
        """Begin to start a host: `given` is what the program is given besides its id, `options` above all."""
        dsn = given.pop("dsn", self.dsn)
        host = PgHost(name, dsn, self.path, self.folder / f"{name}.log", given)
        self._made.append(host)
        return host

    def start(self, *names: str, **given: Any) -> None:
        """Start hosts and wait until they know each other."""
        new = {name: self.launch(name, **given) for name in names}
        for host in new.values():
            host.wait_started()
        self.hosts.update(new)
        self.until_acquainted()

    def until_acquainted(self) -> None:
        """Wait until all hosts are connected to each other, and nobody thinks of others."""

        def connected() -> bool:
            reports = [host.call("report") for host in self.hosts.values()]
            return all(r["metrics"]["peers_up"] == len(reports) - 1 and r["state"] == "active" for r in reports)

        until(connected, 20)

    # -- faults ------------------------------------------------------------------------------------------------------

    def note_fault(self, since: float, until: float | None = None, before: float = 2.0, after: float = 1.0) -> None:
        """Messages that were sent around this time may be lost."""
        self.faults.append(Fault(since - before, (since if until is None else until) + after))

    def kill(self, name: str) -> float:
        """Kill a host; returns when."""
        host = self.hosts.pop(name)
        # Before it is: so nobody has gone on without it before that, unless it had lost its lease.
        now = self.killed[host.pid] = boottime()
        host.kill()
        self.note_fault(now)
        return now

    def pause(self, name: str) -> float:
        """Stop a host where it is (SIGSTOP); returns when."""
        self.hosts[name].signal(signal.SIGSTOP)
        return boottime()

    def resume(self, name: str) -> float:
        """Let a paused host go on; returns when."""
        host = self.hosts[name]
        now = boottime()
        self._witness.record("resumed", pid=host.pid, host=name)
        host.signal(signal.SIGCONT)
        return now

    def terminate(self, condition: str, *values: Any) -> int:
        """End backends of the database; `condition` is about `pg_stat_activity`. Returns how many."""
        return len(
            execute(
                self.dsn,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # noqa: S608
                f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND ({condition})",
                *values,
            )
        )

    def ask_until_answered(self, name: str, ids: Iterable[str], timeout: float = 20.0) -> None:
        """Have a host ask all these actors, again and again while their owner is frozen, until all have answered."""

        def ask(ref: str) -> None:
            end = boottime() + timeout
            while True:
                try:
                    self.hosts[name].request(ref, timeout=max(0.1, end - boottime()))
                except Failed as error:
                    if error.kind not in ("HostFrozen", "NoOwner") or boottime() > end:
                        raise
                    gevent.sleep(0.1)
                else:
                    return

        for task in [in_background(ask, ref) for ref in ids]:
            task.get(timeout=timeout + 5)

    # -- what happened -----------------------------------------------------------------------------------------------

    def records(self, *what: str, **fields: Any) -> list[Record]:
        """Return records of these kinds with these values, as far as they are written."""
        return [
            record
            for record in read(self.path)
            if (not what or record.what in what) and all(getattr(record, k) == v for k, v in fields.items())
        ]

    def until_record(self, condition: Callable[[Record], bool], timeout: float = 20.0) -> Record:
        """Wait for a record and return it."""
        found: list[Record] = []

        def seen() -> bool:
            found[:] = itertools.islice(filter(condition, read(self.path)), 1)
            if not found:
                gevent.sleep(0.02)
            return bool(found)

        until(seen, timeout)
        return found[0]

    def until_state(self, name: str, state: str, since: float = 0.0, timeout: float = 20.0) -> Record:
        """Wait until a host has been in a state, at some time from `since` on."""
        return self.until_record(
            lambda r: r.what == "state" and r.host == name and r.note == state and r.t >= since, timeout
        )

    def until_progress(self, *lanes: tuple[str, str], by: int = 20, timeout: float = 20.0) -> None:
        """Wait until lanes, `(host, lane)` each, have got so many more replies. All lanes, if none are named."""
        hosts = {name for name, _ in lanes} or set(self.hosts)

        def answered() -> dict[str, int]:
            return {
                f"{name}:{lane}": numbers["answered"]
                for name in hosts
                for lane, numbers in self.hosts[name].call("report")["lanes"].items()
                if not lanes or (name, lane.partition("@")[0]) in lanes
            }

        before = answered()
        assert before, "there are no lanes"

        def progress() -> bool:
            gevent.sleep(0.05)
            return all(number >= before.get(lane, 0) + by for lane, number in answered().items())

        until(progress, timeout)

    def lives(self) -> dict[tuple[str, int], float | None]:
        """Return all lives of hosts, and when they were fenced, in boot time; None for those that are not."""
        wall = SystemClock().time()
        offset = boottime() - wall
        rows = execute(self.dsn, "SELECT host_id, epoch, extract(epoch FROM fenced_at)::float8 FROM hosts")
        return {(host, epoch): None if fenced is None else fenced + offset for host, epoch, fenced in rows}

    def fenced(self) -> dict[tuple[str, int], float]:
        """Return the lives that are over, and since when."""
        return {life: at for life, at in self.lives().items() if at is not None}

    def judge(self) -> Judge:
        """Return the judge of all that is written so far."""
        return Judge(read(self.path), self.fenced(), self.faults, self.killed)

    def owners(self) -> dict[str, tuple[str, int]]:
        """Return who owns which actor by the database, dead lives included."""
        rows = execute(self.dsn, "SELECT actor_type || '/' || actor_id, host_id, epoch FROM actor_ownership")
        return {ref: (host, epoch) for ref, host, epoch in rows}

    # -- the end -----------------------------------------------------------------------------------------------------

    def halt(self, names: Iterable[str] | None = None) -> None:
        """End the traffic of hosts, of all if none are named."""
        for result in [self.hosts[name].begin("halt") for name in (self.hosts if names is None else names)]:
            result.get(timeout=30)

    def stop(self, name: str) -> dict[str, Any]:
        """Stop a host in good order and check its books; returns its last report."""
        host = self.hosts.pop(name)
        report: dict[str, Any] = host.call("stop")
        assert host.wait() == 0
        assert report["state"] == "stopped"
        check_books(report["metrics"])
        return report

    def end(self) -> None:
        """End all in good order, and have it judged."""
        self.halt()
        epochs = [report["epoch"] for report in (host.call("report") for host in self.hosts.values())]
        stopping = [in_background(self.stop, name) for name in list(self.hosts)]
        for task in stopping:
            task.get(timeout=40)
        left = {ref: owner for ref, owner in self.owners().items() if owner[1] in epochs}
        assert left == {}, f"given back by nobody: {left}"
        self.judge().acquit(self.at_least)


def check_books(counts: dict[str, int]) -> None:
    """Invariant 4 of a host that has stopped."""
    words = ("received", "dead_lettered", "queued", "forwarded")
    assert counts["messages_sent"] == sum(counts[f"messages_{word}"] for word in words), counts
    for gauge in ("actors_active", "messages_queued", "messages_held", "requests_pending", "senders_waiting"):
        assert counts[gauge] == 0, (gauge, counts)


def refs(count: int, prefix: str = "r") -> list[str]:
    """Return ids of actors."""
    return [f"{prefix}{number}" for number in range(count)]


def activations(records: Iterable[Record], ref: str) -> Iterator[Record]:
    """Yield the beginnings of an actor's activations."""
    return (record for record in records if record.what == "init" and record.ref.endswith("/" + ref))


def figure(what: str, seconds: float) -> None:
    """Print a time: `pytest -s` shows it."""
    print(f"{what}: {seconds:.2f} s")


def traffic(cluster: PgCluster, *names: str, actors: list[str] | None = None, **lane: Any) -> None:
    """Have hosts send to the same actors, and wait until each of them gets replies."""
    for name in names:
        cluster[name].call("start", lane=name, refs=actors or refs(20), **lane)
    cluster.until_progress(*((name, name) for name in names), by=30)


def owned_by(cluster: PgCluster, name: str) -> list[str]:
    """Return the ids of the actors that a host owns; of none the test would prove nothing."""
    found = [ref.partition("/")[2] for ref, (host, _) in cluster.owners().items() if host == name]
    assert found, f"{name} owns nothing"
    return found


def failures(cluster: PgCluster) -> dict[str, Any]:
    """Return what went wrong in the lanes of all hosts."""
    return {
        lane: numbers["failures"]
        for host in cluster.hosts.values()
        for lane, numbers in host.call("report")["lanes"].items()
        if numbers["failures"]
    }
