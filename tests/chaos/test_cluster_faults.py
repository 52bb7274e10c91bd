"""A cluster whose host b is a process of its own, to which bad things happen while traffic runs between all hosts.

After each fault: who had nothing to do with it has not noticed, traffic goes on by itself, nothing was handled twice
or out of order, all books balance, and nothing is left behind.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest
from gevent import subprocess

from tests.chaos.traffic import TYPE, Traffic
from tests.integration.cluster_support import Cluster, router_of, transport_of
from tests.support import in_background, until
from tests.transports import Proxy, RawPeer
from theatre_gevent import DeadLetter, NoOwner, RemoteActorError, RequestTimeout, message
from theatre_gevent.cluster.transport import Limits

ROOT = Path(__file__).parents[2]
LIMITS: dict[str, Any] = {"dial": 1.0, "retry_max": 0.3}
QUICK = {**LIMITS, "ping": 0.4, "dead": 1.2}


class Process:
    """A host in a process of its own."""

    def __init__(self, host_id: str = "b", listen: str = "127.0.0.1:0", **options: Any) -> None:
        given = {"host_id": host_id, "listen": listen, "limits": LIMITS, **options}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.cluster_host", json.dumps(given)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.address: str = self._answer()["address"]

    def _answer(self) -> dict[str, Any]:
        line = self._stdout.readline()
        assert line, "the process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def call(self, do: str, **order: Any) -> dict[str, Any]:
        self._stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
        self._stdin.flush()
        return self._answer()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def end(self) -> None:
        """Stop it in good order, its books checked."""
        self.call("halt")
        until(lambda: self.call("report")["metrics"]["requests_pending"] == 0)
        report = self.call("stop")
        assert report["state"] == "stopped"
        assert report["violations"] == []
        assert report["pending"] == 0
        counts = report["metrics"]
        words = ("received", "dead_lettered", "queued", "forwarded")
        assert counts["messages_sent"] == sum(counts[f"messages_{word}"] for word in words), counts
        assert counts["actors_active"] == counts["requests_pending"] == counts["messages_queued"] == 0
        self._stdin.close()
        assert self._process.wait() == 0
        self._stdout.close()


class Scene:
    """Hosts a and c here, b in a process of its own, and traffic from a and c to all of them.

    Args:
        cluster: Hosts a and c.
        payload: Bytes in each message.
    """

    def __init__(self, cluster: Cluster, payload: int = 0) -> None:
        self.cluster = cluster
        self.traffic = {name: Traffic(cluster[name], payload=payload) for name in cluster.names}
        self.process: Process | None = None

    def introduce(self, process: Process, **addresses: str) -> None:
        """Tell all hosts about each other; `addresses` are told to the hosts here instead of the true ones."""
        self.process = process
        members = {name: str(host.address) for name, host in self.cluster.hosts.items()}
        process.call("peers", peers={**members, "b": process.address})
        self.cluster.acquaint(**{"b": process.address, **addresses})

    def start(self) -> None:
        for traffic in self.traffic.values():
            traffic.start(["a", "b", "c"])

    def answered(self, owner: str) -> list[int]:
        return [traffic.lanes[owner].answered for traffic in self.traffic.values()]

    def goes_on(self, *owners: str, by: int = 30) -> None:
        """Wait until every host here has got more replies of every one of `owners`."""
        for owner in owners:
            before = self.answered(owner)
            until(lambda: all(now >= was + by for now, was in zip(self.answered(owner), before, strict=True)))  # noqa: B023

    def letters_for_b(self) -> list[list[DeadLetter]]:
        b_refs = {name: set(traffic.refs("b")) for name, traffic in self.traffic.items()}
        return [[letter for letter in self.cluster.dead[name] if letter.ref in b_refs[name]] for name in self.traffic]

    def end(self) -> None:
        """Stop the traffic and check that only b's lanes have suffered."""
        for traffic in self.traffic.values():
            traffic.halt()
        assert self.process is not None
        self.process.end()
        for traffic in self.traffic.values():
            assert traffic.violations == []
            for owner, lane in traffic.lanes.items():
                if owner == "b":
                    assert set(lane.failures) <= {"NoOwner", "PeerDown", "RequestTimeout"}
                    assert lane.overtime < 1.0, "within their deadline"
                else:
                    assert not lane.failures, (owner, lane.failures)
        for name, letters in self.cluster.dead.items():
            assert {self.cluster[name].ring_owner(letter.ref) for letter in letters} <= {"b"}


