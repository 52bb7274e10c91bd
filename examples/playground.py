"""Three hosts in a cluster without a database, echo actors, and room to play. Ends with Ctrl+C.

Without arguments all three live in this process. With the name of one of them, `a`, `b` or `c`, it is just that
one: start each in a terminal of its own, and stop one to see what the others make of it.
"""

from theatre_gevent import monkey

monkey.patch_all()

import signal
import sys

import gevent
from gevent.event import Event

from theatre_gevent import Context, Host, Ref, TheatreError

ADDRESSES = {"a": "127.0.0.1:7001", "b": "127.0.0.1:7002", "c": "127.0.0.1:7003"}

ACTORS = [Ref("echo", name) for name in ("ann", "bob", "cleo", "eve", "gus", "joe")]

TRY_NEXT = """
What to try next:
  - in three terminals: python examples/playground.py a, then b, then c; each asks all actors every two seconds
  - Ctrl+C or kill -9 one of them: its actors can't be reached, all others go on; start it again, and it is back
  - Host(listen=..., peers=..., secret="...") keeps strangers out; README.md has all options
Running until Ctrl+C."""


class Echo:
    """Each actor lives on one host only, the one that the ring gives its ref to."""

    def __init__(self, host_id: str) -> None:
        self.host_id = host_id
        self.heard = 0

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case "ping":
                self.heard += 1
            case "count":
                ctx.reply(self.heard)
            case str() as text:
                ctx.reply(f"{text}, from {ctx.actor_ref} on host {self.host_id}")


def new_host(name: str, listen: str) -> Host:
    host = Host(host_id=name, listen=listen, request_timeout=2)
    host.register_actor("echo", lambda: Echo(name))
    return host.start()


def all_in_one() -> list[Host]:
    hosts = [new_host(name, "127.0.0.1:0") for name in ADDRESSES]
    members = {host.host_id: str(host.address) for host in hosts}
    for host in hosts:
        host.set_peers(members)
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
    return hosts


def one(name: str, stopped: Event) -> list[Host]:
    host = new_host(name, ADDRESSES[name])
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
        case []:
            hosts = all_in_one()
        case [name] if name in ADDRESSES:
            hosts = one(name, stopped)
        case _:
            sys.exit(f"usage: playground.py [{' | '.join(ADDRESSES)}]")
    print(TRY_NEXT, flush=True)
    stopped.wait()
    gevent.joinall([gevent.spawn(host.stop) for host in hosts])
    print("stopped")


if __name__ == "__main__":
    main()
