"""Senders that wait: for room in the host, or in line at one actor's full inbox.

Whoever waits is served in the order of arrival, and newcomers go behind them. Actors never wait for the host's room:
an actor that waited for it could never drain it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from greenlet import getcurrent

from ..errors import HostNotRunning, InboxFull, RequestTimeout, TheatreError
from .context import Failure, Request
from .inbox import CLOSED
from .remote import Parked
from .requests import make_pending
from .threads import NOT_STARTED
from .worker import Worker

if TYPE_CHECKING:
    from ..messages import Ref
    from .activation import Activation
    from .context import Context
    from .dispatcher import Dispatcher
    from .remote import Outcome
    from .requests import Pending


class Backpressure:
    """The bounds of a dispatcher's inboxes."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._size = dispatcher.options.host_inbox_size
        self._reserved = 0
        self._refusal: TheatreError | None = HostNotRunning(NOT_STARTED)
        self._actors_allowed = False
        self._in_line = 0
        self.lines: dict[Activation, deque[tuple[Context, Pending]]] = {}
        """Senders at full inboxes, in the order they came."""
        self.room: deque[Pending] | None = None
        """Outside senders that wait for room in the host; None while nobody does."""
        self.inbox_full = 0

    # -- open and closed ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Accept messages."""
        self._refusal = None
        self._set_limit()

    def is_open(self) -> bool:
        """Tell whether everybody may send."""
        return self._refusal is None

    def close(self, refusal: TheatreError, *, actors_allowed: bool) -> None:
        """Refuse messages with `refusal`; `actors_allowed` still lets actors send to each other."""
        self._refusal = refusal
        self._actors_allowed = actors_allowed
        waiting, self.room = self.room, None
        self._set_limit()
        for pending in waiting or ():
            self._dispatcher.complete(pending, Failure(self._fresh_refusal()))

    def refusal(self) -> TheatreError | None:
        """Return why the host takes no messages, None if it does."""
        return None if self._refusal is None else self._refusal.copy()

    def refusal_of_accepted(self) -> TheatreError | None:
        """Return why not even what was accepted before is handled, None if it is: a host that drains still does so."""
        return None if self._actors_allowed else self.refusal()

    def check_running(self) -> None:
        """Raise if the host refuses work."""
        if self._refusal is not None and not (self._actors_allowed and self._from_actor()):
            raise self._fresh_refusal()

    def _fresh_refusal(self) -> TheatreError:
        assert self._refusal is not None
        return self._refusal.copy()

    def _set_limit(self) -> None:
        dispatcher = self._dispatcher
        if self._refusal is not None or self.room is not None:
            dispatcher.headroom = CLOSED
        else:
            dispatcher.blocked = dispatcher.busy()
            dispatcher.headroom = dispatcher.dead_lettered + self._size - self._reserved - dispatcher.blocked
        dispatcher.accept_limit = dispatcher.received + dispatcher.headroom
        if self._refusal is not None:
            dispatcher.hand_until = 0.0

    def _from_actor(self, ctx: Context | None = None) -> bool:
        me = getcurrent()
        if type(me) is Worker and me.desk.dispatcher is self._dispatcher:
            return True
        if ctx is None:
            return False
        # Another greenlet sends through the context of a handler, which is at work and waits for it most likely.
        worker = ctx._activation.worker
        return worker is not None and worker.desk.ctx is ctx

    # -- room in the host --------------------------------------------------------------------------------------

    def admit(self, ref: Ref, body: object, sender: Ref | None, deadline: float | None, ctx: Context | None) -> bool:
        """The slow path of accepting: the host is full, has senders waiting, or is closed.

        `ctx` is the context through which it is sent, None if it is sent from outside.

        Returns:
            True if the message may go on. False if it has become a dead letter: the actors are being shut down.

        Raises:
            InboxFull: No room came free within the request timeout.
            HostNotRunning: The host refuses work.
        """
        from_actor = self._from_actor(ctx)
        if self._refusal is not None:
            if not from_actor:
                raise self._fresh_refusal()
            if self._actors_allowed:
                return True
            if self._dispatcher.lifecycle.closing:
                self._dispatcher.registry.type_of(ref)
                self._dispatcher.accepted += 1
                self._dispatcher.lifecycle.dead_letter(ref, body, sender, "the host is shutting its actors down", None)
                return False
            raise self._fresh_refusal()
        if not from_actor and not self._belongs_elsewhere(ref):
            self._set_limit()  # it is brought up to date at the end of turns only
            if self._dispatcher.accepted >= self._dispatcher.accept_limit:
                self._dispatcher.registry.type_of(ref)  # who can't send anyway is told at once
                self._wait_for_room(ref, deadline)
        return True

    def _belongs_elsewhere(self, ref: Ref) -> bool:
        """Tell whether an actor is not active here and belongs to another host.

        Raises:
            InvalidRef: `ref` is not a Ref.
        """
        dispatcher = self._dispatcher
        if dispatcher.router is None:
            return False
        return dispatcher.registry.check(ref) not in dispatcher.actors and dispatcher.router.is_elsewhere(ref)

    def make_room(self, ref: Ref, patience: float) -> TheatreError | None:
        """Wait for room for a message from another host, at most `patience` seconds; returns why there is none."""
        if self._refusal is None:
            self._set_limit()
            if self._dispatcher.accepted < self._dispatcher.accept_limit:
                return None
            try:
                self._wait_for_room(ref, self._dispatcher.monotonic() + patience)
            except (InboxFull, HostNotRunning) as error:
                return error.copy()
            return None
        return self._refusal.copy()

    def _patience(self, deadline: float | None) -> float:
        """Return how long to wait: the request timeout, or what is left until a request's own deadline."""
        timeout = self._dispatcher.options.request_timeout
        return timeout if deadline is None else min(timeout, deadline - self._dispatcher.monotonic())

    def _wait_for_room(self, ref: Ref, deadline: float | None) -> None:
        dispatcher = self._dispatcher
        timeout = self._patience(deadline)
        me = getcurrent()
        if me is dispatcher.hub:
            self.inbox_full += 1
            raise InboxFull(f"message to {ref} refused: the host is full, and the hub can't wait")
        if self.room is None:
            self.room = deque()
            self._set_limit()
        pending = make_pending(me, dispatcher.monotonic() + timeout)
        room = self.room
        room.append(pending)
        try:
            dispatcher.wait(pending)
        except BaseException as error:
            if pending in room:
                room.remove(pending)
                self.grant()
            elif pending.result is True:  # granted, and interrupted before it could use it
                self._reserved -= 1
                self._set_limit()
                self.grant()
            if type(error) is RequestTimeout:
                self.inbox_full += 1
                raise InboxFull(
                    f"message to {ref} refused: the host held host_inbox_size={self._size} messages for {timeout:g} s"
                ) from None
            raise
        self._reserved -= 1
        self._set_limit()
        if self._refusal is not None:  # closed between the grant and now
            raise self._fresh_refusal()

    def grant(self, finished: int = 0) -> None:
        """Let waiting senders go on once the host is half empty: each may send one message, in order of arrival.

        Args:
            finished: Workers that have handled their messages and are not parked yet.
        """
        dispatcher, room = self._dispatcher, self.room
        if room is None:
            return
        handled = dispatcher.received + dispatcher.dead_lettered - dispatcher.busy() + finished
        free = handled + self._size - self._reserved - dispatcher.accepted
        if room and 2 * free < self._size:
            return
        while room and free > 0:
            pending = room.popleft()
            if not pending.done:
                free -= 1
                self._reserved += 1
                dispatcher.complete(pending, True)
        if not room:
            self.room = None
            self._set_limit()

    # -- in line at one actor ----------------------------------------------------------------------------------

    def stand_in_line(self, activation: Activation, ctx: Context, until: float = 0.0) -> None:
        """Wait until the message is in the actor's inbox.

        Args:
            activation: The actor.
            ctx: The message.
            until: When its sender has waited for the whole of the request timeout, if it has waited before.

        Raises:
            InboxFull: It stayed full for the request timeout, or it is the sender's own.
        """
        dispatcher = self._dispatcher
        me = getcurrent()
        if activation.worker is me or me is dispatcher.hub:
            self.inbox_full += 1
            who = "an actor can't wait for itself" if activation.worker is me else "the hub can't wait"
            raise InboxFull(f"the inbox of {activation.ref} is full ({dispatcher.inbox_size} messages), and {who}")
        timeout = self._patience(ctx.deadline if isinstance(ctx, Request) else until or None)
        pending = make_pending(me, dispatcher.monotonic() + timeout)
        self.lines.setdefault(activation, deque()).append((ctx, pending))
        self._in_line += 1
        self.grant()  # whoever waits here leaves the room that it was given to the next
        try:
            dispatcher.wait(pending)
        except BaseException as error:
            if pending.result is not True and isinstance(ctx, Request):
                ctx.result = Failure(None)  # it was never accepted
            self._leave(ctx, pending)
            current = ctx._activation
            if type(error) is RequestTimeout:
                self.inbox_full += 1
                raise InboxFull(
                    f"the inbox of {current.ref} stayed full "
                    f"(actor_inbox_size={dispatcher.inbox_size}) for {timeout:.3g} s"
                ) from None
            raise
        finally:
            self._in_line -= 1

    def park(self, activation: Activation, ctx: Context, outcome: Outcome, source: object = None) -> None:
        """Put a message from another host in line, without waiting; `outcome` is told what became of it.

        As many may be in line as the host may hold messages; more are refused at once. `source` is for `take_out`.
        """
        dispatcher = self._dispatcher
        if self._in_line >= self._size:
            self.inbox_full += 1
            outcome(ctx, InboxFull(f"message to {ctx._activation.ref} refused: too many are in line at full inboxes"))
            return
        deadline = dispatcher.monotonic() + self._patience(ctx.deadline if isinstance(ctx, Request) else None)
        pending = make_pending(Parked(ctx, outcome, source), deadline)
        self.lines.setdefault(activation, deque()).append((ctx, pending))
        self._in_line += 1
        dispatcher.watch(pending)

    def unpark(self, ctx: Context, pending: Pending, outcome: Outcome) -> None:
        """A message from another host has left its line."""
        self._in_line -= 1
        self._dispatcher.deadlines.discard(pending, pending.bucket)
        if pending.result is True:
            outcome(ctx, None)
            return
        self._leave(ctx, pending)
        error = pending.result.error
        if type(error) is not RequestTimeout:
            outcome(ctx, error)
            return
        self.inbox_full += 1
        ref = ctx._activation.ref
        outcome(ctx, InboxFull(f"the inbox of {ref} stayed full (actor_inbox_size={self._dispatcher.inbox_size})"))

    def _leave(self, ctx: Context, pending: Pending) -> None:
        # A successor may have taken the line over meanwhile: the context knows where it stands.
        activation = ctx._activation
        line = self.lines.get(activation)
        if line is not None and (ctx, pending) in line:
            line.remove((ctx, pending))
            if not line:
                del self.lines[activation]

    def refill(self, activation: Activation) -> None:
        """Move messages from the line into the inbox while it has room."""
        dispatcher, line = self._dispatcher, self.lines.get(activation)
        if line is None:
            return
        inbox = dispatcher.wake(activation)
        while line and len(inbox) < dispatcher.inbox_size:
            ctx, pending = line.popleft()
            if not pending.done:
                inbox.append(ctx)
                dispatcher.accepted += 1
                if type(ctx) is Request and type(pending.greenlet) is not Parked:  # that one is counted by the router
                    dispatcher.requests_queued += 1
                dispatcher.complete(pending, True)
        if not line:
            del self.lines[activation]

    def leave_line(self, activation: Activation) -> None:
        """Refuse everybody in line: the host stops."""
        for _, pending in self.lines.pop(activation, ()):
            self._send_away(pending, self._fresh_refusal())

    def take_out(self, activation: Activation, source: object, error: TheatreError) -> None:
        """Refuse what stands in line at an activation and came from `source`, in its order."""
        kept: deque[tuple[Context, Pending]] = deque()
        for ctx, pending in self.lines.pop(activation, ()):  # so that nobody who leaves it has to be looked for in it
            parked = pending.greenlet
            if type(parked) is Parked and parked.source is source:
                self._send_away(pending, error.copy())
            else:
                kept.append((ctx, pending))
        if kept:
            self.lines[activation] = kept

    def _send_away(self, pending: Pending, error: TheatreError) -> None:
        parked = pending.greenlet
        if pending.done:
            return  # its time is over, and it is being told
        if type(parked) is Parked:
            # At once, and not when its turn to be resumed comes: what arrives meanwhile is refused after it.
            pending.result, pending.greenlet = Failure(error), None
            parked.deliver(pending)
        else:
            self._dispatcher.complete(pending, Failure(error))

    def waiting(self) -> int:
        """Return how many senders wait now."""
        return self._in_line + len(self.room or ())
