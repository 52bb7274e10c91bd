"""Connections: deadlines, interruptions, what an error says about the outcome, native threads, several servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.monkey
import psycopg2
import pytest
from gevent import Greenlet
from gevent.hub import get_hub
from gevent.resolver.thread import Resolver
from psutil import Process
from psycogreen.gevent import gevent_wait_callback, patch_psycopg
from psycopg2.extensions import get_wait_callback, make_dsn, parse_dsn, set_wait_callback

from tests.integration.postgres_support import (
    Cluster,
    MuteServer,
    Proxy,
    Ticker,
    cluster,
    mute_server,
    proxy,
    terminate,
    ticker,
)
from tests.postgres import execute
from tests.support import in_background, until
from theatre_gevent import AnswerLost, DatabaseError, DatabaseRefused, DatabaseUnavailable, InvalidOption, Ref
from theatre_gevent.cluster import green, postgres
from theatre_gevent.cluster.green import GreenConnection, connect

__all__ = ["cluster", "mute_server", "proxy", "ticker"]

start_thread = gevent.monkey.get_original("_thread", "start_new_thread")


@pytest.fixture
def connection(dsn: str) -> Iterator[GreenConnection]:
    connection = connect(dsn, connect_timeout=20.0, statement_timeout=20.0)
    yield connection
    connection.close()


def in_thread(function: Callable[[], object]) -> Any:
    """Run `function` in a native thread that has no hub, and see to it that it got none."""
    from gevent._hub_local import get_hub_if_exists

    outcome: list[tuple[object, object]] = []

    def run() -> None:
        result: object
        try:
            result = function()
        except BaseException as error:
            result = error
        outcome.append((result, get_hub_if_exists()))

    start_thread(run, ())
    until(lambda: outcome, timeout=30.0)
    result, hub = outcome[0]
    assert hub is None, "a hub came into being in a native thread"
    if isinstance(result, BaseException):
        raise result
    return result


# -- statements ------------------------------------------------------------------------------------------------


def test_statements_are_transactions_by_themselves(dsn: str, connection: GreenConnection) -> None:
    assert connection.run("CREATE TABLE x (n int, t text)") == []
    assert connection.run("INSERT INTO x VALUES (%s, %s), (2, NULL) RETURNING n", (1, "ü'\"%")) == [(1,), (2,)]
    assert execute(dsn, "SELECT * FROM x") == [(1, "ü'\"%"), (2, None)]
    with pytest.raises(DatabaseRefused):
        connection.run("INSERT INTO x VALUES (3); SELECT 1 / 0")
    assert execute(dsn, "SELECT count(*) FROM x") == [(2,)]
    assert connection.is_at_rest()


RAISE = "DO $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = '{}'; END $$"


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT 1 / 0", DatabaseRefused),
        ("SELECT * FROM nothing_of_that_name", DatabaseRefused),
        ("nonsense", DatabaseRefused),
        ("SELECT 'x'::int", DatabaseRefused),
        (RAISE.format("42501"), DatabaseRefused),  # insufficient privilege
        (RAISE.format("23505"), DatabaseRefused),  # unique violation
        (RAISE.format("54000"), DatabaseRefused),  # too large
        (RAISE.format("40P01"), DatabaseUnavailable),  # deadlock
        (RAISE.format("40001"), DatabaseUnavailable),  # serialization failure
        (RAISE.format("53100"), DatabaseUnavailable),  # disk full
        (RAISE.format("55P03"), DatabaseUnavailable),  # lock not available
        (RAISE.format("57014"), DatabaseUnavailable),  # cancelled
        (RAISE.format("58030"), DatabaseUnavailable),  # I/O error
        (RAISE.format("XX000"), DatabaseUnavailable),  # internal error
        ("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(30)", AnswerLost),
    ],
)
def test_an_error_says_what_became_of_the_statement(
    connection: GreenConnection, sql: str, error: type[DatabaseError]
) -> None:
    with pytest.raises(DatabaseError) as caught:
        connection.run(sql)
    assert type(caught.value) is error
    assert isinstance(caught.value.__cause__, psycopg2.Error)
    assert bool(connection.closed) == (error is AnswerLost)
    assert "\n" not in str(caught.value)


def test_a_server_that_has_become_a_standby_loses_its_connections(dsn: str, connection: GreenConnection) -> None:
    connection.run("SET default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable, match="read-only transaction"):
        connection.run("CREATE TABLE x ()")
    assert connection.closed


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_value_that_can_not_be_written_is_refused(connection: GreenConnection, text: str) -> None:
    with pytest.raises(DatabaseRefused, match="can't hold such a value"):
        connection.run("SELECT %s", (text,))
    assert connection.run("SELECT 1") == [(1,)]


def test_a_closed_connection_does_nothing(connection: GreenConnection) -> None:
    connection.close()
    with pytest.raises(DatabaseUnavailable, match="is closed"):
        connection.run("SELECT 1")
    connection.interrupt()
    connection.close()


# -- deadlines -------------------------------------------------------------------------------------------------


def test_the_server_gives_up_first_and_the_connection_lives_on(dsn: str, ticker: Ticker) -> None:
    connection = connect(dsn, connect_timeout=20.0, statement_timeout=0.5)
    connection.statement_timeout = 20.0  # the server keeps its limit; a busy machine may take longer to tell us

    def sleep() -> None:
        with pytest.raises(DatabaseUnavailable, match="57014"):
            connection.run("SELECT pg_sleep(30)")

    assert ticker.during(sleep) > 10
    assert connection.run("SELECT 1") == [(1,)]
    connection.close()


def test_a_statement_without_an_answer_ends_at_its_deadline(dsn: str, proxy: Proxy, ticker: Ticker) -> None:
    connection = connect(proxy.dsn, connect_timeout=20.0, statement_timeout=0.3)
    proxy.swallow_answers = True

    def wait() -> None:
        with pytest.raises(AnswerLost, match="did not answer in time"):
            connection.run("SELECT 1")

    assert ticker.during(wait) > 10
    assert connection.closed


def test_a_statement_may_have_a_deadline_of_its_own(connection: GreenConnection) -> None:
    with pytest.raises(AnswerLost, match="did not answer in time"):
        connection.run("SELECT pg_sleep(30)", timeout=0.05)
    assert connection.closed


def test_an_answer_that_is_there_counts_however_late_the_hub_looks(connection: GreenConnection) -> None:
    """A greenlet that blocks the hub for longer than the deadline costs no connection."""
    task = in_background(connection.run, "SELECT 42 FROM pg_sleep(0.3)", (), 1.0)
    until(lambda: connection._deadline is not None)
    gevent.monkey.get_original("time", "sleep")(3.0)
    assert task.get() == [(42,)]


def test_a_mute_server_ends_at_the_deadline(mute_server: MuteServer, ticker: Ticker) -> None:
    def wait() -> None:
        with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
            connect(f"host=127.0.0.1 port={mute_server.port} user=x", connect_timeout=0.3)

    files = Process().num_fds()
    assert ticker.during(wait) > 10
    assert Process().num_fds() == files, "no socket is left"


def test_a_server_that_says_nothing_after_accepting_ends_at_the_deadline(proxy: Proxy, ticker: Ticker) -> None:
    proxy.hold = True

    def wait() -> None:
        with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
            connect(proxy.dsn, connect_timeout=0.3)

    assert ticker.during(wait) > 10


def test_the_connection_strings_own_timeout_counts(mute_server: MuteServer) -> None:
    with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
        connect(f"host=127.0.0.1 port={mute_server.port} user=x connect_timeout=1")


# -- interruptions ---------------------------------------------------------------------------------------------


def sleeping(connection: GreenConnection) -> Greenlet[..., Any]:
    task = in_background(connection.run, "SELECT pg_sleep(30)")
    until(lambda: connection.isexecuting() or connection._deadline is not None)
    return task


def test_a_connection_runs_one_statement_at_a_time(connection: GreenConnection) -> None:
    task = in_background(connection.run, "SELECT 1 FROM pg_sleep(2)")
    until(lambda: connection._deadline is not None)
    with pytest.raises(RuntimeError, match="one statement at a time"):
        connection.run("SELECT 2")
    assert task.get() == [(1,)], "which the other did no harm"


def test_closing_a_connection_in_use_interrupts_it(connection: GreenConnection) -> None:
    """psycopg2 itself would wait for a lock that is held meanwhile, with the whole thread."""
    task = sleeping(connection)
    connection.close()
    with pytest.raises(AnswerLost):
        task.get()
    assert connection.closed


def test_another_thread_may_interrupt(connection: GreenConnection) -> None:
    task = sleeping(connection)
    in_thread(connection.interrupt)
    with pytest.raises(AnswerLost):
        task.get()
    assert connection.closed


def test_who_is_killed_leaves_a_closed_connection(connection: GreenConnection) -> None:
    task = Greenlet.spawn(connection.run, "SELECT pg_sleep(30)")
    until(lambda: connection._deadline is not None)
    task.kill()
    assert connection.closed


def test_a_timeout_of_gevents_leaves_a_closed_connection(connection: GreenConnection) -> None:
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        connection.run("SELECT pg_sleep(30)")
    assert connection.closed


def test_a_backend_that_died_is_noticed(cluster: Cluster) -> None:
    connection = cluster.connect()
    terminate(cluster, connection)
    assert not connection.closed, "psycopg2 does not see it by itself"
    until(connection.is_readable)
    with pytest.raises(AnswerLost):
        connection.run("SELECT 1")
    assert connection.closed


# -- native threads --------------------------------------------------------------------------------------------


def test_a_native_thread_works_without_a_hub(cluster: Cluster, ticker: Ticker) -> None:
    def work() -> object:
        connection = connect(cluster.dsn, connect_timeout=20.0, statement_timeout=20.0)
        postgres.listen(connection)
        life = cluster.life("a", connection)
        claimed = postgres.claim(connection, life, 1, [Ref("player", "1")])
        while not (news := connection.notifications()):
            pass
        connection.run("SELECT pg_sleep(0.2)")
        connection.close()
        return len(claimed.mine), len(news)

    assert ticker.during(lambda: in_thread(work)) > 10
    assert in_thread(work) == (0, 1), "another life of the same host"


def test_a_native_thread_has_deadlines_too(dsn: str, mute_server: MuteServer) -> None:
    with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
        in_thread(lambda: connect(f"host=127.0.0.1 port={mute_server.port} user=x", connect_timeout=0.1))
    with pytest.raises(AnswerLost, match="did not answer in time"):
        in_thread(lambda: connect(dsn, connect_timeout=20.0).run("SELECT pg_sleep(30)", timeout=0.1))


def test_a_greenlet_may_interrupt_a_native_thread(dsn: str) -> None:
    made: list[GreenConnection] = []

    def work() -> None:
        connection = connect(dsn, connect_timeout=20.0, statement_timeout=20.0)
        made.append(connection)
        connection.run("SELECT pg_sleep(30)")

    task = in_background(in_thread, work)
    until(lambda: made and made[0]._deadline is not None)
    gevent.sleep(0.05)
    made[0].close()
    with pytest.raises(AnswerLost):
        task.get()


# -- names -----------------------------------------------------------------------------------------------------


class MuteResolver(Resolver):
    """gevent's resolver with a name service that does not answer: its threads hang in the system's call."""

    def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return self.pool.apply(gevent.monkey.get_original("time", "sleep"), (1.0,))


def test_a_mute_name_service_stops_nobody(ticker: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = get_hub()
    monkeypatch.setattr(hub, "resolver", MuteResolver(hub))

    def wait() -> None:
        with pytest.raises(DatabaseUnavailable, match=r"no answer about 'db.example' from the name service"):
            connect("host=db.example user=x", connect_timeout=0.3)

    assert ticker.during(wait) > 10


def test_a_mute_name_service_has_a_deadline_in_a_native_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def mute(*args: object, **kwargs: object) -> None:
        gevent.monkey.get_original("time", "sleep")(1.0)
        raise OSError("it gave up")

    saved = gevent.monkey.saved["socket"]  # type: ignore[attr-defined]
    monkeypatch.setitem(saved, "getaddrinfo", mute)
    with pytest.raises(DatabaseUnavailable, match=r"no answer about 'db.example' from the name service"):
        in_thread(lambda: connect("host=db.example user=x", connect_timeout=0.2))


@pytest.mark.parametrize("name", ["db.invalid", "x" * 300, "a..b", "ü ü"])
def test_a_name_that_nobody_knows(name: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="name can't be looked up"):
        connect(make_dsn(host=name, user="x"), connect_timeout=20.0)


def test_names_are_looked_up(dsn: str) -> None:
    named = make_dsn(dsn, host="localhost") if parse_dsn(dsn).get("host") == "127.0.0.1" else dsn
    connection = connect(named, connect_timeout=20.0)
    assert connection.run("SELECT 1") == [(1,)]
    assert connection.info.dsn_parameters["host"] == parse_dsn(named)["host"], "which certificates are checked against"
    assert in_thread(lambda: connect(named, connect_timeout=20.0).run("SELECT 2")) == [(2,)]


# -- several servers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [False, True])
def test_of_several_servers_the_first_that_answers_is_used(dsn: str, mute_server: MuteServer, native: bool) -> None:
    info = connect(dsn, connect_timeout=20.0).info
    several = make_dsn(
        dsn, host=f"127.0.0.1,127.0.0.1,db.invalid,{info.host}", port=f"1,{mute_server.port},5432,{info.port}"
    )

    def ask() -> object:
        return connect(several, connect_timeout=3.0).run("SELECT 1")

    assert (in_thread(ask) if native else ask()) == [(1,)]


def test_a_server_that_takes_no_writes_is_not_used(cluster: Cluster) -> None:
    name = cluster.admin.info.dbname
    cluster.admin.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable, match="takes no writes"):
        connect(cluster.dsn, connect_timeout=20.0)


def test_a_service_file_names_the_server(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{key}={value}" for key, value in parse_dsn(dsn).items()]
    (tmp_path / "services").write_text("\n".join(["[other]", "host=db.invalid", "[theatre]", *lines]))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert connect("service=theatre", connect_timeout=20.0).run("SELECT 1") == [(1,)]


def test_what_is_refused_says_why() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"no connection to the database: .*onnection refused"):
        connect("host=127.0.0.1 port=1 user=x")
    with pytest.raises(InvalidOption, match="dsn is not a connection string"):
        connect("nonsense")
    with pytest.raises(DatabaseUnavailable, match="sslmode"):
        connect("host=127.0.0.1 port=1 user=x sslmode=sometimes")


# -- settings --------------------------------------------------------------------------------------------------


def test_the_session_is_set_up(cluster: Cluster) -> None:
    connection = cluster.connect(statement_timeout=5.0, application_name="theatre host 'a'")
    assert [connection.run(f"SHOW {name}")[0][0] for name in ("statement_timeout", "application_name", "jit")] == [
        "4500ms",
        "theatre host 'a'",
        "off",
    ]
    parameters = connection.get_dsn_parameters()
    assert parameters["tcp_user_timeout"] == "5000"
    assert int(parameters["keepalives_idle"]) <= 10


def test_what_the_connection_string_says_stays(dsn: str) -> None:
    own = make_dsn(dsn, application_name="mine", keepalives_idle=77, tcp_user_timeout=1234, client_encoding="LATIN1")
    connection = connect(own, connect_timeout=20.0)
    parameters = connection.get_dsn_parameters()
    assert [parameters[name] for name in ("application_name", "keepalives_idle", "tcp_user_timeout")] == [
        "mine",
        "77",
        "1234",
    ]
    assert connection.run("SELECT %s", ("日本",)) == [("日本",)], "but text is UTF-8"


@pytest.mark.parametrize(("given", "expected"), [("off", "on"), ("on", "on"), ("local", "local")])
def test_commits_are_kept_over_crashes(cluster: Cluster, given: str, expected: str) -> None:
    """A claim that a crash undoes would be an actor with two owners."""
    name = cluster.admin.info.dbname
    cluster.admin.run(f"ALTER DATABASE {name} SET synchronous_commit = {given}")
    cluster.admin.run(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    connection = cluster.connect()
    assert connection.run("SHOW synchronous_commit") == [(expected,)]
    assert connection.run("SHOW transaction_isolation") == [("read committed",)]


# -- psycopg2's one callback -----------------------------------------------------------------------------------


@pytest.fixture
def callback() -> Iterator[None]:
    before = get_wait_callback()
    yield
    set_wait_callback(before)


@pytest.mark.usefixtures("callback")
@pytest.mark.parametrize("replace", [patch_psycopg, lambda: set_wait_callback(None)])
def test_a_callback_that_was_replaced_is_put_back(
    connection: GreenConnection, proxy: Proxy, replace: Callable[[], None]
) -> None:
    replace()
    assert connection.run("SELECT 1") == [(1,)]
    assert get_wait_callback() is green._wait
    replace()
    proxy.swallow_answers = True
    with pytest.raises(DatabaseUnavailable, match="did not answer in time"):
        connect(proxy.dsn, connect_timeout=0.1)


@pytest.mark.usefixtures("callback")
def test_connections_of_others_wait_as_before(dsn: str, ticker: Ticker) -> None:
    asked: list[object] = []

    def theirs(connection: object) -> None:
        asked.append(connection)
        gevent_wait_callback(connection)

    set_wait_callback(theirs)
    connect(dsn, connect_timeout=20.0).close()
    assert asked == []

    def use() -> None:
        connection = psycopg2.connect(dsn)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.2)")
        connection.close()

    assert ticker.during(use) > 10
    assert asked


@pytest.mark.usefixtures("callback")
def test_connections_of_others_make_no_hub_in_a_native_thread(dsn: str) -> None:
    green.install()

    def use() -> object:
        connection = psycopg2.connect(dsn)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 7")
            found = cursor.fetchall()
        connection.close()
        return found

    assert in_thread(use) == [(7,)]
