"""Peers that break the rules, over real sockets: each costs its own connection and nothing else.

After every test the transport still serves another peer, and has left no greenlet and no socket behind.
"""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import gevent
import psutil
import pytest

from tests.support import in_background, until
from tests.transports import QUICK, REF, Listener, Node, Nodes, Proxy, RawPeer, bodies_of, no_leaks, note
from theatre_gevent import InboxFull
from theatre_gevent.cluster.transport import Limits
from theatre_gevent.logic import codec
from theatre_gevent.logic.codec import MAX_FRAME, encode_frame, encode_messages
from theatre_gevent.logic.connection import Failed
from theatre_gevent.logic.envelopes import Request
from theatre_gevent.logic.handshake import HandshakeError

MiB = 1 << 20


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with no_leaks():
        made = Nodes()
        try:
            yield made
        finally:
            made.stop()


def check_service(nodes: Nodes, node: Node) -> None:
    """Another peer is served, in both directions."""
    good = nodes(f"good-{len(nodes.all)}")
    name = node.transport.identity.host_id
    good.connect(node)
    for n in range(1000):
        good.send(name, f"good {n}")
    assert good.ask(name, 1, "x") == "x"
    expected = [f"good {n}" for n in range(1000)]
    until(lambda: [body for body in node.records.bodies if str(body)[:5] == "good "] == expected)


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def told(peer: RawPeer) -> str:
    """Return what the other end says before it closes."""
    said = ""
    while True:
        events = peer.events()
        said += "".join(str(event.error) for event in events if isinstance(event, Failed))
        if not events or peer.connection is None or peer.connection.state == "closed":
            assert peer.is_closed_by_peer()
            return said


# -- bad bytes -------------------------------------------------------------------------------------------------------

