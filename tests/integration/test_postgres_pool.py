"""The pool: waiting, giving back, dead connections, killed greenlets, closing."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from gevent import Greenlet
from gevent.event import Event

from tests.integration.postgres_support import Cluster, MuteServer, Proxy, cluster, mute_server, proxy, terminate
from tests.support import in_background, until
from theatre_gevent import AnswerLost, DatabaseRefused, DatabaseUnavailable, InvalidOption
from theatre_gevent.cluster.green import GreenConnection
from theatre_gevent.cluster.pool import Pool
from theatre_gevent.cluster.store import PoolTimeout
from theatre_gevent.core.threads import allocate_lock

__all__ = ["cluster", "mute_server", "proxy"]


@pytest.fixture
def pool(dsn: str) -> Iterator[Pool]:
    pool = Pool(dsn, 2, connect_timeout=20.0, statement_timeout=20.0)
    yield pool
    pool.close()


def pid(pool: Pool) -> int:
    with pool.connection() as connection:
        return int(connection.run("SELECT pg_backend_pid()")[0][0])


def counts(pool: Pool) -> tuple[int, int, int, int]:
    return pool.in_use, pool.idle, pool.connects, pool.discards


class Borrower:
    """A greenlet that has a connection until it is told to go on."""

    def __init__(self, pool: Pool, timeout: float | None = None) -> None:
        self.has = Event()
        self.go_on = Event()
        self.task = in_background(self._borrow, pool, timeout)

    def _borrow(self, pool: Pool, timeout: float | None) -> int:
        with pool.connection(timeout) as connection:
            self.has.set()
            self.go_on.wait()
            return int(connection.run("SELECT pg_backend_pid()")[0][0])

    def end(self) -> int:
        self.go_on.set()
        return int(self.task.get())


def test_a_connection_is_made_when_it_is_needed_and_kept(pool: Pool) -> None:
    assert counts(pool) == (0, 0, 0, 0)
    first = pid(pool)
    assert counts(pool) == (0, 1, 1, 0)
    assert [pid(pool) for _ in range(3)] == [first] * 3
    assert counts(pool) == (0, 1, 1, 0)


def test_the_one_used_last_is_used_next(pool: Pool) -> None:
    one, two = Borrower(pool), Borrower(pool)
    assert one.has.wait(10)
    assert two.has.wait(10)
    assert pool.in_use == 2
    one.end()
    last = two.end()
    assert counts(pool) == (0, 2, 2, 0)
    assert [pid(pool) for _ in range(3)] == [last] * 3


def test_who_finds_all_busy_waits_for_his_turn(pool: Pool) -> None:
    busy = [Borrower(pool), Borrower(pool)]
    assert all(one.has.wait(10) for one in busy)
    waiting = [Borrower(pool) for _ in range(3)]
    until(lambda: pool.waiting == 3)
    assert not any(one.has.is_set() for one in waiting)
    freed = busy[0].end()
    assert waiting[0].has.wait(10), "first come, first served"
    assert not waiting[1].has.is_set()
    assert waiting[0].end() == freed
    for one in (busy[1], *waiting[1:]):
        one.end()
    assert (pool.waits, pool.waiting) == (3, 0)
    assert counts(pool) == (0, 2, 2, 0)


def test_who_waits_too_long_gets_an_error(pool: Pool) -> None:
    busy = [Borrower(pool), Borrower(pool)]
    assert all(one.has.wait(10) for one in busy)
    with pytest.raises(PoolTimeout, match="all 2 connections"):
        Borrower(pool, timeout=0.02).task.get()
    assert (pool.waits, pool.waiting) == (1, 0)
    for one in busy:
        one.end()
    pid(pool)


def test_many_greenlets_share_few_connections(pool: Pool) -> None:
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with pool.connection(20.0) as connection:
                inside += 1
                most = max(most, inside)
                assert connection.run("SELECT 1 FROM pg_sleep(0.001)") == [(1,)]
                inside -= 1

    tasks = [in_background(work) for _ in range(30)]
    for task in tasks:
        task.get()
    assert most == 2
    assert counts(pool) == (0, 2, 2, 0)


# -- what comes back -------------------------------------------------------------------------------------------


def test_an_error_of_the_database_leaves_the_connection_usable(pool: Pool) -> None:
    first = pid(pool)
    with pytest.raises(DatabaseRefused), pool.connection() as connection:
        connection.run("SELECT * FROM nothing_of_that_name")
    assert pid(pool) == first
    assert counts(pool) == (0, 1, 1, 0)


def test_one_in_the_middle_of_a_transaction_is_thrown_away(pool: Pool) -> None:
    first = pid(pool)
    with pool.connection() as connection:
        connection.run("BEGIN")
    assert counts(pool) == (0, 0, 1, 1)
    assert pid(pool) != first


@pytest.mark.parametrize("sleeping_in", ["SELECT pg_sleep(30)", ""])
def test_the_connection_of_a_killed_greenlet_is_thrown_away(pool: Pool, sleeping_in: str) -> None:
    used: list[GreenConnection] = []

    def work() -> None:
        with pool.connection() as connection:
            used.append(connection)
            if sleeping_in:
                connection.run(sleeping_in)
            else:
                gevent.sleep(30)

    task: Greenlet[..., None] = Greenlet.spawn(work)
    until(lambda: used)
    gevent.sleep(0)
    task.kill()
    (connection,) = used
    assert connection.closed
    assert counts(pool) == (0, 0, 1, 1)
    pid(pool)


def test_a_greenlet_killed_while_it_waits_takes_nothing_with_it(pool: Pool) -> None:
    busy = [Borrower(pool), Borrower(pool)]
    assert all(one.has.wait(10) for one in busy)
    waiting = gevent.spawn(pid, pool)
    until(lambda: pool.waiting == 1)
    waiting.kill()
    assert pool.waiting == 0
    for one in busy:
        one.end()
    again = [Borrower(pool), Borrower(pool)]
    assert all(one.has.wait(10) for one in again)
    for one in again:
        one.end()


def test_a_greenlet_killed_while_it_connects_takes_nothing_with_it(dsn: str, proxy: Proxy) -> None:
    pool = Pool(proxy.dsn, 1, connect_timeout=20.0)
    proxy.hold = True
    connecting = gevent.spawn(pid, pool)
    until(lambda: len(proxy._sockets) > 1)
    connecting.kill()
    proxy.hold = False
    pid(pool)
    assert counts(pool) == (0, 1, 1, 0)
    pool.close()


# -- dead connections ------------------------------------------------------------------------------------------


def test_a_connection_that_died_unused_is_replaced(cluster: Cluster) -> None:
    pool = Pool(cluster.dsn, 2, connect_timeout=20.0)
    with pool.connection() as connection:
        pass
    terminate(cluster, connection)
    until(connection.is_readable)
    assert pid(pool)
    assert connection.closed
    assert counts(pool) == (0, 1, 2, 1)
    pool.close()


def test_one_that_only_has_news_is_kept(cluster: Cluster) -> None:
    pool = Pool(cluster.dsn, 1, connect_timeout=20.0)
    with pool.connection() as connection:
        connection.run("LISTEN theatre_test")
    cluster.admin.run("NOTIFY theatre_test, 'hello'")
    until(connection.is_readable)
    with pool.connection() as again:
        assert again is connection
        assert again.notifications() == ["hello"]
    pool.close()


def test_one_that_was_long_unused_is_tried_first(
    cluster: Cluster, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something between here and the server may have forgotten it, and say nothing."""
    pool = Pool(proxy.dsn, 1, connect_timeout=20.0, statement_timeout=20.0)
    first = pid(pool)
    assert pid(pool) == first
    proxy.swallow_answers = True
    monkeypatch.setattr("theatre_gevent.cluster.pool._IDLE_CHECK", -1.0)
    with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
        Borrower(pool, timeout=0.3).task.get()
    proxy.swallow_answers = False
    assert pid(pool) != first
    assert pool.discards == 1
    pool.close()


