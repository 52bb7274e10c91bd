"""Sees to it that a host does only what its lease allows: freeze, go on, end everything, begin a new life.

`logic.lease.decide` says what has to be done; this does it. The end of the lease itself is noticed by the dispatcher
as well, at the start of every turn, so that a process that was paused handles nothing before this is called.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gevent import Greenlet

from ..core.remote import UNLIMITED
from ..errors import HostFrozen, TheatreError
from ..logic.lease import Action, Phase, decide, look_again_in
from ..logs import fields

if TYPE_CHECKING:
    from gevent.event import Event

    from ..clock import Timer
    from ..config import HostOptions
    from ..core.closing import Closer
    from ..core.dispatcher import Dispatcher
    from ..core.states import HostStates
    from .postgres_cluster import Cluster
    from .router import ClusterRouter

log = logging.getLogger("theatre_gevent.host")

_LOOK = 0.5
"""Seconds between looks at the lease, at most: whatever else fails to tell, this does."""
_REJOIN_RETRY = 0.25
"""Seconds between attempts to begin a new life."""


class LeaseGuard:
    """Watches the lease of one host.

    Args:
        host_id: For what it says.
        states: The state of the host, which it changes.
        cluster: Has the lease.
        dispatcher: Obeys it at each turn.
        closer: Brings the actors to rest.
        router: Has messages that wait.
        options: Margin, grace period, failures.
    """

    def __init__(
        self,
        host_id: str,
        states: HostStates,
        cluster: Cluster,
        dispatcher: Dispatcher,
        closer: Closer,
        router: ClusterRouter,
        options: HostOptions,
    ) -> None:
        self._host_id = host_id
        self._states = states
        self._cluster = cluster
        self._dispatcher = dispatcher
        self._closer = closer
        self._router = router
        self._options = options
        self._phase = Phase.SERVING
        self._timer: Timer | None = None
        self._clearing: Greenlet[..., None] | None = None
        self._rejoining: Greenlet[..., None] | None = None
        self._over = False

    def start(self) -> None:
        """Watch from now on."""
        self._dispatcher.on_lapse = self.expire
        self._dispatcher.lease = self._cluster
        self._cluster.on_news(self.look)
        self.look()

    def stop(self) -> None:
        """Watch no more: the host stops. The dispatcher goes on obeying the lease."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rejoining is not None:
            self._rejoining.kill(block=False)

    def look(self) -> None:
        """Decide and act; in the hub or a greenlet, without waiting."""
        if self._over:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        health, options = self._cluster.health(), self._options
        action = decide(
            self._phase,
            remaining=health.remaining,
            safety_margin=options.safety_margin,
            failures=health.failures,
            max_renewal_failures=options.max_renewal_failures,
            fenced=health.fenced,
            conflict=health.conflict,
            reachable=health.reachable,
        )
        if action is Action.FREEZE:
            self._freeze(health.remaining)
        elif action is Action.UNFREEZE:
            self._unfreeze()
        elif action is Action.EXPIRE:
            self.expire()
        elif action is Action.REJOIN:
            self._rejoin()
        if not self._over:
            due = look_again_in(health.remaining, options.safety_margin)
            delay = _LOOK if due is None else min(_LOOK, due)
            self._timer = self._dispatcher.clock.call_later(max(0.001, delay), self.look)

    # -- freezing ------------------------------------------------------------------------------------------------

    def _freeze(self, remaining: float) -> None:
        refusal = HostFrozen(f"host {self._host_id} is frozen: its lease could not be renewed")
        self._phase = Phase.FROZEN
        if not self._states.lease_frozen():
            return
        log.warning(
            "host %s freezes: its lease could not be renewed and has %.1f s left",
            self._host_id,
            remaining,
            extra=fields(self._host_id),
        )
        Greenlet.spawn(self._come_to_rest, self._closer.suspend(refusal), refusal)

    def _come_to_rest(self, freeze: Event, refusal: HostFrozen) -> None:
        if self._dispatcher.cancelled is not freeze:
            return  # the lease was renewed before this greenlet had its turn
        self._router.give_up(refusal)
        self._closer.come_to_rest(freeze, self._options.freeze_grace_period, refusal)

    def _unfreeze(self) -> None:
        self._phase = Phase.SERVING
        if self._states.lease_renewed():
            log.warning("host %s is active again: its lease was renewed", self._host_id, extra=fields(self._host_id))
            self._closer.unfreeze()

    # -- the end -------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """The lease has ended: nothing that is active here may do anything any more. In the hub or a greenlet."""
        if self._phase is Phase.EXPIRED:
            return
        self._phase = Phase.EXPIRED
        self._dispatcher.lease = UNLIMITED  # there is nothing left that it protects
        refusal = HostFrozen(f"the lease of host {self._host_id} has ended")
        self._closer.fence_all(refusal)
        self._disown()
        log.error("host %s: its lease has ended, all its actors are over", self._host_id, extra=fields(self._host_id))
        goes_on = self._states.lease_lost()
        self._clearing = Greenlet.spawn(self._clear, refusal, goes_on)

    def _clear(self, refusal: HostFrozen, goes_on: bool) -> None:
        self._router.give_up(refusal)
        self._closer.force(refusal)
        self._disown()  # what was cleared belongs to an epoch that is over: there is nothing to give back
        self._router.give_up(refusal)  # what came back meanwhile and waited for a claim
        if goes_on:
            self.look()

    def _disown(self) -> None:
        if self._router.claiming is not None:
            self._router.claiming.ownership.reset()

    def _rejoin(self) -> None:
        cleared = self._clearing is not None and self._clearing.ready()
        if cleared and (self._rejoining is None or self._rejoining.ready()):
            self._rejoining = Greenlet.spawn(self._begin_new_life)

    def _begin_new_life(self) -> None:
        try:
            self._cluster.rejoin()
        except TheatreError as error:
            log.info("host %s can't rejoin yet: %s", self._host_id, error, extra=fields(self._host_id))
            self._dispatcher.clock.sleep(_REJOIN_RETRY)
            return
        self._phase = Phase.SERVING
        self._dispatcher.lease = self._cluster
        if self._states.lease_regained():
            self._closer.unfreeze()
            log.warning(
                "host %s is active again, with epoch %d",
                self._host_id,
                self._cluster.epoch,
                extra=fields(self._host_id),
            )
        self.look()
