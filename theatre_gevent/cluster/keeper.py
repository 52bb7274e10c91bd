"""The keeper: keeps this host's lease, whatever the hub is doing, and tells the host what it has to know.

The work is done by a native thread (`keeping`), since a greenlet could not renew the lease while another one burns CPU.
This is its face in the hub. Every method waits cooperatively, and nothing here blocks the hub.
"""

from __future__ import annotations

import math
import os
import weakref
from typing import TYPE_CHECKING, Any

from gevent.hub import get_hub

from ..clock import SystemClock
from ..core.native import get_ident
from ..errors import DatabaseUnavailable, TheatreError
from ..logic.lease import hub_patience
from ..logic.observation import Members
from ..logs import fields
from . import news
from .crossing import Command, Crossing
from .keeping import Keeping
from .logs import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.remote import Leased

_ORDER = 15.0
"""Seconds for an order: a connection and a few statements, each of which may take 2 s."""
_AT_REST = 0.2
"""Seconds for which a thread that is told to stop is not disturbed: if it waits for nothing it needs much less."""
_LONGEST_TICK = 0.5


class Holder:
    """Where a keeper without a host writes down its lease."""

    lease_until = -math.inf


class Keeper:
    """Keeps one host's lease. Belongs to the hub of the thread that starts it.

    Args:
        dsn: Connection string of the database.
        host_id: This host.
        lease_duration: Seconds that each renewal is good for.
        poll_interval: Seconds between two looks at the other hosts; notifications make it look sooner.
        boottime: Reads the clock that counts suspended time too.
        on_news: Gets each of the `news`, in the hub: it must not block.
        holder: Has the plain attribute `lease_until`: when the lease ends, by `boottime`, minus infinity without one.
            It is written by the thread, at once, and only ever forward within a life: who reads it before a turn is
            never behind.

    Attributes:
        epoch: The present life's, or the next one's before it begins; 0 before `start`.
        members: The hosts that live, this one included while it has a life.
        failures: Renewals that failed in a row.
        fenced: This life was declared over.
        conflict: Another process has the lock on this host id.
        reachable: The database answers, and the lock is ours.
    """

    def __init__(
        self,
        dsn: str,
        host_id: str,
        lease_duration: float,
        poll_interval: float,
        *,
        boottime: Callable[[], float] | None = None,
        on_news: Callable[[news.News], None] | None = None,
        holder: Leased | None = None,
    ) -> None:
        self._dsn = dsn
        self.host_id = host_id
        self.lease_duration = lease_duration
        self._poll_interval = poll_interval
        self._boottime = boottime or SystemClock().boottime
        self.on_news = on_news
        self.holder: Leased = holder or Holder()
        self.epoch = 0
        self.members = Members()
        self.failures = 0
        self.fenced = False
        self.conflict = False
        self.reachable = False
        self.ticked = -math.inf
        self.tick_is_missed = False
        self.hub_thread = 0
        self.stuck_at = ""
        self._crossing: Crossing | None = None
        self._keeping: Keeping | None = None
        self._tick: Any = None
        self._pid = 0

    # -- life

    def start(self) -> int:
        """Connect, take the lock on the host id, and return the epoch of the life that `register` will begin.

        Raises:
            HostIdConflict: Another process has this host id.
            DatabaseUnavailable: The database does not answer.
            DatabaseRefused: It has no such tables, or does not let us use them.
        """
        if self.running:
            raise TheatreError(f"the keeper of host {self.host_id} is running")
        self.members = Members()
        self.failures = 0
        self.fenced = self.conflict = False
        self._pid = os.getpid()
        _forks.watch(self)
        hub = get_hub()
        self.hub_thread = get_ident()
        self._crossing = Crossing(hub, self._deliver)
        self._keeping = Keeping(
            self._crossing,
            self,
            self._dsn,
            self.host_id,
            self.lease_duration,
            self._poll_interval,
            self._boottime,
        )
        self._ticks()
        interval = min(_LONGEST_TICK, hub_patience(self.lease_duration) / 10)
        self._tick = hub.loop.timer(interval, interval)
        self._tick.start(self._ticks)
        self._crossing.start_thread(self._keeping.run)
        try:
            self.epoch = self._order("start")
        except BaseException:
            self.stop()
            raise
        self.reachable = True
        return self.epoch

    def register(self, address: str, admin_addr: str | None = None) -> Members:
        """Begin the first life: others see this host from now on.

        Args:
            address: Where they reach it, `host:port`.
            admin_addr: Address of its admin server, None for none.

        Returns:
            The members as they are now.

        Raises:
            HostIdConflict: Another process has got this host id since `start`.
            DatabaseError: It did not work, or nobody knows whether it did: stop, and start anew.
        """
        self._order("register", self.epoch, address, admin_addr)
        return self.members

    def rejoin(self) -> Members:
        """Begin another life, with a new epoch; the one before is fenced. No activation of it may be left.

        Raises:
            HostIdConflict: Another process has this host id.
            DatabaseError: It did not work: try again.
        """
        self._order("rejoin")
        return self.members

    def set_leaving(self) -> None:
        """Tell the others that this host wants no new actors; itself it sees that at once.

        Raises:
            DatabaseError: They could not be told.
        """
        self._order("set_leaving")

    def resign(self, timeout: float = 10.0) -> int:
        """Give back every actor that is still owned, end this life, and tell the others.

        Args:
            timeout: Seconds.

        Returns:
            How many actors were given back.

        Raises:
            DatabaseError: It did not work, or not in time: the others will take the actors when the lease has ended.
        """
        return int(self._order("resign", timeout=timeout))

    def poll(self) -> Members:
        """Look at the other hosts now, and return the members: the last known ones if the database does not answer."""
        self._order("poll")
        return self.members

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread and let go of the lock. The life is not ended: `resign` does that.

        Args:
            timeout: Seconds for the thread; one that is stuck is left behind, and ends by itself.
        """
        crossing, keeping = self._crossing, self._keeping
        self.holder.lease_until = -math.inf
        tick, self._tick = self._tick, None
        if crossing is None or keeping is None or tick is None or not self._is_ours():
            return
        tick.stop()
        tick.close()
        command = crossing.order(Command("stop"))
        try:
            command.answer.wait(timeout=min(_AT_REST, timeout))
            if not command.answer.ready():
                keeping.interrupt()
                command.answer.wait(timeout=timeout)
            if not command.answer.ready():
                log.error(
                    "host %s: the keeper's thread did not end within %g s",
                    self.host_id,
                    timeout,
                    extra=fields(self.host_id),
                )
        finally:
            crossing.close()
            self.holder.lease_until = -math.inf

    @property
    def running(self) -> bool:
        """True between `start` and `stop`."""
        return self._tick is not None

    def remaining(self) -> float:
        """Return how many seconds of the lease are left, 0 for none."""
        return max(0.0, self.holder.lease_until - self._boottime())

    def look(self) -> None:
        """Have the thread look at the other hosts soon; does not wait."""
        if self.running and self._crossing is not None and self._is_ours():
            self._crossing.order(Command("look"))

    # -- in the hub

    def _order(self, verb: str, *args: Any, timeout: float = _ORDER) -> Any:
        if not self._is_ours():
            raise TheatreError(
                f"host {self.host_id} was started before this process was forked, and belongs to its parent: "
                "start hosts after forking"
            )
        if self._crossing is None or self._keeping is None or self._tick is None:
            raise DatabaseUnavailable(f"the keeper of host {self.host_id} is not running")
        command = self._crossing.order(Command(verb, args))
        command.answer.wait(timeout=timeout)
        if not command.answer.ready():
            self._keeping.interrupt()
            raise DatabaseUnavailable(f"{verb!r} was not done by the keeper within {timeout:g} s")
        return command.answer.get()

    def _is_ours(self) -> bool:
        return self._pid in (0, os.getpid())

    def _ticks(self) -> None:
        now = self._boottime()
        silence, self.ticked = now - self.ticked, now
        if self.tick_is_missed:
            self.tick_is_missed = False
            if self._crossing is not None:
                self._crossing.wake()
            if silence > hub_patience(self.lease_duration):
                self._deliver(news.HubSilent(silence, self.stuck_at))

    def _deliver(self, item: news.News) -> None:
        try:
            self._take_in(item)
            if self.on_news is not None:
                self.on_news(item)
        except Exception:  # noqa: BLE001 - the rest of the news must not be lost
            log.exception(
                "host %s: %s could not be told", self.host_id, type(item).__name__, extra=fields(self.host_id)
            )

    def _take_in(self, item: news.News) -> None:
        me = self.host_id
        match item:
            case news.Begun(epoch=epoch):
                self.epoch = epoch
                self.fenced = False
                self.failures = 0
                log.info("host %s: epoch %d begins", me, epoch, extra=fields(me))
            case news.MembersChanged(members=members, change=change):
                self.members = members
                log.info("host %s: hosts have changed: %s", me, change, extra=fields(me))
            case news.Renewed():
                self.failures = 0
                log.debug("host %s: lease renewed, %.1f s from now", me, self.remaining(), extra=fields(me))
            case news.RenewalFailed(failures=failures, text=text):
                self.failures = failures
                log.warning("host %s: renewal %d in a row has failed: %s", me, failures, text, extra=fields(me))
            case news.Fenced(epoch=epoch):
                self.fenced = True
                log.error("host %s: its epoch %d was declared over by another host", me, epoch, extra=fields(me))
            case news.Conflict(text=text):
                self.conflict = True
                self.reachable = False
                log.error("host %s: %s", me, text, extra=fields(me))
            case news.ConflictOver():
                self.conflict = False
                self.reachable = True
                log.warning("host %s: has its host id for itself again", me, extra=fields(me))
            case news.DatabaseAway(text=text):
                self.reachable = False
                log.warning("host %s: the database is away: %s", me, text, extra=fields(me))
            case news.DatabaseBack():
                self.reachable = True
                log.warning("host %s: the database is back", me, extra=fields(me))
            case news.OtherFenced(host_id=host_id, epoch=epoch):
                log.warning(
                    "host %s: %s (epoch %d) has not renewed its lease and is declared over",
                    me,
                    host_id,
                    epoch,
                    extra=fields(me),
                )
            case news.HubSilent(seconds=seconds, stack=stack):
                text = (
                    "host %s: the hub did not run for %.1f s, and the lease was not renewed meanwhile. It was at:\n%s"
                )
                log.error(text, me, seconds, stack, extra=fields(me))

    def is_forked(self) -> None:
        """In the child of a fork: the lease is the parent's, and no actor may run here."""
        self.holder.lease_until = -math.inf


class _Forks:
    """Knows the keepers of this process. A hook for forks can't be taken back, so that there is one for all."""

    def __init__(self) -> None:
        self._keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
        self._hooked = False

    def watch(self, keeper: Keeper) -> None:
        """Tell `keeper` when it finds itself in another process."""
        self._keepers.add(keeper)
        if not self._hooked and hasattr(os, "register_at_fork"):
            self._hooked = True
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        for keeper in list(self._keepers):
            keeper.is_forked()


_forks = _Forks()
