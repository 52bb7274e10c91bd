"""Our standalone host and other frameworks on the same mix, in turns, each run in a process of its own.

1 000 actors, 10 workers, a random actor for every operation, 70 % sends (tells) and 30 % requests (asks). Only what
has been handled counts: the clock runs until all inboxes are empty. Others than ours run where they are installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from statistics import median

from report import Parser, machine, percent, positive, run_child, seconds, table, versions

PEERS = {"theatre_gevent": "mix.py", "pykka": "mix_pykka.py", "xoscar": "mix_xoscar.py"}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--actors", type=positive, default=1000, help="number of actors (default: %(default)s)")
    parser.add_argument("--workers", type=positive, default=10, help="greenlets or threads (default: %(default)s)")
    parser.add_argument("--sendpct", type=percent, default=70, help="share of sends in percent (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=5.0, help="length of one run (default: %(default)s)")
    parser.add_argument("--runs", type=positive, default=3, help="runs of each, alternating (default: %(default)s)")
    args = parser.parse_args()

    there = [name for name in PEERS if find_spec(name)]
    others = [name for name in there if name != "theatre_gevent"]
    print(machine())
    print(versions("theatre_gevent", "gevent", "greenlet", *others))
    print(
        f"{args.actors} actors, {args.workers} workers, {args.sendpct} % sends and {100 - args.sendpct} % requests, "
        f"{args.runs} runs of {args.seconds:g} s each\n"
    )
    rates: dict[str, list[float]] = {name: [] for name in there}
    for run in range(args.runs):
        for name in there:
            flags = {"actors": args.actors, "workers": args.workers, "sendpct": args.sendpct, "seconds": args.seconds}
            arguments = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
            result = run_child(PEERS[name], *arguments, "--seed", str(run + 1))
            rates[name].append(result["ops_per_second"])
    ours = median(rates["theatre_gevent"])
    rows = [
        [name, f"{median(found):,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}", f"{ours / median(found):.1f} x"]
        for name, found in rates.items()
    ]
    rows += [[name, "not installed", "", "", ""] for name in PEERS if name not in there]
    print(table(["", "ops/s, median", "min", "max", "ours is"], rows))


if __name__ == "__main__":
    main()
