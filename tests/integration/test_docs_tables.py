"""The documentation's tables can't drift from the code: log lines, guarantees, options, metrics, errors, flags."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import theatre_gevent
from theatre_gevent import HostOptions, StopActor, TheatreError
from theatre_gevent.admin.views import VIEWS
from theatre_gevent.loadtest.options import PROFILES
from theatre_gevent.metrics import METRICS

from .documents import DOCS, ENVIRONMENT, PAGES, ROOT, log_lines, run, table

LOGGERS = ("actor", "host", "cluster", "schedules", "admin", "run")


def test_every_log_line_is_explained_and_no_other() -> None:
    shown = {
        (f"theatre_gevent.{logger}", message.strip("`"), frozenset(level.split(", ")))
        for logger in LOGGERS
        for message, level, _, _ in table("docs/log-lines.md", f"## theatre_gevent.{logger}", "message")
    }
    logged = {(line.logger, line.text, line.levels) for line in log_lines()}
    assert [line[:2] for line in logged - shown] == []  # what docs/log-lines.md does not explain, or at other levels
    assert [line[:2] for line in shown - logged] == []  # what the code does not say any more


def check_tests_exist(text: str) -> None:
    for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test in there, f"{file}::{test}"


def test_each_guarantee_names_tests_that_exist() -> None:
    text = (DOCS / "guarantees.md").read_text(encoding="utf-8")
    assert re.findall(r"`tests/[\w/]+\.py`", text) == []
    check_tests_exist(text)
    sections = re.split(r"^## (?=\d\. )", text, flags=re.MULTILINE)[1:]
    assert [section[:2] for section in sections] == [f"{number}." for number in range(1, 9)]
    for section in sections:
        assert "**Not promised.**" in section
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", section)


def test_each_finding_of_the_chaos_runs_names_its_test() -> None:
    for _, by, tests in table("docs/chaos.md", "## What it found", "what"):
        assert "::test_" in tests, by
        check_tests_exist(tests)


def test_the_reference_has_every_public_name() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^::: theatre_gevent\.(\w+)$", text, re.MULTILINE)
    assert sorted(shown) == sorted(theatre_gevent.__all__)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n", 1)[1]
    listed = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents)


def test_options() -> None:
    def shown(value: object, seconds: bool) -> str:
        if seconds:
            return f"{value:g} s"
        return logging.getLevelName(value) if value is logging.INFO else str(value)

    expected = [
        (f"`{option.name}`", shown(option.default, option.metadata.get("check") == "seconds"))
        for option in fields(HostOptions)
    ]
    assert [(name, default) for name, default, _ in table("docs/tuning.md", "## Options", "option")] == expected


def test_options_that_may_be_zero_are_marked() -> None:
    zero = {f"`{option.name}`" for option in fields(HostOptions) if option.metadata.get("zero")}
    assert {
        name for name, _, meaning in table("docs/tuning.md", "## Options", "option") if "0 is allowed" in meaning
    } == zero


def test_metrics() -> None:
    assert [(name.strip("`"), meaning) for name, meaning in table("docs/metrics.md", "# Metrics", "name")] == list(
        METRICS.items()
    )


def test_addresses_of_the_admin_server() -> None:
    served = [view.path for view in VIEWS] + ["/metrics", "/healthz", "/readyz", "/cluster/freeze", "/cluster/drain"]
    assert sorted(
        path.strip("`") for path, _ in table("docs/admin.md", "# Admin server and dashboard", "address")
    ) == sorted(served)


def test_errors() -> None:
    public = [getattr(theatre_gevent, name) for name in theatre_gevent.__all__]
    errors = {item for item in public if inspect.isclass(item) and issubclass(item, TheatreError)} - {TheatreError}
    rows = table("docs/errors.md", "# Errors", "error")
    assert sorted(name for name, _ in rows) == sorted(f"`{error.__name__}`" for error in (*errors, StopActor))
    for name, meaning in rows:
        error = getattr(theatre_gevent, name.strip("`"))
        for builtin in (ValueError, TypeError, TimeoutError):
            assert (f"`{builtin.__name__}`" in meaning) == issubclass(error, builtin), (name, builtin)


def test_load_test_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "COLUMNS", "200")
    done = run([sys.executable, str(ROOT / "loadtest.py"), "--help"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    flags = re.findall(r"^ +(-[a-z]+)\b", done.stdout.split("\nflags:\n", 1)[1], re.MULTILINE)
    assert [name.strip("`") for name, _ in table("docs/load-test.md", "# Load test", "flag")] == [
        flag for flag in flags if flag != "-h"
    ]


def test_load_test_profiles() -> None:
    def number(value: int) -> str:
        return f"{value:,}".replace(",", " ")

    assert table("docs/load-test.md", "# Load test", "profile") == [
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
