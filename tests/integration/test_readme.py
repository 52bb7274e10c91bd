"""The README can't drift: its commands are those of CI, its quick start is the example, its links lead somewhere."""

from __future__ import annotations

import ast
import re

import pytest

from .documents import ROOT, blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")


def command(name: str) -> str:
    found = re.findall(rf"^<!-- command: {name} -->\n```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_quick_start_is_the_example() -> None:
    source = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)) is not None
    assert source.split('"""\n\n', 1)[1] == next(
        block.source for block in blocks(ROOT / "README.md") if block.language == "python"
    )


@pytest.mark.parametrize("name", ["load-test", "tests"])
def test_command_is_one_line_that_starts_from_nothing(name: str) -> None:
    line = command(name)
    assert "\n" not in line
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -q ")
    # CI runs the commands, the second of which runs this test: so they are not run from here.
    assert f"readme_command {name})" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)(?:#[^)]*)?\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
