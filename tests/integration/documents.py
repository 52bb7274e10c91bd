"""The pages of the documentation, as programs, tables and commands: what the tests of README and docs share."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (file|not run|run|command)(?:: ([^\n]*?))? -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
SOURCES = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCES, "PATH": TOOLS, "PYTHONIOENCODING": "utf-8"}


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: Path of the page, from the project's folder on.
        line: Where it begins.
        language: What stands after the fence.
        source: Its text.
        output: The text block that follows it, None if another one does.
        mark: The comment before it: `file`, a program with a name that others on its page use; `not run`, a piece that
            does not stand by itself; `run`, a shell block to be run; None for none.
        argument: What the comment says after the mark.
    """

    page: str
    line: int
    language: str
    source: str
    output: str | None
    mark: str | None
    argument: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    made = []
    for block, following in pairwise([*found, None]):
        assert block is not None
        output = following[4] if following is not None and following[3] == "text" else None
        line = text.count("\n", 0, block.start()) + 1
        made.append(Block(str(page.relative_to(ROOT)), line, block[3], block[4], output, block[1], block[2]))
    return made


def all_blocks(language: str) -> list[Block]:
    """Return the blocks of all pages in one language."""
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def files_of(page: str, folder: Path) -> None:
    """Write the named programs of a page to a folder."""
    for block in blocks(ROOT / page):
        if block.mark == "file":
            assert block.argument
            file = folder / block.argument
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.source, encoding="utf-8")


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a page as its reader would, in a folder of its own."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=55,
        cwd=folder,
        env=ENVIRONMENT,
        check=False,
    )


def table(page: str, heading: str, first_column: str) -> list[list[str]]:
    """Return the rows of the table that begins with `first_column`, below `heading`, a line such as `## Options`."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"{heading}\n", 1)[1]
    level = heading.partition(" ")[0]
    section = re.split(rf"^#{{1,{len(level)}}} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    lines = section.split(f"\n| {first_column} |", 1)[1].split("\n")[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip().strip("|").split(" | ")])
    assert rows
    return rows


class Line(NamedTuple):
    """A log call of the package.

    Attributes:
        logger: Name of its logger.
        levels: Names of the levels that it may have.
        text: The first line of the message, with a dot of three for each value that is put in.
        where: Module and line.
    """

    logger: str
    levels: frozenset[str]
    text: str
    where: str


_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def log_lines() -> list[Line]:
    """Return the log calls of the package."""
    found = []
    for file in sorted((ROOT / "theatre_gevent").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        tree = ast.parse(source)
        where = str(file.relative_to(ROOT))
        if "loadtest" in where:  # a program of its own, which logs nothing
            continue
        named = re.search(r'^log = logging.getLogger\("([\w.]+)"\)', source, re.MULTILINE)
        strings = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            method, arguments = node.func, node.args
            if isinstance(method, ast.Name) and method.id == "safely":
                method, *arguments = arguments
            if not isinstance(method, ast.Attribute):
                continue
            verb, owner = method.attr, ast.unparse(method.value)
            is_gate = owner.endswith("gate") and verb == "warning"
            if not is_gate and not (owner in ("log", "logger", "_log") and verb in _LEVELS | {"log"}):
                continue
            message = arguments[1 if is_gate or verb == "log" else 0]
            if isinstance(message, ast.Name) and message.id in strings:
                message = strings[message.id]
            text = _text(message)
            if text == "%s%s":  # the gate's own call: those who use it are found by themselves
                continue
            levels = {verb.upper()}
            if verb == "exception":
                levels = {"ERROR"}
            elif verb == "log":
                levels = set(re.findall(r"\b(DEBUG|INFO|WARNING|ERROR)\b", source)) & {"INFO", "WARNING", "ERROR"}
            logger = named[1] if named else "theatre_gevent.cluster"  # `from .logs import log`
            found.append(Line(logger, frozenset(levels), _shown(text), f"{where}:{node.lineno}"))
    assert len(found) > 50
    return found


def _shown(text: str) -> str:
    return re.sub(r"%[.\d]*[a-z]|\{\}", "…", text.split("\n")[0])


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return f"<{ast.unparse(node)}>"
