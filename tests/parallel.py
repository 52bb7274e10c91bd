"""Workers of pytest-xdist in a process that gevent has patched, and what only one of them may do at a time.

A native thread of the worker takes the orders that its master sends, and the main thread waits for them with an event.
That one is made after the patch, so it waits in the hub, where nothing else is left to wait for: gevent calls this a
deadlock (LoopExit). So the event and its lock are put back to what they are in an unpatched process. Tests still run
in the main greenlet of the main thread, which they would not with execnet's own mode for gevent.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original


class NativeEvent:
    """Wakes the one thread that waits, sometimes once too often: it looks again for what it waits for."""

    def __init__(self) -> None:
        self._signals: Any = get_original("queue", "SimpleQueue")()

    def set(self) -> None:
        if self._signals.empty():
            self._signals.put(None)

    def clear(self) -> None:
        while not self._signals.empty():
            self._signals.get()

    def wait(self) -> None:
        self._signals.get()


def wait_natively(config: pytest.Config) -> None:
    """Replace what the queue of orders of this worker waits with.

    Raises:
        UsageError: This version of pytest-xdist keeps its orders in another way.
    """
    for plugin in config.pluginmanager.get_plugins():
        orders: Any = getattr(plugin, "torun", None)
        if hasattr(orders, "_lock") and hasattr(orders, "_has_items_event"):
            orders._lock = get_original("_thread", "RLock")()
            orders._has_items_event = NativeEvent()
            return
    raise pytest.UsageError("this version of pytest-xdist is not known to tests/parallel.py: run with -n 0")


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Wait until no other process of this machine is in here for the same thing."""
    with (Path(tempfile.gettempdir()) / f"{what}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                gevent.sleep(0.05)
        yield
