"""What runs in the containers of compose.yaml and of ../kubernetes: counters, and on each host a visitor of them all.

`theatre run counters:setup` calls `setup` with the host before it starts, and afterwards what that returns.
"""

import logging

import gevent

from theatre_gevent import Context, Host, Ref, TheatreError

log = logging.getLogger("counters")

COUNTERS = [Ref("counter", name) for name in ("ann", "bob", "cleo", "eve", "gus", "joe")]


class Counter:
    """Lives on one host at a time, and begins again at 0 on the next one: it keeps nothing in a database."""

    def __init__(self, host_id: str) -> None:
        self.host_id = host_id
        self.visits = 0

    def receive(self, ctx: Context) -> None:
        if ctx.message == "visit":
            self.visits += 1
            ctx.reply((self.host_id, self.visits))


def setup(host: Host) -> object:
    host.register_actor("counter", lambda: Counter(host.host_id))
    return visit


def visit(host: Host) -> None:
    while True:
        for ref in COUNTERS:
            if host.state in ("draining", "stopped"):
                return
            visit_one(host, ref)
        gevent.sleep(2)


def visit_one(host: Host, ref: Ref) -> None:
    try:
        where, number = host.request(ref, "visit")
    except TheatreError as error:  # its host died a moment ago, say: after the lease it comes alive elsewhere
        log.warning("%s: %s: %s", ref, type(error).__name__, error)
    else:
        log.info("%s on host %s: visit number %d", ref, where, number)
