"""All benchmarks with one command: one table and plots. Set up with `pip install -e '.[bench]'`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parts import PARTS
from plots import draw
from report import Parser, machine, table, versions
from suite import Failed, Figures, Run, builds, one_table


def main() -> int:
    """Run the parts that were asked for; return the exit code."""
    parser = Parser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="see in minutes that all works; the figures mean nothing")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--build", choices=["compiled", "pure"], help="one build only; by default both, where they are")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("benchmark-results"), metavar="DIR", help="for results"
    )
    parser.add_argument("--list", action="store_true", help="say what there is")
    args = parser.parse_args()
    if args.list:
        print(table(["part", "about"], [[name, part.about] for name, part in PARTS.items()]))
        return 0
    there = builds()
    if args.build and args.build not in there:
        parser.error(f"there is no {args.build} build here, only {' and '.join(there)}")
    chosen = [args.build] if args.build else there
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot write to {args.output}: {error.strerror}")

    figures, times = Figures(), []
    for name in args.only or PARTS:
        for build in chosen if PARTS[name].both else chosen[:1]:
            began = time.perf_counter()
            try:
                PARTS[name].body(Run(figures, name, build, args.quick))
            except Failed as error:
                figures.failures.append(f"{name}, {build}: {error}")
                print(f"{name}, {build}: FAILED: {error}", file=sys.stderr, flush=True)
            times.append([name, build, f"{time.perf_counter() - began:.0f} s"])
    text = results(figures, chosen, times, draw(figures, args.output), quick=args.quick)
    (args.output / "results.md").write_text(text, encoding="utf-8")
    (args.output / "results.json").write_text(json.dumps(vars(figures), indent=1) + "\n", encoding="utf-8")
    print("\n" + text)
    return 1 if figures.failures else 0


def results(figures: Figures, columns: list[str], times: list[list[str]], plots: list[str], *, quick: bool) -> str:
    """Return everything as Markdown."""
    parts = [
        "# Results of the benchmarks",
        f"{machine()}; {versions('theatre_gevent', 'gevent', 'greenlet', 'msgspec')}; "
        f"builds: {', '.join(columns)}; {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
    ]
    if quick:
        parts.append("Made with --quick: it shows that everything works, the figures mean nothing.")
    rows = one_table(figures, columns)
    if rows:
        parts.append(table(["part", "what", *columns], rows))
    parts += [f"![{name.removesuffix('.svg')}]({name})" for name in plots]
    if figures.failures:
        parts.append("Failed:\n\n" + "\n".join(f"- {failure}" for failure in figures.failures))
    parts.append(table(["part", "build", "took"], times))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
