"""The load test of go-theatre, the Go original, beside ours: one after the other on the same machine, several times.

It needs the original's program, made from its repository with `go build ./cmd/loadtest`. Both take the same flags.
The original counts a send when it has been accepted, ours when it has been handled; its hosts share one process, ours
have one each.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from report import Parser, machine, positive, seconds, table

LOADTEST = Path(__file__).resolve().parents[1] / "loadtest.py"
ROWS = {
    "small, one host": ("-profile", "small", "-hosts", "1"),
    "small, two hosts, local": ("-profile", "small", "-hosts", "2", "-mode", "local"),
    "small, three hosts": ("-profile", "small", "-hosts", "3"),
    "medium, three hosts": ("-profile", "medium", "-hosts", "3"),
    "large, three hosts": ("-profile", "large", "-hosts", "3"),
    "massive, one host": ("-profile", "massive", "-hosts", "1"),
    "massive, three hosts": ("-profile", "massive", "-hosts", "3"),
}
FIGURES = {
    "ops_per_second": r"Aggregate RPS: +(\d+)",
    "reply_errors": r"Reply errors: +(\d+)",
    "inits": r"Actor inits: +(\d+)",
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Return what a command did.

    Raises:
        SystemExit: It took far too long.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"{' '.join(command)} did not end within 10 minutes")


def original(program: Path, flags: tuple[str, ...]) -> dict[str, Any]:
    """Return the figures that the original prints.

    Raises:
        SystemExit: It failed, or printed others.
    """
    done = run(str(program), *flags)
    found = {name: re.search(pattern, done.stdout) for name, pattern in FIGURES.items()}
    missing = [name for name, match in found.items() if match is None]
    if done.returncode or missing:
        told = (done.stderr or done.stdout).strip().splitlines()[-1:]
        sys.exit(f"{program} {' '.join(flags)}: exit code {done.returncode}, without {missing}: {' '.join(told)}")
    return {name: int(match.group(1)) for name, match in found.items() if match is not None}


def ours(flags: tuple[str, ...]) -> dict[str, Any]:
    """Return the result of our load test.

    Raises:
        SystemExit: It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        done = run(sys.executable, str(LOADTEST), *flags, "-json", str(file))
        if done.returncode:
            sys.exit(f"loadtest.py {' '.join(flags)} failed: {done.stderr.strip()[-500:]}")
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return result


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
    build = ""
    lines = []
    for row in args.only or ROWS:
        lasts = args.massive if row.startswith("massive") else args.seconds
        flags = (*ROWS[row], "-duration", f"{lasts:g}s")
        theirs, mine = [], []
        for _ in range(args.runs):
            theirs.append(original(args.program.resolve(), flags))
            mine.append(ours(flags))
        build = mine[0]["build"]
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
    head = [
        "load test, ops/s",
        "go-theatre",
        f"ours, {build}",
        "ratio",
        "its activations",
        "ours",
        "its errors",
        "ours ",
    ]
    print(table(head, lines))


if __name__ == "__main__":
    main()
