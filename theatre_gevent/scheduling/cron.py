"""Cron expressions: a thin wrapper of the library `cronsim`, whose rules are those of Debian's cron.

Five fields: minute, hour, day-of-month, month, day-of-week; numbers, names, ranges, steps, lists. If both days are
restricted, a day that matches either is due; if one of the two begins with a star, both must match.

At a change to daylight-saving time, an expression with a fixed minute and hour that falls into the hour left out is
due right after it, and one in the hour that comes twice is due once, the first time. Expressions with a star in
minute or hour follow the time that really passes. The library is asked for the first by a time zone's rules, and for
the others by a clock that is never changed, from one change of the zone's offset to the next: its own reading leaves
out due times where the clock is put on at midnight, or by less than an hour.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..errors import InvalidSchedule

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L for the last, LW for the last weekday",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 or SUN to SAT, 0 and 7 are Sunday, MON#2 the second Monday, 5L the last Friday",
}
_MAX_LENGTH = 500
_YEAR_0 = 0.0
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - read by a clock without a zone

_DAY = 86_400
"""Seconds between two looks at a zone's offset: none is changed and changed back within a day."""


class Cron:
    """A cron expression in a time zone.

    Args:
        expression: Five fields, or one of `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight`,
            `@hourly`.
        tz: Name of a time zone such as `"Europe/Berlin"`, None for UTC.

    Raises:
        InvalidSchedule: The expression is none, or is never due; the message names the field. Or there is no such zone.
    """

    def __init__(self, expression: str, tz: str | None = None) -> None:
        if not isinstance(expression, str):
            raise InvalidSchedule(f"a cron expression is a text of five fields, got {expression!r}")
        if len(expression) > _MAX_LENGTH:
            raise InvalidSchedule(f"a cron expression has at most {_MAX_LENGTH} characters, got {len(expression)}")
        self.expression = " ".join(expression.split())
        self.zone = _zone(tz)
        self.tz = tz
        self._fields = _fields(self.expression)
        minute, hour = self._fields.split()[:2]
        self._by_real_time = self.zone is not timezone.utc and (minute.startswith("*") or hour.startswith("*"))
        self._sim: CronSim | None = None
        self._shown = 0
        self._after: float | None = None
        self._at = 0
        try:
            self._begin(_YEAR_0)
        except CronSimError as error:
            raise InvalidSchedule(self._explain(str(error))) from None
        if self.next_after(_YEAR_0) is None:
            raise InvalidSchedule(f"cron expression {self.expression!r} is never due: no date is like that")

    def next_after(self, moment: float) -> int | None:
        """Return the first due time after `moment`, both in seconds since the epoch; None if none comes in 50 years."""
        if moment == self._after:
            return self._at  # many schedules with one expression ask the same
        try:
            found = self._next_by_real_time(moment) if self._by_real_time else self._next(moment)
        except (StopIteration, OverflowError, ValueError):
            self._sim = self._after = None
            return None
        self._after, self._at = moment, found
        return found

    def _next(self, moment: float) -> int:
        if self._sim is None or moment != self._at:
            self._begin(moment)
        sim = self._sim
        assert sim is not None
        # More than one step where the clock is set back: the library gives the first of two equal local times.
        while (found := int(next(sim).timestamp())) <= moment:
            pass
        return found

    def _begin(self, moment: float) -> None:
        self._sim = CronSim(self._fields, datetime.fromtimestamp(moment, self.zone))
        self._after = None

    def _next_by_real_time(self, moment: float) -> int:
        at = math.floor(moment)
        offset = self._offset(at)
        shown = at + offset
        while True:
            found = self._next_shown(shown) - offset
            change = self._change(at, found, offset)
            if change is None:
                return found
            at, offset = change, self._offset(change)
            shown = at + offset - 1  # the moment of the change may be due itself

    def _next_shown(self, shown: int) -> int:
        """Return what a clock that is never changed shows when the expression is due next, in seconds since 1970."""
        if self._sim is None or shown != self._shown:
            self._sim = CronSim(self._fields, _EPOCH + timedelta(seconds=shown))
        self._shown = int((next(self._sim) - _EPOCH).total_seconds())
        return self._shown

    def _offset(self, at: int) -> int:
        """Return by how many seconds the zone is ahead of UTC."""
        offset = datetime.fromtimestamp(at, self.zone).utcoffset()
        assert offset is not None
        return round(offset.total_seconds())

    def _change(self, at: int, end: int, offset: int) -> int | None:
        """Return the first second after `at`, not after `end`, with another offset than that of `at`."""
        before = at
        while before < end:
            after = min(before + _DAY, end)
            if self._offset(after) != offset:
                while after - before > 1:
                    middle = (before + after) // 2
                    if self._offset(middle) == offset:
                        before = middle
                    else:
                        after = middle
                return after
            before = after
        return None

    def _explain(self, problem: str) -> str:
        head = f"cron expression {self.expression!r}: "
        for name, part in zip(_FIELDS, self._fields.split(), strict=True):
            if problem.endswith(" " + name):
                if name == "day-of-month" and _is_fine(f"0 0 {part} * *"):
                    return f"{head}{name} {part!r} does not exist in the months given: it is never due"
                return f"{head}bad {name} {part!r}, allowed are {_FIELDS[name]}, ranges, steps and lists"
        return head + problem


def _fields(expression: str) -> str:
    if expression.startswith("@"):
        known = _ALIASES.get(expression.lower())
        if known is None:
            raise InvalidSchedule(f"cron expression {expression!r} is none of {', '.join(_ALIASES)}")
        return known
    parts = expression.split()
    if len(parts) != len(_FIELDS):
        raise InvalidSchedule(
            f"a cron expression has five fields ({', '.join(_FIELDS)}), {expression!r} has {len(parts)}"
        )
    return expression


def _is_fine(fields: str) -> bool:
    try:
        CronSim(fields, datetime(2000, 1, 1, tzinfo=timezone.utc))
    except CronSimError:
        return False
    return True


def _zone(tz: str | None) -> tzinfo:
    if tz is None or tz == "UTC":
        return timezone.utc
    problem = ""
    if isinstance(tz, str):
        try:
            return ZoneInfo(tz)
        except (KeyError, ValueError, OSError) as error:
            problem = f" ({type(error).__name__})"
    raise InvalidSchedule(
        f"tz must be the name of a time zone such as 'Europe/Berlin', or None for UTC, got {tz!r}{problem}"
    )
