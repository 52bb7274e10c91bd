"""What the benchmarks share: the machine in a line, tables, and children that run alone and report in JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent


def machine() -> str:
    """Name processor, cores and system, and the interpreter."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, {python}"


def versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown that reads well as it is; numbers, in all columns but the first, to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "| " + " | ".join(padded) + " |"

    first, *others = widths
    rule = "|" + "|".join(["-" * (first + 2), *("-" * (width + 1) + ":" for width in others)]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def run_child(script: str, *arguments: str, timeout: float = 600.0) -> dict[str, Any]:
    """Run one of our scripts in a process of its own and return the JSON object in its last line.

    Raises:
        SystemExit: It failed; what it said has gone to stderr.
    """
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(arguments)} failed with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the flags, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    """An argparse type: a whole number of 1 or more."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number of 1 or more is needed, got {text!r}")
    return number


def seconds(text: str) -> float:
    """An argparse type: a time of more than 0 seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, got {text!r}")
    return number


def percent(text: str) -> int:
    """An argparse type: 0 to 100."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to 100 is needed, got {text!r}")
    return number
