"""The cluster's database as a few dicts: the statements of `theatre_gevent.cluster.postgres`, with the same outcome.

`tests/integration/test_simulated_store.py` sees to it that this is so. One statement at a time, each of them whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from theatre_gevent import InitReason, Ref
from theatre_gevent.cluster.store import Claimed, HostFenced, HostRow, Life, Ownership


class Host(Struct):
    """A row of the table of hosts."""

    address: str
    lease_duration: float
    renewals: int = 0
    leaving: bool = False
    fenced: bool = False


class Owned(Struct):
    """A row of the table of owners."""

    life: Life
    claim: int
    reason: InitReason


class SimulatedStore:
    """What the tables hold, and what the statements do to them. See `theatre_gevent.cluster.postgres` for each."""

    def __init__(self) -> None:
        self.lives: dict[Life, Host] = {}
        self.owned: dict[Ref, Owned] = {}
        self.sequence = 0

    def is_alive(self, life: Life) -> bool:
        """Tell whether a life is not over."""
        row = self.lives.get(life)
        return row is not None and not row.fenced

    # -- hosts -----------------------------------------------------------------------------------------------------

    def next_epoch(self) -> int:
        """Return an epoch above all before."""
        self.sequence += 1
        return self.sequence

    def register(self, life: Life, address: str, lease_duration: float, previous_epoch: int | None = None) -> None:
        """Begin a life, and end an earlier one of the same process."""
        previous = self.lives.get(Life(life.host_id, previous_epoch or 0))
        if previous is not None:
            previous.fenced = True
        self.lives[life] = Host(address, lease_duration)

    def renew(self, life: Life) -> int | None:
        """Renew a lease; returns how often it has been, None for a life that is over."""
        if not self.is_alive(life):
            return None
        row = self.lives[life]
        row.renewals += 1
        return row.renewals

    def set_leaving(self, life: Life) -> bool:
        """Mark a life as leaving."""
        if not self.is_alive(life):
            return False
        self.lives[life].leaving = True
        return True

    def fence(self, life: Life, renewals: int) -> bool:
        """End a life unless it has been renewed; tells whether it has."""
        if not self.is_alive(life) or self.lives[life].renewals != renewals:
            return False
        self.lives[life].fenced = True
        return True

    def fence_self(self, life: Life) -> bool:
        """End one's own life."""
        return self.is_alive(life) and self.fence(life, self.lives[life].renewals)

    def hosts(self, *, fenced: bool = False) -> list[HostRow]:
        """Return the rows of hosts; nobody here looks at `remaining`."""
        return [
            HostRow(life, row.address, None, row.lease_duration, row.renewals, row.leaving, row.fenced, 0.0)
            for life, row in sorted(self.lives.items(), key=lambda item: (item[0].host_id, item[0].epoch))
            if fenced or not row.fenced
        ]

    def forget_fenced(self) -> int:
        """Remove the rows of lives that are over and own nothing."""
        epochs = {row.life.epoch for row in self.owned.values()}
        gone = [life for life, row in self.lives.items() if row.fenced and life.epoch not in epochs]
        for life in gone:
            del self.lives[life]
        return len(gone)

    # -- ownership -------------------------------------------------------------------------------------------------

    def claim(self, life: Life, number: int, refs: Sequence[Ref], again: Sequence[int] = ()) -> Claimed:
        """Claim actors."""
        self.check_claimer(life)
        claimed = Claimed({}, {}, {})
        for ref, asked in zip(refs, again or [0] * len(refs), strict=True):
            row = self.owned.get(ref)
            if row is None:
                row = self.owned[ref] = Owned(life, number, InitReason.NEW)
                reason = row.reason
            elif row.life == life and row.claim == number:
                reason = InitReason.NEW
            elif row.life == life:
                if not (row.claim > number or (asked and row.claim >= asked)):
                    row.reason = InitReason.REACTIVATION
                reason = row.reason
                row.claim = max(row.claim, number)
            elif self.may_keep(row.life):
                claimed.foreign[ref] = row.life
                continue
            else:
                self.owned[ref] = Owned(life, number, InitReason.FAILOVER)
                reason = InitReason.FAILOVER
            claimed.mine[ref] = reason
        return claimed

    def check_claimer(self, life: Life) -> None:
        """Raise HostFenced if the claimer's own life is over."""
        if not self.is_alive(life):
            raise HostFenced(f"epoch {life.epoch} of host {life.host_id} is over: it can claim nothing")

    def may_keep(self, owner: Life) -> bool:
        """Tell whether an owner keeps what it has."""
        return self.is_alive(owner)

    def release(self, life: Life, number: int, refs: Sequence[Ref]) -> int:
        """Give back what no later claim has taken again."""
        gone = [ref for ref in refs if ref in self.owned and self.may_release(self.owned[ref], life, number)]
        for ref in gone:
            del self.owned[ref]
        return len(gone)

    def may_release(self, row: Owned, life: Life, number: int) -> bool:
        """Tell whether a release of a life removes a row."""
        return row.life == life and row.claim <= number

    def resign(self, life: Life) -> int:
        """Give everything back, and end one's own life."""
        gone = self.release(life, 1 << 62, [ref for ref, row in self.owned.items() if row.life == life])
        self.fence_self(life)
        return gone

    def owners(self, refs: Sequence[Ref]) -> dict[Ref, Ownership]:
        """Return who has which actor."""
        rows = {ref: self.owned[ref] for ref in refs if ref in self.owned}
        return {ref: Ownership(row.life, self.is_alive(row.life), row.claim) for ref, row in rows.items()}
