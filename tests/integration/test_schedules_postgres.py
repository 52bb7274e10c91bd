"""Schedules of hosts with a database: a row before the call returns, sent at least once, and once if nothing fails."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.postgres import execute
from tests.support import assert_balanced, in_background, until
from theatre_gevent import (
    Context,
    DatabaseError,
    DatabaseUnavailable,
    DeadLetter,
    Host,
    HostFrozen,
    Initialize,
    InvalidRef,
    InvalidSchedule,
    MessageNotSerializable,
    Ref,
    Shutdown,
    StopActor,
)
from theatre_gevent.cluster.schedule_store import PostgresSchedules
from theatre_gevent.embedded import EmbeddedPostgres
from theatre_gevent.errors import AnswerLost
from theatre_gevent.logic.schedules import Claim
from theatre_gevent.scheduling.durable import DurableSchedules

MINUTE = 60_000_000


class Seen:
    """One message as it was handled."""

    def __init__(self, host_id: str, ctx: Context) -> None:
        self.host_id = host_id
        self.ctx = ctx
        self.ref = ctx.actor_ref
        self.message = ctx.message
        self.schedule = ctx.schedule_id
        self.occurrence = ctx.occurrence
        self.attempt = ctx.attempt
        self.sender = ctx.sender
        self.is_request = ctx.is_request


class Hosts:
    """Hosts that share a database, with one receiver for the actors of all of them."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.seen: list[Seen] = []
        self.dead: list[DeadLetter] = []
        self.on_message: Callable[[Context], object] = lambda ctx: None
        self.on_initialize: Callable[[Context], object] = lambda ctx: None
        self.hosts: dict[str, Host] = {}

    def start(self, *names: str, **options: Any) -> list[Host]:
        for name in names:
            host = Host(
                host_id=name,
                listen="127.0.0.1:0",
                dsn=self.dsn,
                dead_letter_handler=self.dead.append,
                **{
                    "lease_duration": 10.0,
                    "poll_interval": 0.2,
                    "safety_margin": 1.0,
                    "schedule_recovery_interval": 0.2,
                    "freeze_grace_period": 0.2,
                    **options,
                },
            )
            host.register_actor("a", self.receiver(name))
            self.hosts[name] = host.start()
        until(lambda: all(h.metrics.snapshot()["peers_up"] == len(self.hosts) - 1 for h in self.hosts.values()))
        return [self.hosts[name] for name in names]

    def receiver(self, name: str) -> Callable[[Context], None]:
        def receive(ctx: Context) -> None:
            if isinstance(ctx.message, Initialize):
                self.on_initialize(ctx)
            elif not isinstance(ctx.message, Shutdown):
                self.seen.append(Seen(name, ctx))
                self.on_message(ctx)

        return receive

    def messages(self) -> list[Any]:
        return [seen.message for seen in self.seen]

    def rows(self) -> list[tuple[Any, ...]]:
        return execute(self.dsn, "SELECT id, due_us, attempt, host_id, error FROM schedules ORDER BY due_us")

    def make_due(self) -> None:
        """Make everything due now; hosts notice when they look next."""
        execute(
            self.dsn,
            "UPDATE schedules SET at_us = 0, due_us = extract(epoch FROM clock_timestamp()) * 1000000 "
            "WHERE epoch IS NULL",
        )

    def until_settled(self) -> None:
        """Wait until nothing is due, claimed or unconfirmed."""
        due = (
            "SELECT count(*) FROM schedules WHERE error IS NULL AND (epoch IS NOT NULL "
            "OR at_us <= extract(epoch FROM clock_timestamp()) * 1000000)"
        )
        until(lambda: execute(self.dsn, due)[0][0] == 0)

    def sum(self, name: str) -> int:
        return sum(host.metrics.snapshot()[name] for host in self.hosts.values())

    def ref(self, owner: str) -> Ref:
        """A ref that the ring gives to a host."""
        host = self.hosts[owner]
        return next(ref for ref in (Ref("a", f"{owner}-{n}") for n in range(1000)) if host.ring_owner(ref) == owner)

    def stop(self) -> None:
        gevent.joinall([in_background(host.stop) for host in self.hosts.values()])


@pytest.fixture
def hosts(dsn: str) -> Iterator[Hosts]:
    hosts = Hosts(dsn)
    yield hosts
    hosts.stop()
    for host in hosts.hosts.values():
        assert_balanced(host.metrics)


