"""What a database does to us: it stops, it crashes, it comes back. With servers of the tests' own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn

from tests.integration.postgres_support import Ticker, refs, ticker
from tests.support import in_background, until
from theatre_gevent import AnswerLost, DatabaseError, DatabaseUnavailable, migrate_schema
from theatre_gevent.cluster import postgres
from theatre_gevent.cluster.green import connect
from theatre_gevent.cluster.pool import Pool
from theatre_gevent.cluster.store import Life
from theatre_gevent.embedded import EmbeddedPostgres

__all__ = ["ticker"]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings={"unix_socket_directories": "."}) as server:
        yield server


@pytest.fixture
def own(server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """The server, as a test may harm it: it runs again afterwards."""
    yield server
    server.resume()
    server.restart()


@pytest.fixture
def life(server: EmbeddedPostgres) -> Life:
    migrate_schema(server.dsn)
    connection = connect(server.dsn, connect_timeout=20.0)
    life = Life("a", postgres.next_epoch(connection))
    postgres.register(connection, life, "127.0.0.1:1", 3.0)
    connection.close()
    return life


def ask(pool: Pool, timeout: float | None = None) -> object:
    with pool.connection(timeout) as connection:
        return connection.run("SELECT 1")


def until_it_answers(pool: Pool) -> None:
    def answers() -> bool:
        try:
            return ask(pool) == [(1,)]
        except DatabaseError:
            return False

    until(answers, timeout=30.0)


def test_a_server_that_is_stopped_blocks_nobody_and_is_used_when_it_goes_on(
    own: EmbeddedPostgres, ticker: Ticker
) -> None:
    pool = Pool(own.dsn, 2, connect_timeout=0.5, statement_timeout=0.5)
    until_it_answers(pool)
    own.pause()

    def wait() -> None:
        with pytest.raises(AnswerLost, match="did not answer in time"):
            ask(pool)  # it has a connection, and the statement goes out
        with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
            ask(pool)  # the kernel takes the connection, and nobody says a word

    assert ticker.during(wait) > 20
    tasks = [in_background(ask, pool) for _ in range(6)]

    def wait_for_all() -> None:
        for task in tasks:
            with pytest.raises(DatabaseUnavailable):
                task.get()

    assert ticker.during(wait_for_all) > 10
    assert pool.in_use == pool.waiting == 0
    own.resume()
    until_it_answers(pool)
    pool.close()


@pytest.mark.parametrize("how", ["shutdown", "kill"])
def test_a_server_that_comes_back_is_used_again(own: EmbeddedPostgres, how: str) -> None:
    pool = Pool(own.dsn, 3, connect_timeout=20.0, statement_timeout=20.0)
    until_it_answers(pool)

    def sleep() -> None:
        with pool.connection() as connection:
            connection.run("SELECT pg_sleep(30)")

    tasks = [in_background(sleep) for _ in range(2)]
    until(lambda: pool.in_use == 2)
    getattr(own, how)()
    for task in tasks:
        with pytest.raises(AnswerLost):
            task.get()
    with pytest.raises(DatabaseError):
        ask(pool, timeout=0.5)
    own.restart()
    until_it_answers(pool)
    pool.close()


def test_what_was_claimed_before_a_crash_is_claimed_after_it(own: EmbeddedPostgres, life: Life) -> None:
    connection = connect(own.dsn, connect_timeout=20.0)
    wanted = refs(500)
    assert len(postgres.claim(connection, life, 1, wanted).mine) == 500
    assert postgres.renew(connection, life) == 1
    own.kill()
    own.restart()
    pool = Pool(own.dsn, 1, connect_timeout=20.0)
    until_it_answers(pool)
    with pool.connection() as again:
        assert set(postgres.owners(again, wanted)) == set(wanted)
        assert postgres.renew(again, life) == 2
        other = Life("b", postgres.next_epoch(again))
        assert other.epoch > life.epoch
    pool.close()


def test_a_claim_cut_off_by_a_crash_is_asked_again(own: EmbeddedPostgres, life: Life) -> None:
    old, new = refs(2, "cut")
    claiming, locking, looking = (connect(own.dsn, connect_timeout=20.0, statement_timeout=20.0) for _ in range(3))
    postgres.claim(claiming, life, 1, [old])
    locking.run("BEGIN")
    locking.run("SELECT FROM actor_ownership FOR UPDATE")
    task = in_background(postgres.claim, claiming, life, 2, [old, new])
    until(lambda: looking.run("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
    own.kill()
    with pytest.raises(AnswerLost):
        task.get()
    own.restart()
    pool = Pool(own.dsn, 1, connect_timeout=20.0, statement_timeout=20.0)
    until_it_answers(pool)
    with pool.connection() as again:
        assert {ref: one.claim for ref, one in postgres.owners(again, [old, new]).items()} == {old: 1}
        reasons = postgres.claim(again, life, 3, [old, new], [2, 2]).mine
        assert (reasons[old].value, reasons[new].value) == ("reactivation", "new")
    pool.close()


def test_a_unix_socket(server: EmbeddedPostgres) -> None:
    connection = connect(server.dsn, connect_timeout=20.0)
    folder = Path(connection.run("SHOW data_directory")[0][0])
    local = connect(make_dsn(server.dsn, host=str(folder)), connect_timeout=20.0)
    assert local.run("SELECT inet_server_port()") == [(None,)]


def test_a_wrong_password_is_told_and_not_shown(server: EmbeddedPostgres) -> None:
    wrong = secrets.token_hex(8)
    with pytest.raises(DatabaseUnavailable, match="password authentication failed") as caught:
        connect(make_dsn(server.dsn, password=wrong), connect_timeout=20.0)
    assert wrong not in repr(caught.value)
