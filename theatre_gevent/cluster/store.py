"""What the cluster's database holds and what can go wrong with it: row types and errors, no SQL and no driver.

The errors say what a caller has to know: whether the statement was done, was not done, or may have been done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..errors import TheatreError

if TYPE_CHECKING:
    from ..messages import InitReason, Ref


class DatabaseError(TheatreError):
    """The database did not do what it was asked to. Its subclasses say what is known."""


class DatabaseUnavailable(DatabaseError):
    """The statement was certainly not done, for a reason that passes: retry it later. Nobody's mistake."""


class PoolTimeout(DatabaseUnavailable):
    """Every connection of the pool was busy for as long as the caller may wait. Nothing was asked of the database."""


class AnswerLost(DatabaseError):
    """The statement was sent and its answer never came: it may have been done or not, or be done yet. Ask again."""


class DatabaseRefused(DatabaseError):
    """The database said no, and will say no again: a missing table or privilege, a value that it can't hold."""


class SchemaMismatch(DatabaseRefused):
    """The tables are not those that this version of the library works with. The text says what to do."""


class HostFenced(TheatreError):
    """This life of the host has been declared over: it owns nothing any more, for ever. Register a new epoch."""


class Owner(msgspec.Struct, frozen=True):
    """The life of a host that owns an actor.

    Attributes:
        host_id: Which host.
        epoch: Which of its lives.
    """

    host_id: str
    epoch: int


class Ownership(msgspec.Struct, frozen=True):
    """Who has an actor, as one moment saw it.

    Attributes:
        owner: The life of a host that has it.
        alive: False: that life is over, anybody may claim the actor.
        claim: Number of the claim statement that wrote the row last.
    """

    owner: Owner
    alive: bool
    claim: int


class HostRow(msgspec.Struct, frozen=True):
    """One life of a host, as one moment saw it.

    Attributes:
        host_id: Which host.
        epoch: Which of its lives; above all that were registered before, of whatever host.
        address: Where other hosts reach it.
        admin_addr: Address of its admin server, None for none.
        lease_duration: Seconds without a renewal after which others may declare it dead.
        renewals: How often it has renewed. Who sees this unchanged for `lease_duration` by his own clock may fence it.
        leaving: It gives back what it owns and wants nothing new.
        fenced: It is over, for ever.
        remaining: Seconds until the lease ends by the database's wall clock. For people to read: that clock may jump.
    """

    host_id: str
    epoch: int
    address: str
    admin_addr: str | None
    lease_duration: float
    renewals: int
    leaving: bool
    fenced: bool
    remaining: float


class Claimed(msgspec.Struct, frozen=True):
    """The answer to a claim; each ref that was asked for is in exactly one of the three.

    Attributes:
        mine: Refs that this life of the host owns now, and why an activation of it begins.
        foreign: Refs that another live host owns.
        refused: Refs that no row can hold, and what is wrong with them.
    """

    mine: dict[Ref, InitReason]
    foreign: dict[Ref, Owner]
    refused: dict[Ref, str]
