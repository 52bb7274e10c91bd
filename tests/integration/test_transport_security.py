"""Shared secrets and mutual TLS: each against a peer without, with a wrong one and with a right one."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support import until
from tests.transports import QUICK, Node, Nodes, no_leaks
from theatre_gevent import InvalidOption
from theatre_gevent.cluster.transport import Limits, Transport

RIGHT, WRONG = b"right secret 123", b"wrong secret 123"


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with no_leaks():
        made = Nodes()
        try:
            yield made
        finally:
            made.stop()


def refused(a: Node, b: Node) -> str:
    """Have `a` dial `b` and return why that fails; others must still get in afterwards."""
    a.transport.set_peers({"b": b.addr})
    until(lambda: a.counter("connect_failures") >= 2)
    assert not a.link("b").is_up
    assert b.transport.inlets() == []
    assert (a.records.ups, b.counter("accepts")) == ([], 0)
    until(lambda: b.counter("refusals") >= 1)
    return str(a.link("b").last_error)


# -- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (None, RIGHT, "host 'b' demands the shared secret and 'a' was given none"),
        (RIGHT, None, "host 'a' demands the shared secret and 'b' was given none"),
        (WRONG, RIGHT, "has another shared secret"),
    ],
)
def test_a_secret_keeps_out_who_does_not_know_it(
    nodes: Nodes, ours: bytes | None, theirs: bytes | None, reason: str
) -> None:
    a, b = nodes("a", secret=ours), nodes("b", secret=theirs)
    assert reason in refused(a, b)
    good = nodes("c", secret=theirs)
    good.connect(b)
    assert good.ask("b", 1, "x") == "x"


def test_a_secret_that_is_no_text() -> None:
    from_the_environment = "abc\udcff"
    with pytest.raises(InvalidOption, match="UTF-8"):
        Transport("a", secret=from_the_environment)


def test_a_secret_lets_in_who_knows_it(nodes: Nodes) -> None:
    a, b = nodes("a", secret=RIGHT.decode()), nodes("b", secret=RIGHT)
    a.connect(b)
    b.connect(a)
    assert a.ask("b", 1, "x") == b.ask("a", 1, "x") == "x"


def test_hosts_of_another_cluster_are_refused(nodes: Nodes) -> None:
    a, b = nodes("a", cluster="one"), nodes("b", cluster="two")
    assert "belongs to cluster" in refused(a, b)


# -- TLS -------------------------------------------------------------------------------------------------------------


def contexts(authority: trustme.CA, trusted: trustme.CA, certified: bool = True) -> dict[str, Any]:
    """Return the options of a host with a certificate of `authority` that trusts those of `trusted`."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_REQUIRED
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    for context in (server, client):
        trusted.configure_trust(context)
        if certified or context is server:
            certificate.configure_cert(context)
    return {"server_tls": server, "client_tls": client}


@pytest.fixture(scope="module")
def ours() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def strangers() -> trustme.CA:
    return trustme.CA()


def test_mutual_tls(nodes: Nodes, ours: trustme.CA) -> None:
    a, b = nodes("a", **contexts(ours, ours)), nodes("b", **contexts(ours, ours))
    a.connect(b)
    b.connect(a)
    assert a.ask("b", 1, "x") == "x"
    body = bytes(15 << 20)
    for n in range(2000):
        a.send("b", n)
    a.send("b", body)
    assert b.ask("a", 1, body) == body
    until(lambda: len(b.records.bodies) == 2001, 30.0)
    assert b.records.bodies == [*range(2000), body]
    a.transport.stop()
    until(lambda: b.records.leavers != [])


def test_tls_and_a_secret(nodes: Nodes, ours: trustme.CA) -> None:
    a, b = nodes("a", secret=RIGHT, **contexts(ours, ours)), nodes("b", secret=RIGHT, **contexts(ours, ours))
    a.connect(b)
    assert a.ask("b", 1, "x") == "x"
    c = nodes("c", secret=WRONG, **contexts(ours, ours))
    c.transport.set_peers({"b": b.addr})
    until(lambda: c.link("b").last_error is not None)
    assert "has another shared secret" in str(c.link("b").last_error)


def check_that_b_serves(nodes: Nodes, b: Node, authority: trustme.CA | None) -> None:
    good = nodes("good", **(contexts(authority, authority) if authority else {}))
    good.connect(b)
    assert good.ask("b", 1, "x") == "x"


