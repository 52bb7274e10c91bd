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

from tests.chaos.pg_cluster import BUSY
from tests.postgres import execute
from tests.support import in_background, until
from theatre_gevent import migrate_schema
from theatre_gevent.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
LEASE, POLL, INTERVAL = 3.0, 0.3, 1.0
IN_EIGHT_SECONDS = "SELECT floor(extract(epoch FROM clock_timestamp()) + 8)::bigint * 1000000"
CLAIMED_BY = "SELECT id FROM schedules WHERE host_id = %s AND id = ANY (%s)"


class Process:
    """A host in a process of its own; see `schedule_host`."""

    def __init__(self, host_id: str, dsn: str, folder: Path) -> None:
        self.host_id = host_id
        options = {"lease_duration": LEASE, "poll_interval": POLL, "schedule_recovery_interval": INTERVAL}
        given = {"host_id": host_id, "dsn": dsn, "audit": str(folder / f"{host_id}.audit"), "options": options}
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


def now(dsn: str) -> float:
    """The database's time."""
    return float(execute(dsn, "SELECT extract(epoch FROM clock_timestamp())")[0][0])


class Claims:
    """Which host has claimed which row when, and when the row went: the table itself writes it down."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        execute(
            dsn,
            """
            CREATE TABLE claim_log (id text, host_id text, at double precision);
            CREATE FUNCTION log_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF TG_OP = 'DELETE' THEN
                    INSERT INTO claim_log VALUES (OLD.id, NULL, extract(epoch FROM clock_timestamp()));
                ELSIF NEW.epoch IS NOT NULL AND NEW.epoch IS DISTINCT FROM OLD.epoch THEN
                    INSERT INTO claim_log VALUES (NEW.id, NEW.host_id, extract(epoch FROM clock_timestamp()));
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER log_claim AFTER UPDATE OR DELETE ON schedules FOR EACH ROW EXECUTE FUNCTION log_claim();
            """,
        )

    def held_by(self, host_id: str, ids: list[str]) -> list[str]:
        """Those of these rows that a host has claimed and not confirmed."""
        return [row[0] for row in execute(self._dsn, CLAIMED_BY, host_id, ids)]

    def untouched(self, audit: Audit, ids: list[str], faults: float, restart: tuple[float, float]) -> list[str]:
        """Those of these single messages that no fault can have touched.

        All that were confirmed before there were any; and those that host a, to which nothing happened, has claimed
        each time and handled itself, without the database going meanwhile.
        """
        claims: dict[str, list[tuple[str, float]]] = defaultdict(list)
        gone: dict[str, float] = {}
        for key, host_id, at in execute(self._dsn, "SELECT id, host_id, at FROM claim_log ORDER BY at"):
            if host_id is None:
                gone[key] = at
            else:
                claims[key].append((host_id, at))
        found = audit.by_schedule()
        stopped, up = restart

        def is_untouched(key: str) -> bool:
            if gone[key] < faults:
                return True
            hosts = {host_id for host_id, _ in claims[key]} | {line[4] for line in found[key]}
            return hosts == {"a"} and not (claims[key][0][1] < up and gone[key] > stopped)

        return [key for key in ids if is_untouched(key)]


def test_each_is_sent_and_once_where_nothing_failed(
    own: EmbeddedPostgres, started: list[Process], tmp_path: Path
) -> None:
    a, b, c = started
    audit, claims = Audit(tmp_path), Claims(own.dsn)

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
    ids = a.make(500, 14.0) + b.make(450, 14.0) + c.make(450, 14.0)
    gevent.sleep(2)
    held: list[str] = []

    def begun() -> bool:
        return set(held) <= audit.by_schedule().keys()

    while not (lost := claims.held_by("b", held)):  # another host may have been faster
        held += b.call("hold", number=5)["answer"]
        until(begun)
    faults = now(own.dsn)
    b.signal(signal.SIGKILL)
    until(lambda: all(len(audit.by_schedule()[key]) > 1 for key in lost), LEASE + POLL + INTERVAL + BUSY)
    assert sum(host.call("look")["metrics"]["schedules_recovered"] for host in (a, c)) >= len(lost)
    c.signal(signal.SIGSTOP)
    gevent.sleep(5)
    c.signal(signal.SIGCONT)
    gevent.sleep(1)
    before = now(own.dsn)
    own.restart()
    after = now(own.dsn)
    until(lambda: pending(own.dsn) == 0, 30)

    lines = audit.lines()
    found = audit.by_schedule()
    assert [key for key in ids + held if key not in found] == [], "each is handled at least once"
    assert max(line[3] for line in lines) <= 0.001, "none before its time"
    first = Counter(line[1] for line in lines if line[2] == 1)
    assert [occurrence for occurrence, number in first.items() if number > 1] == [], "once, if it says it is the first"
    untouched = claims.untouched(audit, ids, faults, (before, after))
    assert len(untouched) > len(ids) / 10
    assert [found[key] for key in untouched if len(found[key]) != 1] == [], "once, if no fault has touched it"

    # Each time once, and the next one after that.
    until(lambda: len({line[0] for line in audit.lines()} & set(crons)) == 20, 30)
    gevent.sleep(1)
    times = Counter(line[1] for line in audit.lines() if line[0] in crons and line[2] == 1)
    assert set(times.values()) == {1}
    assert a.call("stop")["state"] == "stopped"
    assert c.call("stop")["state"] == "stopped"
    assert execute(own.dsn, "SELECT count(*), count(epoch) FROM schedules") == [(20, 0)]
