"""setup.py with real compilers, on a package of two small modules, and the contents of the source distribution."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from theatre_gevent import _accel

from .documents import ROOT

OTHER = ".cpython-399-of-another-python.so"
"""How the names of extension modules end for another Python that shares the clone."""

ASK = """
from theatre_gevent import _accel, one, two
kinds = {module.__file__.endswith(".py") for module in (one, two)}
print(_accel.build, *({True: "pure", False: "compiled"}[kind] for kind in kinds), one.value(), two.value())
"""


class Project:
    """A package `theatre_gevent` whose hot modules are `one` and `two`, with the real `setup.py` and `_accel.py`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "theatre_gevent"

    def make(self) -> None:
        """Write all of it, sources that both return 1."""
        root = self.root
        self.package.mkdir()
        shutil.copy(ROOT / "setup.py", root)
        (root / "setup.cfg").write_text(
            "[metadata]\nname = theatre_gevent\nversion = 1\n[options]\npackages = theatre_gevent\n"
            "[options.package_data]\n* = *.pxd\n"
        )
        accel = (ROOT / "theatre_gevent" / "_accel.py").read_text(encoding="utf-8")
        for name, value in (("MODULES", '("one", "two")'), ("HEADERS", '("head",)')):
            accel, found = re.subn(rf"^{name} = \([^)]*\)", f"{name} = {value}", accel, flags=re.MULTILINE)
            assert found == 1
        (self.package / "_accel.py").write_text(accel, encoding="utf-8")
        (self.package / "__init__.py").write_text("from . import _accel\n")
        (self.package / "head.pxd").write_text("")
        self.write("one", 1)
        self.write("two", 1)

    def write(self, module: str, value: int, age: float = 0.0) -> None:
        """Write the source of a module, as old as `age` seconds."""
        file = self.package / f"{module}.py"
        file.write_text(f"def value():\n    return {value}\n")
        if age:
            then = file.stat().st_mtime - age
            os.utime(file, (then, then))

    def build(self, *arguments: str, **environment: str) -> str:
        """Build in place; returns what was said about a failure."""
        return self.setup("build_ext", "--inplace", *arguments, **environment)

    def setup(self, *arguments: str, **environment: str) -> str:
        """Run `setup.py`; returns what was said about a build that failed."""
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", *arguments],
            cwd=self.root,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return "".join(line for line in done.stderr.splitlines() if "NOT compiled" in line)

    def runs(self, folder: Path | None = None) -> str:
        """Return which build runs from a folder, what both modules are, and what they return."""
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            cwd=folder or self.root,
            env={name: value for name, value in os.environ.items() if name not in ("THEATRE_PURE", "PYTHONPATH")},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def translated(self, module: str) -> int:
        """Return when the C file of a module was made, in nanoseconds."""
        [file] = (self.root / "build").rglob(f"{module}.c")
        return file.stat().st_mtime_ns


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a project has been built in place."""
    made = Project(tmp_path_factory.mktemp("built"))
    made.make()
    if failed := made.build():
        if os.environ.get("CI"):  # it has to have a compiler
            pytest.fail(failed)
        pytest.skip(failed)
    return made.root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Project:
    """A copy of it, with the times of its files."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    copy = Project(tmp_path)
    assert copy.runs() == "compiled compiled 1 1"
    return copy


def test_two_pythons_that_share_a_clone_never_run_what_was_built_of_other_sources(project: Project) -> None:
    of_another = {"SETUPTOOLS_EXT_SUFFIX": OTHER}
    folders = ("--build-temp", "build/temp.other", "--build-lib", "build/lib.other")
    project.write("one", 2)
    assert not project.build(*folders, **of_another)
    assert {file.name for file in project.package.glob("_compiled.*")} == {_accel.RECORD, _accel.record(OTHER)}
    assert project.runs() == "pure pure 2 1"

    shutil.rmtree(project.root / "build" / "temp.other")
    assert not project.build()
    assert project.runs() == "compiled compiled 2 1"
    failed = project.build(*folders, "--force", CC="/bin/false", **of_another)
    assert "/bin/false" in failed
    assert project.runs() == "compiled compiled 2 1"  # it has only its own to forget
    assert [file.name for file in project.package.glob("_compiled.*")] == [_accel.RECORD]


def test_a_changed_source_that_looks_older_than_what_was_made_of_it_is_compiled(project: Project) -> None:
    """Git and archives may bring back times with the sources."""
    project.write("one", 2, age=3600)
    assert not project.build()
    assert project.runs() == "compiled compiled 2 1"

    # Elsewhere, as an editable installation builds: what stands in the package is newer then than what is built next.
    project.write("one", 3)
    assert not project.build("--build-temp", str(project.root / "t"), "--build-lib", str(project.root / "l"))
    assert project.runs() == "compiled compiled 3 1"
    project.write("one", 2, age=3600)
    assert not project.build()
    assert project.runs() == "compiled compiled 2 1"


def test_what_an_edited_source_has_nothing_to_do_with_is_not_translated_again(project: Project) -> None:
    before = project.translated("one"), project.translated("two")
    project.write("one", 2)
    assert not project.build()
    assert project.runs() == "compiled compiled 2 1"
    assert project.translated("one") > before[0]
    assert project.translated("two") == before[1]


def test_what_is_built_to_be_installed_holds_all_that_it_needs_and_no_more(project: Project) -> None:
    """A wheel holds the folder that `build` makes."""
    (project.package / _accel.record(OTHER)).write_text("of another Python\n")
    assert not project.setup("build", "--build-lib", "installed")
    installed = project.root / "installed"
    assert project.runs(installed) == "compiled compiled 1 1"
    assert [file.name for file in (installed / "theatre_gevent").glob("_compiled.*")] == [_accel.RECORD]
    for source in ("one.py", "two.py"):
        (installed / "theatre_gevent" / source).unlink()
    assert project.runs(installed) == "compiled compiled 1 1"  # without sources nothing else can be meant


def test_the_source_distribution_holds_what_its_own_tests_need(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    folders = (".git", ".venv*", ".tox", ".*_cache", "__pycache__", "build", "dist", "site", "*.egg-info", "chaos-runs")
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*folders, "*.so", "_compiled.*", "crash-*"))
    (tree / "theatre_gevent" / _accel.RECORD).write_text("of this Python\n")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    for folder in (".ci", "tests", "docs", "examples", "benchmarks", "theatre_gevent"):
        sources = {
            file.relative_to(tree).as_posix() for file in (tree / folder).rglob("*") if file.suffix in (".py", ".pxd")
        }
        assert sources - names == set()
    assert {".ci/run", "setup.py", "tox.ini", "mkdocs.yml", "pyproject.toml"} <= names
    assert not {name for name in names if "_compiled" in name}
