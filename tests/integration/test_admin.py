"""Every address of the admin server, on a live cluster of three hosts: what it says is what the test did."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import gevent
import pytest
import ujson
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.admin_support import Reply, ask, get
from tests.integration.cluster_support import Cluster
from tests.support import AheadClock, in_background, until
from theatre_gevent import Host, Ref, RemoteActorError, SystemClock, TheatreError
from theatre_gevent._version import __version__
from theatre_gevent.admin.prometheus import GAUGES
from theatre_gevent.admin.views import VIEWS
from theatre_gevent.inspection import STUCK
from theatre_gevent.metrics import METRICS

ADMIN = "127.0.0.1:0"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(admin_addr=ADMIN) as cluster:
        yield cluster


@pytest.fixture
def alone() -> Iterator[Host]:
    with Host(host_id="alone", admin_addr=ADMIN) as host:
        host.register_actor("x", lambda ctx: ctx.reply(ctx.message))
        yield host


def age(stamp: str) -> float:
    """Seconds since an RFC 3339 time."""
    from datetime import datetime

    assert STAMP.fullmatch(stamp), stamp
    return SystemClock().time() - datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


# -- one host ----------------------------------------------------------------------------------------------------


def test_status_tells_what_was_done(cluster: Cluster) -> None:
    a = cluster["a"]
    for ref in cluster.refs("a", 5):
        assert a.request(ref, "hello") == "hello"
    for ref in cluster.refs("b", 3):
        assert a.request(ref, "hello") == "hello"
    status = get(a, "/cluster/status")
    assert status["host_id"] == "a"
    assert status["state"] == "active"
    assert status["epoch"] == a._transport.identity.epoch  # type: ignore[union-attr]
    assert status["remaining_lease_ms"] is None
    assert status["registered_types"] == ["x"]
    assert status["active_actors"] == 5
    assert status["placement_cache_size"] == 3
    assert status["metrics"] == a.metrics.snapshot()
    assert status["metrics"]["requests_total"] == 8
    assert status["address"] == a.address
    assert status["admin_addr"] == a.admin_address
    assert status["process"] == os.getpid()
    assert status["version"] == __version__
    assert 0 <= age(status["started_at"]) < 60
    assert 0 < status["uptime_ms"] < 60_000
    assert sum(status["handling"]["counts"]) == 5
    assert len(status["handling"]["counts"]) == len(status["handling"]["bounds_ms"]) + 1
    assert status["transport_peers"] == 2
    assert {peer["host_id"]: peer["connected"] for peer in status["transport_peers_detail"]} == {"b": True, "c": True}
    assert status["rss_bytes"] > 1 << 20


def test_hosts_and_their_admin_addresses_are_known_everywhere(cluster: Cluster) -> None:
    for host in cluster:
        hosts = get(host, "/cluster/hosts")["hosts"]
        assert [
            (entry["host_id"], entry["address"], entry["admin_addr"], entry["epoch"], entry["connected"])
            for entry in hosts
        ] == [
            (one.host_id, one.address, one.admin_address, one._transport.identity.epoch, True)  # type: ignore[union-attr]
            for one in cluster
        ]


def test_an_actor_is_found_where_it_is(cluster: Cluster) -> None:
    ref, absent = cluster.refs("b", 2)
    cluster["a"].send(ref, "hello")
    until(lambda: cluster.actors.at(ref))
    for host in cluster:
        answer = get(host, "/cluster/actor", type="x", id=ref.id)
        assert answer == {
            "actor_type": "x",
            "actor_id": ref.id,
            "owner_host": "b",
            "epoch": cluster["b"]._transport.identity.epoch,  # type: ignore[union-attr]
            "address": cluster["b"].address,
            "found": True,
        }
        answer = get(host, "/cluster/actor", type="x", id=absent.id)
        assert (answer["owner_host"], answer["found"]) == ("b", False)
    here = get(cluster["b"], "/cluster/local-actor", type="x", id=ref.id)
    assert (here["found"], here["status"]) == (True, "active")
    assert 0 <= age(here["last_message"]) < 60
    there = get(cluster["a"], "/cluster/local-actor", type="x", id=ref.id)
    assert (there["found"], there["status"], there["last_message"]) == (False, None, None)
    assert get(cluster["a"], "/cluster/local-actor", type="x", id=ref.id, host="b") == here


def test_the_details_of_an_actor(cluster: Cluster) -> None:
    a, (ref,) = cluster["a"], cluster.refs("c", 1)
    for _ in range(3):
        a.request(ref, "hello")
    with pytest.raises(RemoteActorError):
        a.request(ref, ("raise", "no"))
    asked = in_background(a.request, ref, ("hold",))
    until(lambda: cluster.actors.holding)
    for _ in range(2):
        a.send(ref, "waits")

    def detail(host: Host, path: str) -> dict[str, Any]:
        return get(host, path, type="x", id=ref.id)

    until(lambda: detail(cluster["c"], "/cluster/actor-detail")["inbox_size"] == 2)
    for found in (detail(cluster["c"], "/cluster/actor-detail"), detail(a, "/cluster/all-actor-detail")):
        assert found["found"] is True
        assert (found["type"], found["id"], found["host_id"]) == ("x", ref.id, "c")
        assert (found["owner_host"], found["owner_addr"]) == ("c", cluster["c"].address)
        assert found["epoch"] == cluster["c"]._transport.identity.epoch  # type: ignore[union-attr]
        assert (found["inbox_size"], found["inbox_cap"]) == (2, 64)
        assert found["errors_total"] == 1
        assert found["running"] is True
        assert found["receiver_type"].endswith("users_only.<locals>.receive")
        assert 0 <= age(found["created_at"]) < 60
        assert 0 <= found["uptime_ms"] < 60_000
    elsewhere = detail(a, "/cluster/actor-detail")
    assert (elsewhere["found"], elsewhere["status"], elsewhere["owner_host"]) == (False, None, "c")
    cluster.actors.gate.set()
    assert asked.get() == "held"
    until(lambda: detail(a, "/cluster/all-actor-detail")["messages_total"] == 7)
    done = detail(a, "/cluster/all-actor-detail")
    assert (done["inbox_size"], done["running"], done["silent"]) == (0, False, [])


def test_a_class_is_named_as_receiver(alone: Host) -> None:
    class Greeter:
        def receive(self, ctx: object) -> None: ...

    alone.register_actor("greeter", Greeter)
    alone.spawn_local(Ref("greeter", "1"))
    found = get(alone, "/cluster/actor-detail", type="greeter", id="1")
    assert found["receiver_type"].endswith("<locals>.Greeter")
    assert (found["messages_total"], found["owner_host"], found["epoch"]) == (0, "alone", None)


def test_actors_are_paged_and_filtered(alone: Host) -> None:
    alone.register_actor("y", lambda ctx: None)
    for number in range(25):
        alone.spawn_local(Ref("x", f"ann-{number:02}"))
        alone.spawn_local(Ref("y", f"bob/{number:02}"))
    first = get(alone, "/cluster/actors", type="x", limit=10)
    assert [entry["id"] for entry in first["actors"]] == [f"ann-{number:02}" for number in range(10)]
    assert first["total"] == 25
    assert {entry["status"] for entry in first["actors"]} == {"active"}
    assert {entry["inbox_cap"] for entry in first["actors"]} == {64}
    seen: list[tuple[str, str]] = []
    after: dict[str, str] = {}
    while True:
        page = get(alone, "/cluster/actors", limit=7, **after)
        seen += [(entry["type"], entry["id"]) for entry in page["actors"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen)) == 50
    found = get(alone, "/cluster/actors", prefix="bob/1", type="y")
    assert [entry["id"] for entry in found["actors"]] == [f"bob/1{digit}" for digit in range(10)]
    assert (found["total"], found["next"]) == (10, None)
    assert get(alone, "/cluster/actors", type="z")["actors"] == []


def test_the_actors_of_all_hosts_are_one_list(cluster: Cluster) -> None:
    refs = sorted((ref for name in "abc" for ref in cluster.refs(name, 9)), key=lambda ref: ref.id)
    for ref in refs:
        cluster["a"].request(ref, "hello")
    seen: list[tuple[str, str]] = []
    after: dict[str, str] = {}
    while True:
        page = get(cluster["b"], "/cluster/all-actors", limit=4, **after)
        assert page["silent"] == []
        assert page["total"] == 27
        seen += [(entry["id"], entry["host_id"]) for entry in page["actors"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == [(ref.id, ref.id[0]) for ref in refs]


def test_types_and_their_counts(cluster: Cluster) -> None:
    host = cluster["b"]
    ref = cluster.ref("b")
    for _ in range(4):
        host.request(ref, "hello")
    with pytest.raises(RemoteActorError):
        host.request(ref, ("raise", "no"))
    answer = get(host, "/cluster/types")
    assert answer["types"] == ["x"]
    (counts,) = answer["details"]
    assert (counts["messages"], counts["activations"], counts["active"]) == (5, 1, 1)
    assert (counts["errors"], counts["failed"]) == (1, 0)
    assert sum(counts["times"]) == 5


def test_errors_dead_letters_and_freezes_are_told(cluster: Cluster) -> None:
    host, ref = cluster["b"], cluster.ref("b")
    cluster.lossy = True
    with pytest.raises(RemoteActorError):
        host.request(ref, ("raise", "no"))
    with pytest.raises(TheatreError):
        host.request(Ref("nobody", "1"), "hello")
    held = in_background(host.request, ref, ("hold",))
    until(lambda: cluster.actors.holding)
    host.send(ref, "lost with a secret in it")
    host.freeze()
    with pytest.raises(TheatreError):
        held.get()
    for answer in (get(host, "/cluster/errors"), get(cluster["a"], "/cluster/all-errors")):
        errors = answer["errors"]
        assert [e["time"] for e in errors] == sorted((e["time"] for e in errors), reverse=True)
        told = {(e["level"], e["source"], e["message"], e["actor"], e["detail"]) for e in errors}
        assert (
            "error",
            "theatre_gevent.actor",
            f"actor {ref} raised while it handled a message of type tuple",
            str(ref),
            "ZeroDivisionError: no",
        ) in told
        assert ("warn", "theatre_gevent.host", "host b freezes", None, None) in told
        (letter,) = [e for e in errors if e["source"] == "dead letter"]
        assert (letter["actor"], letter["host_id"]) == (str(ref), "b")
        assert letter["message"] == "dead letter: str"
        assert "secret" not in str(errors)
    for path in ("/cluster/errors", "/cluster/all-errors"):
        page, everything = (get(host, path, limit=limit) for limit in (1, 1000))
        assert page["errors"] == everything["errors"][:1]
        assert page["total"] == everything["total"] == len(everything["errors"]) > 1
    assert ask(host, "/readyz").data == {"status": "unavailable", "reason": "the host is frozen"}
    host.unfreeze()


def test_what_happens_twice_in_a_millisecond_is_shown_twice(cluster: Cluster) -> None:
    ref = cluster.ref("b")
    for _ in range(20):
        cluster["b"].send(ref, ("raise", "no"))
    told = f"actor {ref} raised while it handled a message of type tuple"

    def seen(path: str) -> int:
        return sum(error["message"] == told for error in get(cluster["b"], path)["errors"])

    until(lambda: seen("/cluster/errors") == 20)
    assert seen("/cluster/all-errors") == 20


def test_variables_of_the_process(alone: Host) -> None:
    answer = get(alone, "/debug/vars")
    assert answer["pid"] == os.getpid()
    assert answer["theatre"] == alone.metrics.snapshot()
    assert len(answer["memstats"]["gc"]) == 3


def test_schedules_are_listed(cluster: Cluster) -> None:
    empty: dict[str, Any] = {"schedules": [], "total": 0, "scope": "host"}
    assert get(cluster["b"], "/cluster/schedules") == empty
    ref = cluster.ref("a")
    once = cluster["a"].send_after(ref, {"body": "x" * 1000}, 3600)
    hourly = cluster["b"].send_cron(ref, "tick", "@hourly", tz="Europe/Berlin")
    (entry,) = get(cluster["a"], "/cluster/schedules")["schedules"]
    assert (entry["id"], entry["kind"], entry["cron_expr"]) == (once, "one-shot", None)
    assert (entry["actor_type"], entry["actor_id"], entry["host_id"]) == ("x", ref.id, "a")
    assert -3600 <= age(entry["next_fire"]) < -3500
    assert "body" in entry["body"]
    assert len(entry["body"]) < 100
    everywhere = get(cluster["c"], "/cluster/all-schedules")
    assert (everywhere["total"], everywhere["silent"]) == (2, [])
    assert {entry["id"]: entry["host_id"] for entry in everywhere["schedules"]} == {once: "a", hourly: "b"}
    assert [entry["next_fire"] for entry in everywhere["schedules"]] == sorted(
        entry["next_fire"] for entry in everywhere["schedules"]
    )
    (cron,) = [entry for entry in everywhere["schedules"] if entry["id"] == hourly]
    assert (cron["kind"], cron["cron_expr"], cron["tz"], cron["body"]) == ("cron", "@hourly", "Europe/Berlin", "'tick'")
    assert len(get(cluster["c"], "/cluster/all-schedules", limit=1)["schedules"]) == 1
    assert get(cluster["a"], "/cluster/status")["pending_schedules"] == 1


# -- health ------------------------------------------------------------------------------------------------------


def test_health_and_readiness(cluster: Cluster) -> None:
    host = cluster["a"]
    assert (ask(host, "/healthz").status, ask(host, "/readyz").status) == (200, 200)
    host.freeze()
    assert ask(host, "/healthz").status == 200
    assert ask(host, "/readyz").status == 503
    host.unfreeze()
    assert ask(host, "/readyz").status == 200
    ref = cluster.ref("a")
    in_background(host.request, ref, ("hold",))
    until(lambda: cluster.actors.holding)
    stopping = in_background(host.stop)
    until(lambda: host.state == "draining")
    refused = ask(host, "/readyz")
    assert (refused.status, refused.data["reason"]) == (503, "the host is draining")
    assert ask(host, "/healthz").status == 200
    cluster.actors.gate.set()
    stopping.get()
    with pytest.raises(OSError):
        ask(host, "/healthz")


def test_a_hub_that_is_stuck_is_not_well() -> None:
    """The timer that should have come ten seconds ago has not, by the host's own clock."""
    clock = AheadClock()
    with Host(host_id="stuck", admin_addr=ADMIN, clock=clock) as host:
        assert ask(host, "/healthz").status == 200
        clock.ahead = STUCK + 5
        reply = ask(host, "/healthz")
        assert reply.status == 503
        assert re.fullmatch(r"the hub was blocked for 1[45]\.\d s", reply.data["reason"])
        clock.ahead = 0.0
        until(lambda: ask(host, "/healthz").status == 200)


