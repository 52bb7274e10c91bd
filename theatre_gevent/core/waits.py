"""How greenlets wait for a result with a deadline, and how they go on."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gevent.hub import get_hub

from ..errors import RequestTimeout, TheatreError
from ..logic.deadlines import Deadlines
from . import native
from .context import OPEN, Failure, RemoteRequest, Request
from .fifo import Fifo
from .inbox import NEVER
from .threads import ThreadBridge

if TYPE_CHECKING:
    from ..clock import Clock, Timer
    from .remote import RemoteAsker
    from .requests import Pending


class Waits:
    """The waits of one hub. Whoever sets the result of a wait first decides it; late ones are counted.

    Attributes:
        in_hand: The request handed over last, while the hub has not run since; the others follow by `below`.
        resumes: Waits that are decided and whose greenlets the armed callback will switch to.
        armed: True while that callback is on its way.
    """

    __slots__ = (
        "_dispatch",
        "_loop",
        "_run_callback",
        "_timer",
        "_timer_due",
        "armed",
        "clock",
        "deadlines",
        "hub",
        "in_hand",
        "monotonic",
        "replies_late",
        "requests_abandoned",
        "requests_timed_out",
        "resumes",
        "thread",
        "threads",
    )

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.monotonic = clock.monotonic
        self.resumes: Fifo = Fifo()
        self.in_hand: Request | None = None
        self.armed = False
        self.requests_timed_out = 0
        self.requests_abandoned = 0
        self.replies_late = 0
        self.deadlines: Deadlines = Deadlines()
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self.threads = ThreadBridge()
        self.thread = 0
        self.hub: Any = None

    def attach(self) -> None:
        """Take the calling thread's hub as the one that everything runs on."""
        self.monotonic = self.clock.monotonic
        self.hub = get_hub()
        self.thread = native.get_ident()
        self._loop = self.hub.loop
        self._run_callback = self._loop.run_callback
        self._dispatch = self.dispatch  # made once, not for each call
        self.threads.attach(self.hub)

    def arm(self) -> None:
        """Have `dispatch` called in the hub, once."""
        self.armed = True
        self._run_callback(self._dispatch)

    def dispatch(self) -> None:
        """In the hub: have everybody go on who can."""
        raise NotImplementedError

    def check_lease(self) -> None:
        """Raise if this host may reach nobody any more."""
        raise NotImplementedError

    # -- results -----------------------------------------------------------------------------------------------

    def complete(self, waiter: Request, result: Any) -> bool:
        """Decide a wait, with a value or a `Failure`. Only the first decision counts; tells whether this was it."""
        if native.get_ident() != self.thread:
            return bool(self.threads.call(self.complete, (waiter, result), 1.0))
        if waiter.result is not OPEN:
            self.replies_late += 1
            return False
        if type(waiter) is RemoteRequest:
            asker: RemoteAsker | None = waiter.greenlet
            if asker is None:  # it was given back to who sent it
                self.replies_late += 1
                return False
            if type(result) is not Failure:
                self.check_lease()
            waiter.result = result if type(result) is Failure else asker.pack(result)
            waiter.greenlet = None
            if waiter.bucket != NEVER:
                self.deadlines.discard(waiter, waiter.bucket)
            asker.deliver(waiter)
            return True
        waiter.result = result
        if not waiter.in_hand:  # else its worker, or the armed callback, switches back
            self.resume(waiter)
        return True

    def resume(self, waiter: Request) -> None:
        """Have the waiting greenlet go on; harmless when it has gone on already."""
        if native.get_ident() != self.thread:
            self.threads.call(self.resume, (waiter,), 1.0)
            return
        self.resumes.append(waiter)
        if not self.armed:
            self.arm()

    def failure(self, request: Request, timeout: float) -> BaseException:
        """Return what the requester gets to see of a request that failed."""
        failed = request.result
        error: BaseException = failed.error
        failed.error = None  # its traceback will hold the frame that holds the request
        if type(error) is RequestTimeout:
            self.requests_timed_out += 1
            ref = request._activation.ref
            return RequestTimeout(f"no reply from {ref} within {timeout:g} s, or what was left of its caller's time")
        return error

    # -- waiting -----------------------------------------------------------------------------------------------

    def wait(self, pending: Pending) -> Any:
        """Block the pending's greenlet until it has a result or its deadline has passed.

        Raises:
            RequestTimeout: The deadline has passed.
        """
        if native.getcurrent() is self.hub:
            raise TheatreError("this would block the hub: call it from a greenlet, not from a loop callback")
        try:
            self.watch(pending)
            while pending.result is OPEN:
                self.hub.switch()  # a stray switch comes back here
        finally:
            if pending.result is OPEN:
                pending.result = Failure(None)
            pending.greenlet = None
            self.deadlines.discard(pending, pending.bucket)
        if type(pending.result) is Failure:
            raise pending.result.error  # type: ignore[misc]
        return pending.result

    def watch(self, waiter: Request) -> None:
        """See to it that a wait ends at its deadline."""
        waiter.bucket = self.deadlines.add(waiter, waiter.deadline)
        if self._timer is None or waiter.deadline < self._timer_due - 0.01:
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
        for waiter in self.deadlines.expire(self.monotonic()):
            waiter.bucket = NEVER
            if waiter.result is not OPEN:
                continue
            if type(waiter) is RemoteRequest:  # its asker has given up by itself
                waiter.result = Failure(None)
                waiter.greenlet = None
            else:
                waiter.result = Failure(RequestTimeout())
                self.resume(waiter)
        self._set_timer()

    def abandon(self, request: Request) -> None:
        """The requester was interrupted; its actor never is."""
        if request.result is OPEN:
            request.result = Failure(None)
            self.requests_abandoned += 1
        request.greenlet = None
        if request.in_hand:
            self.unlink(request)
        else:
            self.deadlines.discard(request, request.bucket)

    # -- in hand -----------------------------------------------------------------------------------------------

    def requests_in_hand(self) -> list[Request]:
        """Return the requests that were handed over since the hub last ran, the latest first."""
        found = []
        request = self.in_hand
        while request is not None:
            found.append(request)
            request = request.below
        return found

    def unlink(self, request: Request) -> None:
        """Take a request out of the hand that is not the last one in it, perhaps."""
        rest = [other for other in self.requests_in_hand() if other is not request]
        for upper, lower in pairwise(rest):
            upper.below = lower
        if rest:
            rest[-1].below = None
        self.in_hand = rest[0] if rest else None
        request.in_hand = False

    def settle(self) -> None:
        """The hub runs while requests are in hand: their receivers have blocked, so watch their deadlines."""
        in_hand, self.in_hand = self.requests_in_hand(), None
        for request in in_hand:
            request.in_hand = False
            request.below = None
            if request.result is OPEN:
                self.watch(request)
            else:
                self.resumes.append(request)
