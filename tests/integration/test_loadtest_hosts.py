"""The load test with several hosts: processes of their own, what they do together, and how they end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
import ujson

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "loadtest.py"), "-json", "out.json"]
MODES = ["mixed", "forward", "local"]
DEADLINE = 40.0


def result(folder: Path) -> dict[str, Any]:
    run: dict[str, Any] = ujson.loads((folder / "out.json").read_text())
    return run


def load(folder: Path, arguments: str, expect: int = 0) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """Run the command; return the result and what was printed."""
    done = subprocess.run([*COMMAND, *arguments.split()], cwd=folder, capture_output=True, text=True, timeout=55)
    assert done.returncode == expect, done.stdout + done.stderr
    return result(folder), done


def total(run: dict[str, Any], metric: str, when: str = "metrics_stopped") -> int:
    return sum(host[when][metric] for host in run["per_host"])


def check(run: dict[str, Any], actors: int) -> None:
    """What holds for every run in good order whose hosts were all warm."""
    assert run["error"] is None
    assert run["reply_errors"] == run["send_errors"] == 0
    assert run["inits"] == run["shutdowns"] == run["different_actors_activated"] == actors
    assert [host["host"] for host in run["per_host"]] == [f"host-{n}" for n in range(1, run["hosts"] + 1)]
    assert run["operations"] == run["sends"] + run["requests"] > 0
    assert total(run, "messages_received") == actors + run["operations"], "each message was handled once, somewhere"
    assert total(run, "actors_active") == total(run, "messages_queued") == total(run, "messages_dead_lettered") == 0
    shares = [host["inits"] for host in run["per_host"]]
    assert min(shares) > 0.7 * actors / len(shares), "the ring spreads the actors"


@pytest.mark.parametrize("where", ["", "-inprocess"], ids=["processes", "inprocess"])
@pytest.mark.parametrize("mode", MODES)
def test_three_hosts_do_the_work_together(mode: str, where: str, tmp_path: Path) -> None:
    run, done = load(tmp_path, f"-hosts 3 -mode {mode} {where} -actors 600 -workers 4 -duration 1s -idle 60s -warm")
    assert done.stderr == ""
    check(run, 600)
    assert (run["hosts"], run["mode"], run["processes"]) == (3, mode, 1 if where else 3)
    pids = {host["process"]["pid"] for host in run["per_host"]}
    assert len(pids) == run["processes"]
    assert run["warm_actors_alive"] == 600
    assert re.search(r"^warm: 600 actors alive in [\d.]+ s, [\d,]+ activations/s$", done.stdout, re.MULTILINE)
    rows = [line.split() for line in done.stdout.splitlines()[-4:]]
    assert [row[0] for row in rows] == ["HOST", "host-1", "host-2", "host-3"]
    busy = [host["host"] for host in run["per_host"] if host["sends"]]
    assert busy == (["host-1"] if mode == "forward" else ["host-1", "host-2", "host-3"])
    forwarded = total(run, "messages_forwarded")
    assert forwarded == total(run, "messages_arrived")
    if mode == "local":
        assert forwarded == 0
    else:
        assert forwarded / run["operations"] == pytest.approx(2 / 3, abs=0.15)


@pytest.mark.parametrize("where", ["", "-inprocess"], ids=["processes", "inprocess"])
def test_the_dashboard_can_be_looked_at_meanwhile(where: str, tmp_path: Path) -> None:
    arguments = f"-hosts 3 -actors 300 -workers 2 -duration 40s {where}".split()
    with subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("dashboard: "))
            urls = line.split()[1:]
            assert len(urls) == 3
            deadline = time.monotonic() + DEADLINE
            while True:
                with urlopen(f"{urls[1]}cluster/all-status", timeout=20) as answer:
                    hosts = ujson.loads(answer.read())["hosts"]
                if all(host["answered"] and host["status"]["metrics"]["messages_received"] for host in hosts):
                    break
                assert time.monotonic() < deadline, hosts
            assert [host["host_id"] for host in hosts] == ["host-1", "host-2", "host-3"]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=40) == 130
        finally:
            process.kill()
    assert result(tmp_path)["error"] is None


def test_memory_is_that_of_all_processes_at_once(tmp_path: Path) -> None:
    run, _ = load(tmp_path, "-hosts 3 -mode local -actors 30 -duration 500ms")
    alone = [host["process"]["peak_rss"] for host in run["per_host"]]
    assert min(alone) > 10 << 20
    assert run["peak_rss_bytes"] > sum(alone), "the command itself counts too"


def test_the_memory_limit_is_for_all_processes(tmp_path: Path) -> None:
    # Each of the four processes needs 30 to 45 MiB, so none of them is over the limit by itself.
    run, done = load(tmp_path, "-hosts 3 -mode local -memlimit 80M -duration 40s", expect=1)
    assert re.fullmatch(r"loadtest\.py: memory limit exceeded: [\d,]+ MiB resident, -memlimit is 80 MiB\n", done.stderr)
    assert "=== summary ===" in done.stdout
    assert run["duration_seconds"] < 35
    assert "memory limit" in run["error"]


def test_progress_is_the_sum_in_one_line(tmp_path: Path) -> None:
    _, done = load(tmp_path, "-hosts 2 -mode local -actors 400 -warm -idle 60s -workers 3 -duration 5500ms")
    (line,) = re.findall(r"^\[.*$", done.stdout, re.MULTILINE)
    found = re.search(r"RSS +([\d,]+) MiB  actors +([\d,]+)  greenlets (\d+) load", line)
    assert found is not None
    assert int(found[1].replace(",", "")) > 60
    assert (found[2], found[3]) == ("400", "6")


def test_profiles_are_one_of_each_process(tmp_path: Path) -> None:
    load(tmp_path, "-hosts 2 -mode local -actors 50 -duration 500ms -cpuprofile p.json -memprofile m.txt")
    assert {path.name for path in tmp_path.iterdir()} == {
        "out.json", "p.host-1.json", "p.host-2.json", "m.host-1.txt", "m.host-2.txt",
    }  # fmt: skip
    assert "shared" in ujson.loads((tmp_path / "p.host-2.json").read_text())


def test_more_hosts_than_actors(tmp_path: Path) -> None:
    run, _ = load(tmp_path, "-hosts 3 -mode local -actors 1 -duration 300ms")
    assert sum(host["sends"] > 0 for host in run["per_host"]) == 1
    assert run["different_actors_activated"] == 1


# -- how it ends -----------------------------------------------------------------------------------------------


class Running:
    """The command at work, with its hosts."""

    def __init__(self, folder: Path, arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*COMMAND, *arguments.split()], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("warm:"):
                break
        self.children = psutil.Process(self.process.pid).children()

    def end(self, timeout: float = DEADLINE) -> tuple[int, str, str]:
        """Wait for the end; return the exit code and what was printed meanwhile."""
        out, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, errors


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Running]:
    """Start the command and wait until its hosts are warm; whatever is left at the end is killed."""

    def start(arguments: str = "-hosts 3 -mode local -actors 90 -workers 2 -duration 300s -warm") -> Running:
        command = Running(tmp_path, arguments)

        def end() -> None:
            command.process.kill()
            for child in command.children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            command.process.communicate()

        request.addfinalizer(end)
        return command

    return start


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """A zombie is gone too: reaping it is for whoever its parent is now."""
    deadline = time.monotonic() + 20
    left = processes
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_host_that_crashes_ends_the_run(number: signal.Signals, running: Callable[..., Running]) -> None:
    command = running()
    victim = command.children[1]
    victim.send_signal(number)
    code, _, errors = command.end()
    assert code == 1, errors
    *others, last = errors.splitlines()
    assert re.fullmatch(rf"loadtest\.py: host-\d \(process {victim.pid}\) was ended by {number.name}", last)
    assert all(re.match(r"host-\d: ", line) for line in others), "what other hosts say of it"
    run = result(command.folder)
    assert last == f"loadtest.py: {run['error']}"
    assert (run["exit_code"], run["per_host"]) == (1, [])
    wait_until_gone(command.children)


def test_the_last_words_of_a_crash_are_shown(running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    command = running()
    victim = command.children[0]
    victim.send_signal(signal.SIGSEGV)
    code, _, errors = command.end()
    assert code == 1
    lines = errors.splitlines()
    assert re.fullmatch(r"host-\d: Fatal Python error: Segmentation fault", lines[0])
    assert all(line.startswith("host-") for line in lines[:-1])
    last = lines[-2].partition(": ")[2]
    assert lines[-1].startswith(f"loadtest.py: {lines[0][:6]} (process {victim.pid}) was ended by SIGSEGV; ")
    assert lines[-1].endswith(f"its last words: {last}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
def test_hosts_die_with_their_parent(number: signal.Signals, running: Callable[..., Running]) -> None:
    command = running()
    assert len(command.children) == 3
    command.process.send_signal(number)
    assert command.end()[0] == -number
    wait_until_gone(command.children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_all_with_the_summary(number: signal.Signals, running: Callable[..., Running]) -> None:
    command = running()
    command.process.send_signal(number)
    code, out, errors = command.end()
    assert errors == ""
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert f"{number.name}: ending the run" in out
    assert "=== summary ===" in out
    run = result(command.folder)
    check(run, 90)
    assert run["duration_seconds"] < 100
    wait_until_gone(command.children)


def test_a_signal_to_the_whole_group_is_the_same(tmp_path: Path) -> None:
    """As a terminal does it on Ctrl+C."""
    command = subprocess.Popen(
        [*COMMAND, "-hosts", "2", "-mode", "local", "-actors", "50", "-duration", "300s", "-warm"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert command.stdout is not None
        for line in command.stdout:
            if line.startswith("warm:"):
                break
        os.killpg(command.pid, signal.SIGINT)
        out, errors = command.communicate(timeout=DEADLINE)
    finally:
        command.kill()
    assert (command.returncode, errors) == (130, "")
    assert "=== summary ===" in out
    check(result(tmp_path), 50)


def test_a_second_signal_ends_it_at_once(running: Callable[..., Running]) -> None:
    command = running()
    for child in command.children:
        child.suspend()  # so that the first signal can't be obeyed
    command.process.send_signal(signal.SIGINT)
    assert command.process.stdout is not None
    assert "SIGINT: ending the run" in command.process.stdout.readline()
    command.process.send_signal(signal.SIGINT)
    assert command.end()[0] == -signal.SIGINT
    wait_until_gone(command.children)


def test_the_package_is_a_program_too(tmp_path: Path) -> None:
    small = "-hosts 2 -mode local -actors 20 -duration 200ms"
    done = subprocess.run(
        [sys.executable, "-m", "theatre_gevent.loadtest", *small.split()],
        cwd=tmp_path, capture_output=True, text=True, timeout=50, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "=== summary ===" in done.stdout


@pytest.mark.parametrize("text", ["hello\n", "{}\n", '{"parent": 1, "index": 0, "options": {}, "admin": false}\n', ""])
def test_who_starts_a_host_by_hand_is_told(text: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "theatre_gevent.loadtest", "-child", "host-1"],
        cwd=tmp_path, input=text, capture_output=True, text=True, timeout=50,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == ""
    assert done.returncode in (2, 3)
    assert done.stderr.count("\n") <= 1
