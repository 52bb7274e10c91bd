"""examples/three_hosts.py as its reader runs it: three processes, and Ctrl+C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
import ujson

from tests.support import base_port

ROOT = Path(__file__).resolve().parents[2]
PORTS = (0, 1, 2, 10, 11, 12)
"""What the example uses, from its base port on."""
SAID = re.compile(r"greeter/\w+ on host ([abc]) to ([abc]): hello, you are number (\d+)\n")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "three_hosts.py"), *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_three_terminals(tmp_path: Path) -> None:
    base = base_port(PORTS)
    processes = {name: start(tmp_path, name, "--base-port", str(base)) for name in "abc"}
    try:
        for name, process in processes.items():
            assert process.stdout is not None
            first = process.stdout.readline()
            number = "abc".index(name)
            assert (
                first
                == f"host {name} at 127.0.0.1:{base + number}, dashboard at http://127.0.0.1:{base + 10 + number}/\n"
            )
        for name, process in processes.items():
            assert process.stdout is not None
            answered: set[str] = set()
            for line in process.stdout:
                if said := SAID.fullmatch(line):
                    assert said[2] == name
                    answered.add(said[1])
                if answered == {"a", "b", "c"}:
                    break
            assert answered == {"a", "b", "c"}
        with urlopen(f"http://127.0.0.1:{base + 11}/cluster/all-status", timeout=20) as answer:
            assert [entry["answered"] for entry in ujson.loads(answer.read())["hosts"]] == [True] * 3
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for process in processes.values():
            out, errors = process.communicate(timeout=30)
            told = [line for line in errors.splitlines() if not line.startswith("cannot connect to host ")]
            assert (process.returncode, told) == (0, []), "but that one has gone before the other"
            assert out.endswith("stopped\n")
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


@pytest.mark.parametrize("arguments", [[], ["z"], ["a", "--base-port", "many"], ["a", "b"]])
def test_a_mistake_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    process = start(tmp_path, *arguments)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"three_hosts\.py: .*; see --help\n", errors)


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    base = base_port(PORTS)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base))
        taken.listen()
        process = start(tmp_path, "a", "--base-port", str(base))
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert re.fullmatch(rf"three_hosts\.py: .*127\.0\.0\.1:{base}.*\n", errors)
