"""Three hosts in a cluster, echo actors, and room to play, until Ctrl+C. Stop one to see what the others make of it."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import ExitStack

import gevent
from gevent.event import Event

from theatre_gevent import Context, Host, Initialize, Ref, SystemClock, TheatreError, logs, migrate_schema
from theatre_gevent.embedded import EmbeddedPostgres

from .errors import OK, TERMINATED, UsageMistake

ADDRESSES = {"a": "127.0.0.1:7001", "b": "127.0.0.1:7002", "c": "127.0.0.1:7003"}

ADMIN_PORTS = {"a": 9090, "b": 9091, "c": 9092}

ACTORS = [Ref("echo", name) for name in ("ann", "bob", "cleo", "eve", "gus", "joe")]

LEASE = 6
"""Seconds after which the actors of a host that was killed come alive elsewhere; the default is 20."""

TRY_NEXT = """
What to try next:
  - open one of the dashboards above: it shows all three hosts
  - in three terminals: {command} {dsn}a, then b, then c; each asks all actors every two seconds
  - {fate}; start it again, and it is back
  - Host(listen=..., {members}, secret="...") keeps strangers out; README.md has all options
Running until Ctrl+C."""


class Echo:
    """Each actor lives on one host only, the one that the ring gives its ref to."""

    def __init__(self, host_id: str) -> None:
        self.host_id = host_id
        self.heard = 0
        self.reason = ""

    def receive(self, ctx: Context) -> None:
        """Count pings, and answer texts."""
        match ctx.message:
            case Initialize(reason=reason):
                self.reason = reason.name
            case "ping":
                self.heard += 1
            case "count":
                ctx.reply(self.heard)
            case "reason":
                ctx.reply(self.reason)
            case str() as text:
                ctx.reply(f"{text}, from {ctx.actor_ref} on host {self.host_id}")


def free_port(port: int) -> int:
    """Return `port`, or 0 for any other if somebody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def new_host(name: str, listen: str, dsn: str | None, hosts: list[Host]) -> Host:
    """Start one of the hosts, with an admin server, and put it into `hosts`."""
    patience = 2 if dsn is None else 2 * LEASE
    host = Host(
        host_id=name,
        listen=listen,
        request_timeout=patience,
        dsn=dsn,
        lease_duration=LEASE,
        poll_interval=1,
        admin_addr=f"127.0.0.1:{free_port(ADMIN_PORTS[name])}",
    )
    host.register_actor("echo", lambda: Echo(name))
    hosts.append(host)  # before it starts, which may be interrupted
    host.start()
    _say(f"host {name} has its dashboard at http://{host.admin_address}/")
    return host


def all_in_one(dsn: str | None, hosts: list[Host]) -> None:
    """Start all three, put them into `hosts`, and let them answer each other."""
    for name in ADDRESSES:
        new_host(name, "127.0.0.1:0", dsn, hosts)
    members = {host.host_id: str(host.address) for host in hosts}
    for host in hosts:
        if dsn is None:  # else they find each other in the database
            host.set_peers(members)
    clock = SystemClock()
    while any(host.metrics.snapshot()["peers_up"] < len(hosts) - 1 for host in hosts):
        clock.sleep(0.01)
    first = hosts[0]
    _say(f"hosts {', '.join(f'{name} at {address}' for name, address in members.items())}")
    for ref in ACTORS:
        _say(f"a asks {ref}: {first.request(ref, 'hello')}")
    for ref in ACTORS:
        for host in hosts:  # what one host sends to an actor arrives in the order sent, so the ping is counted
            host.send(ref, "ping")
            heard = host.request(ref, "count")
        _say(f"{ref} was pinged by all hosts and heard {heard} pings")
    for host in hosts:
        counts = host.metrics.snapshot()
        _say(
            f"host {host.host_id}: {counts['actors_active']} actors, {counts['messages_received']} messages handled, "
            f"{counts['messages_forwarded']} forwarded to other hosts"
        )
    if dsn is not None:
        leaver = hosts.pop()
        leaver.stop()
        _say(f"host {leaver.host_id} has stopped")
        for ref in ACTORS:
            _say(f"a asks {ref} again: {first.request(ref, 'hello')} ({first.request(ref, 'reason')})")


def one(name: str, dsn: str | None, hosts: list[Host], stopped: Event) -> None:
    """Start one, put it into `hosts`, and have it ask all actors every two seconds."""
    host = new_host(name, ADDRESSES[name], dsn, hosts)
    if dsn is None:
        host.set_peers({peer: address for peer, address in ADDRESSES.items() if peer != name})
    _say(f"host {name} at {host.address}")

    def ask(ref: Ref) -> str:
        try:
            return str(host.request(ref, f"hello from {name}"))
        except TheatreError as error:
            return f"{ref}: {type(error).__name__}: {error}"

    def ask_all() -> None:
        while not stopped.wait(2):
            for ref in ACTORS:
                _say(ask(ref))

    gevent.spawn(ask_all)


class _Interruption:
    """What Ctrl+C and SIGTERM do: interrupt the main greenlet while it brings everything up, then tell it to stop.

    Attributes:
        is_over: Everything is up.
    """

    def __init__(self, stopped: Event) -> None:
        self._stopped = stopped
        self._main = gevent.getcurrent()
        self.is_over = False
        gevent.signal_handler(signal.SIGINT, self._come, KeyboardInterrupt())
        gevent.signal_handler(signal.SIGTERM, self._come, SystemExit(TERMINATED))

    def _come(self, way_out: BaseException) -> None:
        if not self.is_over and not self._stopped.is_set():
            gevent.kill(self._main, way_out)
        self._stopped.set()


def play(name: str | None, dsn: str | None, command: str, flag: str) -> int:
    """Play until Ctrl+C or SIGTERM; return the exit code.

    Args:
        name: One of the three hosts, None for all of them in this process.
        dsn: Connection string of a database, `embedded` for a private one, None for none.
        command: What people type to get here, for the advice.
        flag: Its option for the database.

    Raises:
        UsageMistake: Processes can't share a private database.
        TheatreError: The database can't be used, or a port is taken.
    """
    if name is not None and dsn == "embedded":
        raise UsageMistake(
            "a private database serves one process: give its connection string to hosts that are started apart"
        )
    logs.configure(level="WARNING")
    stopped = Event()
    hosts: list[Host] = []
    interruption = _Interruption(stopped)
    with ExitStack() as at_end:
        shown = "DSN"  # a given one may hold a password that matters
        if dsn == "embedded":
            shown = dsn = at_end.enter_context(EmbeddedPostgres()).dsn
        if dsn is not None:
            migrate_schema(dsn)
        at_end.callback(lambda: gevent.joinall([gevent.spawn(host.stop) for host in hosts]))
        if name is None:
            all_in_one(dsn, hosts)
        else:
            one(name, dsn, hosts, stopped)
        interruption.is_over = True
        if dsn is None:
            fate = "Ctrl+C or kill -9 one of them: its actors can't be reached, all others go on"
            _say(TRY_NEXT.format(command=command, dsn="", fate=fate, members="peers=..."))
        else:
            fate = f"Ctrl+C one of them: the others have its actors at once; kill -9 one: after {LEASE} seconds"
            _say(TRY_NEXT.format(command=command, dsn=f"{flag} {shown} ", fate=fate, members="dsn=..."))
        stopped.wait()
    _say("stopped")
    return OK


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
