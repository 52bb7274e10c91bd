"""The lease of a host on a real Postgres: kept, lost, taken away; and what a host sees of the others."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from gevent.hub import Hub
from gevent.socket import SHUT_RDWR, socket

from tests.integration.postgres_support import Proxy, proxy
from tests.postgres import Databases, execute
from tests.support import in_background, until
from theatre_gevent import AnswerLost, DatabaseUnavailable, HostIdConflict, InvalidOption, SystemClock, TheatreError
from theatre_gevent.cluster import news, postgres
from theatre_gevent.cluster.green import connect
from theatre_gevent.cluster.postgres_cluster import Cluster, ClusterConfig
from theatre_gevent.cluster.store import Life
from theatre_gevent.embedded import EmbeddedPostgres

__all__ = ["proxy"]  # a fixture

ROOT = Path(__file__).parents[2]
NEVER = 60.0
"""A poll interval above every test's length: only what is announced is seen."""

WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
"""Does somebody wait for a lock?"""

now = SystemClock().boottime


class Watched(Cluster):
    """A cluster that writes down its news."""

    def __init__(self, dsn: str, config: ClusterConfig) -> None:
        super().__init__(dsn, config)
        self.seen: list[news.News] = []
        deliver = self.keeper.on_news
        assert deliver is not None

        def write_down(item: news.News) -> None:
            self.seen.append(item)
            deliver(item)

        self.keeper.on_news = write_down

    def count(self, kind: type[Any]) -> int:
        return sum(isinstance(item, kind) for item in self.seen)

    def wait_for(self, kind: type[Any], timeout: float = 10.0) -> Any:
        until(lambda: self.count(kind), timeout)
        return next(item for item in self.seen if isinstance(item, kind))


MakeCluster = Callable[..., Watched]


@pytest.fixture
def make() -> Iterator[MakeCluster]:
    """Make clusters' hosts, which are stopped at the end."""
    made: list[Watched] = []

    def make(
        dsn: str, host_id: str = "a", lease_duration: float = 3.0, poll_interval: float = 0.5, register: bool = True
    ) -> Watched:
        cluster = Watched(dsn, ClusterConfig(host_id, "", lease_duration, poll_interval))
        made.append(cluster)
        cluster.start()
        if register:
            cluster.register(f"127.0.0.1:{1000 + len(made)}")
        return cluster

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture(scope="module")
def frail_server() -> Iterator[EmbeddedPostgres]:
    """A server of this module's own, to be paused and restarted."""
    with EmbeddedPostgres() as server:
        yield server


class Frail:
    """A fresh database in that server."""

    def __init__(self, server: EmbeddedPostgres, dsn: str) -> None:
        self.dsn = dsn
        self.pause = server.pause
        self.resume = server.resume
        self.shutdown = server.shutdown
        self.restart = server.restart


@pytest.fixture
def own(frail_server: EmbeddedPostgres, make: MakeCluster) -> Iterator[Frail]:
    """A database whose server may be paused and restarted; it is well again before hosts are stopped."""
    databases = Databases(frail_server.dsn)
    yield Frail(frail_server, databases.create())
    frail_server.resume()
    databases.drop_all()


def row(dsn: str, epoch: int) -> tuple[int, bool, bool]:
    """The renewals of a life, whether it is leaving, and whether it is over."""
    sql = "SELECT renewals, leaving, fenced_at IS NOT NULL FROM hosts WHERE epoch = %s"
    renewals, leaving, fenced = execute(dsn, sql, epoch)[0]
    return renewals, leaving, fenced


def lock_holders(dsn: str) -> list[int]:
    """The server processes that have an advisory lock in this database."""
    sql = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = %s"
    oid = execute(dsn, "SELECT oid FROM pg_database WHERE datname = current_database()")[0][0]
    return [pid for (pid,) in execute(dsn, sql, oid)]


def burn(seconds: float) -> None:
    """Keep the hub from running."""
    end = now() + seconds
    while now() < end:
        pass


# -- keeping a lease -------------------------------------------------------------------------------------------


