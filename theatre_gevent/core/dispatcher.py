"""The per-message path: who gets the next turn.

Messages go into inboxes; an activation with work goes into the ready queue; one hub callback is armed while there is
anything to do. It gives ready activations to workers. A worker that blocks in a receiver stays with its actor, and
the callback goes on with another worker.

A request to an activation that no worker has is handed over directly: the requester switches to a parked worker, and
the worker switches straight back with the reply, without the hub (1.7 us against 3.1).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from gevent.event import Event
from gevent.hub import get_hub
from gevent.monkey import get_original
from greenlet import getcurrent
from greenlet import greenlet as raw_greenlet

from ..config import MAX_TIMEOUT, check_timeout
from ..errors import CallCycle, HostDraining, RequestTimeout, TheatreError
from ..logic.deadlines import Deadlines
from .activation import ACTIVE, LEAVING, Activation
from .backpressure import Backpressure
from .context import ANSWERED, GIVEN_UP, Context, Request
from .inbox import CLOSED, MAX_TURNS, NEVER, TIME_BUDGET
from .lifecycle import Lifecycle
from .requests import Pending, call_chain
from .threads import ThreadBridge
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock, Timer
    from ..config import HostOptions
    from ..messages import Ref
    from .registry import Registry
    from .requests import Waiter

get_ident: Callable[[], int] = get_original("_thread", "get_ident")
raw_switch = raw_greenlet.switch

WORKER_DEPTH = 6
"""Calls, each from C into the interpreter again."""


def _switch_deep(depth: int, worker: Worker) -> None:
    """Switch to a new worker from further down the C stack, where it then lives.

    A greenlet that shares stack addresses with the one it switches with has to be copied away and back. Requesters
    start at the hub's level and reach about two kilobytes below it; workers that start below that leave them alone
    (8 % of a request).
    """
    if depth:
        for _ in map(_switch_deep, (depth - 1,), (worker,)):
            pass
    else:
        raw_switch(worker)


class Dispatcher:
    """Accepts messages and runs activations on worker greenlets.

    Args:
        options: The host's options.
        clock: Where time comes from.
        registry: Knows the actor types and the activations.
        on_panic: Called with the error when a receiver raised and `panic_recovery` is off.
    """

    __slots__ = (
        "_loop",
        "_soon",
        "_timer",
        "_timer_due",
        "accept_limit",
        "accepted",
        "actors",
        "armed",
        "at_rest",
        "backpressure",
        "blocked",
        "cancelled",
        "clock",
        "dead_lettered",
        "deadlines",
        "hand_until",
        "handed_over",
        "headroom",
        "hub",
        "in_hand",
        "inbox_size",
        "inboxes",
        "lifecycle",
        "monotonic",
        "options",
        "parked",
        "ready",
        "received",
        "registry",
        "replies_late",
        "request_timeout",
        "requests_abandoned",
        "requests_queued",
        "requests_timed_out",
        "resumes",
        "thread",
        "threads",
        "turns_left",
        "workers",
        "yield_at",
    )

    def __init__(
        self,
        options: HostOptions,
        clock: Clock,
        registry: Registry,
        on_panic: Callable[[BaseException], None],
    ) -> None:
        self.options = options
        self.clock = clock
        self.monotonic = clock.monotonic
        self.registry = registry
        self.actors = registry.actors
        self.inbox_size = options.actor_inbox_size
        self.request_timeout = options.request_timeout
        self.cancelled = Event()

        self.ready: deque[Activation] = deque()
        self.resumes: deque[Waiter] = deque()
        self.in_hand: Request | None = None
        """The request handed over last, while the hub has not run since; the others follow by `below`."""
        self.parked: list[Worker] = []
        self.workers: set[Worker] = set()
        self.inboxes: list[deque[Context]] = []
        self.armed = False
        self.yield_at = 0.0
        self.hand_until = 0.0
        self.turns_left = 0

        # accepted >= accept_limit sends a message to the slow path: the host is full, or does not run. So the one
        # comparison of the hot path serves every reason to wait or to refuse.
        self.accepted = 0
        self.accept_limit = CLOSED
        self.headroom = CLOSED
        self.blocked = 0
        self.handed_over = 0
        self.received = 0
        self.dead_lettered = 0
        self.requests_queued = 0
        self.requests_timed_out = 0
        self.requests_abandoned = 0
        self.replies_late = 0

        self.deadlines: Deadlines[Waiter] = Deadlines()
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self.lifecycle = Lifecycle(self, on_panic)
        self.backpressure = Backpressure(self)
        self.threads = ThreadBridge()
        self.thread = 0
        self.hub: Any = None
        self.at_rest: Pending | None = None
        """Completed whenever a worker comes to rest; the `Closer` waits on it."""

    def attach(self) -> None:
        """Take the calling thread's hub as the one that everything runs on."""
        self.hub = get_hub()
        self.thread = get_ident()
        self._loop = self.hub.loop
        self._soon = self._loop.timer(0)
        self.threads.attach(self.hub)

    # -- accepting ---------------------------------------------------------------------------------------------

    def send(self, ref: Ref, body: object, _sender: Ref | None = None) -> None:
        """Accept a message; waits at a full inbox. Called from any greenlet and any thread."""
        if get_ident() != self.thread:
            self.threads.call(self.send, (ref, body, _sender), self.request_timeout)
            return
        if self.accepted >= self.accept_limit and not self.backpressure.admit(ref, body, _sender, None):
            return
        try:
            activation = self.actors[ref]
        except (KeyError, TypeError):
            activation = self.registry.activate(ref)
        inbox = activation.inbox
        if inbox is None:
            inbox = activation.inbox = self.inboxes.pop() if self.inboxes else deque()
            if activation.worker is None:
                self.ready.append(activation)
                if not self.armed:
                    self.arm()
        elif len(inbox) >= self.inbox_size:
            self.backpressure.stand_in_line(activation, Context(activation, body, _sender))
            return
        inbox.append(Context(activation, body, _sender))
        self.accepted += 1

    def request(self, ref: Ref, body: object, timeout: float | None = None, _ctx: Context | None = None) -> Any:
        """Accept a message and wait for the reply. `_ctx` is that of the asking handler, None when asked outside."""
        if timeout is None:
            timeout = self.request_timeout
        elif type(timeout) is not float or not 0.0 < timeout < MAX_TIMEOUT:
            timeout = check_timeout(timeout)
        if get_ident() != self.thread:
            return self.threads.call(self.request, (ref, body, timeout, _ctx), timeout + 1.0)
        me = getcurrent()
        now = self.monotonic()
        deadline = now + timeout
        parent = sender = None
        if type(me) is Worker and me.dispatcher is self:
            parent = me.ctx
            if _ctx is None:
                _ctx = parent
            elif _ctx is not parent:
                parent = None  # another message's context: nobody waits for this handler through it
        elif me is self.hub:
            raise TheatreError("a request would block the hub: make it from a greenlet, not from a loop callback")
        if _ctx is not None:
            sender = _ctx._activation.ref
            if type(_ctx) is Request and _ctx.deadline < deadline and _ctx.done != ANSWERED:
                deadline = _ctx.deadline
                if deadline <= now:
                    raise RequestTimeout(f"no time is left to ask {ref}: the request being handled has timed out")
            if parent is not None and (cycle := call_chain(parent, ref)) is not None:
                raise CallCycle(cycle)
        try:
            activation = self.actors[ref]
        except (KeyError, TypeError):
            if not self.backpressure.is_open():
                self._admit(ref, body, sender, deadline)
            activation = self.registry.activate(ref)
        if now >= self.hand_until or activation.worker is not None or not self.parked:
            return self._queue(Request(activation, body, sender, me, deadline, parent), timeout)
        # Handed over: the worker runs here and now, and switches straight back with the reply. The queue of the host
        # gets no longer by it, so its bound does not matter here.
        request = Request(activation, body, sender, me, deadline, parent, True, self.in_hand)
        inbox = activation.inbox
        if inbox is None and activation.state == ACTIVE:
            activation.last_active = now
            work: Any = request
            worker = self.parked.pop()
        else:
            if inbox is not None and len(inbox) >= self.inbox_size:
                request.in_hand = False
                request.below = None
                return self._queue(request, timeout)
            self.wake(activation).append(request)
            self.accepted += 1
            self.requests_queued += 1
            work = activation
            worker = self.parked.pop()
            worker.back = request
            worker.now = now
        self.in_hand = request
        if not self.armed:
            self.arm()
        try:
            raw_switch(worker, work)
            while not request.done:
                self.hub.switch()
        except BaseException:
            self._abandon(request)
            raise
        request.greenlet = None
        if self.in_hand is request:
            self.in_hand = request.below
        elif request.in_hand:
            self._unlink(request)
        elif request.bucket != NEVER:
            self.deadlines.discard(request)
        if request.error is not None:
            raise self._failure(request, timeout)
        return request.value

    def _queue(self, request: Request, timeout: float) -> Any:
        """Put a request into its receiver's inbox and wait in the hub for the reply."""
        if self.accepted >= self.accept_limit:
            ref = request._activation.ref
            self._admit(ref, request.message, request.sender, request.deadline)
            request._activation = self.registry.activate(ref)  # it may have left meanwhile
        activation = request._activation
        inbox = activation.inbox
        try:
            if inbox is not None and len(inbox) >= self.inbox_size:
                self.backpressure.stand_in_line(activation, request)
            else:
                self.wake(activation).append(request)
                self.accepted += 1
                self.requests_queued += 1
            self.watch(request)
            while not request.done:
                self.hub.switch()
        except BaseException:
            self._abandon(request)
            raise
        request.greenlet = None
        self.deadlines.discard(request)
        if request.error is not None:
            raise self._failure(request, timeout)
        return request.value

    def _admit(self, ref: Ref, body: object, sender: Ref | None, deadline: float) -> None:
        if not self.backpressure.admit(ref, body, sender, deadline):
            raise HostDraining(f"{ref} can't answer: the host is shutting its actors down")

    def _failure(self, request: Request, timeout: float) -> BaseException:
        error, request.error = request.error, None  # its traceback will hold the frame that holds the request
        assert error is not None
        if type(error) is RequestTimeout:
            self.requests_timed_out += 1
            ref = request._activation.ref
            return RequestTimeout(f"no reply from {ref} within {timeout:g} s, or what was left of its caller's time")
        return error

    def spawn(self, ref: Ref) -> None:
        """Activate `ref` if it is not active, and wait until its Initialize handler has returned."""
        if get_ident() != self.thread:
            self.threads.call(self.spawn, (ref,), self.request_timeout + 1.0)
            return
        self.backpressure.check_running(ref)
        activation = self.registry.activate(ref)
        if activation.state == LEAVING:
            activation.state = ACTIVE
        if activation.state == ACTIVE:
            return
        me = getcurrent()
        parent = me.ctx if type(me) is Worker and me.dispatcher is self else None
        if parent is not None and (cycle := call_chain(parent, ref)) is not None:
            raise CallCycle(cycle)
        pending = Pending(me, self.monotonic() + self.request_timeout, parent)
        self.lifecycle.spawning.setdefault(ref, []).append(pending)
        self.wake(activation)
        try:
            self.wait(pending)
        except RequestTimeout:
            raise RequestTimeout(f"{ref} was not initialized within {self.request_timeout:g} s") from None
        finally:
            self.lifecycle.forget(ref, pending)

    def wake(self, activation: Activation) -> deque[Context]:
        """See to it that an activation gets a turn; returns its inbox."""
        inbox = activation.inbox
        if inbox is None:
            inbox = activation.inbox = self.inboxes.pop() if self.inboxes else deque()
            if activation.worker is None:
                self.ready.append(activation)
                if not self.armed:
                    self.arm()
        return inbox

    # -- waiting -----------------------------------------------------------------------------------------------

    def complete(self, waiter: Waiter, value: Any, error: BaseException | None) -> bool:
        """Decide a wait. Only the first decision counts; tells whether this was it."""
        if get_ident() != self.thread:
            return bool(self.threads.call(self.complete, (waiter, value, error), self.request_timeout))
        if waiter.done:
            self.replies_late += 1
            return False
        waiter.value = value
        waiter.error = error
        waiter.done = ANSWERED
        if not waiter.in_hand:  # else its worker, or the armed callback, switches back
            self.resume(waiter)
        return True

    def resume(self, waiter: Waiter) -> None:
        """Have the waiting greenlet go on; harmless when it has gone on already."""
        if get_ident() != self.thread:
            self.threads.call(self.resume, (waiter,), self.request_timeout)
            return
        self.resumes.append(waiter)
        if not self.armed:
            self.arm()

    def wait(self, pending: Pending) -> Any:
        """Block the pending's greenlet until it is done or its deadline has passed.

        Raises:
            RequestTimeout: The deadline has passed.
        """
        self.watch(pending)
        try:
            while not pending.done:
                self.block()
        finally:
            pending.done = pending.done or GIVEN_UP
            pending.greenlet = None
            self.deadlines.discard(pending)
        if pending.error is not None:
            raise pending.error
        return pending.value

    def block(self) -> None:
        """Switch to the hub; whoever calls must be able to bear being resumed for nothing."""
        if getcurrent() is self.hub:
            raise TheatreError("this would block the hub: call it from a greenlet, not from a loop callback")
        self.hub.switch()

    def watch(self, pending: Waiter) -> None:
        """See to it that `pending` ends at its deadline."""
        self.deadlines.add(pending)
        if self._timer is None or pending.deadline < self._timer_due - 0.01:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.deadlines.next_due()
        if due is not None:
            self._timer_due = due
            self._timer = self.clock.call_later(due - self.monotonic(), self._expire)

    def _expire(self) -> None:
        self._timer = None
        for pending in self.deadlines.expire(self.monotonic()):
            if not pending.done:
                pending.bucket = NEVER
                pending.done = GIVEN_UP
                pending.error = RequestTimeout()
                self.resumes.append(pending)
                if not self.armed:
                    self.arm()
        self._set_timer()

    def _abandon(self, pending: Request) -> None:
        """The requester was interrupted; its actor never is."""
        if not pending.done:
            pending.done = GIVEN_UP
            self.requests_abandoned += 1
        pending.greenlet = None
        if pending.in_hand:
            self._unlink(pending)
        else:
            self.deadlines.discard(pending)

    def requests_in_hand(self) -> list[Request]:
        """Return the requests that were handed over since the hub last ran, the latest first."""
        found = []
        request = self.in_hand
        while request is not None:
            found.append(request)
            request = request.below
        return found

    def _unlink(self, request: Request) -> None:
        """Take a request out of the hand that is not the last one in it, perhaps."""
        rest = [other for other in self.requests_in_hand() if other is not request]
        for upper, lower in zip(rest, [*rest[1:], None], strict=True):
            upper.below = lower
        self.in_hand = rest[0] if rest else None
        request.in_hand = False

    # -- running -----------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Have `_dispatch` called in the hub, once."""
        self.armed = True
        self._loop.run_callback(self._dispatch)

    def _dispatch(self) -> None:
        """In the hub: give the ready activations to workers and resume who waited.

        Until nothing is left to do or the time budget is spent. `armed` stays true meanwhile: nobody arms again.
        """
        ready, resumes, monotonic = self.ready, self.resumes, self.monotonic
        now = monotonic()
        self._count_blocked()
        self.yield_at = yield_at = now + TIME_BUDGET
        self.hand_until = yield_at if self.backpressure.is_open() else 0.0
        # Bounded by count as well as by time: a virtual clock stands still.
        self.turns_left = MAX_TURNS
        try:
            while (ready or resumes or self.in_hand) and self.turns_left > 0 and now < yield_at:
                self.turns_left -= 1
                if self.in_hand:
                    self._settle()
                if resumes:
                    pending = resumes.popleft()
                    if pending.greenlet is not None:
                        raw_switch(pending.greenlet)
                elif ready:
                    activation = ready.popleft()
                    if activation.inbox is None or activation.worker is not None:
                        continue  # left over: it was handed over to a requester meanwhile
                    if self.parked:
                        worker = self.parked.pop()
                        worker.now = now
                        raw_switch(worker, activation)
                    else:
                        worker = Worker(self, activation)
                        worker.now = now
                        _switch_deep(WORKER_DEPTH, worker)
                now = monotonic()
        finally:
            self.armed = False
            self._count_blocked()
            if ready or resumes or self.in_hand:
                # Through a timer of zero seconds and not as a callback: the loop runs up to 50 callbacks before it
                # looks at sockets again, which would make 50 time budgets.
                self.armed = True
                self._soon.start(self._dispatch)

    def busy(self) -> int:
        """Return how many workers are not parked."""
        return len(self.workers) - len(self.parked)

    def _count_blocked(self) -> None:
        """In the hub, where every busy worker is a blocked one: a message is not handled while its handler waits."""
        busy = self.busy()
        self.headroom += self.blocked - busy
        self.blocked = busy
        self.accept_limit = self.received + self.headroom

    def _settle(self) -> None:
        """The hub runs while requests are in hand: their receivers have blocked, so watch their deadlines."""
        in_hand, self.in_hand = self.requests_in_hand(), None
        for request in in_hand:
            request.in_hand = False
            request.below = None
            if request.done:
                self.resumes.append(request)
            else:
                self.watch(request)

    def rested(self) -> None:
        """A worker has come to rest: tell who waits for that."""
        at_rest = self.at_rest
        if at_rest is not None and not at_rest.done:
            self.complete(at_rest, None, None)
