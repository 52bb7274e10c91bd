"""The load test when something around it goes: its streams, its files, its database, its place in the system."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import gevent
import psutil
import pytest

from tests.integration.test_loadtest_hosts import COMMAND, DEADLINE, ROOT, load, result
from tests.integration.test_loadtest_postgres import as_url
from tests.postgres import Server, execute
from tests.support import until
from theatre_gevent.loadtest.children import ChildProcess, Crash
from theatre_gevent.loadtest.options import parse
from theatre_gevent.loadtest.part import HostSpec
from theatre_gevent.loadtest.run import Watcher, run
from theatre_gevent.loadtest.stop import Stop

SMALL = "-mode local -actors 50 -workers 2 -warm"
by_hosts = pytest.mark.parametrize("hosts", [1, 2])


def start(folder: Path, arguments: str) -> subprocess.Popen[str]:
    """Start the command and wait until its hosts are warm."""
    process = subprocess.Popen(
        [*COMMAND, *arguments.split()], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("warm:"):
            break
    return process


def rest(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; return the exit code and what came on stderr."""
    try:
        _, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return process.returncode, errors


def stop_reading(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None  # so that `communicate` leaves it alone


def through_a_shell(folder: Path, script: str, arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as `"$@"` of a script."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, *arguments.split()],
        cwd=folder, capture_output=True, text=True, timeout=55, env={**os.environ, "MARK": str(folder)},
    )  # fmt: skip


# -- streams ---------------------------------------------------------------------------------------------------


@by_hosts
def test_ctrl_c_that_ends_the_reader_too_keeps_the_result(hosts: int, tmp_path: Path) -> None:
    """As `loadtest.py | tee log` in a terminal."""
    process = start(tmp_path, f"-hosts {hosts} {SMALL} -duration 300s")
    stop_reading(process)
    process.send_signal(signal.SIGINT)
    assert rest(process) == (130, "")
    written = result(tmp_path)
    assert (written["exit_code"], written["error"], written["inits"]) == (130, None, 50)
    assert written["operations"] > 0


@by_hosts
def test_a_reader_that_ends_early_keeps_the_result(hosts: int, tmp_path: Path) -> None:
    process = start(tmp_path, f"-hosts {hosts} {SMALL} -duration 5500ms")  # long enough for a line of progress
    stop_reading(process)
    assert rest(process) == (1, "loadtest.py: stdout can't be written: Broken pipe\n")
    written = result(tmp_path)
    assert (written["error"], written["inits"]) == (None, 50)
    assert written["duration_seconds"] >= 5.5


@pytest.mark.parametrize(
    ("redirection", "says"),
    [
        (">/dev/full", "loadtest.py: stdout can't be written: No space left on device\n"),
        (">&-", "loadtest.py: stdout can't be written: it is closed\n"),
        (">&- 2>&-", ""),
        (">/dev/full 2>/dev/full", ""),
    ],
)
def test_streams_that_take_nothing(redirection: str, says: str, tmp_path: Path) -> None:
    done = through_a_shell(tmp_path, f'exec "$@" {redirection}', f"-hosts 2 {SMALL} -duration 300ms")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", says)
    assert result(tmp_path)["operations"] > 0


def test_nobody_needs_stdin_and_stderr(tmp_path: Path) -> None:
    done = through_a_shell(tmp_path, 'exec "$@" <&- 2>&-', f"-hosts 2 {SMALL} -duration 300ms")
    assert (done.returncode, done.stderr) == (0, "")
    assert "=== summary ===" in done.stdout


@pytest.mark.parametrize(("redirection", "code"), [("", 0), (">/dev/full", 1), (">&-", 1)])
def test_help_for_nobody(redirection: str, code: int, tmp_path: Path) -> None:
    done = through_a_shell(tmp_path, f'exec "$@" {redirection}', "-help")
    assert done.returncode == code
    assert done.stderr.count("\n") == code


def test_a_host_may_say_much_where_stderr_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONVERBOSE", "1")  # more than a pipe holds
    silent = Watcher(lambda samples, rss: None, lambda warmth: None, lambda: None)
    stop = Stop()
    with Path("/dev/full").open("w") as full, gevent.Timeout(DEADLINE):
        monkeypatch.setattr(sys, "stderr", full)
        outcome = run(parse(["-hosts", "2", "-mode", "local", "-actors", "20", "-duration", "200ms"]), stop, silent)
    assert stop.error is None
    assert len(outcome.parts) == 2


def importing(arguments: list[str], module: str, folder: Path) -> subprocess.Popen[str]:
    """Start a program and wait until it has imported a module."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *arguments, "-hosts", "1", "-duration", "300s"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.split("|")[-1].strip() == module:
            break
    return process


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        ([str(ROOT / "loadtest.py")], "theatre_gevent._accel"),
        (["-m", "theatre_gevent.loadtest"], "theatre_gevent.channel"),
    ],
    ids=["program", "package"],
)
def test_ctrl_c_before_anything_has_begun(arguments: list[str], module: str, tmp_path: Path) -> None:
    process = importing(arguments, module, tmp_path)
    process.send_signal(signal.SIGINT)
    code, errors = rest(process)
    assert code == 130
    assert "Traceback" not in errors


# -- files -----------------------------------------------------------------------------------------------------


def own_lines(errors: str) -> list[str]:
    """Return the command's own lines: hosts may say that they stand still while their memory is looked at."""
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line.startswith("loadtest.py: ")]


