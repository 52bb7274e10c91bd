"""How activations begin, fail and end, and what becomes of the messages that they leave behind."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gevent import Greenlet, GreenletExit, Timeout
from greenlet import getcurrent

from ..errors import HostDraining, RemoteActorError, StopActor, TheatreError, text_of
from ..logs import fields, safely
from ..messages import DeadLetter, Initialize, InitReason, Shutdown
from .activation import ACTIVE, LEAVING, NEW, STOPPED, STOPPING, Activation
from .context import Context, Failure, Request, make_context
from .deferred import DeferredReplies
from .registry import check_receiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..messages import Ref
    from .dispatcher import Dispatcher
    from .requests import Pending
    from .worker import Desk

log = logging.getLogger("theatre_gevent.actor")

_ENDS = (GreenletExit, SystemExit, KeyboardInterrupt)
"""What ends a greenlet or the program, and is no receiver's failure."""

_SHUTDOWN = Shutdown()
_INITIALIZE = {reason: Initialize(reason) for reason in InitReason}


class Lifecycle:
    """Runs factories, Initialize and Shutdown on workers, and keeps the accounts of what fails.

    Attributes:
        closing: True while the host shuts its actors down: nothing new begins, what is queued becomes dead letters.
        deferred: Who waits for replies that come later.
        errors: How often the receivers of live activations have raised, if they have.
        journal: Told of every dead letter: ref, body, sender and reason. It must be quick.
        reasons: Why activations come that are not NEW, until they have been initialized.
        spawning: Who waits for an activation to be initialized, by ref.
        telling: Greenlets in which the `dead_letter_handler` runs.
    """

    def __init__(self, dispatcher: Dispatcher, on_panic: Callable[[BaseException], None]) -> None:
        self._dispatcher = dispatcher
        self._on_panic = on_panic
        self.closing = False
        self.spawning: dict[Ref, list[Pending]] = {}
        self.telling: set[Greenlet[..., None]] = set()
        self.activations_total = 0
        self.activations_failed = 0
        self.activations_ended = 0
        self.receiver_errors = 0
        self.deferred = DeferredReplies(dispatcher)
        self.errors: dict[Activation, int] = {}
        self.journal: Callable[[Ref, Any, Ref | None, str], object] | None = None
        self.reasons = dispatcher.registry.reasons

    def waiting(self) -> int:
        """Return how many callers of `spawn_local` wait now."""
        return sum(map(len, self.spawning.values()))

    def forget(self, ref: Ref, pending: Pending) -> None:
        """Count a caller of `spawn_local` no more: it goes on."""
        waiting = self.spawning.get(ref)
        if waiting is not None and pending in waiting:
            waiting.remove(pending)
            if not waiting:
                del self.spawning[ref]

    # -- begin -------------------------------------------------------------------------------------------------

    def enter(self, worker: Desk, activation: Activation) -> bool:
        """Start the turn of an activation that is not ACTIVE; tells whether it goes on to handle messages."""
        queue = activation.queue()
        if activation.state == LEAVING:
            if queue and not self.closing:
                activation.state = ACTIVE  # a message came first
                return True
            self.end(worker, activation)
            return False
        if activation.state != NEW:
            return False
        if self.closing or not (queue or activation.ref in self.spawning):
            activation.state = STOPPED
            self._pass_on(activation)
            return False
        return self._begin(worker, activation)

    def _begin(self, worker: Desk, activation: Activation) -> bool:
        # Of the factory too: whom it asks knows who waits.
        worker.ctx = ctx = make_context(activation, _INITIALIZE[self.reasons.get(activation, InitReason.NEW)], None)
        try:
            actor_type = activation.actor_type
            receiver = actor_type.create()
            if type(receiver) is not actor_type.checked:
                check_receiver(actor_type.name, receiver)
                actor_type.checked = type(receiver)
            activation.receiver = receiver
            receiver.receive(ctx)
        except BaseException as error:
            worker.ctx = None
            if activation.state != STOPPED:
                self._stillborn(activation, error)
            if not isinstance(error, (Exception, Timeout)):
                raise
            return False
        worker.ctx = None
        if activation.state != NEW:
            return False  # the host stopped hard meanwhile
        activation.state = ACTIVE
        if self.reasons:
            self.reasons.pop(activation, None)
        now = self._dispatcher.now
        activation.created_at = activation.last_active = now
        self.activations_total += 1
        activation.actor_type.activations += 1
        self._dispatcher.registry.watch_idleness(activation, now)
        if self.spawning:
            for pending in self.spawning.pop(activation.ref, ()):
                self._dispatcher.complete(pending, None)
        return True

    def _stillborn(self, activation: Activation, error: BaseException) -> None:
        """Factory or Initialize raised: the message that woke the actor fails, the next one tries again."""
        ref = activation.ref
        activation.state = STOPPED
        activation.receiver = None
        if isinstance(error, StopActor):
            reason = "the actor stopped itself in Initialize"
        else:
            reason = f"the actor could not be activated: {type(error).__name__}: {text_of(error)}"
            self.activations_failed += 1
            activation.actor_type.failed += 1
        queue = activation.queue()
        first = queue.popleft() if queue else None
        if first is not None:
            self._give_up(first, _remote(error, ref))
        for pending in self.spawning.pop(ref, ()):
            self._dispatcher.complete(pending, Failure(_remote(error, ref)))
        try:
            if not isinstance(error, StopActor):
                safely(log.error, "actor %s could not be activated", ref, exc_info=error, extra=fields(ref=ref))
            if first is not None:
                self.report(ref, first.message, first.sender, reason, error)
        finally:
            self._pass_on(activation)
        self._panic(error)

    # -- messages that fail ------------------------------------------------------------------------------------

    def failed(self, worker: Desk, activation: Activation, ctx: Context, error: BaseException) -> bool:
        """Deal with what a receiver raised; tells whether the turn goes on."""
        if activation.state == STOPPED:  # fenced: the host stopped hard, nobody waits for this any more
            if not isinstance(error, (Exception, Timeout)):
                raise error
            return False
        request = ctx if isinstance(ctx, Request) and not ctx.done else None
        if isinstance(error, StopActor):
            if request is not None:
                self.deferred.add(activation, request)
            self.end(worker, activation)
            return False
        ref = activation.ref
        self._count_error(activation)
        if request is not None:
            self._dispatcher.complete(request, Failure(_remote(error, ref)))
        safely(
            log.error,
            "actor %s raised while it handled a message of type %s",
            ref,
            type(ctx.message).__name__,
            exc_info=error,
            extra=fields(ref=ref),
        )
        self._panic(error)
        if not isinstance(error, (Exception, Timeout)):
            # The worker was killed, or the program is to exit: the actor goes on with another worker.
            worker.ctx = None
            worker.release(activation)
            raise error
        return True

    def _count_error(self, activation: Activation) -> None:
        self.receiver_errors += 1
        activation.actor_type.errors += 1
        self.errors[activation] = self.errors.get(activation, 0) + 1

    def _panic(self, error: BaseException) -> None:
        if not self._dispatcher.options.panic_recovery and not isinstance(error, (StopActor, *_ENDS)):
            self._on_panic(error)

    def dead_letter(self, ref: Ref, body: Any, sender: Ref | None, reason: str, error: BaseException | None) -> None:
        """Account for an accepted message that nobody will process."""
        self._account()
        self.report(ref, body, sender, reason, error)

    def _account(self) -> None:
        dispatcher = self._dispatcher
        dispatcher.dead_lettered += 1
        dispatcher.headroom += 1
        dispatcher.accept_limit += 1
        if dispatcher.backpressure.room is not None:
            dispatcher.backpressure.grant()

    def report(self, ref: Ref, body: Any, sender: Ref | None, reason: str, error: BaseException | None) -> None:
        """Give a dead letter to who wants to see it.

        The handler may block. An actor waits for it, so that one which makes many dead letters is slowed down by them;
        nobody else does, since who freezes or stops a host has to go on.
        """
        self._report([DeadLetter(ref, body, sender, reason, error)])

    def _report(self, letters: list[DeadLetter]) -> None:
        if self.journal is not None:
            for letter in letters:
                self.journal(letter.ref, letter.message, letter.sender, letter.reason)
        handler = self._dispatcher.options.dead_letter_handler
        if handler is None:
            for letter in letters:
                ref = letter.ref
                safely(log.info, "dead letter for %s: %s", ref, letter.reason, extra=fields(ref=ref))
        elif getcurrent() in self._dispatcher.workers:
            self._tell_all(handler, letters)
        elif letters:
            self._tell_apart(handler, letters)

    def _tell_apart(self, handler: Callable[[DeadLetter], object], letters: list[DeadLetter]) -> None:
        teller: Greenlet[..., None] = Greenlet.spawn(self._tell_all, handler, letters)
        self.telling.add(teller)
        teller.rawlink(self._told)

    def _tell_all(self, handler: Callable[[DeadLetter], object], letters: list[DeadLetter]) -> None:
        for number, letter in enumerate(letters, start=1):
            try:
                self._tell(handler, letter)
            except BaseException:  # noqa: PERF203 - of few letters
                if letters[number:]:  # this greenlet ends, and they are to be told
                    self._tell_apart(handler, letters[number:])
                raise

    def _told(self, teller: Greenlet[..., None]) -> None:
        self.telling.discard(teller)
        self._dispatcher.rested()

    def _tell(self, handler: Callable[[DeadLetter], object], letter: DeadLetter) -> None:
        ref = letter.ref
        try:
            handler(letter)
        except _ENDS:
            raise
        except BaseException as problem:  # noqa: BLE001 - what it raises must not end an actor's worker
            safely(log.error, "the dead_letter_handler raised for %s", ref, exc_info=problem, extra=fields(ref=ref))

    def fail(self, ctx: Context, reason: str, error: BaseException | None, answer: TheatreError) -> None:
        """Make a queued message a dead letter, and answer who asked with `answer`."""
        self._give_up(ctx, answer)
        self.report(ctx._activation.ref, ctx.message, ctx.sender, reason, error)

    def _give_up(self, ctx: Context, answer: TheatreError) -> None:
        """Account for a message that nobody will process, and answer who asked; no user's code runs."""
        self._account()
        if isinstance(ctx, Request) and not ctx.done:
            self._dispatcher.complete(ctx, Failure(answer))

    # -- end ---------------------------------------------------------------------------------------------------

    def end(self, worker: Desk, activation: Activation) -> None:
        """Let an activation leave: Shutdown, then the fence, then its successor if messages came meanwhile."""
        activation.state = STOPPING
        ref = activation.ref
        failure: BaseException | None = None
        worker.ctx = ctx = make_context(activation, _SHUTDOWN, None)
        try:
            activation.receiver.receive(ctx)  # type: ignore[union-attr]
        except StopActor:
            pass  # it is stopping already
        except BaseException as error:  # noqa: BLE001 - counted and logged below
            failure = error
        worker.ctx = None
        if activation.state != STOPPED:
            if failure is not None:
                self._count_error(activation)
                safely(log.error, "actor %s raised in Shutdown", ref, exc_info=failure, extra=fields(ref=ref))
            self.fence(activation, StopActor("the actor stopped without a reply"))
            self._pass_on(activation)
        if failure is not None:
            self._panic(failure)
            if not isinstance(failure, (Exception, Timeout)):
                raise failure

    def fence(self, activation: Activation, why: BaseException) -> None:
        """Declare an activation over: its contexts can do nothing any more, and who waits for its replies is told."""
        if activation.state != NEW:
            self.activations_ended += 1
            activation.actor_type.ended += 1
        activation.state = STOPPED
        activation.receiver = None
        self.errors.pop(activation, None)
        self.reasons.pop(activation, None)
        for request in self.deferred.take(activation):
            answer = why.copy() if isinstance(why, TheatreError) else _remote(why, activation.ref)
            self._dispatcher.complete(request, Failure(answer))

    def _pass_on(self, activation: Activation) -> None:
        """Give inbox, line and place in the registry to a successor, or back where they came from."""
        if not self.closing:
            self._hand_on(activation)
            return
        refusal = HostDraining("the host is shutting its actors down")
        taken = self.take_all(activation, refusal)
        self._dispatcher.backpressure.leave_line(activation)
        try:
            self.report_all(taken, str(refusal), refusal)
        finally:
            self._hand_on(activation)

    def _hand_on(self, activation: Activation) -> None:
        dispatcher = self._dispatcher
        if dispatcher.actors.get(activation.ref) is not activation:
            return  # it was taken away by force while its dead letters were told
        ref, inbox, lines = activation.ref, activation.queue(), dispatcher.backpressure.lines
        reason = self.reasons.pop(activation, InitReason.NEW)
        activation.worker = None
        activation.inbox = None
        line = lines.pop(activation, None)
        if inbox or line or (ref in self.spawning and not self.closing):
            successor = Activation(ref, activation.actor_type)
            successor.inbox = inbox
            self.reasons[successor] = InitReason.REACTIVATION if activation.created_at else reason
            if line:
                lines[successor] = line
            for ctx in inbox or ():
                ctx._activation = successor
            for ctx, _ in line or ():
                ctx._activation = successor
            dispatcher.registry.replace(activation, successor)
            if inbox is None:
                dispatcher.wake(successor)
            else:
                dispatcher.ready.append(successor)
                if not dispatcher.armed:
                    dispatcher.arm()
            dispatcher.backpressure.refill(successor)
            return
        dispatcher.registry.remove(activation)
        if inbox is not None:
            dispatcher.inboxes.append(inbox)

    def take_all(self, activation: Activation, error: TheatreError) -> list[Context]:
        """Take everything out of an inbox and answer requests among it with copies of `error`, in one step.

        What is returned is for `report_all`, when nothing is left to be done that must not wait.
        """
        taken: list[Context] = []
        queue = activation.queue()
        while queue:
            ctx = queue.popleft()
            self._give_up(ctx, error.copy())
            taken.append(ctx)
        return taken

    def report_all(self, taken: list[Context], reason: str, error: TheatreError) -> None:
        """Report what `take_all` has taken, in its order."""
        self._report([DeadLetter(ctx._activation.ref, ctx.message, ctx.sender, reason, error) for ctx in taken])


def _remote(error: BaseException, ref: Ref) -> RemoteActorError:
    answer = RemoteActorError(type(error).__name__, text_of(error), ref)
    answer.__cause__ = error
    return answer
