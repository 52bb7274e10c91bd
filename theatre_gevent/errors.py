"""The tree of errors. Every error that the library raises on purpose is a `TheatreError`.

Each docstring says whose fault the error is and what to do about it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .messages import Ref


class TheatreError(Exception):
    """Base of all errors of this library: catch it to catch them all."""

    def copy(self) -> TheatreError:
        """Return an equal error without a traceback: one raised in many greenlets would collect those of all."""
        twin = copy.copy(self)
        twin.__traceback__ = None
        twin.__cause__ = self.__cause__
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which fails where a constructor takes other things than the text.
        return _remake, (type(self), self.args), vars(self)


def text_of(error: BaseException) -> str:
    """Return what an exception says. One of somebody else's may fail even at that."""
    try:
        return str(error)
    except BaseException as failure:  # noqa: BLE001 - whatever it is, the error itself must not get lost
        return f"<no text: its __str__ raised {type(failure).__name__}>"


def _remake(kind: type[TheatreError], args: tuple[object, ...]) -> TheatreError:
    return kind.__new__(kind, *args)


class InvalidOption(TheatreError, ValueError):
    """A `Host` option is unknown or out of range: the caller's mistake, the message names the option."""


class InvalidRef(TheatreError, TypeError, ValueError):
    """What was given is not a usable `Ref`: the caller's mistake, the message says what is allowed."""


class RegistrationError(TheatreError, TypeError, ValueError):
    """An actor type cannot be registered like this: the caller's mistake, the message says what is wrong."""


class InvalidSchedule(TheatreError, ValueError):
    """A delay, cron expression, time zone or misfire policy is no such thing: the caller's mistake, named."""


class UnregisteredActorType(TheatreError):
    """Nobody registered this actor type on the host: the caller's mistake, or a forgotten registration.

    Args:
        actor_type: The type that was asked for.
        registered: The types that the host knows.
        where: Which host that is.

    Attributes:
        actor_type: As above.
        registered: As above, sorted.
    """

    def __init__(self, actor_type: str, registered: Iterable[str], where: str = "on this host") -> None:
        self.actor_type = actor_type
        self.registered = sorted(registered)
        known = ", ".join(map(repr, self.registered)) or "none"
        super().__init__(f"actor type {actor_type!r} is not registered {where} (registered: {known})")


class HostNotRunning(TheatreError):
    """The host takes no work now. Start it, or address another one."""


class HostDraining(HostNotRunning):
    """The host is stopping or has stopped: nobody's mistake. Send to another host, or give up."""


class HostFrozen(HostNotRunning):
    """The host has suspended itself, so that it processes nothing it may not own. Retry later or elsewhere."""


class RequestTimeout(TheatreError, TimeoutError):
    """No reply came within the timeout. The actor may still be working, or may have done the work already."""


class CallCycle(TheatreError):
    """A request would wait for itself: A asks B, which asks A. The actors' design is at fault; use `send`.

    Attributes:
        chain: The refs in the order of the requests, the last one being the one that closes the cycle.
    """

    def __init__(self, chain: Iterable[Ref]) -> None:
        self.chain = tuple(chain)
        super().__init__("call cycle: " + " > ".join(map(str, self.chain)))


class NoOwner(TheatreError):
    """No reachable host owns the actor or could own it. Retry when the cluster has members again.

    Nothing was done, unless it is a `PeerDown`.
    """


class PeerDown(NoOwner):
    """Another host cannot be reached, or was lost with what it had been asked: that may have been done.

    The text names the host, its address and the reason.
    """


class CannotListen(TheatreError):
    """The address cannot be listened at: it is in use, not this machine's, or not allowed. The text names it."""


class ClaimLost(TheatreError):
    """This activation has ended or lost its ownership: its context can no longer send, request or reply."""


class HostIdConflict(TheatreError):
    """Another live host uses this host id: a mistake of deployment. Give each host an id of its own."""


class InboxFull(TheatreError):
    """An inbox stayed full for as long as a sender may wait: the receiver is too slow for its senders."""


class MessageNotSerializable(TheatreError, TypeError):
    """The body holds something that cannot travel. The sender's mistake; the message names type and path."""


class RemoteActorError(TheatreError):
    """The receiver of a request raised an exception, here or on another host.

    Attributes:
        type_name: Name of the exception's class, as text: the object itself never travels.
        message: What the exception said.
        ref: The actor that raised it.
    """

    def __init__(self, type_name: str, message: str, ref: Ref) -> None:
        self.type_name = type_name
        self.message = message
        self.ref = ref
        super().__init__(f"{ref} raised {type_name}: {message}")


class DatabaseError(TheatreError):
    """The database did not do what it was asked to. Its subclasses say what is known."""


class DatabaseUnavailable(DatabaseError):
    """The statement was certainly not done, for a reason that passes: retry it later. Nobody's mistake."""


class AnswerLost(DatabaseError):
    """The statement was sent and its answer never came: it may have been done or not, or be done yet. Ask again."""


class DatabaseRefused(DatabaseError):
    """The database said no, and will say no again: a missing table or privilege, a value that it can't hold."""


class SchemaMismatch(DatabaseRefused):
    """The tables are not those that this version of the library works with. The text says what to do."""


class StopActor(Exception):
    """Raise it in `receive` to stop the actor itself: `Shutdown` follows, the next message starts a new one."""
