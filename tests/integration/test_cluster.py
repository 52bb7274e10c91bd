"""Requests and sends across hosts: what arrives, what comes back, and what goes wrong where."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from decimal import Decimal
from typing import Any

import gevent
import msgspec
import pytest
from gevent.monkey import get_original

from tests.integration.cluster_support import Cluster, Colour, Order, Point, Price, router_of
from tests.support import in_background, until
from theatre_gevent import (
    CallCycle,
    Host,
    MessageNotSerializable,
    PeerDown,
    Ref,
    RemoteActorError,
    RequestTimeout,
    SystemClock,
    UnregisteredActorType,
    message,
)
from theatre_gevent.message_types import BY_NAME

start_new_thread = get_original("_thread", "start_new_thread")

BODIES: list[Any] = [
    None,
    True,
    0,
    -(1 << 63),
    (1 << 64) - 1,
    1 << 200,
    -(1 << 99),
    1.5,
    float("-inf"),
    "",
    "text with ü and \U0001f600",
    b"\x00\xff" * 50,
    [],
    [1, "two", [3.0, None]],
    {"key": {"deeper": b"bytes inside"}, 7: "integer key", (1, 2): "tuple key"},
    set(),
    {1, "two", (3, 4)},
    frozenset({1, 2}),
    dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=dt.timezone.utc),
    dt.datetime(2024, 2, 29, 12, 30),  # noqa: DTZ001 - naive ones travel as such
    uuid.UUID(int=7),
    Decimal("-1.50"),
    Colour.RED,
    Point(1, -2),
    Price(Decimal("9.90")),
    Order([("apple", 2)], Price(Decimal(1), "USD"), Point(0, 0), {"fresh", "red"}),
    {"all": [(1, {2}), {"o": Order([], Price(Decimal(0)))}, (b"x", Decimal("0.1"), uuid.UUID(int=1), 1 << 70)]},
]


def same(left: Any, right: Any) -> bool:
    """Tell whether two bodies are equal and of the same types all the way down."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, dict):
        return all(same(value, right[key]) for key, value in left.items()) and all(
            any(same(key, other) for other in right) for key in left
        )
    if isinstance(left, (list, tuple)):
        return all(map(same, left, right))
    if isinstance(left, (set, frozenset)):
        return all(any(same(item, other) for other in right) for item in left)
    return not isinstance(left, Order) or (same(left.items, right.items) and same(left.price, right.price))


def test_bodies_arrive_as_the_types_they_left_as() -> None:
    with Cluster("ab") as cluster:
        here, there = cluster.ref("a"), cluster.ref("b")
        for body in BODIES:
            reply = cluster["a"].request(there, body)
            assert same(reply, body), (body, reply)
            assert type(body) not in (list, dict, set, Order) or reply is not body
            cluster["b"].send(here, body)
        until(lambda: len(cluster.actors.at(here)) == len(BODIES))
        assert all(map(same, cluster.actors.at(here), BODIES))
        assert all(map(same, cluster.actors.at(there), BODIES))
        assert cluster.actors.hosts_of(there) == {"b"}
        assert cluster.actors.hosts_of(here) == {"a"}


def test_later_changes_to_a_sent_body_do_not_reach_it() -> None:
    with Cluster("ab") as cluster:
        there = cluster.ref("b")
        body = {"list": [1]}
        cluster["a"].send(there, body)
        body["list"].append(2)
        until(lambda: cluster.actors.at(there))
        assert cluster.actors.at(there) == [{"list": [1]}]


def test_every_host_reaches_every_actor() -> None:
    with Cluster("abcd") as cluster:
        refs = [ref for name in cluster.names for ref in cluster.refs(name, 5)]
        for host in cluster:
            for ref in refs:
                assert host.request(ref, ref.id) == ref.id
        for ref in refs:
            assert cluster.actors.hosts_of(ref) == {ref.id[0]}, "one activation, where the ring puts it"
        assert cluster.sum("activations_total") == len(refs)
        assert cluster["a"].metrics.snapshot()["placements_cached"] == 15


def test_a_host_says_the_address_that_others_are_told_with_its_port() -> None:
    host = Host(host_id="a", listen="127.0.0.1:0", advertise="localhost:0")
    assert host.address is None
    with host:
        name, _, port = str(host.address).rpartition(":")
        assert (name, int(port) > 0) == ("localhost", True)


def test_the_sender_of_a_message_travels() -> None:
    with Cluster("ab") as cluster:
        here, there = cluster.ref("a"), cluster.ref("b")
        assert cluster["a"].request(there, ("sender",)) is None
        assert cluster["a"].request(here, ("relay", there, ("sender",), 5)) == here
        cluster["b"].send(here, ("send", there, "from an actor"))
        until(lambda: "from an actor" in cluster.actors.at(there))