# -- the whole cluster -------------------------------------------------------------------------------------------


def test_every_host_is_asked_through_one(cluster: Cluster) -> None:
    cluster["b"].request(cluster.ref("b"), "hello")
    answer = get(cluster["a"], "/cluster/all-status")
    assert answer["host_id"] == "a"
    assert [entry["host_id"] for entry in answer["hosts"]] == ["a", "b", "c"]
    for entry in answer["hosts"]:
        assert (entry["answered"], entry["error"]) == (True, None)
        assert entry["state"] == entry["status"]["state"] == "active"
        assert entry["status"]["host_id"] == entry["host_id"]
        assert entry["admin_addr"] == cluster[entry["host_id"]].admin_address
    assert answer["hosts"][1]["status"]["active_actors"] == 1
    assert get(cluster["a"], "/cluster/status", host="b")["host_id"] == "b"
    assert get(cluster["a"], "/cluster/status", host="a")["host_id"] == "a"


def test_a_host_that_is_gone_is_named_and_holds_up_nothing(cluster: Cluster) -> None:
    cluster.lossy = True
    refs = {name: cluster.ref(name) for name in "abc"}
    for ref in refs.values():
        cluster["a"].request(ref, "hello")
    cluster["c"].stop()
    until(lambda: cluster["a"].metrics.snapshot()["peers_up"] == 1)
    a = cluster["a"]
    answer = get(a, "/cluster/all-status")
    answered = {entry["host_id"]: entry["answered"] for entry in answer["hosts"]}
    assert answered == {"a": True, "b": True, "c": False}
    gone = answer["hosts"][2]
    assert gone["status"] is None
    assert gone["connected"] is False
    assert gone["error"].startswith("host 'c' does not answer: 127.0.0.1:")
    page = get(a, "/cluster/all-actors")
    assert {entry["host_id"] for entry in page["actors"]} == {"a", "b"}
    assert page["silent"] == [{"host_id": "c", "error": gone["error"]}]
    found = get(a, "/cluster/actor", type="x", id=refs["c"].id)
    assert (found["owner_host"], found["found"]) == ("c", None)
    assert found["error"] == gone["error"]
    detail = get(a, "/cluster/all-actor-detail", type="x", id=refs["c"].id)
    assert (detail["found"], [one["host_id"] for one in detail["silent"]]) == (False, ["c"])
    reply = ask(a, "/cluster/status", host="c")
    assert (reply.status, reply.data["error"]) == (502, gone["error"])


