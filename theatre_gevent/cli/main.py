"""The command: arguments in, exit code out."""

from __future__ import annotations

import io
import platform
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import InvalidOption, TheatreError
from .arguments import EMBEDDED, parse
from .errors import FAILED, INTERRUPTED, OK, USAGE, CommandError, UsageMistake

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code.

    Args:
        argv: The arguments after the program's name, by default the process' own.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an actor may be called what a terminal can't show
    try:
        given = parse(sys.argv[1:] if argv is None else argv)
        code = _obey(given)
        if sys.stdout is not None:
            sys.stdout.flush()
    except CommandError as error:
        return _complain(str(error), error.code)
    except InvalidOption as error:
        return _complain(str(error), USAGE)
    except TheatreError as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:  # `theatre actors | head`
        sys.stderr.close()  # the interpreter would complain at its end
        return FAILED
    except OSError as error:
        with suppress(OSError):  # or the interpreter would try to write the rest at its end
            sys.stdout.close()
        return _complain(f"the output can't be written: {error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _obey(given: Namespace) -> int:
    if given.version:
        _say(version())
        return OK
    if given.command == "run":
        from .run import run

        return run(given)
    if given.command == "playground":
        from .playground import play

        return play(given.name, given.dsn, "theatre playground", "--dsn")
    if given.command == "migrate":
        from ..migration import migrate_schema

        if given.dsn == EMBEDDED:
            raise UsageMistake(
                f"{EMBEDDED!r} is for `run` and `playground`, which start a private database and make its tables: give "
                "the connection string of another"
            )
        _say(f"the database has version {migrate_schema(given.dsn, timeout=given.timeout)} of the tables")
        return OK
    from .asking import actors, status

    (status if given.command == "status" else actors)(given, _say)
    return OK


def version() -> str:
    """Return what runs: the version, and whether the hot path is compiled, or why it is not."""
    from .. import __version__, _accel

    how = _accel.build if _accel.reason is None else f"{_accel.build}: {_accel.reason}"
    return f"theatre_gevent {__version__} ({how}), Python {platform.python_version()}"


def _say(text: str) -> None:
    if sys.stdout is not None:  # it is closed, else
        sys.stdout.write(text + "\n")


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"theatre: {' '.join(text.split())}\n")
    return code
