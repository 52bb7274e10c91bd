"""The admin server of hosts with leases: what it says of epochs, leases and owners is what the database has."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from tests.integration.admin_support import ask, get
from tests.postgres import execute
from tests.support import in_background, until
from theatre_gevent import Host, Ref

ADMIN = "127.0.0.1:0"
LEASE = 6.0


@pytest.fixture
def pair(dsn: str) -> Iterator[tuple[Host, Host]]:
    hosts = [
        Host(host_id=name, listen="127.0.0.1:0", dsn=dsn, lease_duration=LEASE, poll_interval=0.2, safety_margin=1.0,
             schedule_recovery_interval=0.5, admin_addr=ADMIN)
        for name in "ab"
    ]  # fmt: skip
    for host in hosts:
        host.register_actor("x", lambda ctx: ctx.reply(ctx.message))
        host.start()
    try:
        until(lambda: all(host.metrics.snapshot()["peers_up"] == 1 for host in hosts), 20)
        yield hosts[0], hosts[1]
    finally:
        gevent.joinall([in_background(host.stop) for host in hosts])


def test_leases_epochs_and_owners(pair: tuple[Host, Host]) -> None:
    a, b = pair
    for host in pair:
        status = get(host, "/cluster/status")
        assert 0 < status["remaining_lease_ms"] <= 1000 * LEASE
        assert status["lease_duration_ms"] == 1000 * LEASE
        assert (status["renewal_failures"], status["database_reachable"]) == (0, True)
        assert status["epoch"] == host._cluster.epoch > 0  # type: ignore[union-attr]
        assert ask(host, "/readyz").status == 200
        entries = get(host, "/cluster/hosts")["hosts"]
        assert [(e["host_id"], e["epoch"], e["admin_addr"]) for e in entries] == [
            (one.host_id, one._cluster.epoch, one.admin_address)  # type: ignore[union-attr]
            for one in pair
        ]
        assert "theatre_lease_remaining_seconds" in ask(host, "/metrics").text
    refs = [Ref("x", str(number)) for number in range(20)]
    for ref in refs:
        assert a.request(ref, "hello") == "hello"
    for ref in refs:
        home = next(host for host in pair if get(host, "/cluster/local-actor", type="x", id=ref.id)["found"])
        for host in pair:
            answer = get(host, "/cluster/actor", type="x", id=ref.id)
            assert (answer["owner_host"], answer["found"]) == (home.host_id, True)
            assert answer["epoch"] == home._cluster.epoch  # type: ignore[union-attr]
            assert answer["address"] == home.address
            detail = get(host, "/cluster/all-actor-detail", type="x", id=ref.id)
            assert (detail["found"], detail["host_id"], detail["owner_host"]) == (True, home.host_id, home.host_id)
    nobody = get(b, "/cluster/actor", type="x", id="nobody")
    assert nobody["found"] is False


def test_a_host_whose_lease_is_short_gets_no_work(pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keeper freezes it at that very moment by a reading of its own; who asks before that is told as well."""
    cluster = pair[0]._cluster
    monkeypatch.setattr(type(cluster), "remaining_lease", lambda self: 0.4 if self is cluster else 5.0)
    reply = ask(pair[0], "/readyz")
    assert reply.status == 503
    assert reply.data["reason"] == "the lease has 0.4 s left, less than the safety margin of 1 s"
    assert ask(pair[1], "/readyz").status == 200


def test_a_host_that_left_is_not_listed(pair: tuple[Host, Host]) -> None:
    a, b = pair
    assert [entry["answered"] for entry in get(a, "/cluster/all-status")["hosts"]] == [True, True]
    b.stop()
    until(lambda: [entry["host_id"] for entry in get(a, "/cluster/hosts")["hosts"]] == ["a"], 20)


def test_rows_that_can_not_be_sent_are_listed(pair: tuple[Host, Host], dsn: str) -> None:
    """Whatever is wrong with them, and with what can be shown of them; the address answers."""
    a, b = pair
    bad = {
        "body": "body = '\\xc1'",
        "actor_id": "actor_id = ''",
        "actor_type": "actor_type = ''",
        "sender": "sender_type = '', sender_id = ''",
        "due_us": "due_us = -1",
        "expression": "expression = 'nonsense'",
        "tz": "tz = 'Nowhere'",
    }
    for name, change in bad.items():
        made = a.send_cron(Ref("x", name), "hello", "@yearly")
        execute(dsn, f"UPDATE schedules SET {change} WHERE id = %s", made)  # noqa: S608
    before = get(b, "/cluster/schedules")["schedules"]  # nobody has found out yet
    assert sum(entry["error"] is not None for entry in before) == 5
    execute(dsn, "UPDATE schedules SET at_us = 0")
    a.send_after(Ref("x", "good"), "hello", 0)
    until(lambda: execute(dsn, "SELECT count(*) FROM schedules WHERE error IS NOT NULL") == [(len(bad),)], 20)
    for host, path in ((a, "/cluster/schedules"), (b, "/cluster/all-schedules")):
        entries = get(host, path)["schedules"]
        assert len(entries) == len(bad)
        assert {(entry["attempt"], entry["kind"]) for entry in entries} == {(1, "cron")}
        assert all(entry["error"] for entry in entries)
        assert {entry["actor_id"] for entry in entries} == {*bad.keys() - {"actor_id"}, "?"}
        assert sum(entry["body"] == "'hello'" for entry in entries) == len(bad) - 1
        assert min(entry["next_fire"] for entry in entries) == "1970-01-01T00:00:00.000Z"
    for host in pair:
        assert {schedule.ref for schedule in host.schedules()} >= {Ref("x", "?"), Ref("?", "actor_type")}


def test_schedules_of_the_cluster_are_counted_once(pair: tuple[Host, Host]) -> None:
    """Each host has all of them, and says that it has."""
    made = [host.send_after(Ref("x", "1"), number, 3600 + number) for number in range(5) for host in pair]
    for host in pair:
        until(lambda host=host: host.metrics.snapshot()["schedules_pending"] == len(made))  # type: ignore[misc]
        answer = get(host, "/cluster/schedules", limit=3)
        assert (answer["total"], answer["scope"]) == (len(made), "cluster")
        answer = get(host, "/cluster/all-schedules", limit=3)
        assert (answer["total"], answer["silent"]) == (len(made), [])
        assert [(entry["id"], entry["host_id"]) for entry in answer["schedules"]] == [(key, None) for key in made[:3]]
