"""Looking up names with a deadline, without stopping the thread's other greenlets, where it has any."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gevent import Greenlet
from gevent import socket as green_socket
from gevent._hub_local import get_hub_if_exists  # the only way to look for a hub without making one
from gevent.monkey import get_original

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_allocate_lock = get_original("_thread", "allocate_lock")
_start_thread = get_original("_thread", "start_new_thread")


def resolve(name: str, timeout: float) -> list[str]:
    """Return the addresses of a name, best first.

    Args:
        name: Of a host, or an IP address.
        timeout: Seconds.

    Raises:
        OSError: It has none, or nobody answered in time.
    """
    with suppress(ValueError):
        return [str(ipaddress.ip_address(name))]
    green = get_hub_if_exists() is not None
    outcome: list[list[str] | OSError] = []
    (_in_greenlet if green else _in_thread)(name, outcome, max(0.0, timeout))
    if not outcome:
        raise TimeoutError(f"no answer about {name!r} from the name service")
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


def _in_greenlet(name: str, outcome: list[list[str] | OSError], timeout: float) -> None:
    task = Greenlet.spawn(lambda: _look_up(green_socket.getaddrinfo, name, outcome))
    try:
        task.join(timeout)
    finally:
        task.kill(block=False)


def _in_thread(name: str, outcome: list[list[str] | OSError], timeout: float) -> None:
    # A thread of its own, since the system's resolver can't be told a deadline; it ends when that gives up.
    done = _allocate_lock()
    done.acquire()

    def look_up() -> None:
        _look_up(get_original("socket", "getaddrinfo"), name, outcome)
        done.release()

    _start_thread(look_up, ())
    done.acquire(timeout=timeout)


def _look_up(
    getaddrinfo: Callable[..., Sequence[tuple[Any, ...]]], name: str, outcome: list[list[str] | OSError]
) -> None:
    try:
        found = getaddrinfo(name, None, type=socket.SOCK_STREAM)
        outcome.append(list(dict.fromkeys(str(item[4][0]) for item in found)))
    except OSError as error:
        outcome.append(error)
    except UnicodeError as error:  # no name service could know such a name
        outcome.append(OSError(f"{name!r} is not a name: {error}"))