def test_a_host_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    """A listener that takes connections and never answers stands where the admin server of c is said to be."""
    from theatre_gevent.admin import peers as module
    from theatre_gevent.cluster.sockets import Address, listen

    monkeypatch.setattr(module, "PATIENCE", 0.3)
    mute = listen(Address("127.0.0.1", 0))
    try:
        link = cluster["a"]._transport.link("c")  # type: ignore[union-attr]
        assert link is not None
        assert link.peer is not None
        from msgspec.structs import replace

        link.peer = replace(link.peer, admin_addr=f"127.0.0.1:{mute.getsockname()[1]}")
        entries = get(cluster["a"], "/cluster/all-status")["hosts"]
        assert [entry["answered"] for entry in entries] == [True, True, False]
        assert "no answer from 127.0.0.1:" in entries[2]["error"] or "timed out" in entries[2]["error"]
        link.peer = replace(link.peer, admin_addr=str(cluster["b"].admin_address))
        entries = get(cluster["a"], "/cluster/all-status")["hosts"]
        assert [entry["answered"] for entry in entries] == [True, True, False]
        assert "host 'b' answers at" in entries[2]["error"]
    finally:
        mute.close()


def test_a_host_without_an_admin_server_is_named() -> None:
    with Cluster("ab", own={"a": {"admin_addr": ADMIN}}) as cluster:
        entries = get(cluster["a"], "/cluster/all-status")["hosts"]
        assert [entry["answered"] for entry in entries] == [True, False]
        assert entries[1]["error"] == "host 'b' does not answer: it has no admin server"


