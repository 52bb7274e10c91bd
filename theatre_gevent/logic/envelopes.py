"""What travels between hosts: the messages of a batch, as MessagePack arrays that begin with their kind.

| message | array |
|---|---|
| Send | 0, ref, body, sender, headers |
| Request | 1, ref, body, seq, timeout, sender, headers |
| Reply | 2, seq, epoch, body, headers |
| Failure | 3, seq, epoch, code, type name, text, detail, headers |
| Returned | 4, ref, body, code, text, sender, headers |

A ref is an array of type and id. Trailing elements may be missing, further ones and unknown headers are ignored: that
is the room which version 1 has for more. A request's id is (host, epoch, seq); host and epoch are those of the
connection's handshake, so a request carries `seq` alone. A reply names the epoch of the asker, so that it cannot
answer a request of the host's life after a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from msgspec import Meta, Struct

from ..errors import (
    CallCycle,
    ClaimLost,
    HostDraining,
    HostFrozen,
    InboxFull,
    NoOwner,
    RemoteActorError,
    RequestTimeout,
    TheatreError,
    UnregisteredActorType,
)
from ..messages import Ref
from .schedules import Firing

if TYPE_CHECKING:
    from collections.abc import Callable

Seq = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Epoch = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Seconds = Annotated[float, Meta(ge=0, lt=1e9)]  # as long as any request may wait


class Headers(Struct, omit_defaults=True, gc=False):
    """What only some messages carry; a map on the wire.

    Attributes:
        attempt: How often the message has been sent before: it came back from a host that did not own its actor.
        deadline: Seconds that are left to whatever this send is part of.
        chain: The refs whose handlers wait for this request, the first asker first.
        trace: W3C trace context: `traceparent`, `tracestate`, `baggage`.
        owner: The host that owns the actor, as far as the one that answers NOT_HERE knows.
        schedule: The due time that the message was sent for, if it comes from a schedule.
        refused: In a failure: the request was not accepted, and no handler has seen it.
        barrier: In a request: nobody handles it. The answer says that every message that was sent before it to the
            same actor has been accepted, or has come back.
    """

    attempt: Annotated[int, Meta(ge=0, le=1000)] = 0
    deadline: Seconds | None = None
    chain: list[Ref] | None = None
    trace: dict[str, str] | None = None
    owner: str | None = None
    schedule: Firing | None = None
    refused: bool = False
    barrier: bool = False


# gc=False: an envelope lives from the encoder to the next one, and bodies in it are trees. 85 ns to make, not 149.
class Send(Struct, array_like=True, tag_field="kind", tag=0, gc=False):
    """A message that nobody waits for.

    Attributes:
        ref: Whom it is for.
        body: Outgoing what `pack_body` made, incoming the body itself.
        sender: The actor that sent it, None when it came from outside.
        headers: Optional.
    """

    ref: Ref
    body: Any
    sender: Ref | None = None
    headers: Headers | None = None


class Request(Struct, array_like=True, tag_field="kind", tag=1, gc=False):
    """A message whose sender waits.

    Attributes:
        seq: Number of the request at the asking host and epoch, never used again.
        timeout: Seconds that were left to the asker when it was queued, relative so that clocks need not agree.
    """

    ref: Ref
    body: Any
    seq: Seq
    timeout: Seconds
    sender: Ref | None = None
    headers: Headers | None = None


class Reply(Struct, array_like=True, tag_field="kind", tag=2, gc=False):
    """The answer to the request `seq` of the asker's `epoch`."""

    seq: Seq
    epoch: Epoch
    body: Any
    headers: Headers | None = None


class Failure(Struct, array_like=True, tag_field="kind", tag=3, gc=False):
    """The request failed.

    Attributes:
        code: One of the constants of this module; an unknown one counts as ACTOR_ERROR.
        type_name: Name of the exception's class.
        text: What it said.
        detail: What the asker needs to make the same error, see `error_of`.
    """

    seq: Seq
    epoch: Epoch
    code: int
    type_name: str
    text: str
    detail: list[Any] | None = None
    headers: Headers | None = None


