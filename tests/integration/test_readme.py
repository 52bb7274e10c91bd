"""The README can't drift from the code: its blocks run, its tables are compared, its commands are the ones CI runs."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest

import theatre_gevent
from theatre_gevent import HostOptions, StopActor, TheatreError
from theatre_gevent.admin.views import VIEWS
from theatre_gevent.loadtest.options import PROFILES
from theatre_gevent.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


class Program(NamedTuple):
    """A Python block and the output that is printed beneath it, None where there is none."""

    line: int
    source: str
    output: str | None


def programs() -> list[Program]:
    blocks = list(BLOCK.finditer(README))
    found = []
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] == "python":
            output = following[2] if following is not None and following[1] == "text" else None
            found.append(Program(README.count("\n", 0, block.start()) + 1, block[2], output))
    return found


def table(heading: str, first_column: str) -> list[list[str]]:
    """The rows, without backquotes, of the table under `heading` that begins with `first_column`."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = section.split(f"\n| {first_column} |", 1)[1].split("\n")[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows
    return rows


def command(name: str) -> str:
    found = re.findall(rf"^<!-- command: {name} -->\n```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_there_are_programs_with_output() -> None:
    assert sum(program.output is not None for program in programs()) >= 2


@pytest.mark.parametrize("program", programs(), ids=lambda program: f"line-{program.line}")
def test_block_runs_and_prints_what_is_beneath_it(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "block.py"
    file.write_text(program.source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=50,
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if program.output is not None:
        assert done.stdout == program.output


def test_the_quick_start_is_the_example() -> None:
    source = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)) is not None
    assert source.split('"""\n\n', 1)[1] == programs()[0].source


def test_options() -> None:
    def shown(value: object, seconds: bool) -> str:
        if seconds:
            return f"{value:g} s"
        return logging.getLevelName(value) if value is logging.INFO else str(value)

    expected = [
        (f"`{option.name}`", shown(option.default, option.metadata.get("check") == "seconds"))
        for option in fields(HostOptions)
    ]
    assert [(name, default) for name, default, _ in table("Options", "option")] == expected


def test_options_that_may_be_zero_are_marked() -> None:
    zero = {f"`{option.name}`" for option in fields(HostOptions) if option.metadata.get("zero")}
    assert {name for name, _, meaning in table("Options", "option") if "0 is allowed" in meaning} == zero


def test_metrics() -> None:
    assert [(name.strip("`"), meaning) for name, meaning in table("Metrics", "name")] == list(METRICS.items())


def test_addresses_of_the_admin_server() -> None:
    served = [view.path for view in VIEWS] + ["/metrics", "/healthz", "/readyz", "/cluster/freeze", "/cluster/drain"]
    assert sorted(path.strip("`") for path, _ in table("Admin server", "address")) == sorted(served)


def test_errors() -> None:
    public = [getattr(theatre_gevent, name) for name in theatre_gevent.__all__]
    errors = {item for item in public if inspect.isclass(item) and issubclass(item, TheatreError)} - {TheatreError}
    rows = table("Errors", "error")
    assert sorted(name for name, _ in rows) == sorted(f"`{error.__name__}`" for error in (*errors, StopActor))
    for name, meaning in rows:
        error = getattr(theatre_gevent, name.strip("`"))
        for builtin in (ValueError, TypeError, TimeoutError):
            assert (f"`{builtin.__name__}`" in meaning) == issubclass(error, builtin), (name, builtin)


def test_load_test_flags() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "loadtest.py"), "--help"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=50,
        env={**ENVIRONMENT, "COLUMNS": "200"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    flags = re.findall(r"^ +(-[a-z]+)\b", done.stdout.split("\nflags:\n", 1)[1], re.MULTILINE)
    assert [name.strip("`") for name, _ in table("Load test", "flag")] == [flag for flag in flags if flag != "-h"]


def test_load_test_profiles() -> None:
    def number(value: int) -> str:
        return f"{value:,}".replace(",", " ")

    assert table("Load test", "profile") == [
        [
            profile.name,
            number(profile.actors),
            number(profile.workers),
            number(profile.actor_inbox),
            number(profile.host_inbox),
            f"{profile.idle_timeout:g} s",
            f"{profile.memlimit >> 30} GiB",
        ]
        for profile in PROFILES.values()
    ]


@pytest.mark.parametrize("name", ["load-test", "tests"])
def test_command_is_one_line_that_starts_from_nothing(name: str) -> None:
    line = command(name)
    assert "\n" not in line
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -q ")
    # CI runs the commands, the second of which runs this test: so they are not run from here.
    assert f"readme_command {name})" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
