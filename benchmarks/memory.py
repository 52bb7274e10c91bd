"""Memory of an idle actor: what a million of them add to the resident memory of the process.

The receiver has no state at all (`__slots__ = ()`), so what is measured is ours: the ref with its id string, the
activation, their entries in the host's tables, and what the allocator rounds up. The receiver object itself is
counted apart. Nobody but the host keeps the refs, and every actor has handled Initialize and one message.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import gc
import sys

import gevent
import psutil

from report import Parser, machine, positive, table, versions
from theatre_gevent import Context, Host, Ref


class Stateless:
    __slots__ = ()

    def receive(self, ctx: Context) -> None:
        pass


def resident() -> int:
    """Resident memory of this process in bytes, after a garbage collection."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def activate(host: Host, prefix: str, number: int) -> None:
    """Bring actors to life and wait until all of them are idle."""
    for index in range(number):
        host.send(Ref("idle", f"{prefix}{index}"), None)
    with gevent.Timeout(120):
        while host.metrics.snapshot()["messages_queued"]:
            gevent.sleep(0.01)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--actors", type=positive, default=1_000_000, help="number of actors (default: %(default)s)")
    args = parser.parse_args()

    host = Host(idle_timeout=86400).start()
    host.register_actor("idle", Stateless)
    # Whatever a host allocates once, its workers and inboxes among it, is there before the measurement begins.
    activate(host, "warm-up-", 10_000)
    before = resident()
    activate(host, "", args.actors)
    gained = resident() - before
    alive = host.metrics.snapshot()["actors_active"] - 10_000
    if alive != args.actors:
        sys.exit(f"{alive} actors are alive, not {args.actors}")
    receiver = sys.getsizeof(Stateless())
    print(machine())
    print(versions("theatre_gevent", "gevent", "greenlet"))
    print(f"{alive:,} idle actors\n")
    rows = [
        ["all of it", f"{gained / 1e6:,.0f} MB", f"{gained / alive:,.0f}"],
        ["the receiver object", f"{receiver * alive / 1e6:,.0f} MB", f"{receiver:,.0f}"],
        [
            "beyond the receiver",
            f"{(gained - receiver * alive) / 1e6:,.0f} MB",
            f"{gained / alive - receiver:,.0f}",
        ],
    ]
    print(table(["resident memory", "total", "bytes per actor"], rows))
    # The host is not stopped: a million Shutdowns are not what is measured here.


if __name__ == "__main__":
    main()