BAD_BYTES = {
    "length 0": (struct.pack(">I", 0) + b"xxxx", "frame of length 0"),
    "length 16 MiB + 1": (struct.pack(">IB", MAX_FRAME + 1, 1), f"frame of length {MAX_FRAME + 1}, over the limit"),
    "length 4 GiB": (b"\xff\xff\xff\xff\x01", "frame of length 4294967295, over the limit"),
    "unknown kind": (struct.pack(">IB", 5, 99) + b"xxxx", "frame of unknown kind 99"),
    "damaged batch": (struct.pack(">IB", 5, 1) + b"\xc1\xc1\xc1\xc1", "MESSAGES frame is damaged"),
    "wrong message": (encode_frame(codec.MESSAGES, [[77, "what"]]), "MESSAGES frame is damaged"),
    "hello again": (encode_frame(codec.HELLO, ["theatre"]), "sent HELLO to a connection that is open"),
    "http": (b"GET / HTTP/1.1\r\n\r\n", "does not speak this protocol"),
    "noise": (b"\x90" + random.Random(3).randbytes(300_000), "frame of length"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_bytes_after_the_handshake(nodes: Nodes, name: str, caplog: pytest.LogCaptureFixture) -> None:
    data, reason = BAD_BYTES[name]
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("a")
    assert peer.connection is not None
    peer.connection.send([note("before it")])
    peer.flush()
    until(lambda: b.records.bodies == ["before it"])
    with suppress(ConnectionError):
        peer.sock.sendall(data)
    assert peer.is_closed_by_peer()
    until(lambda: b.transport.inlets() == [])
    assert reason in warnings(caplog)
    assert "host 'a' at 127.0.0.1:" in warnings(caplog)
    assert b.counter("failures") == 1
    peer.close()
    check_service(nodes, b)


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_bytes_in_place_of_a_handshake(nodes: Nodes, name: str, caplog: pytest.LogCaptureFixture) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    with suppress(ConnectionError):
        peer.sock.sendall(BAD_BYTES[name][0])
    assert peer.is_closed_by_peer()
    until(lambda: b.counter("refusals") == 1)
    assert "host 'b' refused a connection from 127.0.0.1:" in warnings(caplog)
    peer.close()
    check_service(nodes, b)


def test_an_announced_length_takes_no_memory(nodes: Nodes) -> None:
    b = nodes("b")
    before = psutil.Process().memory_info().rss
    peers = [RawPeer.dial(b.addr) for _ in range(50)]
    for n, peer in enumerate(peers):
        peer.shake_hands(f"peer-{n}")
        peer.sock.sendall(struct.pack(">IB", MAX_FRAME, 1) + bytes(1000))
    until(lambda: len(b.transport.inlets()) == 50)
    check_service(nodes, b)
    assert psutil.Process().memory_info().rss - before < 64 * MiB
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("cut", [1, 4, 5, 60])
def test_a_frame_that_is_cut_off(nodes: Nodes, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("a")
    frame = encode_messages([note("x" * 100)])[0][0]
    peer.sock.sendall(frame[:cut])
    peer.close()
    until(lambda: b.counter("failures") == 1)
    assert f"in mid-frame, after {cut} bytes" in warnings(caplog)
    assert b.records.bodies == []
    check_service(nodes, b)


def test_a_reset_in_mid_frame(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("a")
    peer.sock.sendall(encode_messages([note("x" * 100)])[0][0][:50])
    until(lambda: len(b.transport.inlets()) == 1)
    gevent.sleep(0.01)
    peer.reset()
    until(lambda: b.counter("failures") == 1)
    assert "Connection reset by peer" in warnings(caplog)
    check_service(nodes, b)


def test_a_link_that_is_reset_while_it_writes(nodes: Nodes) -> None:
    """What was not wholly written goes to the next connection, whole, once and in order."""
    listener = Listener()
    a = nodes("a", limits=Limits(retry_max=0.05))
    a.transport.set_peers({"b": listener.addr})
    body = bytes(MiB)
    first = listener.accept()
    first.shake_hands("b", "acceptor")

    def sender() -> None:  # more than the system's buffers take
        for n in range(40):
            a.send("b", [n, body])

    task = in_background(sender)
    assert first.connection is not None
    seen: list[int] = []
    while not seen:
        seen += numbers(first)
    first.reset()
    second = listener.accept()
    second.shake_hands("b", "acceptor")
    again: list[int] = []
    while again[-1:] != [39]:
        again += numbers(second)
    assert again == list(range(again[0], 40))
    assert again[0] > seen[-1]
    assert a.records.lost_messages == []
    assert len(a.records.downs) == 1
    task.get()
    second.close()
    listener.close()
    check_service(nodes, a)


def numbers(peer: RawPeer) -> list[int]:
    found = [message.body[0] for event in peer.events() for message in getattr(event, "messages", [])]
    peer.flush()
    return found


# -- slow and silent peers -------------------------------------------------------------------------------------------


def test_frames_that_come_byte_by_byte(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    proxy = Proxy(b.addr)
    proxy.chunk = 1
    a.transport.set_peers({"b": proxy.addr})
    for n in range(20):
        a.send("b", n)
    until(lambda: b.records.bodies == list(range(20)))
    assert a.ask("b", 1, "x") == "x"
    proxy.close()
    check_service(nodes, b)


def test_a_frame_that_takes_too_long(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    b = nodes("b", limits=QUICK)
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("a")
    frame = encode_messages([note("x" * 1000)])[0][0]

    def drip() -> None:
        with suppress(OSError):
            for n in range(len(frame)):
                peer.sock.sendall(frame[n : n + 1])
                gevent.sleep(0.02)

    task = in_background(drip)
    until(lambda: b.counter("failures") == 1)
    assert "the peer took more than 1 s for one frame" in warnings(caplog)
    task.get()
    peer.close()
    check_service(nodes, b)


def test_a_peer_that_never_pauses_leaves_others_their_time(nodes: Nodes) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("a")
    pings = encode_frame(codec.PING, None) * 10_000

    def flood() -> None:
        with suppress(OSError):
            while True:
                peer.sock.sendall(pings)

    def drain() -> None:
        with suppress(OSError):
            while peer.sock.recv(1 << 20):
                pass

    tasks = [in_background(flood), in_background(drain)]
    until(lambda: b.counter("bytes_in") > 1_000_000)
    check_service(nodes, b)
    for task in tasks:
        task.kill()
    peer.close()


def test_a_handshake_that_comes_byte_by_byte_and_never_ends(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    b = nodes("b", limits=QUICK)
    peer = RawPeer.dial(b.addr)

    def drip() -> None:
        with suppress(OSError):
            for byte in struct.pack(">IB", 16_000, codec.HELLO) + bytes(1000):
                peer.sock.sendall(bytes([byte]))
                gevent.sleep(0.02)

    task = in_background(drip)
    until(lambda: b.counter("refusals") == 1)
    assert "the handshake was not done after 1 s, waiting for HELLO" in warnings(caplog)
    task.get()
    peer.close()
    check_service(nodes, b)


def test_500_connections_that_never_shake_hands(nodes: Nodes) -> None:
    b = nodes("b", limits=Limits(handshake=3.0))
    idle = [RawPeer.dial(b.addr) for _ in range(500)]
    until(lambda: b.counter("refusals") >= 500 - 256)
    check_service(nodes, b)  # while 256 of them are still there
    assert len(b.transport._acceptor.wires) <= 256 + 1
    for peer in idle:
        assert peer.is_closed_by_peer()
    assert b.counter("refusals") == 500
    for peer in idle:
        peer.close()


def test_a_dialled_peer_that_accepts_and_says_nothing(nodes: Nodes) -> None:
    listener = Listener()
    a = nodes("a", limits=Limits(handshake=0.5, dial=2.0))
    a.transport.set_peers({"b": listener.addr})
    a.send("b", "x")
    until(lambda: a.records.lost_messages == ["x"])
    assert "the handshake was not done after 0.5 s, waiting for CHALLENGE" in str(a.records.errors[0])
    listener.close()
    check_service(nodes, a)


def test_a_peer_that_never_reads(nodes: Nodes) -> None:
    """Its senders wait and are refused, memory is bounded, and other peers get theirs as always."""
    listener = Listener()
    a, good = nodes("a", limits=Limits(write=1.5)), nodes("good")
    a.transport.set_peers({"mute": listener.addr, "good": good.addr})
    peer = listener.accept()
    peer.shake_hands("mute", "acceptor")
    until(lambda: a.link("mute").is_up and a.link("good").is_up)
    before = psutil.Process().memory_info().rss
    refused = 0
    for n in range(2000):  # 200 MB
        try:
            a.send("mute", os.urandom(100_000), 0.05)
        except InboxFull:
            refused += 1
            if refused > 5:
                break
        a.send("good", n)
    assert refused
    link = a.link("mute")
    assert sum(map(len, bodies_of(link.unsent()))) < 18 * MiB
    assert psutil.Process().memory_info().rss - before < 60 * MiB
    until(lambda: len(good.records.bodies) > 50)
    until(lambda: a.records.downs != [])
    assert "the peer does not read" in str(a.records.downs[0][1])
    assert [host_id for host_id, _ in a.records.downs] == ["mute"]
    peer.close()
    listener.close()
    check_service(nodes, a)


def test_a_half_open_connection(nodes: Nodes) -> None:
    """No FIN, no reset: both ends find out by themselves, and connect anew when the way is free again."""
    a, b = nodes("a", limits=QUICK), nodes("b", limits=QUICK)
    proxy = Proxy(b.addr)
    a.transport.set_peers({"b": proxy.addr})
    until(lambda: a.link("b").is_up and len(b.transport.inlets()) == 1)
    a.send("b", "before")
    until(lambda: b.records.bodies == ["before"])
    proxy.gate.clear()
    until(lambda: not a.link("b").is_up)
    until(lambda: b.transport.inlets() == [])
    assert "nothing came from the peer for 1.2 s, pings included" in str(a.records.downs[0][1])
    check_service(nodes, b)
    proxy.cut()
    proxy.gate.set()
    until(lambda: a.link("b").is_up)
    a.send("b", "after")
    until(lambda: b.records.bodies[-1] == "after")
    proxy.close()


def test_silent_peers_stay_connected_and_a_busy_handler_is_no_silence(nodes: Nodes) -> None:
    a, b = nodes("a", limits=QUICK), nodes("b", limits=QUICK)
    a.connect(b)
    b.records.may_read.clear()
    a.send("b", 1)
    until(lambda: "a" in b.records.inlets)
    a.send("b", 2)
    started = b.counter("bytes_out")
    until(lambda: b.counter("bytes_out") >= started + 6 * 6)  # signs of life, for twice as long as silence may last
    b.records.may_read.set()
    until(lambda: b.records.bodies == [1, 2])
    quiet = a.counter("bytes_in")
    until(lambda: a.counter("bytes_in") >= quiet + 6 * 6)
    assert (a.records.downs, b.counter("failures")) == ([], 0)
    check_service(nodes, b)


# -- peers that are not who they should be ---------------------------------------------------------------------------


def test_a_wrong_protocol_version(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    peer.sock.sendall(encode_frame(codec.HELLO, ["theatre", 2, "a", 1, "a:1", "", None, False, bytes(16)]))
    answer = peer.sock.recv(65536)
    assert b"the peer speaks protocol version 2, this host speaks version 1" in answer
    assert answer[4] == codec.REFUSE
    assert peer.is_closed_by_peer()
    until(lambda: "speaks protocol version 2" in warnings(caplog))
    peer.close()
    check_service(nodes, b)


def test_a_wrong_host_id_at_an_address(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    a, b = nodes("a", limits=QUICK), nodes("b")
    a.transport.set_peers({"c": b.addr})
    a.send("c", "not for b")
    until(lambda: a.records.lost_messages == ["not for b"])
    assert f"host 'b' answers at {b.addr}, where 'c' was expected" in str(a.records.errors[0])
    assert b.records.bodies == []
    assert "where 'c' was expected" in warnings(caplog)
    check_service(nodes, b)


def test_a_host_with_our_own_id(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    events = peer.shake_hands("b")
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, HandshakeError)
    assert "host id 'b' is used twice" in str(events[-1].error)
    assert b.transport.inlets() == []
    peer.close()
    twin = RawPeer.dial(b.addr)  # and one that is not as honest with itself: the transport finds out alone
    hello = ["theatre", 1, "b", 1, "b:2", "", None, False, bytes(16)]
    twin.sock.sendall(encode_frame(codec.HELLO, hello))
    assert twin.is_closed_by_peer()
    until(lambda: "host id 'b' is used twice" in warnings(caplog))
    twin.close()
    check_service(nodes, b)


def test_two_hosts_with_one_id(nodes: Nodes) -> None:
    b = nodes("b")
    first, second = RawPeer.dial(b.addr), RawPeer.dial(b.addr)
    first.shake_hands("a", address="a:1")
    events = second.shake_hands("a", address="a:2")
    reason = str(events[-1].error) if isinstance(events[-1], Failed) else told(second)
    assert "host id 'a' is used twice" in reason
    assert first.connection is not None
    first.connection.send([note("still here")])
    first.flush()
    until(lambda: b.records.bodies == ["still here"])
    second.close()
    first.close()
    until(lambda: b.transport.inlets() == [])
    third = RawPeer.dial(b.addr)
    third.shake_hands("a", address="a:2")
    until(lambda: len(b.transport.inlets()) == 1)
    third.close()
    check_service(nodes, b)


def test_an_older_epoch_does_not_replace_a_newer_one(nodes: Nodes) -> None:
    b = nodes("b")
    newer, older, newest = RawPeer.dial(b.addr), RawPeer.dial(b.addr), RawPeer.dial(b.addr)
    newer.shake_hands("a", epoch=5)
    events = older.shake_hands("a", epoch=4)
    reason = str(events[-1].error) if isinstance(events[-1], Failed) else told(older)
    assert "epoch 4 is over, epoch 5 is connected" in reason
    newest.shake_hands("a", epoch=6, address="elsewhere:1")
    assert newer.is_closed_by_peer()
    until(lambda: [inlet.peer.epoch for inlet in b.transport.inlets()] == [6])
    for peer in (newer, older, newest):
        peer.close()
    check_service(nodes, b)


def test_answers_where_only_questions_belong_and_unknown_classes_end_no_connection(nodes: Nodes) -> None:
    b = nodes("b")
    peer = RawPeer.dial(b.addr)
    peer.shake_hands("a")
    # A body of a class that nobody registered: extension 13, the name and no fields.
    unknown = b"\x91\x96\x00\x92\xa4echo\xa11\xc7\x07\x0d\x92\xa4what\x80\xc0\xc0\xc0"[:]
    peer.sock.sendall(struct.pack(">IB", len(unknown) + 1, codec.MESSAGES) + unknown)
    assert peer.connection is not None
    peer.connection.send([Request(REF, "x", 1, 5.0)])
    peer.flush()
    answers: list[object] = []
    while not answers:
        answers += [message.body for event in peer.events() for message in getattr(event, "messages", [])]
    assert answers == ["x"]
    assert len(b.records.unmade) == 1
    assert "what" in b.records.unmade[0][1]
    peer.close()
    check_service(nodes, b)


# -- the machine -----------------------------------------------------------------------------------------------------


def test_accepting_survives_running_out_of_file_descriptors(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    b = nodes("b")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    peer = RawPeer(gevent.socket.socket())
    spare: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 20, hard))
        with suppress(OSError):
            while True:
                spare.append(os.dup(0))
        host, _, port = b.addr.rpartition(":")
        peer.sock.connect((host, int(port)))
        until(lambda: "cannot accept connections" in warnings(caplog))
        assert "Too many open files" in warnings(caplog)
    finally:
        for fd in spare:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    peer.shake_hands("late")
    until(lambda: len(b.transport.inlets()) == 1)
    peer.close()
    check_service(nodes, b)


CHILD = """
from theatre_gevent import monkey
monkey.patch_all()
import sys, gevent
from tests.transports import Node
node = Node("b", sys.argv[1])
print(node.addr, flush=True)
gevent.sleep(60)
"""


@pytest.fixture
def child() -> Iterator[Callable[[str], tuple[subprocess.Popen[str], str]]]:
    children: list[subprocess.Popen[str]] = []

    def start(listen: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen([sys.executable, "-c", CHILD, listen], stdout=subprocess.PIPE, text=True)
        children.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in children:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


StartChild = Callable[[str], tuple[subprocess.Popen[str], str]]


def test_a_peer_that_is_killed_in_mid_traffic_and_restarted(nodes: Nodes, child: StartChild) -> None:
    process, address = child("127.0.0.1:0")
    a, other = nodes("a"), nodes("other")
    a.transport.set_peers({"b": address, "other": other.addr})
    until(lambda: a.link("b").is_up and a.link("other").is_up)
    assert a.ask("b", 1, "x") == "x"
    sent = 0
    for sent in range(1, 20_001):
        a.send("b", sent)
        a.send("other", sent)
        if sent == 10_000:
            process.kill()
    until(lambda: a.records.downs != [])
    until(lambda: len(other.records.bodies) == sent)
    child(address)
    until(lambda: a.link("b").is_up, 30.0)
    assert a.ask("b", 2, "again") == "again"
    assert a.counter("messages_out") + len(a.records.lost_messages) == 2 * sent + 2


def test_a_peer_that_is_stopped_for_a_while(nodes: Nodes, child: StartChild) -> None:
    process, address = child("127.0.0.1:0")
    a = nodes("a", limits=QUICK)
    a.transport.set_peers({"b": address})
    until(lambda: a.link("b").is_up)
    process.send_signal(signal.SIGSTOP)
    until(lambda: not a.link("b").is_up)
    process.send_signal(signal.SIGCONT)
    until(lambda: a.link("b").is_up)
    assert a.ask("b", 1, "x") == "x"
