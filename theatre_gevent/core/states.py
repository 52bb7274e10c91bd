"""The states of a host: which there are, where each may go, and who froze it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gevent import Greenlet

from ..errors import TheatreError
from ..logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("theatre_gevent.host")

TRANSITIONS: dict[str, set[str]] = {
    "new": {"starting", "stopped"},
    "starting": {"new", "active"},
    "active": {"frozen", "rejoining", "draining"},
    "frozen": {"active", "rejoining", "draining"},
    "rejoining": {"active", "frozen", "draining"},
    "draining": {"stopped"},
    "stopped": set(),
}
"""The states of a host and where each may go. It is `rejoining` when its lease has ended, until it has a new one."""


class HostStates:
    """The state of one host. The guard of its lease changes it by the methods that begin with `lease`.

    Args:
        host_id: For what it says.
        on_state: Called with every new state, in a greenlet of its own; None for nobody.
        stop: Has the host stop, when its lease is lost and it shall not come back; None if it shall.

    Attributes:
        state: The state now.
        frozen_by_hand: Somebody has called `freeze`, and it lasts until `unfreeze`, whatever the lease does.
        frozen_by_lease: The lease may end soon.
    """

    def __init__(self, host_id: str, on_state: Callable[[str], object] | None, stop: Callable[[], None] | None) -> None:
        self._host_id = host_id
        self._on_state = on_state
        self._stop = stop
        self.state = "new"
        self.frozen_by_hand = False
        self.frozen_by_lease = False

    def go(self, state: str) -> None:
        """Go to another state.

        Raises:
            TheatreError: There is no way from here to there.
        """
        if state not in TRANSITIONS[self.state]:
            raise TheatreError(f"host {self._host_id} can't go from {self.state} to {state}")
        self.state = state
        if self._on_state is not None:
            Greenlet.spawn(self._tell, self._on_state, state)

    def _tell(self, on_state: Callable[[str], object], state: str) -> None:
        try:
            on_state(state)
        except Exception:
            log.exception(
                "host %s: on_state raised when the host became %s", self._host_id, state, extra=fields(self._host_id)
            )

    def abandon(self) -> None:
        """In a forked child: whatever the state is, it is over, and nobody has to be told."""
        self.state = "stopped"

    def lease_frozen(self) -> bool:
        """The lease may end soon. Tells whether that freezes a host that was active."""
        self.frozen_by_lease = True
        if self.state != "active":
            return False
        self.go("frozen")
        return True

    def lease_renewed(self) -> bool:
        """The lease is healthy again. Tells whether the host goes on."""
        self.frozen_by_lease = False
        if self.state != "frozen" or self.frozen_by_hand:
            return False
        self.go("active")
        return True

    def lease_lost(self) -> bool:
        """The lease has ended, and every actor is over. Tells whether the host is to begin a new life."""
        if self.state not in ("active", "frozen"):
            return False
        if self._stop is not None:
            if self.state == "active":
                self.go("frozen")
            self._stop()
            return False
        self.go("rejoining")
        return True

    def lease_regained(self) -> bool:
        """A new life has begun. Tells whether the host takes messages in it."""
        self.frozen_by_lease = False
        if self.state != "rejoining":
            return False
        self.go("frozen" if self.frozen_by_hand else "active")
        return not self.frozen_by_hand
