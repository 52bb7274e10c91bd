"""Hosts in processes of their own: started, started again when they end, and drained together."""

from __future__ import annotations

import logging
import os
import signal
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.fileobject import FileObject
from gevent.subprocess import PIPE, Popen

from theatre_gevent import logs
from theatre_gevent.channel import BadLine, Sender, receive
from theatre_gevent.clock import SystemClock
from theatre_gevent.config import HostOptions
from theatre_gevent.embedded import EmbeddedPostgres
from theatre_gevent.migration import migrate_schema
from theatre_gevent.processes import command, ending, environment

from .arguments import CHILD, EMBEDDED
from .errors import FAILED, INTERRUPTED, OK, TERMINATED, CommandError, UsageMistake
from .output import Output
from .target import split

if TYPE_CHECKING:
    from argparse import Namespace

log = logging.getLogger("theatre_gevent.run")

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds before a host is started again: the first time, and at most."""

STEADY = 60.0
"""Seconds without an end after which the next delay is the first one again."""

_SLACK = 20.0
_CONNECTIONS_PER_HOST = 20
_PUMP_TIMEOUT = 5.0


def delay(ends: int) -> float:
    """Return how many seconds to wait after so many ends in a row."""
    return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(ends - 1, 10)))


class Backoff:
    """How long to wait before a process that has ended is started again: longer each time, until one was steady."""

    def __init__(self) -> None:
        self._ends = 0

    def after(self, lasted: float) -> float:
        """Return how many seconds to wait after a process that ran for `lasted` seconds."""
        self._ends = 1 if lasted > STEADY else self._ends + 1
        return delay(self._ends)


def run(given: Namespace) -> int:
    """Run hosts until they are told to stop; return the exit code.

    Raises:
        CommandError: A host did not start, or the database can't be used.
    """
    split(given.target)
    hosts = plan(given)
    handler = logs.configure(format=given.log_format, level=given.log_level)
    with ExitStack() as at_end:
        at_end.callback(handler.flush)
        dsn = given.dsn
        if dsn == EMBEDDED:
            connections = max(200, _CONNECTIONS_PER_HOST * (given.hosts + 1))
            dsn = at_end.enter_context(EmbeddedPostgres(settings={"max_connections": connections})).dsn
        if dsn is not None:
            if not given.no_migrate:
                migrate_schema(dsn)
            for options in hosts.values():
                options["dsn"] = dsn
        output = Output(handler.writer, given.log_format)
        at_end.callback(output.flush)
        return Supervisor(given, hosts, output).run()


def plan(given: Namespace) -> dict[str, dict[str, Any]]:
    """Return the options of each host by its id.

    Raises:
        UsageMistake: There are not enough ports, two are to share one, or options contradict each other.
        InvalidOption: An option is out of range.
    """
    if given.host_id is not None and given.hosts > 1:
        raise UsageMistake(f"--host-id is for one host, and --hosts says {given.hosts}: give --name")
    if given.advertise is not None and (given.dsn is None or given.listen is None):
        raise UsageMistake("--advertise is for hosts on several machines, which need --dsn and --listen")
    names = [given.host_id or f"{given.name}-{number}" for number in range(1, given.hosts + 1)]
    clustered = given.hosts > 1 or given.dsn is not None or given.listen is not None
    hosts: dict[str, dict[str, Any]] = {}
    free = [] if given.listen or given.dsn or not clustered else free_ports(given.hosts)
    for index, name in enumerate(names):
        options: dict[str, Any] = dict(given.set)
        options.update(drain_timeout=given.drain_timeout, admin_token=given.admin_token)
        options["log_level"] = given.log_level
        if given.admin is not None:
            options["admin_addr"] = counted_up(given.admin, index)
        if clustered:
            listen = "127.0.0.1:0" if not free else f"127.0.0.1:{free[index]}"
            options["listen"] = counted_up(given.listen, index) if given.listen else listen
            options["secret"] = given.secret
            if given.advertise is not None:
                options["advertise"] = counted_up(given.advertise, index)
        if given.dsn is not None:
            options.update(dsn=given.dsn, lease_duration=given.lease_duration)
        hosts[name] = options
    if given.dsn is None and given.hosts > 1:
        for name, options in hosts.items():
            options["peers"] = {other: hosts[other]["listen"] for other in names if other != name}
            if given.listen is not None and given.listen.endswith(":0"):
                raise UsageMistake("without --dsn hosts can't find each other at ports that nobody knows: --listen")
    for options in hosts.values():
        HostOptions.from_mapping(options)
    if given.listen is not None and given.admin is not None:
        _refuse_shared_ports(given, hosts)
    return hosts


def _refuse_shared_ports(given: Namespace, hosts: dict[str, dict[str, Any]]) -> None:
    for name, options in hosts.items():
        for other, others in hosts.items():
            if same_port(options["listen"], others["admin_addr"]):
                raise UsageMistake(
                    f"--listen {given.listen} and --admin {given.admin} meet: {options['listen']} is for host {name} "
                    f"and {others['admin_addr']} for the admin server of host {other}"
                )


def same_port(one: str, another: str) -> bool:
    """Tell whether two `host:port` can't both be listened to."""
    hosts, ports = zip(*(address.rpartition(":")[::2] for address in (one, another)), strict=True)
    if int(ports[0]) != int(ports[1]) or int(ports[0]) == 0:
        return False
    names = {host.strip("[]").replace("localhost", "127.0.0.1") for host in hosts}
    if len(names) == 1 or "::" in names:  # which takes IPv4 as well
        return True
    return "0.0.0.0" in names and not any(":" in name for name in names)  # noqa: S104  # nosec B104 - a comparison


