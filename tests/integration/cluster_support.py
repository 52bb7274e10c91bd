"""Whole clusters in one process, over real sockets, with their books checked at the end."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import gevent
import msgspec
from gevent.event import Event

from tests.support import assert_balanced, in_background, until
from theatre_gevent import Context, DeadLetter, Host, Initialize, Ref, Shutdown, StopActor, SystemClock, message
from theatre_gevent.cluster.router import ClusterRouter
from theatre_gevent.cluster.transport import Limits, Transport

if TYPE_CHECKING:
    from typing_extensions import Self


@message("tests.colour")
class Colour(Enum):
    RED = "r"
    BLUE = "b"


@message("tests.point")
class Point(NamedTuple):
    x: int
    y: int


@message("tests.price")
class Price(msgspec.Struct, frozen=True):
    amount: Decimal
    currency: str = "EUR"


@message("tests.order")
@dataclass
class Order:
    items: list[tuple[str, int]]
    price: Price
    where: Point | None = None
    tags: set[str] = field(default_factory=set)


def router_of(host: Host) -> ClusterRouter:
    """Return the router of a started host."""
    return cast("ClusterRouter", host._dispatcher.router)


def transport_of(host: Host) -> Transport:
    """Return the transport of a started host."""
    assert host._transport is not None
    return host._transport


def open_sockets() -> int:
    """Return how many sockets this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += os.readlink(entry).startswith("socket:")  # noqa: PTH115 - what it names is no path
        except OSError:
            pass
    return count


def users_only(handle: Callable[[Context], object]) -> Callable[[Context], None]:
    """Return a receiver that is called for user messages only."""

    def receive(ctx: Context) -> None:
        if not isinstance(ctx.message, (Initialize, Shutdown)):
            handle(ctx)

    return receive


class Actors:
    """A receiver for all actors of all hosts of a test; a message says by its first word what is to be done with it.

    Attributes:
        got: What arrived: host id, ref and message, in this order.
        gates: Handlers of `hold` wait for their host's one.
    """

    def __init__(self) -> None:
        self.got: list[tuple[str, Ref, Any]] = []
        self.contexts: list[Context] = []
        self.errors: list[BaseException] = []
        self.gate = Event()
        self.holding = 0

    def on(self, host_id: str) -> Callable[[Context], None]:
        """Return the receiver of one host."""
        return users_only(lambda ctx: self.handle(host_id, ctx))

    def handle(self, host_id: str, ctx: Context) -> None:
        body = ctx.message
        self.got.append((host_id, ctx.actor_ref, body))
        word, *rest = body if isinstance(body, tuple) and body else ("echo",)
        if word == "raise":
            raise ZeroDivisionError(rest[0])
        if word == "stop":
            raise StopActor
        if word == "hold":
            self.holding += 1
            self.gate.wait()
            ctx.reply("held")
        elif word == "keep":
            self.contexts.append(ctx)
        elif word == "relay":  # ask the next one of a chain
            target, further, timeout = rest
            try:
                ctx.reply(ctx.request(target, further, timeout))
            except BaseException as error:
                self.errors.append(error)
                raise
        elif word == "send":
            ctx.send(rest[0], rest[1])
        elif word == "unfit":
            try:
                ctx.reply(object())
            except BaseException as error:
                self.errors.append(error)
                ctx.reply("as replacement")
        elif word == "sender":
            ctx.reply(ctx.sender)
        else:
            ctx.reply(body)

    def at(self, ref: Ref) -> list[Any]:
        """Return what an actor got, wherever it was."""
        return [body for _, to, body in self.got if to == ref]

    def hosts_of(self, ref: Ref) -> set[str]:
        """Return where an actor was."""
        return {host_id for host_id, to, _ in self.got if to == ref}