@contextmanager
def scene(limits: dict[str, Any] | None = None, payload: int = 0, **options: Any) -> Iterator[Scene]:
    with Cluster(
        "ac", limits=Limits(**(LIMITS if limits is None else limits)), request_timeout=2.0, **options
    ) as cluster:
        cluster.lossy = True  # what a process that dies has read, nobody knows
        made = Scene(cluster, payload)
        try:
            yield made
            made.end()
        except BaseException:
            if made.process is not None:
                with suppress(Exception):
                    made.process.kill()
            raise


def test_a_peer_is_killed_and_comes_back() -> None:
    with scene() as it:
        victim = Process()
        it.introduce(victim)
        it.start()
        victim.call("start", owners=["a", "b", "c"])
        it.goes_on("a", "b", "c")
        a = it.cluster["a"]
        refs = it.traffic["a"].refs("b")
        in_flight = [in_background(a.request, ref, "keep", 30) for ref in refs[:5]]
        it.goes_on("b")

        victim.kill()
        for task in in_flight:
            with pytest.raises(NoOwner, match="'b'"):
                task.get(timeout=3)
        with pytest.raises((NoOwner, RequestTimeout)):
            a.request(refs[0], "to nobody", 0.3)
        it.goes_on("a", "c", by=200)
        until(lambda: all(it.letters_for_b()))
        assert all(letter.reason for letters in it.letters_for_b() for letter in letters)
        it.cluster.balanced()

        fresh = Process(listen=victim.address)
        it.process = fresh
        assert fresh.address == victim.address
        fresh.call("peers", peers={name: str(it.cluster[name].address) for name in "ac"})
        fresh.call("start", owners=["a", "b", "c"])
        it.goes_on("a", "b", "c")
        assert a.request(refs[0], "again") == "again"
        until(lambda: min(lane["answered"] for lane in fresh.call("report")["lanes"].values()) > 10)


def test_a_peer_is_paused_for_longer_than_silence_may_last() -> None:
    with scene(limits={}) as it:  # the usual limits: 6 s
        victim = Process(limits={})
        it.introduce(victim)
        it.start()
        victim.call("start", owners=["a", "b", "c"])
        it.goes_on("a", "b", "c")
        links = [transport_of(host).link("b") for host in it.cluster]
        victim.signal(signal.SIGSTOP)
        until(lambda: not any(link is not None and link.is_up for link in links), 20)
        it.goes_on("a", "c", by=200)
        it.cluster.balanced()
        victim.signal(signal.SIGCONT)
        it.goes_on("a", "b", "c")
        before = victim.call("report")["lanes"]
        until(
            lambda: all(
                lane["answered"] > before[owner]["answered"] for owner, lane in victim.call("report")["lanes"].items()
            )
        )


def test_a_short_pause_loses_no_request() -> None:
    with scene() as it:
        victim = Process()
        it.introduce(victim)
        it.start()
        it.goes_on("b")
        a = it.cluster["a"]
        tasks = [in_background(a.request, ref, n, 20) for n, ref in enumerate(it.traffic["a"].refs("b"))]
        victim.signal(signal.SIGSTOP)
        it.goes_on("a", "c", by=300)
        victim.signal(signal.SIGCONT)
        assert [task.get(timeout=10) for task in tasks] == list(range(len(tasks)))
        assert transport_of(a).counters()["failures"] == 0


def test_connections_are_reset_in_the_middle_of_frames() -> None:
    with scene(payload=3000) as it:
        victim = Process()
        proxy = Proxy(victim.address)
        proxy.chunk = 1009
        try:
            it.introduce(victim, b=proxy.addr)
            it.start()
            for _ in range(8):
                it.goes_on("b", by=5)
                proxy.cut()
                it.goes_on("a", "c", by=5)
            it.goes_on("b")
            assert proxy.connections > 8
            assert all(it.traffic[name].lanes["b"].answered > 40 for name in "ac")
            for traffic in it.traffic.values():
                traffic.halt()
        finally:
            proxy.close()


