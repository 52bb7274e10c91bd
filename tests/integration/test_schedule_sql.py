"""The table of schedules: who may claim, confirm, give back and cancel which row, on a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from msgspec.structs import replace

from theatre_gevent import migrate_schema
from theatre_gevent.cluster import postgres
from theatre_gevent.cluster import schedule_sql as sql
from theatre_gevent.cluster.green import GreenConnection, connect
from theatre_gevent.cluster.store import Life
from theatre_gevent.logic.schedules import Row

MINUTE = 60_000_000


class Table:
    """A fresh table, connections to it, and lives of hosts."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._made: list[GreenConnection] = []
        self.main = self.connect()
        self.other = self.connect()
        self.a = self.life("a")
        self.b = self.life("b")

    def connect(self) -> GreenConnection:
        connection = connect(self._dsn, statement_timeout=20.0, connect_timeout=20.0)
        self._made.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._made:
            connection.close()

    def life(self, host_id: str) -> Life:
        life = Life(host_id, postgres.next_epoch(self.main))
        postgres.register(self.main, life, "127.0.0.1:7000", 3.0)
        return life

    def add(self, key: str, due: int = 0, **fields: Any) -> None:
        """Write a row that is due in so many microseconds, or, if it recurs, at that time."""
        sql.insert(self.main, [Row(key, "t", "i", None, None, b"\xc0", due, **fields)])

    def claim(self, life: Life | None = None, at_most: int = 100) -> list[str]:
        """Claim, and return the ids."""
        return [row.id for row in sql.claim(self.main, life or self.a, at_most).rows]

    def row(self, key: str) -> Row | None:
        found = [row for row in sql.read(self.main, 1000) if row.id == key]
        return found[0] if found else None

    def due(self, key: str) -> int:
        row = self.row(key)
        assert row is not None
        return row.due_us

    def at(self, key: str) -> int:
        row = self.row(key)
        assert row is not None
        return row.at_us

    def age(self, key: str, seconds: float) -> None:
        """Make a row due earlier."""
        by = int(seconds * 1e6)
        self.main.run("UPDATE schedules SET due_us = due_us - %s, at_us = at_us - %s WHERE id = %s", (by, by, key))


@pytest.fixture
def table(dsn: str) -> Iterator[Table]:
    migrate_schema(dsn)
    table = Table(dsn)
    yield table
    table.close()


def test_a_row_comes_back_as_it_was_written(table: Table) -> None:
    before = sql.now(table.main)
    rows = [
        Row("1", "t", "i", None, None, bytes(range(256)), 5 * MINUTE),
        Row("2", "ty'pe\\", 'i"d%s {}', "s", "ü", b"", 123, 0, "* * * * *", "Europe/Berlin", "all"),
    ]
    dues = sql.insert(table.main, rows)
    after = sql.now(table.main)
    assert before + 5 * MINUTE <= dues["1"] <= after + 5 * MINUTE, "so long after the call, by the database's clock"
    assert dues["2"] == 123
    assert sorted(sql.read(table.main, 10), key=lambda row: row.id) == [
        replace(row, due_us=dues[row.id], at_us=dues[row.id]) for row in rows
    ]


def test_writing_again_changes_nothing(table: Table) -> None:
    table.add("1")
    due = table.due("1")
    row = Row("1", "other", "other", None, None, b"other", MINUTE)
    assert sql.insert(table.main, [row, replace(row, id="2")]).keys() == {"2"}
    found = table.row("1")
    assert found is not None
    assert (found.due_us, found.actor_type) == (due, "t")


def test_what_is_due_is_claimed_once_the_oldest_first(table: Table) -> None:
    for key in "abcde":
        table.add(key)
        table.age(key, ord(key))
    table.add("later", MINUTE)
    assert table.claim(at_most=2) == ["e", "d"]
    assert table.claim(table.b, at_most=2) == ["c", "b"]
    claim = sql.claim(table.main, table.a, 100)
    assert [(row.id, row.attempt, row.host_id, row.epoch) for row in claim.rows] == [("a", 1, "a", table.a.epoch)]
    assert claim.next_us == table.due("later")
    assert table.claim() == []


