"""Decides whether the compiled twins of the hot modules are used: all of them or none.

The extension modules stand beside their sources and go by the same names, so that the import system prefers them.
They are used if each of them was built from just the sources that are there now, which the digest in `RECORD` tells; a
source that has been edited since turns them all off, as does `THEATRE_PURE=1`. Several Pythons may share the folder:
each has extension modules and a record of its own.

Imported before everything else of the package, and by `setup.py` without the package: nothing is imported from it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

MODULES = (
    "ref_fields",
    "core.record",
    "core.fifo",
    "core.statistics",
    "core.activation",
    "core.registry",
    "core.context",
    "core.remote",
    "core.requests",
    "logic.deadlines",
    "logic.ring",
    "core.scheduled",
    "core.waits",
    "core.worker",
    "core.deferred",
    "core.backpressure",
    "core.lifecycle",
    "core.dispatcher",
    "logic.bodies",
    "logic.codec",
    "logic.connection",
    "cluster.handler",
    "cluster.outbox",
    "cluster.inlet",
    "cluster.incoming",
    "cluster.returning",
    "cluster.ways",
    "cluster.router",
    "cluster.wire",
    "cluster.quick_wire",
    "cluster.link",
    "memory",
)
"""The modules with a compiled twin, relative to the package."""

HEADERS = ("direct", "core.arenas", "core.native", "cluster.syscalls")
"""What else the modules are compiled with: types files without a module, relative to the package."""

HERE = Path(__file__).parent
SETTING = "THEATRE_PURE"


def record(suffix: str) -> str:
    """Return the name of the file, beside this one, with the digest of what the extension modules were built from.

    Args:
        suffix: How the names of extension modules end for the Python that they are for.
    """
    # No module: setuptools would take those of other Pythons into a wheel.
    return f"_compiled{Path('x' + suffix).with_suffix('').name[1:]}.txt"


RECORD = record(EXTENSION_SUFFIXES[0])
"""The one of this Python."""


def source(module: str, suffix: str = ".py") -> Path:
    """Return the file of one of `MODULES`."""
    return HERE.joinpath(*module.split(".")).with_suffix(suffix)


def digests() -> dict[str, str]:
    """Return what tells apart the content of each file that the extension modules are made of, by path in the package.

    Raises:
        OSError: A source is not there.
    """
    return {
        path.relative_to(HERE).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in sorted([*map(source, MODULES), *HERE.rglob("*.pxd")])
    }


def digest() -> str:
    """Return what tells apart all that the extension modules are made of.

    Raises:
        OSError: A source is not there.
    """
    return hashlib.blake2b(repr(digests()).encode(), digest_size=16).hexdigest()


def headers_changed(translated: Path) -> bool:
    """Return whether one of `HEADERS` is newer than a C file under `translated`.

    Cython does not see that a module depends on them, as `from package cimport name` may name anything.
    """
    ours = tuple(f"/{module.replace('.', '/')}.c" for module in MODULES)
    made = [file.stat().st_mtime for file in translated.rglob("*.c") if file.as_posix().endswith(ours)]
    return bool(made) and max(source(header, ".pxd").stat().st_mtime for header in HEADERS) >= min(made)


def _built_from() -> str | None:
    """Return the digest of what this Python's extension modules here were built from, None if there are none."""
    try:
        return (HERE / RECORD).read_text(encoding="utf-8").strip()
    except OSError:  # NotADirectoryError in a zip
        return None


def _why_not() -> str | None:
    """Return why plain Python is used, None if it is not."""
    if os.environ.get(SETTING, "0") not in ("", "0"):
        return f"{SETTING} is set"
    made_of = _built_from()
    if made_of is None:
        return "the extension modules were not built"
    for module in MODULES:
        if not any(source(module, suffix).is_file() for suffix in EXTENSION_SUFFIXES):
            return f"the extension module {module} is not there for this Python"
    try:
        if digest() != made_of:
            return "the sources have changed since the extension modules were built"
    except OSError:
        pass  # an installation without sources: nothing else can be meant
    return None


class _PlainOnly:
    """Finds the sources of `MODULES`, whatever extension modules stand beside them, or their bytecode without sources.

    Where there are neither, in a zip say, others may find them.
    """

    def __init__(self, package: str) -> None:
        self._modules = {f"{package}.{module}": module for module in MODULES}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = self._modules.get(name)
        if module is not None:
            for file in source(module), source(module, ".pyc"):
                if file.is_file():
                    return importlib.util.spec_from_file_location(name, file)
        return None


reason = _why_not() if __package__ else "this is not the package"
"""Why plain Python runs, None if it does not."""

COMPILED = reason is None
build = "compiled" if COMPILED else "pure"
"""What runs: `compiled` or `pure`."""

if __package__ and not COMPILED:
    sys.meta_path.insert(0, _PlainOnly(__package__))
