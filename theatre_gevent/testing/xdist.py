"""Workers of pytest-xdist in a process that gevent has patched.

A native thread of the worker takes the orders that its master sends, and the main thread waits for them with an event.
That one is made after the patch, so it waits in the hub, where nothing else is left to wait for: gevent calls this a
deadlock (LoopExit). So the event and its lock are put back to what they are in an unpatched process. Tests still run
in the main greenlet of the main thread, which they would not with execnet's own mode for gevent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original

from ..monkey import is_patched

if TYPE_CHECKING:
    import pytest


class NativeEvent:
    """Wakes the one thread that waits, sometimes once too often: it looks again for what it waits for."""

    def __init__(self) -> None:
        self._signals: Any = get_original("queue", "SimpleQueue")()

    def set(self) -> None:
        """Wake it."""
        if self._signals.empty():
            self._signals.put(None)

    def clear(self) -> None:
        """Forget that it was to be woken."""
        while not self._signals.empty():
            self._signals.get()

    def wait(self) -> None:
        """Block the thread until it is woken."""
        self._signals.get()


def wait_natively(config: pytest.Config) -> bool:
    """Replace what the queue of orders of this worker waits with, if the process is patched.

    Returns:
        False if this version of pytest-xdist keeps its orders in another way, so that nothing could be done.
    """
    if not is_patched():
        return True
    for plugin in config.pluginmanager.get_plugins():
        orders: Any = getattr(plugin, "torun", None)
        if hasattr(orders, "_lock") and hasattr(orders, "_has_items_event"):
            # With execnet's mode for gevent the orders come by a greenlet of this very thread.
            threads = plugin.channel.gateway.execmodel.backend != "gevent"
            if threads and not isinstance(orders._has_items_event, NativeEvent):
                orders._lock = get_original("_thread", "RLock")()
                orders._has_items_event = NativeEvent()
            return True
    return False