def test_nothing_is_due_and_nothing_will_be(table: Table) -> None:
    claim = sql.claim(table.main, table.a, 100)
    assert (claim.next_us, claim.rows) == (None, [])
    assert abs(claim.now_us - sql.now(table.main)) < MINUTE


def test_two_hosts_that_claim_at_once_get_different_rows(table: Table) -> None:
    for number in range(20):
        table.add(f"{number:02}")
    table.other.run("BEGIN")
    first = sql.claim(table.other, table.b, 10)
    second = sql.claim(table.main, table.a, 100)
    table.other.run("COMMIT")
    found = [{row.id for row in claim.rows} for claim in (first, second)]
    assert [len(ids) for ids in found] == [10, 10], "the locked ones were passed over, not waited for"
    assert not found[0] & found[1]


def test_many_that_claim_at_once_get_each_row_once(table: Table) -> None:
    sql.insert(table.main, [Row(f"{number}", "t", "i", None, None, b"", 0) for number in range(500)])
    got: list[str] = []

    def claim_all(life: Life) -> None:
        connection = table.connect()
        while rows := sql.claim(connection, life, 7).rows:
            got.extend(row.id for row in rows)

    gevent.joinall([gevent.spawn(claim_all, life) for life in (table.a, table.b) * 3], raise_error=True)
    got += table.claim()  # what somebody had locked when the last one looked
    assert sorted(got) == sorted(str(number) for number in range(500))


def test_a_life_that_is_over_claims_nothing(table: Table) -> None:
    table.add("1")
    postgres.fence_self(table.main, table.a)
    assert table.claim(table.a) == []
    assert table.claim(Life("a", 999)) == [], "nor one that never was"
    assert table.claim(table.b) == ["1"]


def test_a_single_message_goes_when_it_is_done(table: Table) -> None:
    table.add("1")
    table.add("2")
    table.claim()
    due = table.due("1")
    sql.done(table.main, [("1", due + 1, None)])
    assert table.row("1") is not None, "that was another due time"
    sql.done(table.main, [("1", due, None)])
    assert table.row("1") is None
    assert table.row("2") is not None
    sql.done(table.main, [("1", due, None)])


def test_a_recurring_one_gets_its_next_due_time(table: Table) -> None:
    table.add("1", 120_000_000, expression="* * * * *", misfire="once")
    assert table.claim() == ["1"]
    sql.done(table.main, [("1", 120_000_000, 180_000_000)])
    assert table.row("1") == Row(
        *("1", "t", "i", None, None, b"\xc0", 180_000_000), expression="* * * * *", misfire="once", at_us=180_000_000
    )
    assert table.claim(table.b) == ["1"]
    sql.done(table.main, [("1", 120_000_000, 180_000_000)])
    row = table.row("1")
    assert row is not None
    assert row.host_id == "b", "what is late changes nothing of the next due time"
    sql.done(table.main, [("1", 180_000_000, None)])
    assert table.row("1") is None


def test_another_due_time_is_fired(table: Table) -> None:
    table.add("1", 60_000_000, expression="* * * * *", misfire="once")
    table.claim()
    sql.adjust(table.main, table.b.epoch, [("1", 60_000_000, 600_000_000)])
    assert table.due("1") == 60_000_000, "that host has not claimed it"
    sql.adjust(table.main, table.a.epoch, [("1", 60_000_000, 600_000_000)])
    assert table.due("1") == 600_000_000


def test_given_back_it_is_claimed_again_later(table: Table) -> None:
    table.add("1")
    table.claim()
    due = table.due("1")
    sql.give_back(table.main, table.b.epoch, [("1", due, due, 0)], untried=False)
    assert table.claim() == [], "another host can't give it back"
    sql.give_back(table.main, table.a.epoch, [("1", due, due, MINUTE)], untried=False)
    claim = sql.claim(table.main, table.a, 10)
    assert claim.rows == []
    assert claim.next_us is not None
    assert claim.next_us > claim.now_us + MINUTE / 2
    table.main.run("UPDATE schedules SET at_us = 0")
    (again,) = sql.claim(table.main, table.b, 10).rows
    assert (again.attempt, again.due_us) == (2, due)
    sql.give_back(table.main, table.b.epoch, [("1", due, 0, 0)], untried=True)
    (again,) = sql.claim(table.main, table.a, 10).rows
    assert again.attempt == 2, "an attempt that was none does not count"


