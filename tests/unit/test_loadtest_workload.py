"""Workers and their actor, against real hosts."""

from __future__ import annotations

from collections import Counter
from random import Random
from time import perf_counter

import gevent
import pytest

from theatre_gevent import Context, Host, HostDraining, InboxFull, Ref
from theatre_gevent.loadtest.stop import Stop
from theatre_gevent.loadtest.workload import ACTOR_TYPE, LoadActor, Tally, make_refs, warm, work

ACTORS = 20


class Journal:
    """A target that writes down what it is asked for and ends the run after so many operations."""

    def __init__(self, stop: Stop, limit: int) -> None:
        self.entries: list[tuple[str, str]] = []
        self._stop = stop
        self._limit = limit

    def _note(self, what: str, ref: Ref) -> None:
        self.entries.append((what, ref.id))
        if len(self.entries) >= self._limit:
            self._stop.ask(0)

    def send(self, ref: Ref, body: object) -> None:
        self._note("send", ref)

    def request(self, ref: Ref, body: object) -> object:
        self._note("request", ref)
        return body


def journal(seed: int, sendpct: int, limit: int = 64) -> tuple[Journal, Tally]:
    stop, tally = Stop(), Tally(ACTORS)
    target = Journal(stop, limit)
    work(target, make_refs(ACTORS), tally, Random(seed), sendpct, perf_counter() + 50, stop)
    return target, tally


def test_the_same_seed_makes_the_same_operations() -> None:
    assert journal(1, 70)[0].entries == journal(1, 70)[0].entries
    assert journal(1, 70)[0].entries != journal(2, 70)[0].entries


@pytest.mark.parametrize(("sendpct", "low", "high"), [(0, 0, 0), (70, 0.68, 0.72), (100, 1, 1)])
def test_the_mix_is_as_asked_and_every_actor_equally_likely(sendpct: int, low: float, high: float) -> None:
    target, tally = journal(7, sendpct, 32_000)
    assert tally.sends + tally.requests == len(target.entries)
    assert low <= tally.sends / len(target.entries) <= high
    assert Counter(what for what, _ in target.entries)["send"] == tally.sends
    # Expected 1600 each; seven standard deviations are 273, and the seed is fixed.
    by_actor = Counter(actor for _, actor in target.entries)
    assert len(by_actor) == ACTORS
    assert max(by_actor.values()) - 1600 < 273 > 1600 - min(by_actor.values())
    if tally.requests:
        assert tally.latencies.count() / tally.requests == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("limit", [1, 63, 64, 65, 70])
def test_a_stop_cuts_a_chunk_short_and_the_count_is_right(limit: int) -> None:
    target, tally = journal(3, 70, limit)
    assert len(target.entries) == limit
    assert tally.sends == sum(what == "send" for what, _ in target.entries)
    assert tally.requests == limit - tally.sends


class Slow:
    """A target whose operations take long and succeed."""

    def __init__(self) -> None:
        self.begun = 0

    def send(self, ref: Ref, body: object) -> None:
        self.begun += 1
        gevent.sleep(0.05)

    def request(self, ref: Ref, body: object) -> object:
        self.send(ref, body)
        return body


@pytest.mark.parametrize("ends_by", ["deadline", "stop"])
def test_slow_operations_do_not_put_off_the_end(ends_by: str) -> None:
    stop, tally, target = Stop(), Tally(ACTORS), Slow()
    deadline = perf_counter() + (0.12 if ends_by == "deadline" else 50)
    gevent.spawn_later(0.12 if ends_by == "stop" else 50, stop.ask, 130)
    work(target, make_refs(ACTORS), tally, Random(1), 70, deadline, stop)
    assert 1 <= target.begun <= 8, "two or three begin in time, and a chunk would be 64"
    assert tally.sends + tally.requests == target.begun


def test_errors_and_the_end_of_a_chunk_are_counted_together() -> None:
    class Moody(Slow):
        def send(self, ref: Ref, body: object) -> None:
            self.begun += 1
            gevent.sleep(0)
            if self.begun % 5 == 0:
                raise InboxFull("no")

    stop, tally, target = Stop(), Tally(ACTORS), Moody()
    gevent.spawn_later(0.1, stop.ask, 0)
    work(target, make_refs(ACTORS), tally, Random(1), 70, perf_counter() + 50, stop)
    refused = sum(tally.send_errors.values()) + sum(tally.reply_errors.values())
    assert refused == target.begun // 5 > 0
    assert tally.operations() == target.begun - refused