# -- replies -----------------------------------------------------------------------------------------------------


def test_replies_given_later_by_greenlets_and_native_threads() -> None:
    with Cluster("ab") as cluster:
        refs = cluster.refs("b", 2)
        tasks = [in_background(cluster["a"].request, ref, ("keep",)) for ref in refs]
        until(lambda: len(cluster.actors.contexts) == 2)
        assert not any(task.ready() for task in tasks)
        first, second = cluster.actors.contexts
        gevent.spawn(first.reply, {"by": "greenlet"})
        failed: list[BaseException] = []

        def in_thread() -> None:
            try:
                second.reply(object())
            except MessageNotSerializable as error:
                failed.append(error)
                second.reply({"by": "thread"})

        start_new_thread(in_thread, ())
        replies = {task.get(timeout=10)["by"] for task in tasks}
        assert replies == {"greenlet", "thread"}
        assert len(failed) == 1
        assert not first.is_request
        first.reply("again")
        assert cluster["b"].metrics.snapshot()["replies_late"] == 1


def test_a_request_from_a_native_thread_crosses_too() -> None:
    with Cluster("ab") as cluster:
        there = cluster.ref("b")
        results: list[Any] = []

        def in_thread() -> None:
            cluster["a"].send(there, "sent")
            results.append(cluster["a"].request(there, "asked"))
            try:
                cluster["a"].request(there, ("raise", "boom"))
            except RemoteActorError as error:
                results.append(error.message)

        start_new_thread(in_thread, ())
        until(lambda: len(results) == 2)
        assert results == ["asked", "boom"]
        assert cluster.actors.at(there)[:2] == ["sent", "asked"]


def test_what_a_receiver_raises_reaches_the_asker_by_name() -> None:
    with Cluster("ab") as cluster:
        there = cluster.ref("b")
        with pytest.raises(RemoteActorError) as caught:
            cluster["a"].request(there, ("raise", "as told ü"))
        assert (caught.value.type_name, caught.value.message) == ("ZeroDivisionError", "as told ü")
        assert caught.value.ref == there
        assert caught.value.__cause__ is None, "the exception object stays where it is"
        assert cluster["a"].request(there, "alive") == "alive"


def test_an_error_passes_through_a_host_between() -> None:
    with Cluster("abc") as cluster:
        middle, last = cluster.ref("b"), cluster.ref("c")
        with pytest.raises(RemoteActorError) as caught:
            cluster["a"].request(middle, ("relay", last, ("raise", "deep"), 5))
        assert "deep" in str(caught.value)
        inner = cluster.actors.errors[0]
        assert isinstance(inner, RemoteActorError)
        assert (inner.type_name, inner.ref) == ("ZeroDivisionError", last)


def test_an_actor_that_stops_without_a_reply() -> None:
    with Cluster("ab") as cluster:
        there = cluster.ref("b")
        with pytest.raises(RemoteActorError, match="StopActor"):
            cluster["a"].request(there, ("stop",))
        task = in_background(cluster["a"].request, there, ("keep",))
        until(lambda: cluster.actors.contexts)
        cluster["a"].send(there, ("stop",))
        with pytest.raises(RemoteActorError, match="StopActor"):
            task.get(timeout=10)


def test_an_initialize_that_raises_is_told_to_the_asker() -> None:
    with Cluster("ab") as cluster:

        def broken() -> Any:
            raise LookupError("no such row")

        for host in cluster:
            host.register_actor("broken", broken)
        there = cluster.ref("b", "broken")
        with pytest.raises(RemoteActorError, match="LookupError: no such row"):
            cluster["a"].request(there, 1)
        cluster["a"].send(there, 2)
        until(lambda: cluster.dead["b"][1:])
        assert [letter.message for letter in cluster.dead["b"]] == [1, 2]


def test_late_replies_are_counted_and_reach_nobody() -> None:
    with Cluster("ab") as cluster:
        there = cluster.ref("b")
        with pytest.raises(RequestTimeout):
            cluster["a"].request(there, ("keep",), timeout=0.1)
        assert router_of(cluster["a"]).pending == {}
        other = in_background(cluster["a"].request, cluster.refs("b", 2)[1], ("keep",))
        until(lambda: len(cluster.actors.contexts) == 2)
        cluster.actors.contexts[0].reply("late")
        until(lambda: cluster.sum("replies_late") == 1)  # where it is noticed first
        assert not other.ready()
        cluster.actors.contexts[1].reply("in time")
        assert other.get(timeout=10) == "in time"


