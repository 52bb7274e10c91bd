"""The greenlets that run actors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent import Greenlet
from greenlet import greenlet as RawGreenlet

from .activation import ACTIVE
from .inbox import MAX_PARKED, TURN_BUDGET

if TYPE_CHECKING:
    from .activation import Activation
    from .context import Context
    from .dispatcher import Dispatcher
    from .requests import Pending

raw_switch = RawGreenlet.switch


class Worker(Greenlet):
    """Runs turns of one activation after the other; parked in between.

    Only the dispatcher's callback makes one, in the hub, where the stack is shallow: a greenlet that starts deep
    inside others copies more of the stack at every switch.

    Attributes:
        activation: Whose turn it is; None while parked.
        ctx: The message that is being handled.
        back: The request on whose behalf this worker was switched to directly, None when the hub did it.
        now: The clock's reading at the start of the turn.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self.dispatcher = dispatcher
        self.activation: Activation | None = None
        self.ctx: Context | None = None
        self.back: Pending | None = None
        self.now = 0.0
        self._before = 0
        self._counted: Activation | None = None
        dispatcher.workers.add(self)

    def handled(self) -> int:
        """Return how many messages this turn has handled that `dispatcher.received` does not hold yet."""
        counted = self._counted
        return 0 if counted is None else counted.messages_total - self._before

    def _run(self) -> None:  # gevent's name for what a Greenlet subclass does
        dispatcher = self.dispatcher
        try:
            self._work()
        finally:
            dispatcher.workers.discard(self)
            if self in dispatcher.parked:
                dispatcher.parked.remove(self)
            if self.activation is not None:
                self.release(self.activation)
            if dispatcher.at_rest is not None and not dispatcher.at_rest.done:
                dispatcher.complete(dispatcher.at_rest, None, None)

    def _work(self) -> None:
        dispatcher = self.dispatcher
        ready, parked, hub = dispatcher.ready, dispatcher.parked, dispatcher.hub
        monotonic = dispatcher.monotonic
        while True:
            activation = self.activation
            if activation is None:
                hub.switch()  # parked; a stray switch comes back here
                continue
            if self.gr_context is not None:
                self.gr_context = None  # what the last actor put into contextvars is not for this one
            self._turn(activation)
            back = self.back
            if back is not None:
                self.back = None
                self.activation = None
                if back.done and back.in_hand and back.greenlet is not None:
                    parked.append(self)
                    raw_switch(back.greenlet)
                    continue
            self.now = now = monotonic()
            activation.last_active = now
            if now < dispatcher.yield_at:
                self.activation = None
                while ready:
                    activation = ready.popleft()
                    if activation.inbox is not None and activation.worker is None:
                        self.activation = activation
                        break
                if self.activation is not None:
                    continue
            self.activation = None
            if dispatcher.at_rest is not None and not dispatcher.at_rest.done:
                dispatcher.complete(dispatcher.at_rest, None, None)
            if len(parked) >= MAX_PARKED:
                return
            parked.append(self)
            hub.switch()

    def _turn(self, activation: Activation) -> None:
        """Handle what is in the inbox now, at most a budget of it."""
        dispatcher = self.dispatcher
        activation.worker = self
        if activation.state != ACTIVE:
            current = dispatcher.lifecycle.enter(self, activation)
            if current is None:
                return
            activation = current
        inbox = activation.inbox
        receive = activation.receiver.receive  # type: ignore[union-attr]
        back = self.back
        assert inbox is not None
        budget = len(inbox)
        if budget > TURN_BUDGET:
            budget = TURN_BUDGET
        self._counted = activation
        self._before = activation.messages_total
        while budget and inbox:  # a freeze empties it
            budget -= 1
            ctx = inbox.popleft()
            self.ctx = ctx
            activation.messages_total += 1
            if activation.waiting is not None:
                dispatcher.backpressure.refill(activation)
            try:
                receive(ctx)
            except BaseException as error:
                self.count()
                if not dispatcher.lifecycle.failed(self, activation, ctx, error):
                    self.ctx = self._counted = None
                    return
            pending = ctx._pending
            if pending is not None:
                if not pending.done:
                    activation.defer(pending)
                elif pending is back and pending.in_hand:
                    break
        self.ctx = None
        self._counted = None
        handled = activation.messages_total - self._before
        dispatcher.received += handled
        dispatcher.accept_limit += handled
        if dispatcher.backpressure.room is not None:
            dispatcher.backpressure.grant()
        self.release(activation)

    def count(self) -> None:
        """Add what this turn has handled to the dispatcher's counters, before the activation changes hands."""
        counted = self._counted
        if counted is not None:
            handled = counted.messages_total - self._before
            self._before = counted.messages_total
            self.dispatcher.received += handled
            self.dispatcher.accept_limit += handled

    def release(self, activation: Activation) -> None:
        """End of the turn: the activation goes idle, or to the back of the ready queue if it has more to do."""
        dispatcher = self.dispatcher
        if activation.worker is not self:
            return  # the host stopped hard and took the activation away
        activation.worker = None
        inbox: Any = activation.inbox
        if inbox:
            dispatcher.ready.append(activation)
            if not dispatcher.armed:
                dispatcher.arm()
            return
        activation.last_active = self.now
        activation.inbox = None
        if len(dispatcher.inboxes) < dispatcher.options.host_inbox_size:
            dispatcher.inboxes.append(inbox)
