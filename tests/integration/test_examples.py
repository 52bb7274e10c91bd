"""Every example runs without a warning and prints what its docstring says."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "Prints:\n\n"


def promised(example: Path) -> str | None:
    """What the example's docstring says that it prints; None for one that makes no such promise."""
    text = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    return textwrap.dedent(text.split(MARK, 1)[1]).strip() if MARK in text else None


EXAMPLES = {path.name: output for path in sorted((ROOT / "examples").glob("*.py")) if (output := promised(path))}


def test_the_examples_are_found() -> None:
    quick = {"quickstart.py", "counter.py", "lifecycle.py", "asking.py", "reminders.py"}
    assert set(EXAMPLES) == quick | {"chat_room.py", "rate_limiter.py", "transfer.py", "ring.py"}
    # Those that run until they are told to stop have tests of their own.
    others = {path.name for path in (ROOT / "examples").glob("*.py")} - set(EXAMPLES)
    assert others == {"playground.py", "three_hosts.py"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=50,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == EXAMPLES[name]
