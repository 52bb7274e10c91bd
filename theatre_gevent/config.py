"""The options of a host, validated once, where the user made the mistake."""

from __future__ import annotations

import difflib
import ipaddress
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .errors import InvalidOption
from .messages import DeadLetter

if TYPE_CHECKING:
    from ssl import SSLContext

    from .clock import Clock

MAX_TIMEOUT = 1e9
"""Seconds that nobody waits: 30 years."""

MIN_LEASE, MIN_POLL = 0.5, 0.01
"""Seconds that a lease lasts and that lie between two polls, at least: below, ordinary delays end the lease."""

_MAX_INBOX = 1 << 30
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _seconds(default: float, *, zero: bool = False) -> Any:
    return field(default=default, metadata={"check": "seconds", "zero": zero})


def _count(default: int) -> Any:
    return field(default=default, metadata={"check": "count"})


@dataclass(frozen=True)
class HostOptions:
    """The options of `Host`, times in seconds.

    Attributes:
        idle_timeout: An actor without messages for so long is removed.
        request_timeout: Default of `request`, and how long a sender waits at a full inbox.
        cleanup_interval: How often idle actors are looked for.
        drain_timeout: How long `stop` waits for the work that was accepted, and then for the Shutdown handlers.
        actor_inbox_size: Messages waiting for one actor; senders wait above it.
        host_inbox_size: Messages accepted and not yet handled, over all actors; outside senders wait above it.
        admin_addr: Address of the admin server, None for none.
        admin_token: What the admin server demands of who asks, and what hosts of a cluster ask each other with.
        admin_insecure: Let the admin server listen to other machines without a token.
        log_level: Level of the logger `theatre_gevent`, if the application has set none.
        dead_letter_handler: Called with a `DeadLetter` for every message that could not be processed.
        panic_recovery: False: an exception in a receiver stops the host, for debugging.
        placement_ttl: How long the owner of a remote actor is remembered.
        freeze_grace_period: How long a freezing host waits for its handlers.
        safety_margin: Freeze when the lease has less left than this.
        max_renewal_failures: Freeze after so many failed renewals in a row.
        schedule_recovery_interval: How often overdue schedules of dead hosts are looked for, and whether the wall clock
            was set while there are recurring schedules.
        listen: Address for other hosts, `host:port`, port 0 for a free one; None for a host by itself.
        advertise: Address that others are told instead, behind a proxy for instance.
        peers: The other hosts of the cluster: ids and addresses, the same on every host. `Host.set_peers` changes it.
        dsn: Connection string of the Postgres that holds leases and ownership; needs `listen` and no `peers`.
        lease_duration: Seconds after its last renewal at which a host loses what it owns. Renewed every third of it.
        poll_interval: How often the database is asked who the members are; changes are announced besides.
        on_lease_lost: `"rejoin"`: come back with a new epoch as soon as the database answers. `"drain"`: stop.
        on_state: Called with every new state of the host, in a greenlet of its own.
        secret: What all hosts of the cluster know; a peer that does not is refused.
        server_tls: `ssl.SSLContext` for accepted connections; one that requires certificates makes it mutual.
        client_tls: `ssl.SSLContext` for connections to peers.
        serialize_local: Copy messages between actors of this host as the network would, to find mistakes in tests.
    """

    idle_timeout: float = _seconds(15.0)
    request_timeout: float = _seconds(5.0)
    cleanup_interval: float = _seconds(1.0)
    drain_timeout: float = _seconds(5.0, zero=True)
    actor_inbox_size: int = _count(64)
    host_inbox_size: int = _count(4096)
    admin_addr: str | None = None
    admin_token: str | None = field(default=None, repr=False)
    admin_insecure: bool = False
    log_level: int | str = logging.INFO
    dead_letter_handler: Callable[[DeadLetter], object] | None = None
    panic_recovery: bool = True
    placement_ttl: float = _seconds(10.0)
    freeze_grace_period: float = _seconds(2.0, zero=True)
    safety_margin: float = _seconds(3.0, zero=True)
    max_renewal_failures: int = _count(2)
    schedule_recovery_interval: float = _seconds(10.0)
    listen: str | None = None
    advertise: str | None = None
    peers: Mapping[str, str] | None = None
    dsn: str | None = field(default=None, repr=False)
    lease_duration: float = _seconds(20.0)
    poll_interval: float = _seconds(3.0)
    on_lease_lost: str = "rejoin"
    on_state: Callable[[str], object] | None = None
    secret: str | bytes | None = field(default=None, repr=False)
    server_tls: SSLContext | None = field(default=None, repr=False)
    client_tls: SSLContext | None = field(default=None, repr=False)
    serialize_local: bool = False

    def __post_init__(self) -> None:
        for option in fields(self):
            check = option.metadata.get("check")
            value = getattr(self, option.name)
            if check == "seconds":
                object.__setattr__(self, option.name, _check_seconds(option.name, value, option.metadata["zero"]))
            elif check == "count":
                _check_count(option.name, value)
        for name in ("dead_letter_handler", "on_state"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise InvalidOption(f"{name} must be callable or None, got {getattr(self, name)!r}")
        if self.on_lease_lost not in ("rejoin", "drain"):
            raise InvalidOption(f"on_lease_lost must be 'rejoin' or 'drain', got {self.on_lease_lost!r}")
        for name in ("panic_recovery", "serialize_local", "admin_insecure"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidOption(f"{name} must be True or False, got {getattr(self, name)!r}")
        self._check_admin()
        self._check_cluster()
        object.__setattr__(self, "log_level", _check_level(self.log_level))

    def _check_admin(self) -> None:
        token = self.admin_token
        if token is not None and not (isinstance(token, str) and token.isascii() and token.isprintable() and token):
            raise InvalidOption("admin_token must be a non-empty string of printable ASCII characters")
        if token is not None and " " in token:
            raise InvalidOption("admin_token must not contain spaces: it is sent as one word")
        if self.admin_addr is None:
            return
        check_address(self.admin_addr, "admin_addr")
        if token is None and not self.admin_insecure and not is_loopback(self.admin_addr.rpartition(":")[0]):
            raise InvalidOption(
                f"admin_addr {self.admin_addr!r} can be reached from other machines: give an admin_token as well, or "
                "admin_insecure=True if everybody there may see everything"
            )

    def _check_cluster(self) -> None:
        for name in ("listen", "advertise"):
            if getattr(self, name) is not None:
                check_address(getattr(self, name), name)
        if self.peers is not None:
            if not isinstance(self.peers, Mapping):
                raise InvalidOption(f"peers must be a dict of host ids and addresses, got {self.peers!r}")
            check_hosts(self.peers)
        if self.secret is not None and (not isinstance(self.secret, (str, bytes)) or not self.secret):
            raise InvalidOption("secret must be a non-empty string or bytes")
        for name in ("server_tls", "client_tls"):
            context = getattr(self, name)
            if context is not None and not hasattr(context, "wrap_socket"):
                raise InvalidOption(f"{name} must be an ssl.SSLContext or None, got {context!r}")
        if self.dsn is not None:
            if not isinstance(self.dsn, str) or not self.dsn:
                # Not what was given: connection strings hold passwords, as bytes too.
                what = "an empty one" if self.dsn == "" else f"a {type(self.dsn).__name__}"
                raise InvalidOption(f"dsn must be a connection string such as 'postgresql://...', got {what}")
            if self.peers is not None:
                raise InvalidOption("give either dsn or peers: with dsn the database says who the members are")
            check_lease(self.lease_duration, self.poll_interval)
            check_margin(self.safety_margin, self.lease_duration)
        if self.listen is None:
            for name in ("advertise", "peers", "dsn", "secret", "server_tls", "client_tls"):
                if getattr(self, name) is not None:
                    raise InvalidOption(f"{name} needs listen, the address for other hosts")

    @classmethod
    def from_mapping(cls, options: dict[str, Any]) -> HostOptions:
        """Build options from keyword arguments, naming an unknown one and what was probably meant.

        Raises:
            InvalidOption: An option is unknown or has a bad value.
        """
        known = [option.name for option in fields(cls)]
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else "allowed: " + ", ".join(known)
                raise InvalidOption(f"unknown Host option {name!r}; {hint}")
        return cls(**options)


def check_timeout(value: object) -> float:
    """Return the timeout of a request, in seconds.

    Raises:
        ValueError: It is not a number of seconds more than 0.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < MAX_TIMEOUT:
        return float(value)
    raise ValueError(
        f"request timeout must be a number of seconds, more than 0 and less than {MAX_TIMEOUT:g}, got {value!r}"
    )


def check_host_id(value: str | None) -> str | None:
    """Return `value` if a host can be called that, None included.

    Raises:
        InvalidOption: It is no name.
    """
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidOption(f"host_id must be a non-empty string or None, got {value!r}")
    return value


def check_clock(value: Clock | None) -> Clock | None:
    """Return `value` if it has the methods of a `Clock`; None passes too.

    Raises:
        InvalidOption: It lacks some of them, or is a class, whose methods need an object.
    """
    if isinstance(value, type):
        raise InvalidOption(f"clock must be a Clock or None, got the class {value.__name__}: give {value.__name__}()")
    verbs = ("monotonic", "boottime", "time", "sleep", "call_later")
    missing = [name for name in verbs if not callable(getattr(value, name, None))]
    if value is not None and missing:
        raise InvalidOption(f"clock must be a Clock or None, got {value!r}, which lacks {', '.join(missing)}")
    return value


def check_lease(lease_duration: float, poll_interval: float) -> None:
    """Raise `InvalidOption` unless a database can be asked as often as these want it.

    Args:
        lease_duration: Seconds.
        poll_interval: Seconds.
    """
    for name, value, least in (
        ("lease_duration", lease_duration, MIN_LEASE),
        ("poll_interval", poll_interval, MIN_POLL),
    ):
        if value < least:
            raise InvalidOption(f"{name} must be a finite number of seconds, {least:g} or more, got {value:g}")


def check_margin(safety_margin: float, lease_duration: float) -> None:
    """Raise `InvalidOption` unless a host with this lease can ever be active.

    A lease is renewed when a third of it has passed, so two thirds are left before every renewal.

    Args:
        safety_margin: Seconds.
        lease_duration: Seconds.
    """
    if safety_margin >= lease_duration * 2 / 3:
        raise InvalidOption(
            f"safety_margin must be less than two thirds of lease_duration={lease_duration:g} s, "
            f"which is renewed every third, got {safety_margin:g} s"
        )


def _check_seconds(name: str, value: object, zero_allowed: bool) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 < value < MAX_TIMEOUT or (value == 0 and zero_allowed):
            return float(value)
        if MAX_TIMEOUT <= value < math.inf:
            raise InvalidOption(f"{name} must be a finite number of seconds, less than {MAX_TIMEOUT:g}, got {value!r}")
    least = "0 or more" if zero_allowed else "more than 0"
    raise InvalidOption(f"{name} must be a finite number of seconds, {least}, got {value!r}")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_INBOX:
        raise InvalidOption(f"{name} must be a whole number from 1 to {_MAX_INBOX}, got {value!r}")


def _check_level(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.upper() in _LEVELS:
        return int(getattr(logging, value.upper()))
    raise InvalidOption(f"log_level must be a logging level or one of {', '.join(_LEVELS)}, got {value!r}")


def check_hosts(hosts: Mapping[str, str]) -> None:
    """Raise `InvalidOption` unless `hosts` maps host ids to addresses, each its own."""
    seen: dict[str, str] = {}
    for host_id, address in hosts.items():
        if not isinstance(host_id, str) or not host_id:
            raise InvalidOption(f"a host id must be a non-empty string, got {host_id!r}")
        check_address(address, f"the address of host {host_id!r}")
        if address in seen:
            raise InvalidOption(f"hosts {seen[address]!r} and {host_id!r} have the same address {address!r}")
        seen[address] = host_id


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches the host part of an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(address: object, name: str) -> None:
    """Raise `InvalidOption` unless `address` is `host:port`."""
    if isinstance(address, str):
        host, colon, port = address.rpartition(":")
        if host and colon and port.isdecimal() and int(port) <= 65535:
            return
    raise InvalidOption(f"{name} must be 'host:port' such as '127.0.0.1:7001', got {address!r}")
