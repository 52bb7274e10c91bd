"""Runs the real gunicorn, and clients that put things into carts of the example's shop."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import gevent
import psutil
import ujson
from typing_extensions import Self

from tests.support import gone, until

ROOT = Path(__file__).resolve().parents[2]
START = 40.0
"""Seconds that a busy machine may take to start, reload or stop everything."""


class Gunicorn:
    """A gunicorn that runs while the block does.

    Args:
        folder: For its log.
        args: What follows `gunicorn -k gevent`.
        env: Adds to the environment; None takes a variable out of it.
        workers: How many hosts are waited for.
    """

    def __init__(self, folder: Path, *args: str, env: dict[str, str | None] | None = None, workers: int = 3) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = folder / "gunicorn.log"
        self._args = args
        self._workers = workers
        settings: dict[str, str | None] = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))),
            "XDG_RUNTIME_DIR": str(folder),  # for gunicorn's control socket
            **(env or {}),
        }
        self._env = {name: value for name, value in settings.items() if value is not None}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{self.port}", *self._args]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=log, stderr=subprocess.STDOUT)
        self.master = psutil.Process(self._process.pid)
        try:
            until(lambda: self.started() >= self._workers or self._process.poll() is not None, START)
            assert self._process.poll() is None, self.log.read_text()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        family = self.master.children(recursive=True)
        try:
            self._process.terminate()
            assert self._process.wait(START) == 0, self.log.read_text()
            until(lambda: gone(family))
        finally:
            self._kill()
            if error is not None:
                sys.stderr.write(self.log.read_text())

    def _kill(self) -> None:
        if self._process.poll() is None:
            family = self.master.children(recursive=True)
            for process in (*family, self.master):
                process.kill()
            self._process.wait(START)

    def started(self) -> int:
        """How many hosts have started so far."""
        return len(re.findall("theatre_gevent: host ", self.log.read_text()))

    def workers(self) -> set[int]:
        """The process ids of the workers."""
        found = set()
        for child in self.master.children():
            with suppress(psutil.NoSuchProcess):  # it may end between the questions
                if child.status() != psutil.STATUS_ZOMBIE and "gunicorn" in child.cmdline():
                    found.add(child.pid)
        return found

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer to one request."""
        return Client(self.port).ask(method, path, body)


class Client:
    """One request, over a connection of its own.

    Attributes:
        local: The connection's port at this end, 0 before there is one.
    """

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.local = 0

    def ask(self, method: str, path: str, body: object = None) -> Any:
        connection = self._connection
        try:
            self.send(method, path, body)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise AssertionError(f"{method} {path}: {answer.status} {text[:300]!r}")
            return ujson.loads(text)
        finally:
            self.close()

    def send(self, method: str, path: str, body: object = None) -> None:
        """Send the request, and do not wait for the answer."""
        self._connection.connect()
        assert self._connection.sock is not None
        self.local = self._connection.sock.getsockname()[1]
        self._connection.request(method, path, ujson.dumps(body), {"Content-Type": "application/json"})

    def close(self) -> None:
        self._connection.close()


class Shoppers:
    """Put items into carts until they are told to stop, and write down what was acknowledged.

    Attributes:
        tried: Keys of the items that were sent, by cart.
        acknowledged: Keys of those whose answer came.
        failed: What went wrong, by the port of the connection.
        doors: Processes that answered for a cart, by cart.
    """

    def __init__(self, port: int, count: int, carts: int) -> None:
        self._port = port
        self.carts = [f"cart-{number}" for number in range(carts)]
        self.tried: dict[str, set[str]] = defaultdict(set)
        self.acknowledged: dict[str, set[str]] = defaultdict(set)
        self.failed: dict[int, Exception] = {}
        self._stopped = False
        self._greenlets = [gevent.spawn(self._shop, number) for number in range(count)]

    def _shop(self, number: int) -> None:
        turn = number
        while not self._stopped:
            turn += 1
            cart, key = self.carts[turn % len(self.carts)], f"{number}-{turn}"
            client = Client(self._port)
            self.tried[cart].add(key)
            try:
                client.ask("POST", f"/carts/{cart}/items", {"item": key, "key": key})
            except Exception as error:
                self.failed[client.local] = error
            else:
                self.acknowledged[cart].add(key)

    def done(self) -> int:
        """How many items were acknowledged."""
        return sum(map(len, self.acknowledged.values()))

    def stop(self) -> None:
        """Finish what was begun."""
        self._stopped = True
        gevent.joinall(self._greenlets, raise_error=True)


def kill_with_connections(worker: int) -> set[int]:
    """Kill a worker by -9; returns the ports of the clients whose connections it had at that moment."""
    os.kill(worker, signal.SIGSTOP)
    process = psutil.Process(worker)
    until(lambda: process.status() == psutil.STATUS_STOPPED)
    held = {end.raddr.port for end in psutil.net_connections("tcp") if end.pid == worker and end.raddr}
    process.kill()
    return held
