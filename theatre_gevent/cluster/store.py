"""What the cluster's database holds and what can go wrong with it: row types and errors, no SQL and no driver.

The errors say what a caller has to know: whether the statement was done, was not done, or may have been done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..errors import (
    AnswerLost,
    DatabaseError,
    DatabaseRefused,
    DatabaseUnavailable,
    SchemaMismatch,
    TheatreError,
)

if TYPE_CHECKING:
    from ..messages import InitReason, Ref


class PoolTimeout(DatabaseUnavailable):
    """Every connection of the pool was busy for as long as the caller may wait. Nothing was asked of the database."""


class HostFenced(TheatreError):
    """This life of the host has been declared over: it owns nothing any more, for ever. Register a new epoch."""


class Life(msgspec.Struct, frozen=True):
    """One life of a host: from its registration until it is fenced, for ever.

    Attributes:
        host_id: Which host.
        epoch: Which of its lives. No two lives of whatever hosts have the same, and later ones have higher ones.
    """

    host_id: str
    epoch: int


class Ownership(msgspec.Struct, frozen=True):
    """Who has an actor, as one moment saw it.

    Attributes:
        owner: The life of a host that has it.
        alive: False: that life is over, anybody may claim the actor.
        claim: Number of the claim that wrote the row last.
    """

    owner: Life
    alive: bool
    claim: int


class HostRow(msgspec.Struct, frozen=True):
    """What is known of one life of a host, as one moment saw it.

    Attributes:
        life: Which host, and which of its lives.
        address: Where other hosts reach it.
        admin_addr: Address of its admin server, None for none.
        lease_duration: Seconds without a renewal after which others may declare it dead.
        renewals: How often it has renewed. Who sees this unchanged for `lease_duration` by his own clock may fence it.
        leaving: It gives back what it owns and wants nothing new.
        fenced: It is over, for ever.
        remaining: Seconds until the lease ends by the database's wall clock. For people to read: that clock may jump.
    """

    life: Life
    address: str
    admin_addr: str | None
    lease_duration: float
    renewals: int
    leaving: bool
    fenced: bool
    remaining: float


class LockHolder(msgspec.Struct, frozen=True):
    """A session that has the lock of a host id.

    Attributes:
        pid: The server's process.
        application_name: What its client calls itself.
        client_addr: Where the client is, None on the same machine.
    """

    pid: int
    application_name: str
    client_addr: str | None

    def __str__(self) -> str:
        return f"{self.application_name!r} at {self.client_addr or 'a local socket'}, server process {self.pid}"


class Claimed(msgspec.Struct, frozen=True):
    """The answer to a claim; each ref that was asked for is in exactly one of the three.

    Attributes:
        mine: Refs that the life that claimed owns now, and why an activation of each begins.
        foreign: Refs that another life owns which is not over.
        refused: Refs that no row can hold, and what is wrong with them.
    """

    mine: dict[Ref, InitReason]
    foreign: dict[Ref, Life]
    refused: dict[Ref, str]


__all__ = [
    "AnswerLost",
    "Claimed",
    "DatabaseError",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "HostFenced",
    "HostRow",
    "Life",
    "LockHolder",
    "Ownership",
    "PoolTimeout",
    "SchemaMismatch",
]
