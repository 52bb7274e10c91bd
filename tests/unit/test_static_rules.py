"""Rules of the code base that a reader should be able to rely on, checked by reading the source."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import theatre_gevent
from theatre_gevent.core import activation as activations
from theatre_gevent.core.states import TRANSITIONS as HOST_TRANSITIONS
from theatre_gevent.metrics import METRICS

PACKAGE = Path(theatre_gevent.__file__).parent
ROOT = PACKAGE.parent
CLOCKS = {PACKAGE / "clock.py", PACKAGE / "testing" / "clock.py"}
SOCKETS = PACKAGE / "cluster" / "sockets.py"  # may bound what the operating system takes to connect
ADMIN_SERVER = PACKAGE / "admin" / "server.py"  # may bound what strangers take for a request
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
MAX_LINES = 500
VALUES = {"__version__", "build"}  # public names that are no things with a docstring
PROGRAMS = {PACKAGE / "loadtest", PACKAGE / "cli"}  # they print
LIBRARY = [path for path in MODULES if not PROGRAMS & set(path.parents)]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


every_module = pytest.mark.parametrize("path", LIBRARY, ids=name_of)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def banned_times(tree: ast.AST) -> Iterator[str]:
    """Yield what reads a clock or waits by itself."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (f"import {name.name}" for name in names if name.name in ("time", "sched"))
            case ast.ImportFrom(module=module, names=names):
                if module == "time":
                    yield "from time import ..."
                elif module in ("gevent", "gevent.hub", "gevent.timeout"):
                    yield from (f"import {name.name}" for name in names if name.name in ("sleep", "with_timeout"))
            case ast.Attribute(value=ast.Name(id="gevent"), attr="sleep" | "spawn_later" | "with_timeout" as attr):
                yield f"gevent.{attr}"
            case ast.Call(func=ast.Name(id="Timeout") | ast.Attribute(attr="Timeout" | "start_new", value=ast.Name())):
                # Catching or naming the class is fine: what a handler raises may be one.
                yield "a gevent.Timeout is started"
            case ast.Attribute(attr="now" | "utcnow" | "today", value=ast.Name(id="datetime" | "date")):
                yield "the clock of datetime"


def test_the_check_for_times_finds_what_it_looks_for() -> None:
    source = """
import time
from time import monotonic
from gevent import sleep
import gevent
gevent.sleep(1)
with gevent.Timeout(1): pass
with Timeout(1): pass
datetime.now()
"""
    assert len(list(banned_times(ast.parse(source)))) == 7
    harmless = "from gevent import Timeout\ntry: pass\nexcept (Exception, Timeout): isinstance(error, Timeout)\n"
    assert list(banned_times(ast.parse(harmless))) == []


@every_module
def test_time_comes_from_the_clock_alone(path: Path) -> None:
    if path not in CLOCKS:
        allowed = ["a gevent.Timeout is started"] if path in (SOCKETS, ADMIN_SERVER) else []
        assert list(banned_times(parse(path))) == allowed


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that run when the module is imported: not the bodies of functions, nor what is for mypy."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo += node.decorator_list
        elif not isinstance(node, ast.Lambda):
            yield node
            todo += ast.iter_child_nodes(node)


@every_module
def test_importing_starts_no_greenlet_and_patches_nothing(path: Path) -> None:
    calls = [node.func for node in at_import(parse(path)) if isinstance(node, ast.Call)]
    names = [call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls]
    assert not {"spawn", "spawn_later", "get_hub", "Greenlet", "Hub", "patch_all", "patch_psycopg"} & set(names)
    assert not any(name.startswith("patch_") for name in names)


@every_module
def test_the_library_prints_nothing(path: Path) -> None:
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("print", "input")]
    assert not [node for node in ast.walk(parse(path)) if ast.unparse(node) in ("sys.stdout", "sys.stderr")]


@every_module
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
            assert not {"pickle", "marshal", "shelve", "dill", "cloudpickle"} & set(names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(parse(path)), "a docstring on its first line"


def test_imports_point_downward() -> None:
    pytest.importorskip("importlinter", reason="of the development tools; CI runs it in any case")
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


# -- public names ----------------------------------------------------------------------------------------------


def test_all_is_sorted_and_complete() -> None:
    names = theatre_gevent.__all__
    assert sorted(names) == sorted(set(names))
    public = {
        name
        for name, value in vars(theatre_gevent).items()
        if not name.startswith("_") and not hasattr(value, "__path__") and type(value).__name__ != "module"
    }
    assert public - {"annotations"} == set(names) - {"__version__"}


@pytest.mark.parametrize("name", sorted(set(theatre_gevent.__all__) - VALUES))
def test_everything_public_is_documented(name: str) -> None:
    thing = getattr(theatre_gevent, name)
    assert thing.__doc__, name
    for attribute, value in vars(thing).items() if isinstance(thing, type) else ():
        if not attribute.startswith("_") and (callable(value) or isinstance(value, property)):
            assert value.__doc__, f"{name}.{attribute}"


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_every_metric_is_described() -> None:
    from theatre_gevent import Host

    assert set(Host().metrics.snapshot()) == set(METRICS)
    assert all(METRICS.values())


# -- tables of states ------------------------------------------------------------------------------------------


def test_the_table_of_activation_states_is_whole() -> None:
    states = set(range(len(activations.STATE_NAMES)))
    assert set(activations.TRANSITIONS) == states
    for state, successors in activations.TRANSITIONS.items():
        assert successors <= states - {state}
    assert activations.TRANSITIONS[activations.STOPPED] == set(), "there is no way back from STOPPED"
    reached = {activations.NEW}
    for _ in states:
        reached |= {successor for state in reached for successor in activations.TRANSITIONS[state]}
    assert reached == states


def test_the_table_of_host_states_is_whole() -> None:
    for state, successors in HOST_TRANSITIONS.items():
        assert successors <= set(HOST_TRANSITIONS) - {state}
    assert HOST_TRANSITIONS["stopped"] == set()


STATES = {name: getattr(activations, name) for name in ("NEW", "ACTIVE", "LEAVING", "STOPPING", "STOPPED")}


def test_activation_states_are_set_by_name_and_in_the_core_alone() -> None:
    """Who looks for the places where a state changes finds all of them."""
    found = []
    for path in LIBRARY:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("activation.state"):
                assert path.parent == PACKAGE / "core", path
                assert ast.unparse(node.value) in STATES, f"{path}:{node.lineno}"
                found.append(ast.unparse(node.value))
    assert set(found) >= {"ACTIVE", "LEAVING", "STOPPING", "STOPPED"}


def test_the_library_can_be_imported_whole() -> None:
    for path in LIBRARY:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__"):
            importlib.import_module(name)
