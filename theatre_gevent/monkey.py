"""Monkey patching in the right order, for programs' entry points. Importing the library never patches anything."""

from __future__ import annotations

import sys
import warnings

_warned = False


def patch_all() -> None:
    """Patch the standard library with gevent, then psycopg2 with psycogreen.

    Call it first thing in the program, before anything else is imported:
    `from theatre_gevent import monkey; monkey.patch_all()`. Calling it again is harmless.
    """
    from gevent import monkey as gevent_monkey

    gevent_monkey.patch_all()
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()


def is_patched() -> bool:
    """Tell whether gevent has patched the modules that block most: sockets and threads."""
    from gevent import monkey as gevent_monkey

    return all(gevent_monkey.is_module_patched(name) for name in ("socket", "threading"))


def warn_if_unpatched(module: str) -> None:
    """Warn, once, if the standard library is not patched; the line that is blamed is the first outside of `module`."""
    global _warned
    if _warned or is_patched():
        return
    _warned = True
    level, frame = 2, sys._getframe(1)
    while frame.f_globals["__name__"] == module and frame.f_back is not None:  # by way of `with`, perhaps
        level, frame = level + 1, frame.f_back
    warnings.warn(
        "the standard library is not monkey-patched: blocking calls in actors will block the whole host. "
        "Begin the program with: from theatre_gevent import monkey; monkey.patch_all()",
        RuntimeWarning,
        stacklevel=level,
    )