def test_a_lease_is_renewed_for_as_long_as_the_host_runs(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, lease_duration=1.5)
    seen = [cluster.lease_until]
    assert 0 < cluster.remaining_lease() <= 1.5
    for round_ in range(1, 4):
        until(lambda: cluster.lease_until > seen[-1])
        seen.append(cluster.lease_until)
        assert row(dsn, cluster.epoch)[0] >= round_
    health = cluster.health()
    assert 0 < health.remaining <= 1.5
    assert (health.failures, health.fenced, health.conflict, health.reachable) == (0, False, False, True)


def test_there_is_no_lease_before_the_registration_and_after_the_end(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, register=False)
    assert cluster.started
    assert cluster.remaining_lease() == 0.0
    assert cluster.hosts == {}
    cluster.register("127.0.0.1:7")
    assert cluster.remaining_lease() > 0
    assert cluster.hosts == {"a": "127.0.0.1:7"}
    assert cluster.ring.members == ("a",)
    assert cluster.address == "127.0.0.1:7"
    cluster.stop()
    assert cluster.remaining_lease() == 0.0
    cluster.stop()
    with pytest.raises(DatabaseUnavailable, match="not running"):
        cluster.rejoin()


def test_every_life_has_an_epoch_above_all_before(dsn: str, make: MakeCluster) -> None:
    epochs = [make(dsn, host_id).epoch for host_id in ("a", "b", "c")]
    assert epochs == sorted(set(epochs))


def test_a_lease_is_counted_from_before_the_renewal_was_sent(dsn: str, make: MakeCluster) -> None:
    """A lock on the row holds the renewal up; that time is not added to the lease."""
    cluster = make(dsn, lease_duration=6.0)
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM hosts WHERE epoch = %s FOR UPDATE", (cluster.epoch,))
        until(lambda: execute(dsn, WAITING))
        sent_by = now()
        held_until = sent_by + 0.5
        until(lambda: now() >= held_until)
        assert not cluster.count(news.Renewed)
        connection.rollback()
        cluster.wait_for(news.Renewed)
        assert cluster.lease_until <= sent_by + 6.0


def test_a_lease_is_counted_from_before_the_registration_was_sent(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, lease_duration=6.0, register=False)
    with closing(connect(dsn)) as connection:
        connection.run("BEGIN")
        connection.run("LOCK TABLE hosts IN EXCLUSIVE MODE")
        registering = in_background(cluster.register, "127.0.0.1:9")
        until(lambda: execute(dsn, WAITING))
        sent_by = now()
        held_until = sent_by + 0.5
        until(lambda: now() >= held_until)
        connection.run("COMMIT")
    registering.get()
    assert sent_by < cluster.lease_until <= sent_by + 6.0


def test_renewals_go_on_while_an_actor_burns_cpu(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, lease_duration=3.0)
    before = row(dsn, cluster.epoch)[0]
    burn(1.4)
    assert row(dsn, cluster.epoch)[0] > before
    assert cluster.remaining_lease() > 0
    assert not cluster.count(news.HubSilent)


def test_renewals_stop_when_the_hub_is_stuck(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, lease_duration=1.5)
    burn(2.8)
    assert cluster.remaining_lease() == 0.0
    renewals = row(dsn, cluster.epoch)[0]
    silence = cluster.wait_for(news.HubSilent)
    assert silence.seconds > 1.5
    assert "in burn" in silence.stack, "who is to blame"
    cluster.keeper.poll()
    assert row(dsn, cluster.epoch)[0] == renewals, "a lease that has ended is not renewed"
    before = cluster.epoch
    assert cluster.rejoin() > before
    assert cluster.remaining_lease() > 0
    assert row(dsn, before)[2]


def test_the_lease_is_renewed_as_soon_as_the_hub_runs_again(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, lease_duration=6.0, poll_interval=NEVER)
    burn(4.4)  # more than half a lease, less than what is left after the renewal in between
    before = cluster.lease_until
    assert cluster.remaining_lease() > 0
    until(lambda: cluster.lease_until > before)
    assert cluster.remaining_lease() > 0


