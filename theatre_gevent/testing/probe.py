"""An actor that writes down what it receives, and waits for it on behalf of a test."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..clock import SystemClock
from ..core.activation import FunctionReceiver
from ..core.registry import check_receiver
from ..errors import RegistrationError
from ..messages import Initialize, Ref, Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.context import Context
    from ..host import Host

_SHOWN = 20
"""Records that an error shows: the last ones."""

_NOTHING: Any = object()


class Received(NamedTuple):
    """One message that a probe has received.

    Attributes:
        ref: The actor that it came to.
        message: The body: the very object that was delivered.
        sender: The actor that sent it, None when it came from outside.
        host_id: The host where that actor was.
    """

    ref: Ref
    message: Any
    sender: Ref | None
    host_id: str

    def __str__(self) -> str:
        sender = "" if self.sender is None else f", from {self.sender}"
        return f"{self.ref} on {self.host_id}: {self.message!r}{sender}"


class ActorProbe:
    """Plays the actors of a type, on one host or several, and records what they receive, in order.

        probe = ActorProbe(reply="noted")
        probe.register("audit", host)
        host.send(Ref("counter", "1"), "something that makes the counter tell the audit")
        probe.wait_for(1)
        assert probe.messages == ["incremented"]

    It may be registered under several names and used from any greenlet and any native thread.

    Args:
        reply: What every request is answered with; without it, requests go unanswered and time out.
        receive: Called with the context of every user message after it has been recorded, to do what an actor does:
            reply, raise, wait, send. Give either this or `reply`.
        lifecycle: Record Initialize and Shutdown as well.

    Raises:
        ValueError: Both `reply` and `receive` are given.
        RegistrationError: `receive` is no function that a call with a context runs.
    """

    def __init__(
        self,
        *,
        reply: object = _NOTHING,
        receive: Callable[[Context], object] | None = None,
        lifecycle: bool = False,
    ) -> None:
        if reply is not _NOTHING and receive is not None:
            raise ValueError("give either reply or receive: a function that receives can call ctx.reply")
        if receive is not None:
            _check(receive)
        self._reply = reply
        self._receive = receive
        self._lifecycle = lifecycle
        self._received: list[Received] = []
        self._clock = SystemClock()

    def register(self, actor_type: str, *hosts: Host) -> None:
        """Register the probe as an actor type, on each of the hosts.

        Raises:
            ValueError: No host is given.
            RegistrationError: The name is taken or no name.
        """
        if not hosts:
            raise ValueError(f"on which hosts is the probe to be registered as {actor_type!r}? Give one or more")
        for host in hosts:
            host.register_actor(actor_type, partial(self._handle, host.host_id))

    def _handle(self, host_id: str, ctx: Context) -> None:
        message = ctx.message
        is_lifecycle = isinstance(message, (Initialize, Shutdown))
        if self._lifecycle or not is_lifecycle:
            self._received.append(Received(ctx.actor_ref, message, ctx.sender, host_id))
        if is_lifecycle:
            return
        if self._receive is not None:
            self._receive(ctx)
        elif self._reply is not _NOTHING:
            ctx.reply(self._reply)

    @property
    def received(self) -> list[Received]:
        """What has been received, oldest first, with receiver, sender and host."""
        return list(self._received)

    @property
    def messages(self) -> list[Any]:
        """The bodies alone, oldest first."""
        return [one.message for one in self.received]

    @property
    def refs(self) -> list[Ref]:
        """The actors that have received something, each once, in the order of their first messages."""
        return list(dict.fromkeys(one.ref for one in self.received))

    def of(self, ref: Ref) -> list[Any]:
        """Return the bodies that one actor has received, oldest first."""
        return [one.message for one in self.received if one.ref == ref]

    def clear(self) -> None:
        """Forget what has been received."""
        self._received.clear()

    def wait_for(self, condition: int | Callable[[list[Any]], object], timeout: float = 5.0) -> list[Any]:
        """Let other greenlets run until enough has been received.

        Time under a `VirtualClock` does not pass meanwhile: advance it first.

        Args:
            condition: So many messages at least; or a function that gets `messages` and tells whether they will do.
            timeout: Real seconds, whatever clock the host has.

        Returns:
            The bodies received so far, as in `messages`.

        Raises:
            AssertionError: `condition` did not hold within `timeout`; it shows what was received.
        """
        holds = (lambda messages: len(messages) >= condition) if isinstance(condition, int) else condition
        deadline = self._clock.monotonic() + timeout
        while not holds(messages := self.messages):
            if self._clock.monotonic() >= deadline:
                raise AssertionError(f"{_words(condition)} did not come within {timeout:g} s; {self._report()}")
            self._clock.sleep(0.002)
        return messages

    def _report(self) -> str:
        received = self.received
        if not received:
            return "the probe received nothing"
        first = max(0, len(received) - _SHOWN)
        more = f" (the last {_SHOWN} are shown)" if first else ""
        lines = [f"\n  {number}. {one}" for number, one in enumerate(received[first:], first + 1)]
        return f"the probe received {len(received)}{more}:{''.join(lines)}"


def _check(receive: Callable[[Context], object]) -> None:
    if not callable(receive):
        raise RegistrationError(f"receive of a probe must be a function f(ctx), got {receive!r}")
    try:
        check_receiver("probe", FunctionReceiver(receive))
        signature = inspect.signature(receive)
    except TypeError as error:  # it would do nothing but make an object
        raise RegistrationError(str(error)) from None
    except ValueError:  # built-in functions may have none
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise RegistrationError(f"receive of a probe is called with a context alone, f(ctx): {error}") from None


def _words(condition: int | Callable[..., object]) -> str:
    if isinstance(condition, int):
        return f"{condition} message{'' if condition == 1 else 's'}"
    code = getattr(condition, "__code__", None)
    where = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    return f"what {getattr(condition, '__name__', repr(condition))}{where} waits for"
