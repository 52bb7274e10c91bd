"""Refs, the lifecycle messages that every actor gets, and dead letters."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

import msgspec

from . import ref_fields


class Ref(msgspec.Struct, frozen=True, cache_hash=True, gc=False, array_like=True):
    """The address of an actor: a registered type and an id of your choosing.

    Immutable, hashable and cheap: keep refs rather than building them anew for every message.

    Attributes:
        type: Name under which the actor's type is registered, a non-empty string.
        id: Which actor of that type, a non-empty string.

    Raises:
        InvalidRef: `type` or `id` is empty or not a string.
    """

    # A msgspec Struct and not a dataclass: hash and comparison run in C (45 ns a lookup against 400 ns), and an
    # untracked object of two strings costs the garbage collector nothing, a million times.
    type: str
    id: str

    # Refs are made by the million, and from every message that comes from afar.
    __post_init__ = ref_fields.check  # type: ignore[misc]  # a function as good as one that is written here

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


class InitReason(str, Enum):
    """Why an activation came into being."""

    NEW = "new"
    """The first message to this actor, or the first after it had left."""
    REACTIVATION = "reactivation"
    """Messages arrived while the last activation was leaving."""
    FAILOVER = "failover"
    """The actor was owned by a host that is gone."""


class Initialize(msgspec.Struct, frozen=True):
    """The first message of every activation, before any user message."""

    reason: InitReason = InitReason.NEW


class Shutdown(msgspec.Struct, frozen=True):
    """The last message of an activation: let go of what you hold. Nothing is delivered after it."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that was accepted and could not be processed.

    Attributes:
        ref: Whom it was for.
        message: The body.
        sender: The actor that sent it, None when it came from outside.
        reason: Why, in words.
        error: The exception behind it, if there was one.
    """

    ref: Ref
    message: Any
    sender: Ref | None
    reason: str
    error: BaseException | None = None


class Receiver(Protocol):
    """What an actor's factory returns: an object with a `receive` method."""

    def receive(self, ctx: Any, /) -> object:
        """Handle one message: `ctx.message`. The returned value is ignored; answer with `ctx.reply`."""
