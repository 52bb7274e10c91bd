"""What the hooks for gunicorn refuse where they are made, and what they give to each worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from theatre_gevent import Host, InvalidOption
from theatre_gevent.contrib.gunicorn import GunicornError, GunicornHooks, WithHost, new_host_id


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


@pytest.mark.parametrize("by", ["dsn", "THEATRE_DSN"])
def test_a_bad_connection_string_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    bad = "postgresql://shop:s3cret%zz@db/shop"
    monkeypatch.setenv("THEATRE_DSN", bad if by == "THEATRE_DSN" else "embedded")
    with pytest.raises(InvalidOption, match=r"^dsn is not a connection string") as caught:
        GunicornHooks(register, dsn=bad if by == "dsn" else None)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("dsn", [None, "host=127.0.0.1"])
def test_a_lease_that_no_host_can_keep_is_refused(monkeypatch: pytest.MonkeyPatch, dsn: str | None) -> None:
    monkeypatch.delenv("THEATRE_DSN", raising=False)
    with pytest.raises(InvalidOption, match=r"^safety_margin must be less than two thirds of lease_duration=4 s"):
        GunicornHooks(register, dsn=dsn, lease_duration=4)


async def register_async(host: Host) -> None:
    """Nobody would await it."""


async def register_by_and_by(host: Host) -> AsyncIterator[None]:
    """Nobody would go through it."""
    yield


class Registering:
    """Async, as can be seen by what it returns."""

    async def __call__(self, host: Host) -> None:
        """Nobody would await it."""


@pytest.mark.parametrize("setup", [register_async, register_by_and_by])
def test_an_async_function_is_refused(setup: Any) -> None:
    with pytest.raises(InvalidOption, match=f"^setup: {setup.__name__} is an async function, which hosts do not await"):
        GunicornHooks(setup)


@pytest.mark.parametrize(
    ("setup", "named"),
    [
        (f"{__name__}:register_async", f"{__name__}:register_async"),
        (f"{__name__}:register_by_and_by", f"{__name__}:register_by_and_by"),
        (Registering(), "<tests.*Registering object"),
        (lambda host: register_async(host), "<lambda>"),
    ],
)
def test_an_async_function_is_refused_in_the_worker(setup: Any, named: str) -> None:
    hooks = GunicornHooks(setup, dsn="host=127.0.0.1 port=1")
    with pytest.raises(GunicornError, match=f"{named}.* is an async function, which hosts do not await: write def"):
        hooks._started(SimpleNamespace(log=None))


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
