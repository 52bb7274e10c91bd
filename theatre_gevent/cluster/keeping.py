"""What the keeper's native thread does: it keeps the lock on the host id and the lease, and watches the others.

One connection carries everything, so nobody renews a lease without holding the lock. The lease is renewed only while
the hub has run lately. A life begins in `register` and `rejoin` alone, which the host orders when nothing of an earlier
life is left; the thread by itself only ever prolongs a life, or finds out that it is over.
"""

from __future__ import annotations

import math
import sys
import traceback
from typing import TYPE_CHECKING

from ..errors import AnswerLost, DatabaseError, HostIdConflict, TheatreError
from ..logic.lease import ATTEMPT, Lease, Pace, hub_patience
from ..logic.observation import Member, Members, Observer, changes, members_of
from . import postgres
from .green import GreenConnection, connect
from .news import (
    Begun,
    Conflict,
    ConflictOver,
    DatabaseAway,
    DatabaseBack,
    Fenced,
    MembersChanged,
    OtherFenced,
    RenewalFailed,
    Renewed,
)
from .session import Session
from .store import Life

if TYPE_CHECKING:
    from collections.abc import Callable

    from .crossing import Command, Crossing, Shared

_SOON = 0.02  # seconds between looks at what changes often
_LOOKS_APART = 0.25  # seconds between looks because of hosts that are unknown
_LOCK_AGAIN = 0.5  # seconds between attempts to get the lock from a host that uses our id
_LOCK_PATIENCE = 1.0  # seconds for which a start waits for the lock: its holder may be just ending
_FRAMES = 20  # of a stuck hub's stack that are told
_RESIGN = 10.0  # seconds for each statement that gives actors back


