"""The transport by itself between two processes: messages per second, round trips, large frames, idle peers."""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import gevent
import gevent.event
import psutil

from report import Parser, machine, percent, positive, seconds, table, versions
from theatre_gevent import Ref
from theatre_gevent.cluster.transport import Inlet, Link, Transport
from theatre_gevent.logic.envelopes import Message, Reply, Request, Send
from theatre_gevent.pauses import let_sockets_run

REF = Ref("echo", "1")
SMALL = "hello, world"
LAST = 1 << 40
CALIBRATION = 200_000
"""Messages that tell what the full load is."""
WINDOW = 1.0
"""Seconds for which that is believed."""


class Handler:
    """Counts, and answers requests."""

    def __init__(self) -> None:
        self.received_count = 0
        self.answers: dict[int, Callable[[], None]] = {}

    def received(self, source: Inlet | Link, messages: list[Message], unmade: list[tuple[Message, str]]) -> None:
        self.received_count += len(messages)
        for message in messages:
            kind = type(message)
            if kind is Send:
                continue
            if kind is Request:
                source.send(Reply(message.seq, 1, message.body))  # type: ignore[union-attr]
            else:
                self.answers.pop(message.seq)()  # type: ignore[union-attr]

    def can_take(self, source: Inlet | Link, count: int) -> bool:
        return True

    def lost(self, host_id: str, messages: list[Message], error: Exception) -> None:
        raise SystemExit(f"messages were lost: {error}")

    def up(self, host_id: str) -> None: ...

    def down(self, host_id: str, error: Exception) -> None: ...

    def admit(self, identity: object) -> str | None: ...

    def leaving(self, host_id: str, epoch: int, reason: str) -> None: ...


def serve(names: int) -> None:
    """Be the other process: one transport, or many that are connected to all of ours; says where, then lives."""
    transports = [Transport(f"peer-{n}") for n in range(names)]
    for transport in transports:
        transport.start(Handler())
    print(json.dumps([transport.addr for transport in transports]), flush=True)
    read = partial(gevent.get_hub().threadpool.apply, sys.stdin.readline)
    peer = read().strip()
    for transport in transports:
        transport.set_peers({"bench": peer} if names > 1 else {})
    while read():
        pass


@contextmanager
def connected(names: int) -> Iterator[tuple[Transport, Handler]]:
    """Give a transport that is connected to a child process."""
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--serve", str(names)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    addresses = json.loads(child.stdout.readline())
    transport, handler = Transport("bench"), Handler()
    transport.start(handler)
    try:
        child.stdin.write(transport.addr + "\n")
        child.stdin.flush()
        transport.set_peers({f"peer-{n}": address for n, address in enumerate(addresses)})
        while not all(link.is_up for link in transport.links()):
            gevent.sleep(0.01)
        yield transport, handler
    finally:
        transport.stop()
        child.stdin.close()
        child.wait()
        child.stdout.close()


