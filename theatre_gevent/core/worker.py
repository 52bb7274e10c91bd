"""The greenlets that run actors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent import Greenlet

from .._accel import COMPILED
from . import native
from .activation import ACTIVE
from .context import OPEN, Context, Request
from .fifo import Fifo
from .inbox import MAX_PARKED, MAX_POOLED, TURN_BUDGET
from .remote import UNLIMITED

if TYPE_CHECKING:
    from .activation import Activation
    from .dispatcher import Dispatcher

_LOOK = 7
"""A turn looks at the clock after its first message, in case that was a long one, and each eighth one after it."""


class Worker(Greenlet):  # type: ignore[type-arg]
    """Runs turns of one activation after the other; parked in between.

    Only the dispatcher's callback makes one, in the hub, where the stack is shallow: a greenlet that starts deep
    inside others copies more of the stack at every switch.

    Attributes:
        desk: What it has in hand.
    """

    # Slots, since attributes in the instance dict of a C type's subclass are not cached by the interpreter (70 ns).
    __slots__ = ("desk",)

    def __init__(self, dispatcher: Dispatcher, first: Activation) -> None:
        super().__init__()
        self.desk = Desk(self, dispatcher)
        self.desk.work = first
        dispatcher.workers.add(self)

    def _run(self) -> None:  # gevent's name for what a Greenlet subclass does
        desk = self.desk
        dispatcher = desk.dispatcher
        try:
            desk.run()
        finally:
            dispatcher.workers.discard(self)
            if desk in dispatcher.parked:
                dispatcher.parked.remove(desk)
            if desk.activation is not None:
                desk.release(desk.activation)
            dispatcher.backpressure.grant()
            dispatcher.rested()


class Desk:
    """What a worker has in hand, and its work. Apart from the greenlet, so that compiled it is a C struct.

    Whoever switches to a parked worker puts its work here before: an `Activation` that is to have a turn, or a
    `Request` for an idle one, which is handed over without an inbox.

    Attributes:
        worker: Whose desk it is.
        dispatcher: The worker's.
        work: What comes next.
        activation: Whose turn it is; None while parked.
        ctx: The message that is being handled.
        back: The request in the inbox on whose behalf the worker was switched to directly.
        dismissed: True if the worker was killed: whatever its handler makes of that, it takes no more work after it.
    """

    __slots__ = ("activation", "back", "ctx", "dismissed", "dispatcher", "work", "worker")

    def __init__(self, worker: Worker, dispatcher: Dispatcher) -> None:
        self.worker = worker
        self.dispatcher = dispatcher
        self.work: Any = None
        self.activation: Activation | None = None
        self.ctx: Context | None = None
        self.back: Request | None = None
        self.dismissed = False

    def run(self) -> None:
        """Work for as long as there is something to do from time to time."""
        dispatcher, worker, compiled = self.dispatcher, self.worker, COMPILED
        ready, parked, hub = dispatcher.ready, dispatcher.parked, dispatcher.hub
        monotonic, backpressure, deferred = dispatcher.monotonic, dispatcher.backpressure, dispatcher.lifecycle.deferred
        lines = backpressure.lines
        activation: Activation
        while True:
            # Asked in C where there is C, and else without a call: 20 ns.
            if native.has_context(worker) if compiled else worker.gr_context is not None:
                worker.gr_context = None  # what the last actor put into contextvars is not for this one
            work = self.work
            if work is None:
                native.switch(hub)  # a stray switch comes back here with nothing to do
                continue
            self.work = None
            # One message alone, from the inbox or handed over without it, takes the shortest way there is.
            ctx: Any
            request: Request | None = None
            if type(work) is Request:
                ctx = request = work
                activation = request._activation
                dispatcher.handed_over += 1
            else:
                activation = work
                ctx = activation.inbox
                if type(ctx) is Fifo or activation.state != ACTIVE or lines:
                    ctx = None
                    self._turn(activation)
                else:
                    activation.inbox = None
                    dispatcher.received += 1
            if ctx is not None:
                self.ctx = ctx
                self.activation = activation
                activation.worker = worker
                activation.messages_total += 1
                actor_type = activation.actor_type
                actor_type.left = left = actor_type.left - 1
                try:
                    if left > 0:
                        activation.receiver.receive(ctx)  # type: ignore[union-attr]
                    else:
                        actor_type.call(activation.receiver.receive, ctx, monotonic, 0)  # type: ignore[union-attr]
                except BaseException as error:  # noqa: BLE001 - answered, logged and counted there
                    dispatcher.lifecycle.failed(self, activation, ctx, error)
                self.ctx = self.activation = None
                if request is not None:
                    if request.result is OPEN and activation.worker is worker:
                        deferred.add(activation, request)
                elif type(ctx) is not Context and ctx.result is OPEN and activation.worker is worker:
                    deferred.add(activation, ctx)
                if activation.inbox is None:
                    if activation.worker is worker:
                        activation.worker = None
                    elif self.dismissed:  # else it has ended by itself
                        return
                else:
                    self.release(activation)
                if request is not None and request.in_hand and request.result is not OPEN:
                    parked.append(self)
                    native.switch(request.greenlet)
                    continue
                dispatcher.accept_limit = dispatcher.received + dispatcher.headroom
                if backpressure.room is not None:
                    backpressure.grant(1)
            elif self.dismissed:
                return
            elif self.back is not None:
                back, self.back = self.back, None
                if back.in_hand and back.result is not OPEN:
                    parked.append(self)
                    native.switch(back.greenlet)
                    continue
            now = native.read(monotonic)
            dispatcher.turns_left -= 1
            if now < dispatcher.yield_at and dispatcher.turns_left > 0:
                activation.last_active = dispatcher.now
                while ready:
                    activation = ready.popleft()
                    if activation.inbox is not None and activation.worker is None:
                        self.work = activation
                        break
                if self.work is not None:
                    continue
            else:
                dispatcher.now = activation.last_active = now
            if dispatcher.at_rest is not None:
                dispatcher.rested()
            if len(parked) >= MAX_PARKED:
                return
            parked.append(self)
            native.switch(hub)

    def _turn(self, activation: Activation) -> None:
        """Handle what is in the inbox now, at most a budget of it."""
        dispatcher = self.dispatcher
        self.activation = activation
        activation.worker = self.worker
        if activation.state != ACTIVE:
            try:
                goes_on = dispatcher.lifecycle.enter(self, activation)
            except BaseException:
                self.release(activation)
                self._over(activation, 0)
                raise
            if not goes_on:
                self._over(activation, 0)
                return
        inbox = dispatcher.wake(activation)
        back: Any = self.back
        lines = dispatcher.backpressure.lines
        actor_type = activation.actor_type
        timed = actor_type.left
        if timed <= 0:
            timed = 1
        handled = 0
        budget = len(inbox)
        if budget > TURN_BUDGET:
            budget = TURN_BUDGET
        lease = dispatcher.lease
        leased = lease is not UNLIMITED
        while handled < budget and inbox:  # a freeze empties it
            if leased and native.read(dispatcher.monotonic) >= lease.lease_until:
                dispatcher.yield_at = 0.0  # the rest of the loop's time is over as well
                break
            if handled & _LOOK == 1 and native.read(dispatcher.monotonic) >= dispatcher.yield_at:
                break  # sockets, timers and other actors are next
            handled += 1
            self.ctx = ctx = inbox.popleft()
            dispatcher.received += 1
            if lines:
                dispatcher.backpressure.refill(activation)
            try:
                if handled == timed:
                    actor_type.call(activation.receiver.receive, ctx, dispatcher.monotonic, handled)  # type: ignore[union-attr]
                else:
                    activation.receiver.receive(ctx)  # type: ignore[union-attr]
            except BaseException as error:  # noqa: BLE001 - as above
                try:
                    goes_on = dispatcher.lifecycle.failed(self, activation, ctx, error)
                except BaseException:
                    self.release(activation)  # whatever that was, the actor goes on with another worker
                    self._over(activation, handled)
                    raise
                if not goes_on:
                    self._over(activation, handled)
                    return
            if type(ctx) is not Context:
                if ctx.result is OPEN:
                    dispatcher.lifecycle.deferred.add(activation, ctx)
                elif ctx is back and back.in_hand:
                    break
        self.ctx = self.activation = None
        activation.messages_total += handled
        actor_type.left -= handled
        dispatcher.accept_limit = dispatcher.received + dispatcher.headroom
        if dispatcher.backpressure.room is not None:
            dispatcher.backpressure.grant(1)
        if inbox or activation.worker is not self.worker or activation.inbox is not inbox:
            self.release(activation)
        else:  # the common case of `release`, without the call
            activation.worker = activation.inbox = None
            if len(dispatcher.inboxes) < MAX_POOLED:
                dispatcher.inboxes.append(inbox)

    def _over(self, activation: Activation, handled: int) -> None:
        """Bring the accounts up to date at the early end of a turn, and let senders go on that waited for room."""
        dispatcher = self.dispatcher
        self.ctx = self.activation = None
        if activation.worker is self.worker:
            activation.worker = None  # it has ended, and what ends it for good must not take this worker for its
        activation.messages_total += handled
        activation.actor_type.left -= handled
        dispatcher.accept_limit = dispatcher.received + dispatcher.headroom
        if dispatcher.backpressure.room is not None:
            dispatcher.backpressure.grant(1)

    def release(self, activation: Activation) -> None:
        """End of the turn: the activation goes idle, or to the back of the ready queue if it has more to do."""
        dispatcher = self.dispatcher
        if activation.worker is not self.worker:
            return  # the host stopped hard and took the activation away
        activation.worker = None
        inbox: Any = activation.inbox
        if inbox:
            dispatcher.ready.append(activation)
            if not dispatcher.armed:
                dispatcher.arm()
            return
        if inbox is not None:
            activation.inbox = None
            if len(dispatcher.inboxes) < MAX_POOLED:
                dispatcher.inboxes.append(inbox)
