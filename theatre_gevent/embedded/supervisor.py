"""Runs one PostgreSQL server for as long as the program that wants it lives. A program of its own.

    python -I -S supervisor.py PARENT < one end of a socket pair

Its standard input is a socket to the program that started it, whose process id is PARENT. The first line it reads
says what to run; then it carries out orders, one JSON value a line, and answers each, with its number, since not
everybody waits for the answer. When the socket ends, or the parent is another process, whoever wanted the server is
gone, by whatever signal: it kills the server, removes the directory and ends. A parent-death signal set by the server
itself would be lost when it changes its user, and goes by threads.

It needs nothing but the standard library and is ready in 20 ms. It waits with `select`, for the socket's end as well.
It is one file, since it is run apart from the package, which would take ten times as long to import.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LOOK = 0.5
"""Seconds between two looks at whether the parent still lives, for sockets that other processes hold open."""

STEP = 0.01
"""Seconds between two looks at what the server does."""

BLINK = 0.001
"""Seconds between two looks at whether processes have stopped."""

BLINKS = 1000
"""Looks after which the others are stopped as well: one that waits for a disk obeys SIGSTOP later."""

OLDEST_VERSION = 13
BIND_ATTEMPTS = 10
FAST_STOP_TIMEOUT = 20.0
NOBODY = 65534
PORTS = range(20_000, 32_000)  # below those that systems give to outgoing connections, which a restart would meet

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class ParentGone(Exception):
    """Nobody wants the server any more."""


class Failed(Exception):
    """An order can't be carried out; the message says why."""


class PortTaken(Failed):
    """Another program was quicker."""


class Control:
    """The socket to the parent.

    Args:
        sock: Connected; a whole line at a time comes and goes.
        parent: Its process id.
    """

    def __init__(self, sock: socket.socket, parent: int) -> None:
        self._sock = sock
        self._parent = parent
        self._unread = b""

    def receive(self) -> dict[str, Any]:
        """Wait for an order.

        Raises:
            ParentGone: None will come.
        """
        while b"\n" not in self._unread:
            if self._readable(LOOK):
                self._unread += self._recv()
        line, self._unread = self._unread.split(b"\n", 1)
        order: dict[str, Any] = json.loads(line)
        return order

    def send(self, answer: dict[str, Any]) -> None:
        """Answer an order."""
        try:
            self._sock.sendall(json.dumps(answer).encode() + b"\n")
        except OSError as error:
            raise ParentGone from error

    def pause(self) -> None:
        """Wait a moment, while an order is being carried out.

        Raises:
            ParentGone: It need not be carried out any more.
        """
        if self._readable(STEP):
            self._unread += self._recv()  # the next order; were it left there, nothing would be waited for any more

    def _readable(self, seconds: float) -> bool:
        readable, _, _ = select.select([self._sock], [], [], seconds)
        if not readable and os.getppid() != self._parent:
            raise ParentGone
        return bool(readable)

    def _recv(self) -> bytes:
        try:
            data = self._sock.recv(65536)
        except OSError as error:
            raise ParentGone from error
        if not data:
            raise ParentGone
        return data


