"""Where the interpreter takes the memory of small objects from. Compiled modules call the C functions in the `.pxd`."""

from __future__ import annotations


def install() -> bool:
    """Have the interpreter ask for huge pages from now on; tells whether it does. Plain Python can't."""
    return False
