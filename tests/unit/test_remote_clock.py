"""What a host knows of another clock whose readings take their time."""

from __future__ import annotations

import pytest

from theatre_gevent.scheduling.remote_clock import RemoteClock
from theatre_gevent.testing import VirtualClock


class Other:
    """A clock that is read over a slow connection."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.ahead = 5000.0
        self.known = RemoteClock(clock)

    def time(self) -> float:
        return self.clock.monotonic() + self.ahead

    def read(self, there: float, back: float) -> None:
        """Ask, with so many seconds until the clock is read, and so many until the answer has come."""
        asked = self.clock.monotonic()
        self.clock.advance(there)
        us = round(self.time() * 1e6)
        self.clock.advance(back)
        self.known.hear(us, asked)

    def error(self) -> float:
        now = self.known.now()
        assert now is not None
        return now - self.time()


@pytest.fixture
def other(clock: VirtualClock) -> Other:
    return Other(clock)


def test_nothing_is_known_before_the_first_reading(other: Other) -> None:
    assert other.known.now() is None
    assert other.known.local(1) == 0


def test_the_quickest_answer_counts_and_slow_ones_change_nothing(clock: VirtualClock, other: Other) -> None:
    other.read(3, 2)
    assert other.error() == pytest.approx(-2)
    for there, back in ((0, 9), (0.01, 0.01), (7, 0.5), (5, 30)):
        other.read(there, back)
    assert other.error() == pytest.approx(-0.01)
    assert other.known.local(round(other.time() * 1e6)) == pytest.approx(clock.monotonic() + 0.01)


@pytest.mark.parametrize("by", [-4000.0, 4000.0])
def test_one_that_is_set_is_followed(other: Other, by: float) -> None:
    other.read(0.01, 0.01)
    other.ahead += by
    other.read(0.02, 0.03)
    assert -0.031 < other.error() < 0.021
