"""Schedules in a cluster without a database: the host that made one fires it, wherever the actor lives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.support import assert_balanced, until
from theatre_gevent import Context, DeadLetter, Host, Initialize, MessageNotSerializable, Ref, Shutdown


class Pair:
    """Two hosts that know each other, and what their actors got."""

    def __init__(self) -> None:
        self.dead: list[DeadLetter] = []
        self.seen: list[tuple[str, Any, str | None, str | None, int]] = []
        self.gate = Event()
        self.gate.set()
        self.hosts = [
            Host(host_id=name, listen="127.0.0.1:0", dead_letter_handler=self.dead.append, actor_inbox_size=2)
            for name in "ab"
        ]
        for host in self.hosts:
            host.start()
            host.register_actor("where", self.receiver(host.host_id))
        a, b = self.hosts
        a.set_peers({"b": b.address or ""})
        b.set_peers({"a": a.address or ""})
        self.here, self.there = (
            next(ref for ref in (Ref("where", str(n)) for n in range(1000)) if a.ring_owner(ref) == owner)
            for owner in ("a", "b")
        )

    def receiver(self, name: str) -> Any:
        def receive(ctx: Context) -> None:
            self.gate.wait()
            if callable(ctx.message):
                ctx.message(ctx)
            elif not isinstance(ctx.message, (Initialize, Shutdown)):
                self.seen.append((name, ctx.message, ctx.schedule_id, ctx.occurrence, ctx.attempt))

        return receive


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    for host in pair.hosts:
        host.stop()
        assert_balanced(host.metrics)


def test_the_schedule_travels_with_the_message(pair: Pair) -> None:
    a, _ = pair.hosts
    ids = [a.send_after(ref, text, 0.02) for ref, text in ((pair.here, "here"), (pair.there, "there"))]
    a.send(pair.there, "plain")
    until(lambda: len(pair.seen) == 3)
    seen = {text: (name, schedule, attempt) for name, text, schedule, _, attempt in pair.seen}
    assert seen == {"here": ("a", ids[0], 1), "there": ("b", ids[1], 1), "plain": ("b", None, 0)}
    assert all(
        occurrence is None or occurrence.startswith(f"{schedule}@") for _, _, schedule, occurrence, _ in pair.seen
    )
    assert a.metrics.snapshot()["schedules_fired"] == 2
    assert a.schedules() == []


def test_many_for_another_host_in_their_order(pair: Pair) -> None:
    a, _ = pair.hosts
    for number in range(500):
        a.send_after(pair.there, number, 0.01)
    until(lambda: len(pair.seen) == 500)
    assert [number for _, number, *_ in pair.seen] == list(range(500))


def test_one_made_here_is_unknown_there(pair: Pair) -> None:
    a, b = pair.hosts
    schedule = a.send_after(pair.there, "x", 60)
    assert not b.cancel_schedule(schedule)
    assert b.schedules() == []
    assert a.cancel_schedule(schedule)


def test_what_can_not_travel_is_refused_in_the_call(pair: Pair) -> None:
    a, _ = pair.hosts
    with pytest.raises(MessageNotSerializable):
        a.send_after(pair.there, object(), 1)
    with pytest.raises(MessageNotSerializable):
        a.send_cron(pair.there, object(), "* * * * *")
    assert a.schedules() == []


def test_what_a_frozen_host_sends_back_keeps_its_schedule(pair: Pair) -> None:
    """It is retried like any other message, and arrives with its id once the host goes on."""
    a, b = pair.hosts
    b.freeze()
    schedule = a.send_after(pair.there, "x", 0)
    until(lambda: a.metrics.snapshot()["messages_returned"] >= 1)
    b.unfreeze()
    until(lambda: pair.seen)
    assert [(name, text, got, attempt) for name, text, got, _, attempt in pair.seen] == [("b", "x", schedule, 1)]


def test_a_host_that_is_gone_costs_dead_letters(pair: Pair) -> None:
    a, b = pair.hosts
    b.stop()
    schedule = a.send_after(pair.there, "x", 0)
    until(lambda: pair.dead, timeout=20)
    assert [(letter.ref, letter.message) for letter in pair.dead] == [(pair.there, "x")]
    assert not a.cancel_schedule(schedule)


def test_what_waits_for_a_full_link_when_its_host_stops_is_sent_or_a_dead_letter(pair: Pair) -> None:
    """The first one was a dead letter, and arrived all the same."""
    a, _ = pair.hosts
    pair.gate.clear()
    links = a._transport.links()  # type: ignore[union-attr]

    def fill() -> None:
        while not any(link.full for link in links):
            a.send(pair.there, b"x" * 200_000)

    filling = gevent.spawn(fill)
    until(lambda: any(link.full for link in links))
    for text in ("first", "second", "third"):
        a.send_after(pair.there, text, 0)
    until(lambda: a.metrics.snapshot()["schedules_lag_ms"] > 0)
    stopping = gevent.spawn(a.stop)
    until(lambda: len(pair.dead) >= 2)
    pair.gate.set()
    gevent.joinall([stopping, filling], timeout=30)
    assert stopping.ready()

    def texts() -> list[str]:
        settled = [*(got for _, got, *_ in pair.seen), *(letter.message for letter in pair.dead)]
        return sorted(text for text in settled if isinstance(text, str))

    until(lambda: len(texts()) >= 3)
    assert texts() == ["first", "second", "third"]
    assert a.metrics.snapshot()["schedules_fired"] == 3
