"""The process of one host, as `theatre run` starts it: it ends with SIGTERM, and with the command."""

from __future__ import annotations

import inspect
import io
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import gevent
import ujson
from gevent.event import Event
from gevent.monkey import get_original

from theatre_gevent import Host, InvalidOption, TheatreError, logs

from .errors import FAILED, OK, USAGE, CommandError, UsageMistake
from .target import load, refuse_async, what_happened

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("theatre_gevent.run")

_ORPHANED = 3
"""Exit code of a host that did not drain in time after the command had died."""


def main() -> int:
    """Run one host; what it is comes through standard input, which stays open as long as the command lives."""
    try:
        spec = ujson.loads(_first_line())
        report = spec["report"]
    except (ValueError, KeyError, TypeError):
        sys.stderr.write(f"theatre: {sys.argv[1]} is for its own use\n")
        return USAGE
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe's default would keep what is printed until the end
    handler = logs.configure(format=spec["log_format"], level=spec["log_level"], host_id=spec["host_id"])
    try:
        code = _run(spec, lambda message: _tell(report, message))
    except CommandError as error:
        _tell(report, {"failed": str(error), "code": error.code})
        code = error.code
    handler.flush()
    return code


def _run(spec: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> int:
    ended = Event()
    gevent.signal_handler(signal.SIGTERM, ended.set)
    gevent.signal_handler(signal.SIGINT, ended.set)
    get_original("_thread", "start_new_thread")(_end_with_command, (spec["patience"],))
    setup = load(spec["target"])
    failed = False

    def changed(state: str) -> None:
        if state == "stopped":
            ended.set()

    def leave(error: SystemExit) -> None:
        nonlocal failed
        if error.code in (None, 0):
            log.info("host %s ends in good order: %s", host.host_id, what_happened(error))
        else:
            log.error("host %s ends: %s", host.host_id, what_happened(error))
            failed = True
        ended.set()

    def unless_left(wait: Callable[[], object]) -> None:
        """Wait; a `SystemExit` of an actor is raised here, in the main greenlet, and must not cut the drain short."""
        while True:
            try:
                wait()
            except SystemExit as error:  # noqa: PERF203 - each wait may be cut short
                leave(error)
            else:
                return

    def follow(up: Callable[[Host], object]) -> None:
        nonlocal failed
        try:
            up(host)
        except SystemExit as error:
            leave(error)
        except (Exception, gevent.Timeout) as error:
            if isinstance(error, TheatreError) and host.state in ("draining", "stopped"):
                # How a function ends that asks actors for ever: the host refuses, or one that it asked is leaving too.
                log.info("host %s drains, and what %s returned ends: %s", host.host_id, spec["target"], error)
                return
            log.exception("host %s ends: what %s returned has raised", host.host_id, spec["target"])
            failed = True
            ended.set()

    try:
        host = Host(host_id=spec["host_id"], on_state=changed, **spec["options"])
        after = _call(setup, host, spec["target"])
        host.start()
    except InvalidOption as error:
        raise CommandError(str(error), USAGE) from error
    except TheatreError as error:
        raise CommandError(f"host {spec['host_id']} can't start: {error}") from error
    tell({"address": host.address, "admin": host.admin_address})
    if after is not None:
        gevent.spawn(follow, after)
    unless_left(ended.wait)
    unless_left(gevent.spawn(host.stop).get)
    # What stopped it was nobody's order, if it has a cause: a receiver that raised, or a lease that was lost.
    return FAILED if failed or host.stopped_by is not None else OK


def _call(setup: Callable[[Host], object], host: Host, target: str) -> Callable[[Host], object] | None:
    """Call the user's function; what it raises becomes one line that says where."""
    try:
        after = setup(host)
    except BaseException as error:  # sys.exit would look like a good end
        log.debug("%s raised", target, exc_info=error)
        verb = "did not return:" if isinstance(error, SystemExit) else "raised"
        raise CommandError(f"{target} {verb} {what_happened(error)}") from error
    if after is None:
        return None
    if not callable(after):
        if inspect.iscoroutine(after):
            after.close()  # or the interpreter would warn on its own lines that nobody awaited it
        raise UsageMistake(f"{target} must return a function or nothing, and returned a {type(after).__name__}")
    refuse_async(after, f"what {target} returned")
    return after


def _first_line() -> bytes:
    """Read what the command writes first, a byte at a time: what follows is for `_end_with_command`."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            break
        line += piece
    return line


def _tell(report: int, message: dict[str, Any]) -> None:
    try:
        os.write(report, ujson.dumps(message).encode() + b"\n")
    except OSError as error:
        log.info("the command does not listen: %s", error)


def _end_with_command(patience: float) -> None:
    """Drain when the command has died, and end when that takes too long: the hub may be stuck. In a native thread."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    get_original("time", "sleep")(patience)
    os._exit(_ORPHANED)
