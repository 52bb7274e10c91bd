"""A host that has just registered connects to one that has not heard of it yet."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.integration.cluster_support import users_only
from tests.integration.leased_support import PostgresCluster
from tests.postgres import execute
from tests.support import in_background, until
from tests.transports import Node
from theatre_gevent import Context, Host, HostNotRunning, migrate_schema
from theatre_gevent.cluster.postgres_cluster import Cluster as ClusterOfDatabase

LIFE = (
    "INSERT INTO hosts (host_id, epoch, address, lease_duration, lease_expiry) "
    "VALUES ('b', nextval('theatre_epochs'), '127.0.0.1:5', 60, clock_timestamp()) RETURNING epoch"
)


def test_who_has_just_registered_is_let_in_at_once(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    migrate_schema(dsn)
    caplog.set_level("WARNING", logger="theatre_gevent.cluster")
    with Host(host_id="a", listen="127.0.0.1:0", dsn=dsn, poll_interval=60) as a:
        ((epoch,),) = execute(dsn, LIFE)  # and nobody is told
        b = Node("b", epoch=epoch)
        try:
            b.transport.set_peers({"a": a.address or ""})
            until(lambda: b.link("a").is_up)
            assert b.counter("connect_failures") == 0
            assert not [record for record in caplog.records if "not admitted" in record.getMessage()]
        finally:
            b.transport.stop(timeout=1.0)
        stranger = Node("c", epoch=1)
        try:
            stranger.transport.set_peers({"a": a.address or ""})
            until(lambda: stranger.counter("connect_failures"))
            assert any(
                "'c'" in record.getMessage() and "not admitted" in record.getMessage() for record in caplog.records
            )
        finally:
            stranger.transport.stop(timeout=1.0)


def test_nothing_is_handled_before_the_host_has_started(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others know it as soon as it is registered, and it learns that later, when the database is slow."""
    with PostgresCluster(dsn, "a") as cluster:
        a = cluster["a"]
        cluster.dead["b"] = []
        b = cluster.make("b")
        told, register = Event(), ClusterOfDatabase.register

        def slow(self: ClusterOfDatabase, *given: Any) -> None:
            register(self, *given)
            told.wait()

        monkeypatch.setattr(ClusterOfDatabase, "register", slow)
        states: list[str] = []

        def handle(ctx: Context) -> None:
            states.append(b.state)
            ctx.reply("handled")

        b.register_actor("state", users_only(handle))
        a.register_actor("state", users_only(lambda ctx: ctx.reply("at a")))
        starting = in_background(b.start)
        until(lambda: "b" in a._cluster.ring.members)  # type: ignore[union-attr]
        ref = cluster.refs("b", 1, "state", seen_by="a")[0]
        asked = in_background(lambda: a.request(ref, "handle it", timeout=10))
        with pytest.raises(HostNotRunning, match="not started"):
            b.send(ref, "nor is anything else accepted")
        gevent.sleep(0.2)
        assert states == []
        told.set()
        cluster.hosts["b"] = starting.get(timeout=5)
        assert asked.get(timeout=10) == "handled"
        assert states == ["active"]
