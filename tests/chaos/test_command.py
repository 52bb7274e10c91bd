"""The command that runs many seeds, from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.chaos import command
from tests.support import gone, until


@pytest.mark.faults
@pytest.mark.timeout(120)
def test_who_ends_many_runs_ends_all_that_they_have_started(tmp_path: Path) -> None:
    """They went on, each with its hosts and its PostgreSQL."""
    words = [
        sys.executable,
        "-m",
        "tests.chaos",
        "--seeds",
        "1..2",
        "--parallel",
        "2",
        "--keep",
        str(tmp_path / "kept"),
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, cwd=command.ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        family: list[psutil.Process] = []

        def started() -> bool:
            family[:] = psutil.Process(process.pid).children(recursive=True)
            return any("tests.chaos.chaos_host" in " ".join(command_line(each)) for each in family)

        try:
            until(started, 40)
            process.terminate()
            assert process.wait(30) == 128 + signal.SIGTERM
            until(lambda: gone(family), 15)
        finally:
            for each in family:
                if each.is_running():
                    each.kill()
            process.kill()


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []
