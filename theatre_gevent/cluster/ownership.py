"""Claims and releases of actors, many in one statement.

Whatever waits for a claim when the database is free goes into the next statement (group commit), so that an activation
costs a fraction of a round trip. One statement is under way at a time: that orders a release before a later claim of
the same ref. A statement whose answer was lost is asked again; the database tells what became of the first.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from gevent.event import Event
from msgspec import Struct

from ..errors import NoOwner, TheatreError
from ..logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gevent import Greenlet

    from ..clock import Clock
    from ..messages import InitReason, Ref

log = logging.getLogger("theatre_gevent.cluster")

MAX_BATCH = 2000
"""Refs in a statement at most: larger ones are no faster and hold their locks for longer."""
RETRY_MIN, RETRY_MAX = 0.05, 0.5
"""Seconds to wait after a statement that has failed; it doubles with each."""


class Won(Struct, frozen=True):
    """The actor is this host's."""

    reason: InitReason


class Lost(Struct, frozen=True):
    """Another life owns it: of another host, or an earlier one of this host whose lease has not ended yet."""

    host_id: str
    epoch: int


class Refused(Struct, frozen=True):
    """The claim can't succeed, whenever it is asked."""

    error: TheatreError


Outcome = Won | Lost | Refused


class StoreUnavailable(TheatreError):
    """The database did not do what it was asked, or its answer was lost: asking again is right."""


class OwnershipStore(Protocol):
    """Where it is written who owns what. Both calls may block the calling greenlet, and raise `StoreUnavailable`."""

    def claim(self, refs: list[Ref], again: list[int], number: int) -> list[Outcome]:
        """Claim all `refs` for this host's present life.

        Args:
            refs: Each once.
            again: For each the number of the earliest claim of it whose answer was lost, 0 if none was.
            number: Of this statement, above those of all earlier ones of this life.
        """

    def release(self, refs: list[Ref], number: int) -> None:
        """Give back what this life owns of `refs`, unless a claim above `number` has taken it again."""


