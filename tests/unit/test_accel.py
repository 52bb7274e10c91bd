"""Compiled or plain: all of the hot modules or none, and only when they were built from the sources that are there."""

from __future__ import annotations

import compileall
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import theatre_gevent
from theatre_gevent import _accel

PACKAGE = Path(theatre_gevent.__file__).parent
compiled = pytest.mark.skipif(_accel.build != "compiled", reason="there are no extension modules of these sources here")

ASK = """
import sys, theatre_gevent
from theatre_gevent import _accel
import theatre_gevent.cluster.router, theatre_gevent.cluster.transport, theatre_gevent.memory
files = {sys.modules[f"theatre_gevent.{name}"].__file__.endswith((".py", ".pyc")) for name in _accel.MODULES}
print(theatre_gevent.build, files, _accel.reason, sep="|")
"""


def ask(root: Path, **environment: str) -> tuple[str, str, str]:
    """Return what runs in a new process, from a folder or a zip, whether its hot modules are plain, and why."""
    result = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=root if root.is_dir() else root.parent,
        env={**{k: v for k, v in os.environ.items() if k != "THEATRE_PURE"}, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    build, files, reason = result.stdout.strip().split("|")
    return build, files, reason


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_what_runs_is_what_is_said() -> None:
    modules = [importlib.import_module(f"theatre_gevent.{name}") for name in _accel.MODULES]
    plain = {(module.__file__ or "").endswith(".py") for module in modules}
    assert plain == {theatre_gevent.build == "pure"}
    assert (_accel.reason is None) == (theatre_gevent.build == "compiled")


def test_plain_python_can_be_forced() -> None:
    assert ask(PACKAGE.parent, THEATRE_PURE="1") == ("pure", "{True}", "THEATRE_PURE is set")


@compiled
@pytest.mark.parametrize("value", ["", "0"])
def test_it_is_not_forced_by_nothing(value: str) -> None:
    assert ask(PACKAGE.parent, THEATRE_PURE=value) == ("compiled", "{False}", "None")


@compiled
@pytest.mark.parametrize("suffix", [".py", ".pxd"])
def test_an_edited_source_is_never_hidden_by_what_was_built_before(copy: Path, suffix: str) -> None:
    with (copy / PACKAGE.name / "core" / f"worker{suffix}").open("a") as source:
        source.write("\n# edited\n")
    build, files, reason = ask(copy)
    assert (build, files) == ("pure", "{True}")
    assert "changed" in reason


@compiled
def test_one_extension_module_missing_turns_the_others_off(copy: Path) -> None:
    for extension in (copy / PACKAGE.name / "core").glob("waits.*.*"):
        extension.unlink()
    build, files, reason = ask(copy)
    assert (build, files) == ("pure", "{True}")
    assert "core.waits" in reason


@compiled
def test_what_was_built_for_another_python_says_nothing_about_this_one(copy: Path) -> None:
    record = copy / PACKAGE.name / _accel.RECORD
    record.rename(record.with_name(_accel.record(".cpython-399-of-another-python.so")))
    assert ask(copy) == ("pure", "{True}", "the extension modules were not built")


def test_each_python_has_a_record_of_its_own() -> None:
    suffixes = [".cpython-311-x86_64-linux-gnu.so", ".cpython-313t-darwin.so", ".cp311-win_amd64.pyd", ".so"]
    names = [_accel.record(suffix) for suffix in suffixes]
    assert names == [
        "_compiled.cpython-311-x86_64-linux-gnu.txt",
        "_compiled.cpython-313t-darwin.txt",
        "_compiled.cp311-win_amd64.txt",
        "_compiled.txt",
    ]


@pytest.fixture
def sources(copy: Path) -> Path:
    """A copy without extension modules."""
    for pattern in ("*.so", "*.pyd", "_compiled.*"):
        for built in copy.rglob(pattern):
            built.unlink()
    return copy


NOT_BUILT = ("pure", "{True}", "the extension modules were not built")


def test_sources_alone_run(sources: Path) -> None:
    assert ask(sources) == NOT_BUILT


def test_a_zip_of_the_sources_runs(sources: Path) -> None:
    archive = shutil.make_archive(str(sources / "apart" / "archive"), "zip", sources, PACKAGE.name)
    assert ask(Path(archive)) == NOT_BUILT


def leave_bytecode_alone(folder: Path) -> None:
    assert compileall.compile_dir(folder, quiet=2, legacy=True)
    for source in folder.rglob("*.py"):
        source.unlink()


def test_bytecode_alone_runs(sources: Path) -> None:
    leave_bytecode_alone(sources)
    assert ask(sources) == NOT_BUILT


@compiled
def test_bytecode_and_extension_modules_run_and_plain_python_can_be_forced(copy: Path) -> None:
    leave_bytecode_alone(copy)
    assert ask(copy) == ("compiled", "{False}", "None")
    assert ask(copy, THEATRE_PURE="1") == ("pure", "{True}", "THEATRE_PURE is set")


@pytest.mark.skipif(not os.environ.get("CI"), reason="only CI has to have a compiler")
@pytest.mark.skipif(os.environ.get(_accel.SETTING, "0") not in ("", "0"), reason="plain Python is what is asked for")
def test_ci_runs_what_was_compiled() -> None:
    """A build that falls back would have plain Python tested twice."""
    assert theatre_gevent.build == "compiled", _accel.reason


def test_every_compiled_module_has_types_and_every_types_file_a_module() -> None:
    beside = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.pxd")}
    assert beside - set(_accel.HEADERS) == set(_accel.MODULES)


def test_a_build_translates_all_again_when_what_they_are_compiled_with_has_changed(tmp_path: Path) -> None:
    assert not _accel.headers_changed(tmp_path)  # nothing was built
    (tmp_path / "core").mkdir()
    newest = max(_accel.source(header, ".pxd").stat().st_mtime for header in _accel.HEADERS)
    for name, age in (("gone.c", -99), ("memory.c", 5), ("core/fifo.c", 9)):  # the first is of a former module
        file = tmp_path / name
        file.touch()
        os.utime(file, (newest + age, newest + age))
    assert not _accel.headers_changed(tmp_path)
    os.utime(file, (newest - 1, newest - 1))  # one is older than a header
    assert _accel.headers_changed(tmp_path)


@pytest.mark.parametrize("module", ["cluster.incoming", "cluster.returning", "cluster.router", "core.dispatcher"])
def test_modules_that_need_each_other_can_be_imported_in_any_order(module: str) -> None:
    """A types file that names another module's class imports that module, earlier than its source does."""
    code = f"import theatre_gevent.{module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 0, result.stderr