def test_the_thread_has_no_hub_of_its_own(dsn: str, make: MakeCluster) -> None:
    def hubs() -> int:
        return sum(isinstance(thing, Hub) for thing in gc.get_objects())

    before = hubs()
    cluster = make(dsn, lease_duration=1.5)
    cluster.wait_for(news.Renewed)
    assert hubs() == before


def test_an_idle_host_asks_less_than_five_times_a_second(dsn: str, make: MakeCluster) -> None:
    commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    hosts = [make(dsn, host_id, 20.0, 3.0) for host_id in "abc"]
    # The server counts a transaction up to a second after it has ended.
    before, began = execute(dsn, commits)[0][0], now()
    for host in hosts:
        host.wait_for(news.Renewed)
    done, seconds = execute(dsn, commits)[0][0] - before, now() - began
    assert done < 5 * len(hosts) * seconds
    assert done >= len(hosts), "or nothing was counted"


# -- one process for each host id ------------------------------------------------------------------------------


def test_a_host_id_is_for_one_process(dsn: str, make: MakeCluster) -> None:
    first = make(dsn)
    with pytest.raises(HostIdConflict, match=r"host id 'a' is in use by another process.*keeper of a"):
        make(dsn)
    assert first.remaining_lease() > 0
    assert not first.count(news.Conflict)
    assert len(lock_holders(dsn)) == 1
    first.stop()
    make(dsn)


def test_who_restarts_at_once_gets_its_id(dsn: str, make: MakeCluster) -> None:
    """The one before is just ending."""
    first = make(dsn)
    ending = in_background(first.stop)
    second = make(dsn)
    assert second.epoch > first.epoch
    ending.get()


def test_a_host_may_be_started_again(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn)
    first = cluster.epoch
    with pytest.raises(TheatreError, match="is started"):
        cluster.start()
    cluster.stop()
    with pytest.raises(DatabaseUnavailable):
        cluster.store()
    cluster.start()
    assert cluster.hosts == {}
    cluster.register("127.0.0.1:9")
    assert cluster.epoch > first
    assert cluster.remaining_lease() > 0
    assert cluster.hosts == {"a": "127.0.0.1:9"}


def test_many_hosts_can_start_at_once(dsn: str, make: MakeCluster) -> None:
    starting = [in_background(make, dsn, f"host-{number}") for number in range(6)]
    hosts = [task.get() for task in starting]
    for host in hosts:
        until(lambda host=host: len(host.hosts) == 6)  # type: ignore[misc]
    assert len({host.epoch for host in hosts}) == 6


def test_a_killed_lock_is_taken_again_and_the_lease_lives_on(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, lease_duration=60.0, poll_interval=NEVER)  # nothing is due for a long time
    [holder] = lock_holders(dsn)
    until_before = cluster.lease_until
    execute(dsn, "SELECT pg_terminate_backend(%s)", holder)
    cluster.wait_for(news.DatabaseAway)
    cluster.wait_for(news.DatabaseBack)
    assert lock_holders(dsn) not in ([], [holder])
    cluster.wait_for(news.Renewed)
    assert cluster.lease_until > until_before
    assert not cluster.count(news.Conflict)
    assert not cluster.count(news.RenewalFailed), "no renewal was due"


