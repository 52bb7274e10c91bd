"""`module:function` of a user, found or complained about in one line."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CommandError, UsageMistake

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("theatre_gevent.run")

_OWN = f"{Path(__file__).resolve().parents[1]}{os.sep}"
_IMPORTING = f"{Path(importlib.__file__).parent}{os.sep}"
_PATHS = sysconfig.get_paths()
_INSTALLED = (_OWN, *(_PATHS[kind] + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")))


def split(target: str) -> tuple[str, str]:
    """Return the module and the function.

    Raises:
        UsageMistake: It is not written so.
    """
    module, colon, function = target.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *function.split("."))):
        raise UsageMistake(f"the target must be MODULE:FUNCTION such as shop.actors:setup, got {target!r}")
    return module, function


def load(target: str) -> Callable[..., Any]:
    """Import and return the function. Modules are looked for in the current folder, too.

    Raises:
        UsageMistake: There is none.
        CommandError: The module wants to end the process.
    """
    module, function = split(target)
    folder = os.getcwd()  # noqa: PTH109 - a text for sys.path
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except BaseException as error:  # sys.exit would look like a good end
        log.debug("%s raised", target, exc_info=error)
        complaint = f"module {module!r} can't be imported: {what_happened(error)}"
        raise (CommandError if isinstance(error, SystemExit) else UsageMistake)(complaint) from error
    for name in function.split("."):
        if not hasattr(found, name):
            raise UsageMistake(f"module {module!r} has no function {function!r}")
        found = getattr(found, name)
    if not callable(found):
        raise UsageMistake(f"{target} is no function: it is a {type(found).__name__}")
    refuse_async(found, target)
    called: Callable[..., Any] = found
    return called


def refuse_async(function: object, name: str) -> None:
    """Raise `UsageMistake` for an `async def`: calling it only makes a coroutine, which nobody would run."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageMistake(f"{name} is an async function, which hosts do not await: write def instead")


def what_happened(error: BaseException) -> str:
    """Say what was raised, or that `sys.exit` was called, and on which line of the user."""
    what = (
        f"sys.exit({error.code!r}) was called" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    )
    return f"{what}{_place(error)}"


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_absolute():
        return f" at {error.filename}:{error.lineno}"  # no frame: that file has not run
    # The line that called a library says more than the library's. Programs that are installed are such themselves.
    for others in (_INSTALLED, (_OWN, _IMPORTING)):
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            # What is frozen or compiled has no path, or one of the machine that built it.
            if Path(frame.filename).is_absolute() and not frame.filename.startswith(others):
                return f" at {frame.filename}:{frame.lineno}"
    return ""