# -- single messages -------------------------------------------------------------------------------------------


def test_a_row_is_there_before_the_call_returns_and_goes_when_it_has_been_handled(hosts: Hosts) -> None:
    a, _ = hosts.start("a", "b")
    there = hosts.ref("b")
    schedule = a.send_after(there, {"n": (1, b"x")}, 1.0)
    ((key, due, attempt, claimed, error),) = hosts.rows()
    assert (key, attempt, claimed, error) == (schedule, 0, None, None)
    assert schedule.startswith("pg-")
    until(lambda: hosts.seen)
    (seen,) = hosts.seen
    assert (seen.host_id, seen.ref, seen.message) == ("b", there, {"n": (1, b"x")})
    assert (seen.schedule, seen.attempt, seen.sender, seen.is_request) == (schedule, 1, None, False)
    assert seen.ctx.due is not None
    assert abs(seen.ctx.due.timestamp() * 1e6 - due) < 2
    assert seen.occurrence is not None
    assert seen.occurrence.startswith(f"{schedule}@")
    until(lambda: hosts.rows() == [])
    assert hosts.sum("schedules_fired") == 1


def test_many_are_sent_once_each_and_none_early(hosts: Hosts) -> None:
    everybody = hosts.start("a", "b", "c")
    early: list[Any] = []
    now = "SELECT extract(epoch FROM clock_timestamp()) * 1000000"

    def check(ctx: Context) -> None:
        assert ctx.due is not None
        if ctx.message % 10 == 0 and float(execute(hosts.dsn, now)[0][0]) < ctx.due.timestamp() * 1e6 - 1:
            early.append(ctx.message)

    hosts.on_message = check
    tasks = [
        in_background(everybody[number % 3].send_after, Ref("a", str(number % 40)), number, number % 7 / 10)
        for number in range(300)
    ]
    ids = [task.get() for task in tasks]
    until(lambda: len(hosts.seen) >= 300, 30)
    hosts.until_settled()
    assert sorted(hosts.messages()) == list(range(300))
    assert {seen.schedule for seen in hosts.seen} == set(ids)
    assert {seen.attempt for seen in hosts.seen} == {1}
    assert early == []
    assert {seen.host_id for seen in hosts.seen} == {"a", "b", "c"}
    assert hosts.sum("schedules_fired") == 300


def test_any_host_can_cancel_and_learns_whether_it_was_in_time(hosts: Hosts) -> None:
    a, b = hosts.start("a", "b")
    pending = a.send_after(Ref("a", "1"), "never", 60)
    assert b.cancel_schedule(pending)
    assert not a.cancel_schedule(pending)
    gone = a.send_after(Ref("a", "1"), "sent", 0)
    until(lambda: hosts.messages() == ["sent"])
    hosts.until_settled()
    assert not b.cancel_schedule(gone)
    go = Event()
    hosts.on_message = lambda ctx: go.wait()
    running = a.send_after(Ref("a", "1"), "running", 0)
    until(lambda: len(hosts.seen) == 2)
    assert not b.cancel_schedule(running), "its handler runs"
    go.set()
    hosts.until_settled()
    assert not a.cancel_schedule("mem-1")
    for strange in ("pg-\0", "pg-\ud800"):
        assert not a.cancel_schedule(strange)
    assert [h.metrics.snapshot()["schedules_cancelled"] for h in (a, b)] == [0, 1]


def test_from_actors_and_their_initialize(hosts: Hosts) -> None:
    """The actor leaves while its schedule is pending, and comes back for it."""
    (a,) = hosts.start("a", idle_timeout=0.2, cleanup_interval=0.05)
    made: list[str] = []

    def begin(ctx: Context) -> None:
        if not made:
            made.append(ctx.send_after(ctx.actor_ref, "wake up", 3600))

    hosts.on_initialize = begin
    a.spawn_local(Ref("a", "1"))
    until(lambda: a.metrics.snapshot()["activations_ended"] == 1)
    hosts.make_due()
    until(lambda: hosts.seen)
    (seen,) = hosts.seen
    assert (seen.message, seen.sender, seen.schedule) == ("wake up", Ref("a", "1"), made[0])
    hosts.until_settled()
    hosts.on_message = lambda ctx: made.append(ctx.send_cron(ctx.actor_ref, "x", "@yearly", misfire="skip"))
    a.send(Ref("a", "1"), "make another")
    until(lambda: len(made) == 2)
    (shown,) = a.schedules()
    assert (shown.id, shown.sender, shown.expression, shown.misfire) == (made[1], Ref("a", "1"), "@yearly", "skip")
    hosts.on_message = lambda ctx: made.append(str(ctx.cancel_schedule(made[1])))
    a.send(Ref("a", "1"), "cancel it")
    until(lambda: len(made) == 3)
    assert made[2] == "True"


