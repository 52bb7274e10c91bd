"""The per-message path: who gets the next turn.

Messages go into inboxes; an activation with work goes into the ready queue; one hub callback is armed while there is
anything to do. It gives ready activations to workers. A worker that blocks in a receiver stays with its actor, and
the callback goes on with another worker.

A request to an activation that no worker has is handed over directly: the requester switches to a parked worker, and
the worker switches straight back with the reply, without the hub (1.7 us against 3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent.event import Event

from ..config import MAX_TIMEOUT, check_timeout
from ..errors import CallCycle, HostDraining, HostFrozen, RequestTimeout, TheatreError
from . import native
from .activation import ACTIVE, LEAVING, Activation
from .backpressure import Backpressure
from .context import OPEN, Context, Failure, Request, make_context, make_request
from .fifo import Fifo
from .inbox import CLOSED, MAX_TURNS, NEVER, TIME_BUDGET
from .lifecycle import Lifecycle
from .remote import UNLIMITED, Leased, Parked, Router
from .requests import call_chain, make_pending
from .waits import Waits
from .worker import Desk, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..config import HostOptions
    from ..messages import Ref
    from .registry import Registry
    from .requests import Pending
    from .scheduled import Schedules


WORKER_DEPTH = 24
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
        native.switch(worker)


class Dispatcher(Waits):
    """Accepts messages and runs activations on worker greenlets.

    Args:
        options: The host's options.
        clock: Where time comes from.
        registry: Knows the actor types and the activations.
        on_panic: Called with the error when a receiver raised and `panic_recovery` is off.
    """

    __slots__ = (
        "_soon",
        "accept_limit",
        "accepted",
        "actors",
        "at_rest",
        "backpressure",
        "blocked",
        "cancelled",
        "dead_lettered",
        "hand_limit",
        "hand_until",
        "handed_over",
        "headroom",
        "inbox_size",
        "inboxes",
        "lease",
        "lifecycle",
        "now",
        "on_lapse",
        "options",
        "owed",
        "parked",
        "ready",
        "received",
        "registry",
        "request_timeout",
        "requests_queued",
        "router",
        "schedules",
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
        super().__init__(clock)
        self.options = options
        self.registry = registry
        self.actors = registry.actors
        self.inbox_size = options.actor_inbox_size
        self.request_timeout = options.request_timeout
        self.cancelled = Event()

        self.ready: Fifo = Fifo()
        self.parked: list[Desk] = []
        self.workers: set[Worker] = set()
        self.inboxes: list[Fifo] = []
        self.now = 0.0
        """The clock's reading when the hub last let actors run, or later: one object for all that happens in 5 ms."""
        self.yield_at = 0.0
        self.hand_until = 0.0
        self.hand_limit = 0
        """Requests handed over are as many at most; then the hub runs, though `hand_until` may not come."""
        self.turns_left = 0
        self.owed = False
        """True if the hub has let waiters go on until its time was up, and no activation had a turn."""

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
        self.router: Router | None = None
        self.lease: Leased = UNLIMITED
        """Nothing is handled once its `lease_until`, a reading of the clock, has come."""
        self.on_lapse: Callable[[], object] | None = None
        """Called in the hub, once, when that has happened: it sees to it that nothing stays alive here."""
        self.schedules: Schedules  # the host sets it
        self.lifecycle = Lifecycle(self, on_panic)
        self.backpressure = Backpressure(self)
        self.at_rest: Pending | None = None
        """Completed whenever a worker comes to rest; the `Closer` waits on it."""

    def attach(self) -> None:
        """Take the calling thread's hub as the one that everything runs on."""
        super().attach()
        self._soon = self._loop.timer(0)

    # -- accepting ---------------------------------------------------------------------------------------------

    def send(self, ref: Ref, body: object, _sender: Ref | None = None, _ctx: Context | None = None) -> None:
        """Accept a message; waits at a full inbox. `_sender` and `_ctx` are an actor's and its message's, if any."""
        if native.get_ident() != self.thread:
            self.threads.call(self.send, (ref, body, _sender, _ctx), self.request_timeout)
            return
        until = 0.0
        if self.accepted >= self.accept_limit:
            until = self.monotonic() + self.request_timeout  # also for a wait at the actor's inbox that follows
            if not self.backpressure.admit(ref, body, _sender, None, _ctx):
                return
        try:
            activation = self.actors.get(ref)
        except TypeError:
            activation = None  # not hashable: not a Ref
        if activation is None:
            if self.router is not None and (way := self.router.way(ref)) is not None:
                self.router.send(way, ref, body, _sender)
                return
            activation = self.registry.activate(ref)
        inbox: Any = activation.inbox
        if inbox is None:
            activation.inbox = make_context(activation, body, _sender)
            if activation.worker is None:
                self.ready.append(activation)
                if not self.armed:
                    self.arm()
        else:
            queue: Fifo = inbox if type(inbox) is Fifo else self.wake(activation)
            if len(queue) >= self.inbox_size:
                self.backpressure.stand_in_line(activation, make_context(activation, body, _sender), until)
                return
            queue.append(make_context(activation, body, _sender))
        self.accepted += 1

    def request(self, ref: Ref, body: object, timeout: float | None = None, _ctx: Context | None = None) -> Any:
        """Accept a message and wait for the reply. `_ctx` is that of the asking handler, None when asked outside."""
        if timeout is None:
            seconds = self.request_timeout
        elif type(timeout) is float and 0.0 < timeout < MAX_TIMEOUT:
            seconds = timeout
        else:
            seconds = check_timeout(timeout)
        if native.get_ident() != self.thread:
            return self.threads.call(self.request, (ref, body, seconds, _ctx), seconds + 1.0)
        me = native.getcurrent()
        now = native.read(self.monotonic)
        deadline = now + seconds
        parent = sender = None
        if type(me) is Worker and me.desk.dispatcher is self:
            parent = me.desk.ctx
            if _ctx is None:
                _ctx = parent
            elif _ctx is not parent:
                parent = None  # another message's context: nobody waits for this handler through it
        elif me is self.hub:
            raise TheatreError("a request would block the hub: make it from a greenlet, not from a loop callback")
        if _ctx is not None:
            sender = _ctx._activation.ref
            if isinstance(_ctx, Request) and _ctx.deadline < deadline and not _ctx.answered:
                deadline = _ctx.deadline
                if deadline <= now:
                    raise RequestTimeout(f"no time is left to ask {ref}: the request being handled has timed out")
            if parent is not None and (cycle := call_chain(parent, ref)) is not None:
                raise CallCycle(cycle)
        try:
            activation = self.actors.get(ref)
        except TypeError:
            activation = None  # not hashable: not a Ref
        if activation is None:
            if self.accept_limit < 0 and not self.backpressure.is_open():
                self._admit(ref, body, sender, deadline, _ctx)
            if self.router is not None and (way := self.router.way(ref)) is not None:
                elsewhere = make_request(None, body, sender, me, deadline, parent, False, None, OPEN, NEVER)
                self.router.ask(way, ref, elsewhere)
                return self._await(elsewhere, seconds)
            activation = self.registry.activate(ref)
        if (
            now >= self.hand_until
            or activation.worker is not None
            or not self.parked
            or self.handed_over >= self.hand_limit
        ):
            request = make_request(activation, body, sender, me, deadline, parent, False, None, OPEN, NEVER)
            return self._queue(request, seconds, _ctx)
        # Handed over: the worker runs here and now, and switches straight back with the reply. The queue of the host
        # gets no longer by it, so its bound does not matter here.
        request = make_request(activation, body, sender, me, deadline, parent, True, self.in_hand, OPEN, NEVER)
        activation.last_active = self.now
        if activation.inbox is None and activation.state == ACTIVE:
            desk = self.parked.pop()
            desk.work = request
        else:
            inbox: Any = activation.inbox
            queue: Fifo = inbox if type(inbox) is Fifo else self.wake(activation)
            if len(queue) >= self.inbox_size:
                request.in_hand = False
                request.below = None
                return self._queue(request, seconds, _ctx)
            queue.append(request)
            self.accepted += 1
            self.requests_queued += 1
            desk = self.parked.pop()
            desk.work = activation
            desk.back = request
        self.in_hand = request
        if not self.armed:
            self.arm()
        try:
            native.switch(desk.worker)
            while request.result is OPEN:
                native.switch(self.hub)
        except BaseException:
            self.abandon(request)
            raise
        request.greenlet = None
        if self.in_hand is request:
            self.in_hand = request.below
        elif request.in_hand:
            self.unlink(request)
        elif request.bucket != NEVER:
            self.deadlines.discard(request, request.bucket)
        result = request.result
        if type(result) is Failure:
            raise self.failure(request, seconds)
        return result

    def _queue(self, request: Request, timeout: float, ctx: Context | None) -> Any:
        """Put a request into its receiver's inbox and wait in the hub for the reply."""
        if self.accepted >= self.accept_limit:
            ref = request._activation.ref
            self.registry.forget_unused(request._activation)
            self._admit(ref, request.message, request.sender, request.deadline, ctx)
            # It may have left meanwhile, and be elsewhere now.
            if self.router is not None and ref not in self.actors and (way := self.router.way(ref)) is not None:
                self.router.ask(way, ref, request)
                return self._await(request, timeout)
            request._activation = self.registry.activate(ref)
        activation = request._activation
        inbox = activation.queue()
        try:
            if inbox is not None and len(inbox) >= self.inbox_size:
                self.backpressure.stand_in_line(activation, request)
            else:
                self.wake(activation).append(request)
                self.accepted += 1
                self.requests_queued += 1
        except BaseException:
            self.abandon(request)
            raise
        return self._await(request, timeout)

    def _await(self, request: Request, timeout: float) -> Any:
        """Wait in the hub for a reply, from here or from another host."""
        try:
            self.watch(request)
            while request.result is OPEN:
                native.switch(self.hub)
        except BaseException:
            self.abandon(request)
            if self.router is not None:
                self.router.forget(request)
            raise
        request.greenlet = None
        self.deadlines.discard(request, request.bucket)
        if type(request.result) is Failure:
            error = self.failure(request, timeout)
            if self.router is not None:
                self.router.forget(request)
                if type(error) is RequestTimeout and (trouble := self.router.trouble(request)) is not None:
                    raise RequestTimeout(f"{error}: {trouble}") from trouble
            raise error
        return request.result

    def deliver(self, activation: Activation, ctx: Context) -> bool:
        """Accept a message from another host, without waiting; tells whether the inbox had room."""
        inbox: Any = activation.inbox
        if inbox is None:
            activation.inbox = ctx
            if activation.worker is None:
                self.ready.append(activation)
                if not self.armed:
                    self.arm()
        else:
            queue: Fifo = inbox if type(inbox) is Fifo else self.wake(activation)
            lines = self.backpressure.lines
            if len(queue) >= self.inbox_size or (lines and activation in lines):
                return False
            queue.append(ctx)
        self.accepted += 1
        return True

    def _admit(self, ref: Ref, body: object, sender: Ref | None, deadline: float, ctx: Context | None) -> None:
        if not self.backpressure.admit(ref, body, sender, deadline, ctx):
            raise HostDraining(f"{ref} can't answer: the host is shutting its actors down")

    def spawn(self, ref: Ref) -> None:
        """Activate `ref` if it is not active, and wait until its Initialize handler has returned."""
        if native.get_ident() != self.thread:
            self.threads.call(self.spawn, (ref,), self.request_timeout + 1.0)
            return
        self.backpressure.check_running()
        if self.router is not None and self.registry.check(ref) not in self.actors:
            self.router.acquire(ref, self.monotonic() + self.request_timeout)
        activation = self.registry.activate(ref)
        if activation.state == LEAVING:
            activation.state = ACTIVE
        if activation.state == ACTIVE:
            return
        me = native.getcurrent()
        parent = me.desk.ctx if type(me) is Worker and me.desk.dispatcher is self else None
        if parent is not None and (cycle := call_chain(parent, ref)) is not None:
            raise CallCycle(cycle)
        pending = make_pending(me, self.monotonic() + self.request_timeout, parent)
        self.lifecycle.spawning.setdefault(ref, []).append(pending)
        self.wake(activation)
        try:
            self.wait(pending)
        except RequestTimeout:
            raise RequestTimeout(f"{ref} was not initialized within {self.request_timeout:g} s") from None
        finally:
            self.lifecycle.forget(ref, pending)

    def wake(self, activation: Activation) -> Fifo:
        """See to it that an activation gets a turn; returns its inbox as a queue."""
        first: Any = activation.inbox
        if type(first) is Fifo:
            return first
        queue: Fifo = self.inboxes.pop() if self.inboxes else Fifo()
        activation.inbox = queue
        if first is not None:
            queue.append(first)
        elif activation.worker is None:
            self.ready.append(activation)
            if not self.armed:
                self.arm()
        return queue

    # -- running -----------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """In the hub: give the ready activations to workers and resume who waited.

        Until nothing is left to do or the time budget is spent. `armed` stays true meanwhile: nobody arms again.
        """
        ready, resumes, monotonic = self.ready, self.resumes, self.monotonic
        self.now = now = native.read(monotonic)
        lease_until = self.lease.lease_until
        if now >= lease_until:
            self._lapse()
            self._soon.start(self.dispatch)  # `armed` is true still
            return
        self._count_blocked()
        # The lease ends a turn as the time budget does, so that looking at it costs no message anything.
        self.yield_at = yield_at = min(now + TIME_BUDGET, lease_until)
        self.hand_until = yield_at if self.backpressure.is_open() else 0.0
        # Bounded by count as well as by time: a virtual clock stands still.
        self.turns_left = MAX_TURNS
        self.hand_limit = self.handed_over + MAX_TURNS
        # Who goes on may make requests, one after the other, until the time is up. Then activations are next.
        owed, self.owed = self.owed, True
        try:
            while (ready or resumes or self.in_hand) and self.turns_left > 0 and now < yield_at:
                self.turns_left -= 1
                if self.in_hand:
                    self.settle()
                if resumes and not (owed and ready):
                    pending = resumes.popleft()
                    waiting: Any = pending.greenlet
                    if type(waiting) is Parked:
                        pending.greenlet = None
                        waiting.deliver(pending)
                    elif waiting is not None:
                        native.switch(waiting)
                elif ready:
                    owed = self.owed = False
                    activation = ready.popleft()
                    if activation.inbox is None or activation.worker is not None:
                        if self.at_rest is not None:
                            self.rested()  # who waits for an empty queue would look only later
                        continue  # left over: it was handed over to a requester meanwhile
                    if self.parked:
                        desk = self.parked.pop()
                        desk.work = activation
                        native.switch(desk.worker)
                    else:
                        _switch_deep(WORKER_DEPTH, Worker(self, activation))
                now = native.read(monotonic)
        finally:
            self.armed = False
            self._count_blocked()
            if ready or resumes or self.in_hand:
                # Through a timer of zero seconds and not as a callback: the loop runs up to 50 callbacks before it
                # looks at sockets again, which would make 50 time budgets.
                self.armed = True
                self._soon.start(self.dispatch)

    def _lapse(self) -> None:
        """The host slept through the end of its lease, and others may run its actors by now."""
        self.lease = UNLIMITED  # for what follows: there is nothing left to protect
        self.yield_at = self.hand_until = 0.0
        if self.on_lapse is not None:
            self.on_lapse()

    def check_lease(self) -> None:
        """See to it that nothing leaves this host once its lease has ended.

        A handler that was at work when the process was paused goes on where it was: no turn begins, nobody looks.

        Raises:
            HostFrozen: It has ended.
        """
        if self.lease is not UNLIMITED and self.monotonic() >= self.lease.lease_until:
            self._lapse()
            raise HostFrozen("the host's lease has ended, and its actors are over")

    def busy(self) -> int:
        """Return how many workers are not parked."""
        return len(self.workers) - len(self.parked)

    def _count_blocked(self) -> None:
        """In the hub, where every busy worker is a blocked one: a message is not handled while its handler waits."""
        busy = self.busy()
        self.headroom += self.blocked - busy
        self.blocked = busy
        self.accept_limit = self.received + self.headroom

    def rested(self) -> None:
        """A worker has come to rest: tell who waits for that."""
        at_rest = self.at_rest
        if at_rest is not None and at_rest.result is OPEN:
            self.complete(at_rest, None)
