"""The playground: three hosts that answer each other, in one process and in three, until they are stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_three_processes_answer_each_other(tmp_path: Path) -> None:
    """The ports are fixed, as the printed advice needs it: nothing else on the machine may use them."""
    processes = [play(tmp_path, name) for name in "abc"]
    try:
        for process, name in zip(processes, "abc", strict=True):
            assert process.stdout is not None
            answered = set()
            for line in process.stdout:
                found = re.fullmatch(rf"hello from {name}, from echo/\w+ on host ([abc])\n", line)
                if found:
                    answered.add(found[1])
                if answered == {"a", "b", "c"}:
                    break
            assert answered == {"a", "b", "c"}
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            assert process.communicate(timeout=30)[0].endswith("stopped\n")
            assert process.returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_an_unknown_host_is_refused(tmp_path: Path) -> None:
    process = play(tmp_path, "z")
    assert process.communicate(timeout=30) == ("", "usage: playground.py [a | b | c]\n")
    assert process.returncode == 1
