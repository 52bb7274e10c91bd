"""Hosts with a database that begin at the same time."""

from __future__ import annotations

import gevent
import pytest

from tests.support import until
from theatre_gevent import Host


def test_hosts_that_start_together_refuse_nobody(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who has just registered connects to others that have not heard of it."""
    caplog.set_level("WARNING", logger="theatre_gevent")
    hosts = [Host(host_id=name, listen="127.0.0.1:0", dsn=dsn, log_level="WARNING") for name in "abcd"]
    try:
        gevent.joinall([gevent.spawn(host.start) for host in hosts], raise_error=True)
        until(lambda: all(host.metrics.snapshot()["peers_up"] == 3 for host in hosts))
        assert [record.getMessage() for record in caplog.records] == []
    finally:
        gevent.joinall([gevent.spawn(host.stop) for host in hosts], raise_error=True)
