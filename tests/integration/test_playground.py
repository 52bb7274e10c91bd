"""The playground: three hosts that answer each other, in one process and in three, until they are stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
import ujson

from tests.support import gone

pytestmark = pytest.mark.usefixtures("fixed_ports")
ROOT = Path(__file__).resolve().parents[2]


def play(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "playground.py"), *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_three_hosts_in_one_process(number: signal.Signals, tmp_path: Path) -> None:
    process = play(tmp_path)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "Running until Ctrl+C.\n":
                break
        dashboards = re.findall(
            r"^host ([abc]) has its dashboard at (http://127.0.0.1:\d+/)$", "".join(lines), re.MULTILINE
        )
        assert [name for name, _ in dashboards] == ["a", "b", "c"]
        for _, url in dashboards:
            with urlopen(f"{url}cluster/all-status", timeout=20) as answer:
                assert [entry["answered"] for entry in ujson.loads(answer.read())["hosts"]] == [True] * 3
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors, rest) == (0, "", "stopped\n")
    text = "".join(lines)
    answers = re.findall(r"^a asks (echo/\w+): hello, from (echo/\w+) on host ([abc])$", text, re.MULTILINE)
    assert len(answers) == 6
    assert all(asked == answered for asked, answered, _ in answers)
    homes = {ref: host for ref, _, host in answers}
    assert set(homes.values()) == {"a", "b", "c"}
    assert len(re.findall(r"^echo/\w+ was pinged by all hosts and heard 3 pings$", text, re.MULTILINE)) == 6
    actors = dict(re.findall(r"^host ([abc]): (\d+) actors, ", text, re.MULTILINE))
    assert {host: int(count) for host, count in actors.items()} == {
        host: list(homes.values()).count(host) for host in "abc"
    }


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_being_started_can_be_stopped(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = play(tmp_path, "-dsn", "embedded")
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert first.startswith("host a has its dashboard at")
    assert (process.returncode, errors) == (code, "")
    assert "Running until" not in rest
    assert gone(family)


def hosts_that_answer(process: subprocess.Popen[str], name: str) -> set[str]:
    """Read what host `name` prints until all three hosts have answered it."""
    assert process.stdout is not None
    answered: set[str] = set()
    for line in process.stdout:
        found = re.fullmatch(rf"hello from {name}, from echo/\w+ on host ([abc])\n", line)
        if found:
            answered.add(found[1])
        if answered == {"a", "b", "c"}:
            break
    return answered


def test_three_processes_answer_each_other(tmp_path: Path) -> None:
    """The ports are fixed, as the printed advice needs it: nothing else on the machine may use them."""
    processes = [play(tmp_path, name) for name in "abc"]
    try:
        for process, name in zip(processes, "abc", strict=True):
            assert process.stdout is not None
            assert hosts_that_answer(process, name) == {"a", "b", "c"}
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            assert process.communicate(timeout=30)[0].endswith("stopped\n")
            assert process.returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_with_a_private_server_actors_move(number: signal.Signals, tmp_path: Path) -> None:
    process = play(tmp_path, "-dsn", "embedded")
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "Running until Ctrl+C.\n":
                break
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 3
        process.send_signal(number)
        rest = process.communicate(timeout=40)[0]
    finally:
        process.kill()
    assert (process.returncode, rest) == (0, "stopped\n")
    assert gone(family)
    text = "".join(lines)
    assert len(re.findall(r"^echo/\w+ was pinged by all hosts and heard 3 pings$", text, re.MULTILINE)) == 6
    answers = re.findall(r"^a asks (echo/\w+) again: hello, from (echo/\w+) on host ([ab]) ", text, re.MULTILINE)
    assert len(answers) == 6
    assert all(asked == answered for asked, answered, _ in answers)
    assert "host c has stopped\n" in text


def test_processes_share_a_given_database(dsn: str, tmp_path: Path) -> None:
    """Host c is killed, and its actors come alive on the others."""
    processes = {name: play(tmp_path, "-dsn", dsn, name) for name in "abc"}
    try:
        seen = hosts_that_answer(processes["a"], "a")
        assert seen == {"a", "b", "c"}
        processes["c"].kill()
        homes: dict[str, str] = {}
        assert processes["a"].stdout is not None
        for line in processes["a"].stdout:
            found = re.fullmatch(r"hello from a, from (echo/\w+) on host ([abc])\n", line)
            if found:
                homes[found[1]] = found[2]
            if len(homes) == 6 and set(homes.values()) == {"a", "b"}:
                break
        assert set(homes.values()) == {"a", "b"}
        for name in "ab":
            processes[name].send_signal(signal.SIGINT)
        for name in "ab":
            assert processes[name].communicate(timeout=30)[0].endswith("stopped\n")
            assert processes[name].returncode == 0
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


@pytest.mark.parametrize("arguments", [["-dsn"], ["-dsn", "embedded", "a"], ["-dsn", "embedded", "z"], ["a", "b"]])
def test_a_mistake_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    process = play(tmp_path, *arguments)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert errors == "usage: playground.py [-dsn DSN | -dsn embedded] [a | b | c]\n"


@pytest.mark.parametrize("dsn", ["nonsense", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_database_that_is_not_there_is_one_line(dsn: str, tmp_path: Path) -> None:
    process = play(tmp_path, "-dsn", dsn)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert re.fullmatch(r"playground\.py: .*\n", errors)


def test_an_unknown_host_is_refused(tmp_path: Path) -> None:
    process = play(tmp_path, "z")
    assert process.communicate(timeout=30) == (
        "",
        "usage: playground.py [-dsn DSN | -dsn embedded] [a | b | c]\n",
    )
    assert process.returncode == 2
