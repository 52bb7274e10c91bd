"""How a greenlet that works for long lets others have their turns."""

from __future__ import annotations

from gevent.hub import Waiter, get_hub


def let_others_run() -> None:
    """Come back when all greenlets that can run have done so."""
    hub = get_hub()
    waiter: Waiter[None] = Waiter(hub)
    hub.loop.run_callback(waiter.switch, None)
    waiter.get()


def let_sockets_run() -> None:
    """Come back when the loop has looked at its sockets and timers."""
    hub = get_hub()
    timer = hub.loop.timer(0)
    try:
        hub.wait(timer)
    finally:
        timer.close()
