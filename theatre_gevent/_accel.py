"""Decides whether the compiled twins of the hot modules are used: all of them or none.

The extension modules stand beside their sources and go by the same names, so that the import system prefers them.
They are used if each of them was built from just the sources that are there now, which the digest in `_compiled.py`
tells; a source that has been edited since turns them all off, as does `THEATRE_PURE=1`.

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


def source(module: str, suffix: str = ".py") -> Path:
    """Return the file of one of `MODULES`."""
    return HERE.joinpath(*module.split(".")).with_suffix(suffix)


def digest() -> str:
    """Return what tells apart all that the extension modules are made of.

    Raises:
        OSError: A source is not there.
    """
    made_of = hashlib.blake2b(digest_size=16)
    for path in sorted([*map(source, MODULES), *HERE.rglob("*.pxd")]):
        content = path.read_bytes()
        made_of.update(b"%d %s\n" % (len(content), path.relative_to(HERE).as_posix().encode()))
        made_of.update(content)
    return made_of.hexdigest()


def headers_changed(translated: Path) -> bool:
    """Return whether one of `HEADERS` is newer than a C file under `translated`.

    Cython does not see that a module depends on them, as `from package cimport name` may name anything.
    """
    ours = tuple(f"/{module.replace('.', '/')}.c" for module in MODULES)
    made = [file.stat().st_mtime for file in translated.rglob("*.c") if file.as_posix().endswith(ours)]
    return bool(made) and max(source(header, ".pxd").stat().st_mtime for header in HEADERS) >= min(made)


def _built_from() -> str | None:
    """Return the digest of what the extension modules beside this file were built from, None if there are none."""
    # By its path: the import system might find that of another copy of the package, which is installed.
    spec = importlib.util.spec_from_file_location("theatre_gevent._compiled", HERE / "_compiled.py")
    if spec is None or spec.loader is None or not (HERE / "_compiled.py").is_file():
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str = module.DIGEST
    return found


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
    """Finds the sources of `MODULES`, whatever extension modules stand beside them."""

    def __init__(self, package: str) -> None:
        self._files = {f"{package}.{module}": source(module) for module in MODULES}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._files.get(name)
        return None if file is None else importlib.util.spec_from_file_location(name, file)


reason = _why_not() if __package__ else "this is not the package"
"""Why plain Python runs, None if it does not."""

COMPILED = reason is None
build = "compiled" if COMPILED else "pure"
"""What runs: `compiled` or `pure`."""

if __package__ and not COMPILED:
    sys.meta_path.insert(0, _PlainOnly(__package__))