def test_a_statement_whose_backend_is_terminated_loses_its_answer(cluster: Cluster) -> None:
    pool = Pool(cluster.dsn, 1, connect_timeout=20.0, statement_timeout=20.0)
    first = pid(pool)

    def sleep() -> None:
        with pool.connection() as connection:
            connection.run("SELECT pg_sleep(30)")

    task = in_background(sleep)
    until(
        lambda: cluster.admin.run("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = %s", (first,))
    )
    cluster.admin.run("SELECT pg_terminate_backend(%s)", (first,))
    with pytest.raises(AnswerLost):
        task.get()
    assert pid(pool) != first
    assert counts(pool) == (0, 1, 2, 1)
    pool.close()


# -- connecting ------------------------------------------------------------------------------------------------


def test_who_connects_keeps_nobody_from_a_connection(dsn: str, proxy: Proxy) -> None:
    pool = Pool(proxy.dsn, 3, connect_timeout=20.0)
    first = pid(pool)
    with pool.connection():
        proxy.hold = True
        stuck = gevent.spawn(pid, pool)
        until(lambda: len(proxy._sockets) == 4)
    proxy.hold = False
    assert pid(pool) == first, "the one that is there"
    with pool.connection():
        assert pid(pool) != first, "and one that is made meanwhile"
    assert not stuck.ready()
    stuck.kill()
    pool.close()


