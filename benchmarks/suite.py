"""What the suite's parts share: sizes, children of one of the two builds, and where figures are gathered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

from report import HERE

ROOT = HERE.parent
LIMIT = 600.0
"""Seconds after which a child is given up."""


class Failed(Exception):
    """A child did not do what it should; its text is the last that it said."""


@dataclass
class Figures:
    """What was measured.

    Attributes:
        rows: Part, what was measured, build and figure, in the order of measurement.
        points: Of the plots: plot, line, build, x and y.
        failures: What could not be measured, and why.
    """

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    points: list[tuple[str, str, str, float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass
class Run:
    """One part under one build.

    Attributes:
        figures: Where they go.
        part: The part's name.
        build: `compiled` or `pure`.
        quick: Whether it is about seeing that it works, not about the figures.
    """

    figures: Figures
    part: str
    build: str
    quick: bool

    def size(self, full: float, quick: float) -> str:
        """Return one of two sizes as text for a flag."""
        return f"{quick if self.quick else full:g}"

    def count(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def row(self, what: str, figure: str) -> None:
        self.figures.rows.append((self.part, what, self.build, figure))
        print(f"{self.part}, {self.build}: {what}: {figure}", flush=True)

    def point(self, plot: str, line: str, x: float, y: float) -> None:
        self.figures.points.append((plot, line, self.build, x, y))

    def python(self, *arguments: str) -> str:
        """Run Python on these arguments under the build; return what it printed.

        Args:
            arguments: Of the interpreter.

        Raises:
            Failed: The exit code was not 0, or it took too long.
        """
        with tempfile.TemporaryFile("w+") as errors:
            child = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment(self.build),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            assert child.stdout is not None
            lines: list[str] = []
            try:
                timer = _Deadline(child, LIMIT)
                with child.stdout, timer:
                    lines.extend(child.stdout)
                code = child.wait()
            except BaseException:
                child.terminate()
                child.wait()
                raise
            if code or timer.expired:
                errors.seek(0)
                last = errors.read().strip().splitlines()[-1:] or lines[-1:] or ["nothing was said"]
                why = f"not done within {LIMIT:g} s" if timer.expired else f"exit code {code}: {last[0].strip()}"
                raise Failed(f"{' '.join(arguments[:4])}: {why}")
        return "".join(lines)

    def script(self, name: str, *arguments: str) -> str:
        """Run one of the benchmarks and return what it printed."""
        return self.python(str(HERE / name), *arguments)

    def script_json(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run one of the benchmarks and return the JSON object in its last line."""
        result: dict[str, Any] = json.loads(self.script(name, *arguments).splitlines()[-1])
        return result

    def script_rows(self, name: str, *arguments: str) -> list[tuple[list[str], list[str]]]:
        """Run one of the benchmarks, keep its tables' rows, and return head and cells of each."""
        found = read_tables(self.script(name, *arguments))
        if not found:
            raise Failed(f"{name} printed no table")
        for head, cells in found:
            what = " ".join(filter(None, (head[0], cells[0])))
            self.row(
                what, ", ".join(f"{title}: {cell}" for title, cell in zip(head[1:], cells[1:], strict=True) if cell)
            )
        return found

    def loadtest(self, *arguments: str) -> dict[str, Any]:
        """Run the load test and return its result.

        Raises:
            Failed: It failed, or requests did.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.json"
            self.python("loadtest.py", *arguments, "-json", str(file))
            result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if result["build"] != self.build:
            raise Failed(f"the load test ran as {result['build']}, not as {self.build}")
        return result


class _Deadline:
    """Ends a child that takes too long, in a thread of its own."""

    def __init__(self, child: subprocess.Popen[str], seconds: float) -> None:
        self.expired = False
        self._child = child
        self._timer = Timer(seconds, self._expire)

    def _expire(self) -> None:
        self.expired = True
        self._child.kill()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def environment(build: str) -> dict[str, str]:
    """Return the environment of a child: with this tree's package, under this build."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    others = {name: value for name, value in os.environ.items() if name != "THEATRE_PURE"}
    return {**others, "PYTHONPATH": path, **({"THEATRE_PURE": "1"} if build == "pure" else {})}


def builds() -> list[str]:
    """Return the builds that there are here: `compiled` first, if the extension modules were built."""
    ask = "import theatre_gevent; print(theatre_gevent.build)"
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=ROOT, env=environment(""), stdout=subprocess.PIPE, text=True, check=True
    )
    return list(dict.fromkeys([done.stdout.strip(), "pure"]))


def read_tables(text: str) -> list[tuple[list[str], list[str]]]:
    """Find Markdown tables; return for each row its table's head and its own cells."""
    found: list[tuple[list[str], list[str]]] = []
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
        elif not line.startswith("|-"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if head:
                found.append((head, cells))
            else:
                head = cells
    return found


def one_table(figures: Figures, columns: Sequence[str]) -> list[list[str]]:
    """Return the rows of the table of everything, both builds side by side."""
    merged: dict[tuple[str, str], dict[str, str]] = {}
    for part, what, build, figure in figures.rows:
        merged.setdefault((part, what), {})[build] = figure
    return [[part, what, *(found.get(build, "") for build in columns)] for (part, what), found in merged.items()]