def test_a_host_without_tls_does_not_get_in(nodes: Nodes, ours: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    a, b = nodes("a", limits=QUICK), nodes("b", **contexts(ours, ours))
    refused(a, b)
    assert any("the peer does not speak TLS" in record.getMessage() for record in caplog.records)
    check_that_b_serves(nodes, b, ours)


def test_a_host_with_tls_does_not_get_in_where_there_is_none(
    nodes: Nodes, ours: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = nodes("a", limits=QUICK, **contexts(ours, ours)), nodes("b")
    refused(a, b)
    assert any("the peer speaks TLS, and this host was not told to" in record.getMessage() for record in caplog.records)
    check_that_b_serves(nodes, b, None)


def test_a_certificate_of_another_authority_is_refused_by_the_server(
    nodes: Nodes, ours: trustme.CA, strangers: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = nodes("a", **contexts(strangers, ours)), nodes("b", **contexts(ours, ours))
    reason = refused(a, b)
    assert reason.startswith("TLS: "), reason
    assert any("its certificate is not accepted" in record.getMessage() for record in caplog.records)
    check_that_b_serves(nodes, b, ours)


def test_a_certificate_of_another_authority_is_refused_by_the_client(
    nodes: Nodes, ours: trustme.CA, strangers: trustme.CA
) -> None:
    a, b = nodes("a", **contexts(ours, ours)), nodes("b", **contexts(strangers, ours))
    assert "its certificate is not accepted" in refused(a, b)


def test_a_client_without_a_certificate_is_refused(nodes: Nodes, ours: trustme.CA) -> None:
    a, b = nodes("a", **contexts(ours, ours, certified=False)), nodes("b", **contexts(ours, ours))
    assert "CERTIFICATE_REQUIRED" in refused(a, b)
    check_that_b_serves(nodes, b, ours)


def test_the_name_in_the_certificate_has_to_fit(nodes: Nodes, ours: trustme.CA) -> None:
    options = contexts(ours, ours)
    other = contexts(ours, ours)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    ours.configure_trust(server)
    ours.issue_cert("elsewhere.example").configure_cert(server)
    a, b = nodes("a", **options), nodes("b", server_tls=server, client_tls=other["client_tls"])
    assert "its certificate is not accepted" in refused(a, b)
    assert "127.0.0.1" in str(a.link("b").last_error)


def test_a_client_that_stops_in_the_middle_of_the_tls_handshake_is_given_up(nodes: Nodes, ours: trustme.CA) -> None:
    from tests.transports import RawPeer

    b = nodes("b", limits=Limits(handshake=0.5), **contexts(ours, ours))
    peer = RawPeer.dial(b.addr)
    peer.sock.sendall(b"\x16\x03\x01\x02\x00\x01")
    assert peer.is_closed_by_peer()
    peer.close()
    check_that_b_serves(nodes, b, ours)


def test_tls_in_a_program_that_is_not_patched(tmp_path: Path, ours: trustme.CA) -> None:
    """A context of the standard library must not make gevent's sockets block."""
    certificate = ours.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "host.pem")
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    program = """
import ssl, gevent
from theatre_gevent import Ref
from theatre_gevent.cluster.transport import Transport
from theatre_gevent.logic.envelopes import Send

def context(protocol):
    made = ssl.SSLContext(protocol)
    assert type(made).__module__ == "ssl", "not patched"
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations("ca.pem")
    made.load_cert_chain("host.pem")
    return made

class Handler:
    def __init__(self): self.bodies = []
    def received(self, source, messages, unmade): self.bodies += [message.body for message in messages]
    def lost(self, host_id, messages, error): raise error
    def up(self, host_id): pass
    def down(self, host_id, error): pass
    def can_take(self, source, count): return True
    def admit(self, identity): return None
    def leaving(self, host_id, epoch, reason): pass

def transport(name):
    return Transport(name, server_tls=context(ssl.PROTOCOL_TLS_SERVER), client_tls=context(ssl.PROTOCOL_TLS_CLIENT))

a, b, records = transport("a"), transport("b"), Handler()
a.start(Handler()), b.start(records)
a.set_peers({"b": b.addr})
a.link("b").send(Send(Ref("x", "1"), "hello"))
with gevent.Timeout(10):
    while not records.bodies:
        gevent.sleep(0.01)
a.stop(), b.stop()
print(records.bodies)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "['hello']\n", done.stderr
