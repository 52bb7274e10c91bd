"""Which actor types a host knows, which activations it has, and which of them have been idle for too long."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRef, RegistrationError, UnregisteredActorType
from ..logic.idle import IdleWheel
from ..messages import Receiver, Ref
from .activation import ACTIVE, LEAVING, NEW, STOPPED, Activation, ActorType, FunctionReceiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock, Timer
    from ..config import HostOptions
    from ..messages import InitReason
    from .dispatcher import Dispatcher

_SLICE = 2000
"""Activations looked at before the hub is let go again; a million must not stall it."""


class Registry:
    """Actor types and activations of one host."""

    def __init__(self, options: HostOptions, clock: Clock) -> None:
        self._idle_timeout = options.idle_timeout
        self._interval = options.cleanup_interval
        self._clock = clock
        self._timer: Timer | None = None
        self._wheel: IdleWheel[Activation] = IdleWheel(min(options.cleanup_interval, options.idle_timeout))
        self._dispatcher: Dispatcher | None = None
        self.types: dict[str, ActorType] = {}
        self.actors: dict[Ref, Activation] = {}
        self.on_removed: Callable[[Ref], object] | None = None
        """Called when a ref has no activation here any more, and no handler of it runs."""
        self.reasons: dict[Activation, InitReason] = {}
        """Why activations come that are not NEW, until they have been initialized."""
        self.on_let_go: Callable[[Ref], object] | None = None
        """Called instead when that is so long after the activation was taken away: somebody else may have it by now."""

    # -- types -------------------------------------------------------------------------------------------------

    def register(self, name: str, factory: Callable[..., Any], dispatcher: Dispatcher) -> None:
        """Make `name` known.

        Raises:
            RegistrationError: The name is taken or no name, or the factory can't be one.
        """
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"actor type must be a non-empty string, got {name!r}")
        if name in self.types:
            raise RegistrationError(f"actor type {name!r} is registered already")
        self.types[name] = ActorType(name, _creator(name, factory), dispatcher)

    # -- activations -------------------------------------------------------------------------------------------

    def type_of(self, ref: Ref) -> ActorType:
        """Return the type of an actor.

        Raises:
            InvalidRef: `ref` is not a Ref.
            UnregisteredActorType: Its type is not registered.
        """
        actor_type = self.types.get(self.check(ref).type)
        if actor_type is None:
            raise UnregisteredActorType(ref.type, self.types)
        return actor_type

    def check(self, ref: Ref) -> Ref:
        """Return what was given if it is a Ref.

        Raises:
            InvalidRef: It is not.
        """
        if type(ref) is not Ref:  # one of a class of its own is equal to no other: it would be another actor
            raise InvalidRef(f"an actor is addressed by a Ref('type', 'id'), got {ref!r}")
        return ref

    def activate(self, ref: Ref) -> Activation:
        """Return the activation of `ref`, a new one if there is none: the slow path of a lookup.

        Raises:
            InvalidRef: `ref` is not a Ref.
            UnregisteredActorType: Its type is not registered.
        """
        actor_type = self.type_of(ref)
        activation = self.actors.get(ref)
        if activation is None:
            activation = self.actors[ref] = Activation(ref, actor_type)
        return activation

    def replace(self, activation: Activation, successor: Activation) -> None:
        """Put a successor into the place of an activation that has ended."""
        if self.actors.get(activation.ref) is activation:
            self.actors[activation.ref] = successor

    def remove(self, activation: Activation, *, over: bool = True) -> None:
        """Forget an activation; by identity, so that a late removal can't take its successor away.

        Args:
            activation: What has ended.
            over: False if a handler of it runs still; `let_go` is called once it does not.
        """
        ref = activation.ref
        if self.actors.get(ref) is activation:
            del self.actors[ref]
            if self.reasons:
                self.reasons.pop(activation, None)
            if over and self.on_removed is not None:
                self.on_removed(ref)

    def let_go(self, ref: Ref) -> None:
        """The last handler of an activation that was removed before has ended."""
        if self.on_let_go is not None and ref not in self.actors:
            self.on_let_go(ref)

    def forget_unused(self, activation: Activation) -> None:
        """Forget an activation that was made for a message which is refused after all: nobody looks at it otherwise."""
        if activation.state == NEW and activation.inbox is None and activation.worker is None:
            self.remove(activation)

    # -- idleness ----------------------------------------------------------------------------------------------

    def watch_idleness(self, activation: Activation, now: float) -> None:
        """See to it that `activation` leaves once it has been idle."""
        self._wheel.add(activation, now + self._idle_timeout)

    def start(self, dispatcher: Dispatcher) -> None:
        """Look for idle activations from now on."""
        self._dispatcher = dispatcher
        self._timer = self._clock.call_later(self._interval, self._sweep)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wheel.clear()

    def _sweep(self) -> None:
        assert self._dispatcher is not None
        self._dispatcher.now = now = self._clock.monotonic()  # on a host that only sends nobody else looks
        self._wheel.collect(now)
        # Actors that stop themselves stay filed until their look is due; let go of them before they pile up.
        if len(self._wheel) > 2 * len(self.actors) + 1000:
            self._wheel.keep(lambda activation: activation.state != STOPPED)
        self._look()

    def _look(self) -> None:
        """In the hub: look at a slice of what is due.

        It only marks and wakes: Shutdown handlers run on workers, so a slow one delays nobody.
        """
        dispatcher, wheel, idle_timeout = self._dispatcher, self._wheel, self._idle_timeout
        assert dispatcher is not None
        now = self._clock.monotonic()
        finished = False
        for _ in range(_SLICE):
            if len(dispatcher.ready) > _SLICE:
                break
            activation = wheel.take()
            if activation is None:
                finished = True
                break
            if activation.state == STOPPED:
                continue
            due = activation.last_active + idle_timeout
            if (
                activation.inbox is not None
                or activation.worker is not None
                or dispatcher.lifecycle.deferred.open(activation)
            ):
                wheel.add(activation, now + idle_timeout)
            elif due > now:
                wheel.add(activation, due)
            elif activation.state == ACTIVE and not dispatcher.cancelled.is_set():
                activation.state = LEAVING
                dispatcher.wake(activation)
                wheel.add(activation, now + idle_timeout)  # a message may come first; if none does, it is dropped
            else:
                wheel.add(activation, now + idle_timeout)
        self._timer = self._clock.call_later(
            self._interval if finished else 0.001, self._sweep if finished else self._look
        )


def _creator(name: str, factory: Any) -> Callable[[], Receiver]:
    """Return a function without arguments that makes a receiver."""
    for function in (factory, getattr(factory, "receive", None)):
        if (odd := _not_run_by_a_call(function)) is not None:
            raise RegistrationError(f"the receiver of actor type {name!r} {odd}")
    create: Callable[[], Receiver] = factory
    if inspect.isclass(factory):
        if not callable(getattr(factory, "receive", None)):
            raise RegistrationError(
                f"class {factory.__name__} for actor type {name!r} has no receive(self, ctx) method"
            )
        if _required(factory) not in (0, None):
            raise RegistrationError(
                f"class {factory.__name__} for actor type {name!r} needs arguments: "
                f"register a factory such as lambda: {factory.__name__}(...)"
            )
        return create
    if not callable(factory):
        hint = "; register its class or a factory: every actor needs an object of its own"
        raise RegistrationError(
            f"factory of actor type {name!r} must be a class, a function without arguments or a function f(ctx), "
            f"got {factory!r}" + (hint if hasattr(factory, "receive") else "")
        )
    required = _required(factory)
    if required in (0, None):
        return create
    if required == 1:
        return lambda: FunctionReceiver(factory)
    raise RegistrationError(
        f"function for actor type {name!r} must take no argument (a factory) or one (a receiver f(ctx)), "
        f"{getattr(factory, '__name__', factory)!r} requires {required}"
    )


def check_receiver(name: str, receiver: object) -> None:
    """See to it that what a factory has made can be a receiver.

    Raises:
        TypeError: It can't.
    """
    receive = getattr(receiver, "receive", None)
    if not callable(receive):
        raise TypeError(f"the factory of actor type {name!r} returned {receiver!r}, which has no receive(ctx) method")
    if (odd := _not_run_by_a_call(receive)) is not None:
        raise TypeError(f"the receiver of actor type {name!r} {odd}")


def _not_run_by_a_call(function: object) -> str | None:
    """Return what is wrong with a function whose call does nothing but make an object, None for any other."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "is a coroutine function, which nobody would await: make it a plain function, it may block"
    if inspect.isgeneratorfunction(function):
        return "is a generator function, whose body nobody would run: make it a plain function, without yield"
    return None


def _required(factory: Callable[..., Any]) -> int | None:
    """Return how many arguments `factory` can't do without, None if it can't be told."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return sum(p.default is p.empty and p.kind not in kinds for p in signature.parameters.values())
