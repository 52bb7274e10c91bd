"""A rate limiter: a token bucket for each client, which is an actor and therefore needs no lock and no cleaning up.

Prints:

    ann, 5 at once: yes, yes, yes, no, no
    bob has a bucket of his own: yes
    ann, 2 s later: no, wait 2 s
    ann, 4 s later: yes, no
    buckets in memory: 2
    an hour later: 0
    ann, back again: yes, yes, yes, no
"""

from theatre_gevent import monkey

monkey.patch_all()

from theatre_gevent import Clock, Context, Host, Ref
from theatre_gevent.testing import VirtualClock

CAPACITY = 3
REFILL = 4.0
"""Seconds until a token comes back."""


class Bucket:
    """Lets `CAPACITY` requests through at once, and one every `REFILL` seconds in the long run."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.tokens = float(CAPACITY)
        self.counted_at = clock.monotonic()  # never wall time, which may be set back

    def receive(self, ctx: Context) -> None:
        if ctx.message == "may I?":
            now = self.clock.monotonic()
            self.tokens = min(CAPACITY, self.tokens + (now - self.counted_at) / REFILL)
            self.counted_at = now
            if self.tokens >= 1:
                self.tokens -= 1
                ctx.reply(0.0)
            else:
                ctx.reply((1 - self.tokens) * REFILL)  # seconds to wait


def ask(host: Host, client: str, times: int) -> str:
    waits = [host.request(Ref("bucket", client), "may I?") for _ in range(times)]
    return ", ".join("no" if wait else "yes" for wait in waits)


# A clock that is moved by hand, so that the output is always the same. In production: clock = SystemClock().
clock = VirtualClock()

# A bucket that is removed is as good as a full one, if it is idle for at least as long as it takes to fill.
with Host(clock=clock, idle_timeout=CAPACITY * REFILL) as host:
    host.register_actor("bucket", lambda: Bucket(clock))
    print("ann, 5 at once:", ask(host, "ann", 5))
    print("bob has a bucket of his own:", ask(host, "bob", 1))
    clock.advance(2)
    print(f"ann, 2 s later: no, wait {host.request(Ref('bucket', 'ann'), 'may I?'):.0f} s")
    clock.advance(4)
    print("ann, 4 s later:", ask(host, "ann", 2))
    print("buckets in memory:", host.metrics.snapshot()["actors_active"])
    clock.advance(3600)
    print("an hour later:", host.metrics.snapshot()["actors_active"])
    print("ann, back again:", ask(host, "ann", 4))