def test_a_host_by_itself_is_a_cluster_of_one(alone: Host) -> None:
    (entry,) = get(alone, "/cluster/hosts")["hosts"]
    assert (entry["host_id"], entry["address"], entry["epoch"]) == ("alone", "", None)
    (entry,) = get(alone, "/cluster/all-status")["hosts"]
    assert (entry["host_id"], entry["answered"]) == ("alone", True)


# -- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/cluster/actor", {"type": "x"}, "id"),
        ("/cluster/actor", {"id": "x"}, "type"),
        ("/cluster/local-actor", {"type": "x", "id": ""}, "id"),
        ("/cluster/actor-detail", {}, "type"),
        ("/cluster/actors", {"limit": "0"}, "limit"),
        ("/cluster/actors", {"limit": "1001"}, "limit"),
        ("/cluster/actors", {"limit": "ten"}, "limit"),
        ("/cluster/actors", {"limit": "9" * 5000}, "limit"),
        ("/cluster/actors", {"after": "nowhere"}, "after"),
        ("/cluster/actors", {"colour": "red"}, "colour"),
        ("/cluster/status", {"host": ""}, "host"),
        ("/cluster/errors", {"limit": "-1"}, "limit"),
        ("/cluster/all-status", {"host": "a"}, "host"),
    ],
)
def test_bad_parameters_are_named(alone: Host, path: str, query: dict[str, Any], named: str) -> None:
    reply = ask(alone, path, **query)
    assert reply.status == 400
    assert reply.data["parameter"] == named
    assert named in reply.data["error"]


