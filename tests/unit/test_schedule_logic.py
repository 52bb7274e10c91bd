"""What is fired of what was due: the misfire policies, against the plain list of due times."""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime, timezone
from itertools import takewhile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theatre_gevent import InvalidSchedule
from theatre_gevent.logic.schedules import (
    ALL,
    GRACE,
    ONCE,
    SKIP,
    Decision,
    Firing,
    check_delay,
    check_id,
    check_misfire,
    decide,
    last_due,
    micros,
    moment,
    stepped_back,
)
from theatre_gevent.scheduling.cron import Cron

EXPRESSIONS = ["* * * * *", "*/5 * * * *", "0 * * * *", "30 2 * * *", "0 0 29 2 *", "0 0 1 1 *", "0-50 9 * * MON"]


class Listed:
    """Due times from a list; counts how often it is asked."""

    def __init__(self, times: list[int]) -> None:
        self.times = times
        self.asked = 0

    def __call__(self, after: float) -> int | None:
        self.asked += 1
        index = bisect_right(self.times, after)
        return self.times[index] if index < len(self.times) else None


# Cron is never due twice within a minute.
lists = st.lists(st.integers(1, 5000), min_size=1, max_size=40).map(
    lambda gaps: [60 * sum(gaps[: index + 1]) for index in range(len(gaps))]
)


@settings(max_examples=300)
@given(lists, st.floats(0, 1e6, allow_nan=False), st.integers(1, 8))
def test_policies(times: list[int], now: float, limit: int) -> None:
    due = times[0]
    missed = [time for time in times if time <= now]
    later = [time for time in times if time > now]
    following = later[0] if later else None
    if not missed:
        for policy in (ONCE, ALL, SKIP):
            assert decide(Listed(times), due, now, policy) == Decision((), due)
        return
    assert decide(Listed(times), due, now, ONCE) == Decision((missed[-1],), following)
    on_time = (missed[-1],) if now - missed[-1] <= GRACE else ()
    assert decide(Listed(times), due, now, SKIP) == Decision(on_time, following)
    fired: list[int] = []
    decision = Decision((), due)
    while decision.next_due is not None and decision.next_due <= now:
        decision = decide(Listed(times), decision.next_due, now, ALL, limit)
        assert len(decision.fire) <= limit
        fired += decision.fire
    assert fired == missed
    assert decision.next_due == following


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    st.integers(1_700_000_000, 1_900_000_000),
    st.floats(0, 5e5),
)
def test_the_last_due_time_of_a_cron_expression(expression: str, zone: str, start: int, stretch: float) -> None:
    cron = Cron(expression, zone)
    due = cron.next_after(start)
    assert due is not None
    now = due + stretch

    def following() -> int | None:
        return plain.next_after(reached)

    plain, reached = Cron(expression, zone), due
    for _ in takewhile(lambda _: (found := following()) is not None and found <= now, range(100_000)):
        reached = following() or reached
    assert last_due(cron.next_after, due, now) == reached


def test_a_minute_s_schedule_missed_for_years_costs_a_few_steps() -> None:
    minutes = Listed(list(range(0, 60 * 2_000_000, 60)))
    assert last_due(minutes, 0, 100_000_000.0) == 99_999_960
    assert minutes.asked < 10


def test_a_rare_schedule_missed_for_long_costs_a_few_steps() -> None:
    hours = Listed(list(range(0, 3600 * 30_000, 3600)))
    assert last_due(hours, 0, 100_000_100.0) == 99_997_200
    assert hours.asked < 20


def test_the_clock_set_back() -> None:
    assert not stepped_back(100.0, 100.0)
    assert not stepped_back(100.0 - 3600, 100.0), "an hour is waited for, so that nothing is due twice"
    assert stepped_back(100.0 - 4 * 3600, 100.0)
    assert not stepped_back(100.0 + 1e9, 100.0)


def test_an_occurrence_is_schedule_and_due_time() -> None:
    first = Firing("mem-1", 1_700_000_000_000_000)
    assert first.occurrence == "mem-1@2023-11-14T22:13:20Z"
    assert first.occurrence == Firing("mem-1", 1_700_000_000_000_000, 7).occurrence
    assert first.occurrence != Firing("mem-1", 1_700_000_060_000_000).occurrence
    assert first.occurrence != Firing("mem-2", 1_700_000_000_000_000).occurrence
    assert first.due == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)


@given(st.integers(0, 250_000_000_000_000_000))
def test_every_due_time_that_may_travel_has_a_text(due_us: int) -> None:
    firing = msgspec.msgpack.decode(msgspec.msgpack.encode(Firing("x", due_us, 3)), type=Firing)
    assert firing == Firing("x", due_us, 3)
    assert firing.occurrence.startswith("x@")


@pytest.mark.parametrize("value", [["x", -1], ["x", 1 << 60], ["x", 1.5], ["x" * 201, 1], [5, 1], ["x", 1, 0]])
def test_others_may_not(value: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=Firing)


@given(st.floats(0, 4e9))
def test_wall_times_keep_their_microseconds(seconds: float) -> None:
    assert abs(moment(seconds).timestamp() - seconds) < 2e-6
    assert abs(micros(seconds) / 1e6 - seconds) < 2e-6


def test_a_time_before_1970_is_1970() -> None:
    assert micros(-5.0) == 0


@pytest.mark.parametrize("delay", [-1, -0.001, float("nan"), float("inf"), 1e9, True, "5", None])
def test_a_bad_delay(delay: object) -> None:
    with pytest.raises(InvalidSchedule, match="delay must be a number of seconds"):
        check_delay(delay)


def test_good_values_pass() -> None:
    assert check_delay(0) == 0.0
    assert type(check_delay(3)) is float
    assert [check_misfire(policy) for policy in (ONCE, ALL, SKIP)] == ["once", "all", "skip"]
    assert check_id("mem-1") == "mem-1"


@pytest.mark.parametrize("policy", ["never", "", None, 1, ["once"]])
def test_a_bad_policy(policy: object) -> None:
    with pytest.raises(InvalidSchedule, match="misfire must be one of 'once', 'all', 'skip'"):
        check_misfire(policy)


@pytest.mark.parametrize("schedule_id", [None, 5, b"mem-1"])
def test_a_bad_id(schedule_id: object) -> None:
    with pytest.raises(InvalidSchedule, match="id is the text"):
        check_id(schedule_id)
