"""What an owner believes it owns, when handlers end late, claims are slow, and code of users is called meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import pytest
from gevent.event import Event

from tests.integration.cluster_support import open_sockets
from tests.integration.leased_support import LEASED, Gate, PostgresCluster
from tests.support import in_background, until
from theatre_gevent import (
    Context,
    DatabaseUnavailable,
    DeadLetter,
    Host,
    Initialize,
    InvalidOption,
    Ref,
    Shutdown,
    SystemClock,
)
from theatre_gevent.cluster.postgres_cluster import Cluster
from theatre_gevent.logic.ring import HashRing


class Actors:
    """Says who answers; one message is handled until its handler was killed and `over` is set."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self.over = Event()
        self.began: list[Ref] = []
        for name, host in cluster.hosts.items():
            host.register_actor("life", self.receiver(name))

    def receiver(self, name: str) -> Callable[[Context], None]:
        def receive(ctx: Context) -> None:
            if ctx.message == "long":
                self.began.append(ctx.actor_ref)
                try:
                    Event().wait()
                finally:  # to clean up takes it a while
                    self.over.wait()
            elif not isinstance(ctx.message, (Initialize, Shutdown)):
                ctx.reply(name)

        return receive


def ref_of_a_until_c_comes() -> Ref:
    two, three = HashRing(["a", "b"]), HashRing(["a", "b", "c"])
    refs = (Ref("life", str(number)) for number in range(1000))
    return next(ref for ref in refs if two.owner(ref) == "a" and three.owner(ref) == "c")


def active_at(cluster: PostgresCluster, ref: Ref) -> list[str]:
    return [name for name, host in cluster.hosts.items() if ref in host._registry.actors]


def test_a_handler_that_ends_while_its_actor_is_claimed_again_gives_nothing_back(dsn: str) -> None:
    with PostgresCluster(dsn, "ab", freeze_grace_period=0.1) as cluster:
        cluster.lossy = True
        a, actors, ref = cluster["a"], Actors(cluster), ref_of_a_until_c_comes()
        gate = Gate(a)
        a.send(ref, "long")
        until(lambda: actors.began)
        a.freeze()
        a.unfreeze()
        gate.open.clear()
        asked = in_background(a.request, ref, "who")
        until(lambda: len(gate.claims) == 2)
        actors.over.set()
        until(lambda: not a._dispatcher.busy())
        gate.open.set()
        assert asked.get(timeout=20) == "a"
        until(gate.is_quiet)
        cluster.join("c", lambda: Plain("c"))
        assert cluster["c"].request(ref, "who") == "a"
        assert active_at(cluster, ref) == ["a"]


class Plain:
    def __init__(self, name: str) -> None:
        self.name = name

    def receive(self, ctx: Context) -> None:
        if not isinstance(ctx.message, (Initialize, Shutdown)):
            ctx.reply(self.name)


def test_a_handler_of_an_earlier_life_that_ends_takes_nothing_back(dsn: str) -> None:
    with PostgresCluster(dsn, "ab") as cluster:
        cluster.lossy = True
        (a, b), actors = cluster, Actors(cluster)
        ref, other = cluster.refs("a", 2, "life")
        a.send(ref, "long")
        until(lambda: actors.began)
        go, begin_again = Event(), a._cluster.rejoin  # type: ignore[union-attr]

        def rejoin() -> Any:
            go.wait()
            return begin_again()

        a._cluster.rejoin = rejoin  # type: ignore[union-attr, method-assign]
        cluster.sql("UPDATE hosts SET fenced_at = clock_timestamp() WHERE host_id = 'a' RETURNING 1")
        until(lambda: a.state == "rejoining" and b.ring_owner(ref) == "b", 20)
        assert b.request(ref, "who") == "b"
        go.set()
        until(lambda: a.state == "active" and b.ring_owner(ref) == "a" == a.ring_owner(ref), 20)
        gate = Gate(a)
        gate.open.clear()
        asked = in_background(a.request, other, "who")
        until(lambda: gate.claims)
        actors.over.set()  # now it ends, and a asks for the actor before the database can be asked
        until(lambda: not a._dispatcher.busy())
        answer = in_background(a.request, ref, "who")
        gevent.sleep(0)
        gate.open.set()
        assert answer.get(timeout=20) == "b"
        asked.get(timeout=20)
        assert active_at(cluster, ref) == ["b"]


