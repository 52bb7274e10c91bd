"""The transport between real sockets in one process."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import gevent
import pytest

from tests.support import in_background, until
from tests.transports import QUICK, REF, Listener, Nodes, Proxy, RawPeer, Records, bodies_of, monotonic, no_leaks, note
from theatre_gevent import InboxFull, TheatreError
from theatre_gevent.cluster.logs import LogGate
from theatre_gevent.cluster.transport import Inlet, Limits, PeerDown, Transport
from theatre_gevent.errors import CannotListen, InvalidOption, MessageNotSerializable
from theatre_gevent.logic.envelopes import Failure, Reply, Request
from theatre_gevent.testing import VirtualClock

ANYWHERE = "0.0.0.0:0"
SECRET = bytes(range(16))


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with no_leaks():
        made = Nodes()
        try:
            yield made
        finally:
            made.stop()


# -- what it is for --------------------------------------------------------------------------------------------------


def test_messages_go_there_and_answers_come_back_over_the_same_connection(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    a.send("b", {"some": ["body", 1, b"x"]})
    assert a.ask("b", 7, "question") == "question"
    assert b.records.bodies == [{"some": ["body", 1, b"x"]}]
    assert b.transport.links() == [], "b has no connection of its own to a"
    assert a.records.ups == ["b"]
    assert (a.counter("messages_out"), b.counter("messages_in")) == (2, 2)
    assert (b.counter("messages_out"), a.counter("messages_in")) == (1, 1)
    assert b.records.inlets["a"].peer.address == a.addr


def test_what_is_sent_before_the_connection_is_there_waits_for_it(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.transport.set_peers({"b": b.addr})
    assert not a.link("b").is_up
    for n in range(1000):
        a.send("b", n)
    until(lambda: len(b.records.bodies) == 1000)
    assert b.records.bodies == list(range(1000))


def test_peers_may_be_set_before_the_start(nodes: Nodes) -> None:
    b = nodes("b")
    transport, records = Transport("a"), Records()
    transport.set_peers({"a": "127.0.0.1:1", "b": b.addr})
    link = transport.link("b")
    assert link is not None
    link.send(note("early"))
    transport.start(records)
    until(lambda: b.records.bodies == ["early"])
    transport.stop()


@pytest.mark.parametrize("queue_size", [1, 7, 64, 8192])
def test_the_order_is_kept_over_many_batches(nodes: Nodes, queue_size: int) -> None:
    a, b = nodes("a", queue_size=queue_size), nodes("b")
    a.connect(b)
    choice = random.Random(queue_size)
    total = 3_000 if queue_size == 1 else 20_000
    for n in range(total):
        a.send("b", n)
        if choice.random() < 0.01:
            gevent.sleep(0)
    until(lambda: len(b.records.bodies) == total, 30.0)
    assert b.records.bodies == list(range(total))
    assert b.counter("batches_in") <= total


def test_messages_of_one_moment_travel_together(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    for n in range(2000):
        a.link("b").send(note(n))
    until(lambda: len(b.records.bodies) == 2000)
    assert b.counter("batches_in") < 40


def test_several_senders_keep_their_own_order(nodes: Nodes) -> None:
    a, b = nodes("a", queue_size=50), nodes("b")
    a.connect(b)

    def sender(name: int) -> None:
        for n in range(500):
            a.send("b", (name, n))

    for task in [in_background(sender, name) for name in range(20)]:
        task.get()
    until(lambda: len(b.records.bodies) == 10_000)
    for name in range(20):
        assert [n for who, n in b.records.bodies if who == name] == list(range(500))


def test_all_connect_to_all_at_the_same_time(nodes: Nodes) -> None:
    mesh = [nodes(name) for name in "abcde"]
    everybody = {node.transport.identity.host_id: node.addr for node in mesh}
    for node in mesh:
        node.transport.set_peers(everybody)
        for link in node.transport.links():
            for n in range(100):
                link.send(note((node.transport.identity.host_id, n)))
    until(lambda: all(len(node.records.bodies) == 400 for node in mesh))
    for node in mesh:
        for other in everybody:
            numbers = [n for who, n in node.records.bodies if who == other]
            assert numbers == ([] if other == node.transport.identity.host_id else list(range(100)))
        assert node.counter("connects") == 4
        assert node.counter("accepts") == 4
        assert node.records.downs == []


@pytest.mark.parametrize("size", [1 << 20, 15 << 20])
def test_large_messages(nodes: Nodes, size: int) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    body = random.Random(1).randbytes(size)
    for n in range(4):
        a.send("b", n)
        a.send("b", body)
    until(lambda: len(b.records.bodies) == 8, 30.0)
    assert b.records.bodies == [0, body, 1, body, 2, body, 3, body]
    assert a.ask("b", 1, body) == body


def test_what_is_too_large_or_cannot_be_encoded_comes_back_and_takes_nothing_along(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    huge = bytes(16 << 20)
    for body in (1, huge, 2, object(), 3):
        a.link("b").send(note(body))
    until(lambda: b.records.bodies == [1, 2, 3])
    until(lambda: len(a.records.lost_messages) == 2)
    assert a.records.lost_messages[0] is huge
    assert all(isinstance(error, MessageNotSerializable) for error in a.records.errors)
    assert "16777216" in str(a.records.errors[0])
    assert a.records.downs == []


def test_a_reply_that_is_too_large_becomes_a_failure(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    assert a.ask("b", 1, "small") == "small"
    b.records.inlets["a"].send(Reply(2, 1, bytes(16 << 20)))
    until(lambda: len(a.records.answers) == 2)
    failure = a.records.answers[1]
    assert isinstance(failure, Failure)
    assert (failure.seq, failure.type_name) == (2, "MessageNotSerializable")


# -- backpressure ----------------------------------------------------------------------------------------------------


def test_a_handler_that_blocks_makes_the_senders_of_that_link_wait_and_no_others(nodes: Nodes) -> None:
    a, b, c = nodes("a", queue_size=100, limits=QUICK), nodes("b"), nodes("c")
    a.connect(b, c)
    b.records.may_read.clear()
    body = "x" * 1000

    def sender() -> int:
        for n in range(100_000):
            try:
                a.send("b", body, 0.3)
            except InboxFull:
                return n
        raise AssertionError("nothing ever held the sender up")

    limits = a.transport.limits.write
    assert limits < 5.0
    sent = in_background(sender).get()
    assert a.link("b").full
    assert len(a.link("b").unsent()) == 100
    assert a.ask("c", 1, "alive") == "alive"
    b.records.may_read.set()
    until(lambda: len(b.records.bodies) == sent or a.records.downs != [])


def test_senders_are_let_in_in_the_order_of_their_arrival(nodes: Nodes) -> None:
    listener = Listener()
    a = nodes("a", queue_size=5)
    a.transport.set_peers({"b": listener.addr})
    peer = listener.accept()
    for n in range(5):
        a.send("b", n)
    assert a.link("b").full
    tasks = []
    for n in range(5, 50):
        tasks.append(in_background(a.send, "b", n))
        gevent.sleep(0)
    assert not any(task.ready() for task in tasks)
    tasks[3].kill()  # number 8
    peer.shake_hands("b", "acceptor")
    bodies: list[object] = []
    while len(bodies) < 49:
        for event in peer.events():
            bodies += [message.body for message in getattr(event, "messages", [])]
        peer.flush()
    assert bodies == [n for n in range(50) if n != 8]
    until(lambda: all(task.ready() for task in tasks))
    until(lambda: not a.link("b").full)
    peer.close()
    listener.close()


def test_a_turn_that_is_not_used_goes_to_the_next(nodes: Nodes) -> None:
    a = nodes("a", queue_size=1)
    a.transport.set_peers({"b": "127.0.0.1:1"})
    link = a.link("b")
    link.send(note("first"))
    until(lambda: link.full)
    early = in_background(link.wait_for_room, 20.0)
    late = in_background(link.wait_for_room, 20.0)
    gevent.sleep(0)
    assert bodies_of(link._take_older(monotonic())) == ["first"]
    early.kill(block=False)  # its turn has come, and it has not run yet
    late.get(timeout=10.0)
    assert early.dead
    until(lambda: not link.full)
    link.send(note("second"))
    tasks = [in_background(link.wait_for_room, 20.0) for _ in range(3)]
    gevent.sleep(0)
    link._take_older(monotonic())
    for task in tasks:  # none of them sends, and none hangs for it
        task.get(timeout=10.0)


def test_wait_for_room_without_patience(nodes: Nodes) -> None:
    a = nodes("a", queue_size=3)
    a.transport.set_peers({"b": "127.0.0.1:1"})
    link = a.link("b")
    link.wait_for_room(0.0)
    for n in range(3):
        assert not link.full
        link.send(note(n))
    assert link.full
    with pytest.raises(InboxFull, match=r"host 'b' at 127\.0\.0\.1:1: the queue stayed full for 0 s, with 3 messages"):
        link.wait_for_room(0.0)
    with pytest.raises(InboxFull, match="stayed full"):
        link.wait_for_room(0.1)


def test_bytes_bound_the_queue_too(nodes: Nodes) -> None:
    listener = Listener()
    a = nodes("a")
    a.transport.set_peers({"b": listener.addr})
    link = a.link("b")
    sent = 0
    while not link.full:
        link.send(note(bytes(1 << 20)))
        sent += 1
    assert 8 <= sent <= 33, "16 MiB, and what the first guess may not know"
    listener.close()


def test_unread_replies_are_bounded(nodes: Nodes) -> None:
    b = nodes("b", limits=Limits(inlet_bytes=1 << 20))
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("a")
    assert peer.connection is not None
    peer.connection.send([Request(REF, "x", 1, 5.0)])
    peer.flush()
    until(lambda: "a" in b.records.inlets)
    inlet = b.records.inlets["a"]
    for n in range(1000):
        inlet.send(Reply(n, 1, bytes(100_000)))
        if inlet.closed:
            break
    assert inlet.closed
    inlet.send(Reply(1, 1, None))
    assert b.counter("replies_dropped") > 0
    until(lambda: b.transport.inlets() == [])
    peer.close()


# -- connections that break ------------------------------------------------------------------------------------------


def test_a_peer_that_comes_back_gets_what_waits_for_it(nodes: Nodes) -> None:
    a, b = nodes("a", limits=Limits(retry_max=0.1)), nodes("b")
    a.connect(b)
    a.send("b", "before")
    until(lambda: b.records.bodies == ["before"])
    b.transport.stop()
    until(lambda: not a.link("b").is_up)
    for n in range(500):
        a.send("b", n)
    again = nodes("b", b.addr)
    until(lambda: len(again.records.bodies) == 500)
    assert again.records.bodies == list(range(500))
    assert a.records.ups == ["b", "b"]
    assert len(a.records.downs) == 1
    assert a.records.lost_messages == []


def test_connections_that_are_cut_again_and_again_lose_only_what_was_under_way(nodes: Nodes) -> None:
    a, b = nodes("a", limits=Limits(retry_min=0.01, retry_max=0.02)), nodes("b")
    proxy = Proxy(b.addr)
    a.transport.set_peers({"b": proxy.addr})
    total = 0
    for _ in range(10):
        until(lambda: a.link("b").is_up)
        for _ in range(500):
            a.send("b", total)
            total += 1
        gevent.sleep(0.002)
        proxy.cut()
        until(lambda: not a.link("b").is_up)
    a.send("b", "last")
    until(lambda: b.records.bodies[-1:] == ["last"])
    numbers = b.records.bodies[:-1]
    assert numbers == sorted(set(numbers)), "in order, and none of them twice"
    assert a.counter("messages_out") == total + 1 - len(a.records.lost_messages)
    proxy.close()


def test_an_unreachable_peer_costs_its_messages_and_nobody_elses(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    closed = Listener()
    closed.close()
    a, b = nodes("a", limits=QUICK), nodes("b")
    with caplog.at_level(logging.WARNING, "theatre_gevent.cluster"):
        a.transport.set_peers({"b": b.addr, "c": closed.addr})
        a.send("c", "lost")
        a.send("b", "fine")
        until(lambda: a.records.lost_messages == ["lost"])
    assert isinstance(a.records.errors[0], PeerDown)
    assert str(a.records.errors[0]) == f"host 'c' at {closed.addr} cannot be reached: Connection refused"
    assert b.records.bodies == ["fine"]
    until(lambda: a.counter("connect_failures") > 3)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines == [f"cannot connect to host 'c' at {closed.addr}: Connection refused"], (
        "one line, not one per attempt"
    )
    assert a.records.ups == ["b"]


def test_an_address_that_is_no_name(nodes: Nodes) -> None:
    a = nodes("a")
    name = "x" * 70 + ".invalid"  # longer than a label may be
    a.transport.set_peers({"b": f"{name}:7001"})
    until(lambda: a.counter("connect_failures") > 0)
    assert a.link("b").last_error is not None
    with pytest.raises(CannotListen, match=f"cannot listen at {name}:7001"):
        Transport("c", f"{name}:7001").start(Records())


def test_a_second_connection_of_the_same_host_replaces_the_first(nodes: Nodes) -> None:
    b = nodes("b")
    first, second = RawPeer.dial(b.addr), RawPeer.dial(b.addr)
    first.shake_hands("a")
    second.shake_hands("a")
    assert first.is_closed_by_peer()
    assert second.connection is not None
    second.connection.send([note("second")])
    second.flush()
    until(lambda: b.records.bodies == ["second"])
    assert [inlet.peer.host_id for inlet in b.transport.inlets()] == ["a"]
    first.close()
    second.close()


def test_what_a_connection_has_read_is_handled_before_that_of_its_successor(nodes: Nodes) -> None:
    b = nodes("b")
    b.records.may_read.clear()
    first, second = RawPeer.dial(b.addr), RawPeer.dial(b.addr)
    first.shake_hands("a")
    assert first.connection is not None
    first.connection.send([note(1)])
    first.flush()
    until(lambda: "a" in b.records.inlets)
    second.shake_hands("a")
    assert second.connection is not None
    second.connection.send([note(2)])
    second.flush()
    assert first.is_closed_by_peer()
    b.records.may_read.set()
    until(lambda: b.records.bodies == [1, 2])
    first.close()
    second.close()


# -- members ---------------------------------------------------------------------------------------------------------


def test_peers_are_added_moved_and_removed(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    b.transport.stop()
    moved = nodes("b")
    a.send("b", "kept")
    a.transport.set_peers({"b": moved.addr})
    until(lambda: moved.records.bodies == ["kept"])
    link = a.link("b")
    a.transport.set_peers({})
    assert a.transport.link("b") is None
    assert a.transport.links() == []
    link.send(note("nobody is there"))
    until(lambda: a.records.lost_messages == ["nobody is there"])
    assert "not a member" in str(a.records.errors[-1])


def test_a_bad_address_changes_nothing(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    with pytest.raises(InvalidOption, match=r"address of host 'c' must be 'host:port' .* got 'nowhere'"):
        a.transport.set_peers({"c": "nowhere"})
    assert [link.host_id for link in a.transport.links()] == ["b"]


def test_whom_the_handler_does_not_admit_does_not_get_in(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    a, b = nodes("a"), nodes("b")
    b.records.refusal = lambda identity: f"no {identity.host_id} here"
    with caplog.at_level(logging.WARNING, "theatre_gevent.cluster"):
        a.transport.set_peers({"b": b.addr})
        until(lambda: a.link("b").last_error is not None)
    assert "not admitted: no a here" in str(a.link("b").last_error)
    assert any("refused a connection" in record.getMessage() for record in caplog.records)
    assert b.transport.inlets() == []
    b.records.refusal = lambda identity: str(1 // 0)
    until(lambda: "could not decide: ZeroDivisionError" in str(a.link("b").last_error))
    b.records.refusal = lambda identity: None
    until(lambda: a.link("b").is_up)


def test_an_exception_in_the_handler_harms_no_connection(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(Records):
        def received(self, source: object, messages: list, unmade: list) -> None:  # type: ignore[type-arg]
            super().received(source, messages, unmade)  # type: ignore[arg-type]
            raise ZeroDivisionError

        def up(self, host_id: str) -> None:
            raise ZeroDivisionError

    a = nodes("a")
    transport, records = Transport("b"), Clumsy()
    transport.start(records)
    transport.set_peers({"a": a.addr})
    a.transport.set_peers({"b": transport.addr})
    for n in range(3):
        a.send("b", n)
        until(lambda n=n: records.bodies == list(range(n + 1)))  # type: ignore[misc]
    assert a.records.downs == []
    until(lambda: len(caplog.records) >= 3)
    transport.stop()


# -- start and stop --------------------------------------------------------------------------------------------------


def test_stop_writes_what_is_queued_and_says_goodbye(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    b.connect(a)
    for n in range(5000):
        a.link("b").send(note(n))
    a.transport.stop()
    until(lambda: len(b.records.bodies) == 5000)
    assert b.records.bodies == list(range(5000))
    assert ("a", a.transport.identity.epoch, "the host stops") in b.records.leavers
    until(lambda: [host for host, _ in b.records.downs] == ["a"])
    a.transport.stop()


def test_stop_under_load_loses_nothing_without_saying_so(nodes: Nodes) -> None:
    a, b, c = nodes("a"), nodes("b"), nodes("c")
    a.connect(b, c)
    sent = {"b": 0, "c": 0}
    stopping = False

    def sender(host_id: str) -> None:
        while not stopping:
            try:
                a.send(host_id, sent[host_id])
            except TheatreError:
                return
            sent[host_id] += 1
            if sent[host_id] % 100 == 0:
                gevent.sleep(0)

    tasks = [in_background(sender, host_id) for host_id in sent]
    links = {host_id: a.link(host_id) for host_id in sent}
    until(lambda: min(sent.values()) > 2000)
    a.transport.stop(5.0)
    stopping = True
    for task in tasks:
        task.get()
    links["b"].send(note("after the end"))
    until(lambda: "after the end" in a.records.lost_messages)
    for node, host_id in ((b, "b"), (c, "c")):
        until(lambda node=node: node.transport.inlets() == [])  # type: ignore[misc]
        assert node.records.bodies == list(range(len(node.records.bodies)))
        del host_id
    arrived = len(b.records.bodies) + len(c.records.bodies)
    assert sum(sent.values()) + 1 == arrived + len(a.records.lost_messages)


def test_stop_gives_back_what_it_could_not_write(nodes: Nodes) -> None:
    listener = Listener()
    a = nodes("a", queue_size=10)
    a.transport.set_peers({"b": listener.addr})
    for n in range(10):
        a.send("b", n)
    waiting = in_background(a.send, "b", 11)
    gevent.sleep(0)
    a.transport.stop(0.1)
    assert a.records.lost_messages == list(range(10))
    with pytest.raises(PeerDown, match="the host stops"):
        waiting.get()
    listener.close()


def test_stop_when_a_handler_blocks(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    b.records.may_read.clear()
    a.send("b", "x")
    until(lambda: "a" in b.records.inlets)
    b.transport.stop(0.1)
    assert b.transport.inlets() == []


def test_a_handler_may_stop_the_transport(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")

    class Stopper(Records):
        def leaving(self, host_id: str, epoch: int, reason: str) -> None:
            transport.stop(0.5)
            super().leaving(host_id, epoch, reason)

    transport, records = Transport("s"), Stopper()
    transport.start(records)
    transport.set_peers({"a": a.addr, "b": b.addr})
    until(lambda: all(link.is_up for link in transport.links()))
    a.transport.stop()
    until(lambda: records.leavers == [("a", a.transport.identity.epoch, "the host stops")])
    until(lambda: b.transport.inlets() == [])


def test_start_and_stop_out_of_turn(nodes: Nodes) -> None:
    never = Transport("n")
    never.stop()
    a = nodes("a")
    with pytest.raises(TheatreError, match="was started before"):
        a.transport.start(a.records)


def test_an_address_that_cannot_be_listened_at(nodes: Nodes) -> None:
    a = nodes("a")
    with pytest.raises(CannotListen, match=f"cannot listen at {a.addr}: Address already in use"):
        Transport("b", a.addr).start(Records())
    with pytest.raises(CannotListen, match=r"cannot listen at 192\.0\.2\.1:7001: Cannot assign"):
        Transport("b", "192.0.2.1:7001").start(Records())
    with pytest.raises(CannotListen, match=r"cannot listen at no-such-host\.invalid:7001"):
        Transport("b", "no-such-host.invalid:7001").start(Records())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"listen": "7001"}, "listen must be 'host:port'"),
        ({"listen": "::1:7001"}, "listen must be 'host:port'"),
        ({"listen": "127.0.0.1:70000"}, "listen must be 'host:port'"),
        ({"listen": None}, "listen must be 'host:port'"),
        ({"advertise": "x"}, "advertise must be 'host:port'"),
        ({"secret": ""}, "secret must be text or bytes"),
        ({"secret": 5}, "secret must be text or bytes"),
        ({"epoch": -1}, "epoch must be"),
        ({"host_id": ""}, "host_id must be"),
        ({"queue_size": 0}, "queue_size must be"),
        ({"server_tls": "cert.pem"}, "server_tls must be an ssl.SSLContext or None, got a str"),
        ({"client_tls": True}, "client_tls must be an ssl.SSLContext or None, got a bool"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], text: str) -> None:
    everything: dict[str, object] = {"host_id": "a", **options}
    with pytest.raises(InvalidOption, match=text):
        Transport(**everything)  # type: ignore[arg-type]


def test_what_is_advertised(nodes: Nodes) -> None:
    node = nodes("a", "127.0.0.1:0", advertise="a.example:0")
    host, _, port = node.addr.rpartition(":")
    assert host == "a.example"
    assert 0 < int(port) < 65536
    wild = nodes("b", ANYWHERE, secret=SECRET)
    assert not wild.addr.startswith(ANYWHERE.split(":")[0]), "nobody could use that"
    six = nodes("c", "[::1]:0")
    assert six.addr.startswith("[::1]:")
    peer = nodes("d")
    peer.transport.set_peers({"c": six.addr})
    until(lambda: peer.link("c").is_up)


def test_an_open_door_is_pointed_out(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "theatre_gevent.cluster"):
        nodes("a")
        nodes("b", ANYWHERE, secret=SECRET)
        assert caplog.records == []
        nodes("c", ANYWHERE)
    assert len(caplog.records) == 1
    assert "whoever reaches that address" in caplog.records[0].getMessage()


def test_repeated_lines_are_held_back_for_a_minute(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    gate = LogGate(clock)
    with caplog.at_level(logging.WARNING, "theatre_gevent.cluster"):
        for _ in range(5):
            gate.warning("x", "it failed")
        gate.warning("y", "another matter")
        clock.advance(61)
        gate.warning("x", "it failed")
        gate.forget("x")
        gate.warning("x", "it failed anew")
        for n in range(5000):
            gate.warning(f"stranger {n}", "hello")
    lines = [record.getMessage() for record in caplog.records][:4]
    assert lines == [
        "it failed",
        "another matter",
        "it failed (4 more like it since the last line)",
        "it failed anew",
    ]
    assert len(gate._last) <= 1024


def test_inlets_say_who_they_are(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    a.connect(b)
    until(lambda: len(b.transport.inlets()) == 1)
    inlet = b.transport.inlets()[0]
    assert isinstance(inlet, Inlet)
    assert str(inlet).startswith("host 'a' at 127.0.0.1:")
    assert str(a.link("b")) == f"host 'b' at {b.addr}"