class Returned(Struct, array_like=True, tag_field="kind", tag=4, gc=False):
    """A `Send` that comes back untouched, because this host does not take it: it can go elsewhere, without a copy of
    every send being kept until it has arrived.

    Attributes:
        code: NOT_HERE, HOST_FROZEN, HOST_DRAINING or INBOX_FULL.
        body: As in `Send`.
    """  # noqa: D205

    ref: Ref
    body: Any
    code: int
    text: str = ""
    sender: Ref | None = None
    headers: Headers | None = None


Message: TypeAlias = "Send | Request | Reply | Failure | Returned"

ACTOR_ERROR, NOT_HERE, HOST_FROZEN, HOST_DRAINING, INBOX_FULL, UNREGISTERED = 0, 1, 2, 3, 4, 5
NO_OWNER, TIMED_OUT, CYCLE, LOST, BAD_BODY = 6, 7, 8, 9, 10


class NotHere(TheatreError):
    """The host that was asked does not own the actor: routing forgets what it believed and asks again.

    Args:
        text: What is said.
        owner: The host that does own it, if that is known.
    """

    def __init__(self, text: str = "", owner: str | None = None) -> None:
        super().__init__(text)
        self.owner = owner


_CODES: dict[type[BaseException], int] = {
    NotHere: NOT_HERE,
    HostFrozen: HOST_FROZEN,
    HostDraining: HOST_DRAINING,
    InboxFull: INBOX_FULL,
    UnregisteredActorType: UNREGISTERED,
    NoOwner: NO_OWNER,
    RequestTimeout: TIMED_OUT,
    CallCycle: CYCLE,
    ClaimLost: LOST,
}
_BY_TEXT: dict[int, Callable[[str], TheatreError]] = {
    NOT_HERE: NotHere,
    HOST_FROZEN: HostFrozen,
    HOST_DRAINING: HostDraining,
    INBOX_FULL: InboxFull,
    NO_OWNER: NoOwner,
    TIMED_OUT: RequestTimeout,
    LOST: ClaimLost,
}

MAX_TEXT = 8192
"""Characters of an exception's text that travel."""


def failure_of(seq: int, epoch: int, error: BaseException) -> Failure:
    """Return the failure that tells the asker about `error`. Never raises, whatever the exception's `__str__` does."""
    kind = type(error)
    name, text = kind.__qualname__, _text(error)
    detail: list[Any] | None = None
    code = _CODES.get(kind, ACTOR_ERROR)
    if isinstance(error, RemoteActorError):  # raised further on, passed through as it is
        name, text, detail = clean_text(error.type_name), clean_text(error.message), [[error.ref.type, error.ref.id]]
    elif isinstance(error, UnregisteredActorType):
        detail = [clean_text(error.actor_type), *map(clean_text, error.registered)]
    elif isinstance(error, CallCycle):
        detail = [[ref.type, ref.id] for ref in error.chain]
    elif isinstance(error, NotHere) and error.owner is not None:
        return Failure(seq, epoch, code, name, text, None, Headers(owner=error.owner))
    return Failure(seq, epoch, code, name, text, detail)


def error_of(failure: Failure, ref: Ref) -> TheatreError:
    """Return the error to raise in who asked `ref` and got this failure."""
    code, text, detail = failure.code, failure.text, failure.detail
    make = _BY_TEXT.get(code)
    if make is not None:
        return make(text)
    try:
        if detail:
            if code == UNREGISTERED:
                return UnregisteredActorType(str(detail[0]), map(str, detail[1:]), "on the host that it came to")
            refs = [Ref(*item) for item in detail]
            if code == CYCLE:
                return CallCycle(refs)
            return RemoteActorError(failure.type_name, text, refs[0])
    except (TypeError, ValueError):
        pass  # the detail is not what this version knows: the text will do
    return RemoteActorError(failure.type_name, text, ref)


def _text(error: BaseException) -> str:
    try:
        return clean_text(str(error))
    except Exception as again:  # noqa: BLE001 - any code may stand behind it
        return f"<its text is not available: {type(again).__name__}>"


def clean_text(text: str) -> str:
    """Cut `text` and replace what UTF-8 cannot hold, so that an error can always travel."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + "..."
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
