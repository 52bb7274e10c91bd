"""The limits that any actor framework in Python meets: greenlet switches, gevent's queue, msgspec, loopback TCP."""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import gevent
from gevent import socket
from gevent.queue import Queue, SimpleQueue
from msgspec.msgpack import Decoder, Encoder

from report import Parser, machine, seconds, table, versions
from round_trip import make_partner

MESSAGE = ["greeter", "1234", "hello, world", 17, 3.0]
"""About what a small request carries."""
CHUNK = 1 << 16


def rate(call: Callable[[], object], duration: float) -> float:
    """Return calls a second; the best of five parts of the duration, since others may be at work too."""
    number, best = 1, 0.0
    while True:  # find how many calls take a fifth
        begin = perf_counter()
        for _ in range(number):
            call()
        took = perf_counter() - begin
        if took >= duration / 20:
            break
        number *= 2
    number = max(1, int(number * duration / 5 / took))
    for _ in range(5):
        begin = perf_counter()
        for _ in range(number):
            call()
        best = max(best, number / (perf_counter() - begin))
    return best


def queued(duration: float) -> float:
    """Return items a second that one greenlet puts and another gets, through a queue with room for 64."""
    queue: Queue[object] = Queue(64)
    stop = perf_counter() + duration
    taken = 0

    def take() -> None:
        nonlocal taken
        while queue.get() is not None:
            taken += 1

    taker = gevent.spawn(take)
    begin = perf_counter()
    while perf_counter() < stop:
        for _ in range(100):
            queue.put(MESSAGE)
    queue.put(None)
    taker.join()
    return taken / (perf_counter() - begin)


def loopback(duration: float) -> tuple[float, float]:
    """Return MB a second from one process to another, and round trips of 64 bytes a second."""
    command = [sys.executable, str(Path(__file__).resolve()), "--echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        address = ("127.0.0.1", int(child.stdout.readline()))
        with socket.create_connection(address) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def trip() -> None:
                sock.sendall(b"r" * 64)
                sock.recv(64)

            trips = rate(trip, duration)
        data, sent, begin = b"s" * CHUNK, 0, perf_counter()
        with socket.create_connection(address) as sock:
            while perf_counter() < begin + duration:
                sock.sendall(data)
                sent += CHUNK
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)  # all of it has arrived
            throughput = sent / (perf_counter() - begin) / 1e6
    return throughput, trips


def echo() -> None:
    """Be the other process: answer what comes on the first connection, swallow what comes on the second."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        with listener.accept()[0] as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := sock.recv(64):
                sock.sendall(data)
        with listener.accept()[0] as sock:
            while sock.recv(CHUNK):
                pass
            sock.sendall(b".")


def measure(duration: float) -> list[list[str]]:
    encode, decode, packed = Encoder().encode, Decoder().decode, Encoder().encode(MESSAGE)
    alone: SimpleQueue[object] = SimpleQueue()

    def put_and_get() -> None:
        alone.put(1)
        alone.get()

    rates = {
        "greenlet, a pair of switches": rate(make_partner(), duration),
        "gevent SimpleQueue, put and get in one greenlet": rate(put_and_get, duration),
        "gevent Queue, from greenlet to greenlet": queued(duration),
        "msgspec, encode a small message": rate(lambda: encode(MESSAGE), duration),
        "msgspec, decode it": rate(lambda: decode(packed), duration),
    }
    throughput, trips = loopback(duration)
    rates["loopback TCP, round trip of 64 bytes to another process"] = trips
    rows = [[name, f"{found:,.0f}", f"{1e6 / found:.3f}"] for name, found in rates.items()]
    return [*rows, [f"loopback TCP, one way in {CHUNK // 1024} KiB", f"{throughput:,.0f} MB", ""]]


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=seconds, default=1.0, help="for each (default: %(default)s)")
    parser.add_argument("--echo", action="store_true", help="be the other process")
    args = parser.parse_args()
    if args.echo:
        echo()
        return
    rows = gevent.spawn(measure, args.seconds).get()
    print(machine())
    print(versions("gevent", "greenlet", "msgspec"), "\n")
    print(table(["limit", "a second", "us"], rows))


if __name__ == "__main__":
    main()