def test_an_asker_that_is_killed_leaves_nothing_behind() -> None:
    with Cluster("ab") as cluster:
        task = in_background(cluster["a"].request, cluster.ref("b"), ("keep",))
        until(lambda: cluster.actors.contexts)
        task.kill()
        assert router_of(cluster["a"]).pending == {}
        assert cluster["a"].metrics.snapshot()["requests_abandoned"] == 1
        cluster.actors.contexts[0].reply("too late")
        until(lambda: cluster["a"].metrics.snapshot()["replies_late"] == 1)


# -- what cannot travel ------------------------------------------------------------------------------------------


def test_what_cannot_travel_is_refused_in_the_callers_call() -> None:
    with Cluster("ab") as cluster:
        there = cluster.ref("b")
        before = cluster["a"].metrics.snapshot()
        with pytest.raises(MessageNotSerializable, match=r"body\['deep'\]\[1\].*object"):
            cluster["a"].send(there, {"deep": [1, object()]})
        with pytest.raises(MessageNotSerializable, match=r"body\[0\]"):
            cluster["a"].request(there, (object(),))
        with pytest.raises(MessageNotSerializable, match="at most"):
            cluster["a"].request(there, b"x" * (16 << 20))
        with pytest.raises(MessageNotSerializable, match="at most"):
            cluster["a"].send(there, "x" * (16 << 20))
        after = cluster["a"].metrics.snapshot()
        assert after["messages_sent"] == before["messages_sent"]
        assert after["messages_forwarded"] == 0
        assert router_of(cluster["a"]).pending == {}
        assert cluster["a"].request(there, b"x" * (15 << 20)) == b"x" * (15 << 20)


def test_a_reply_that_cannot_travel_is_refused_in_the_repliers_call() -> None:
    with Cluster("ab") as cluster:
        assert cluster["a"].request(cluster.ref("b"), ("unfit",)) == "as replacement"
        assert [type(error) for error in cluster.actors.errors] == [MessageNotSerializable]


def test_a_class_that_the_receiver_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    @message("tests.unknown-there")
    class Unknown(msgspec.Struct):
        value: int

    with Cluster("ab") as cluster:
        there, other = cluster.refs("b", 2)
        assert cluster["a"].request(there, Unknown(1)) == Unknown(1)
        monkeypatch.delitem(BY_NAME, "tests.unknown-there")
        with pytest.raises(RemoteActorError, match=r"tests\.unknown-there"):
            cluster["a"].request(there, [Unknown(2)])
        cluster["a"].send(there, Unknown(3))
        cluster["a"].send(other, "behind it in the same batch")
        until(lambda: cluster.dead["b"])
        (letter,) = cluster.dead["b"]
        assert letter.ref == there
        assert "tests.unknown-there" in letter.reason
        assert cluster.dead["a"] == []
        assert cluster["a"].request(there, "the connection stays") == "the connection stays"
        assert cluster.actors.at(other) == ["behind it in the same batch"]
        assert cluster["a"]._transport is not None
        assert cluster["a"]._transport.counters()["connects"] == 1


def test_a_reply_of_a_class_that_the_asker_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    @message("tests.unknown-here")
    class Unknown(msgspec.Struct):
        value: int

    with Cluster("ab") as cluster:
        task = in_background(cluster["a"].request, cluster.ref("b"), ("keep",))
        until(lambda: cluster.actors.contexts)
        monkeypatch.delitem(BY_NAME, "tests.unknown-here")
        cluster.actors.contexts[0].reply(Unknown(1))
        with pytest.raises(RemoteActorError, match=r"tests\.unknown-here"):
            task.get(timeout=10)
        assert router_of(cluster["a"]).pending == {}


def test_a_type_that_the_other_host_has_not_registered() -> None:
    with Cluster("ab") as cluster:
        cluster["a"].register_actor("only-a", cluster.actors.on("a"))
        there = cluster.ref("b", "only-a")
        with pytest.raises(UnregisteredActorType) as caught:
            cluster["a"].request(there, 1)
        assert caught.value.actor_type == "only-a"
        assert caught.value.registered == ["x"]
        cluster["a"].send(there, "lost")
        until(lambda: cluster.dead["a"])
        (letter,) = cluster.dead["a"]
        assert (letter.ref, letter.message) == (there, "lost")
        assert "only-a" in letter.reason
        assert cluster.dead["b"] == []


def test_a_type_that_only_the_other_host_has_registered() -> None:
    with Cluster("ab") as cluster:
        cluster["b"].register_actor("only-b", cluster.actors.on("b"))
        there = cluster.ref("b", "only-b")
        assert cluster["a"].request(there, 1) == 1