def test_what_can_not_be_kept_is_refused_in_the_call(hosts: Hosts) -> None:
    (a,) = hosts.start("a")
    with pytest.raises(MessageNotSerializable):
        a.send_after(Ref("a", "1"), object(), 1)
    with pytest.raises(InvalidRef, match="NUL"):
        a.send_after(Ref("a", "\0"), "x", 1)
    with pytest.raises(InvalidRef):
        a.send_after("a", "x", 1)  # type: ignore[arg-type]
    with pytest.raises(InvalidSchedule):
        a.send_after(Ref("a", "1"), "x", -1)
    with pytest.raises(InvalidSchedule):
        a.send_cron(Ref("a", "1"), "x", "0 0 30 2 *")
    assert hosts.rows() == []


def test_from_another_thread(hosts: Hosts) -> None:
    (a,) = hosts.start("a")
    pool = gevent.get_hub().threadpool
    schedule = pool.apply(a.send_after, (Ref("a", "1"), "x", 60))
    other = pool.apply(a.send_cron, (Ref("a", "1"), "x", "@yearly"))
    assert {item.id for item in pool.apply(a.schedules)} == {schedule, other}
    assert pool.apply(a.cancel_schedule, (schedule,))


class Held(PostgresSchedules):
    """A database whose answer to one kind of call waits, once, for `go`."""

    def __init__(self, store: PostgresSchedules, name: str) -> None:
        self._pool = store._pool
        self._life = store._life
        self._name: str | None = name
        self.answered = Event()
        self.go = Event()

    def _wait(self, name: str) -> None:
        if name == self._name:
            self._name = None
            self.answered.set()
            self.go.wait()

    def claim(self, at_most: int) -> Claim | None:
        found = super().claim(at_most)
        self._wait("claim")
        return found

    def adjust(self, epoch: int, changes: Any) -> None:
        super().adjust(epoch, changes)
        self._wait("adjust")


@pytest.mark.parametrize("call", ["claim", "adjust"])
def test_what_is_written_while_a_claim_is_under_way_does_not_wait_for_the_next_sweep(hosts: Hosts, call: str) -> None:
    """The claim has not seen it, and that it is due was announced before the claim's answer came."""
    (a,) = hosts.start("a", schedule_recovery_interval=3600.0)
    schedules = a._schedules
    assert isinstance(schedules, DurableSchedules)
    assert isinstance(schedules._store, PostgresSchedules)
    a.send_cron(Ref("a", "cron"), "recurring", hourly())
    execute(hosts.dsn, "UPDATE schedules SET due_us = due_us - %s, at_us = 0", 5 * 60 * MINUTE)
    schedules._store = held = Held(schedules._store, call)
    a.send_after(Ref("a", "1"), "first", 0)
    assert held.answered.wait(20)
    a.send_after(Ref("a", "2"), "second", 0)
    held.go.set()
    until(lambda: sorted(hosts.messages()) == ["first", "recurring", "second"], 20)


def test_a_list_of_a_few_reads_neither_all_rows_nor_large_messages(hosts: Hosts) -> None:
    (a,) = hosts.start("a")
    made = [a.send_after(Ref("a", str(number)), "x" * (number * 1000), 3600 + number) for number in range(5)]
    until(lambda: a._schedules.first(2)[1] == 5)
    found, total = a._schedules.first(3)
    assert ([schedule.id for schedule in found], total) == (made[:3], 5)
    assert [schedule.body for schedule in found[:2]] == ["", "x" * 1000]
    assert repr(found[2].body) == "<more than 1024 bytes>"
    assert found[2].error is None
    assert a._schedules.first(10)[1] == 5
    pool = gevent.get_hub().threadpool
    assert [schedule.id for schedule in pool.apply(a._schedules.first, (2,))[0]] == made[:2]
    assert [len(schedule.body) for schedule in a.schedules()] == [0, 1000, 2000, 3000, 4000]


