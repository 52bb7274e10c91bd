"""What the per-message path asks the interpreter and greenlet for. Compiled modules call their C functions instead."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from gevent.monkey import get_original
from greenlet import getcurrent as getcurrent
from greenlet import greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

get_ident: Callable[[], int] = get_original("_thread", "get_ident")
"""The number of this thread, whatever is patched."""


# A function of Python's would cost 25 ns more per message; `operator.call` has come with Python 3.11.
read: Callable[[Callable[[], float]], float] = getattr(operator, "call", lambda monotonic: monotonic())
"""Returns the reading of a clock. Compiled, without a call of Python's where it is the machine's own."""

has_context: Callable[[greenlet], object] = operator.attrgetter("gr_context")
"""Returns something true if a greenlet has set any of `contextvars`. Compiled, it looks at the one that runs."""

switch = greenlet.switch
"""Switch to a greenlet, without what gevent's classes do around it."""
