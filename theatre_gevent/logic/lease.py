"""The lease: how long this host may go on, when to renew, and when to freeze. Pure: times go in, decisions come out.

All times are seconds of this machine's boot clock (`Clock.boottime`). No wall clock takes part, nobody's: a clock that
is stepped, the database's included, changes nothing. The argument, after C. Gray and D. Cheriton, "Leases" (SOSP 1989):

- A host counts its lease from *before* it sent the renewal, the others count it from *after* they saw the renewal
  (`observation`). So its own lease ends before anybody else may fence it, as long as clocks run at the same speed; the
  others wait `DRIFT` longer than the lease, since clocks do not.
- To fence is to compare and set: it fails if a renewal came in between, and a renewal fails if a fence did.
- The end of a lease is final. Its host never renews it, it begins a new life with a new epoch, and only after every
  activation of the old life is gone.
"""

from __future__ import annotations

import math
from enum import Enum

DRIFT = 0.01
"""Share of a lease that others wait longer. NTP slews a clock by up to 0.05 %, so this is ample."""
RENEWALS = 3
"""A lease is renewed when this part of it has passed."""
ATTEMPT = 2.0
"""Seconds that one attempt may take at most: a database that does not answer sooner is asked over a new connection."""
RETRY_DELAYS = (0.05, 0.1, 0.2, 0.4)
"""Seconds to wait before the second and later attempts; the last one goes on."""


class Lease:
    """The lease of one life of this host.

    Args:
        duration: Seconds that a renewal is good for.

    Attributes:
        until: When it ends. Only ever moves forward, until `end` sets it to minus infinity.
    """

    __slots__ = ("duration", "until")

    def __init__(self, duration: float) -> None:
        self.duration = duration
        self.until = -math.inf

    def begin(self, sent: float) -> None:
        """A new life was registered, by a statement that was sent at `sent`."""
        self.until = sent + self.duration

    def renew(self, sent: float, now: float) -> bool:
        """The database has accepted the renewal that was sent at `sent`, and says so at `now`.

        Returns:
            False if the lease ended before the answer was here: then it stays ended.
        """
        if self.expired(now):
            return False
        self.until = max(self.until, sent + self.duration)
        return True

    def end(self) -> None:
        """The life is over at once: it was fenced, or was given up."""
        self.until = -math.inf

    def remaining(self, now: float) -> float:
        """Return how many seconds are left, 0 if none are."""
        return max(0.0, self.until - now)

    def expired(self, now: float) -> bool:
        """Tell whether this host may do nothing any more in this life."""
        return now >= self.until


class Pace:
    """When to ask the database next, and how many renewals have failed.

    A renewal is due when a third of the lease has passed. One that fails is tried again soon and then at least twice a
    second, so that a host serves again soon after the database is back. All the attempts within a third of the lease
    are *one* failed renewal: how soon a host freezes depends on the time that it could not renew and not on how
    eagerly it tried.

    Args:
        duration: The lease's, in seconds.

    Attributes:
        interval: Seconds between renewals.
        due: When the next attempt is due.
        failures: Renewals that failed in a row.
    """

    __slots__ = ("_attempts", "_renewed", "due", "failures", "interval")

    def __init__(self, duration: float) -> None:
        self.interval = duration / RENEWALS
        self.due = -math.inf
        self.failures = 0
        self._attempts = 0
        self._renewed = math.inf

    def succeeded(self, sent: float) -> None:
        """The registration or renewal that was sent at `sent` was accepted."""
        self._renewed = sent
        self._attempts = self.failures = 0
        self.due = sent + self.interval

    def failed(self, sent: float, now: float) -> None:
        """An attempt that began at `sent` has failed at `now`: no connection, no answer, or an error."""
        thirds = (sent - self._renewed) / self.interval + 1e-6  # what is due now is never a rounding error too early
        self.failures = max(self.failures, int(thirds) if thirds > 0 else 0)
        self.due = now + RETRY_DELAYS[min(self._attempts, len(RETRY_DELAYS) - 1)]
        self._attempts += 1

    def hurry(self, now: float) -> None:
        """Make the next attempt due now."""
        self.due = min(self.due, now)

    def patience(self, remaining: float) -> float:
        """Return how many seconds a renewal may take, with `remaining` seconds left to the lease."""
        return min(ATTEMPT, self.interval, remaining)


def hub_patience(duration: float) -> float:
    """Return how long the hub may be silent before the lease is no longer renewed on its behalf: half a lease.

    A host whose greenlets do not run serves nobody, so others shall have its actors.
    """
    return duration / 2


def waits_for_dead(duration: float) -> float:
    """Return how long others see no renewal before they fence the host, in seconds of their own clocks."""
    return duration * (1 + DRIFT)


class Phase(Enum):
    """What the lease lets the host do."""

    SERVING = "serving"
    FROZEN = "frozen"
    """No work is done; the activations are still there and still owned."""
    EXPIRED = "expired"
    """The life is over, and every activation of it is gone."""


class Action(Enum):
    """What the host has to do now."""

    GO_ON = "go on"
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    EXPIRE = "expire"
    """Every activation must go at once; then the phase is EXPIRED."""
    REJOIN = "rejoin"
    """Begin a new life; then the phase is SERVING."""


def decide(
    phase: Phase,
    *,
    remaining: float,
    safety_margin: float,
    failures: int,
    max_renewal_failures: int,
    fenced: bool = False,
    conflict: bool = False,
    reachable: bool = True,
    by_hand: bool = False,
) -> Action:
    """Decide what the host has to do.

    The first row that fits:

    | phase           | when                                                    | action   |
    |-----------------|---------------------------------------------------------|----------|
    | SERVING, FROZEN | the life is fenced, or the host id is in use elsewhere, | EXPIRE   |
    |                 | or nothing remains of the lease                         |          |
    | SERVING         | less than the margin remains                            | FREEZE   |
    | SERVING         | as many renewals failed as may                          | FREEZE   |
    | FROZEN          | the margin remains, the last renewal succeeded, and     | UNFREEZE |
    |                 | nobody froze the host by hand                           |          |
    | EXPIRED         | the database answers and the host id is free            | REJOIN   |
    | any             | otherwise                                               | GO_ON    |

    That the lock on the host id is lost is no row of its own: a lease is only renewed by who holds the lock, so either
    it is taken again at once, or renewals fail, or somebody else has it, which is a conflict.

    Args:
        phase: What the host is at now.
        remaining: Seconds left to the lease.
        safety_margin: Freeze with less than this, so that handlers can end before the lease does.
        failures: Renewals that failed in a row (`Pace.failures`).
        max_renewal_failures: Freeze after so many.
        fenced: The database says that this life is over.
        conflict: Another process holds the lock on the host id.
        reachable: The database has answered lately.
        by_hand: Somebody has called `freeze` and wants it to stay.

    Returns:
        The action.
    """
    if phase is Phase.EXPIRED:
        return Action.REJOIN if reachable and not conflict else Action.GO_ON
    if fenced or conflict or remaining <= 0:
        return Action.EXPIRE
    if remaining < safety_margin or failures >= max_renewal_failures:
        return Action.FREEZE if phase is Phase.SERVING else Action.GO_ON
    if phase is Phase.FROZEN and failures == 0 and not by_hand:
        return Action.UNFREEZE
    return Action.GO_ON


def look_again_in(remaining: float, safety_margin: float) -> float | None:
    """Return after how many seconds `decide` may say something else although there is no news, None if never."""
    if remaining <= 0:
        return None
    return remaining if remaining < safety_margin else remaining - safety_margin