class Forgetful(Proxy):
    """One that does not tell the server when a client has gone, as when a machine or a firewall dies."""

    def __init__(self, dsn: str) -> None:
        self.tells = True
        super().__init__(dsn)

    def forget_clients(self) -> None:
        self.tells = False
        self.cut()

    def cut(self) -> None:
        for client in self._sockets[1::2]:
            with suppress(OSError):
                client.shutdown(SHUT_RDWR)

    def _pass_on(self, source: socket, target: socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            if answers or self.tells:
                target.shutdown(SHUT_RDWR)


def test_a_lost_session_that_still_has_the_lock_is_ended(dsn: str, make: MakeCluster) -> None:
    with closing(Forgetful(dsn)) as proxy:
        cluster = make(proxy.dsn, lease_duration=20.0)
        [holder] = lock_holders(dsn)
        proxy.forget_clients()
        cluster.wait_for(news.DatabaseBack)
        [successor] = lock_holders(dsn)
        assert successor != holder
        assert not cluster.count(news.Conflict)
        assert cluster.remaining_lease() > 0
        proxy.tells = True
        cluster.stop()


def test_who_finds_its_lock_taken_has_no_lease_any_more(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, lease_duration=20.0)
    [holder] = lock_holders(dsn)
    with closing(connect(dsn, statement_timeout=10.0)) as thief:
        key = f"SELECT pg_advisory_lock({postgres.lock_key('a')} # 'hosts'::regclass::oid::bigint)"
        theft = in_background(thief.run, key)
        until(lambda: execute(dsn, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        execute(dsn, "SELECT pg_terminate_backend(%s)", holder)
        theft.get()
        cluster.wait_for(news.Conflict)
        assert cluster.remaining_lease() == 0.0
        assert cluster.health().conflict
        assert not cluster.health().reachable
        assert "a" not in cluster.hosts
        with pytest.raises(HostIdConflict):
            cluster.rejoin()
    cluster.wait_for(news.ConflictOver)
    assert not cluster.health().conflict
    before = cluster.epoch
    assert cluster.rejoin() > before
    assert cluster.remaining_lease() > 0
    assert "a" in cluster.hosts


# -- the end of a life -----------------------------------------------------------------------------------------


def test_who_is_fenced_knows_at_once_and_begins_anew_when_told(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, lease_duration=60.0, poll_interval=NEVER)
    old = cluster.epoch
    with closing(connect(dsn)) as connection:
        assert postgres.fence(connection, Life("a", old), 0)
    assert cluster.wait_for(news.Fenced).epoch == old
    assert cluster.remaining_lease() == 0.0
    assert cluster.health().fenced
    assert cluster.hosts == {}
    new = cluster.rejoin()
    assert new > old
    assert not cluster.health().fenced
    assert cluster.remaining_lease() > 0
    assert cluster.hosts == {"a": "127.0.0.1:1001"}
    assert (row(dsn, old)[2], row(dsn, new)[2]) == (True, False)


def test_what_is_announced_during_a_look_is_seen(dsn: str, make: MakeCluster) -> None:
    """The announcement comes with the answer of a look that is older, and nothing more is to be read then."""
    cluster = make(dsn, lease_duration=60.0, poll_interval=NEVER)
    for _ in range(2):
        cluster.keeper.poll()  # the first brings its own registration's announcement, the second makes up for it
    with closing(psycopg2.connect(dsn)) as gate, gate.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(7)")
        execute(
            dsn,
            "ALTER TABLE hosts RENAME TO the_hosts;"
            "CREATE VIEW hosts AS SELECT the_hosts.* FROM pg_advisory_xact_lock_shared(7), the_hosts",
        )
        cluster.keeper.look()
        until(lambda: execute(dsn, WAITING))
        execute(dsn, "UPDATE the_hosts SET fenced_at = clock_timestamp()")
        execute(dsn, "SELECT pg_notify(%s, 'fenced')", postgres.CHANNEL)
    cluster.wait_for(news.Fenced)
    assert cluster.remaining_lease() == 0.0


@pytest.mark.parametrize(
    "ending", ["UPDATE hosts SET fenced_at = clock_timestamp() WHERE epoch = %s", "DELETE FROM hosts WHERE epoch = %s"]
)
@pytest.mark.parametrize(("lease", "poll"), [(60.0, 0.2), (3.0, NEVER)], ids=["polling", "renewing"])
def test_the_end_is_found_without_being_announced(
    dsn: str, make: MakeCluster, ending: str, lease: float, poll: float
) -> None:
    cluster = make(dsn, lease_duration=lease, poll_interval=poll)
    execute(dsn, ending, cluster.epoch)
    cluster.wait_for(news.Fenced)
    assert cluster.remaining_lease() == 0.0


def test_who_rejoins_ends_what_was_before(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn)
    epochs = [cluster.epoch]
    for _ in range(3):
        epochs.append(cluster.rejoin())
    assert epochs == sorted(set(epochs))
    assert [row(dsn, epoch)[2] for epoch in epochs] == [True, True, True, False]


def test_only_who_joined_can_rejoin(dsn: str, make: MakeCluster) -> None:
    with pytest.raises(TheatreError, match="can't rejoin what it has not joined"):
        make(dsn, register=False).rejoin()


def test_the_wall_clock_of_the_database_does_not_matter(dsn: str, make: MakeCluster) -> None:
    """It is set an hour ahead and back, as far as anybody can see."""
    hosts = [make(dsn, host_id, 2.0, 0.2) for host_id in "ab"]
    for hours in (1, -1):
        counts = [host.count(news.Renewed) for host in hosts]
        while any(host.count(news.Renewed) < count + 2 for host, count in zip(hosts, counts, strict=True)):
            execute(dsn, "UPDATE hosts SET lease_expiry = clock_timestamp() + %s * interval '1 hour'", hours)
            for host in hosts:
                host.keeper.poll()
    for host in hosts:
        assert set(host.hosts) == {"a", "b"}
        assert host.remaining_lease() > 0
        assert not host.count(news.OtherFenced) + host.count(news.Fenced)


# -- the database goes away ------------------------------------------------------------------------------------


def test_a_server_that_pauses_for_less_than_the_lease_ends_nothing(own: Frail, make: MakeCluster) -> None:
    hosts = [make(own.dsn, host_id, 9.0) for host_id in "ab"]
    epochs = [host.epoch for host in hosts]
    for host in hosts:
        until(lambda host=host: set(host.hosts) == {"a", "b"})  # type: ignore[misc]
    own.pause()
    for host in hosts:
        host.wait_for(news.DatabaseAway)  # the connections are given up: their locks are still held
        assert not host.health().reachable
        assert host.remaining_lease() > 0
    own.resume()
    for host in hosts:
        host.wait_for(news.DatabaseBack)
        count = host.count(news.Renewed)
        until(lambda host=host, count=count: host.count(news.Renewed) > count)  # type: ignore[misc]
        assert not host.count(news.Fenced) + host.count(news.Conflict)
        assert set(host.hosts) == {"a", "b"}
    assert [host.epoch for host in hosts] == epochs


def test_a_server_that_pauses_for_longer_ends_every_life(own: Frail, make: MakeCluster) -> None:
    hosts = [make(own.dsn, host_id, 1.5) for host_id in "ab"]
    epochs = [host.epoch for host in hosts]
    own.pause()
    for host in hosts:
        until(lambda host=host: host.remaining_lease() == 0.0)  # type: ignore[misc]
        assert host.count(news.RenewalFailed)
        with pytest.raises(DatabaseUnavailable):
            host.rejoin()
    own.resume()
    for host, epoch in zip(hosts, epochs, strict=True):
        until(lambda host=host: host.health().reachable)  # type: ignore[misc]
        assert host.remaining_lease() == 0.0
        assert host.rejoin() > epoch
        assert host.remaining_lease() > 0
        assert host.health().failures == 0
    for host in hosts:
        until(lambda host=host: set(host.hosts) == {"a", "b"})  # type: ignore[misc]
        count = host.count(news.Renewed)
        until(lambda host=host, count=count: host.count(news.Renewed) > count)  # type: ignore[misc]


def test_a_restart_of_the_server_ends_nothing(own: Frail, make: MakeCluster) -> None:
    cluster = make(own.dsn, lease_duration=20.0)
    epoch = cluster.epoch
    own.restart()
    cluster.wait_for(news.DatabaseAway)
    cluster.wait_for(news.DatabaseBack)
    cluster.wait_for(news.Renewed)
    assert (cluster.epoch, cluster.count(news.Fenced), cluster.count(news.RenewalFailed)) == (epoch, 0, 0)


def test_nobody_hangs_when_the_server_does_not_answer(own: Frail, make: MakeCluster) -> None:
    cluster = make(own.dsn, lease_duration=20.0)
    own.pause()
    for call in (cluster.set_leaving, cluster.resign):
        with pytest.raises(TheatreError):
            call()
    assert cluster.ring.members == ()
    assert cluster.remaining_lease() == 0.0, "who gives up what it has does not rely on it"
    cluster.stop()


def test_a_start_without_a_server_fails(own: Frail, make: MakeCluster) -> None:
    own.shutdown()
    with pytest.raises(DatabaseUnavailable):
        make(own.dsn)
    own.restart()
    make(own.dsn)


def test_who_is_cut_off_is_declared_dead_after_its_own_lease_has_ended(
    dsn: str, proxy: Proxy, make: MakeCluster
) -> None:
    a, b = make(dsn, "a", 2.0, 0.2), make(proxy.dsn, "b", 2.0, 0.2)
    until(lambda: set(a.hosts) == {"a", "b"})
    left: list[float] = []
    a.on_news(lambda: left.append(b.remaining_lease()) if a.count(news.OtherFenced) else None)
    proxy.hold = True
    proxy.cut()
    a.wait_for(news.OtherFenced)
    until(lambda: left)
    assert left[0] == 0.0
    proxy.hold = False
    proxy.cut()
    until(lambda: b.health().reachable)
    b.rejoin()
    until(lambda: set(a.hosts) == {"a", "b"})
    assert not b.count(news.OtherFenced)


def test_a_life_that_may_have_begun_is_ended(dsn: str, proxy: Proxy, make: MakeCluster) -> None:
    """The answer to a registration is lost: its life is nobody's, and does not wait for its lease to end."""
    cluster = make(proxy.dsn, lease_duration=60.0)
    old = cluster.epoch
    with closing(connect(dsn)) as connection:
        assert postgres.fence_self(connection, Life("a", old))
        cluster.wait_for(news.Fenced)
        connection.run("BEGIN")
        connection.run("LOCK TABLE hosts IN EXCLUSIVE MODE")
        rejoining = in_background(cluster.rejoin)
        until(lambda: execute(dsn, WAITING))
        proxy.swallow_answers = True
        connection.run("COMMIT")
    with pytest.raises(AnswerLost):
        rejoining.get()
    assert cluster.remaining_lease() == 0.0
    assert cluster.epoch == old
    proxy.swallow_answers = False
    proxy.cut()
    [(doubtful,)] = execute(dsn, "SELECT epoch FROM hosts WHERE fenced_at IS NULL")
    assert doubtful > old
    assert cluster.rejoin() > doubtful
    until(lambda: row(dsn, doubtful)[2])
    assert cluster.remaining_lease() > 0


def test_what_the_database_refuses_is_not_asked_all_the_time(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, "a", 1.5, 0.2)
    execute(
        dsn,
        "INSERT INTO hosts (host_id, epoch, address, lease_duration, lease_expiry) "
        "VALUES ('b', 0, '127.0.0.1:5', 0.1, clock_timestamp())",
    )
    cluster.keeper.poll()
    execute(dsn, "ALTER TABLE hosts RENAME COLUMN leaving TO left_alone")
    assert "leaving" in cluster.wait_for(news.DatabaseAway).text
    failures = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    before, began = execute(dsn, failures)[0][0], now()
    for _ in range(3):
        count = cluster.count(news.Renewed)
        until(lambda count=count: cluster.count(news.Renewed) > count)  # type: ignore[misc]
    assert execute(dsn, failures)[0][0] - before <= 20 * (now() - began)
    execute(dsn, "ALTER TABLE hosts RENAME COLUMN left_alone TO leaving")
    cluster.wait_for(news.OtherFenced)


# -- the others ------------------------------------------------------------------------------------------------


def test_hosts_see_each_other_come_leave_and_go(dsn: str, make: MakeCluster) -> None:
    a, b = make(dsn, "a", poll_interval=NEVER), make(dsn, "b", poll_interval=NEVER)
    changes = []
    a.on_change(lambda: changes.append(dict(a.hosts)))
    until(lambda: set(a.hosts) == {"a", "b"} == set(b.hosts))
    assert [host.ring.members for host in (a, b)] == [("a", "b")] * 2
    b.set_leaving()
    assert list(b.ring.members) == ["a"], "itself at once"
    until(lambda: a.ring.members == ("a",))
    assert set(a.hosts) == {"a", "b"}, "it can be reached for what it has not given back yet"
    assert b.remaining_lease() > 0
    b.resign()
    assert b.remaining_lease() == 0.0
    until(lambda: set(a.hosts) == {"a"})
    assert row(dsn, b.epoch) == (row(dsn, b.epoch)[0], True, True)
    assert changes


def test_what_is_not_announced_is_seen_by_polling(dsn: str, make: MakeCluster) -> None:
    """As behind a pooler that gives each statement to another connection."""
    a, b = make(dsn, "a", poll_interval=0.2), make(dsn, "b")
    until(lambda: set(a.hosts) == {"a", "b"})
    execute(dsn, "UPDATE hosts SET leaving = true WHERE epoch = %s", b.epoch)
    until(lambda: a.ring.members == ("a",))
    execute(dsn, "UPDATE hosts SET fenced_at = clock_timestamp() WHERE epoch = %s", b.epoch)
    until(lambda: set(a.hosts) == {"a"})


HOST = """
from theatre_gevent import monkey; monkey.patch_all()
import sys, gevent
from theatre_gevent.cluster.postgres_cluster import Cluster, ClusterConfig
cluster = Cluster(sys.argv[1], ClusterConfig("b", "127.0.0.1:9", 2.0, 0.5)).start()
cluster.register()
print(cluster.epoch, flush=True)
while True:
    gevent.sleep(1)
"""


def start_process(program: str, dsn: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, dsn], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_host_is_declared_dead_when_its_lease_has_ended(dsn: str, make: MakeCluster) -> None:
    a = make(dsn, "a", 2.0, 0.5)
    with start_process(HOST, dsn) as process:
        assert process.stdout is not None
        epoch = int(process.stdout.readline())
        until(lambda: set(a.hosts) == {"a", "b"})
        process.kill()
        process.wait()
    assert a.wait_for(news.OtherFenced) == news.OtherFenced("b", epoch)
    until(lambda: set(a.hosts) == {"a"})
    assert row(dsn, epoch)[2]
    assert not a.count(news.Fenced)


def test_a_successor_does_not_end_its_predecessor_before_its_time(dsn: str, make: MakeCluster) -> None:
    """It might run still, cut off from the database: so its actors stay its own until its lease has ended."""
    a = make(dsn, "a", 2.0, 0.5)
    with start_process(HOST, dsn) as process:
        assert process.stdout is not None
        epoch = int(process.stdout.readline())
        process.kill()
        process.wait()
    b = make(dsn, "b", 2.0, 0.5)
    assert b.epoch > epoch
    if not a.count(news.OtherFenced):
        assert not row(dsn, epoch)[2]
    until(lambda: row(dsn, epoch)[2])
    until(lambda: "b" in a.hosts)
    assert not row(dsn, b.epoch)[2]
    assert a.hosts["b"] == b.address


def test_who_says_goodbye_gets_nothing_new_whatever_the_database_says(dsn: str, make: MakeCluster) -> None:
    a, b = make(dsn, "a", poll_interval=NEVER), make(dsn, "b")
    until(lambda: set(a.hosts) == {"a", "b"})
    a.mark_leaving("b", b.epoch - 1)
    assert "b" in a.ring.members, "that was an earlier life's goodbye, which came late"
    a.mark_leaving("b", b.epoch)
    assert a.ring.members == ("a",)
    a.keeper.poll()
    assert a.ring.members == ("a",), "it has not told the database yet"
    a.mark_leaving("nobody", 1)
    b.rejoin()
    until(lambda: a.ring.members == ("a", "b"))


def test_an_unknown_host_is_looked_for(dsn: str, make: MakeCluster) -> None:
    a = make(dsn, "a", poll_interval=NEVER)
    assert a.refusal("a") is None
    problem = a.refusal("b")
    assert problem is not None
    assert "'b' is not among the live hosts" in problem
    execute(
        dsn,
        "INSERT INTO hosts (host_id, epoch, address, lease_duration, lease_expiry) "
        "VALUES ('b', 0, '127.0.0.1:5', 60, clock_timestamp())",
    )
    assert a.refusal("b") is None, "the database was asked"
    assert a.hosts["b"] == "127.0.0.1:5"


def test_rows_of_old_lives_are_removed_at_a_start(dsn: str, make: MakeCluster) -> None:
    first = make(dsn, "a")
    first.resign()
    first.stop()
    execute(dsn, "UPDATE hosts SET fenced_at = clock_timestamp() - interval '1 day'")
    make(dsn, "b")
    assert execute(dsn, "SELECT host_id FROM hosts") == [("b",)]


# -- forks -----------------------------------------------------------------------------------------------------

FORKING = """
from theatre_gevent import monkey; monkey.patch_all()
import os, sys
from theatre_gevent import TheatreError
from theatre_gevent.cluster.postgres_cluster import Cluster, ClusterConfig
cluster = Cluster(sys.argv[1], ClusterConfig("b", "127.0.0.1:9", 20.0, 0.5)).start()
cluster.register()
pid = os.fork()
if not pid:
    print("child", cluster.remaining_lease(), cluster.lease_until, flush=True)
    try:
        cluster.rejoin()
    except TheatreError as error:
        print(error, flush=True)
    cluster.stop()
    os._exit(0)
os.waitpid(pid, 0)
print("parent", cluster.remaining_lease() > 0, flush=True)
cluster.keeper.poll()
print(sorted(cluster.hosts), cluster.health().reachable, flush=True)
cluster.stop()
"""


def test_the_child_of_a_fork_has_no_lease_and_the_parent_keeps_it(dsn: str) -> None:
    with start_process(FORKING, dsn) as process:
        output, _ = process.communicate(timeout=30)
    assert output.splitlines() == [
        "child 0.0 -inf",
        "host b was started before this process was forked, and belongs to its parent: start hosts after forking",
        "parent True",
        "['b'] True",
    ]


LEFT_ALONE = """
from theatre_gevent import monkey; monkey.patch_all()
import sys
from theatre_gevent.cluster.postgres_cluster import Cluster, ClusterConfig
Cluster(sys.argv[1], ClusterConfig("b", "127.0.0.1:9", 1.5, 0.01)).start().register()
print("end of the program")
"""


def test_a_program_may_end_without_stopping_its_host(dsn: str, make: MakeCluster) -> None:
    with start_process(LEFT_ALONE, dsn) as process:
        output, _ = process.communicate(timeout=30)
    assert (output, process.returncode) == ("end of the program\n", 0)
    until(lambda: not lock_holders(dsn))


# -- configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host_id", ""),
        ("host_id", None),
        ("host_id", "a\0b"),
        ("host_id", "x" * 256),
        ("address", "nowhere"),
        ("address", "host:70000"),
        ("address", None),
        ("lease_duration", 0.1),
        ("lease_duration", -1),
        ("lease_duration", float("nan")),
        ("lease_duration", float("inf")),
        ("lease_duration", "20"),
        ("lease_duration", True),
        ("poll_interval", 0),
        ("poll_interval", None),
    ],
)
def test_a_bad_configuration_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=field):
        ClusterConfig(**{"host_id": "a", field: value})


def test_a_bad_connection_string_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidOption, match="dsn") as caught:
        Cluster("host=x password", ClusterConfig("a"))
    assert "password" not in str(caught.value)


def test_a_host_needs_an_address(dsn: str, make: MakeCluster) -> None:
    cluster = make(dsn, register=False)
    with pytest.raises(InvalidOption, match="address"):
        cluster.register()
