"""Where claims and releases are written down: in Postgres, through a pool of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRef
from . import postgres
from .ownership import Lost, Outcome, Refused, StoreUnavailable, Won
from .store import AnswerLost, DatabaseUnavailable, HostFenced

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..messages import Ref
    from .pool import Pool
    from .store import Claimed, Life, Ownership


class PostgresClaims:
    """The `OwnershipStore` of a host whose cluster is kept in Postgres.

    Args:
        pool: Connections of the hub's thread.
        life: Returns the host's present life.
        on_fenced: Called when the database says that this life is over.
    """

    def __init__(self, pool: Pool, life: Callable[[], Life], on_fenced: Callable[[], object]) -> None:
        self._pool = pool
        self._life = life
        self._on_fenced = on_fenced

    def claim(self, refs: list[Ref], again: list[int], number: int) -> list[Outcome]:
        """Claim all `refs`; see `OwnershipStore`."""
        life = self._life()  # not that which may have begun when there is a connection
        try:
            with self._pool.connection() as connection:
                claimed = postgres.claim(connection, life, number, refs, again if any(again) else ())
        except HostFenced as error:
            self._on_fenced()
            raise StoreUnavailable(str(error)) from error
        except (AnswerLost, DatabaseUnavailable) as error:
            raise StoreUnavailable(str(error)) from error
        return [_outcome(ref, claimed) for ref in refs]

    def owner(self, ref: Ref) -> Ownership | None:
        """Return who has an actor, None if nobody has.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        try:
            with self._pool.connection() as connection:
                return postgres.owners(connection, [ref]).get(ref)
        except (AnswerLost, DatabaseUnavailable) as error:
            raise StoreUnavailable(str(error)) from error

    def release(self, refs: list[Ref], number: int) -> None:
        """Give `refs` back; see `OwnershipStore`."""
        life = self._life()
        try:
            with self._pool.connection() as connection:
                postgres.release(connection, life, number, refs)
        except (AnswerLost, DatabaseUnavailable) as error:
            raise StoreUnavailable(str(error)) from error


def _outcome(ref: Ref, claimed: Claimed) -> Outcome:
    reason = claimed.mine.get(ref)
    if reason is not None:
        return Won(reason)
    owner = claimed.foreign.get(ref)
    if owner is not None:
        return Lost(owner.host_id, owner.epoch)
    return Refused(InvalidRef(claimed.refused[ref]))
