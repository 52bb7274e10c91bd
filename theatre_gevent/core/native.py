"""What the per-message path asks the interpreter and greenlet for. Compiled modules call their C functions instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevent.monkey import get_original
from greenlet import getcurrent as getcurrent
from greenlet import greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

get_ident: Callable[[], int] = get_original("_thread", "get_ident")
"""The number of this thread, whatever is patched."""


def read(monotonic: Callable[[], float]) -> float:
    """Return the reading of a clock; without a call of Python's where it is the machine's own."""
    return monotonic()


def has_context(current: greenlet) -> bool:
    """Tell whether `current`, the greenlet that runs, has set any of `contextvars`."""
    return current.gr_context is not None


switch = greenlet.switch
"""Switch to a greenlet, without what gevent's classes do around it."""