# -- recurring messages ------------------------------------------------------------------------------------------


def hourly() -> str:
    """An expression that is due every hour, and far from now."""
    return f"{(datetime.now(timezone.utc).minute + 30) % 60} * * * *"


def test_recurring_ones_and_what_they_missed(hosts: Hosts) -> None:
    """Rows are made to look as if nobody had been there for five and a half hours."""
    (a,) = hosts.start("a")
    ids = {
        policy: a.send_cron(Ref("a", policy), policy, hourly(), misfire=policy) for policy in ("once", "all", "skip")
    }
    (first,) = {due for _, due, *_ in hosts.rows()}
    hour = 60 * MINUTE
    execute(hosts.dsn, "UPDATE schedules SET due_us = due_us - %s, at_us = 0", 5 * hour)
    until(lambda: len(hosts.seen) >= 6)
    hosts.until_settled()
    counts = {policy: hosts.messages().count(policy) for policy in ids}
    assert counts == {"once": 1, "all": 5, "skip": 0}
    dues = [round(seen.ctx.due.timestamp() * 1e6) for seen in hosts.seen if seen.message == "all" and seen.ctx.due]
    assert dues == [first - number * hour for number in (5, 4, 3, 2, 1)]
    (once,) = [seen for seen in hosts.seen if seen.message == "once"]
    assert once.ctx.due is not None
    assert round(once.ctx.due.timestamp() * 1e6) == first - hour
    assert len({seen.occurrence for seen in hosts.seen}) == 6
    assert {(key, due, attempt) for key, due, attempt, *_ in hosts.rows()} == {(key, first, 0) for key in ids.values()}


def test_a_due_time_that_was_begun_is_tried_again_as_itself(hosts: Hosts) -> None:
    """What a host has begun before it died is not merged with what came due later."""
    (a,) = hosts.start("a")
    a.send_cron(Ref("a", "1"), "x", hourly())
    ((_, first, *_),) = hosts.rows()
    begun = first - 5 * 60 * MINUTE
    execute(hosts.dsn, "UPDATE schedules SET due_us = %s, at_us = 0, attempt = 1", begun)
    until(lambda: len(hosts.seen) == 2)
    assert [round(s.ctx.due.timestamp() * 1e6) for s in hosts.seen if s.ctx.due] == [begun, first - 60 * MINUTE]
    assert [seen.attempt for seen in hosts.seen] == [2, 1]


def test_each_time_comes_once_whichever_of_the_hosts_sends_it(hosts: Hosts) -> None:
    everybody = hosts.start("a", "b", "c")
    ids = [
        everybody[number % 3].send_cron(Ref("a", str(number)), number, hourly(), misfire="all") for number in range(21)
    ]
    (first,) = {due for _, due, *_ in hosts.rows()}
    hour = 60 * MINUTE
    execute(hosts.dsn, "UPDATE schedules SET due_us = due_us - %s, at_us = 0", 10 * hour)
    until(lambda: len(hosts.seen) >= 210, 30)
    hosts.until_settled()
    dues = [(seen.schedule, round(seen.ctx.due.timestamp() * 1e6)) for seen in hosts.seen if seen.ctx.due]
    assert sorted(dues) == sorted((key, first - number * hour) for key in ids for number in range(1, 11))
    assert {seen.attempt for seen in hosts.seen} == {1}
    assert hosts.sum("schedules_fired") == 210
    assert {(due, attempt) for _, due, attempt, *_ in hosts.rows()} == {(first, 0)}


# -- handlers that fail ------------------------------------------------------------------------------------------


def test_what_has_been_handled_badly_has_been_handled(hosts: Hosts) -> None:
    a, _ = hosts.start("a", "b")

    def misbehave(ctx: Context) -> None:
        if ctx.message == "raise":
            raise ZeroDivisionError
        if ctx.message == "stop":
            raise StopActor
        ctx.reply("nobody asked")

    hosts.on_message = misbehave
    for owner in "ab":
        for word in ("raise", "stop", "reply"):
            a.send_after(hosts.ref(owner), word, 0)
    until(lambda: len(hosts.seen) == 6)
    hosts.until_settled()
    assert hosts.rows() == []
    assert len(hosts.seen) == 6
    assert hosts.sum("schedules_fired") == 6
    assert hosts.sum("replies_late") == 0


