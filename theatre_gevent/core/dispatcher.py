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
from greenlet import greenlet as RawGreenlet

from ..errors import CallCycle, HostDraining, RequestTimeout, TheatreError
from ..logic.deadlines import Deadlines
from .activation import ACTIVE, LEAVING, Activation
from .backpressure import Backpressure
from .context import Context
from .inbox import CLOSED, NEVER, TIME_BUDGET
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

get_ident: Callable[[], int] = get_original("_thread", "get_ident")
raw_switch = RawGreenlet.switch


class Dispatcher:
    """Accepts messages and runs activations on worker greenlets.

    Args:
        options: The host's options.
        clock: Where time comes from.
        registry: Knows the actor types and the activations.
        on_panic: Called with the error when a receiver raised and `panic_recovery` is off.
    """

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
        self.cancelled = Event()

        self.ready: deque[Activation] = deque()
        self.resumes: deque[Pending] = deque()
        self.in_hand: list[Pending] = []
        self.parked: list[Worker] = []
        self.workers: set[Worker] = set()
        self.inboxes: list[deque[Context]] = []
        self.armed = False
        self.yield_at = 0.0

        # accepted >= accept_limit sends a message to the slow path: the host is full, or does not run. So the one
        # comparison of the hot path serves every reason to wait or to refuse.
        self.accepted = 0
        self.accept_limit = CLOSED
        self.received = 0
        self.dead_lettered = 0
        self.requests_total = 0
        self.requests_timed_out = 0
        self.requests_abandoned = 0
        self.replies_late = 0

        self.deadlines: Deadlines[Pending] = Deadlines()
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

    def send(self, ref: Ref, body: object, sender: Ref | None) -> None:
        """Accept a message; waits at a full inbox. Called from any greenlet and any thread."""
        if get_ident() != self.thread:
            return self.threads.call(self.send, (ref, body, sender), self.options.request_timeout)
        if self.accepted >= self.accept_limit and not self.backpressure.admit(ref, body, sender, None):
            return None
        try:
            activation = self.actors[ref]
        except (KeyError, TypeError):
            activation = self.registry.activate(ref)
        inbox = activation.inbox
        if inbox is None:
            inbox = activation.inbox = self.inboxes.pop() if self.inboxes else deque()
            self.ready.append(activation)
            if not self.armed:
                self.arm()
        elif len(inbox) >= self.inbox_size:
            return self.backpressure.stand_in_line(activation, Context(activation, body, sender, None))
        inbox.append(Context(activation, body, sender, None))
        self.accepted += 1
        return None

    def request(self, ref: Ref, body: object, timeout: float | None, ctx: Context | None) -> Any:
        """Accept a message and wait for the reply. `ctx` is that of the asking handler, None when asked outside."""
        if timeout is None:
            timeout = self.options.request_timeout
        elif not timeout > 0:
            raise ValueError(f"request timeout must be more than 0 seconds, got {timeout!r}")
        if get_ident() != self.thread:
            return self.threads.call(self.request, (ref, body, timeout, ctx), timeout + 1.0)
        me = getcurrent()
        deadline = self.monotonic() + timeout
        now = deadline - timeout
        parent = None
        if type(me) is Worker and me.dispatcher is self:
            parent = me.ctx
            if ctx is None:
                ctx = parent
            elif ctx is not parent:
                parent = None  # another message's context: nobody waits for this handler through it
        elif me is self.hub:
            raise TheatreError("a request would block the hub: make it from a greenlet, not from a loop callback")
        if ctx is not None:
            asked = ctx._pending
            if asked is not None and asked.deadline < deadline and not asked.done:
                deadline = asked.deadline
            if parent is not None and (cycle := call_chain(parent, ref)) is not None:
                raise CallCycle(cycle)
        if self.accepted >= self.accept_limit and not self.backpressure.admit(ref, body, None, deadline):
            raise HostDraining(f"{ref} can't answer: the host is shutting its actors down")
        try:
            activation = self.actors[ref]
        except (KeyError, TypeError):
            activation = self.registry.activate(ref)
        pending = Pending(me, deadline, parent)
        message = Context(activation, body, None if ctx is None else ctx._activation.ref, pending)
        inbox = activation.inbox
        if inbox is None:
            idle = True
            inbox = activation.inbox = self.inboxes.pop() if self.inboxes else deque()
        else:
            idle = False
            if len(inbox) >= self.inbox_size:
                self.backpressure.stand_in_line(activation, message)
                activation = message._activation  # a successor may have taken over meanwhile
                inbox = None
        if inbox is not None:
            inbox.append(message)
            self.accepted += 1
        self.requests_total += 1
        try:
            if activation.worker is None and activation.inbox is not None and self.parked and now < self.yield_at:
                pending.in_hand = True
                self.in_hand.append(pending)
                if not self.armed:
                    self.arm()
                worker = self.parked.pop()
                worker.activation = activation
                worker.back = pending
                worker.now = now
                raw_switch(worker)
            else:
                if idle:
                    self.ready.append(activation)
                    if not self.armed:
                        self.arm()
                self.watch(pending)
            while not pending.done:
                self.hub.switch()
        except BaseException:
            self._abandon(pending)
            raise
        pending.greenlet = None
        if pending.in_hand:
            pending.in_hand = False
            if self.in_hand[-1] is pending:
                self.in_hand.pop()
            else:
                self.in_hand.remove(pending)
        elif pending.bucket != NEVER:
            self.deadlines.discard(pending)
        if pending.error is not None:
            raise self._failure(pending.error, ref, timeout)
        return pending.value

    def _failure(self, error: BaseException, ref: Ref, timeout: float) -> BaseException:
        if type(error) is RequestTimeout:
            self.requests_timed_out += 1
            return RequestTimeout(f"no reply from {ref} within {timeout:g} s, or what was left of its caller's time")
        return error

    def spawn(self, ref: Ref) -> None:
        """Activate `ref` if it is not active, and wait until its Initialize handler has returned."""
        if get_ident() != self.thread:
            return self.threads.call(self.spawn, (ref,), self.options.request_timeout + 1.0)
        self.backpressure.check_running(ref)
        activation = self.registry.activate(ref)
        if activation.state == LEAVING:
            activation.state = ACTIVE
        if activation.state == ACTIVE:
            return None
        pending = Pending(getcurrent(), self.monotonic() + self.options.request_timeout)
        self.lifecycle.spawning.setdefault(ref, []).append(pending)
        self.wake(activation)
        try:
            self.wait(pending)
        except RequestTimeout:
            raise RequestTimeout(f"{ref} was not initialized within {self.options.request_timeout} s") from None
        return None

    def wake(self, activation: Activation) -> None:
        """Put an activation into the ready queue, if it is not at work already."""
        if activation.inbox is None:
            activation.inbox = self.inboxes.pop() if self.inboxes else deque()
            self.ready.append(activation)
            if not self.armed:
                self.arm()

    # -- waiting -----------------------------------------------------------------------------------------------

    def complete(self, pending: Pending, value: Any, error: BaseException | None) -> bool:
        """Decide a wait. Only the first decision counts; tells whether this was it."""
        if get_ident() != self.thread:
            return bool(self.threads.call(self.complete, (pending, value, error), self.options.request_timeout))
        if pending.done:
            self.replies_late += 1
            return False
        pending.done = True
        pending.value = value
        pending.error = error
        if not pending.in_hand:  # else its worker, or the armed callback, switches back
            self.resumes.append(pending)
            if not self.armed:
                self.arm()
        return True

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
            pending.done = True
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

    def watch(self, pending: Pending) -> None:
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
                pending.done = True
                pending.error = RequestTimeout()
                self.resumes.append(pending)
                if not self.armed:
                    self.arm()
        self._set_timer()

    def _abandon(self, pending: Pending) -> None:
        """The requester was interrupted; its actor never is."""
        if not pending.done:
            pending.done = True
            self.requests_abandoned += 1
        pending.greenlet = None
        if pending.in_hand:
            pending.in_hand = False
            self.in_hand.remove(pending)
        self.deadlines.discard(pending)

    # -- running -----------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Have `_dispatch` called in the hub, once."""
        self.armed = True
        self._loop.run_callback(self._dispatch)

    def _dispatch(self) -> None:
        """In the hub: give the ready activations to workers and resume who waited, until nothing is left to do or
        the time budget is spent. `armed` stays true meanwhile, so that nobody arms again.
        """
        ready, resumes, monotonic = self.ready, self.resumes, self.monotonic
        now = monotonic()
        self.yield_at = yield_at = now + TIME_BUDGET
        # Bounded by count as well as by time: a virtual clock stands still.
        rounds = 1000
        try:
            while (ready or resumes or self.in_hand) and rounds and now < yield_at:
                rounds -= 1
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
                    worker = self.parked.pop() if self.parked else Worker(self)
                    worker.activation = activation
                    worker.now = now
                    raw_switch(worker)
                now = monotonic()
        finally:
            self.armed = False
            if ready or resumes or self.in_hand:
                # Through a timer of zero seconds and not as a callback: the loop runs up to 50 callbacks before it
                # looks at sockets again, which would make 50 time budgets.
                self.armed = True
                self._soon.start(self._dispatch)

    def _settle(self) -> None:
        """The hub runs while requests are in hand: their receivers have blocked, so watch their deadlines."""
        in_hand, self.in_hand = self.in_hand, []
        for pending in in_hand:
            pending.in_hand = False
            if pending.done:
                self.resumes.append(pending)
            else:
                self.watch(pending)

    # -- reading -----------------------------------------------------------------------------------------------

    def processed(self) -> tuple[int, int]:
        """Return messages received and dead-lettered so far, the turns that run now included."""
        running = sum(worker.handled() for worker in self.workers)
        return self.received + running, self.dead_lettered

    def open_requests(self) -> int:
        """Return how many requests wait for their reply."""
        waits = len(self.deadlines) + len(self.in_hand)
        other = self.lifecycle.waiting() + self.backpressure.waiting() + (self.at_rest is not None)
        return waits - other

    def snapshot(self) -> dict[str, int]:
        """Return the counters that `theatre_gevent.metrics.METRICS` describes."""
        received, dead_lettered = self.processed()
        # Inboxes are counted one by one, and not as the difference of the others, so that a lost message shows.
        at_work = {id(a): a for a in self.ready if a.inbox is not None}
        at_work.update((id(w.activation), w.activation) for w in self.workers if w.activation is not None)
        lifecycle, backpressure = self.lifecycle, self.backpressure
        return {
            "messages_sent": self.accepted,
            "messages_received": received,
            "messages_dead_lettered": dead_lettered,
            "messages_queued": sum(len(a.inbox) for a in at_work.values() if a.inbox is not None),
            "requests_total": self.requests_total,
            "requests_timed_out": self.requests_timed_out,
            "requests_abandoned": self.requests_abandoned,
            "requests_pending": self.open_requests(),
            "replies_late": self.replies_late,
            "activations_total": lifecycle.activations_total,
            "activations_failed": lifecycle.activations_failed,
            "activations_ended": lifecycle.activations_ended,
            "actors_active": lifecycle.activations_total - lifecycle.activations_ended,
            "receiver_errors": lifecycle.receiver_errors,
            "inbox_full": backpressure.inbox_full,
            "senders_waiting": backpressure.waiting(),
        }
