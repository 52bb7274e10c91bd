"""Producers ten times as fast as the consumer: what piles up is bounded, nothing gets lost, and others go on."""

from __future__ import annotations

from collections import Counter

import gevent
import psutil
from gevent.event import Event

from tests.support import assert_balanced, until
from theatre_gevent import Context, Host, InboxFull, Ref

PRODUCERS = 60
PACE = 0.002
"""Seconds that the consumer takes for a message; the producers would send thirty meanwhile."""
INBOX = 16
BODY = 20_000
MEMORY = 40
"""Megabytes that overload may add; what the inbox and the waiting senders hold is 1.5."""


def test_an_actor_that_gets_more_than_it_can_do() -> None:
    handled: list[tuple[int, int]] = []
    accepted: set[tuple[int, int]] = set()
    refused: Counter[str] = Counter()
    process, deepest, others = psutil.Process(), 0, 0
    over = Event()

    def consume(ctx: Context) -> None:
        if isinstance(ctx.message, tuple):
            gevent.sleep(PACE)
            handled.append(ctx.message[:2])

    def echo(ctx: Context) -> None:
        if isinstance(ctx.message, int):
            ctx.reply(ctx.message)

    with Host(actor_inbox_size=INBOX, host_inbox_size=1000, request_timeout=0.05) as host:
        host.register_actor("slow", consume)
        host.register_actor("echo", echo)
        slow = Ref("slow", "1")

        def produce(number: int) -> None:
            count = 0
            while not over.is_set():
                count += 1
                try:
                    host.send(slow, (number, count, bytes(BODY)))
                except InboxFull:
                    refused["inbox full"] += 1
                else:
                    accepted.add((number, count))
                gevent.sleep(0)

        before = process.memory_info().rss
        tasks = [gevent.spawn(produce, number) for number in range(PRODUCERS)]

        def overloaded() -> bool:
            nonlocal deepest, others
            counts = host.metrics.snapshot()
            deepest = max(deepest, counts["messages_queued"])
            assert counts["senders_waiting"] <= PRODUCERS
            assert process.memory_info().rss - before < MEMORY * 2**20, "resident memory is bounded"
            assert host.request(Ref("echo", str(others % 7)), others, 10.0) == others, "others are served meanwhile"
            others += 1
            return len(handled) > 400 and refused["inbox full"] > 20 and others > 200

        until(overloaded, 40)
        over.set()
        gevent.joinall(tasks, raise_error=True)
        until(lambda: len(handled) == len(accepted), 20)
        assert_balanced(host.metrics)
        assert host.metrics.snapshot()["inbox_full"] == refused["inbox full"]
    assert deepest <= INBOX + 1, "what piles up is bounded by the inbox, not by what is sent"
    assert set(handled) == accepted, "what was accepted was handled, what was refused was not"
    assert len(handled) == len(set(handled)), "once"
    for number in range(PRODUCERS):
        mine = [count for producer, count in handled if producer == number]
        assert mine == sorted(mine), "in the order sent"