def test_a_way_that_swallows_everything() -> None:
    with scene(limits=QUICK) as it:
        victim = Process(limits=QUICK)
        proxy = Proxy(victim.address)
        try:
            it.introduce(victim, b=proxy.addr)
            it.start()
            it.goes_on("a", "b", "c")
            links = [transport_of(host).link("b") for host in it.cluster]
            proxy.gate.clear()
            until(lambda: not any(link is not None and link.is_up for link in links), 20)
            it.goes_on("a", "c", by=100)
            until(lambda: all(it.letters_for_b()))
            proxy.cut()
            proxy.gate.set()
            it.goes_on("a", "b", "c")
            for traffic in it.traffic.values():
                traffic.halt()
        finally:
            proxy.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"secret": "another"}, "secret"), ({}, "secret"), ({"secret": "ours", "host_id": "z"}, "'z'")],
    ids=["wrong secret", "no secret", "wrong host id"],
)
def test_an_impostor_at_the_address(wrong: dict[str, Any], said: str) -> None:
    with Cluster("ac", request_timeout=2.0, secret="ours") as cluster:  # noqa: S106
        cluster.lossy = True
        it = Scene(cluster)
        impostor = Process(**wrong)
        try:
            impostor.call("peers", peers={name: str(cluster[name].address) for name in "ac"})
            cluster.acquaint(b=impostor.address)
            it.start()
            it.goes_on("a", "c", by=100)
            assert it.answered("b") == [0, 0]
            link = transport_of(cluster["a"]).link("b")
            assert link is not None
            assert not link.is_up
            assert said in str(link.last_error)
            with pytest.raises((NoOwner, RequestTimeout)):
                cluster["a"].request(it.traffic["a"].refs("b")[0], "to whom", 0.2)
            report = impostor.call("report")
            assert report["handled"] == report["metrics"]["messages_arrived"] == 0
            assert report["metrics"]["peers_up"] == 0
        finally:
            impostor.kill()
        it.process = Process(listen=impostor.address, secret="ours")  # noqa: S106
        it.process.call("peers", peers={name: str(cluster[name].address) for name in "ac"})
        it.goes_on("a", "b", "c")
        it.end()


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x00" * 1000,
    b"\xff" * 1000,
    b"\x00\x00\x00\x05\x01\xc1\xc1\xc1\xc1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"",
    bytes(range(256)) * 100,
]


def test_garbage_on_the_ports_while_traffic_runs() -> None:
    with scene() as it:
        victim = Process()
        it.introduce(victim)
        it.start()
        it.goes_on("a", "b", "c")
        open_ones = []
        for address in (str(it.cluster["a"].address), victim.address):
            host, _, port = address.rpartition(":")
            for number in range(30):
                sock = socket.create_connection((host, int(port)))
                with suppress(OSError):
                    sock.sendall(GARBAGE[number % len(GARBAGE)])
                if number % 3:
                    RawPeer(sock).reset()
                else:
                    open_ones.append(sock)
        it.goes_on("a", "b", "c", by=100)
        for sock in open_ones:
            sock.close()
        assert not any(traffic.lanes["b"].failures for traffic in it.traffic.values())
        assert transport_of(it.cluster["a"]).counters()["failures"] == 0


@message("tests.chaos.only-here")
class OnlyHere(msgspec.Struct):
    value: int


def test_a_class_that_another_process_does_not_know() -> None:
    with scene() as it:
        victim = Process()
        it.introduce(victim)
        a = it.cluster["a"]
        ref = it.traffic["a"].refs("b")[0]
        assert ref.type == TYPE
        with pytest.raises(RemoteActorError, match=r"tests\.chaos\.only-here"):
            a.request(ref, {"deep": [OnlyHere(1)]})
        a.send(ref, OnlyHere(2))
        until(lambda: victim.call("report")["metrics"]["messages_dead_lettered"] == 1)
        assert a.request(ref, "still here") == "still here"
        assert it.cluster.dead["a"] == []
        assert transport_of(a).counters()["failures"] == 0
        assert router_of(a).pending == {}


def test_a_process_ends_in_good_order_under_load() -> None:
    with scene() as it:
        victim = Process()
        it.introduce(victim)
        it.start()
        victim.call("start", owners=["a", "b", "c"])
        it.goes_on("a", "b", "c")
        stop = gevent.spawn(victim.end)
        stop.get(timeout=20)
        it.goes_on("a", "c", by=100)
        until(lambda: all(it.letters_for_b()))
        it.cluster.balanced()
        it.process = Process(listen=victim.address)
        it.process.call("peers", peers={name: str(it.cluster[name].address) for name in "ac"})
        it.goes_on("a", "b", "c")
        for traffic in it.traffic.values():
            traffic.lanes["b"].failures.pop("HostDraining", None)
