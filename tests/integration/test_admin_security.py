"""Who gets an answer from an admin server, and what a web page of somebody else's can't do."""

from __future__ import annotations

import hmac
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

import gevent
import pytest
import ujson
from gevent import get_hub

from tests.conftest import MakeHost
from tests.integration.admin_support import ask, get
from tests.integration.cluster_support import Cluster
from tests.support import until
from theatre_gevent import Context, Host, InvalidOption, Ref, SystemClock
from theatre_gevent.admin import guard, server
from theatre_gevent.admin.guard import make_proof
from theatre_gevent.core.native import get_ident
from theatre_gevent.hub_watch import HubWatch
from theatre_gevent.testing import VirtualClock

ADMIN = "127.0.0.1:0"
TOKEN = "correct-horse-battery-staple"  # noqa: S105 - of these tests alone
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def open_host() -> Iterator[Host]:
    with Host(host_id="a", admin_addr=ADMIN) as host:
        host.register_actor("x", lambda ctx: None)
        yield host


@pytest.fixture
def token_host() -> Iterator[Host]:
    with Host(host_id="a", admin_addr=ADMIN, admin_token=TOKEN) as host:
        yield host


# -- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.168.1.1:9090", "example.org:80"])
def test_other_machines_need_a_token_or_an_explicit_word(address: str) -> None:
    with pytest.raises(InvalidOption, match="admin_token"):
        Host(admin_addr=address)
    Host(admin_addr=address, admin_token=TOKEN)
    Host(admin_addr=address, admin_insecure=True)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.9.9.9:0"])
def test_this_machine_needs_neither(address: str) -> None:
    Host(admin_addr=address)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"admin_addr": "9090"}, "admin_addr"),
        ({"admin_addr": ":9090"}, "admin_addr"),
        ({"admin_addr": 9090}, "admin_addr"),
        ({"admin_token": ""}, "admin_token"),
        ({"admin_token": "two words"}, "admin_token"),
        ({"admin_token": "naïve"}, "admin_token"),
        ({"admin_token": b"bytes"}, "admin_token"),
        ({"admin_token": "a\nb"}, "admin_token"),
        ({"admin_insecure": 1}, "admin_insecure"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=named) as caught:
        Host(**options)
    assert "two words" not in str(caught.value)


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(Host(admin_addr=ADMIN, admin_token=TOKEN).options)


# -- the token ---------------------------------------------------------------------------------------------------

DATA = ["/cluster/status", "/cluster/all-status", "/cluster/actors", "/cluster/errors", "/debug/vars", "/metrics"]
BAD = [
    "",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    "Bearer",
    f"Basic {TOKEN}",
    TOKEN,
    "Bearer \udcff",
    "Theatre-Peer",
]


@pytest.mark.parametrize("path", [*DATA, "/nothing"])
@pytest.mark.parametrize("said", BAD)
def test_data_needs_the_token(token_host: Host, path: str, said: str) -> None:
    headers = {"Authorization": said.encode("utf-8", "surrogateescape").decode("latin-1")} if said else {}
    reply = ask(token_host, path, headers=headers)
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert "admin_token" in reply.data["error"]


@pytest.mark.parametrize("path", DATA)
def test_with_the_token_it_is_given(token_host: Host, path: str) -> None:
    assert ask(token_host, path, headers=BEARER).status == 200
    assert ask(token_host, path, headers={"Authorization": f"bearer  {TOKEN}"}).status == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_health_and_the_empty_page_need_none(token_host: Host, path: str) -> None:
    assert ask(token_host, path).status == 200


