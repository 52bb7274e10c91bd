"""Three hosts in a cluster, echo actors, and room to play. Ends with Ctrl+C.

    playground.py                        all three in this process, in a cluster without a database
    playground.py -dsn DSN               the same with Postgres; DSN is a connection string
    playground.py -dsn embedded          the same with a private Postgres, which is removed at the end
    playground.py [-dsn DSN] a|b|c       one of the three: start each in a terminal of its own

Stop one to see what the others make of it: with Postgres its actors move to them.
"""

from theatre_gevent import monkey

monkey.patch_all()

import signal
import socket
import sys
from contextlib import ExitStack

import gevent
from gevent.event import Event

from theatre_gevent import Context, Host, Initialize, Ref, TheatreError, migrate_schema
from theatre_gevent.embedded import EmbeddedPostgres

ADDRESSES = {"a": "127.0.0.1:7001", "b": "127.0.0.1:7002", "c": "127.0.0.1:7003"}

ADMIN_PORTS = {"a": 9090, "b": 9091, "c": 9092}

ACTORS = [Ref("echo", name) for name in ("ann", "bob", "cleo", "eve", "gus", "joe")]

LEASE = 6
"""Seconds after which the actors of a host that was killed come alive elsewhere; the default is 20."""

TRY_NEXT = """
What to try next:
  - open one of the dashboards above: it shows all three hosts
  - in three terminals: python examples/playground.py {dsn}a, then b, then c; each asks all actors every two seconds
  - {fate}; start it again, and it is back
  - Host(listen=..., {members}, secret="...") keeps strangers out; README.md has all options
Running until Ctrl+C."""

USAGE = f"usage: playground.py [-dsn DSN | -dsn embedded] [{' | '.join(ADDRESSES)}]"


class Echo:
    """Each actor lives on one host only, the one that the ring gives its ref to."""

    def __init__(self, host_id: str) -> None:
        self.host_id = host_id
        self.heard = 0
        self.reason = ""

    def receive(self, ctx: Context) -> None:
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


def new_host(name: str, listen: str, dsn: str | None) -> Host:
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
    host.start()
    print(f"host {name} has its dashboard at http://{host.admin_address}/", flush=True)
    return host


def all_in_one(dsn: str | None) -> list[Host]:
    hosts = [new_host(name, "127.0.0.1:0", dsn) for name in ADDRESSES]
    members = {host.host_id: str(host.address) for host in hosts}
    for host in hosts:
        if dsn is None:  # else they find each other in the database
            host.set_peers(members)
    while any(host.metrics.snapshot()["peers_up"] < len(hosts) - 1 for host in hosts):
        gevent.sleep(0.01)
    first = hosts[0]
    print(f"hosts {', '.join(f'{name} at {address}' for name, address in members.items())}")
    for ref in ACTORS:
        print(f"a asks {ref}: {first.request(ref, 'hello')}")
    for ref in ACTORS:
        for host in hosts:  # what one host sends to an actor arrives in the order sent, so the ping is counted
            host.send(ref, "ping")
            heard = host.request(ref, "count")
        print(f"{ref} was pinged by all hosts and heard {heard} pings")
    for host in hosts:
        counts = host.metrics.snapshot()
        print(
            f"host {host.host_id}: {counts['actors_active']} actors, {counts['messages_received']} messages handled, "
            f"{counts['messages_forwarded']} forwarded to other hosts"
        )
    if dsn is not None:
        leaver = hosts.pop()
        leaver.stop()
        print(f"host {leaver.host_id} has stopped")
        for ref in ACTORS:
            print(f"a asks {ref} again: {first.request(ref, 'hello')} ({first.request(ref, 'reason')})")
    return hosts


def one(name: str, dsn: str | None, stopped: Event) -> list[Host]:
    host = new_host(name, ADDRESSES[name], dsn)
    if dsn is None:
        host.set_peers({peer: address for peer, address in ADDRESSES.items() if peer != name})
    print(f"host {name} at {host.address}")

    def ask(ref: Ref) -> str:
        try:
            return str(host.request(ref, f"hello from {name}"))
        except TheatreError as error:
            return f"{ref}: {type(error).__name__}: {error}"

    def ask_all() -> None:
        while not stopped.wait(2):
            for ref in ACTORS:
                print(ask(ref), flush=True)

    gevent.spawn(ask_all)
    return [host]


def main() -> None:
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, stopped.set)
    match sys.argv[1:]:
        case ["-dsn", given, *names]:
            dsn: str | None = given
        case names:
            dsn = None
    if len(names) > 1 or not set(names) <= set(ADDRESSES) or (names and dsn == "embedded"):
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    with ExitStack() as at_end:
        try:
            shown = "DSN"  # a given one may hold a password that matters
            if dsn == "embedded":
                shown = dsn = at_end.enter_context(EmbeddedPostgres()).dsn
            if dsn is not None:
                migrate_schema(dsn)
            hosts = one(names[0], dsn, stopped) if names else all_in_one(dsn)
        except TheatreError as error:
            sys.exit(f"playground.py: {error}")
        if dsn is None:
            fate = "Ctrl+C or kill -9 one of them: its actors can't be reached, all others go on"
            print(TRY_NEXT.format(dsn="", fate=fate, members="peers=..."), flush=True)
        else:
            fate = f"Ctrl+C one of them: the others have its actors at once; kill -9 one: after {LEASE} seconds"
            print(TRY_NEXT.format(dsn=f"-dsn {shown} ", fate=fate, members="dsn=..."), flush=True)
        stopped.wait()
        gevent.joinall([gevent.spawn(host.stop) for host in hosts])
    print("stopped")


if __name__ == "__main__":
    main()