def test_a_dead_letter_ends_a_schedule(hosts: Hosts) -> None:
    a, b = hosts.start("a", "b")
    for host in (a, b):
        host.register_actor("broken", lambda: 1 / 0)
    for number in range(4):
        a.send_after(Ref("broken", str(number)), "lost", 0)
        a.send_after(Ref("unknown", str(number)), "lost too", 0)
    until(lambda: len(hosts.dead) == 8)
    hosts.until_settled()
    assert hosts.rows() == []
    assert sorted(letter.ref.type for letter in hosts.dead) == ["broken"] * 4 + ["unknown"] * 4


def test_a_full_inbox_holds_up_nobody_else(hosts: Hosts) -> None:
    a, _ = hosts.start("a", "b", actor_inbox_size=2, request_timeout=0.3)
    go = Event()
    stuck = {hosts.ref("a"), hosts.ref("b")}
    hosts.on_message = lambda ctx: go.wait() if ctx.actor_ref in stuck else None
    for number in range(60):
        for ref in stuck:
            a.send_after(ref, number, 0)
        a.send_after(Ref("a", "free"), number, 0.1)
    until(lambda: sum(seen.ref == Ref("a", "free") for seen in hosts.seen) == 60, 20)
    assert len(hosts.seen) == 62
    assert hosts.sum("schedules_lag_ms") > 0
    go.set()
    until(lambda: len(hosts.seen) >= 180, 20)
    hosts.until_settled()
    assert len(hosts.seen) == 180, "each once"


@pytest.mark.parametrize(("actors", "each"), [(24, 1100), (300, 16)])
def test_many_stuck_actors_hold_up_nobody_else(hosts: Hosts, actors: int, each: int) -> None:
    """More than a host has claimed at a time, and more than it has under way."""
    (a,) = hosts.start("a", drain_timeout=20.0)
    go = Event()
    hosts.on_message = lambda ctx: None if ctx.actor_ref.id == "free" else go.wait()
    execute(
        hosts.dsn,
        "INSERT INTO schedules (id, actor_type, actor_id, body, due_us, at_us) "
        "SELECT 'pg-' || n, 'a', (n %% %s)::text, '\\x01', 1000000 + n, 1000000 + n FROM generate_series(1, %s) n",
        actors,
        actors * each,
    )
    try:
        until(lambda: len(hosts.seen) == actors, 30)
        a.send_after(Ref("a", "free"), "free", 0)
        until(lambda: hosts.messages().count("free") == 1, 40)
        assert len(hosts.seen) == actors + 1
    finally:
        go.set()


# -- rows that can't be sent -------------------------------------------------------------------------------------


