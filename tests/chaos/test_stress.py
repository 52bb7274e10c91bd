"""Idle removal, stopping and new messages race for ten seconds, on the machine's clock."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from tests.support import assert_balanced, until
from theatre_gevent import Context, DeadLetter, Host, Initialize, Ref, Shutdown, StopActor, SystemClock

start_new_thread = get_original("_thread", "start_new_thread")

ACTORS = 10_000
SENDERS = 12
THREADS = 2


class Books:
    """What the actors saw, in tables over all of them."""

    def __init__(self) -> None:
        self.alive: dict[str, Actor] = {}
        self.in_handler: set[str] = set()
        self.expected: dict[tuple[int, str], int] = {}
        self.handled = 0
        self.stops = 0
        self.begun = 0
        self.ended = 0
        self.violations: list[str] = []


class Actor:
    def __init__(self, books: Books) -> None:
        self.books = books

    def receive(self, ctx: Context) -> None:
        books, name, message = self.books, ctx.actor_ref.id, ctx.message
        if name in books.in_handler:
            books.violations.append(f"two handlers of {name} at once")
        books.in_handler.add(name)
        try:
            self.handle(ctx, name, message)
        finally:
            books.in_handler.discard(name)

    def handle(self, ctx: Context, name: str, message: Any) -> None:
        books = self.books
        if isinstance(message, Initialize):
            if name in books.alive:
                books.violations.append(f"{name} begins while its last activation lives")
            books.alive[name] = self
            books.begun += 1
            if int(name) % 7 == 0:
                gevent.sleep(0)
            return
        if books.alive.get(name) is not self:
            books.violations.append(f"{name} gets {message} and is not alive")
        if isinstance(message, Shutdown):
            if int(name) % 5 == 0:
                gevent.sleep(0)  # so that messages come in the middle of it
            books.alive.pop(name, None)
            books.ended += 1
            return
        sender, number, kind = message
        expected = books.expected.get((sender, name), 0)
        if number != expected:
            books.violations.append(f"{name} got number {number} of sender {sender}, expected {expected}")
        books.expected[sender, name] = number + 1
        books.handled += 1
        if kind == "yield":
            gevent.sleep(0)
        ctx.reply(message)
        if kind == "stop":
            books.stops += 1
            raise StopActor


class Sender:
    """Sends to random actors without a pause, and counts."""

    def __init__(self, number: int, host: Host, books: Books, stopped: Callable[[], bool]) -> None:
        self.number, self.host, self.books, self.stopped = number, host, books, stopped
        self.random = random.Random(number)
        self.numbers: Counter[str] = Counter()
        self.sent = 0
        self.error: BaseException | None = None
        self.finished = False

    def run(self) -> None:
        try:
            while not self.stopped():
                self.step()
        except BaseException as error:
            self.error = error
        finally:
            self.finished = True

    def step(self) -> None:
        name = str(int(self.random.random() ** 3 * ACTORS))  # some often, most of them seldom
        chance = self.random.random()
        kind = "stop" if chance < 0.02 else "yield" if chance < 0.1 else "plain"
        message = (self.number, self.numbers[name], kind)
        self.numbers[name] += 1
        self.sent += 1
        ref = Ref("a", name)
        if self.random.random() < 0.3:
            if self.host.request(ref, message, 30) != message:
                self.books.violations.append(f"{message} got another's reply")
        else:
            self.host.send(ref, message)


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_nothing_is_lost_doubled_or_out_of_order(seconds: float) -> None:
    clock = SystemClock()
    books = Books()
    dead: list[DeadLetter] = []
    host = Host(
        idle_timeout=0.05,
        cleanup_interval=0.02,
        request_timeout=30,
        drain_timeout=20,
        actor_inbox_size=8,
        host_inbox_size=2_000,
        dead_letter_handler=dead.append,
    ).start()
    host.register_actor("a", lambda: Actor(books))
    end = clock.monotonic() + seconds

    def stopped() -> bool:
        return clock.monotonic() >= end or bool(books.violations)

    senders = [Sender(number, host, books, stopped) for number in range(SENDERS + THREADS)]
    for sender in senders[:SENDERS]:
        gevent.spawn(sender.run)
    for sender in senders[SENDERS:]:
        start_new_thread(sender.run, ())

    looks = 0
    while not all(sender.finished for sender in senders):
        assert_balanced(host.metrics)  # invariant 4, in the middle of it all
        looks += 1
        gevent.sleep(0.01)
        assert clock.monotonic() < end + 30, "senders hang"
    assert [sender.error for sender in senders if sender.error is not None] == []
    until(lambda: host.metrics.snapshot()["messages_queued"] == 0, timeout=20)
    host.stop()

    assert books.violations == []
    counts = host.metrics.snapshot()
    sent = sum(sender.sent for sender in senders)
    assert dead == []
    assert counts["messages_sent"] == counts["messages_received"] == books.handled == sent
    assert counts["messages_dead_lettered"] == 0
    for sender in senders:
        for name, number in sender.numbers.items():
            assert books.expected[sender.number, name] == number
    assert books.alive == {}
    assert books.begun == books.ended == counts["activations_total"] == counts["activations_ended"]
    assert counts["actors_active"] == counts["requests_pending"] == counts["senders_waiting"] == 0

    # It was a stress, and not an empty run.
    assert sent > 3_000 * seconds
    assert looks > 5 * seconds
    assert books.stops > 0.005 * sent
    assert books.begun - books.stops > 300 * seconds, "actors have left for being idle, again and again"
    assert all(sender.sent > 10 * seconds for sender in senders), "native threads too"
