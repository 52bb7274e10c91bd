"""Draining, shutting down, freezing: how a dispatcher comes to rest within a bounded time."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from gevent.event import Event
from greenlet import getcurrent

from ..errors import HostDraining, HostFrozen, HostNotRunning, TheatreError
from ..logs import fields, safely
from .activation import ACTIVE, LEAVING, NEW, STOPPED
from .context import Failure, Request
from .counters import open_requests
from .requests import make_pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..messages import Ref
    from .activation import Activation
    from .context import Context
    from .dispatcher import Dispatcher
    from .registry import Registry
    from .worker import Worker

log = logging.getLogger("theatre_gevent.host")

_CROWD = 2000
"""Activations put into the ready queue before their Shutdown is waited for: a million inboxes need a gigabyte."""

_KILL_TIMEOUT = 1.0
"""Seconds that a killed handler gets for its clean-up."""


class Closer:
    """Brings a dispatcher to rest. Each method is called by one greenlet at a time, never by a worker."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._killed: list[Worker] = []

    @property
    def lingering(self) -> list[Worker]:
        """Workers whose handlers were killed and run still, though they can do nothing to other actors any more."""
        self._killed = [worker for worker in self._killed if not worker.dead]
        return self._killed

    def drain(self, timeout: float, refusal: HostDraining) -> bool:
        """Refuse outside messages and wait until the accepted ones are handled; tells whether they are."""
        self._dispatcher.backpressure.close(refusal, actors_allowed=True)
        return self._wait_until(self._quiet, timeout)

    def hand_over(self) -> None:
        """Let the actors that are idle leave now: others may have them before the busy ones have finished.

        It comes back at once, or waits while very many are on their way out. A message that comes first keeps its
        actor here.
        """
        dispatcher = self._dispatcher
        for activation in list(dispatcher.actors.values()):
            if (
                activation.state == ACTIVE
                and activation.inbox is None
                and activation.worker is None
                and not dispatcher.lifecycle.deferred.open(activation)
            ):
                activation.state = LEAVING
                dispatcher.wake(activation)
                if len(dispatcher.ready) >= _CROWD:
                    self._wait_until(lambda: not dispatcher.ready, 1.0)

    def shut_down(self, timeout: float, refusal: HostDraining) -> bool:
        """Send Shutdown to every activation and wait for them to leave; tells whether all have."""
        dispatcher = self._dispatcher
        dispatcher.lifecycle.closing = True
        dispatcher.backpressure.close(refusal, actors_allowed=False)
        dispatcher.registry.stop()
        deadline = dispatcher.monotonic() + timeout
        while dispatcher.actors:
            for activation in list(dispatcher.actors.values()):
                if activation.state == ACTIVE:
                    activation.state = LEAVING
                if activation.state in (LEAVING, NEW):
                    dispatcher.wake(activation)
                if len(dispatcher.ready) >= _CROWD and not self._wait_until(
                    lambda: not dispatcher.ready, deadline - dispatcher.monotonic()
                ):
                    return False
            if not self._wait_until(lambda: not dispatcher.ready, deadline - dispatcher.monotonic()):
                return False
            # What was at work just now may have gone idle since, and needs another push: look at it again.
            if dispatcher.actors and not self._wait_for_leaving(deadline):
                return False
        return True

    def force(self, error: TheatreError) -> None:
        """End what is still there: fence activations, kill their handlers, answer everybody who waits."""
        dispatcher = self._dispatcher
        dispatcher.cancelled.set()
        stuck = self._force_all(list(dispatcher.actors.values()), error)
        dispatcher.ready.clear()
        self.fail_waiting(error)
        self._kill(stuck)

    def fence_all(self, refusal: HostNotRunning) -> None:
        """Fence every activation in one step, as when a lease has ended; `force` does the rest.

        It can be called in the hub: nothing waits, and no code of the user's runs.
        """
        dispatcher = self._dispatcher
        dispatcher.schedules.pause()
        dispatcher.backpressure.close(refusal, actors_allowed=False)
        dispatcher.cancelled.set()
        for activation in dispatcher.actors.values():
            if activation.state != STOPPED:
                dispatcher.lifecycle.fence(activation, refusal)

    def finish(self) -> None:
        """Let go of the parked workers, when the last dead letters have been told or take too long."""
        self._wait_until(lambda: not self._dispatcher.lifecycle.telling, _KILL_TIMEOUT)
        for desk in self._dispatcher.parked[:]:
            desk.worker.kill(block=False)
        self._dispatcher.inboxes.clear()

    def suspend(self, refusal: HostFrozen) -> Event:
        """Take no more messages, until `unfreeze`; `come_to_rest` does the rest of a freeze.

        It can be called in the hub: nothing waits, and no code of the user's runs. So a freeze and an unfreeze have
        their effects in the order in which they were decided, however late a greenlet gets its turn.

        Returns:
            What stands for this freeze: another event is in its place as soon as it is over.
        """
        dispatcher = self._dispatcher
        dispatcher.schedules.pause()
        dispatcher.backpressure.close(refusal, actors_allowed=False)
        dispatcher.cancelled.set()
        return dispatcher.cancelled

    def come_to_rest(self, freeze: Event, grace: float, refusal: HostFrozen) -> None:
        """Make queued messages dead letters, and give running handlers `grace` seconds to end.

        Does no more as soon as `freeze`, which `suspend` has returned, is over.
        """
        dispatcher = self._dispatcher
        lifecycle = dispatcher.lifecycle

        def is_over() -> bool:
            return dispatcher.cancelled is not freeze or lifecycle.closing

        if is_over():
            return
        taken: list[Context] = []
        for activation in list(dispatcher.actors.values()):  # in one step: no turn begins meanwhile
            if activation.inbox is not None:
                taken += lifecycle.take_all(activation, refusal)
                dispatcher.backpressure.leave_line(activation)
                if activation.state == LEAVING:
                    activation.state = ACTIVE
        self.fail_waiting(refusal)
        lifecycle.report_all(taken, "the host has frozen", refusal)
        if self._wait_until(lambda: is_over() or not (self._busy() or lifecycle.telling), grace):
            return
        busy = [held for worker in self._busy() if (held := worker.desk.activation) is not None]
        self._kill(self._force_all(busy, refusal))

    def unfreeze(self) -> None:
        """Accept messages again. Who kept `ctx.cancelled` from before keeps an event that is set."""
        self._dispatcher.cancelled = Event()
        self._dispatcher.backpressure.open()
        self._dispatcher.schedules.resume()

    def fail_waiting(self, error: TheatreError) -> None:
        """Answer every request and every other wait that is open."""
        dispatcher = self._dispatcher
        for pending in [*dispatcher.requests_in_hand(), *dispatcher.deadlines.clear()]:
            if not pending.done:
                dispatcher.complete(pending, Failure(error.copy()))
        dispatcher.lifecycle.spawning.clear()

    def _force_all(self, activations: list[Activation], error: TheatreError) -> list[tuple[Worker, Ref]]:
        """End activations and report what was in their inboxes; returns the workers whose handlers run still."""
        taken: list[Context] = []
        ended = [self._force(activation, error, taken) for activation in activations]
        self._dispatcher.lifecycle.report_all(taken, str(error), error)
        return [pair for pair in ended if pair is not None]

    def _force(self, activation: Activation, error: TheatreError, taken: list[Context]) -> tuple[Worker, Ref] | None:
        """End an activation; returns the worker whose handler runs still, and the ref.

        What was in its inbox is added to `taken`, to be reported.
        """
        dispatcher = self._dispatcher
        worker = activation.worker
        if worker is not None:
            safely(
                log.warning,
                "actor %s did not end in time and is stopped by force",
                activation.ref,
                extra=fields(ref=activation.ref),
            )
            ctx = worker.desk.ctx
            if isinstance(ctx, Request) and not ctx.done:
                dispatcher.complete(ctx, Failure(error.copy()))
        if activation.state != STOPPED:  # else its end has been accounted for, and only its last messages are left
            dispatcher.lifecycle.fence(activation, error.copy())
        taken += dispatcher.lifecycle.take_all(activation, error)
        dispatcher.backpressure.leave_line(activation)
        activation.worker = None
        activation.inbox = None
        dispatcher.registry.remove(activation, over=worker is None)
        return None if worker is None else (worker, activation.ref)

    def _kill(self, stuck: list[tuple[Worker, Ref]]) -> None:
        me, registry = getcurrent(), self._dispatcher.registry
        workers = [worker for worker, _ in stuck]
        self._killed += workers
        for worker, ref in stuck:
            # Nobody else may have the actor before its handler has ended, though that may take long.
            worker.link(partial(_let_go, registry, ref))
            worker.desk.dismissed = True
            if worker is not me:
                worker.kill(block=False)
        if not self._wait_until(lambda: all(w.dead or w is me for w in workers), _KILL_TIMEOUT):
            still = sum(not worker.dead for worker in workers)
            safely(log.error, "%d handlers swallowed their kill; their contexts are fenced", still)

    def _busy(self) -> list[Worker]:
        # A handler that has swallowed its kill is over for everybody else.
        return [
            worker
            for worker in self._dispatcher.workers
            if worker.desk.activation is not None and not worker.desk.dismissed
        ]

    def _quiet(self) -> bool:
        dispatcher = self._dispatcher
        if dispatcher.ready or self._busy():
            return False
        if dispatcher.accepted != dispatcher.received + dispatcher.dead_lettered:
            return False
        if dispatcher.router is not None and dispatcher.router.held():
            return False
        owed = dispatcher.lifecycle.deferred.owed_elsewhere(dispatcher.monotonic())
        return open_requests(dispatcher) == 0 and not owed

    def _wait_for_leaving(self, deadline: float) -> bool:
        """Wait a moment for some activation to leave; tells whether there is time left."""
        dispatcher = self._dispatcher
        before = len(dispatcher.actors)
        self._wait_until(lambda: len(dispatcher.actors) < before, min(0.02, deadline - dispatcher.monotonic()))
        return dispatcher.monotonic() < deadline

    def _wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for `condition`, which is looked at again whenever a worker comes to rest, and 20 times a second."""
        dispatcher = self._dispatcher
        deadline = dispatcher.monotonic() + timeout
        while not condition():
            now = dispatcher.monotonic()
            if now >= deadline:
                return False
            pending = make_pending(getcurrent(), min(deadline, now + 0.05))
            dispatcher.at_rest = pending
            try:
                dispatcher.wait(pending)
            except TheatreError:
                pass  # that the others' waits are failed is no reason to stop looking
            finally:
                dispatcher.at_rest = None
        return True


def _let_go(registry: Registry, ref: Ref, _: Worker) -> None:
    registry.let_go(ref)