def test_a_server_that_is_mute_costs_no_more_than_the_time_given(dsn: str, mute_server: MuteServer) -> None:
    pool = Pool(f"host=127.0.0.1 port={mute_server.port} user=x", 2, connect_timeout=0.2)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
            pid(pool)
    assert counts(pool) == (0, 0, 0, 0)
    pool.close()


def test_a_bad_connection_string_is_refused_at_once() -> None:
    with pytest.raises(InvalidOption, match="dsn is not a connection string"):
        Pool("nonsense")


# -- the end ---------------------------------------------------------------------------------------------------


def test_closing_leaves_nobody_waiting(pool: Pool) -> None:
    busy = [Borrower(pool), Borrower(pool)]
    assert all(one.has.wait(10) for one in busy)
    waiting = [in_background(pid, pool) for _ in range(3)]
    until(lambda: pool.waiting == 3)
    pool.close()
    for task in waiting:
        with pytest.raises(DatabaseUnavailable, match="is closed"):
            task.get()
    with pytest.raises(DatabaseUnavailable, match="is closed"):
        pid(pool)
    for one in busy:
        assert one.end() > 0, "who has one may go on with it"
    assert counts(pool) == (0, 0, 2, 2)


def test_closing_closes_what_nobody_uses(cluster: Cluster) -> None:
    pool = Pool(cluster.dsn, 2, connect_timeout=20.0)
    one, two = Borrower(pool), Borrower(pool)
    assert one.has.wait(10)
    assert two.has.wait(10)
    pids = [one.end(), two.end()]
    pool.close()
    until(lambda: not cluster.admin.run("SELECT 1 FROM pg_stat_activity WHERE pid = ANY (%s)", (pids,)))
    assert pool.idle == 0


def test_what_is_under_way_can_be_interrupted(pool: Pool) -> None:
    def sleep() -> None:
        with pool.connection() as connection:
            connection.run("SELECT pg_sleep(30)")

    tasks = [in_background(sleep) for _ in range(2)]
    until(lambda: pool.in_use == 2)
    pool.interrupt()
    for task in tasks:
        with pytest.raises(AnswerLost):
            task.get()
    assert counts(pool) == (0, 0, 2, 2)


def test_another_thread_is_refused(pool: Pool) -> None:
    from gevent.monkey import get_original

    said: list[BaseException] = []
    done = allocate_lock()
    done.acquire()

    def work() -> None:
        try:
            pid(pool)
        except RuntimeError as error:
            said.append(error)
        done.release()

    get_original("_thread", "start_new_thread")(work, ())
    assert done.acquire(timeout=10)
    assert "belongs to the thread" in str(said[0])
