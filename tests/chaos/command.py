"""The command line of `python -m tests.chaos`."""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import gevent
import msgspec
from gevent import subprocess
from gevent.pool import Pool

from tests.chaos.plan import FAULTS
from tests.chaos.plants import PLANTS
from tests.chaos.runner import Outcome, Run, Settings

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
_TOLD = 10
"""Violations of a run that are printed at most."""
TRIES = 3
"""Seeds for each planted bug before it counts as missed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; returns the exit code."""
    given = _parse(arguments)
    # As on SIGINT: whoever started something ends it on the way out.
    ending = gevent.signal_handler(signal.SIGTERM, sys.exit, 128 + signal.SIGTERM)
    try:
        return _run(given)
    finally:
        ending.cancel()


def _run(given: argparse.Namespace) -> int:
    if given.planted:
        return _planted(given)
    if given.seeds is not None:
        return _many(given)
    settings = Settings(
        seed=given.seed,
        minutes=given.minutes,
        hosts=given.hosts,
        faults=given.faults,
        keep=given.keep,
        plant=given.plant,
    )
    run = Run(settings, _say)
    _say(f"seed {settings.seed}, {settings.minutes:g} minutes, hosts {' '.join(run.names)}, {len(run.plan)} faults:")
    for step in run.plan:
        _say(f"  {step}")
    outcome = run.run()
    for violation in outcome.violations[:_TOLD]:
        _say(f"VIOLATION {violation}")
    if outcome.violations:
        _say(f"replay with: {_replay(settings)}")
    if outcome.folder:
        _say(f"witness file and logs: {outcome.folder}")
    if given.json:
        Path(given.json).write_bytes(msgspec.json.encode(outcome))
    _say(outcome.line())
    return 1 if outcome.violations else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Exit code 0: no violations; 1: some.")
    parser.add_argument("--seed", type=int, default=1, help="decides the plan (default: 1)")
    parser.add_argument("--minutes", type=_minutes, default=1.0, help="how long faults happen (default: 1)")
    parser.add_argument("--hosts", type=int, default=0, choices=(3, 4, 5), help="default: the seed decides")
    parser.add_argument(
        "--faults", type=_faults, default=tuple(FAULTS), metavar="A,B", help=f"of {', '.join(FAULTS)} (default: all)"
    )
    parser.add_argument("--keep", metavar="DIR", help="leave the witness file and the hosts' logs there")
    parser.add_argument("--plant", choices=tuple(PLANTS), default="", help="run a library with this bug")
    parser.add_argument("--json", metavar="FILE", help="write what came of it to this file as well")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--seeds", type=_seeds, metavar="A..B,C", help="run all these seeds, each as its own process")
    parser.add_argument("--parallel", type=int, default=1, choices=range(1, 65), metavar="P", help="so many at a time")
    parser.add_argument("--report", metavar="FILE", help="write a table of the seeds, in Markdown")
    many.add_argument("--planted", action="store_true", help="run each planted bug: fails unless each is found")
    given = parser.parse_args(arguments)
    if given.plant and (given.planted or given.seeds is not None):
        parser.error("--plant is for one run: neither --seeds nor --planted goes with it")
    return given


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1440:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1440, got {text}")
    return value


def _faults(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; allowed: {', '.join(FAULTS)}")
    return names


def _seeds(text: str) -> tuple[int, ...]:
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dots, last = part.partition("..")
        if not dots:
            last = first
        if not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
            raise argparse.ArgumentTypeError(f"must be numbers and A..B with A up to B, such as 1..9,23, got {text!r}")
        seeds.update(dict.fromkeys(range(int(first), int(last) + 1)))
    return tuple(seeds)


def _replay(settings: Settings) -> str:
    words = ["python", "-m", "tests.chaos", "--seed", settings.seed, "--minutes", f"{settings.minutes:g}"]
    words += ["--hosts", len(settings.names())]
    if settings.faults != tuple(FAULTS):
        words += ["--faults", ",".join(settings.faults)]
    if settings.plant:
        words += ["--plant", settings.plant]
    return shlex.join(map(str, words))


def _say(text: str) -> None:
    print(text, flush=True)


# -- many ------------------------------------------------------------------------------------------------------------


def _child(words: Sequence[object], result: Path, log: Path) -> Outcome | None:
    """Run one in a process of its own; returns what came of it, None if it broke."""
    command = [sys.executable, "-m", "tests.chaos", *map(str, words), "--json", str(result)]
    result.unlink(missing_ok=True)
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT) as child,
    ):
        try:
            child.wait()
        finally:
            if child.poll() is None:
                child.terminate()  # it ends its hosts and its PostgreSQL, which is waited for
    return msgspec.json.decode(result.read_bytes(), type=Outcome) if result.exists() else None