class Server:
    """One PostgreSQL server and its directory.

    Args:
        control: To the parent.
        given: What the parent wants: see `EmbeddedPostgres`.
    """

    def __init__(self, control: Control, given: dict[str, Any]) -> None:
        self._control = control
        self._given = given
        self._directory = Path(given["directory"])
        self._data = self._directory / "data"
        self._log = self._directory / "log"
        self._identity = _identity()
        self._bin = Path()
        self._port = 0
        self._postgres: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []

    # -- orders ----------------------------------------------------------------------------------------------

    def start(self) -> dict[str, Any]:
        """Make the directory, fill it, and start the server on a free port."""
        self._directory.mkdir(mode=0o700)
        if self._identity:
            self._directory.chmod(0o711)  # for the server's user to reach what is his
        version = self._initialize()
        for attempt in range(BIND_ATTEMPTS):
            self._port = _free_port()
            try:
                self._launch()
                break
            except PortTaken:
                if attempt == BIND_ATTEMPTS - 1:
                    raise
        return {"port": self._port, "version": version, "bin": str(self._bin)}

    def shutdown(self) -> None:
        """Stop the server as an administrator would: clients are disconnected, nothing is lost."""
        self.resume()
        if self._postgres is not None:
            self._postgres.send_signal(signal.SIGINT)
            try:
                self._postgres.wait(FAST_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()
            self._postgres = None

    def restart(self) -> None:
        """Stop the server if it runs, and start it with the same data on the same port."""
        self.shutdown()
        self._launch()

    def kill(self) -> None:
        """Kill all processes of the server, as a crash would."""
        segment = self._segment()
        for pid in self._stopped_tree():
            _signal(pid, signal.SIGKILL)
        if self._postgres is not None:
            self._postgres.wait()
            self._postgres = None
        self._frozen = []
        _reap()
        if segment is not None:  # the kernel keeps it for ever otherwise
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).shmctl(segment, 0, None)

    def pause(self) -> None:
        """Stop all processes of the server where they are: nobody is answered, no connection is closed."""
        self._frozen = self._stopped_tree()

    def resume(self) -> None:
        """Let paused processes go on."""
        for pid in reversed(self._frozen):
            _signal(pid, signal.SIGCONT)
        self._frozen = []

    def remove(self) -> None:
        """Kill the server and remove its directory."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    # -- programs and data -------------------------------------------------------------------------------------

    def _initialize(self) -> str:
        """Make the database cluster with the first programs that can, and return their version."""
        refused: list[str] = []
        for number, candidate in enumerate(self._given["candidates"]):
            try:
                return self._initialize_with(candidate, self._directory / f"programs-{number}")
            except (OSError, Failed) as error:  # noqa: PERF203 - one or two rounds
                refused.append(f"{candidate['bin']} ({candidate['found']}): {error}")
                shutil.rmtree(self._data, ignore_errors=True)
        raise Failed(f"no usable PostgreSQL programs: {'; '.join(refused)}")

    def _initialize_with(self, candidate: dict[str, Any], copy: Path) -> str:
        self._bin = Path(candidate["bin"])
        try:
            version = self._version()
        except (OSError, Failed):
            if not self._identity or not candidate["trees"]:
                raise
            self._bin = self._copy(candidate, copy)
            version = self._version()
        self._initdb()
        return version

    def _version(self) -> str:
        """Return the version, of programs that the server's user can run."""
        output = self._run("postgres", "--version")
        version = re.search(r"(\d+)\S*", output)
        if version is None or int(version[1]) < OLDEST_VERSION:
            raise Failed(f"PostgreSQL {OLDEST_VERSION} or newer is needed, this is {output!r}")
        return version[0]

    def _copy(self, candidate: dict[str, Any], to: Path) -> Path:
        """Copy programs to where the server's user can run them; return their folder."""
        moved = Path(candidate["bin"])
        for source, name in candidate["trees"]:
            shutil.copytree(source, to / name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
            if moved.is_relative_to(source):
                moved = to / name / moved.relative_to(source)
        for path in (to, *to.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        return moved

    def _initdb(self) -> None:
        password = self._directory / "password"
        self._data.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(self._given["password"])
        if self._identity:
            for path in (self._data, password):
                os.chown(path, self._identity["user"], self._identity["group"])
        try:
            self._run(
                "initdb",
                *("-D", str(self._data), "-U", self._given["user"], "--pwfile", str(password), "-A", "scram-sha-256"),
                *("-E", "UTF8", "--no-locale", "--no-sync"),
            )
        finally:
            password.unlink()
        with (self._data / "postgresql.conf").open("a") as file:
            for name, value in self._given["settings"].items():
                quoted = str(value).replace("\\", "\\\\").replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def _run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end and return what it wrote."""
        output = self._directory / f"{program}.out"
        with output.open("wb") as file:
            process = self._popen(program, *arguments, output=file)
        try:
            while process.poll() is None:
                self._control.pause()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        text = output.read_text(errors="replace").strip()
        if process.returncode:
            last = text.splitlines()[-1] if text else "it wrote nothing"
            raise Failed(f"{program} ended with {process.returncode}: {last}")
        return text

    def _popen(self, program: str, *arguments: str, output: Any) -> subprocess.Popen[bytes]:
        keep = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.Popen(  # noqa: S603 - the program was looked for by us  # nosec B603  # as said
            [str(self._bin / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**keep, "LC_ALL": "C"},
            # After the change of the user, which would clear it; and this process has one thread.
            preexec_fn=_die_with_supervisor,
            start_new_session=True,
            **self._identity,
        )

    # -- processes -----------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Start the server and wait until it lets clients in."""
        start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._postgres = self._popen("postgres", "-D", str(self._data), "-p", str(self._port), output=log)
        while self._status() != "ready":
            if self._postgres.poll() is not None:
                self._postgres = None
                text = self._log.read_bytes()[start:].decode(errors="replace").strip()
                reason = " | ".join(text.splitlines()[-5:]) or "it wrote nothing"
                kind = (
                    PortTaken if "could not bind" in text or "could not create any TCP/IP sockets" in text else Failed
                )
                raise kind(f"PostgreSQL did not start on port {self._port}: {reason}")
            self._control.pause()

    def _pid_file(self) -> list[str]:
        """Return the lines of what the server tells about itself; see "postmaster.pid" in its manual."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []
        mine = self._postgres is not None and lines[:1] == [str(self._postgres.pid)]
        return lines if mine else []  # else it was left by a server that was killed

    def _status(self) -> str:
        lines = self._pid_file()
        return lines[7].strip() if len(lines) > 7 else ""

    def _segment(self) -> int | None:
        """Return the id of the server's System V shared memory, by which it sees that no other one uses its data."""
        lines = self._pid_file()
        words = lines[6].split() if len(lines) > 6 else []
        return int(words[1]) if len(words) == 2 else None

    def _stopped_tree(self) -> list[int]:
        """Stop all processes of the server, parents before their children, so that none is missed; return their ids."""
        todo = [] if self._postgres is None else [self._postgres.pid]
        stopped: list[int] = []
        while todo:
            for pid in todo:
                _signal(pid, signal.SIGSTOP)
            stopped += todo
            # What lost its parent was handed to this process.
            parents = {os.getpid(), *stopped}
            todo = [each.pid for each in _halted(todo) if each.parent in parents and each.pid not in stopped]
        return stopped


class Process(NamedTuple):
    """One that there is; its state as `ps` shows it, a letter."""

    pid: int
    parent: int
    state: str


def _halted(pids: list[int]) -> list[Process]:
    """Return all processes, as soon as none of `pids` runs any more: until then it may make another child."""
    listed: list[Process] = []
    for _ in range(BLINKS):
        listed = list(_proc() if Path("/proc/self/stat").exists() else _ps())
        if all(each.state in "TtZX" for each in listed if each.pid in pids):
            break
        select.select([], [], [], BLINK)
    return listed


def _identity() -> dict[str, Any]:
    """Return who runs the server: PostgreSQL refuses to be run by root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_supervisor() -> None:
    """Let the server end should this process be killed: then nothing else would end it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _free_port() -> int:
    for port in random.sample(PORTS, 200):  # nosec B311  # where to look first for a free port
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failed(f"no free port from {PORTS.start} to {PORTS.stop - 1} on 127.0.0.1")


def _proc() -> Iterator[Process]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                # The name before the last bracket may hold anything; state and parent come after it.
                state, parent = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                yield Process(int(path.name), int(parent), state)


def _ps() -> Iterator[Process]:
    command = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listing:  # noqa: S603  # nosec B603  # a fixed command
        assert listing.stdout is not None
        for line in listing.stdout:
            pid, parent, state = line.split()
            if int(pid) != listing.pid:
                yield Process(int(pid), int(parent), state[0])
    if listing.returncode:
        raise Failed(f"ps ended with exit code {listing.returncode}")


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap() -> None:
    """Wait for killed processes that were handed to this one when their parent ended.

    A server started while one of them still holds the old one's memory would refuse the data.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _leave(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def _ignore(numbers: Iterable[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Carry out orders until the parent says `stop` or is gone."""
    endings = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in endings:
        signal.signal(number, _leave)
    os.umask(0o077)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = Control(socket.socket(fileno=0), int(sys.argv[1]))
    try:
        given = control.receive()
    except ParentGone:
        return
    server = Server(control, given)
    orders: dict[str, Callable[[], dict[str, Any] | None]] = {
        name: getattr(server, name) for name in ("start", "shutdown", "restart", "kill", "pause", "resume")
    }
    try:
        while (order := control.receive())["do"] != "stop":
            try:
                answer: dict[str, Any] = {"done": orders[order["do"]]()}
            except (Failed, OSError) as error:
                answer = {"failed": str(error)}
            control.send({**answer, "number": order["number"]})
    except ParentGone:
        pass
    finally:
        _ignore(endings)
        server.remove()


if __name__ == "__main__":
    main()
