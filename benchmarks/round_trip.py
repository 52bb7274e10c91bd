"""A local request to an idle actor, in raw greenlet switch pairs: the least that any request could cost.

Both are measured in the same greenlet, a batch of the one and a batch of the other in turns. The partner of the raw
switches was started from the hub, as an actor's worker is: where a greenlet starts on the stack decides how much of
it a switch has to copy.
"""

from __future__ import annotations

from theatre_gevent import monkey

monkey.patch_all()

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import gevent
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet

from report import Parser, machine, positive, table, versions
from theatre_gevent import Context, Host, Ref


def answer(ctx: Context) -> None:
    ctx.reply(ctx.message)


def make_partner() -> Callable[[], object]:
    """Return a function that switches to another greenlet, which switches straight back."""
    hub, me = get_hub(), getcurrent()

    def body() -> None:
        hub.switch()
        back = me.switch
        while True:
            back()

    partner = greenlet(body, hub)
    hub.loop.run_callback(partner.switch)
    gevent.sleep(0)
    return partner.switch


def measure(host: Host, ref: Ref, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Return the seconds of one request and of one switch pair, for each repetition."""
    switch, request = make_partner(), host.request
    requests, pairs = [], []
    for repetition in range(args.repetitions + 1):
        begin = perf_counter()
        for _ in range(args.pairs):
            switch()
        pair = (perf_counter() - begin) / args.pairs
        gevent.sleep(0)  # whatever the hub had to do is done before the next batch, not in it
        begin = perf_counter()
        for _ in range(args.requests):
            request(ref, 1)
        one = (perf_counter() - begin) / args.requests
        gevent.sleep(0)
        if repetition:  # the first one is for warming up
            pairs.append(pair)
            requests.append(one)
    return requests, pairs


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=positive, default=50_000, help="requests in a batch (default: %(default)s)")
    parser.add_argument("--pairs", type=positive, default=200_000, help="pairs in a batch (default: %(default)s)")
    parser.add_argument("--repetitions", type=positive, default=15, help="batches of each (default: %(default)s)")
    args = parser.parse_args()

    with Host(idle_timeout=86400) as host:
        host.register_actor("answer", answer)
        ref = Ref("answer", "1")
        host.spawn_local(ref)
        requests, pairs = gevent.spawn(measure, host, ref, args).get()
    print(machine())
    print(versions("theatre_gevent", "gevent", "greenlet"))
    print(f"{args.repetitions} batches of {args.requests:,} requests and of {args.pairs:,} switch pairs, in turns\n")
    ratios = [one / pair for one, pair in zip(requests, pairs, strict=True)]
    rows = [
        [name, *(f"{1e6 * choose(found):.3f}" for choose in (median, min, max)), f"{1 / median(found):,.0f}"]
        for name, found in (("request round trip", requests), ("raw switch pair", pairs))
    ]
    rows.append(["ratio", *(f"{choose(ratios):.2f}" for choose in (median, min, max)), ""])
    print(table(["", "us, median", "min", "max", "a second"], rows))


if __name__ == "__main__":
    main()
