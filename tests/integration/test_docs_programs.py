"""The code in README and docs runs, and prints what is beneath it."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
import ujson

from tests.support import base_port

from .documents import DOCS, ENVIRONMENT, PAGES, ROOT, Block, all_blocks, blocks, files_of, run

PYTHON = all_blocks("python")
STANDING_ALONE = [block for block in PYTHON if block.mark is None]
SHELL = [block for block in all_blocks("sh") if block.mark == "run"]


def test_there_are_programs_with_output() -> None:
    assert sum(block.output is not None for block in STANDING_ALONE) >= 8
    assert len(SHELL) >= 2


@pytest.mark.parametrize("block", STANDING_ALONE, ids=str)
def test_a_program_runs_and_prints_what_is_beneath_it(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "block.py"
    file.write_text(block.source, encoding="utf-8")
    done = run([sys.executable, "-W", "error", str(file)], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    if block.output is not None:
        assert done.stdout == block.output


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_run_and_print_what_is_beneath_them(block: Block, tmp_path: Path) -> None:
    files_of(block.page, tmp_path)
    done = run(["bash", "-euo", "pipefail", "-c", block.source], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    if block.output is not None:
        assert done.stdout == block.output


def test_pieces_that_are_not_run_are_python_and_say_why() -> None:
    for block in PYTHON:
        ast.parse(block.source)
        assert block.mark in (None, "file", "not run"), str(block)
        assert block.mark is None or block.argument, f"{block}: what is it for?"


def test_commands_that_are_not_run_say_why() -> None:
    """Those of the README that are marked `command` are what CI runs."""
    for block in all_blocks("sh"):
        assert block.mark in ("run", "command", "not run"), f"{block}: neither run nor excused"
        assert block.mark == "run" or block.argument, f"{block}: why is it not run?"


def test_what_is_installed_in_a_clone_is_what_runs_there() -> None:
    """A copy elsewhere is not: programs of the clone import the sources beside them, which were not compiled then."""
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "examples").rglob("*.md"), ROOT / "benchmarks" / "README.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    installed = re.findall(r"pip install ((?:-\w+ )*)(?:'?\.|'?theatre_gevent)", text)
    assert len(installed) > 8
    assert [flags for flags in installed if "-e " not in flags] == []


def test_the_service_of_the_operating_page_stops_when_told(tmp_path: Path) -> None:
    files_of("docs/operating.md", tmp_path)
    with ExitStack() as stack:
        service = start([sys.executable, "service.py"], tmp_path, stack)
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        service.send_signal(signal.SIGTERM)
        assert service.stdout.readline() == "stopped\n"
        assert service.wait(30) == 0


def test_three_hosts_as_getting_started_starts_them(tmp_path: Path) -> None:
    program = next(block for block in blocks(DOCS / "getting-started.md") if block.argument == "three.py")
    source, base = program.source, base_port(range(6))
    ports = range(base, base + 6)
    for old, port in zip(("7001", "7002", "7003", "9001", "9002", "9003"), ports, strict=True):
        assert source.count(f"127.0.0.1:{old}") == 1
        source = source.replace(f"127.0.0.1:{old}", f"127.0.0.1:{port}")
    (tmp_path / "three.py").write_text(source, encoding="utf-8")
    with ExitStack() as stack:
        hosts = [start([sys.executable, "three.py", name], tmp_path, stack) for name in "abc"]
        seen: set[str] = set()
        assert hosts[0].stdout is not None
        assert hosts[0].stdout.readline() == f"dashboard of all three: http://127.0.0.1:{ports[3]}/\n"
        while len(seen) < 4:  # pytest's own limit of 60 s ends it
            found = re.match(r"(\w+) is at \d+, on host ([abc])$", hosts[0].stdout.readline())
            if found:
                seen.add(found[1])
        with urlopen(f"http://127.0.0.1:{ports[3]}/", timeout=10) as page:
            assert b"<title>" in page.read()
        deadline = time.monotonic() + 30
        while True:
            with urlopen(f"http://127.0.0.1:{ports[3]}/cluster/all-status", timeout=10) as answer:
                states = re.findall(r'"state":"active"', ujson.dumps(ujson.loads(answer.read())))
            if len(states) >= 3:
                break
            assert time.monotonic() < deadline, "the dashboard does not see all three"
            time.sleep(0.2)
        for host in hosts[1:]:  # its second line comes from where Ctrl+C is expected
            assert host.stdout is not None
            assert host.stdout.readline().startswith("dashboard of all three")
            assert host.stdout.readline()
        for host in hosts:
            host.send_signal(signal.SIGINT)
        for host in hosts:
            assert host.wait(30) == 0


def start(command: list[str], folder: Path, stack: ExitStack) -> subprocess.Popen[str]:
    """Start a program that is killed at the end of the stack if it runs still."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=ENVIRONMENT)
    stack.callback(process.stdout.close if process.stdout is not None else process.wait)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process