@pytest.mark.parametrize("query", ["type=x&type=y&id=1", "type", "=x", "type=%ff&id=1", "&".join(["a=1"] * 30)])
def test_bad_queries_are_refused(alone: Host, query: str) -> None:
    reply = ask(alone, f"/cluster/actor?{query}")
    assert reply.status == 400
    assert reply.data["error"]


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /cluster/actor?type=x&id=" + b"%C3%BC" * 3000 + b" HTTP/1.1", 414),
        (b"GET /a b c HTTP/1.1", 400),
        (b"nothing", 400),
    ],
)
def test_what_is_no_request_is_answered_with_json_too(alone: Host, request_line: bytes, status: int) -> None:
    assert alone.admin_address is not None
    name, _, port = alone.admin_address.rpartition(":")
    with socket.create_connection((name, int(port)), 20) as connection:
        connection.sendall(request_line + b"\r\nHost: localhost\r\n\r\n")
        response = HTTPResponse(connection)
        response.begin()
        assert (response.status, response.getheader("Content-Type")) == (status, "application/json")
        assert ujson.loads(response.read())["error"]


def test_an_unknown_host_is_refused(cluster: Cluster) -> None:
    reply = ask(cluster["a"], "/cluster/status", host="z")
    assert (reply.status, reply.data["error"]) == (400, "parameter 'host' must be one of 'a', 'b', 'c', got 'z'")