def test_a_memory_profile_that_cannot_be_written_keeps_the_result(tmp_path: Path) -> None:
    run, done = load(tmp_path, f"-hosts 1 {SMALL} -duration 300ms -memprofile /dev/full", expect=1)
    assert own_lines(done.stderr) == ["loadtest.py: -memprofile '/dev/full' can't be written: No space left on device"]
    assert "=== summary ===" in done.stdout
    assert run["error"].startswith("-memprofile '/dev/full' can't be written")
    assert (run["exit_code"], run["inits"]) == (1, 50)


@pytest.mark.parametrize("flag", ["cpuprofile", "memprofile"])
def test_a_profile_of_one_host_that_cannot_be_written_keeps_the_result(flag: str, tmp_path: Path) -> None:
    (tmp_path / "p.host-2.json").symlink_to("/dev/full")
    run, done = load(tmp_path, f"-hosts 2 {SMALL} -duration 300ms -{flag} p.json", expect=1)
    assert own_lines(done.stderr) == [f"loadtest.py: -{flag} 'p.host-2.json' can't be written: No space left on device"]
    assert "=== summary ===" in done.stdout
    assert run["operations"] > 0
    assert len(run["per_host"]) == 2
    assert (tmp_path / "p.host-1.json").stat().st_size > 0


def test_a_result_that_cannot_be_written_is_still_printed(tmp_path: Path) -> None:
    arguments = f"-hosts 1 {SMALL} -duration 300ms -json /dev/full"
    done = through_a_shell(tmp_path, 'exec "$@"', arguments)
    assert done.returncode == 1
    assert done.stderr == "loadtest.py: -json '/dev/full' can't be written: No space left on device\n"
    assert "=== summary ===" in done.stdout


def test_a_link_to_a_result_that_is_not_there_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "out.json").symlink_to("real.json")
    run, _ = load(tmp_path, f"-hosts 1 {SMALL} -duration 300ms")
    assert run["inits"] == 50
    assert (tmp_path / "out.json").is_symlink()
    assert (tmp_path / "real.json").is_file()


# -- the system ------------------------------------------------------------------------------------------------


def test_a_database_that_is_gone_at_the_end_keeps_the_result(dsn: str, postgres: Server, tmp_path: Path) -> None:
    process = start(tmp_path, f"-hosts 1 {SMALL} -idle 60s -duration 300s -dsn {as_url(dsn)}")
    name = as_url(dsn).rpartition("/")[2]
    execute(postgres.dsn, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")  # who has one keeps it
    process.send_signal(signal.SIGINT)
    try:
        out, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "and it does not answer any more" in out
    run = result(tmp_path)
    assert run["database"]["transactions"] is None
    assert run["inits"] == run["shutdowns"] == 50


def started_in(folder: Path) -> list[psutil.Process]:
    """Return what runs with the environment that `through_a_shell` gives."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("MARK") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize("files", [12, 14, 20])
def test_a_host_that_cannot_be_started_is_one_line(files: int, tmp_path: Path) -> None:
    done = through_a_shell(tmp_path, f'ulimit -n {files} && exec "$@"', f"-hosts 9 {SMALL} -duration 300ms")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert re.fullmatch(r"loadtest\.py: host-\d can't be started: Too many open files", lines[0])
    # The file of the result needs a place, too.
    assert lines[1:] in ([], ["loadtest.py: -json 'out.json' can't be written: Too many open files"])
    until(lambda: not started_in(tmp_path))


def test_a_step_that_fails_is_told_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse(["-hosts", "2", "-mode", "local", "-actors", "20"])
    child = ChildProcess(HostSpec(0, options), Stop(), lambda sample: None)
    try:
        child.start()
        with pytest.raises(Crash, match=r"^host-1 \(process \d+\): InvalidOption: .*nowhere"):
            child.join({"host-1": "127.0.0.1:1", "host-2": "nowhere"})
    finally:
        child.close()
    assert capsys.readouterr().err.startswith("host-1: Traceback (most recent call last):\nhost-1:   File")