def test_rows_that_can_not_be_decoded_block_nobody(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    (a,) = hosts.start("a")
    made = {number: a.send_after(Ref("a", str(number)), number, 3600) for number in range(40)}
    bad = [made[number] for number in range(0, 40, 2)]
    execute(hosts.dsn, "UPDATE schedules SET body = '\\xc1ff' WHERE id = ANY (%s)", bad[1:])
    execute(hosts.dsn, "UPDATE schedules SET expression = 'nonsense' WHERE id = %s", bad[0])
    hosts.make_due()
    with caplog.at_level(logging.ERROR, "theatre_gevent.schedules"):
        until(lambda: len(hosts.seen) == 20)
        until(lambda: sum(row[4] is not None for row in hosts.rows()) == 20)
    assert sorted(hosts.messages()) == list(range(1, 40, 2))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 20
    assert all(any(key in text for text in told) for key in bad)
    shown = a.schedules()
    assert {item.id for item in shown if item.error} == set(bad)
    # Whoever comes next tries them again: it may know more.
    execute(hosts.dsn, "UPDATE schedules SET body = %s, expression = NULL", b"\x07")
    hosts.start("b")
    until(lambda: len(hosts.seen) == 40)
    assert hosts.messages().count(7) == 21
    hosts.until_settled()
    assert hosts.rows() == []


# -- freezing and stopping ---------------------------------------------------------------------------------------


def test_a_frozen_host_sends_nothing_and_others_do(hosts: Hosts) -> None:
    a, b = hosts.start("a", "b")
    mine, other = hosts.ref("a"), hosts.ref("b")
    later = [b.send_after(other, "while a is frozen", 3600), a.send_after(mine, "to a", 3600)]
    a.freeze()
    hosts.make_due()
    with pytest.raises(HostFrozen):
        a.send_after(other, "x", 1)
    until(lambda: hosts.messages() == ["while a is frozen"])
    assert a.metrics.snapshot()["schedules_fired"] == 0
    a.unfreeze()
    until(lambda: len(hosts.seen) == 2, 20)
    assert {seen.schedule for seen in hosts.seen} == set(later)
    assert hosts.seen[1].host_id == "a"
    hosts.until_settled()
    assert hosts.rows() == []


def lag(host: Host) -> int:
    """By how many milliseconds the oldest due message is late, as a host says."""
    return host.metrics.snapshot()["schedules_lag_ms"]


def until_it_grows(host: Host) -> None:
    until(lambda: lag(host) > 0, 20)
    first = lag(host)
    until(lambda: lag(host) > first)


def test_while_all_are_frozen_what_is_due_is_late_at_each(hosts: Hosts) -> None:
    everybody = hosts.start("a", "b")
    everybody[0].send_after(hosts.ref("a"), "x", 3600)
    for host in everybody:
        host.freeze()
    assert [lag(host) for host in everybody] == [0, 0]
    hosts.make_due()
    for host in everybody:
        until_it_grows(host)
    assert hosts.seen == []
    everybody[0].unfreeze()
    until(lambda: hosts.seen, 20)
    hosts.until_settled()
    until(lambda: [lag(host) for host in everybody] == [0, 0])


def test_what_waits_for_another_attempt_is_late(hosts: Hosts) -> None:
    (a,) = hosts.start("a")
    a.send_after(Ref("a", "1"), "x", 3600)
    now = "extract(epoch FROM clock_timestamp()) * 1000000"
    execute(hosts.dsn, f"UPDATE schedules SET due_us = {now} - 60000000, at_us = {now} + 50000000, attempt = 1")  # noqa: S608
    until(lambda: lag(a) >= 60_000)
    assert hosts.seen == []
    hosts.make_due()
    until(lambda: [seen.attempt for seen in hosts.seen] == [2])
    until(lambda: lag(a) == 0)


def test_a_host_that_stops_leaves_what_is_pending_to_others(hosts: Hosts) -> None:
    a, b = hosts.start("a", "b")
    go = Event()
    hosts.on_message = lambda ctx: go.wait() if ctx.message == "slow" else None
    a.send_after(hosts.ref("a"), "slow", 0)
    a.send_after(hosts.ref("b"), "slow", 0)
    until(lambda: len(hosts.seen) == 2)
    for number in range(20):
        a.send_after(Ref("a", str(number)), number, 3600)
    stopping = in_background(a.stop)
    until(lambda: a.state != "active")
    hosts.make_due()
    go.set()
    stopping.get(timeout=20)
    until(lambda: len(hosts.seen) >= 22)
    hosts.until_settled()
    assert hosts.messages().count("slow") == 2, "what was under way has been waited for"
    assert sorted(item for item in hosts.messages() if item != "slow") == list(range(20))
    assert hosts.rows() == []
    assert b.schedules() == []


def test_a_handler_that_does_not_end_is_given_back_when_its_host_stops(hosts: Hosts) -> None:
    a, b = hosts.start("a", "b", drain_timeout=0.3)
    ends = Event()

    def stay(ctx: Context) -> None:
        if len(hosts.seen) == 1:
            ends.wait()

    hosts.on_message = stay
    schedule = b.send_after(hosts.ref("a"), "x", 0)
    until(lambda: len(hosts.seen) == 1)
    a.stop()
    ends.set()
    until(lambda: len(hosts.seen) == 2, 30)
    assert [(seen.host_id, seen.schedule, seen.attempt > 1) for seen in hosts.seen] == [
        ("a", schedule, False),
        ("b", schedule, True),
    ]
    hosts.until_settled()


# -- the database goes and comes -----------------------------------------------------------------------------------


def test_without_the_database_the_call_raises(hosts: Hosts) -> None:
    with EmbeddedPostgres() as own:
        hosts.dsn = own.dsn
        (a,) = hosts.start("a", lease_duration=30.0)
        kept = a.send_after(Ref("a", "1"), "kept", 3600)
        a.send_after(Ref("a", "1"), "soon", 5)
        own.shutdown()
        verbs: list[Callable[[], object]] = [
            lambda: a.send_after(Ref("a", "1"), "x", 1),
            lambda: a.send_cron(Ref("a", "1"), "x", "* * * * *"),
            lambda: a.cancel_schedule(kept),
            a.schedules,
        ]
        for verb in verbs:
            with pytest.raises(DatabaseError):
                verb()
        until_it_grows(a)
        assert hosts.seen == []
        own.restart()
        until(lambda: hosts.messages() == ["soon"], 20)
        hosts.make_due()
        until(lambda: hosts.messages() == ["soon", "kept"], 20)
        assert a.send_after(Ref("a", "1"), "again", 0)
        until(lambda: hosts.messages() == ["soon", "kept", "again"])
        hosts.until_settled()
        until(lambda: lag(a) == 0)
        hosts.stop()


FORK = """
from theatre_gevent import monkey
monkey.patch_all()
import os, sys
import gevent
from theatre_gevent import Host, Ref

got = []
host = Host(host_id="a", listen="127.0.0.1:0", dsn=sys.argv[1], schedule_recovery_interval=0.1)
host.register_actor("a", lambda ctx: got.append((ctx.message, ctx.attempt)) if ctx.schedule_id else None)
host.start()
for number in range(20):
    host.send_after(Ref("a", str(number)), number, 0.3 + number / 20)
child = os.fork()
if child == 0:
    gevent.sleep(1.5)  # whatever the copied greenlets do, they do it now
    os._exit(len(got))
with gevent.Timeout(30):
    while len(got) < 20:
        gevent.sleep(0.01)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        gevent.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 0, "the copy has sent something"
    host.send_after(Ref("a", "x"), "after", 0)
    while len(got) < 21:
        gevent.sleep(0.01)
assert sorted(got, key=str) == sorted([("after", 1), *((number, 1) for number in range(20))], key=str), got
pool = host._schedules._store._pool
assert pool.discards == 0, "the copy has used the connections"
host.stop()
"""


def test_a_forked_copy_touches_nothing(dsn: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", FORK, dsn],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Unlucky(PostgresSchedules):
    """A database whose answers get lost now and then, after it has done what it was asked, or before."""

    def __init__(self, store: PostgresSchedules) -> None:
        self._pool = store._pool
        self._life = store._life
        self.calls: dict[str, int] = {}

    def _lose(self, what: str, error: type[DatabaseError] = AnswerLost) -> None:
        """Of each kind of call the second and every third after it fail."""
        self.calls[what] = number = self.calls.get(what, 0) + 1
        if number % 3 == 2:
            raise error(what)

    def insert(self, rows: Any) -> dict[str, int]:
        found = super().insert(rows)
        self._lose("insert")
        return found

    def claim(self, at_most: int) -> Claim | None:
        self._lose("ask", DatabaseUnavailable)
        found = super().claim(min(at_most, 5))
        self._lose("claim")
        return found

    def done(self, handled: Any) -> None:
        super().done(handled[:3])
        self._lose("done")
        super().done(handled)

    def give_back(self, epoch: int, rows: Any, *, untried: bool) -> None:
        super().give_back(epoch, rows, untried=untried)
        self._lose("give back")


def test_answers_that_get_lost_lose_no_schedule(hosts: Hosts) -> None:
    """Claims that nobody knows of are found and given back; what was confirmed stays confirmed."""
    (a,) = hosts.start("a")
    schedules = a._schedules
    assert isinstance(schedules, DurableSchedules)
    store = schedules._store
    assert isinstance(store, PostgresSchedules)
    unlucky = Unlucky(store)
    schedules._store = schedules._confirming._store = schedules._writing._store = unlucky
    made = []
    for number in range(40):
        try:
            made.append(a.send_after(Ref("a", str(number)), number, 0.2))
        except AnswerLost:
            pass  # the row may be there
    until(lambda: {seen.schedule for seen in hosts.seen} >= set(made), 30)
    hosts.until_settled()
    assert hosts.rows() == []
    assert min(unlucky.calls.get(word, 0) for word in ("insert", "ask", "claim", "done")) > 1
    again = [seen for seen in hosts.seen if seen.attempt == 1]
    assert len({seen.schedule for seen in again}) == len(again), "what may have been handled before says so"
