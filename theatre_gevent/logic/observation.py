"""What a host sees of the others: who lives, who is dead, who belongs to the ring. Pure; rows and `now` go in.

A life is (host id, epoch). Each renewal counts one up in its row. Who sees the same count for as long as that life's
lease lasts, by his own clock, from after he first saw it, knows that the lease has ended: see `lease`.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from .lease import waits_for_dead

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Life(Protocol):
    """One life of a host; values that compare equal are the same life."""

    @property
    def host_id(self) -> str: ...  # noqa: D102
    @property
    def epoch(self) -> int: ...  # noqa: D102


class HostRow(Protocol):
    """A row of the table of hosts."""

    @property
    def life(self) -> Life: ...  # noqa: D102
    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def lease_duration(self) -> float: ...  # noqa: D102
    @property
    def renewals(self) -> int: ...  # noqa: D102
    @property
    def leaving(self) -> bool: ...  # noqa: D102
    @property
    def fenced(self) -> bool: ...  # noqa: D102


class Dead(Struct, frozen=True):
    """A life that may be fenced, if its row still has so many renewals."""

    life: Life
    renewals: int


class Member(Struct, frozen=True):
    """A host that lives.

    Attributes:
        leaving: It is handing its actors over: it can be reached, and gets no new ones.
    """

    host_id: str
    epoch: int
    address: str
    leaving: bool = False


class Members(Struct, frozen=True):
    """An immutable snapshot of the hosts that live, one life for each host id, sorted."""

    members: tuple[Member, ...] = ()

    @property
    def ring(self) -> tuple[str, ...]:
        """The host ids that new actors are spread over."""
        return tuple(member.host_id for member in self.members if not member.leaving)

    @property
    def hosts(self) -> Mapping[str, str]:
        """The addresses of all, those that are leaving too."""
        return MappingProxyType({member.host_id: member.address for member in self.members})

    def get(self, host_id: str) -> Member | None:
        """Return the life of this host id, None if it has none."""
        return next((member for member in self.members if member.host_id == host_id), None)

    def with_leaving(self, host_id: str, epoch: int) -> Members:
        """Return the same with this life leaving."""
        return Members(
            tuple(
                Member(member.host_id, member.epoch, member.address, leaving=True)
                if (member.host_id, member.epoch) == (host_id, epoch)
                else member
                for member in self.members
            )
        )


class Change(Struct, frozen=True):
    """What differs between two snapshots: host ids, sorted.

    Attributes:
        joined: New ones.
        gone: Those that are no more.
        reborn: Those with another epoch or address.
        leaving: Those that have begun to leave.
    """

    joined: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    reborn: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.joined or self.gone or self.reborn or self.leaving)

    def __str__(self) -> str:
        words = [f"{name} {', '.join(ids)}" for name in self.__struct_fields__ if (ids := getattr(self, name))]
        return "; ".join(words) or "no change"


def changes(before: Members, after: Members) -> Change:
    """Compare two snapshots."""
    old = {member.host_id: member for member in before.members}
    new = {member.host_id: member for member in after.members}
    both = [(old[host_id], new[host_id]) for host_id in sorted(old.keys() & new.keys())]
    return Change(
        joined=tuple(sorted(new.keys() - old.keys())),
        gone=tuple(sorted(old.keys() - new.keys())),
        reborn=tuple(n.host_id for o, n in both if (o.epoch, o.address) != (n.epoch, n.address)),
        leaving=tuple(n.host_id for o, n in both if n.leaving and not (o.leaving and o.epoch == n.epoch)),
    )


def members_of(rows: Iterable[HostRow], host_id: str, own: Member | None) -> Members:
    """Return who the members are.

    Args:
        rows: What the database says.
        host_id: This host's.
        own: This host as it knows itself; None while it has no life. What the database says of this host id does not
            count: this host knows sooner that it is leaving or that its life has ended.
    """
    newest: dict[str, Member] = {}
    for row in rows:
        name, epoch = row.life.host_id, row.life.epoch
        known = newest.get(name)
        if not row.fenced and name != host_id and (known is None or known.epoch < epoch):
            newest[name] = Member(name, epoch, row.address, row.leaving)
    if own is not None:
        newest[host_id] = own
    return Members(tuple(newest[name] for name in sorted(newest)))


class Observer:
    """Remembers since when each life has had the renewals that it has now. Bounded by the rows of the last look."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        # life -> renewals, when it is dead unless it renews
        self._seen: dict[Life, tuple[int, float]] = {}

    def observe(self, rows: Iterable[HostRow], now: float, own: Life | None = None) -> list[Dead]:
        """Take in what the database says, and return the lives that are dead and have to be fenced.

        Args:
            rows: The rows of hosts; fenced ones are passed over.
            now: A time *after* the answer was here: a renewal that is seen was sent before.
            own: This host's life, which it never fences by itself.
        """
        seen: dict[Life, tuple[int, float]] = {}
        dead = []
        for row in rows:
            life = row.life
            if row.fenced or life == own:
                continue
            known = self._seen.get(life)
            if known is None or known[0] != row.renewals:
                known = (row.renewals, now + waits_for_dead(row.lease_duration))
            elif now >= known[1]:
                dead.append(Dead(life, row.renewals))
            seen[life] = known
        self._seen = seen
        return dead

    def next_due(self) -> float:
        """Return when the first life will be dead unless it renews: a good time to look again. Infinity if none."""
        return min((dead_at for _, dead_at in self._seen.values()), default=math.inf)
