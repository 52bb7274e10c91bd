"""What a message costs with few actors and with many: the same mix, in turns, each run in a process of its own.

All actors are alive before the clock starts, so that the cost of activation is not in it. What is left are the
processor's caches, where a random one of a million actors hardly ever is, and that messages for few actors often share
a turn.
"""

from __future__ import annotations

from statistics import median

from report import Parser, machine, percent, positive, run_child, seconds, table, versions


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=positive, default=1000, help="number of actors (default: %(default)s)")
    parser.add_argument("--many", type=positive, default=1_000_000, help="number of actors (default: %(default)s)")
    parser.add_argument("--workers", type=positive, default=10, help="greenlets at work (default: %(default)s)")
    parser.add_argument("--sendpct", type=percent, default=70, help="share of sends in percent (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=5.0, help="length of one run (default: %(default)s)")
    parser.add_argument("--runs", type=positive, default=3, help="runs of each, alternating (default: %(default)s)")
    args = parser.parse_args()

    print(machine())
    print(versions("theatre_gevent", "gevent", "greenlet"))
    print(f"{args.workers} workers, {args.sendpct} % sends, {args.runs} runs of {args.seconds:g} s each\n")
    costs: dict[int, list[float]] = {args.few: [], args.many: []}
    for run in range(args.runs):
        for actors in costs:
            flags = {"actors": actors, "workers": args.workers, "sendpct": args.sendpct, "seconds": args.seconds}
            arguments = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
            result = run_child("mix.py", *arguments, "--seed", str(run + 1))
            costs[actors].append(1e6 * result["elapsed"] / result["operations"])
    base = median(costs[args.few])
    rows = [
        [
            f"{actors:,} actors",
            f"{median(found):.2f}",
            f"{min(found):.2f}",
            f"{max(found):.2f}",
            f"{median(found) / base:.2f} x",
        ]
        for actors, found in costs.items()
    ]
    print(table(["", "us per message, median", "min", "max", "ratio"], rows))


if __name__ == "__main__":
    main()