def test_tokens_are_compared_in_constant_time(token_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    class Watched:
        compare_digest = staticmethod(compare)
        new = staticmethod(hmac.new)

    monkeypatch.setattr(guard, "hmac", Watched)
    assert ask(token_host, "/cluster/status", headers={"Authorization": "Bearer guess"}).status == 401
    assert (b"guess", TOKEN.encode()) in compared


def test_hosts_ask_each_other_without_showing_the_token(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    with Cluster(admin_addr=ADMIN, admin_token=TOKEN) as cluster:
        app = cluster["b"].admin_app

        def spy(environ: dict[str, Any], start_response: Any) -> Any:
            seen.append(environ.get("HTTP_AUTHORIZATION", ""))
            return app(environ, start_response)

        cluster["b"]._admin._server._server.application = spy  # type: ignore[union-attr]
        reply = ask(cluster["a"], "/cluster/all-status", headers=BEARER)
        assert [entry["answered"] for entry in reply.data["hosts"]] == [True, True, True]
        (proof,) = seen
        assert proof.startswith("Theatre-Peer ")
        assert TOKEN not in proof
        # Who hears the proof can ask that host the same, and no other host, nor for anything else.
        stolen = {"Authorization": proof}
        assert ask(cluster["b"], "/cluster/status", headers=stolen).status == 200
        assert ask(cluster["b"], "/cluster/errors", headers=stolen).status == 401
        assert ask(cluster["b"], "/cluster/status?host=a", headers=stolen).status == 401
        assert ask(cluster["c"], "/cluster/status", headers=stolen).status == 401
        assert ask(cluster["b"], "/cluster/freeze", "POST", {**stolen, **JSON}).status == 401
    assert TOKEN not in caplog.text


def test_hosts_with_different_tokens_say_so() -> None:
    with Cluster("ab", admin_addr=ADMIN, own={"a": {"admin_token": "one"}, "b": {"admin_token": "two"}}) as cluster:
        reply = ask(cluster["a"], "/cluster/all-status", headers={"Authorization": "Bearer one"})
        assert [entry["answered"] for entry in reply.data["hosts"]] == [True, False]
        assert "admin_token" in reply.data["hosts"][1]["error"]
        assert ask(cluster["a"], "/cluster/status?host=b", headers={"Authorization": "Bearer one"}).status == 502


# -- orders ------------------------------------------------------------------------------------------------------

ORDERS = ["/cluster/freeze", "/cluster/drain"]


@pytest.mark.parametrize("path", ORDERS)
def test_orders_need_a_token_to_be_set(open_host: Host, path: str) -> None:
    reply = ask(open_host, path, "POST", {**JSON, **BEARER})
    assert (reply.status, open_host.state) == (403, "active")
    assert "admin_token" in reply.data["error"]


@pytest.mark.parametrize("path", ORDERS)
def test_orders_need_the_token_and_json(token_host: Host, path: str) -> None:
    target = path
    proof = {"Authorization": make_proof(TOKEN, "a", target)}
    for headers, status in (
        (JSON, 401),
        ({**JSON, "Authorization": "Bearer wrong"}, 401),
        ({**JSON, **proof}, 401),
        (BEARER, 415),
        ({**BEARER, "Content-Type": "text/plain"}, 415),
        ({**BEARER, "Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({**BEARER, **JSON, "Sec-Fetch-Site": "cross-site"}, 403),
    ):
        assert ask(token_host, path, "POST", headers).status == status
    assert ask(token_host, path, "POST", {**BEARER, **JSON}, body="{").status == 400
    assert ask(token_host, path, "POST", {**BEARER, **JSON}, body='{"force": 1}').status == 400
    assert ask(token_host, path, "POST", {**BEARER, **JSON}, body=" " * 70_000).status == 413
    assert token_host.state == "active"


def test_freeze_and_drain(token_host: Host) -> None:
    reply = ask(token_host, "/cluster/freeze", "POST", {**BEARER, "Content-Type": "application/json; charset=utf-8"})
    assert (reply.status, reply.data) == (202, {"host_id": "a", "state": "frozen"})
    assert token_host.state == "frozen"
    reply = ask(token_host, "/cluster/drain", "POST", {**BEARER, **JSON}, body="{}")
    assert (reply.status, reply.data) == (202, {"host_id": "a", "state": "draining"})
    until(lambda: token_host.state == "stopped")


def test_a_draining_host_can_not_freeze() -> None:
    with Cluster("ab", admin_addr=ADMIN, admin_token=TOKEN) as cluster:
        host = cluster["a"]
        ref = cluster.ref("a")
        host.send(ref, ("hold",))
        until(lambda: cluster.actors.holding)
        assert ask(host, "/cluster/drain", "POST", {**BEARER, **JSON}).status == 202
        until(lambda: host.state == "draining")
        assert ask(host, "/cluster/freeze", "POST", {**BEARER, **JSON}).status == 409
        cluster.actors.gate.set()
        until(lambda: host.state == "stopped")


# -- other people's web pages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "[evil]", "1.2.3"])
@pytest.mark.parametrize("path", ["/", "/cluster/status", "/metrics"])
def test_a_name_that_was_made_to_lead_here_gets_nothing(open_host: Host, path: str, name: str) -> None:
    reply = ask(open_host, path, headers={"Host": name})
    assert reply.status == 403
    assert "Host header" in reply.data["error"]


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:9090", "10.1.2.3:9090", "localhost."]
)
def test_names_of_this_machine_do(open_host: Host, name: str) -> None:
    assert ask(open_host, "/cluster/status", headers={"Host": name}).status == 200


@pytest.mark.parametrize("options", [{"listen": "127.1:0"}, {"listen": "127.0.0.1:0", "advertise": "127.1:0"}])
def test_hosts_may_ask_each_other_by_the_name_that_they_announce(options: dict[str, str]) -> None:
    """127.1 is a name to whoever wants IP addresses, and one that leads here everywhere."""
    hosts = {
        name: Host(host_id=name, admin_addr="0.0.0.0:0", admin_insecure=True, **options)  # type: ignore[arg-type]
        for name in "ab"
    }
    with hosts["a"] as a, hosts["b"] as b:
        peers = {name: host.address for name, host in hosts.items() if host.address is not None}
        for host in (a, b):
            host.set_peers(peers)
        until(lambda: all(one["answered"] for one in get(a, "/cluster/all-status")["hosts"]))
        asked = get(a, "/cluster/all-status")["hosts"]
        assert [one["admin_addr"].rpartition(":")[0] for one in asked if one["host_id"] == "b"] == ["127.1"]
        assert ask(a, "/cluster/status", headers={"Host": "evil.example"}).status == 403


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_told_by_any_name_but_to_no_other_site(open_host: Host, path: str) -> None:
    """Load balancers ask for it by names of their own."""
    reply = ask(open_host, path, headers={"Host": "balancer.example.org"})
    assert (reply.status, reply.data) == (200, {"status": "ok"})
    assert ask(open_host, path, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}).status == 403


def test_with_a_token_any_name_will_do(token_host: Host) -> None:
    headers = {"Host": "admin.example.org"}
    assert ask(token_host, "/cluster/status", headers={**headers, **BEARER}).status == 200
    assert ask(token_host, "/cluster/status", headers=headers).status == 401


def test_other_sites_pages_get_nothing(open_host: Host) -> None:
    for mode in ("cors", "no-cors", "websocket"):
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Origin": "http://evil.example"}
        reply = ask(open_host, "/cluster/status", headers=headers)
        assert reply.status == 403
        assert reply.headers["Access-Control-Allow-Origin"] is None
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(open_host, "/", headers=link).status == 200
    preflight = ask(open_host, "/cluster/freeze", "OPTIONS", headers={"Access-Control-Request-Method": "POST"})
    assert preflight.status == 405
    assert preflight.headers["Access-Control-Allow-Origin"] is None


@pytest.mark.parametrize("path", ["/", "/cluster/status", "/nothing", "/healthz", "/metrics"])
def test_every_answer_forbids_what_a_browser_could_make_of_it(open_host: Host, path: str) -> None:
    headers = ask(open_host, path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    if path != "/nothing":
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_the_page_takes_scripts_from_its_own_files_alone(open_host: Host) -> None:
    reply = ask(open_host, "/")
    assert "script-src 'self';" in reply.headers["Content-Security-Policy"]
    assert "require-trusted-types-for 'script'" in reply.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=\"/?static/)", reply.text)
    assert not re.search(r"\son\w+=|<style|style=|https?://", reply.text)


def test_hostile_text_is_never_html(open_host: Host) -> None:
    open_host.spawn_local(Ref("x", HOSTILE))
    for reply in (
        ask(open_host, "/cluster/actors"),
        ask(open_host, "/cluster/actor-detail", type="x", id=HOSTILE),
        ask(open_host, "/cluster/actors", after=HOSTILE),
        ask(open_host, "/" + "%3Cscript%3E"),
        ask(open_host, "/cluster/status", method="GET", host="<script>"),
        ask(open_host, "/cluster/status", headers={"Host": "<script>"}),
    ):
        assert reply.headers["Content-Type"] == "application/json"
        ujson.loads(reply.text)
    assert get(open_host, "/cluster/actors")["actors"][0]["id"] == HOSTILE


def test_odd_ids_travel_whole(open_host: Host) -> None:
    for actor_id in ("a/b?c=d&e#f", "ü 世界 \u202e", "\n\t\"'\\", "%41", "+", "a" * 4000):
        open_host.spawn_local(Ref("x", actor_id))
        found = get(open_host, "/cluster/actor-detail", type="x", id=actor_id)
        assert (found["found"], found["id"]) == (True, actor_id)
        page = get(open_host, "/cluster/actors", prefix=actor_id)
        assert page["actors"][0]["id"] == actor_id


def test_answers_of_other_hosts_may_hold_odd_ids_too() -> None:
    with Cluster("ab", admin_addr=ADMIN, admin_token=TOKEN) as cluster:
        refs = [Ref("x", f"{HOSTILE} ü/{number}?&#%") for number in range(20)]
        for ref in refs:
            cluster["a"].request(ref, "hello")
        reply = ask(cluster["a"], "/cluster/all-actors", headers=BEARER, limit=7)
        following = ask(cluster["a"], "/cluster/all-actors", headers=BEARER, after=reply.data["next"])
        found = [entry["id"] for entry in reply.data["actors"] + following.data["actors"]]
        assert sorted(found) == sorted(ref.id for ref in refs)
        for ref in refs:
            detail = ask(cluster["a"], "/cluster/all-actor-detail", headers=BEARER, type="x", id=ref.id)
            assert detail.data["found"] is True


def test_an_id_that_is_no_utf8_can_be_shown(open_host: Host) -> None:
    open_host.spawn_local(Ref("x", "broken \udcff"))
    page = get(open_host, "/cluster/actors")
    assert page["actors"][0]["id"].startswith("broken ")


# -- mounted in another application ------------------------------------------------------------------------------


def call(app: Any, path: str, **environ: str) -> tuple[int, bytes]:
    """Call a WSGI application as a server would."""
    given: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": BytesIO(), **environ}
    setup_testing_defaults(given)
    heads: list[str] = []
    body = b"".join(app(given, lambda status, _, __=None: heads.append(status)))
    return int(heads[0].split()[0]), body


@pytest.mark.parametrize("path", ["/cluster/freeze\x80", "//cluster/freeze", "/cluster/\xfffreeze", "cluster/freeze"])
@pytest.mark.parametrize("token", [None, TOKEN])
def test_an_order_needs_the_token_however_its_path_is_written(
    make_host: MakeHost, path: str, token: str | None
) -> None:
    """What finds the way for a path leaves out bytes that are no UTF-8, and slashes in some versions."""
    host = make_host(clock=SystemClock(), admin_token=token)
    kinds: list[dict[str, str]] = [{}, {"CONTENT_TYPE": "application/json"}, {"HTTP_AUTHORIZATION": "Bearer x"}]
    for kind in kinds:
        status, _ = call(host.admin_app, path, REQUEST_METHOD="POST", HTTP_HOST="localhost", **kind)
        assert status in (401, 403, 404)
    assert host.state == "active"


def test_the_application_can_be_mounted(host: Host) -> None:
    app = host.admin_app
    assert app is host.admin_app
    status, body = call(app, "/cluster/status", HTTP_HOST="127.0.0.1")
    assert (status, ujson.loads(body)["host_id"]) == (200, host.host_id)
    assert call(app, "/cluster/status", HTTP_HOST="shop.example.org")[0] == 403
    assert call(app, "/cluster/status", HTTP_HOST="")[0] == 200


def test_it_can_be_asked_before_the_start_and_after_the_stop() -> None:
    host = Host()
    app = host.admin_app
    assert call(app, "/readyz", HTTP_HOST="localhost")[0] == 503
    assert call(app, "/cluster/status", HTTP_HOST="localhost")[0] == 200
    with host:
        assert call(app, "/readyz", HTTP_HOST="localhost")[0] == 200
    assert call(app, "/readyz", HTTP_HOST="localhost")[0] == 503
    assert call(app, "/healthz", HTTP_HOST="localhost")[0] == 503


def test_it_can_be_served_by_another_thread(real_host: Host) -> None:
    real_host.register_actor("x", lambda ctx: None)
    real_host.spawn_local(Ref("x", "1"))
    app = real_host.admin_app

    def elsewhere() -> list[tuple[int, bytes]]:
        return [call(app, path, HTTP_HOST="localhost") for path in ("/cluster/actors", "/metrics", "/healthz")]

    answers = get_hub().threadpool.spawn(elsewhere).get()
    assert answers is not None
    actors, metrics, health = answers
    assert ujson.loads(actors[1])["total"] == 1
    assert b"theatre_actors_active 1.0" in metrics[1]
    assert health[0] == 200


def test_a_freeze_by_another_thread_waits_for_the_handlers(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had been answered with 503 where they took longer than the answer to a question may."""
    monkeypatch.setattr("theatre_gevent.inspection._CALL_TIMEOUT", 0.2)
    monkeypatch.setattr("theatre_gevent.core.threads._GRACE", 0.1)
    host = make_host(clock=SystemClock(), admin_token=TOKEN)
    ended: list[str] = []

    def slow(ctx: Context) -> None:
        if ctx.message == "slow":
            ctx.cancelled.wait(10)
            gevent.sleep(0.6)
            ended.append("by itself")

    host.register_actor("x", slow)
    host.send(Ref("x", "1"), "slow")
    until(lambda: host.metrics.snapshot()["messages_received"] == 1)
    order = {
        "REQUEST_METHOD": "POST",
        "HTTP_AUTHORIZATION": BEARER["Authorization"],
        "CONTENT_TYPE": JSON["Content-Type"],
    }
    answer = get_hub().threadpool.spawn(lambda: call(host.admin_app, "/cluster/freeze", **order)).get()
    assert answer is not None
    assert (answer[0], ujson.loads(answer[1])) == (202, {"host_id": host.host_id, "state": "frozen"})
    assert ended == ["by itself"]


# -- who only connects --------------------------------------------------------------------------------------------


def connect(host: Host) -> socket.socket:
    assert host.admin_address is not None
    name, _, port = host.admin_address.rpartition(":")
    return socket.create_connection((name, int(port)), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while data := connection.recv(65536):
        answer += data
    return answer


def test_many_requests_on_one_connection_let_others_run(token_host: Host) -> None:
    """The stranger gets 401 each time. Nothing else in the process ran until its last request was answered."""
    rounds = 0
    loop = get_hub().loop

    def count() -> None:
        nonlocal rounds
        rounds += 1
        timer.start(count)

    timer = loop.timer(0)
    one = b"GET /cluster/status HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(token_host) as connection:
        connection.sendall(one * 199 + one.replace(b"Host", b"Connection: close\r\nHost"))
        timer.start(count)
        answers = read_all(connection)
    timer.close()
    assert answers.count(b"HTTP/1.1 401") == 200
    assert rounds >= 200


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 46\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: gzip, chunked",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked",
        "Content-Length: 0\r\nContent-Length: 46",
        "Content-Length: +5",
        "Content-Length: 0_5",
        "Content-Length: -5",
        "Content-Length: 5, 5",
        "Content-Length : 46",
        "Content-Length: 1048577",
        "Content-Length: 1000000000000",
        "\r\n".join(f"X-{number}: 1" for number in range(200)),
    ],
)
def test_what_two_servers_in_a_row_could_read_in_two_ways_is_not_read(token_host: Host, headers: str) -> None:
    """A proxy may take what follows for the body, and send the next one's request on the same connection."""
    body = "0\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(token_host) as connection:
        connection.sendall(f"POST /healthz HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}".encode())
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_slow_connections_keep_nobody_out(token_host: Host) -> None:
    held = [connect(token_host) for _ in range(server.MAX_CONNECTIONS + 50)]
    for connection in held:
        with suppress(OSError):
            connection.sendall(b"P")
    assert ask(token_host, "/healthz").status == 200
    for connection in held:
        connection.close()


def test_headers_have_their_time(token_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD", 0.05)
    with connect(token_host) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_strangers_mistakes_are_no_warnings(token_host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """They would push what matters out of the journal."""
    with connect(token_host) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_an_application_first_used_in_another_thread_knows_the_host_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It watched the hub of that thread, which does not run, and took the time of its first use for the start."""
    watched_in: list[int] = []
    watch = HubWatch.start

    def start(self: HubWatch) -> None:
        watched_in.append(get_ident())
        watch(self)

    monkeypatch.setattr(HubWatch, "start", start)
    clock = VirtualClock()
    with Host(clock=clock) as host:
        clock.advance(100)
        app: Any = get_hub().threadpool.spawn(lambda: host.admin_app).get()
        assert app._view.started_at() == clock.time() - 100
        assert watched_in == [get_ident()]
