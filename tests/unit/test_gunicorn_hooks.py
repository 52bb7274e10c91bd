"""What the hooks for gunicorn refuse where they are made, and what they give to each worker."""

from __future__ import annotations

from typing import Any

import pytest

from theatre_gevent import Host, InvalidOption
from theatre_gevent.contrib.gunicorn import GunicornHooks, WithHost, new_host_id


def register(host: Host) -> None:
    """Registers nothing."""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"listen": "127.0.0.1:7001"}, "listen must have port 0"),
        ({"admin_addr": "127.0.0.1:9090"}, "admin_addr must have port 0"),
        ({"listen": "0.0.0.0:0", "advertise": "10.0.0.5:7001"}, "advertise must have port 0"),
        ({"peers": {"b": "127.0.0.1:1"}}, "peers can't be given"),
        ({"host_id": "a"}, "host_id can't be given"),
        ({"lease": 3}, "unknown Host option 'lease'"),
        ({"name": ""}, "name must be"),
    ],
)
def test_options_that_workers_cannot_share_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        GunicornHooks(register, **options)


@pytest.mark.parametrize("setup", ["shop.actors", ":register", "shop:", "shop:a b", None, 3])
def test_what_names_no_function_is_refused(setup: Any) -> None:
    with pytest.raises(InvalidOption, match="module:function"):
        GunicornHooks(setup)


def test_addresses_with_port_0_are_allowed() -> None:
    GunicornHooks("shop:register", listen="0.0.0.0:0", advertise="10.0.0.5:0", admin_addr="127.0.0.1:0")


def test_no_host_id_comes_twice_and_all_are_short_enough() -> None:
    ids = {new_host_id("shop" * 100) for _ in range(100)}
    assert len(ids) == 100
    assert max(map(len, ids)) < 255  # what a host id may have


def test_the_application_finds_the_host_in_its_environ() -> None:
    host = Host()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert environ["theatre.host"] is host
        return [b"fine"]

    assert list(WithHost(app, host)({}, print)) == [b"fine"]