def _each(function: Callable[[T], None], of: Iterable[T], parallel: int) -> None:
    """Call the function with each, so many at a time; whatever ends this ends what is still going on."""
    pool = Pool(parallel)
    try:
        for one in of:
            pool.spawn(function, one)
        pool.join()
    finally:
        pool.kill()


def _many(given: argparse.Namespace) -> int:
    folder = Path(given.keep or "chaos-runs").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: dict[int, Outcome | None] = {}
    common = ["--minutes", f"{given.minutes:g}", "--faults", ",".join(given.faults)]
    if given.hosts:
        common += ["--hosts", str(given.hosts)]

    def one(seed: int) -> None:
        log = folder / f"seed-{seed}.log"
        words = ["--seed", seed, *common] + (["--keep", folder] if given.keep else [])
        outcomes[seed] = None  # whatever comes
        outcome = outcomes[seed] = _child(words, folder / f"seed-{seed}.json", log)
        _say(outcome.line() if outcome else f"seed {seed}: the run broke, see {log}")
        if outcome is None or outcome.violations:
            _say(f"  see {log}")
        elif not given.keep:
            log.unlink()
        if given.report:
            Path(given.report).write_text(_table(outcomes))

    _each(one, given.seeds, given.parallel)
    bad = [seed for seed, outcome in sorted(outcomes.items()) if outcome is None or outcome.violations]
    fine = [outcome for outcome in outcomes.values() if outcome is not None]
    faults = sum(sum(outcome.faults.values()) for outcome in fine)
    sent, outside = sum(o.sent for o in fine), sum(o.outside for o in fine)
    _say(
        f"{len(outcomes)} seeds: {sum(o.events for o in fine)} events, {faults} faults, "
        f"{sent} messages sent, {outside} of them with no fault on their way, "
        f"{sum(o.lost for o in fine)} lost to faults, {sum(o.late for o in fine)} late, "
        f"{sum(len(o.violations) for o in fine)} violations, {len(outcomes) - len(fine)} broken"
        + (f"; see seeds {', '.join(map(str, bad))}" if bad else "")
    )
    return 1 if bad else 0


def _table(outcomes: dict[int, Outcome | None]) -> str:
    lines = [
        "| seed | events | faults | messages sent | with no fault on their way | lost to faults | late | violations "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, outcome in sorted(outcomes.items()):
        if outcome is None:
            lines.append(f"| {seed} | - | - | - | - | - | - | the run broke | - |")
        else:
            cells = (
                seed,
                outcome.events,
                sum(outcome.faults.values()),
                outcome.sent,
                outcome.outside,
                outcome.lost,
                outcome.late,
                len(outcome.violations),
                f"{outcome.seconds:.0f}",
            )
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _planted(given: argparse.Namespace) -> int:
    """Run each planted bug, and see whether what it breaks is found."""
    folder = Path(given.keep or "chaos-runs").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # A fault has to come just when the bug can show, which no run is certain of.
    seeds = range(given.seed, given.seed + TRIES)
    found: set[str] = set()

    def one(name: str) -> None:
        if any(_finds(name, seed, folder, given.keep is not None) for seed in seeds):
            found.add(name)

    _each(one, PLANTS, given.parallel)
    missed = [name for name in PLANTS if name not in found]
    _say(f"{len(PLANTS)} planted bugs, {len(found)} found" + (f"; not found: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


def _finds(name: str, seed: int, folder: Path, keep: bool) -> bool:
    """Tell whether a run with a planted bug finds what that breaks; if not, what it has left stays in the folder."""
    plant = PLANTS[name]
    run = folder / f"plant-{name}-{seed}"
    result, log = run.with_suffix(".json"), run.with_suffix(".log")
    words = ["--seed", seed, "--minutes", plant.minutes, "--hosts", 3, "--plant", name]
    words += ["--faults", ",".join(plant.faults), "--keep", run]
    outcome = _child(words, result, log)
    found = [] if outcome is None else [each for each in outcome.violations if each.invariant == plant.invariant]
    if not found:
        others = sorted({each.invariant for each in outcome.violations}) if outcome else "the run broke"
        _say(f"{name}: not found with seed {seed}; {others}; see {log} and {run}")
        return False
    _say(
        f"{name}: found with seed {seed} in {outcome.seconds if outcome else 0:.0f} s, {len(found)} violations of "
        f"{plant.invariant!r}, for example\n  {found[0]}"
    )
    shutil.rmtree(run)
    if not keep:
        result.unlink()
        log.unlink()
    return True
