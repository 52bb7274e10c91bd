"""Counts by actor type, and sampled handling times."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from tests.conftest import MakeHost
from tests.support import Recorder, fail, stop_actor
from theatre_gevent import Context, Host, Initialize, Ref, RemoteActorError, SystemClock
from theatre_gevent.core.statistics import ALL_TIMED, BOUNDS, EVERY, TypeStatistics
from theatre_gevent.testing import VirtualClock


def of(host: Host, name: str) -> TypeStatistics:
    return host._registry.types[name]


def check(statistics: TypeStatistics, messages: int) -> None:
    """The messages are all counted, and the samples stand for all but the last few of them."""
    assert statistics.messages == messages
    timed = sum(statistics.times)
    assert timed <= messages
    assert messages - timed < 2 * EVERY


def test_messages_are_counted_by_type_however_they_come(host: Host) -> None:
    for name in ("a", "b"):
        host.register_actor(name, Recorder())
    refs = [Ref("a", "1"), Ref("a", "2")]
    host.send(Ref("b", "1"), "one")
    for number in range(1000):
        host.send(refs[number % 2], "message")  # several in an inbox, and one alone
        if number % 5 == 0:
            host.request(refs[number % 2], "question")  # handed over
        if number % 7 == 0:
            gevent.sleep(0)
    host.request(refs[0], "last")
    host.request(refs[1], "last")
    check(of(host, "a"), 1000 + 200 + 2)
    check(of(host, "b"), 1)
    counts = host.metrics.snapshot()
    assert counts["messages_received"] == of(host, "a").messages + of(host, "b").messages
    assert (of(host, "a").activations, of(host, "b").activations) == (2, 1)


@pytest.mark.parametrize("burst", [1, 2, 50, 64], ids=str)
def test_every_message_of_a_new_type_is_timed_and_few_later_ones(make_host: MakeHost, burst: int) -> None:
    host = make_host(actor_inbox_size=64)
    host.register_actor("a", Recorder())
    ref, total, times = Ref("a", "1"), 0, of(host, "a").times
    while total < ALL_TIMED - burst:
        for _ in range(burst):
            host.send(ref, "message")
        total += burst
        gevent.sleep(0)
        gevent.sleep(0)
        check(of(host, "a"), total)
        if burst == 1:
            assert sum(times) == total
    for _ in range(200):
        for _ in range(burst):
            host.send(ref, "message")
        total += burst
        host.request(ref, "and wait")
        total += 1
    check(of(host, "a"), total)


def test_a_time_falls_into_its_bucket(clock: VirtualClock, host: Host) -> None:
    def wait(ctx: Context) -> None:
        clock.sleep(0.004)

    host.register_actor("slow", Recorder())
    for _ in range(10):
        host.send(Ref("slow", "1"), wait)
        clock.settle()
        clock.advance(0.01)
    statistics = of(host, "slow")
    bucket = BOUNDS.index(0.005)
    assert statistics.times[bucket] == 10
    assert sum(statistics.times) == 10
    assert statistics.seconds == pytest.approx(0.04)


def test_a_time_above_all_bounds_is_counted_too() -> None:
    statistics = TypeStatistics()
    readings = iter((0.0, BOUNDS[-1] + 1))
    statistics.call(lambda ctx: None, None, lambda: next(readings), 1)
    statistics.left -= 1
    assert statistics.times[-1] == 1
    assert statistics.messages == 1


def test_samples_stand_for_all_messages_and_are_few(host: Host) -> None:
    calls = 0

    class Counted(TypeStatistics):
        def call(self, *args: Any) -> None:
            nonlocal calls
            calls += 1
            super().call(*args)

    statistics = Counted()
    for _ in range(10_000):
        statistics.left -= 1
        if statistics.left <= 0:
            statistics.call(lambda ctx: None, None, iter((1.0, 1.5)).__next__, 0)
    check(statistics, 10_000)
    assert statistics.seconds == pytest.approx(0.5 * sum(statistics.times))
    assert ALL_TIMED + 10_000 / EVERY / 2 < calls < ALL_TIMED + 10_000 / EVERY * 2


def test_errors_and_lives_are_counted_by_type(host: Host) -> None:
    host.register_actor("a", Recorder())

    def refuse(ctx: Context) -> None:
        if isinstance(ctx.message, Initialize):
            raise ZeroDivisionError

    host.register_actor("stillborn", refuse)
    ref = Ref("a", "1")
    for _ in range(3):
        with pytest.raises(RemoteActorError):
            host.request(ref, fail)
    with pytest.raises(RemoteActorError):
        host.request(ref, stop_actor)
    host.request(ref, "again")
    with pytest.raises(RemoteActorError):
        host.request(Ref("stillborn", "1"), "hello")
    a, stillborn = of(host, "a"), of(host, "stillborn")
    assert (a.activations, a.ended, a.failed, a.errors) == (2, 1, 0, 3)
    assert (stillborn.activations, stillborn.ended, stillborn.failed, stillborn.errors) == (0, 0, 1, 0)
    check(a, 5)
    assert stillborn.messages == 0


def test_dead_letters_are_told_to_the_journal_too(host: Host) -> None:
    told: list[tuple[Ref, object, Ref | None, str]] = []
    host._dispatcher.lifecycle.journal = lambda *letter: told.append(letter)
    host.register_actor("a", Recorder())
    host.send(Ref("a", "1"), "first")
    host.freeze()
    host.unfreeze()
    (letter,) = told
    assert letter[:3] == (Ref("a", "1"), "first", None)
    assert "froze" in letter[3] or "frozen" in letter[3]


def test_turns_that_overlap_take_nothing_back() -> None:
    """A handler that waits lets other turns run, which know nothing of what its own has handled."""
    statistics = TypeStatistics()
    clock = SystemClock()

    def outer(ctx: Any) -> None:
        before = list(statistics.times)
        statistics.call(lambda _: None, None, clock.monotonic, 1)
        assert all(now >= then for now, then in zip(statistics.times, before, strict=True))

    sums = []
    for handled in (40, 40, 1):  # messages of this turn that are not counted before its end
        statistics.call(outer, None, clock.monotonic, handled)
        statistics.left -= handled
        sums.append((sum(statistics.times), statistics.seconds))
    assert sums == sorted(sums)
    assert min(statistics.times) >= 0