@pytest.mark.parametrize("untried", [False, True])
def test_said_again_it_gives_back_no_other_claim(table: Table, untried: bool) -> None:
    """The answer was lost, and the same host claims the row again before it has asked again."""
    table.add("1")
    for attempt in range(1, 4):
        (row,) = sql.claim(table.main, table.a, 10).rows
        assert row.attempt == (1 if untried else attempt)
        given = [("1", row.due_us, row.at_us, 0)]
        sql.give_back(table.main, table.a.epoch, given, untried=untried)
        (again,) = sql.claim(table.main, table.a, 10).rows
        sql.give_back(table.main, table.a.epoch, given, untried=untried)
        assert table.row("1") == again, "it is being handled"
        sql.give_back(table.main, table.a.epoch, [("1", again.due_us, again.at_us, 0)], untried=True)


def test_what_a_dead_host_has_claimed_is_free_again(table: Table) -> None:
    c = table.life("c")
    for life in (table.a, table.b, c):
        table.add(life.host_id)
        assert table.claim(life) == [life.host_id]
    assert sql.recover(table.main) == 0, "all of them live"
    postgres.fence_self(table.main, table.a)
    table.main.run("DELETE FROM hosts WHERE host_id = 'c'")
    assert sql.recover(table.main) == 2
    claim = sql.claim(table.main, table.b, 10)
    assert {(row.id, row.attempt) for row in claim.rows} == {("a", 2), ("c", 2)}
    assert sql.recover(table.main) == 0


def test_a_recovery_that_waits_takes_nothing_from_a_live_host(table: Table) -> None:
    """One host frees and claims a dead one's row while another one is about to free it."""
    dead = table.life("dead")
    table.add("1")
    table.claim(dead)
    postgres.fence_self(table.main, dead)
    table.other.run("BEGIN")
    assert sql.recover(table.other) == 1
    assert [row.id for row in sql.claim(table.other, table.b, 10).rows] == ["1"]
    third = table.connect()
    freed = gevent.spawn(sql.recover, third)
    pid = third.get_backend_pid()
    blocked = "SELECT cardinality(pg_blocking_pids(%s))"
    with gevent.Timeout(10):
        while not table.main.run(blocked, (pid,))[0][0]:
            gevent.sleep(0.01)
    table.other.run("COMMIT")
    assert freed.get(timeout=10) == 0
    row = table.row("1")
    assert row is not None
    assert (row.host_id, row.epoch) == ("b", table.b.epoch)


def test_what_a_life_has_claimed(table: Table) -> None:
    table.add("1")
    table.add("2", MINUTE)
    table.claim()
    assert sql.claimed(table.main, table.a.epoch) == [("1", table.due("1"), table.at("1"))]
    assert sql.claimed(table.main, table.b.epoch) == []


def test_what_is_put_aside_blocks_nothing(table: Table) -> None:
    for number in range(20):
        table.add(f"bad{number}")
    bad = table.claim()
    for key in bad:
        sql.park(table.main, table.b.epoch, key, "not its own")
        sql.park(table.main, table.a.epoch, key, "no such class: \0 \ud800")
    table.add("good")
    assert table.claim(at_most=1) == ["good"]
    shown = sql.read(table.main, 30)
    assert [row.error is not None for row in shown] == [True] * 20 + [False], "they come first"
    assert shown[0].error is not None
    assert shown[0].error.startswith("no such class")
    assert sql.cancel(table.main, bad[0])
    assert sql.unpark(table.main) == 19
    assert sorted(table.claim()) == sorted(bad[1:])


def test_cancel(table: Table) -> None:
    table.add("pending", MINUTE)
    table.add("claimed")
    table.add("recurring", 60_000_000, expression="* * * * *")
    assert sorted(table.claim()) == ["claimed", "recurring"]
    assert sql.cancel(table.main, "pending")
    assert not sql.cancel(table.main, "pending")
    assert not sql.cancel(table.main, "claimed"), "it is being sent"
    assert sql.cancel(table.main, "recurring"), "it will not be sent again"
    postgres.fence_self(table.main, table.a)
    assert not sql.cancel(table.main, "claimed"), "its host is gone, and may have handled it"
    assert sql.read(table.main, 10) == [], "but it is not sent again"