def test_who_sends_again_from_the_dead_letter_handler_keeps_the_actor(dsn: str) -> None:
    letters: list[DeadLetter] = []

    def again(letter: DeadLetter) -> None:
        letters.append(letter)
        if len(letters) == 1:
            gate.away = False
            a.send(letter.ref, letter.message)

    with PostgresCluster(dsn, "ab", request_timeout=1.0) as cluster:
        cluster.lossy = True
        a, ref = cluster["a"], ref_of_a_until_c_comes()
        Actors(cluster)
        object.__setattr__(a.options, "dead_letter_handler", again)
        gate = Gate(a)
        gate.away = True
        a.send(ref, "hello")
        until(lambda: ref in a._registry.actors, 20)
        until(gate.is_quiet)
        cluster.join("c", lambda: Plain("c"))
        assert cluster["c"].request(ref, "who", timeout=10.0) == "a"
        assert active_at(cluster, ref) == ["a"]


def test_a_dead_letter_handler_that_blocks_holds_up_no_claim(dsn: str) -> None:
    blocked, go = [], Event()

    def block(letter: DeadLetter) -> None:
        blocked.append(letter)
        go.wait()

    with PostgresCluster(dsn, "ab") as cluster:
        cluster.lossy = True
        a = cluster["a"]
        Actors(cluster)
        object.__setattr__(a.options, "dead_letter_handler", block)
        refs = (Ref("life", f"\0{number}") for number in range(1000))
        a.send(next(ref for ref in refs if a.ring_owner(ref) == "a"), "no row can hold its id")
        until(lambda: blocked)
        assert a.request(cluster.ref("a", "life"), "who") == "a"
        go.set()


class Stubborn:
    """Its handler swallows every kill, until `go` is set."""

    def __init__(self) -> None:
        self.go = Event()
        self.began = False

    def receive(self, ctx: Context) -> None:
        if ctx.message == "long":
            self.began = True
            while not self.go.is_set():
                with suppress(BaseException):
                    self.go.wait()


def test_a_handler_that_ends_after_its_host_has_stopped_starts_nothing(dsn: str) -> None:
    stubborn = Stubborn()
    with PostgresCluster(dsn, "ab", drain_timeout=0.2) as cluster:
        a = cluster["a"]
        for host in cluster:
            host.register_actor("life", stubborn.receive)
        a.send(cluster.ref("a", "life"), "long")
        until(lambda: stubborn.began)
        gate = Gate(a)
        cluster.leave("a")
        statements = gate.ownership.statements
        stubborn.go.set()
        until(lambda: not a._dispatcher.workers)
        gevent.sleep(0)
        assert gate.ownership.statements == statements
        assert gate.ownership._greenlet is None or gate.ownership._greenlet.dead


@pytest.mark.parametrize("leased", [False, True])
def test_what_was_accepted_is_handled_before_the_last_host_ends(dsn: str, leased: bool) -> None:
    """Also what waits for its claim, and what actors ask of others that have to be claimed."""
    if leased:
        PostgresCluster(dsn, "")
    options: dict[str, Any] = {**LEASED, "dsn": dsn, "listen": "127.0.0.1:0"} if leased else {}
    got: list[Any] = []
    with Host(host_id="a", **options) as host:

        def first(ctx: Context) -> None:
            if ctx.message == "ask":
                until(lambda: host.state == "draining")
                got.append(ctx.request(Ref("second", "1"), "asked"))

        def second(ctx: Context) -> None:
            if not isinstance(ctx.message, (Initialize, Shutdown)):
                got.append(ctx.message)
                ctx.reply("answered")

        host.register_actor("first", first)
        host.register_actor("second", second)
        host.send(Ref("first", "1"), "ask")
        until(lambda: host._dispatcher.busy() or not leased)
        host.send(Ref("second", "2"), "sent")
    assert sorted(got) == ["answered", "asked", "sent"]


def test_a_handler_that_swallows_its_kill_does_not_hold_up_the_stop() -> None:
    stubborn = Stubborn()
    host = Host(freeze_grace_period=0.1, drain_timeout=30.0).start()
    host.register_actor("life", stubborn.receive)
    host.send(Ref("life", "1"), "long")
    until(lambda: stubborn.began)
    host.freeze()
    host.unfreeze()
    clock = SystemClock()
    before = clock.monotonic()
    host.stop()
    assert clock.monotonic() - before < 20, "not the whole of drain_timeout"
    stubborn.go.set()


def test_a_start_that_fails_leaves_nothing_listening(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PostgresCluster(dsn, "")
    before = open_sockets()

    def fail(*_: Any) -> None:
        raise DatabaseUnavailable("just now it does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(Cluster, "register", fail)
        host = Host(host_id="a", listen="127.0.0.1:0", dsn=dsn)
        with pytest.raises(DatabaseUnavailable):
            host.start()
    assert host.state == "new"
    until(lambda: open_sockets() == before)
    host.start()
    host.stop()
    host = Host(host_id="a", listen="127.0.0.1:0", advertise="10.0.0.1:7001", peers={"b": "10.0.0.1:7001"})
    with pytest.raises(InvalidOption):
        host.start()
    assert host.state == "new"
    until(lambda: open_sockets() == before)
