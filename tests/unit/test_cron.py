"""Cron expressions against the library, and against a plain reading of the rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from theatre_gevent import InvalidSchedule
from theatre_gevent.scheduling.cron import Cron

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu"]


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def dues(cron: Cron, after: float) -> Iterator[int]:
    moment: float = after
    while (found := cron.next_after(moment)) is not None:
        yield found
        moment = found


def times(expression: str, zone: str | None, after: str, number: int) -> list[str]:
    """The next local times, as text."""
    cron = Cron(expression, zone)
    place = ZoneInfo(zone or "UTC")
    start = at(after, zone or "UTC")
    return [datetime.fromtimestamp(due, place).isoformat() for due in islice(dues(cron, start), number)]


# -- field by field --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 * * * *", ["2027-12-31T23:40", "2028-01-01T00:00", "2028-01-01T00:20"]),
        ("5,50 23 * * *", ["2027-12-31T23:50", "2028-01-01T23:05", "2028-01-01T23:50"]),
        ("0 9-17/4 * * *", ["2028-01-01T09:00", "2028-01-01T13:00", "2028-01-01T17:00"]),
        ("0 0 31 * *", ["2028-01-31T00:00", "2028-03-31T00:00", "2028-05-31T00:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00", "2036-02-29T00:00"]),
        ("0 0 L * *", ["2028-01-31T00:00", "2028-02-29T00:00", "2028-03-31T00:00"]),
        ("30 6 * jan,Jul mon", ["2028-01-03T06:30", "2028-01-10T06:30", "2028-01-17T06:30"]),
        ("0 0 * * 7", ["2028-01-02T00:00", "2028-01-09T00:00", "2028-01-16T00:00"]),
        ("0 0 * * 0", ["2028-01-02T00:00", "2028-01-09T00:00", "2028-01-16T00:00"]),
        ("0 0 * * MON-FRI", ["2028-01-03T00:00", "2028-01-04T00:00", "2028-01-05T00:00"]),
        ("@hourly", ["2028-01-01T00:00", "2028-01-01T01:00", "2028-01-01T02:00"]),
        ("@daily", ["2028-01-01T00:00", "2028-01-02T00:00", "2028-01-03T00:00"]),
        ("@midnight", ["2028-01-01T00:00", "2028-01-02T00:00", "2028-01-03T00:00"]),
        ("@weekly", ["2028-01-02T00:00", "2028-01-09T00:00", "2028-01-16T00:00"]),
        ("@monthly", ["2028-01-01T00:00", "2028-02-01T00:00", "2028-03-01T00:00"]),
        ("@yearly", ["2028-01-01T00:00", "2029-01-01T00:00", "2030-01-01T00:00"]),
        ("@Annually", ["2028-01-01T00:00", "2029-01-01T00:00", "2030-01-01T00:00"]),
    ],
)
def test_expression(expression: str, expected: list[str]) -> None:
    assert times(expression, None, "2027-12-31T23:20:01", 3) == [text + ":00+00:00" for text in expected]


def test_the_two_day_fields_are_ored() -> None:
    """The 13th, and every Friday: not only Fridays that are the 13th."""
    found = times("0 0 13 * FRI", None, "2026-11-06T00:00", 4)
    assert [text[:10] for text in found] == ["2026-11-13", "2026-11-20", "2026-11-27", "2026-12-04"]
    assert "2026-12-13" in [text[:10] for text in times("0 0 13 * FRI", None, "2026-12-11T00:00", 2)]


def test_a_day_field_that_begins_with_a_star_must_match_as_well() -> None:
    assert [text[:10] for text in times("0 0 */2 * MON", None, "2026-11-01T00:00", 3)] == [
        "2026-11-09",
        "2026-11-23",
        "2026-12-07",
    ]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("60 * * * *", ["minute '60'", "0 to 59"]),
        ("*/0 * * * *", ["minute '*/0'"]),
        ("1,,2 * * * *", ["minute '1,,2'"]),
        ("* 24 * * *", ["hour '24'", "0 to 23"]),
        ("* 5-1 * * *", ["hour '5-1'"]),
        ("* * 0 * *", ["day-of-month '0'", "1 to 31"]),
        ("* * 32 * *", ["day-of-month '32'"]),
        ("* * * 13 *", ["month '13'", "1 to 12"]),
        ("* * * FOO *", ["month 'FOO'", "JAN"]),
        ("* * * * 8", ["day-of-week '8'", "0 to 7"]),
        ("* * * * MON#6", ["day-of-week 'MON#6'"]),
        ("0 0 30 2 *", ["day-of-month '30'", "never due"]),
        ("0 0 31 4,6,9,11 *", ["day-of-month '31'", "never due"]),
        ("0 0 30-31 2 */2", ["day-of-month '30-31'", "never due"]),
        ("* * * *", ["five fields", "has 4"]),
        ("0 * * * * *", ["five fields", "has 6"]),
        ("", ["five fields", "has 0"]),
        ("@reboot", ["'@reboot'", "@daily"]),
        ("9" * 501, ["500 characters"]),
    ],
)
def test_a_bad_expression_is_refused_with_the_field_named(expression: str, words: list[str]) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        Cron(expression)
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("expression", [None, 5, b"* * * * *"])
def test_what_is_no_text_is_refused(expression: object) -> None:
    with pytest.raises(InvalidSchedule, match="text of five fields"):
        Cron(expression)  # type: ignore[arg-type]


@pytest.mark.parametrize("tz", ["Nowhere/Else", "", "../etc/passwd", "America", "a\0b", 5, timezone.utc])
def test_a_bad_zone_is_refused(tz: object) -> None:
    with pytest.raises(InvalidSchedule, match="tz must be"):
        Cron("* * * * *", tz)  # type: ignore[arg-type]


# -- daylight-saving time --------------------------------------------------------------------------------------


def test_a_fixed_time_in_the_hour_left_out_comes_right_after_it() -> None:
    assert times("30 2 * * *", "Europe/Berlin", "2027-03-27T02:30", 3) == [
        "2027-03-28T03:00:00+02:00",
        "2027-03-29T02:30:00+02:00",
        "2027-03-30T02:30:00+02:00",
    ]


def test_a_fixed_time_in_the_hour_that_comes_twice_comes_once() -> None:
    assert times("30 2 * * *", "Europe/Berlin", "2027-10-30T12:00", 2) == [
        "2027-10-31T02:30:00+02:00",
        "2027-11-01T02:30:00+01:00",
    ]


def test_made_within_the_second_of_two_equal_hours_it_does_not_go_back() -> None:
    start = at("2027-10-31T02:15", "Europe/Berlin", fold=1)
    due = Cron("45 2 * * *", "Europe/Berlin").next_after(start)
    assert due is not None
    assert due > start
    assert datetime.fromtimestamp(due, ZoneInfo("Europe/Berlin")).isoformat() == "2027-11-01T02:45:00+01:00"


def test_an_expression_with_a_star_follows_the_time_that_passes() -> None:
    """Every half hour, also through the doubled hour."""
    start = at("2027-10-30T22:00", "UTC")
    found = list(islice(dues(Cron("*/30 * * * *", "Europe/Berlin"), start), 10))
    assert [b - a for a, b in pairwise(found)] == [1800] * 9


# -- against the library and against a plain reading ---------------------------------------------------------------


def number_field(low: int, high: int) -> st.SearchStrategy[str]:
    numbers = st.integers(low, high)
    ranges = st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}-{max(pair)}")
    # The library reads 5-5/2 as 5/2, which is every second from 5 on.
    wide = st.tuples(st.integers(low, high - 1), st.integers(1, 7), st.integers(1, high)).map(
        lambda p: f"{p[0]}-{min(high, p[0] + p[2])}/{p[1]}"
    )
    one = st.one_of(numbers.map(str), ranges, wide)
    lists = st.lists(one, min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), lists, st.integers(1, high).map(lambda step: f"*/{step}"))


expressions = st.tuples(
    number_field(0, 59), number_field(0, 23), number_field(1, 31), number_field(1, 12), number_field(0, 7)
).map(" ".join)
moments = st.integers(int(at("2024-01-01")), int(at("2034-01-01")))


def cron_of(expression: str, zone: str) -> Cron | None:
    try:
        return Cron(expression, zone)
    except InvalidSchedule as error:
        if "never due" not in str(error):
            raise
        return None


@settings(max_examples=60, deadline=None)
@given(expressions, st.sampled_from(ZONES), moments)
@example("30 2 * * *", "Europe/Berlin", int(at("2027-03-28T00:59")))
@example("0,30 2,3 * * *", "Europe/Berlin", int(at("2027-03-28T00:30")))
@example("45 2 * * *", "Europe/Berlin", int(at("2027-10-31T01:15")))
@example("59 23 31 12 *", "America/St_Johns", int(at("2027-12-31T23:00")))
def test_the_due_times_are_the_library_s(expression: str, zone: str, start: int) -> None:
    minute, hour = expression.split()[:2]
    if zone != "UTC" and (minute.startswith("*") or hour.startswith("*")):
        return  # there it leaves some out, see below
    cron = cron_of(expression, zone)
    if cron is None:
        return
    place = timezone.utc if zone == "UTC" else ZoneInfo(zone)
    library = (int(found.timestamp()) for found in CronSim(expression, datetime.fromtimestamp(start, place)))
    expected = list(islice((due for due in library if due > start), 12))
    found = list(islice(dues(cron, start), 12))
    assert found == expected
    assert found == sorted(set(found))
    # From wherever one begins to look, the next one is the same.
    for moment, following in zip([start, *found], found, strict=False):
        middle = (moment + following) // 2
        assert Cron(expression, zone).next_after(middle) == following, (middle, following)


def fields_match(expression: str, moment: datetime) -> bool:
    """A plain reading of crontab(5), minute by minute and without time zones."""

    def numbers(field: str, low: int, high: int) -> set[int]:
        found: set[int] = set()
        for part in field.split(","):
            span, _, step = part.partition("/")
            if span == "*":
                first, last = low, high
            else:
                begin, _, end = span.partition("-")
                first, last = int(begin), int(end or begin)
            found |= set(range(first, last + 1, int(step or 1)))
        return found

    minute, hour, day, month, weekday = expression.split()
    if moment.minute not in numbers(minute, 0, 59) or moment.hour not in numbers(hour, 0, 23):
        return False
    if moment.month not in numbers(month, 1, 12):
        return False
    day_fits = moment.day in numbers(day, 1, 31)
    weekday_fits = bool({moment.isoweekday(), moment.isoweekday() % 7} & numbers(weekday, 0, 7))
    if day.startswith("*") or weekday.startswith("*"):
        return day_fits and weekday_fits
    return day_fits or weekday_fits


@settings(max_examples=40, deadline=None)
@given(expressions, moments)
def test_the_due_times_are_those_of_a_plain_reading(expression: str, start: int) -> None:
    cron = cron_of(expression, "UTC")
    if cron is None:
        return
    begin = datetime.fromtimestamp(start, timezone.utc).replace(second=0)
    window = [begin + timedelta(minutes=number) for number in range(1, 2 * 1440)]
    expected = [int(moment.timestamp()) for moment in window if fields_match(expression, moment)][:200]
    end = window[-1].timestamp()
    found: list[int] = []
    for due in islice(dues(cron, begin.timestamp()), 200):
        if due > end:
            break
        found.append(due)
    assert found == expected


CHANGING = ["America/Havana", "America/Santiago", "Africa/Cairo", "Asia/Beirut", "Atlantic/Azores", *ZONES[1:4]]
"""Zones whose clocks are changed: at midnight, from midnight on, by half an hour, and as most are."""


def changes(zone: str) -> list[int]:
    """When the clock is changed in 2026 and 2027, to within the hour before."""
    place, start = ZoneInfo(zone), int(at("2026-01-01"))
    offsets = [
        (hour, datetime.fromtimestamp(hour, place).utcoffset()) for hour in range(start, start + 17_520 * 3600, 3600)
    ]
    return [before for (before, old), (_, new) in pairwise(offsets) if old != new]


starred = st.tuples(
    st.sampled_from(
        [("*", "*"), ("*/20", "*"), ("*/15", "1"), ("*/15", "0-3"), ("0", "*/3"), ("45", "*"), ("5,35", "*/2")]
    ),
    st.sampled_from(["* * *", "* * 0", "* * 5,6,0", "1-31/2 * *", "* 3,4,9,10 *"]),
).map(lambda parts: " ".join((*parts[0], parts[1])))


@settings(max_examples=60, deadline=None)
@given(starred, st.sampled_from(CHANGING), st.integers(0, 3), st.integers(0, 20 * 3600))
@example("*/20 1 * * 0", "America/Havana", 0, 7200)
@example("*/20 1 * * 0", "America/Santiago", 1, 7200)
@example("*/15 1 * * 5,6,0", "Africa/Cairo", 0, 7200)
@example("0 */3 * * *", "Australia/Lord_Howe", 0, 7200)
@example("45 * * * *", "Australia/Lord_Howe", 1, 7200)
@example("*/15 2 1-31/2 * *", "Europe/Berlin", 1, 60)
def test_with_a_star_each_minute_that_passes_is_read_by_the_clock_on_the_wall(
    expression: str, zone: str, which: int, before: int
) -> None:
    cron, place = Cron(expression, zone), ZoneInfo(zone)
    found_changes = changes(zone)
    start = (found_changes[which % len(found_changes)] - before) // 60 * 60
    end = start + 36 * 3600
    minutes = range(start + 60, end, 60)
    expected = [due for due in minutes if fields_match(expression, datetime.fromtimestamp(due, place))]
    found: list[int] = []
    for due in dues(cron, start):
        if due >= end:
            break
        found.append(due)
    assert found == expected
    for moment in range(start, end - 3600, 2345):  # wherever one begins to look
        following = Cron(expression, zone).next_after(moment)
        assert following is not None
        assert following == next((due for due in expected if due > moment), max(following, end))