def counted_up(address: str, index: int) -> str:
    """Return the address `index` ports further up; port 0 is any free one.

    Raises:
        UsageMistake: There is no such port.
    """
    host, _, port = address.rpartition(":")
    number = int(port) + index if int(port) else 0
    if number > 65535:
        raise UsageMistake(f"there are not enough ports from {address} up")
    return f"{host}:{number}"


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody has right now."""
    with ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Supervisor:
    """Watches over the processes of all hosts.

    Args:
        given: The arguments.
        hosts: The options of each host by its id.
        output: Where what they print goes.
    """

    def __init__(self, given: Namespace, hosts: dict[str, dict[str, Any]], output: Output) -> None:
        self.given = given
        self.output = output
        self.stopping = Event()
        self.patience = 2 * given.drain_timeout + _SLACK
        self._code = OK
        self._error: CommandError | None = None
        self._hosts = [SupervisedHost(self, name, options) for name, options in hosts.items()]

    def run(self) -> int:
        """Start all, and return the exit code when all have ended.

        Raises:
            CommandError: A host did not come up the first time.
        """
        gevent.signal_handler(signal.SIGTERM, self._caught, signal.SIGTERM, TERMINATED)
        gevent.signal_handler(signal.SIGINT, self._caught, signal.SIGINT, INTERRUPTED)
        loops = [gevent.spawn(host.run) for host in self._hosts]
        last_resort = gevent.spawn(self._end_late_ones)
        gevent.joinall(loops, raise_error=True)
        last_resort.kill()
        if self._error is not None:
            raise self._error
        return self._code

    def fail(self, error: CommandError) -> None:
        """End all for the first reason that comes."""
        if self._error is None and not self.stopping.is_set():
            self._error = error
        self._stop()

    def drain_failed(self, host_id: str, code: int) -> None:
        """A host that was told to drain has ended otherwise."""
        if self._code not in (INTERRUPTED, TERMINATED):  # else it was killed, as asked
            log.error("host %s %s while it drained", host_id, ending(code), extra=logs.fields(host_id))
            self._code = FAILED

    def _caught(self, number: signal.Signals, code: int) -> None:
        if not self.stopping.is_set():
            log.info("%s: all hosts drain; once more ends them at once", number.name)
            self._stop()
            return
        self._code = code
        for host in self._hosts:
            host.signal(signal.SIGKILL)

    def _stop(self) -> None:
        self.stopping.set()
        for host in self._hosts:
            host.signal(signal.SIGTERM)

    def _end_late_ones(self) -> None:
        self.stopping.wait()
        SystemClock().sleep(self.patience)
        for host in self._hosts:
            if host.signal(signal.SIGKILL):
                log.error(
                    "host %s did not drain within %g s and is killed",
                    host.host_id,
                    self.patience,
                    extra=logs.fields(host.host_id),
                )
                self._code = FAILED


class SupervisedHost:
    """One host's process, and the next one when it ends.

    Args:
        supervisor: Of all.
        host_id: The host's id.
        options: The host's options.
    """

    def __init__(self, supervisor: Supervisor, host_id: str, options: dict[str, Any]) -> None:
        self.host_id = host_id
        self._supervisor = supervisor
        self._options = options
        self._process: Popen[bytes] | None = None
        self._failure: CommandError | None = None
        self._started = False  # the process that runs
        self._came_up = False  # any of them

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal, and tell whether there was somebody to send it to."""
        process = self._process
        if process is None or process.poll() is not None:
            return False
        process.send_signal(number)
        return True

    def run(self) -> None:
        """Run processes one after the other until there is a reason for no more."""
        stopping, clock, backoff = self._supervisor.stopping, SystemClock(), Backoff()
        while not stopping.is_set():
            begun = clock.monotonic()
            code = self._run_once()
            if stopping.is_set():
                if code != OK and self._started:
                    self._supervisor.drain_failed(self.host_id, code)
                return
            if code == OK and self._started:
                log.info(
                    "host %s has stopped in good order and is not started again",
                    self.host_id,
                    extra=logs.fields(self.host_id),
                )
                return
            if not self._came_up:
                why = self._failure or CommandError(f"host {self.host_id} {ending(code)} before it had started")
                self._supervisor.fail(why)
                return
            pause = backoff.after(clock.monotonic() - begun)
            why_again = ending(code) if self._failure is None else f"could not start: {self._failure}"
            log.warning(
                "host %s %s; it is started again in %g s",
                self.host_id,
                why_again,
                pause,
                extra=logs.fields(self.host_id),
            )
            stopping.wait(pause)

    def _run_once(self) -> int:
        """Run one process to its end; return its exit code."""
        self._failure, self._started = None, False
        try:
            reading, writing = os.pipe()
        except OSError as error:
            return self._not_started(error)
        try:
            process = self._process = Popen(
                command("theatre_gevent", CHILD, self.host_id),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=environment(),
                pass_fds=(writing,),
                start_new_session=True,  # Ctrl+C goes to the command alone, which ends all in good order
            )
        except OSError as error:
            os.close(reading)
            return self._not_started(error)
        finally:
            os.close(writing)
        if self._supervisor.stopping.is_set():  # the signal came meanwhile
            self.signal(signal.SIGTERM)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        given = self._supervisor.given
        with suppress(OSError):  # it has ended already
            Sender(process.stdin).send(
                {
                    "host_id": self.host_id,
                    "target": given.target,
                    "options": self._options,
                    "report": writing,
                    "patience": self._supervisor.patience,
                    "log_format": given.log_format,
                    "log_level": given.log_level,
                }
            )
        pumps: list[gevent.Greenlet[..., None]] = [
            gevent.spawn(self._listen, reading),
            gevent.spawn(self._supervisor.output.pass_on, process.stdout, self.host_id, is_log=False),
            gevent.spawn(self._supervisor.output.pass_on, process.stderr, self.host_id, is_log=True),
        ]
        code = int(process.wait())
        gevent.joinall(pumps, timeout=_PUMP_TIMEOUT)  # what it has started itself may hold the pipes
        gevent.killall(pumps)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):
                pipe.close()
        return code

    def _not_started(self, error: OSError) -> int:
        """The machine has no process, memory or descriptor left for another host: perhaps later."""
        self._failure = CommandError(f"host {self.host_id} can't be started: {error.strerror or error}")
        return FAILED

    def _listen(self, reading: int) -> None:
        """Hear whether the host has started."""
        with FileObject(reading, "rb") as report, suppress(BadLine, OSError):
            for message in receive(report):
                if "failed" in message:
                    self._failure = CommandError(message["failed"], message["code"])
                    continue
                self._started = self._came_up = True
                where = f" at {message['address']}" if message["address"] else ""
                admin = f", admin server at http://{message['admin']}/" if message["admin"] else ""
                log.info("host %s has started%s%s", self.host_id, where, admin, extra=logs.fields(self.host_id))