class Ownership:
    """What this host claims and gives back.

    Args:
        store: Where that is written.
        clock: Time between attempts.
        spawn: Starts its greenlet.
        on_claimed: Told what became of each claim, in that greenlet; must not block.
        patience: Seconds after which a claim fails, when the database does not answer.
    """

    def __init__(
        self,
        store: OwnershipStore,
        clock: Clock,
        spawn: Callable[[Callable[[], None]], Greenlet[..., None]],
        on_claimed: Callable[[Ref, Outcome], None],
        patience: float,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_claimed = on_claimed
        self._patience = patience
        self._spawn = spawn
        self._greenlet: Greenlet[..., None] | None = None
        self._work = Event()
        self._quiet = Event()
        self._quiet.set()
        self._wanted: dict[Ref, float] = {}  # and since when, in monotonic seconds
        self._asked: dict[Ref, int] = {}  # by which statement, while there is no answer: it may have been claimed
        self._returned: dict[Ref, bool] = {}  # and whether it is certainly still owned
        self._over = False
        self._life = 0
        self._number = 0
        self._failures = 0
        self.claims = 0
        self.releases = 0
        self.statements = 0
        self.failures = 0

    # -- what is wanted ------------------------------------------------------------------------------------------

    def claim(self, ref: Ref) -> None:
        """Claim `ref` with the next statement; `on_claimed` tells what came of it."""
        self._returned.pop(ref, None)  # else it would be given back after it has been claimed
        self._wanted.setdefault(ref, self._clock.monotonic())
        self._wake()

    def release(self, ref: Ref) -> None:
        """Give `ref` back with the next statement; not if it is being claimed, for something that came later."""
        if ref not in self._wanted:
            self._returned[ref] = True
            self._wake()

    def let_go(self, ref: Ref) -> None:
        """Give `ref` back that this host may own still: it was active here, perhaps in an earlier life."""
        if ref not in self._wanted:
            self._returned.setdefault(ref, False)
            self._wake()

    def take_back(self, ref: Ref) -> bool:
        """Keep what was to be given back; tells whether it was in time.

        It was not if a release or a claim of it was sent whose answer was lost: then somebody else may own it by now.
        """
        if self._returned.get(ref):
            del self._returned[ref]
            return True
        return False

    def withdraw(self, ref: Ref) -> bool:
        """Forget a claim; tells whether it was in time. If not, `on_claimed` will be told."""
        if ref in self._asked:
            return False  # it may be ours already
        return self._wanted.pop(ref, None) is not None

    def reset(self) -> None:
        """The lease has ended: nothing is owned any more, and no answer that comes counts."""
        self._life += 1
        self._number = 0
        self._wanted.clear()
        self._asked.clear()
        self._returned.clear()
        self._quiet.set()

    def settle(self, timeout: float) -> bool:
        """Wait until everything has been given back that was to be; tells whether it has."""
        return self._quiet.wait(timeout)

    def waiting(self) -> int:
        """Return how many claims and releases wait for the database."""
        return len(self._wanted) + len(self._returned)

    def stop(self) -> None:
        """Ask no more."""
        self._over = True
        if self._greenlet is not None:
            self._greenlet.kill()

    def _wake(self) -> None:
        if self._over:
            return
        self._quiet.clear()
        self._work.set()
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = self._spawn(self._run)

    # -- statements ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Body of the greenlet."""
        while True:
            self._work.wait()
            self._work.clear()
            while self._wanted or self._returned:
                self._ask()
            self._quiet.set()

    def _ask(self) -> None:
        try:
            if self._wanted:
                self._claim()
            if self._returned:
                self._release()
            self._failures = 0
        except StoreUnavailable as error:
            self._failed(error)

    def _claim(self) -> None:
        refs = list(self._first(self._wanted))
        life = self._life
        # A number is never used twice, so an earlier statement that comes late changes nothing of a later one's.
        self._number += 1
        again = [self._asked.setdefault(ref, self._number) for ref in refs]
        again = [number if number != self._number else 0 for number in again]
        self.statements += 1
        outcomes: list[Outcome]
        try:
            outcomes = self._store.claim(refs, again, self._number)
        except StoreUnavailable:
            raise
        except Exception as error:
            log.exception("a claim of %d actors failed", len(refs))
            outcomes = [Refused(NoOwner(f"{ref} could not be claimed: {error}")) for ref in refs]
        for ref, outcome in zip(refs, outcomes, strict=True):
            if life != self._life:  # whoever is told may take his time
                return
            self._asked.pop(ref, None)
            if self._wanted.pop(ref, None) is not None:
                self.claims += 1
                self._tell(ref, outcome)

    def _release(self) -> None:
        refs = list(self._first(self._returned))
        life = self._life
        for ref in refs:
            del self._returned[ref]
        self.statements += 1
        try:
            self._store.release(refs, self._number)
        except StoreUnavailable:
            if life == self._life:
                kept = [ref for ref in refs if ref not in self._wanted]
                self._returned = {**dict.fromkeys(kept, False), **self._returned}
            raise
        except Exception:
            log.exception("%d actors could not be given back", len(refs))
        self.releases += len(refs)

    def _tell(self, ref: Ref, outcome: Outcome) -> None:
        try:
            self._on_claimed(ref, outcome)
        except Exception:
            log.exception("the outcome of the claim of %s could not be dealt with", ref, extra=fields(ref=ref))

    def _first(self, refs: Iterable[Ref]) -> Iterable[Ref]:
        for _, ref in zip(range(MAX_BATCH), refs, strict=False):
            yield ref

    def _failed(self, error: StoreUnavailable) -> None:
        self.failures += 1
        self._failures += 1
        if self._failures == 1:
            log.warning("claims and releases wait for the database: %s", error)
        now, life = self._clock.monotonic(), self._life
        for ref in [ref for ref, since in self._wanted.items() if now - since >= self._patience]:
            if life != self._life or self._wanted.pop(ref, None) is None:
                continue
            # Before anybody is told, who may have it claimed again.
            if self._asked.pop(ref, 0):  # perhaps it was claimed all the same
                self._returned[ref] = False
            why = f"{ref} could not be claimed within {self._patience:g} s: {error}"
            self._tell(ref, Refused(NoOwner(why)))
        self._clock.sleep(min(RETRY_MAX, RETRY_MIN * 2 ** min(self._failures, 10)))
