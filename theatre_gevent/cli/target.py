"""`module:function` of a user, found or complained about in one line."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from .errors import UsageMistake

if TYPE_CHECKING:
    from collections.abc import Callable


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
    """
    module, function = split(target)
    folder = os.getcwd()  # noqa: PTH109 - a text for sys.path
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise UsageMistake(f"module {module!r} can't be imported: {type(error).__name__}: {error}") from error
    for name in function.split("."):
        if not hasattr(found, name):
            raise UsageMistake(f"module {module!r} has no function {function!r}")
        found = getattr(found, name)
    if not callable(found):
        raise UsageMistake(f"{target} is no function: it is a {type(found).__name__}")
    called: Callable[..., Any] = found
    return called
