"""Which bad things happen when: decided by a number alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

LEASE = 3.0
"""Seconds."""
HANG = 0.3, 4.5
"""Seconds that a receiver hangs, at least and at most."""

FAULTS = {
    "kill": "a host is killed (-9) and comes back",
    "pause": "a host is stopped where it is (SIGSTOP) for half a lease to two",
    "restart": "a host stops in good order and comes back",
    "pg-restart": "PostgreSQL is restarted",
    "pg-cut": "a host's connections to PostgreSQL are reset, and new ones too",
    "pg-drop": "a host's connections to PostgreSQL are closed, once",
    "pg-hole": "nothing passes between a host and PostgreSQL, and nothing is closed",
    "pg-slow": "what a host says to PostgreSQL takes longer",
    "link-cut": "connections from one host to another are reset, and new ones too",
    "link-drop": "connections from one host to another are closed, once",
    "link-hole": "nothing passes from one host to another, nor back over the same connection",
    "link-slow": "what one host says to another takes longer",
    "ring": "a host believes for a while that it is alone, and wants every actor",
    "clock": "the wall clock of a host is set, and set back later",
    "burst": "a host's process computes for longer than its lease and lets nobody run",
    "raise": "some messages have their receivers raise",
    "hang": "some messages have their receivers hang, for less or for more than a lease and a request's timeout",
}
"""The faults, and what each is."""


class Step(NamedTuple):
    """One fault.

    Attributes:
        at: When it begins, in seconds since the beginning.
        fault: One of `FAULTS`.
        host: To whom.
        other: For `link-...`, to whom its connection leads.
        seconds: How long, or by how much.
        hang: How long each of the receivers hangs, for `hang`.
    """

    at: float
    fault: str
    host: str
    other: str
    seconds: float
    hang: float = 0.0

    def __str__(self) -> str:
        way = f" to {self.other}" if self.other else ""
        host = f" {self.host}" if self.host else ""
        hang = f", {self.hang:.2f} each" if self.hang else ""
        return f"{self.at:6.2f} {self.fault}{host}{way} {self.seconds:.2f}{hang}"


def make_plan(seed: int, seconds: float, hosts: Sequence[str], faults: Sequence[str]) -> list[Step]:
    """Return the faults of a run, the first one first; each kind comes before any comes again."""
    dice = random.Random(seed)
    steps: list[Step] = []
    left: list[str] = []
    at = 0.5
    while at < seconds:
        if not left:
            left = sorted(faults)
            dice.shuffle(left)
        fault = left.pop()
        host = "" if fault == "pg-restart" else dice.choice(hosts)
        other = dice.choice([name for name in hosts if name != host]) if fault.startswith("link-") else ""
        # By dice of its own: so a seed that has found something keeps its plan.
        hang = round(random.Random(f"{seed}/{len(steps)}").uniform(*HANG), 2) if fault == "hang" else 0.0
        steps.append(Step(at, fault, host, other, round(_how_long(fault, dice), 2), hang))
        at = round(at + dice.uniform(0.4, 2.2), 2)
    return steps


def _how_long(fault: str, dice: random.Random) -> float:
    if fault == "burst":
        return dice.uniform(1.1, 1.6) * LEASE
    if fault in ("pause", "ring"):
        return dice.uniform(0.5, 2.0) * LEASE
    if fault == "clock":
        return dice.choice([-1, 1]) * dice.choice([1.0, 60.0, 86400.0])
    if fault.startswith("pg-"):
        return dice.uniform(0.3, 1.7) * LEASE
    return dice.uniform(0.2, 1.2) * LEASE
