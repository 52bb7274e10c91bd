"""The load test with Postgres: a private server, a given one, and how they are left behind."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.test_loadtest_hosts import COMMAND, DEADLINE, check, load, result, total
from tests.postgres import Databases, execute
from tests.support import gone, until

SMALL = "-actors 300 -workers 4 -duration 1s -idle 60s -warm"


@pytest.mark.parametrize("mode", ["mixed", "local"])
def test_three_hosts_share_a_private_server(mode: str, tmp_path: Path) -> None:
    run, done = load(tmp_path, f"-hosts 3 -dsn embedded -mode {mode} {SMALL}")
    assert done.stderr == ""
    check(run, 300)
    assert run["processes"] == 3
    assert total(run, "claims_total") == total(run, "releases_total") == 300
    assert total(run, "claims_waiting") == 0
    assert 6 <= total(run, "claim_statements") < 600, "many in one"
    assert re.fullmatch(r"PostgreSQL \d+\.\d+, embedded", run["database"]["server"])
    assert run["database"]["transactions"] >= total(run, "claim_statements")
    assert f"database:     {run['database']['server']}" in done.stdout
    assert "300 claims and 300 releases in" in done.stdout
    if mode == "local":
        assert total(run, "messages_forwarded") == 0


def test_hosts_of_one_process_share_one_too(tmp_path: Path) -> None:
    run, _ = load(tmp_path, f"-hosts 3 -inprocess -dsn embedded {SMALL}")
    check(run, 300)
    assert total(run, "claims_total") == 300


def test_one_host_alone_with_a_database(dsn: str, tmp_path: Path) -> None:
    run, _ = load(tmp_path, f"-hosts 1 -dsn {as_url(dsn)} {SMALL}")
    assert (run["error"], run["reply_errors"], run["inits"]) == (None, 0, 300)
    assert total(run, "claims_total") == 300


def as_url(dsn: str) -> str:
    """One word, as the tests' command lines are split at spaces."""
    from psycopg2.extensions import parse_dsn

    p = parse_dsn(dsn)
    return f"postgresql://{p['user']}:{p.get('password', '')}@{p['host']}:{p.get('port', 5432)}/{p['dbname']}"


def test_a_given_database_is_left_in_order(dsn: str, databases: Databases, tmp_path: Path) -> None:
    for _ in range(2):
        run, done = load(tmp_path, f"-hosts 2 -dsn {as_url(dsn)} {SMALL}")
        check(run, 300)
        assert re.fullmatch(r"PostgreSQL \S+ at \S+:\d+/theatre_test_\w+", run["database"]["server"])
        password = as_url(dsn).split(":")[2].split("@")[0]
        assert not password or password not in done.stdout + (tmp_path / "out.json").read_text()
        assert execute(dsn, "SELECT count(*) FROM actor_ownership") == [(0,)]
        assert execute(dsn, "SELECT count(*) FROM hosts WHERE fenced_at IS NULL") == [(0,)]


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    arguments = ["-hosts", "2", "-dsn", "postgresql://nobody@127.0.0.1:1/none"]
    done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"loadtest\.py: the database: no connection to the database: .*refused.*\n", done.stderr)


# -- how it ends -----------------------------------------------------------------------------------------------


class Running:
    """The command at work with its hosts and its server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        arguments = ["-hosts", "2", "-dsn", "embedded", "-actors", "60", "-duration", "300s", "-warm", "-idle", "60s"]
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("warm:"):
                break
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        commands = [" ".join(process.cmdline()) for process in self.family]
        self.directory = next(
            Path(found[1]) for command in commands if (found := re.search(r"postgres -D (\S+)/data ", command))
        )

    def end(self) -> tuple[int, str, str]:
        out, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, out, errors

    def nothing_is_left(self) -> bool:
        return gone(self.family) and not self.directory.exists()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    command = Running(tmp_path)
    yield command
    command.process.kill()
    for process in command.family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    command.process.communicate()


def test_ctrl_c_ends_all_in_order(running: Running) -> None:
    running.process.send_signal(signal.SIGINT)
    code, out, errors = running.end()
    assert (code, errors) == (130, "")
    assert running.nothing_is_left(), "when the command has ended"
    assert "=== summary ===" in out
    check(result(running.folder), 60)


def test_the_server_goes_with_a_command_that_is_killed(running: Running) -> None:
    assert running.directory.exists()
    running.process.kill()
    assert running.end()[0] == -signal.SIGKILL
    until(running.nothing_is_left)


def test_the_server_goes_when_a_host_crashes(running: Running) -> None:
    host = next(process for process in running.family if "-child" in process.cmdline())
    host.kill()
    code, _, errors = running.end()
    assert code == 1
    assert errors.splitlines()[-1].endswith("was ended by SIGKILL")
    assert running.nothing_is_left()