def stolen_seconds() -> float:
    """Return for how long processors had work and the hypervisor ran something else, where the system tells."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def ask(link: Link, handler: Handler, seq: int, body: Any = None) -> float:
    """Ask and return the seconds until the answer was there."""
    done: gevent.event.AsyncResult[None] = gevent.event.AsyncResult()
    handler.answers[seq] = done.set
    started = time.perf_counter()
    link.send(Request(REF, body, seq, 5.0))
    done.get()
    return time.perf_counter() - started


def flood(link: Link, handler: Handler, count: int) -> float:
    """Return messages per second, sent, received and handled at the other end."""
    started = time.perf_counter()
    send = link.send
    for _ in range(count):
        if link.full:
            link.wait_for_room(30.0)
        send(Send(REF, SMALL))
    ask(link, handler, LAST)  # the last to arrive there
    return count / (time.perf_counter() - started)


def latency(link: Link, handler: Handler, rate: float, duration: float) -> list[float]:
    """Return round trips in milliseconds while `rate` messages a second are sent beside them."""
    stop = time.perf_counter() + duration

    def background() -> None:
        started, sent = time.perf_counter(), 0
        while time.perf_counter() < stop:
            due = int((time.perf_counter() - started) * rate)
            while sent < due:
                if link.full:
                    link.wait_for_room(30.0)
                burst = min(100, due - sent)
                for _ in range(burst):
                    link.send(Send(REF, SMALL))
                sent += burst
                let_sockets_run()  # after `sleep(0)` the loop looks at none for up to 5 ms
            gevent.sleep(0.0005)

    task = gevent.spawn(background) if rate else None
    times, seq = [], 0
    while time.perf_counter() < stop:
        times.append(ask(link, handler, seq) * 1e3)
        seq += 1
        gevent.sleep(0.002)
    if task is not None:
        task.get()
    return times


def main(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    print(f"{machine()}, {versions('gevent', 'msgspec')}\n")
    with connected(1) as (transport, handler):
        link = transport.links()[0]
        flood(link, handler, 100_000)
        cpu, rates = [], []
        for _ in range(arguments.runs):
            begun = time.process_time()
            rates.append(flood(link, handler, arguments.messages))
            cpu.append((time.process_time() - begun) / arguments.messages * 1e9)
        rows = [
            [f"{SMALL!r}", f"{median(rates):,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}", f"{median(cpu):.0f}"]
        ]
        print(table(["one-way messages", "per second", "min", "max", "sender's CPU, ns each"], rows), "\n")

        rows = []
        for name, load in (("alone", 0.0), (f"{arguments.load} % of full load", arguments.load / 100)):
            times, stolen, lasted, left = [], 0.0, 0.0, arguments.duration
            while left > 0:  # what is full load is found out anew, since a virtual machine's speed changes all the time
                full = flood(link, handler, CALIBRATION) if load else 0.0
                before, begun = stolen_seconds(), time.perf_counter()
                times += latency(link, handler, full * load, min(WINDOW, left))
                stolen += stolen_seconds() - before
                lasted += time.perf_counter() - begun
                left -= WINDOW
            share = stolen / lasted / (os.cpu_count() or 1)
            p99 = quantiles(times, n=100)[98]
            rows.append(
                [name, f"{len(times)}", f"{median(times):.2f}", f"{p99:.2f}", f"{max(times):.2f}", f"{share:.1%}"]
            )
        print(table(["round trip, ms", "count", "p50", "p99", "max", "stolen"], rows), "\n")

        rows = []
        for size in (1 << 10, 1 << 14, 1 << 17, 1 << 20, 4 << 20, 15 << 20):
            body, count = bytes(size), max(4, (64 << 20) // size)
            best = float("inf")
            for _ in range(3):
                begun = time.process_time()
                for _ in range(count):
                    if link.full:
                        link.wait_for_room(30.0)
                    link.send(Send(REF, body))
                ask(link, handler, LAST)
                best = min(best, time.process_time() - begun)
            rows.append([f"{size // 1024} KiB", f"{best / (count * size / (1 << 20)) * 1e6:.0f}"])
        print(table(["size of a message", "sender's CPU, us per MiB"], rows), "\n")
    rows = []
    for peers in (1, arguments.peers):
        with connected(peers) as (transport, _):
            gevent.sleep(1.0)
            begun, started = time.process_time(), time.perf_counter()
            gevent.sleep(arguments.duration)
            share = (time.process_time() - begun) / (time.perf_counter() - started)
            rows.append([f"{peers}", f"{share * 100:.2f} %"])
    print(table(["idle peers, connected both ways", "CPU"], rows))


if __name__ == "__main__":
    parser = Parser(description=__doc__)
    parser.add_argument("--messages", type=positive, default=1_000_000, help="in a run")
    parser.add_argument("--runs", type=positive, default=3)
    parser.add_argument("--duration", type=seconds, default=5.0, help="of the round trips and of idleness, in seconds")
    parser.add_argument("--load", type=percent, default=50, help="beside the round trips, in percent of the full load")
    parser.add_argument("--peers", type=positive, default=100)
    parser.add_argument("--serve", type=positive, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    logging.disable()  # that one of the two ends before the other
    if chosen.serve:
        serve(chosen.serve)
    else:
        main(chosen)
