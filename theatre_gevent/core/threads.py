"""Calls from native threads other than the host's, a threadpool job for instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent import Greenlet
from gevent.monkey import get_original

from ..errors import HostNotRunning, TheatreError

if TYPE_CHECKING:
    from collections.abc import Callable

allocate_lock = get_original("_thread", "allocate_lock")

_GRACE = 1.0
"""Seconds that the hub may take to notice a call, beyond the call's own timeout."""

NOT_STARTED = "the host is not started: call start() or use 'with Host() as host'"


class ThreadBridge:
    """Runs calls of foreign threads in greenlets of the host's hub, and blocks the thread until they are done.

    The thread waits even for a plain send, so that its messages arrive in order and it feels backpressure.
    """

    def __init__(self) -> None:
        self._hub: Any = None

    def attach(self, hub: Any) -> None:
        """Calls go to this hub from now on."""
        self._hub = hub

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> Any:
        """Call `function(*args)` in the host's thread and return or raise what it does.

        Raises:
            HostNotRunning: The host was never started.
            TheatreError: The host's thread did not run its hub within `timeout` seconds, and the call is not made; or
                it was begun and is not done. The text says which.
        """
        if self._hub is None:
            raise HostNotRunning(NOT_STARTED)
        if self._hub.loop is None:
            raise TheatreError("the host's thread has ended, and its hub with it")
        finished = allocate_lock()
        finished.acquire()
        outcome: list[Any] = []
        state = {"withdrawn": False, "begun": False}

        def run() -> None:
            if state["withdrawn"]:
                return
            state["begun"] = True
            try:
                outcome.append(function(*args))
            except BaseException as error:  # noqa: BLE001 - given to the thread that waits
                outcome.extend((None, error))
            finally:
                finished.release()

        self._hub.loop.run_callback_threadsafe(Greenlet.spawn, run)
        if not finished.acquire(timeout=timeout + _GRACE):
            state["withdrawn"] = True
            late = f"the host's thread did not answer within {timeout + _GRACE:g} s: is its hub blocked?"
            if state["begun"]:
                raise TheatreError(f"{late} The call was begun, and may be carried out yet")
            raise TheatreError(late)
        if len(outcome) == 2:
            raise outcome[1]
        return outcome[0]
