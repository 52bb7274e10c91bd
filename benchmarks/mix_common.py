"""What the children of `peers.py` share, so that each framework does the same: flags, the actor, the last line."""

from __future__ import annotations

import json
from typing import Any

from report import Parser, percent, positive, seconds

BATCH = 64
"""Operations between two looks at the clock, so that looking costs little."""


class Echo:
    """Counts what it gets, answers a ping, and says how much that was: goes before a framework's own actor class."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def receive(self, message: Any) -> Any:
        self.count += 1
        if message == "ping":
            return "pong"
        return self.count if message == "count" else None


def mix_parser(about: str, workers: str, sends: str) -> Parser:
    """Return the parser of a child; workers and sends go by the framework's names for them."""
    parser = Parser(description=about)
    parser.add_argument("--actors", type=positive, default=1000, help="number of actors (default: %(default)s)")
    parser.add_argument("--workers", type=positive, default=10, help=f"{workers} at work (default: %(default)s)")
    parser.add_argument(
        "--sendpct", type=percent, default=70, help=f"share of {sends} in percent (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=seconds, default=5.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices (default: %(default)s)")
    return parser


def tell(operations: int, elapsed: float) -> None:
    """Print the last line, from which `peers.py` reads what came of it."""
    print(json.dumps({"operations": operations, "elapsed": elapsed, "ops_per_second": operations / elapsed}))
