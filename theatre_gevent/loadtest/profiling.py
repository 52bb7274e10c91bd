"""What `-cpuprofile` and `-memprofile` write."""

from __future__ import annotations

import importlib.util
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CPU_FORMATS = (".html", ".json")
"""Endings of a CPU profile: HTML opens in a browser, JSON at https://www.speedscope.app."""

_LINES = 60


class MissingPackage(Exception):
    """An optional package is not installed; the message says how to get it."""


def require(*packages: str) -> None:
    """Check that optional packages are there.

    Raises:
        MissingPackage: One is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(f"the package {package} is missing: pip install theatre_gevent[loadtest]")


@contextmanager
def cpu_profile(path: Path | None) -> Iterator[None]:
    """Profile what happens inside, by sampling, and write it to `path`; None: do nothing.

    The tool is pyinstrument. It slows the run down, so that its figures are not those of a run without it.
    """
    if path is None:
        yield
        return
    from pyinstrument import Profiler
    from pyinstrument.renderers import HTMLRenderer, SpeedscopeRenderer

    # Its async mode follows contextvars, which greenlets do not share; without it, a sample is the stack that runs.
    profiler = Profiler(interval=0.001, async_mode="disabled")
    profiler.start()
    try:
        yield
    finally:
        profiler.stop()
        renderer = HTMLRenderer() if path.suffix == ".html" else SpeedscopeRenderer()
        path.write_text(profiler.output(renderer), encoding="utf-8")


class MemoryProfile:
    """Live memory by the source line that allocated it, from tracemalloc; a text file for any editor.

    Tracing slows the run down several times and takes memory of its own.

    Args:
        path: Where to write it; None: do nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def start(self) -> None:
        """Trace allocations from now on."""
        if self._path is not None:
            tracemalloc.start()

    def write(self, headline: str) -> None:
        """Write what was allocated since `start` and is still alive."""
        if self._path is None or not tracemalloc.is_tracing():
            return
        overhead = tracemalloc.get_tracemalloc_memory()
        statistics = tracemalloc.take_snapshot().statistics("lineno")
        tracemalloc.stop()
        total = sum(s.size for s in statistics)
        lines = [
            f"# live memory by source line: {headline}",
            f"# {total:,} bytes in {sum(s.count for s in statistics):,} blocks; tracing itself used {overhead:,} bytes",
            f"{'bytes':>16} {'blocks':>12} {'each':>9}  where",
        ]
        lines += [
            f"{s.size:16,} {s.count:12,} {s.size / max(1, s.count):9.0f}  {s.traceback[0]}" for s in statistics[:_LINES]
        ]
        rest = statistics[_LINES:]
        if rest:
            lines.append(
                f"{sum(s.size for s in rest):16,} {sum(s.count for s in rest):12,} {'':9}  {len(rest)} other lines"
            )
        self._path.write_text("\n".join(lines) + "\n", encoding="utf-8")
