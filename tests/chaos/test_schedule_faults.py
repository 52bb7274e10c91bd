"""Schedules of three host processes through a killed host, one paused beyond its lease, and a restarted database."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import subprocess

from tests.postgres import execute
from tests.support import in_background, until
from theatre_gevent import migrate_schema
from theatre_gevent.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
IN_EIGHT_SECONDS = "SELECT floor(extract(epoch FROM clock_timestamp()) + 8)::bigint * 1000000"


class Process:
    """A host in a process of its own; see `schedule_host`."""

    def __init__(self, host_id: str, dsn: str, folder: Path) -> None:
        self.host_id = host_id
        given = {"host_id": host_id, "dsn": dsn, "audit": str(folder / f"{host_id}.audit")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.schedule_host", json.dumps(given)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._stdout.readline()
        assert line, "the process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def call(self, do: str, **order: Any) -> dict[str, Any]:
        self._stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
        self._stdin.flush()
        return self._answer()

    def make(self, number: int, within: float) -> list[str]:
        ids: list[str] = self.call("make", number=number, within=within)["answer"]
        return ids

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self._stdin.close()
        self._process.kill()
        self._process.wait()
        self._stdout.close()


class Audit:
    """What all hosts have handled, as their files say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lines(self) -> list[list[Any]]:
        files = sorted(self._folder.glob("*.audit"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def by_schedule(self) -> dict[str, list[list[Any]]]:
        found: dict[str, list[list[Any]]] = defaultdict(list)
        for line in self.lines():
            found[line[0]].append(line)
        return found


@pytest.fixture
def own() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as own:
        migrate_schema(own.dsn)
        yield own


@pytest.fixture
def started(own: EmbeddedPostgres, tmp_path: Path) -> Iterator[list[Process]]:
    processes: list[Process] = []
    tasks = [in_background(Process, name, own.dsn, tmp_path) for name in "abc"]
    processes += [task.get(timeout=30) for task in tasks]
    yield processes
    for process in processes:
        process.end()


def pending(dsn: str) -> int:
    """Single messages that are not confirmed yet."""
    return int(execute(dsn, "SELECT count(*) FROM schedules WHERE expression IS NULL")[0][0])


def test_each_is_sent_and_once_where_nothing_failed(
    own: EmbeddedPostgres, started: list[Process], tmp_path: Path
) -> None:
    a, b, c = started
    audit = Audit(tmp_path)

    # Nothing fails: each exactly once.
    quiet = a.make(300, 1.0) + b.make(300, 1.0)
    until(lambda: pending(own.dsn) == 0, 30)
    found = audit.by_schedule()
    assert {key: [line[2] for line in found[key]] for key in quiet} == {key: [1] for key in quiet}
    assert {line[4] for line in audit.lines()} == {"a", "b", "c"}

    # A host is killed, another paused beyond its lease, the database is restarted.
    crons: list[str] = a.call("recur", number=20)["answer"]
    # Not at the next minute, which may be a minute away, but among the faults.
    moved = "UPDATE schedules SET due_us = due.us, at_us = due.us FROM due WHERE expression IS NOT NULL"
    execute(own.dsn, f"WITH due AS (SELECT ({IN_EIGHT_SECONDS}) AS us) {moved}")
    ids = a.make(500, 12.0) + b.make(450, 12.0) + c.make(450, 12.0)
    gevent.sleep(2)
    b.signal(signal.SIGKILL)
    gevent.sleep(2)
    c.signal(signal.SIGSTOP)
    gevent.sleep(5)
    c.signal(signal.SIGCONT)
    gevent.sleep(1)
    own.restart()
    until(lambda: pending(own.dsn) == 0, 30)

    lines = audit.lines()
    found = audit.by_schedule()
    assert [key for key in ids if key not in found] == [], "each is handled at least once"
    assert max(line[3] for line in lines) <= 0.001, "none before its time"
    first = Counter(line[1] for line in lines if line[2] == 1)
    assert [occurrence for occurrence, number in first.items() if number > 1] == [], "once, if it says it is the first"
    again = [key for key in ids if len(found[key]) > 1]
    assert len(again) < len(ids) / 2, "only what a fault has touched"

    # Each time once, and the next one after that.
    until(lambda: len({line[0] for line in audit.lines()} & set(crons)) == 20, 30)
    gevent.sleep(1)
    times = Counter(line[1] for line in audit.lines() if line[0] in crons and line[2] == 1)
    assert set(times.values()) == {1}
    assert a.call("stop")["state"] == "stopped"
    assert c.call("stop")["state"] == "stopped"
    assert execute(own.dsn, "SELECT count(*), count(epoch) FROM schedules") == [(20, 0)]
