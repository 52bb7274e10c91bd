"""The load test of go-theatre, the Go original, beside ours: one after the other on the same machine, several times.

It needs the original's program, made from its repository with `go build ./cmd/loadtest`. Both take the same flags.
For the rows with Postgres each run of either has a new embedded server, with the same settings.
The original counts a send when it has been accepted, ours when it has been handled; its hosts share one process, ours
have one each.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import theatre_gevent
from parts import LOADS
from report import Parser, machine, positive, seconds, table
from suite import LIMIT, Failed, Figures, Run
from theatre_gevent.loadtest.database import private_server

ROWS = (
    "small",
    "small, 2 hosts, local",
    "small, 3 hosts",
    "medium, 3 hosts",
    "large, 3 hosts",
    "massive",
    "massive, 3 hosts",
    "small, 3 hosts, Postgres",
    "medium, 3 hosts, Postgres",
    "large, 3 hosts, Postgres",
)
"""Those of the suite's rows that are compared."""
FIGURES = {
    "ops_per_second": r"Aggregate RPS: +(\d+)",
    "reply_errors": r"Reply errors: +(\d+)",
    "inits": r"Actor inits: +(\d+)",
}


def original(program: Path, *flags: str) -> dict[str, Any]:
    """Return the figures that the original prints. A `-dsn embedded` becomes that of a new server.

    Raises:
        Failed: It took too long, or failed, or printed others.
    """
    told = f"{program} {' '.join(flags)}"
    given = list(flags)
    with ExitStack() as at_end:
        if "-dsn" in given:
            server = at_end.enter_context(private_server(int(given[given.index("-hosts") + 1])))
            given[given.index("-dsn") + 1] = f"{server.dsn}?sslmode=disable"
        try:
            done = subprocess.run([program, *given], capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise Failed(f"{told}: not done within {LIMIT:g} s") from None
    found = {name: re.search(pattern, done.stdout) for name, pattern in FIGURES.items()}
    missing = [name for name, match in found.items() if match is None]
    if done.returncode or missing:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Failed(f"{told}: exit code {done.returncode}, without {missing}: {' '.join(last)}")
    return {name: int(match.group(1)) for name, match in found.items() if match is not None}


def main() -> None:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("program", type=Path, help="the original's load test")
    parser.add_argument("--runs", type=positive, default=5, help="of each (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=8.0, help="for each run (default: %(default)s)")
    parser.add_argument("--massive", type=seconds, default=20.0, help="the same with a million actors")
    parser.add_argument("--only", choices=ROWS, nargs="+", metavar="ROW", help=f"of {', '.join(map(repr, ROWS))}")
    args = parser.parse_args()
    if not args.program.is_file():
        parser.error(f"there is no program {str(args.program)!r}")
    print(f"{machine()}\n")
    ours = Run(Figures(), "original", theatre_gevent.build, quick=False)
    lines = []
    for row in args.only or ROWS:
        lasts = args.massive if row.startswith("massive") else args.seconds
        flags = [*LOADS[row], "-duration", f"{lasts:g}s"]
        theirs, mine = [], []
        try:
            for _ in range(args.runs):
                theirs.append(original(args.program.resolve(), *flags))
                mine.append(ours.loadtest(*flags))
        except Failed as error:
            sys.exit(str(error))
        print(f"{row}: done", file=sys.stderr)
        first, second = ([one["ops_per_second"] for one in found] for found in (theirs, mine))
        lines.append(
            [
                row,
                f"{median(first):,.0f} ({min(first):,.0f} to {max(first):,.0f})",
                f"{median(second):,.0f} ({min(second):,.0f} to {max(second):,.0f})",
                f"{median(second) / median(first):.2f}",
                *(f"{max(one['inits'] for one in found):,}" for found in (theirs, mine)),
                *(str(sum(one["reply_errors"] for one in found)) for found in (theirs, mine)),
            ]
        )
    head = ["load test, ops/s", "go-theatre", f"ours, {ours.build}", "ratio"]
    head += ["its activations", "our activations", "its errors", "our errors"]
    print(table(head, lines))


if __name__ == "__main__":
    main()
