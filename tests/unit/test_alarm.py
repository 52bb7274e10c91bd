"""When a greenlet that looks again and again looks next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event

from theatre_gevent.scheduling.alarm import Alarm
from theatre_gevent.testing import VirtualClock


class Looker:
    """Looks, works as long as `busy` is cleared, and sleeps a minute or until its alarm."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.alarm = Alarm(clock)
        self.start = clock.monotonic()
        self.looks: list[float] = []
        self.rested = Event()
        self.rested.set()
        self.greenlet = gevent.spawn(self._run)
        clock.settle()

    def _run(self) -> None:
        while True:
            self.alarm.begin()
            self.looks.append(self.now())
            self.rested.wait()
            self.alarm.wait(60)

    def now(self) -> float:
        return self.clock.monotonic() - self.start

    def expect(self, seconds: float) -> None:
        self.alarm.expect(self.start + seconds)


@pytest.fixture
def looker(clock: VirtualClock) -> Iterator[Looker]:
    looker = Looker(clock)
    yield looker
    looker.greenlet.kill()


def test_it_sleeps_until_the_earliest_time_that_was_named(clock: VirtualClock, looker: Looker) -> None:
    looker.expect(30)
    looker.expect(10)
    looker.expect(20)
    clock.advance(100)
    assert looker.looks == [0, 10, 70], "what has been looked at is done with"


def test_what_is_past_wakes_it_at_once(clock: VirtualClock, looker: Looker) -> None:
    clock.advance(5)
    looker.expect(3)
    clock.settle()
    assert looker.looks == [0, 5]
    clock.advance(59)
    assert looker.looks == [0, 5]


@pytest.mark.parametrize(
    ("named", "next_look"), [((0,), 1), ((-10, 40), 1), ((8,), 8), ((8, 5, 90), 5), ((90,), 61), ((), 61)]
)
def test_what_is_named_while_it_works_counts(
    clock: VirtualClock, looker: Looker, named: tuple[float, ...], next_look: float
) -> None:
    """Also what is past already: the work began before it."""
    looker.rested.clear()
    looker.expect(0)
    clock.advance(0)
    for due in named:
        looker.expect(due)
    clock.advance(1)
    assert looker.looks == [0, 0]
    looker.rested.set()
    clock.settle()
    clock.advance(next_look - 1)
    assert looker.looks == [0, 0, next_look]


def test_named_again_and_again(clock: VirtualClock, looker: Looker) -> None:
    steps: list[Callable[[], None]] = [lambda: looker.expect(looker.now() + 7), lambda: looker.expect(looker.now() + 3)]
    for number in range(10):
        steps[number % 2]()
        clock.advance(2)
    assert looker.looks == [0, 5, 9, 13, 17]
