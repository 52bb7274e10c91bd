"""Memory of a process that holds very many actors."""

from __future__ import annotations

from pathlib import Path

from ._accel import COMPILED
from .core import arenas

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> bool:
    """Have the interpreter put small objects into huge pages (2 MiB) from now on, for the whole process.

    With hundreds of thousands of actors nearly every message touches memory that no cache holds, and looking up where
    its pages are costs as much as reading it. Call it once, early: what has been made before stays where it is.
    It takes a few MiB more, and gives memory back to the system in larger pieces.

    Returns:
        True if huge pages are asked for. False on plain Python (`theatre_gevent.build`), where the system is not Linux,
        or where `/sys/kernel/mm/transparent_hugepage/enabled` says `never`; nothing has changed then.
    """
    return are_huge_pages_available() and bool(arenas.install())


def are_huge_pages_available() -> bool:
    """Tell whether `use_huge_pages` would return True."""
    try:
        allowed = "[never]" not in _ENABLED.read_text()
    except OSError:  # not Linux, or a kernel without them
        return False
    return COMPILED and allowed