class Keeping:
    """Lives in the thread; `run` is its body. Other methods are called by `run`, for the most part by their names."""

    def __init__(
        self,
        crossing: Crossing,
        shared: Shared,
        dsn: str,
        host_id: str,
        lease_duration: float,
        poll_interval: float,
        boottime: Callable[[], float],
    ) -> None:
        self._crossing = crossing
        self._shared = shared
        self._dsn = dsn
        self._host_id = host_id
        self._poll_interval = poll_interval
        self._boottime = boottime
        self._lease = Lease(lease_duration)
        self._pace = Pace(lease_duration)
        self._observer = Observer()
        self._session = Session(
            dsn,
            host_id,
            min(ATTEMPT, self._pace.interval),
            lease_duration,
            boottime,
            lambda seconds: crossing.wait(None, seconds),
        )
        self._second: GreenConnection | None = None
        self._working = False  # since the start
        self._conflict = False
        self._away = False
        self._waits_for_hub = False
        self._life: Life | None = None  # the last one, over or not
        self._doubtful: list[Life] = []  # registered perhaps: the answer was lost
        self._own: Member | None = None  # this host while its life is not over
        self._address = ""
        self._admin_addr: str | None = None
        self._members = Members()
        self._failures = 0
        self._attempt = self._poll_due = self._polled = self._lock_due = -math.inf

    # -- the loop

    def run(self) -> None:
        """Work until told to stop."""
        crossing = self._crossing
        last: Command | None = None
        while last is None:
            for command in crossing.commands():
                if command.verb == "stop":
                    last = command
                else:
                    self._obey(command)
            if last is None:
                self._guarded(self._look_after)
                self._guarded(self._wait)
        self._lease.end()
        self._publish()
        self._session.close()
        crossing.post(last)
        crossing.ended()

    def interrupt(self) -> None:
        """Make a statement that is under way fail at once; called by the hub's thread."""
        self._session.interrupt()
        second = self._second
        if second is not None:
            second.interrupt()

    def _obey(self, command: Command) -> None:
        self._attempt = self._boottime()
        try:
            command.value = getattr(self, command.verb)(*command.args)
        except DatabaseError as error:
            command.error = error
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - given to who asked
            command.error = error
        self._crossing.post(command)

    def _guarded(self, function: Callable[[], None]) -> None:
        """Call it; whatever goes wrong is one more failed attempt, since nothing may end the renewals."""
        try:
            function()
        except DatabaseError as error:
            self._failed(str(error))
        except Exception:  # noqa: BLE001
            self._session.close()  # who knows what state it is in
            self._failed(traceback.format_exc())

    def _wait(self) -> None:
        session = self._session
        session.tidy()
        connection = session.connection
        if connection is not None and connection.notifies:
            return  # they came with the answer to a statement, and there may be nothing more to read
        number = None if connection is None else connection.fileno()
        self._crossing.wait(number, min(max(0.0, self._next_due() - self._boottime()), 60.0))

    def _look_after(self) -> None:
        if not self._working:
            return
        session = self._session
        self._attempt = now = self._boottime()
        if session.connection is None:
            if now >= self._pace.due:
                self._connect()
            return
        if session.use().notifications():
            self._poll_soon(_SOON)
        if not session.locked and now >= self._lock_due:
            session.lock()
            self._lock_was_tried()
        self._renew_if_due()
        if now >= self._next_poll():
            self._poll()

    def _next_due(self) -> float:
        if not self._working:
            return math.inf
        if self._session.connection is None:
            return self._pace.due
        due = self._next_poll()
        if not self._session.locked:
            due = min(due, self._lock_due)
        if not self._waits_for_hub and not self._lease.expired(self._boottime()):
            due = min(due, self._pace.due)
        return due

    def _next_poll(self) -> float:
        # Once more exactly when somebody's lease runs out; but that may stay so for a while.
        return min(self._poll_due, max(self._observer.next_due(), self._polled + _SOON))

    def _poll_soon(self, apart: float) -> None:
        self._poll_due = min(self._poll_due, max(self._boottime(), self._polled + apart))

    # -- the database comes and goes

    def _connect(self) -> None:
        self._session.open()
        now = self._boottime()
        self._pace.hurry(now)
        self._poll_due = now
        self._lock_was_tried()

    def _lock_was_tried(self) -> None:
        conflict = not self._session.locked
        self._lock_due = self._boottime() + _LOCK_AGAIN
        if conflict is not self._conflict:
            self._conflict = conflict
            if conflict:
                self._end_life()
            if self._life is not None:  # else whoever starts us is told
                self._crossing.post(Conflict(self._conflict_text()) if conflict else ConflictOver())
        if not conflict:
            self._fine()

    def _conflict_text(self) -> str:
        return f"host id {self._host_id!r} is in use by another process: {self._session.holder}"

    def _failed(self, text: str) -> None:
        self._session.tidy()
        now = self._boottime()
        self._pace.failed(self._attempt, now)
        self._poll_due = max(self._poll_due, self._pace.due)
        self._polled = max(self._polled, self._pace.due - _SOON)  # not sooner because somebody seems dead, either
        self._lock_due = max(self._lock_due, self._pace.due)
        if not self._away:
            self._away = True
            self._crossing.post(DatabaseAway(text))
        if self._pace.failures > self._failures and not self._lease.expired(now):
            self._crossing.post(RenewalFailed(self._pace.failures, text))
        self._failures = self._pace.failures

    def _fine(self) -> None:
        if self._away:
            self._away = False
            self._crossing.post(DatabaseBack())

    # -- the lease

    def _renew_if_due(self) -> None:
        now = self._boottime()
        waited, self._waits_for_hub = self._waits_for_hub, False
        lease, life = self._lease, self._life
        if life is None or not self._session.locked or lease.expired(now) or now < self._pace.due:
            return
        if now - self._shared.ticked > hub_patience(lease.duration):
            if not waited:
                frame = sys._current_frames().get(self._shared.hub_thread)
                self._shared.stuck_at = "".join(traceback.format_stack(frame, _FRAMES)) if frame else ""
            self._waits_for_hub = self._shared.tick_is_missed = True
            return
        self._attempt = now
        renewals = postgres.renew(self._session.use(self._pace.patience(lease.remaining(now))), life)
        if renewals is None:
            self._fenced()
        elif lease.renew(now, self._boottime()):
            self._pace.succeeded(now)
            self._failures = 0
            self._publish()
            self._fine()
            self._crossing.post(Renewed(renewals))

    def _publish(self) -> None:
        self._shared.holder.lease_until = self._lease.until

    def _end_life(self) -> None:
        """The life is over. That is known to the hub's thread before anything else happens."""
        self._lease.end()
        self._publish()
        self._own = None
        self._show(Members(tuple(member for member in self._members.members if member.host_id != self._host_id)))

    def _fenced(self) -> None:
        assert self._life is not None
        self._end_life()
        self._crossing.post(Fenced(self._life.epoch))

    # -- the others

    def _poll(self) -> None:
        connection = self._session.use()
        rows = postgres.hosts(connection)
        now = self._boottime()  # after the answer: what it shows was sent earlier
        self._polled = now
        self._poll_due = now + self._poll_interval
        if self._own is not None and all(row.life != self._life for row in rows):
            self._fenced()
        self._show(members_of(rows, self._host_id, self._own))
        for dead in self._observer.observe(rows, now, self._life):
            life = Life(dead.life.host_id, dead.life.epoch)
            if postgres.fence(connection, life, dead.renewals):
                self._crossing.post(OtherFenced(life.host_id, life.epoch))
            self._poll_due = now
        if self._session.locked:
            self._fine()

    def _show(self, members: Members) -> None:
        change = changes(self._members, members)
        self._members = members
        if change:
            self._crossing.post(MembersChanged(members, change))

    # -- commands of the hub

    def start(self) -> int:
        """Connect, take the lock, and return the epoch of the life to come."""
        self._working = True
        end = self._boottime() + _LOCK_PATIENCE
        self._need_connection()
        while not self._session.locked and self._boottime() < end:
            self._crossing.wait(None, 2 * _SOON)
            self._session.lock()
            self._lock_was_tried()
        return postgres.next_epoch(self._need_lock())

    def register(self, epoch: int, address: str, admin_addr: str | None) -> None:
        """Begin the first life."""
        self._address, self._admin_addr = address, admin_addr
        self._begin(self._need_lock(), epoch, None)

    def rejoin(self) -> None:
        """Begin another life. Nothing may be left of the one before: it is fenced."""
        if self._life is None:
            raise TheatreError(f"host {self._host_id} can't rejoin what it has not joined")
        self._end_life()
        connection = self._need_lock()
        self._begin(connection, postgres.next_epoch(connection), self._life.epoch)

    def _begin(self, connection: GreenConnection, epoch: int, previous: int | None) -> None:
        life = Life(self._host_id, epoch)
        sent = self._boottime()
        try:
            postgres.register(
                connection,
                life,
                self._address,
                self._lease.duration,
                admin_addr=self._admin_addr,
                previous_epoch=previous,
            )
        except AnswerLost:
            self._doubtful.append(life)
            raise
        self._life = life
        self._own = Member(self._host_id, epoch, self._address)
        self._lease.begin(sent)
        self._pace.succeeded(sent)
        self._failures = 0
        self._publish()
        self._crossing.post(Begun(epoch))
        others = [member for member in self._members.members if member.host_id != self._host_id]
        self._show(Members(tuple(sorted([*others, self._own], key=lambda member: member.host_id))))
        self._fine()
        self._poll_due = -math.inf
        self._guarded(self._follow_up)

    def _follow_up(self) -> None:
        self._attempt = self._boottime()
        self._poll()
        while self._doubtful:
            postgres.fence_self(self._session.use(), self._doubtful[-1])
            self._doubtful.pop()

    def set_leaving(self) -> bool:
        """Tell the others that this host wants no new actors. False: it has no life any more."""
        if self._own is None or self._life is None:
            return False
        self._own = Member(self._host_id, self._own.epoch, self._own.address, leaving=True)
        self._show(self._members.with_leaving(self._host_id, self._own.epoch))
        return postgres.set_leaving(self._need_lock(), self._life)

    def resign(self) -> int:
        """Give everything back, end the life, and tell the others. Returns how many actors were given back."""
        if self._life is None:
            return 0
        self._end_life()
        # Many actors take longer than a statement of the other connection may.
        self._second = connect(self._dsn, connect_timeout=ATTEMPT, statement_timeout=_RESIGN)
        try:
            return postgres.resign(self._second, self._life)
        finally:
            self._second.close()
            self._second = None

    def poll(self) -> None:
        """Look at the others now, if the database answers."""
        self._guarded(self._poll_if_connected)

    def look(self) -> None:
        """Look at the others soon; not too often, since strangers can cause it."""
        self._poll_soon(_LOOKS_APART)

    def _poll_if_connected(self) -> None:
        if self._session.connection is not None:
            self._poll()

    def _need_connection(self) -> GreenConnection:
        if self._session.connection is None:
            self._connect()
        return self._session.use()

    def _need_lock(self) -> GreenConnection:
        connection = self._need_connection()
        if not self._session.locked:
            raise HostIdConflict(self._conflict_text())
        return connection
