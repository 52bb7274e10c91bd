"""The pure parts: deadlines and idleness, against models that are too simple to be wrong."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from theatre_gevent.core.fifo import Fifo
from theatre_gevent.logic.deadlines import Deadlines
from theatre_gevent.logic.idle import IdleWheel

RESOLUTION = 0.01
EPSILON = 1e-9  # of floating point


class Thing:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.bucket = -1


class DeadlinesMachine(RuleBasedStateMachine):
    """Whatever happens, a thing expires at its deadline or up to one resolution later, once, unless discarded."""

    things = Bundle("things")

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: Deadlines = Deadlines(RESOLUTION)
        self.model: set[Thing] = set()
        self.now = 1_000.0

    @rule(target=things, ahead=st.floats(0, 10))
    def add(self, ahead: float) -> Thing:
        thing = Thing(self.now + ahead)
        thing.bucket = self.deadlines.add(thing, thing.deadline)
        self.model.add(thing)
        return thing

    @rule(thing=consumes(things))
    def discard(self, thing: Thing) -> None:
        self.deadlines.discard(thing, thing.bucket)
        self.deadlines.discard(thing, thing.bucket)
        self.model.discard(thing)

    @rule(seconds=st.floats(0, 3))
    def expire(self, seconds: float) -> None:
        self.now += seconds
        expired = self.deadlines.expire(self.now)
        assert len(expired) == len(set(expired))
        assert set(expired) <= self.model
        self.model -= set(expired)
        assert all(thing.deadline <= self.now + EPSILON for thing in expired)
        assert all(thing.deadline > self.now - RESOLUTION - EPSILON for thing in self.model)
        numbers = [thing.bucket for thing in expired]
        assert numbers == sorted(numbers)

    @rule()
    def clear(self) -> None:
        assert set(self.deadlines.clear()) == self.model
        self.model.clear()

    @invariant()
    def agrees(self) -> None:
        assert len(self.deadlines) == len(self.model)
        due = self.deadlines.next_due()
        assert (due is None) == (not self.model)
        if due is not None:
            first = min(thing.deadline for thing in self.model)
            assert first - EPSILON <= due <= first + RESOLUTION + EPSILON


TestDeadlines = DeadlinesMachine.TestCase


def test_a_discarded_deadline_leaves_nothing_behind() -> None:
    deadlines: Deadlines = Deadlines(RESOLUTION)
    for number in range(1_000):
        thing = Thing(1_000.0 + number)
        deadlines.discard(thing, deadlines.add(thing, thing.deadline))
    assert deadlines.next_due() is None
    assert deadlines.expire(1e9) == []


@given(st.lists(st.floats(0, 100), max_size=50), st.lists(st.floats(0, 30), max_size=10), st.floats(0.01, 5))
def test_idle_wheel_gives_each_thing_once_and_in_time(dues: list[float], steps: list[float], grain: float) -> None:
    wheel: IdleWheel[int] = IdleWheel(grain)
    for number, due in enumerate(dues):
        wheel.add(number, due)
    now = 0.0
    taken: list[int] = []
    for step in steps:
        now += step
        waiting = wheel.collect(now)
        for _ in range(waiting):
            item = wheel.take()
            assert item is not None
            assert dues[item] <= now + EPSILON
            taken.append(item)
        assert wheel.take() is None
        assert all(due > now - 2 * grain for number, due in enumerate(dues) if number not in taken)
    assert len(taken) == len(set(taken))
    assert len(wheel) == len(dues) - len(taken)


@given(st.lists(st.integers(0, 100)), st.integers(0, 100))
def test_idle_wheel_forgets_what_is_not_wanted(items: list[int], now: int) -> None:
    wheel: IdleWheel[int] = IdleWheel(1.0)
    for item in items:
        wheel.add(item, float(item))
    wheel.collect(now)
    wheel.keep(lambda item: item % 2 == 0)
    assert len(wheel) == sum(item % 2 == 0 for item in items)
    wheel.collect(1_000)
    left = []
    while (taken := wheel.take()) is not None:
        left.append(taken)
    assert sorted(left) == sorted(item for item in items if item % 2 == 0)
    wheel.clear()
    assert len(wheel) == 0


def test_deadlines_far_away_that_are_discarded_take_no_memory() -> None:
    deadlines: Deadlines = Deadlines(RESOLUTION)
    kept = Thing(1_000.0 + 50_000)
    kept.bucket = deadlines.add(kept, kept.deadline)
    tracemalloc.start()
    try:
        for number in range(100_000):
            thing = Thing(100_000.0 + number)
            deadlines.discard(thing, deadlines.add(thing, thing.deadline))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 3_000_000  # of 25 million
    assert deadlines.next_due() == pytest.approx(kept.deadline, abs=2 * RESOLUTION)
    assert deadlines.expire(kept.deadline + 1) == [kept]


def test_a_queue_that_was_long_once_is_small_again() -> None:
    tracemalloc.start()
    try:
        queues = [Fifo() for _ in range(50)]
        before, _ = tracemalloc.get_traced_memory()
        for queue in queues:
            for number in range(10_000):
                queue.append(number)
            assert [queue.popleft() for _ in range(10_000)] == list(range(10_000))
            queue.append("one more")
            assert queue.popleft() == "one more"
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1_000_000  # of 6 million
