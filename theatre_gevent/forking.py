"""What a fork does to hosts: the child has their memory and their sockets, but they are not the child's.

A copied host that went on would read what was sent to its original and run its actors a second time. So in the child
every host that was running is over at once, and says why. Start hosts after a fork, not before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from .host import Host

_running: WeakSet[Host] = WeakSet()
_inherited: list[str] = []
_registered = False


def watch(host: Host) -> None:
    """A host has started in this process."""
    global _registered
    if not _registered:
        _registered = True
        os.register_at_fork(after_in_child=_disown)
    _running.add(host)


def forget(host: Host) -> None:
    """A host has stopped."""
    _running.discard(host)


def running() -> list[str]:
    """Return the ids of the hosts that run in this process, sorted."""
    # A copy in one step: another thread may start or stop a host meanwhile, and a log call asks for this.
    hosts = (ref() for ref in _running.data.copy())  # type: ignore[attr-defined]
    return sorted(host.host_id for host in hosts if host is not None)


def inherited() -> list[str]:
    """Return the ids of the hosts that ran in the process which this one was forked from, and so are over here."""
    return list(_inherited)


def _disown() -> None:
    _inherited.extend(running())
    for host in list(_running):
        host.disown()
    _running.clear()
