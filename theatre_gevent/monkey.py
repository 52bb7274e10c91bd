"""Monkey patching in the right order, for programs' entry points. Importing the library never patches anything."""

from __future__ import annotations


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
