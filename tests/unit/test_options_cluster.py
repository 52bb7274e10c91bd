"""The options and parts of a host in a cluster: good ones are taken, bad ones are refused by name."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest

from theatre_gevent import Host, HostNotRunning, HostOptions, InvalidOption, Ref
from theatre_gevent.cluster.membership import LiveRing, RingOnlyCluster
from theatre_gevent.cluster.postgres_cluster import ClusterConfig
from theatre_gevent.cluster.transport import Transport
from theatre_gevent.config import MIN_LEASE, MIN_POLL
from theatre_gevent.errors import CannotListen

LISTEN = "127.0.0.1:0"
make_config: Callable[..., ClusterConfig] = ClusterConfig


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"listen": "7001"}, "listen"),
        ({"listen": ":7001"}, "listen"),
        ({"listen": 7001}, "listen"),
        ({"listen": "127.0.0.1:65536"}, "listen"),
        ({"listen": "127.0.0.1:-1"}, "listen"),
        ({"listen": LISTEN, "advertise": "nowhere"}, "advertise"),
        ({"listen": LISTEN, "peers": ["127.0.0.1:1"]}, "peers"),
        ({"listen": LISTEN, "peers": {"b": "nowhere"}}, "'b'"),
        ({"listen": LISTEN, "peers": {"b": None}}, "'b'"),
        ({"listen": LISTEN, "peers": {"": "127.0.0.1:1"}}, "host id"),
        ({"listen": LISTEN, "peers": {1: "127.0.0.1:1"}}, "host id"),
        ({"listen": LISTEN, "peers": {"b": "127.0.0.1:1", "c": "127.0.0.1:1"}}, "same address"),
        ({"listen": LISTEN, "secret": ""}, "secret"),
        ({"listen": LISTEN, "secret": b""}, "secret"),
        ({"listen": LISTEN, "secret": 5}, "secret"),
        ({"listen": LISTEN, "server_tls": "cert.pem"}, "server_tls"),
        ({"listen": LISTEN, "client_tls": True}, "client_tls"),
        ({"advertise": "127.0.0.1:1"}, "advertise needs listen"),
        ({"peers": {"b": "127.0.0.1:1"}}, "peers needs listen"),
        ({"dsn": "postgresql://localhost"}, "dsn needs listen"),
        ({"listen": LISTEN, "dsn": ""}, "dsn must be a connection string"),
        ({"listen": LISTEN, "dsn": 5}, "dsn must be a connection string"),
        ({"listen": LISTEN, "dsn": "garbage"}, "dsn is not a connection string"),
        ({"listen": LISTEN, "dsn": "hots=db"}, "dsn is not a connection string"),
        ({"listen": LISTEN, "dsn": "host=a", "peers": {"b": "127.0.0.1:1"}}, "either dsn or peers"),
        ({"on_lease_lost": "panic"}, "on_lease_lost must be 'rejoin' or 'drain', got 'panic'"),
        ({"on_state": "print"}, "on_state must be callable or None"),
        ({"secret": "x"}, "secret needs listen"),
        ({"client_tls": ssl.create_default_context()}, "client_tls needs listen"),
        ({"serialize_local": 1}, "serialize_local"),
        ({"placement_ttl": 0}, "placement_ttl"),
        ({"peer": {}}, "did you mean 'peers'"),
    ],
)
def test_a_bad_option_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        Host(**options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lease_duration": 4}, "safety_margin must be less than two thirds of lease_duration=4 s, .* got 3 s"),
        ({"lease_duration": 4.5}, "safety_margin must be less than two thirds of lease_duration=4.5 s"),
        ({"safety_margin": 14}, "safety_margin must be less than two thirds of lease_duration=20 s, .* got 14 s"),
        ({"lease_duration": 0.1, "safety_margin": 0}, "lease_duration must be .* 0.5 or more, got 0.1"),
        ({"poll_interval": 0.001}, "poll_interval must be .* 0.01 or more, got 0.001"),
    ],
)
def test_a_lease_that_no_host_can_keep_is_refused_where_it_is_given(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidOption, match=f"^{why}"):
        Host(listen=LISTEN, dsn="host=127.0.0.1", **options)
    Host(**options)  # without a database there is no lease


def test_the_shortest_lease_is_allowed() -> None:
    host = Host(listen=LISTEN, dsn="host=127.0.0.1", lease_duration=0.5, safety_margin=0.33, poll_interval=0.01)
    assert host.options.lease_duration == MIN_LEASE


def test_what_a_host_takes_its_cluster_takes() -> None:
    """Both are told the same limits: the options of the host, and the parts that are made by hand."""
    ClusterConfig("a", lease_duration=MIN_LEASE, poll_interval=MIN_POLL)
    for name, least in (("lease_duration", MIN_LEASE), ("poll_interval", MIN_POLL)):
        short: dict[str, Any] = {name: least * 0.99, "safety_margin": 0}
        with pytest.raises(InvalidOption) as by_host:
            Host(listen=LISTEN, dsn="host=127.0.0.1", **short)
        with pytest.raises(InvalidOption) as by_cluster:
            make_config("a", **{name: least * 0.99})
        assert str(by_host.value) == str(by_cluster.value)


@pytest.mark.parametrize("bad", [b"postgresql://a:s3cret@b/c", ["s3cret"], ""])
def test_a_connection_string_that_is_refused_is_not_shown(bad: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^dsn must be a connection string .*, got an? ") as caught:
        Host(listen=LISTEN, dsn=bad)
    assert "s3cret" not in str(caught.value)


def test_good_options_are_taken() -> None:
    tls = ssl.create_default_context()
    options = HostOptions(
        listen="[::1]:7001",
        advertise="proxy.example:7001",
        peers={"b": "b.example:7001", "c": "127.0.0.1:7003"},
        secret=b"\x00bytes",
        server_tls=tls,
        client_tls=tls,
    )
    assert options.peers == {"b": "b.example:7001", "c": "127.0.0.1:7003"}


def test_a_secret_is_not_shown() -> None:
    host = Host(listen=LISTEN, secret="do not tell")  # noqa: S106
    assert "do not tell" not in repr(host.options)
    assert "do not tell" not in repr(host)


def test_a_host_without_a_cluster_opens_no_socket() -> None:
    with Host() as host:
        assert host.address is None
        counts = host.metrics.snapshot()
        assert counts["messages_forwarded"] == counts["peers_up"] == 0


def test_an_address_in_use_is_said_at_the_start() -> None:
    with Host(host_id="a", listen=LISTEN) as first:
        second = Host(host_id="b", listen=first.address)
        with pytest.raises(CannotListen, match=str(first.address)):
            second.start()
        assert second.state == "new"
    with second:
        assert second.address == first.address


def test_what_is_advertised_is_the_hosts_address() -> None:
    with Host(listen=LISTEN, advertise="127.0.0.1:7777") as host:
        assert host.address == "127.0.0.1:7777"


def test_a_transport_and_the_option_listen_exclude_each_other() -> None:
    host = Host(host_id="a", listen=LISTEN)
    with pytest.raises(InvalidOption, match="not both"):
        host.set_transport(Transport("a"))


def test_a_cluster_with_the_option_listen_takes_its_epoch() -> None:
    cluster = RingOnlyCluster("a", epoch=42)
    host = Host(host_id="a", listen=LISTEN)
    host.set_cluster(cluster)
    with host:
        assert host._transport is not None
        assert host._transport.identity.epoch == 42


def test_peers_of_a_host_that_is_not_started() -> None:
    with pytest.raises(HostNotRunning, match="listen"):
        Host(host_id="a", listen=LISTEN).set_peers({"b": "127.0.0.1:1"})


def test_members_of_a_cluster() -> None:
    cluster = RingOnlyCluster("a", "127.0.0.1:1")
    seen: list[tuple[str, ...]] = []
    cluster.on_change(lambda: seen.append(cluster.ring.members))
    before = cluster.hosts
    cluster.set_hosts({"b": "127.0.0.1:2"})
    assert cluster.hosts == {"a": "127.0.0.1:1", "b": "127.0.0.1:2"}
    assert before == {"a": "127.0.0.1:1"}, "a snapshot never changes"
    assert cluster.address == "127.0.0.1:1"
    assert seen == [("a", "b")]
    for bad in ({"b": "127.0.0.1:1"}, {"b": "nowhere"}, {"": "127.0.0.1:3"}):
        with pytest.raises(InvalidOption):
            cluster.set_hosts(bad)
    assert cluster.hosts == {"a": "127.0.0.1:1", "b": "127.0.0.1:2"}
    assert cluster.ring.members == ("a", "b")
    assert len(seen) == 1
    with pytest.raises(TypeError):
        cluster.hosts["c"] = "127.0.0.1:3"  # type: ignore[index]


def test_a_ring_by_hand() -> None:
    ring = LiveRing()
    assert ring.owner(Ref("x", "1")) is None
    assert not ring.members
    ring.set(["b", "a"])
    assert ring.members == ("a", "b")
    assert {ring.owner(Ref("x", str(n))) for n in range(100)} == {"a", "b"}
    ring.set(["c"])
    assert {ring.owner(Ref("x", str(n))) for n in range(100)} == {"c"}