def test_cancel_is_not_in_time_after_a_first_attempt(table: Table) -> None:
    for key in ("handled, perhaps", "given back", "put aside"):
        table.add(key)
    table.add("recurring", expression="* * * * *")
    due = {row.id: row.due_us for row in sql.read(table.main, 10)}
    table.claim()
    sql.give_back(
        table.main, table.a.epoch, [("given back", due["given back"], table.at("given back"), MINUTE)], untried=True
    )
    sql.park(table.main, table.a.epoch, "put aside", "no such class")
    postgres.fence_self(table.main, table.a)
    sql.recover(table.main)
    answers = {key: sql.cancel(table.main, key) for key in due}
    assert answers == {"handled, perhaps": False, "given back": True, "put aside": True, "recurring": True}
    assert sql.read(table.main, 10) == []


def test_counting_has_an_end(table: Table) -> None:
    sql.insert(table.main, [Row(f"{number}", "t", "i", None, None, b"", MINUTE) for number in range(30)])
    assert sql.tally(table.main, 100).total == 30
    assert sql.tally(table.main, 10).total == 10
    assert len(sql.read(table.main, 7)) == 7


def test_how_late_what_nobody_has_claimed_is(table: Table) -> None:
    def tally() -> tuple[int | None, int | None]:
        found = sql.tally(table.main, 100)
        assert abs(found.now_us - sql.now(table.main)) < MINUTE
        return found.waiting_us, found.retried_us

    assert tally() == (None, None)
    table.add("parked")
    table.age("parked", 7200)
    table.claim()
    sql.park(table.main, table.a.epoch, "parked", "bad")
    table.add("claimed")
    table.claim()
    assert tally() == (None, None)
    table.add("later", 5 * MINUTE)
    table.add("soon", MINUTE // 2)
    assert tally() == (table.due("soon"), None), "when it will be looked at"
    for key, age in (("late", 60), ("later still", 3600)):
        table.add(key)
        table.age(key, age)
    assert tally() == (table.due("later still"), None)
    table.main.run("UPDATE schedules SET at_us = at_us + 3599000000 WHERE id = 'later still'")
    assert tally() == (table.due("later still"), None), "looked at later and due earlier"
    assert sorted(table.claim()) == ["late", "later still"]
    due = table.due("later still")
    given = [("later still", due, table.at("later still"), MINUTE // 4)]
    sql.give_back(table.main, table.a.epoch, given, untried=False)
    assert tally() == (table.main.run("SELECT at_us FROM schedules WHERE id = 'later still'")[0][0], due)


def test_claims_of_a_large_table_look_at_what_is_due_alone(table: Table) -> None:
    """A hundred thousand pending, also right after they were written, when the planner knows nothing of them."""
    table.main.run(
        "INSERT INTO schedules (id, actor_type, actor_id, body, due_us, at_us) "
        "SELECT 'far' || n, 't', 'i', '', 8e15::bigint, 8e15::bigint FROM generate_series(1, 100000) n"
    )
    for number in range(50):
        table.add(f"{number}")
    for statement in ("SELECT 1", "ANALYZE schedules"):
        table.main.run(statement)
        table.main.run("SELECT pg_stat_reset_single_table_counters('schedules'::regclass)")
        connection = table.connect()
        rows = sql.claim(connection, table.a, 25).rows
        assert len(rows) == 25
        given = [(row.id, row.due_us, row.at_us, MINUTE) for row in rows[:10]]
        sql.give_back(connection, table.a.epoch, given, untried=False)
        sql.done(connection, [(row.id, row.due_us, None) for row in rows[10:]])
        sql.recover(connection)
        assert len(sql.read(connection, 30)) == 30
        assert sql.tally(connection, 0).total == 0
        connection.close()
        with gevent.Timeout(10):  # a backend tells what it has done when it ends
            while True:
                scans, looks = table.main.run(
                    "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'schedules'"
                )[0]
                if looks:
                    break
                gevent.sleep(0.02)
        assert scans == 0
