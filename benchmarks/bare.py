"""The load test's mix between processes with gevent and msgspec alone: a limit for any framework on top of the two.

There are no inboxes, no turns, no timeouts, no ownership, no errors, no counters, and one connection for each pair of
processes: a send is an entry in a list, the list is encoded once in an iteration of the loop, and what arrives is
given to a Python object by a plain call in the callback that has read it. A request waits in a greenlet, as it must.
What a framework needs beyond that is the difference to its own figure with as many workers.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import json
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.hub import get_hub
from greenlet import getcurrent

from report import Parser, machine, percent, positive, seconds, table, versions
from theatre_gevent.cli.run import free_ports

ACTORS = 1000
SEND, REQUEST, REPLY = 0, 1, 2
WARM_UP = 1.0


class Echo:
    """Counts what it gets, and answers a ping."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def receive(self, message: str) -> str | None:
        self.count += 1
        return "pong" if message == "ping" else None


class Peer:
    """Another process: a socket, and what is to be written to it."""

    def __init__(self, sock: Any, actors: list[Echo], pending: dict[int, Any]) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._sock = sock._sock  # whose methods do not wait
        self._loop = get_hub().loop
        self._actors, self._pending = actors, pending
        self._out: list[tuple[int, int, str]] = []
        self._rest = b""
        self._came = b""
        self._encode, self._decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
        self._read = self._loop.io(sock.fileno(), 1)
        self._write = self._loop.io(sock.fileno(), 2)
        self._read.start(self._readable)

    def put(self, entry: tuple[int, int, str]) -> None:
        out = self._out
        if not out:
            self._loop.run_callback(self._flush)
        out.append(entry)

    def _flush(self) -> None:
        if self._rest:
            return  # `_go_on` comes back to it
        out, self._out = self._out, []
        payload = self._encode(out)
        self._push(len(payload).to_bytes(4, "big") + payload)

    def _push(self, data: bytes) -> None:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # as in `_readable`
        self._rest = data[sent:]
        if self._rest:
            self._write.start(self._go_on)

    def _go_on(self) -> None:
        self._write.stop()
        self._push(self._rest)
        if not self._rest and self._out:
            self._flush()

    def _readable(self) -> None:
        try:
            read = self._sock.recv(65536)
        except ConnectionResetError:
            read = b""
        if not read:  # the other has measured and is gone
            self._read.stop()
            return
        data = self._came + read
        start, size = 0, len(data)
        while size - start >= 4 and size - start >= 4 + (length := int.from_bytes(data[start : start + 4], "big")):
            self._take(self._decode(memoryview(data)[start + 4 : start + 4 + length]))
            start += 4 + length
        self._came = data[start:]

    def _take(self, entries: list[Any]) -> None:
        actors, pending, put = self._actors, self._pending, self.put
        for kind, number, body in entries:
            if kind == SEND:
                actors[number].receive(body)
            elif kind == REQUEST:
                # The number of the request is above that of the actor, in the same integer.
                put((REPLY, number, actors[number % ACTORS].receive(body) or ""))
            else:
                pending.pop(number).switch(body)


def serve(given: dict[str, Any]) -> None:
    """The body of a child: connect to the others, operate, and tell what was done."""
    me, ports = given["me"], given["ports"]
    actors, pending = [Echo() for _ in range(ACTORS)], dict[int, Any]()
    peers: list[Peer | None] = [None] * len(ports)
    with socket.create_server(("127.0.0.1", ports[me])) as server:
        for other in range(me):
            sock = connect(ports[other])
            sock.sendall(bytes([me]))
            peers[other] = Peer(sock, actors, pending)
        for _ in range(me + 1, len(ports)):
            sock, _address = server.accept()
            other = sock.recv(1)[0]
            peers[other] = Peer(sock, actors, pending)
    done = [0] * given["workers"]
    until = time.monotonic() + WARM_UP + given["seconds"] + 1.0

    def work(worker: int) -> None:
        pick, share, hosts, hub = random.Random(f"{me} {worker}").random, given["share"], len(ports), get_hub()
        number = worker
        while time.monotonic() < until:
            actor = int(pick() * ACTORS)
            peer = peers[actor % hosts]
            if pick() < share:
                if peer is None:
                    actors[actor].receive("tick")
                else:
                    peer.put((SEND, actor, "tick"))
            elif peer is None:
                answer = actors[actor].receive("ping")
                assert answer == "pong"
            else:
                number += given["workers"]
                request = number * ACTORS + actor
                pending[request] = getcurrent()
                peer.put((REQUEST, request, "ping"))
                answer = hub.switch()
                assert answer == "pong"
            done[worker] += 1

    for worker in range(given["workers"]):
        gevent.spawn(work, worker)
    gevent.sleep(WARM_UP)
    operations, cpu, began = sum(done), time.process_time(), time.monotonic()
    gevent.sleep(given["seconds"])
    took = time.monotonic() - began
    found = {"operations": sum(done) - operations, "cpu": time.process_time() - cpu, "seconds": took}
    print(json.dumps(found), flush=True)
    gevent.sleep(2.0)  # the others still measure


def connect(port: int) -> socket.socket:
    """Connect to another child as soon as it listens."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port))
        gevent.sleep(0.02)
    sys.exit("bare.py: another process does not listen")


def measure(hosts: int, workers: int, duration: float, share: float) -> tuple[float, float]:
    """Return operations a second of all processes together, and microseconds of processor time for each."""
    given = {"ports": free_ports(hosts), "workers": workers, "seconds": duration, "share": share}
    command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
    children = [
        subprocess.Popen([*command, json.dumps({**given, "me": me})], stdout=subprocess.PIPE, text=True)
        for me in range(hosts)
    ]
    found = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    operations = sum(one["operations"] for one in found)
    return sum(one["operations"] / one["seconds"] for one in found), 1e6 * sum(one["cpu"] for one in found) / operations


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=positive, default=3, help="processes; 3")
    parser.add_argument("--workers", type=positive, nargs="+", default=[10, 30, 100, 300], help="each; 10 30 100 300")
    parser.add_argument("--seconds", type=seconds, default=4.0, help="how long each is measured; 4")
    parser.add_argument("--sends", type=percent, default=70, help="%% of the operations; the rest are requests; 70")
    options = parser.parse_args()
    print(f"{machine()}\n{versions('gevent', 'greenlet', 'msgspec')}\n")
    rows = []
    for workers in options.workers:
        rate, cost = measure(options.hosts, workers, options.seconds, options.sends / 100)
        rows.append([str(workers), f"{rate:,.0f}", f"{cost:.2f}"])
    print(table([f"workers on each of {options.hosts} hosts", "operations/s", "CPU us each"], rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        main()
