"""The command: options in, exit code out."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import gevent

from theatre_gevent import build, logs
from theatre_gevent.errors import TheatreError

from .console import Console, fill_gaps
from .database import Database, require_programs
from .files import Unwritable
from .options import HelpWanted, UsageError, parse
from .profiling import MissingPackage, require, require_for_cpu_profile
from .stop import Stop

if TYPE_CHECKING:
    from .options import LoadOptions

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes beside 0. 130 and 143 are what a shell reports of a program that Ctrl+C or SIGTERM ended."""


def main(argv: list[str] | None = None) -> int:
    """Run the load test and return the exit code.

    Args:
        argv: The arguments after the program's name, by default the process' own.
    """
    fill_gaps()
    console = Console()
    code = _main(sys.argv[1:] if argv is None else argv, console)
    if code == 0 and console.lost is not None:
        console.complain(f"stdout can't be written: {console.lost}")
        return FAILED
    return code


def _main(argv: list[str], console: Console) -> int:
    try:
        options = parse(argv)
        require("psutil")
        require_programs(options.dsn)
        if options.cpuprofile is not None:
            require_for_cpu_profile(options.cpuprofile)
    except HelpWanted as help_wanted:
        console.say(str(help_wanted))
        return 0
    except (UsageError, MissingPackage) as error:
        console.complain(str(error))
        return USAGE
    logs.configure(level="WARNING")
    stop = Stop()
    _listen(stop, console)
    try:
        with Database(options.dsn, options.hosts) as database:
            return _measure(replace(options, dsn=database.dsn), database, stop, console)
    except TheatreError as error:
        console.complain(f"the database: {error}")
        return FAILED


def _measure(options: LoadOptions, database: Database, stop: Stop, console: Console) -> int:
    from . import report  # these need the optional packages that were just looked for
    from .run import Watcher, run

    say = console.say
    say(report.banner(options, build, database.name) + "\n")
    watcher = Watcher(
        progress=lambda samples, rss: say(report.progress_line(samples, rss)),
        warmed=lambda warmth: say(report.warm_line(warmth)),
        stopping=lambda: say("stopping"),
        serving=lambda addresses: say(report.admin_line(addresses)),
    )
    outcome = run(options, stop, watcher)
    result = report.result(options, build, outcome.parts, outcome.peak_rss, stop)
    if database.name is not None:
        result["database"] = {"server": database.name, "transactions": _transactions(database)}
    complaints = [] if stop.error is None else [stop.error]
    code = stop.exit_code
    if options.json is not None:  # before the summary, since a terminal that is gone must not cost the file
        try:
            report.write_json(options.json, result)
        except Unwritable as error:
            complaints.append(f"-json {error}")
            code = code or FAILED
    if outcome.parts:
        say(report.summary(result))
    for complaint in complaints:
        console.complain(complaint)
    return code


def _transactions(database: Database) -> int | None:
    """Return what the database has counted, None if it is gone: that must not cost the result."""
    try:
        return database.transactions()
    except TheatreError:
        return None


def _listen(stop: Stop, console: Console) -> None:
    """Let the first signal end the run, and the second one end the process at once."""

    def caught(number: signal.Signals, code: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.ask(code)
        console.say(f"{number.name}: ending the run; once more ends it at once")

    gevent.signal_handler(signal.SIGINT, caught, signal.SIGINT, INTERRUPTED)
    gevent.signal_handler(signal.SIGTERM, caught, signal.SIGTERM, TERMINATED)
