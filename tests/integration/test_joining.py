"""A host that has just registered connects to one that has not heard of it yet."""

from __future__ import annotations

import pytest

from tests.postgres import execute
from tests.support import until
from tests.transports import Node
from theatre_gevent import Host, migrate_schema

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
