"""The command: options in, exit code out."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace

import gevent

from theatre_gevent import build, logs
from theatre_gevent.errors import TheatreError

from .database import Database, require_programs
from .options import LoadOptions, UsageError, parse
from .profiling import MissingPackage, require, require_for_cpu_profile
from .stop import Stop

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes beside 0. 130 and 143 are what a shell reports of a program that Ctrl+C or SIGTERM ended."""


def main(argv: list[str] | None = None) -> int:
    """Run the load test and return the exit code.

    Args:
        argv: The arguments after the program's name, by default the process' own.
    """
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        require("psutil")
        require_programs(options.dsn)
        if options.cpuprofile is not None:
            require_for_cpu_profile(options.cpuprofile)
    except (UsageError, MissingPackage) as error:
        _complain(str(error))
        return USAGE
    logs.configure(level="WARNING")
    return _run(options)


def _run(options: LoadOptions) -> int:
    stop = Stop()
    _listen(stop)
    try:
        with Database(options.dsn, options.hosts) as database:
            return _measure(replace(options, dsn=database.dsn), database, stop)
    except TheatreError as error:
        _complain(f"the database: {error}")
        return FAILED


def _measure(options: LoadOptions, database: Database, stop: Stop) -> int:
    from . import report  # these need the optional packages that were just looked for
    from .run import Watcher, run

    _say(report.banner(options, build, database.name) + "\n")
    watcher = Watcher(
        progress=lambda samples, rss: _say(report.progress_line(samples, rss)),
        warmed=lambda warmth: _say(report.warm_line(warmth)),
        stopping=lambda: _say("stopping"),
        serving=lambda addresses: _say(report.admin_line(addresses)),
    )
    outcome = run(options, stop, watcher)
    result = report.result(options, build, outcome.parts, outcome.peak_rss, stop)
    if database.name is not None:
        result["database"] = {"server": database.name, "transactions": database.transactions()}
    if outcome.parts:
        _say(report.summary(result))
    code = stop.exit_code
    if stop.error is not None:
        _complain(stop.error)
    if options.json is not None:
        try:
            report.write_json(options.json, result)
        except OSError as error:
            _complain(f"-json {options.json} can't be written: {error.strerror}")
            code = code or FAILED
    return code


def _listen(stop: Stop) -> None:
    """Let the first signal end the run, and the second one end the process at once."""

    def caught(number: signal.Signals, code: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        _say(f"{number.name}: ending the run; once more ends it at once")
        stop.ask(code)

    gevent.signal_handler(signal.SIGINT, caught, signal.SIGINT, INTERRUPTED)
    gevent.signal_handler(signal.SIGTERM, caught, signal.SIGTERM, TERMINATED)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(f"loadtest.py: {text}\n")