class Cluster:
    """Hosts that know each other, with an `Actors` registered as type `x` on each; a context manager.

    At the end, unless the test failed: what was under way arrives, the counters of each host balance, over all hosts
    as many messages arrived as were given to others (not if it is `lossy`), and nothing is left behind.

    Args:
        names: Host ids, one letter each.
        own: Options of single hosts, by host id.
        limits: Of the transports, if not the usual ones.
        **options: Options of all of them.
    """

    def __init__(
        self,
        names: str = "abc",
        *,
        own: dict[str, dict[str, Any]] | None = None,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        self.names = names
        self.dead: dict[str, list[DeadLetter]] = {name: [] for name in names}
        self.actors = Actors()
        self.lossy = False
        self._options = {"request_timeout": 10.0, **options}
        self._own = own or {}
        self._limits = limits
        self.hosts: dict[str, Host] = {}
        self._sockets = 0

    def make(self, name: str, **options: Any) -> Host:
        """Return a new host that is not started."""
        options = {"listen": "127.0.0.1:0", **self._options, **self._own.get(name, {}), **options}
        listen = options["listen"]
        if self._limits is not None:
            del options["listen"]
        host = Host(host_id=name, dead_letter_handler=self.dead[name].append, **options)
        if self._limits is not None:
            epoch = int(SystemClock().time() * 1e6)
            host.set_transport(Transport(name, listen, epoch=epoch, limits=self._limits))
        host.register_actor("x", self.actors.on(name))
        return host

    def __enter__(self) -> Self:
        self._sockets = open_sockets()
        self.hosts = {name: self.make(name).start() for name in self.names}
        self.acquaint()
        return self

    def acquaint(self, **others: str) -> None:
        """Tell all hosts about all hosts, and wait until they are connected.

        Args:
            **others: Addresses of hosts in other processes, by host id.
        """
        peers = {name: str(host.address) for name, host in self.hosts.items()} | others
        for host in self.hosts.values():
            host.set_peers(peers)
        if not others:
            until(lambda: all(host.metrics.snapshot()["peers_up"] == len(peers) - 1 for host in self))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.actors.gate.set()
        if error is None:
            self.settle()
        gevent.joinall([in_background(host.stop) for host in self.hosts.values()])
        if error is None:
            self.check()

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def refs(self, owner: str, count: int, kind: str = "x", seen_by: str | None = None) -> list[Ref]:
        """Return refs that the ring gives to `owner`, as `seen_by` sees it."""
        host = self.hosts[seen_by or owner]
        found: list[Ref] = []
        number = 0
        while len(found) < count:
            ref = Ref(kind, f"{owner}-{number}")
            number += 1
            if host.ring_owner(ref) == owner:
                found.append(ref)
        return found

    def ref(self, owner: str, kind: str = "x") -> Ref:
        """Return one of them."""
        return self.refs(owner, 1, kind)[0]

    def sum(self, counter: str) -> int:
        """Return a counter over all hosts."""
        return sum(host.metrics.snapshot()[counter] for host in self)

    def settle(self) -> None:
        """Wait until everything that is under way has arrived and is handled."""

        def quiet() -> bool:
            counts = [host.metrics.snapshot() for host in self]
            on_the_way = sum(c["messages_forwarded"] - c["messages_arrived"] for c in counts)
            return (self.lossy or on_the_way == 0) and not any(
                c["messages_queued"] or c["requests_pending"] or c["senders_waiting"] for c in counts
            )

        try:
            until(quiet)
        except AssertionError:
            raise AssertionError({name: host.metrics.snapshot() for name, host in self.hosts.items()}) from None
        self.balanced()

    def balanced(self) -> None:
        """Check the books of each host as they are now."""
        for host in self:
            assert_balanced(host.metrics)

    def check(self) -> None:
        """Check what is left when all hosts have stopped."""
        self.balanced()
        for host in self:
            counts = host.metrics.snapshot()
            assert host.state == "stopped"
            assert router_of(host).pending == {}
            for gauge in ("actors_active", "messages_queued", "requests_pending", "senders_waiting", "peers_up"):
                assert counts[gauge] == 0, (gauge, counts)
            assert len(transport_of(host)._greenlets) == 0
        assert self.lossy or self.sum("messages_forwarded") == self.sum("messages_arrived")
        gc.collect()
        until(lambda: open_sockets() <= self._sockets, 5)