# -- deadlines and cycles ----------------------------------------------------------------------------------------


def test_deadlines_travel() -> None:
    clock = SystemClock()
    with Cluster("abc") as cluster:
        middle, last = cluster.ref("b"), cluster.ref("c")
        with pytest.raises(RequestTimeout):
            cluster["a"].request(middle, ("relay", last, ("keep",), 50.0), timeout=0.3)
        until(lambda: cluster.actors.errors)
        assert type(cluster.actors.errors[0]) is RequestTimeout, "what is left to it, not 50 s"
        ctx: Any = cluster.actors.contexts[0]
        assert ctx.deadline <= clock.monotonic() + 0.3
        assert cluster["b"].metrics.snapshot()["requests_timed_out"] == 1


@pytest.mark.parametrize("entry", ["a", "b", "c"])
def test_call_cycles_over_hosts_are_named_at_once(entry: str) -> None:
    with Cluster("abc", request_timeout=40.0) as cluster:
        first, second, third = (cluster.ref(name) for name in "abc")
        for chain in ([first, second], [first, second, third], [first, cluster.refs("a", 2)[1], second]):
            body: Any = "never"
            for target in [first, *chain[:0:-1]]:
                body = ("relay", target, body, None)
            cluster.actors.errors.clear()
            with pytest.raises((RemoteActorError, CallCycle), match="call cycle"):
                cluster[entry].request(first, body)
            (cycle, *_) = cluster.actors.errors
            assert isinstance(cycle, CallCycle)
            assert cycle.chain == (*chain, first)
        assert cluster.sum("requests_timed_out") == 0


def test_a_deep_chain_without_a_cycle_is_none() -> None:
    with Cluster("abc") as cluster:
        refs = [ref for name in "abc" for ref in cluster.refs(name, 3)]
        refs = refs[::3] + refs[1::3] + refs[2::3]
        body: Any = "deep"
        for target in refs[:0:-1]:
            body = ("relay", target, body, None)
        assert cluster["b"].request(refs[0], body) == "deep"


# -- copies of local messages ------------------------------------------------------------------------------------


def test_serialize_local_and_remote_alike() -> None:
    with Cluster("ab", serialize_local=True) as cluster:
        body = {"k": (1, {2})}
        for ref in (cluster.ref("a"), cluster.ref("b")):
            reply = cluster["a"].request(ref, body)
            assert same(reply, body)
            assert reply is not body
            with pytest.raises(MessageNotSerializable):
                cluster["a"].send(ref, object())


def test_refs_travel_as_bodies() -> None:
    with Cluster("ab") as cluster:
        assert cluster["a"].request(cluster.ref("b"), [Ref("x", "1")]) == [Ref("x", "1")]


def test_each_line_of_the_log_names_its_host(caplog: pytest.LogCaptureFixture) -> None:
    """Several hosts in one process log with one logger: the field says whose line it is."""
    with caplog.at_level(logging.INFO, "theatre_gevent.cluster"), Cluster("ab"):
        pass
    lines = [(getattr(each, "theatre_host", None), each.getMessage()) for each in caplog.records]
    assert {host for host, _ in lines} == {"a", "b"}
    assert {("a", "host a: connected to b"), ("b", "host b: connected to a")} <= set(lines)


def test_a_goodbye_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """It comes on both connections between two hosts."""
    with caplog.at_level(logging.INFO, "theatre_gevent.cluster"), Cluster("ab") as cluster:
        cluster["b"].stop()
        until(lambda: "host a: b leaves: the host stops" in caplog.messages)
    assert caplog.messages.count("host a: b leaves: the host stops") == 1


@pytest.mark.parametrize(
    ("peer", "reason"),
    [("secret", "another shared secret"), ("nobody", "Connection refused")],
)
def test_a_timeout_names_what_is_wrong_with_the_connection(peer: str, reason: str) -> None:
    secrets = {"a": "ours", "b": "theirs"}
    with Host(host_id="b", listen="127.0.0.1:0", secret=secrets["b"]) as b:
        address = str(b.address)
        if peer == "nobody":
            b.stop()
        with Host(
            host_id="a", listen="127.0.0.1:0", secret=secrets["a"], peers={"b": address}, request_timeout=1.0
        ) as a:
            a.register_actor("where", lambda ctx: ctx.reply("here"))
            there = next(ref for n in range(1000) if a.ring_owner(ref := Ref("where", str(n))) == "b")
            said = f"no reply from {there} .*host 'b' at {address} cannot be reached: .*{reason}"
            with pytest.raises(RequestTimeout, match=said) as caught:
                a.request(there, "x")
            assert type(caught.value.__cause__) is PeerDown
