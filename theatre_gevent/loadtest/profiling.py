"""What `-cpuprofile` and `-memprofile` write."""

from __future__ import annotations

import importlib.util
import inspect
import signal
import sys
import tracemalloc
from contextlib import contextmanager
from time import process_time, time
from typing import TYPE_CHECKING, Any

import ujson

from .._accel import build
from .files import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import CodeType, FrameType

CPU_FORMATS = (".html", ".json")
"""Endings of a CPU profile: pyinstrument's HTML for a browser, or JSON for https://www.speedscope.app."""

_CPU_INTERVAL = 0.002
_LINES = 60


class MissingPackage(Exception):
    """Something optional is not there; the message says how to get it."""


def require(*packages: str) -> None:
    """Check that optional packages are there.

    Raises:
        MissingPackage: One is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(f"the package {package} is missing: pip install theatre_gevent[loadtest]")


def require_for_cpu_profile(path: Path) -> None:
    """Check that a CPU profile can be made.

    Raises:
        MissingPackage: The platform has no profiling timer, or the package that writes the format is missing.
    """
    if not hasattr(signal, "setitimer"):
        raise MissingPackage("-cpuprofile needs the timer ITIMER_PROF, which this platform does not have")
    if path.suffix == ".html":
        require("pyinstrument")


class StackSampler:
    """Looks at the Python stack that runs each time the process has used some CPU time.

    A signal handler, and not a hook on calls: such hooks belong to a thread's stack, so profilers that use them see
    one greenlet of thousands, and they double the cost of a message. The handler runs on top of whichever greenlet is
    running, and its samples cost 1 %. The kernel's clock tick, often 4 ms, bounds how often it is called.
    """

    def __init__(self) -> None:
        self.stacks: dict[tuple[int, ...], int] = {}
        """Samples by stack, outermost first; a code object is named by its id and kept in `codes`."""
        self.codes: dict[int, CodeType] = {}
        self.cpu_seconds = 0.0
        self.started = time()
        self._before: Any = None

    def start(self) -> None:
        """Begin to look. Main thread only."""
        self._before = signal.signal(signal.SIGPROF, self._look)
        self.started = time()
        self.cpu_seconds = process_time()
        signal.setitimer(signal.ITIMER_PROF, _CPU_INTERVAL, _CPU_INTERVAL)

    def stop(self) -> None:
        """Look no more."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.cpu_seconds = process_time() - self.cpu_seconds
        signal.signal(signal.SIGPROF, self._before)

    def _look(self, _: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            code = frame.f_code
            number = id(code)
            if number not in self.codes:
                self.codes[number] = code
            stack.append(number)
            frame = frame.f_back
        key = tuple(reversed(stack))
        self.stacks[key] = self.stacks.get(key, 0) + 1

    def weights(self) -> dict[tuple[int, ...], float]:
        """Return CPU seconds by stack."""
        total = sum(self.stacks.values())
        each = self.cpu_seconds / total if total else 0.0
        return {stack: count * each for stack, count in self.stacks.items()}


@contextmanager
def cpu_profile(path: Path | None) -> Iterator[None]:
    """Profile what happens inside and write it to `path`, in the format of its ending; None: do nothing.

    Raises:
        Unwritable: It can't be written.
    """
    if path is None:
        yield
        return
    sampler = StackSampler()
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()
    text = _html(sampler) if path.suffix == ".html" else _speedscope(sampler)
    write(path, text)


def _speedscope(sampler: StackSampler) -> str:
    numbers = {number: place for place, number in enumerate(sampler.codes)}
    weights = sampler.weights()
    profile = {
        "type": "sampled",
        "name": "CPU time",
        "unit": "seconds",
        "startValue": 0,
        "endValue": sum(weights.values()),
        "samples": [[numbers[number] for number in stack] for stack in weights],
        "weights": list(weights.values()),
    }
    frames = [
        {"name": _name(code), "file": code.co_filename, "line": code.co_firstlineno} for code in sampler.codes.values()
    ]
    return ujson.dumps(
        {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "name": "theatre_gevent load test",
            "exporter": "theatre_gevent",
            "shared": {"frames": frames},
            "profiles": [profile],
        },
        escape_forward_slashes=False,
    )


def _html(sampler: StackSampler) -> str:
    from pyinstrument.renderers import HTMLRenderer
    from pyinstrument.session import Session

    def identify(name: str, file: str, line: int) -> str:
        return f"{name}\x00{file}\x00{line}"

    root = identify("load test", "<thread>", 0)
    names = {
        number: identify(_name(code), code.co_filename, code.co_firstlineno) for number, code in sampler.codes.items()
    }
    weights = sampler.weights()
    settings: dict[str, Any] = {
        "frame_records": [([root, *map(names.__getitem__, stack)], weight) for stack, weight in weights.items()],
        "start_time": sampler.started,
        "duration": sum(weights.values()),
        "min_interval": _CPU_INTERVAL,
        "max_interval": _CPU_INTERVAL,
        "sample_count": sum(sampler.stacks.values()),
        "start_call_stack": [root],
        "target_description": "theatre_gevent load test, CPU time",
        "cpu_time": sampler.cpu_seconds,
        "sys_path": sys.path,
        "sys_prefixes": [sys.prefix, sys.base_prefix],
    }
    known = inspect.signature(Session).parameters  # the intervals came with version 5
    return str(HTMLRenderer().render(Session(**{name: settings[name] for name in known if name in settings})))


def _name(code: CodeType) -> str:
    return str(getattr(code, "co_qualname", code.co_name))  # Python 3.10 has no qualified names


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
        """Write what was allocated since `start` and is still alive.

        Raises:
            Unwritable: It can't be written.
        """
        if self._path is None or not tracemalloc.is_tracing():
            return
        overhead = tracemalloc.get_tracemalloc_memory()
        statistics = tracemalloc.take_snapshot().statistics("lineno")
        tracemalloc.stop()
        total = sum(s.size for s in statistics)
        by = "by source line" if build == "pure" else "by the line of Python that called, THEATRE_PURE=1 shows all"
        lines = [
            f"# live memory {by}: {headline}",
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
        write(self._path, "\n".join(lines) + "\n")