def run(host: Host, tally: Tally, refs: list[Ref], *, sendpct: int, seconds: float, workers: int = 1) -> Stop:
    """Let workers loose on a host for some time."""
    stop = Stop()
    deadline = perf_counter() + seconds
    gevent.joinall(
        [gevent.spawn(work, host, refs, tally, Random(n), sendpct, deadline, stop) for n in range(workers)],
        timeout=30,
        raise_error=True,
    )
    return stop


def test_everything_that_is_counted_was_done() -> None:
    tally = Tally(ACTORS)
    with Host() as host:
        host.register_actor(ACTOR_TYPE, lambda: LoadActor(tally))
        run(host, tally, make_refs(ACTORS), sendpct=70, seconds=0.2, workers=4)
    metrics = host.metrics.snapshot()
    assert tally.sends > 0
    assert tally.requests > 0
    assert metrics["messages_received"] == tally.sends + tally.requests == tally.operations()
    assert metrics["requests_total"] == tally.requests
    assert tally.inits == tally.shutdowns == tally.alive_peak() == sum(tally.activated) == ACTORS
    assert tally.alive() == 0
    assert tally.reply_errors == tally.send_errors == {}


def test_errors_are_counted_by_kind_and_the_first_is_kept() -> None:
    def moody(ctx: Context) -> None:
        if ctx.actor_ref.id == "0":
            if ctx.is_request:
                raise KeyError("no")
        elif ctx.actor_ref.id == "1":
            ctx.reply("yes")

    tally = Tally(3)
    with Host(request_timeout=0.05) as host:
        host.register_actor(ACTOR_TYPE, moody)
        run(host, tally, make_refs(3), sendpct=0, seconds=0.5)
    assert set(tally.reply_errors) == {"RemoteActorError", "RequestTimeout"}
    assert "KeyError" in tally.examples["RemoteActorError"]
    assert "worker/2" in tally.examples["RequestTimeout"]
    assert tally.operations() == tally.requests - sum(tally.reply_errors.values())
    metrics = host.metrics.snapshot()
    assert metrics["requests_total"] == tally.requests
    assert metrics["requests_timed_out"] == tally.reply_errors["RequestTimeout"]


def test_a_send_that_is_refused_is_no_send() -> None:
    def asleep(ctx: Context) -> None:
        if ctx.message == "ping":
            ctx.cancelled.wait(20)

    tally = Tally(1)
    host = Host(request_timeout=0.05, actor_inbox_size=2, drain_timeout=0).start()
    host.register_actor(ACTOR_TYPE, asleep)
    try:
        run(host, tally, make_refs(1), sendpct=100, seconds=0.5)
    finally:
        host.stop()
    assert tally.sends == host.metrics.snapshot()["messages_sent"] == 3
    assert tally.send_errors["InboxFull"] > 0
    assert "worker/0" in tally.examples["InboxFull"]


def test_a_host_that_stops_ends_its_workers() -> None:
    tally, stop = Tally(ACTORS), Stop()
    host = Host().start()
    host.register_actor(ACTOR_TYPE, lambda: LoadActor(tally))
    worker = gevent.spawn(work, host, make_refs(ACTORS), tally, Random(1), 70, perf_counter() + 50, stop)
    gevent.sleep(0.05)
    host.stop()
    with pytest.raises(HostDraining):
        worker.get(timeout=20)


def test_workers_that_only_send_let_others_run() -> None:
    tally = Tally(ACTORS)
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.01)
            ticks += 1

    with Host(host_inbox_size=64) as host:
        host.register_actor(ACTOR_TYPE, lambda: LoadActor(tally))
        ticker = gevent.spawn(tick)
        run(host, tally, make_refs(ACTORS), sendpct=100, seconds=1.0, workers=2)
        seen = ticks
        ticker.kill()
    assert seen >= 10
    assert tally.sends > 64


def test_warm_activates_every_actor_once() -> None:
    tally = Tally(3000)
    with Host(actor_inbox_size=1, host_inbox_size=100) as host:
        host.register_actor(ACTOR_TYPE, lambda: LoadActor(tally))
        warm(host, make_refs(3000), Stop())
        while host.metrics.snapshot()["messages_queued"]:
            gevent.sleep(0.001)
        assert tally.alive() == tally.inits == host.metrics.snapshot()["actors_active"] == 3000
        assert tally.activated == bytearray(b"\1" * 3000)


def test_the_peak_is_that_of_the_moment_with_most_alive() -> None:
    tally = Tally(4)
    for number in range(3):
        tally.born(Ref(ACTOR_TYPE, str(number)))
    tally.gone()
    tally.gone()
    tally.born(Ref(ACTOR_TYPE, "3"))
    assert (tally.alive(), tally.alive_peak()) == (2, 3)
