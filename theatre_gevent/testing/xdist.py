"""Workers of pytest-xdist in a process that gevent has patched.

A native thread of the worker takes the orders that its master sends, and the main thread waits for them with an event.
That one is made after the patch, so it waits in the hub, where nothing else is left to wait for: gevent calls this a
deadlock (LoopExit). So the event and its lock are put back to what they are in an unpatched process, and so are the
events with which execnet waits for the next piece of work, and for the end of that thread. Tests still run in the main
greenlet of the main thread, which they would not with execnet's own mode for gevent.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original

from ..monkey import is_patched

if TYPE_CHECKING:
    import pytest


class NativeEvent:
    """A `threading.Event` for native threads. While it is being cleared, a waiter may be woken once too often."""

    def __init__(self) -> None:
        self._signals: Any = get_original("queue", "SimpleQueue")()

    def set(self) -> None:
        """Wake those who wait."""
        if self._signals.empty():
            self._signals.put(None)

    def clear(self) -> None:
        """Let those who come now wait."""
        with suppress(Empty):
            while True:
                self._signals.get_nowait()

    def is_set(self) -> bool:
        """Tell whether nobody has to wait."""
        return not self._signals.empty()

    def wait(self, timeout: float | None = None) -> bool:
        """Block the thread until it is set, at most `timeout` seconds; tells whether it was."""
        try:
            self._signals.put(self._signals.get(timeout=timeout))
        except Empty:
            return False
        return True


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
            gateway = plugin.channel.gateway
            if gateway.execmodel.backend != "gevent" and not isinstance(orders._has_items_event, NativeEvent):
                orders._lock = get_original("_thread", "RLock")()
                orders._has_items_event = NativeEvent()
                rest_natively(gateway)
            return True
    return False


def rest_natively(gateway: Any) -> None:
    """Replace what the main thread waits with once it has done its piece of work for `gateway`, as it does now."""
    gateway.execmodel.Event = NativeEvent
    more = getattr(gateway._execpool, "_primary_thread_task_ready", None)
    if more is not None:
        # A local variable of execnet's keeps this event: it can't be replaced, only what it does.
        event = NativeEvent()
        if more.is_set():
            event.set()
        more.set, more.clear, more.is_set, more.wait = event.set, event.clear, event.is_set, event.wait
