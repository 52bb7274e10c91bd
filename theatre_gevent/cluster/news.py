"""What the keeper tells the host: small events, in the order in which they happened."""

from __future__ import annotations

from msgspec import Struct

from ..logic.observation import Change, Members


class Begun(Struct, frozen=True):
    """A life of this host has begun."""

    epoch: int


class MembersChanged(Struct, frozen=True):
    """Other hosts, or their states, are not what they were: `members` from now on."""

    members: Members
    change: Change


class Renewed(Struct, frozen=True):
    """The lease was renewed, `renewals` times in this life."""

    renewals: int


class RenewalFailed(Struct, frozen=True):
    """So many renewals in a row have failed; told once for each."""

    failures: int
    text: str


class Fenced(Struct, frozen=True):
    """Others have declared this host's life over: its actors may be elsewhere already."""

    epoch: int


class Conflict(Struct, frozen=True):
    """Another process has the lock on this host id. The lease is given up; the lock is tried again and again."""

    text: str


class ConflictOver(Struct, frozen=True):
    """The lock on the host id is ours again."""


class DatabaseAway(Struct, frozen=True):
    """The database does not answer, or not as it should. It is tried again until it does."""

    text: str


class DatabaseBack(Struct, frozen=True):
    """The database answers again, and this host has the lock on its id."""


class OtherFenced(Struct, frozen=True):
    """This host has declared the life of another over, which has not renewed its lease."""

    host_id: str
    epoch: int


class HubSilent(Struct, frozen=True):
    """The hub did not run for so many seconds that the lease was not renewed meanwhile. Told when it runs again.

    `stack` is where it was when a renewal was left out for the first time, the innermost call last.
    """

    seconds: float
    stack: str


News = (
    Begun
    | MembersChanged
    | Renewed
    | RenewalFailed
    | Fenced
    | Conflict
    | ConflictOver
    | DatabaseAway
    | DatabaseBack
    | OtherFenced
    | HubSilent
)