@pytest.mark.parametrize(
    "path", ["/nothing", "/cluster", "/cluster/", "/cluster/status/", "/static/../app.py", "/static/x"]
)
def test_unknown_addresses_are_not_found(alone: Host, path: str) -> None:
    reply = ask(alone, path)
    assert reply.status == 404
    assert reply.data["error"].startswith("there is nothing at ")


@pytest.mark.parametrize("path", [*(view.path for view in VIEWS), "/metrics", "/healthz", "/readyz", "/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_wrong_methods_are_refused(alone: Host, path: str, method: str) -> None:
    reply = ask(alone, path, method)
    assert reply.status == 405
    assert "GET" in reply.headers["Allow"]
    assert method in reply.data["error"]


@pytest.mark.parametrize("path", ["/cluster/drain", "/cluster/freeze"])
def test_orders_are_not_carried_out_by_looking(alone: Host, path: str) -> None:
    assert ask(alone, path).status == 405
    assert ask(alone, path).headers["Allow"] == "POST"
    assert alone.state == "active"


def test_a_mistake_in_here_is_told_as_json_and_logged(
    alone: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(alone.metrics, "snapshot", lambda: 1 / 0)
    reply = ask(alone, "/cluster/status")
    assert (reply.status, reply.data) == (500, {"error": "the admin server failed; the log tells more"})
    assert "ZeroDivisionError" in caplog.text


# -- metrics -----------------------------------------------------------------------------------------------------


def samples(reply: Reply) -> dict[tuple[str, str], float]:
    """Values by name and the label that matters."""
    assert reply.status == 200
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(reply.text):
        assert family.documentation, family.name
        for sample in family.samples:
            label = sample.labels.get("type") or sample.labels.get("state") or ""
            key = (sample.name, label + ("/" + sample.labels["le"] if "le" in sample.labels else ""))
            assert key not in found
            found[key] = sample.value
    return found


def test_metrics_are_what_prometheus_reads(cluster: Cluster) -> None:
    host, ref = cluster["a"], cluster.ref("a")
    host.register_actor('odd"name\\\n', lambda ctx: ctx.reply(0))
    for _ in range(6):
        host.request(ref, "hello")
    with pytest.raises(RemoteActorError):
        host.request(ref, ("raise", "no"))
    reply = ask(host, "/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain")
    found = samples(reply)
    assert found["theatre_messages_received_total", ""] == 7
    assert found["theatre_requests_total", ""] == 7
    assert found["theatre_receiver_errors_total", ""] == 1
    assert found["theatre_actors_active", ""] == 1
    assert found["theatre_peers_up", ""] == 2
    assert found["theatre_actor_messages_total", "x"] == 7
    assert found["theatre_actor_errors_total", "x"] == 1
    assert found["theatre_actor_activations_total", "x"] == 1
    assert found["theatre_actors", "x"] == 1
    assert found["theatre_actor_messages_total", 'odd"name\\\n'] == 0
    assert found["theatre_actor_handling_seconds_count", "x"] == 7
    assert found["theatre_actor_handling_seconds_bucket", "x/+Inf"] == 7
    assert 0 < found["theatre_actor_handling_seconds_sum", "x"] < 7
    assert found["theatre_host_state", "active"] == 1
    assert found["theatre_host_state", "frozen"] == 0
    assert found["theatre_hub_lag_seconds", ""] >= 0
    assert found["process_resident_memory_bytes", ""] > 1 << 20
    names = {name for name, _ in found}
    for metric in METRICS:
        if metric.endswith("_ms"):
            assert f"theatre_{metric.removesuffix('_ms')}_seconds" in names
        elif metric in GAUGES:
            assert f"theatre_{metric}" in names
        else:
            assert f"theatre_{metric.removesuffix('_total')}_total" in names


def test_what_goes_down_again_is_a_gauge() -> None:
    assert set(METRICS) >= GAUGES
    now = {name for name, text in METRICS.items() if re.search(r"\b(now|waits?|wait for|not yet|remembered)\b", text)}
    assert now - {"requests_abandoned"} <= GAUGES


@pytest.mark.parametrize("accept", ["text/plain;version=abc", "application/openmetrics-text; version=;q=x", "", "*/*"])
def test_metrics_come_whatever_is_accepted(alone: Host, accept: str, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(alone, "/metrics", headers={"Accept": accept}).status == 200
    assert [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")] == []


def test_buckets_rise_and_openmetrics_can_be_read(alone: Host) -> None:
    for _ in range(50):
        alone.request(Ref("x", "1"), "hello")
    reply = ask(alone, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(reply.text)}  # type: ignore[no-untyped-call]
    times = families["theatre_actor_handling_seconds"]
    assert times.type == "histogram"
    buckets = [sample.value for sample in times.samples if sample.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 50
    assert families["theatre_messages_sent"].type == "counter"
    assert families["theatre_messages_queued"].type == "gauge"


def test_counters_never_fall(alone: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that comes back from another host lowers the count of those sent."""
    for _ in range(5):
        alone.request(Ref("x", "1"), "hello")
    before = samples(ask(alone, "/metrics"))["theatre_messages_sent_total", ""]
    counts = alone.metrics.snapshot()
    monkeypatch.setattr(alone.metrics, "snapshot", lambda: {**counts, "messages_sent": counts["messages_sent"] - 2})
    assert samples(ask(alone, "/metrics"))["theatre_messages_sent_total", ""] == before == 5


# -- life --------------------------------------------------------------------------------------------------------


def test_the_address_is_free_again_after_the_stop() -> None:
    with Host(admin_addr=ADMIN) as host:
        address = host.admin_address
        assert address is not None
    with Host(admin_addr=address) as again:
        assert again.admin_address == address
        assert get(again, "/healthz") == {"status": "ok"}


def test_an_address_in_use_is_told_at_the_start(alone: Host) -> None:
    other = Host(admin_addr=alone.admin_address)
    with pytest.raises(TheatreError, match=f"cannot listen at {alone.admin_address}"):
        other.start()
    assert other.state == "new"


def test_silent_connections_do_no_harm(alone: Host) -> None:
    from gevent.socket import create_connection

    assert alone.admin_address is not None
    name, _, port = alone.admin_address.rpartition(":")
    connections = [create_connection((name, int(port))) for _ in range(50)]
    try:
        connections[0].sendall(b"GET /hea")
        connections[1].sendall(b"\x16\x03\x01 nonsense \xff\r\n\r\n")
        assert get(alone, "/healthz") == {"status": "ok"}
    finally:
        for connection in connections:
            connection.close()


def test_many_ask_at_the_same_time(cluster: Cluster) -> None:
    asked = [in_background(get, cluster["a"], "/cluster/all-status") for _ in range(30)]
    gevent.joinall(asked)
    for one in asked:
        assert [entry["answered"] for entry in one.get()["hosts"]] == [True] * 3


def test_the_grafana_dashboard_asks_for_metrics_that_there_are(cluster: Cluster) -> None:
    dashboard = ujson.loads((Path(__file__).parents[2] / "examples" / "grafana.json").read_text())
    wanted = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:theatre|process)_\w+", target["expr"])
    }
    served = {name for name, _ in samples(ask(cluster["a"], "/metrics"))}
    assert len(wanted) > 15
    assert wanted - served == {"theatre_lease_remaining_seconds"}, "which only a host with a lease has"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
