"""Three hosts in a cluster without a database, each in a terminal of its own, until Ctrl+C.

    python examples/three_hosts.py a
    python examples/three_hosts.py b
    python examples/three_hosts.py c

Every second each host greets the same six actors and prints what they say. Each actor is on one host only, the same for
all of them, and counts the greetings of all. What to try: start them in any order, stop one and start it again. Its
actors are gone meanwhile, the others go on. (`playground.py -dsn ...` has a database: there they move to other hosts.)
"""

from theatre_gevent import monkey

monkey.patch_all()

import argparse
import signal
import sys
from typing import NoReturn

import gevent
from gevent.event import Event

from theatre_gevent import Context, Host, Ref, TheatreError

HOSTS = ("a", "b", "c")
GREETED = [Ref("greeter", name) for name in ("ann", "bob", "cleo", "eve", "gus", "joe")]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"three_hosts.py: {message}; see --help\n")


def port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65000):
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65000, got {text!r}")
    return int(text)


class Greeter:
    def __init__(self, host_id: str) -> None:
        self.host_id = host_id
        self.heard = 0

    def receive(self, ctx: Context) -> None:
        match ctx.message:
            case ("hello", name):
                self.heard += 1
                ctx.reply(f"{ctx.actor_ref} on host {self.host_id} to {name}: hello, you are number {self.heard}")


def greet(host: Host, ref: Ref) -> str:
    try:
        return str(host.request(ref, ("hello", host.host_id)))
    except TheatreError as error:  # its host is not there, or not yet
        return f"{ref} does not answer: {type(error).__name__}"


def main() -> None:
    parser = Parser(description="One of three hosts. Start each in a terminal of its own; Ctrl+C ends it.")
    parser.add_argument("name", choices=HOSTS, metavar="a|b|c", help="which one")
    parser.add_argument(
        "--base-port", type=port, default=7001, metavar="PORT",
        help="the hosts listen at PORT, PORT+1 and PORT+2, their admin servers at PORT+10 and so on; default 7001",
    )  # fmt: skip
    given = parser.parse_args()
    addresses = {name: f"127.0.0.1:{given.base_port + number}" for number, name in enumerate(HOSTS)}
    stopping = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, stopping.set)
    host = Host(
        host_id=given.name,
        listen=addresses[given.name],
        peers={name: address for name, address in addresses.items() if name != given.name},
        admin_addr=f"127.0.0.1:{given.base_port + 10 + HOSTS.index(given.name)}",
        request_timeout=2,
    )
    host.register_actor("greeter", lambda: Greeter(given.name))
    try:
        with host:
            print(f"host {given.name} at {host.address}, dashboard at http://{host.admin_address}/", flush=True)
            while not stopping.wait(1):
                for ref in GREETED:
                    if not stopping.is_set():
                        print(greet(host, ref), flush=True)
    except TheatreError as error:  # the port is taken, say
        sys.exit(f"three_hosts.py: {error}")
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
