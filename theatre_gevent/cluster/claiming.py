"""Which actors this host owns by claim, and what follows from the outcome of a claim."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import NoOwner
from .ownership import Lost, Ownership, Won

if TYPE_CHECKING:
    from ..messages import InitReason, Ref
    from .detours import Detour
    from .ownership import Outcome, OwnershipStore
    from .router import ClusterRouter

log = logging.getLogger("theatre_gevent.cluster")

_HAND_OVER_RETRY = 0.05
"""Seconds between claims of an actor whose owner is about to give it back."""


class Claiming:
    """Claims what messages come for, gives back what has left, and puts messages on their way when it is known."""

    def __init__(self, router: ClusterRouter, store: OwnershipStore) -> None:
        self._router = router
        self._dispatcher = router.dispatcher
        patience = self._dispatcher.request_timeout
        self.ownership = Ownership(
            store,
            self._dispatcher.clock,
            lambda run: router.transport.spawn("ownership", run),
            self._claimed,
            patience,
        )
        self._dispatcher.registry.on_removed = self._removed
        self._dispatcher.registry.on_let_go = self.ownership.let_go
        self.claim = self.ownership.claim
        self.withdraw = self.ownership.withdraw
        self.take_back = self.ownership.take_back

    def counters(self) -> dict[str, int]:
        """Return what `METRICS` calls the counters of claims."""
        ownership = self.ownership
        return {
            "claims_total": ownership.claims,
            "releases_total": ownership.releases,
            "claim_statements": ownership.statements,
            "claims_waiting": ownership.waiting(),
        }

    def _removed(self, ref: Ref) -> None:
        """An activation has left, and no handler of it runs any more."""
        self.ownership.release(ref)

    def _claimed(self, ref: Ref, outcome: Outcome) -> None:
        router = self._router
        detour = router.detours.get(ref)
        if detour is None:
            if isinstance(outcome, Won) and ref not in self._dispatcher.actors:
                self.ownership.release(ref)  # nobody waits for it any more
        elif isinstance(outcome, Won):
            self._won(detour, outcome.reason)
        elif isinstance(outcome, Lost):
            self._lost(detour, outcome)
        else:
            router.settling.failed(detour, outcome.error)

    def _won(self, detour: Detour, reason: InitReason) -> None:
        router = self._router
        refusal = self._dispatcher.backpressure.refusal_of_accepted()
        is_passed_on = router.is_leaving and router.cluster.ring.owner(detour.ref) is not None
        if refusal is None and not is_passed_on:
            router.settling.here(detour, reason)  # the last host that leaves handles what it has accepted itself
            return
        self.ownership.release(detour.ref)
        if refusal is None or router.is_leaving:
            router.settling.again(detour)  # its next owner waits until it has been given back
        else:
            router.settling.failed(detour, refusal)

    def _lost(self, detour: Detour, owner: Lost) -> None:
        """Somebody else has it. Messages go there, or wait here while it is about to give the actor back."""
        router = self._router
        link = None if owner.host_id == router.host_id else router.transport.link(owner.host_id)
        if link is not None and owner.host_id in router.cluster.ring.members:
            router.settling.at(detour, link)
            return
        # It leaves in good order, or it is gone and its lease has not ended: this host is next, or one that finds out
        # in the same way.
        clock = self._dispatcher.clock
        if clock.monotonic() - detour.since >= router.cluster.hand_over_timeout:
            text = f"{detour.ref} is owned by {owner.host_id!r} (epoch {owner.epoch}), which has not given it back"
            router.settling.failed(detour, NoOwner(text))
            return
        clock.call_later(_HAND_OVER_RETRY, lambda: self._again(detour))

    def _again(self, detour: Detour) -> None:
        if self._router.detours.get(detour.ref) is detour:
            self.ownership.claim(detour.ref)
