"""Processes that a command of this package starts from this package: what they are given, and how they ended."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    """Return this process' environment, and let the new one find this package also where it is not installed."""
    home = str(Path(__file__).resolve().parents[1])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": home + (os.pathsep + before if before else "")}


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `module` with this interpreter, as strict about warnings as this process."""
    return [sys.executable, *(f"-W{option}" for option in sys.warnoptions), "-m", module, *arguments]


def ending(code: int) -> str:
    """Say how a process ended, after its name: by a signal, or with an exit code."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
