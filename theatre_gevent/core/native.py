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

switch = greenlet.switch
"""Switch to a greenlet, without what gevent's classes do around it."""
