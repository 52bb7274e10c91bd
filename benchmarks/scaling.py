"""What a message costs with few actors and with many: the same mix, in turns, each run in a process of its own.

All actors are alive before the clock starts, so that the cost of activation is not in it. What is left are the
processor's caches, where a random one of a million actors hardly ever is, and that messages for few actors often share
a turn. Where huge pages are to be had (`theatre_gevent.memory`), both numbers of actors are measured in those as well.
"""

from __future__ import annotations

from statistics import median

from report import Parser, machine, percent, positive, run_child, seconds, table, versions
from theatre_gevent.memory import are_huge_pages_available

PAGES = {"usual pages": (), "huge pages": ("--huge-pages",)}


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
    pages = [name for name, flags in PAGES.items() if not flags or are_huge_pages_available()]
    costs: dict[tuple[str, int], list[float]] = {(name, n): [] for name in pages for n in (args.few, args.many)}
    for run in range(args.runs):
        for (name, actors), found in costs.items():
            flags = {"actors": actors, "workers": args.workers, "sendpct": args.sendpct, "seconds": args.seconds}
            arguments = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
            result = run_child("mix.py", *arguments, *PAGES[name], "--seed", str(run + 1))
            found.append(1e6 * result["elapsed"] / result["operations"])
    rows = [
        [
            f"{actors:,} actors, {name}",
            f"{median(found):.2f}",
            f"{min(found):.2f}",
            f"{max(found):.2f}",
            f"{median(found) / median(costs[name, args.few]):.2f} x",
        ]
        for (name, actors), found in costs.items()
    ]
    print(table(["", "us per message, median", "min", "max", "ratio"], rows))


if __name__ == "__main__":
    main()
