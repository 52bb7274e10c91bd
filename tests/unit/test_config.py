"""Options are refused where the mistake was made, by name."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from theatre_gevent import Host, HostOptions, InvalidOption, Ref, SystemClock, TheatreError
from theatre_gevent.config import MAX_TIMEOUT
from theatre_gevent.testing import VirtualClock

SECONDS = [
    *("idle_timeout", "request_timeout", "cleanup_interval", "placement_ttl", "schedule_recovery_interval"),
    *("lease_duration", "poll_interval"),
]
SECONDS_OR_ZERO = ["drain_timeout", "freeze_grace_period", "safety_margin"]
make: Callable[..., Host] = Host
COUNTS = ["actor_inbox_size", "host_inbox_size", "max_renewal_failures"]


def test_the_defaults_are_the_documented_ones() -> None:
    assert dataclasses.asdict(HostOptions()) == {
        "idle_timeout": 15.0,
        "request_timeout": 5.0,
        "cleanup_interval": 1.0,
        "drain_timeout": 5.0,
        "actor_inbox_size": 64,
        "host_inbox_size": 4096,
        "admin_addr": None,
        "admin_token": None,
        "admin_insecure": False,
        "log_level": logging.INFO,
        "dead_letter_handler": None,
        "panic_recovery": True,
        "placement_ttl": 10.0,
        "freeze_grace_period": 2.0,
        "safety_margin": 3.0,
        "max_renewal_failures": 2,
        "schedule_recovery_interval": 10.0,
        "listen": None,
        "advertise": None,
        "peers": None,
        "dsn": None,
        "lease_duration": 20.0,
        "poll_interval": 3.0,
        "on_lease_lost": "rejoin",
        "on_state": None,
        "secret": None,
        "server_tls": None,
        "client_tls": None,
        "serialize_local": False,
    }
    assert Host().options == HostOptions()


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        HostOptions().idle_timeout = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", SECONDS + SECONDS_OR_ZERO)
@pytest.mark.parametrize("bad", [-1, -0.001, "5", None, True, float("nan"), float("inf"), [1]])
def test_bad_seconds(name: str, bad: Any) -> None:
    with pytest.raises(InvalidOption, match=f"^{name} must be a finite number of seconds") as caught:
        make(**{name: bad})
    assert repr(bad) in str(caught.value)
    assert isinstance(caught.value, (TheatreError, ValueError))


@pytest.mark.parametrize("name", SECONDS + SECONDS_OR_ZERO)
@pytest.mark.parametrize("bad", [MAX_TIMEOUT, 10**9, 1e17, sys.maxsize, 10**400], ids=lambda bad: str(bad)[:9])
def test_seconds_that_nobody_waits(name: str, bad: Any) -> None:
    with pytest.raises(InvalidOption, match=f"^{name} must be a finite number of seconds, less than 1e\\+09, got"):
        make(**{name: bad})


def test_the_longest_times_that_are_allowed_can_be_waited() -> None:
    names = ("idle_timeout", "request_timeout", "cleanup_interval", "drain_timeout", "freeze_grace_period")
    with make(**dict.fromkeys(names, MAX_TIMEOUT - 1)) as host:
        host.register_actor("a", lambda ctx: ctx.reply("here"))
        assert host.request(Ref("a", "1"), "are you?") == "here"


@pytest.mark.parametrize("name", SECONDS)
def test_zero_seconds_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"^{name} .*more than 0, got 0$"):
        make(**{name: 0})


@pytest.mark.parametrize("name", SECONDS_OR_ZERO)
def test_zero_seconds_allowed(name: str) -> None:
    assert getattr(make(**{name: 0}).options, name) == 0.0


@pytest.mark.parametrize("name", SECONDS + SECONDS_OR_ZERO)
def test_seconds_become_floats(name: str) -> None:
    value = getattr(make(**{name: 3}).options, name)
    assert (type(value), value) == (float, 3.0)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("bad", [0, -1, 1.5, "64", None, True, 1 << 31])
def test_bad_counts(name: str, bad: Any) -> None:
    with pytest.raises(InvalidOption, match=f"^{name} must be a whole number from 1 to ") as caught:
        make(**{name: bad})
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("admin_addr", 8080),
        ("dead_letter_handler", "print"),
        ("panic_recovery", 1),
        ("panic_recovery", None),
        ("log_level", "LOUD"),
        ("log_level", None),
        ("log_level", True),
        ("log_level", -1),
        ("host_id", 5),
        ("host_id", ""),
        ("clock", 5),
        ("clock", "now"),
    ],
)
def test_other_bad_options(name: str, bad: Any) -> None:
    with pytest.raises(InvalidOption, match=f"^{name} must be "):
        make(**{name: bad})


@pytest.mark.parametrize("kind", [VirtualClock, SystemClock])
def test_a_class_is_no_clock(kind: Any) -> None:
    name = kind.__name__
    with pytest.raises(InvalidOption, match=rf"^clock must be a Clock or None, got the class {name}: give {name}\(\)$"):
        Host(clock=kind)


@pytest.mark.parametrize(("given", "level"), [("debug", 10), ("WARNING", 30), (15, 15), (logging.ERROR, 40)])
def test_log_levels(given: Any, level: int) -> None:
    assert Host(log_level=given).options.log_level == level


def test_an_unknown_option_is_named_with_what_was_probably_meant() -> None:
    with pytest.raises(InvalidOption, match=r"unknown Host option 'idle_time'; did you mean 'idle_timeout'?"):
        Host(idle_time=5)


def test_an_unknown_option_with_no_likeness_lists_all() -> None:
    with pytest.raises(InvalidOption, match=r"unknown Host option 'zzz'; allowed: idle_timeout, .*panic_recovery"):
        Host(zzz=5)


def test_hosts_have_ids_of_their_own() -> None:
    assert Host().host_id != Host().host_id
    assert Host(host_id="alpha").host_id == "alpha"
    assert "alpha" in repr(Host(host_id="alpha"))


def test_the_log_level_is_set_unless_the_application_has_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("theatre_gevent")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    with Host(log_level="ERROR"):
        assert logger.level == logging.ERROR
    with Host(log_level="DEBUG"):
        assert logger.level == logging.ERROR
