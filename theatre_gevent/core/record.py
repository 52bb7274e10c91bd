"""What contexts are made of, in each of the two builds."""

from __future__ import annotations

import msgspec

from .._accel import COMPILED


class Record:
    """The base of `Context`. Compiled, it holds the fields in C; see `record.pxd`."""

    __slots__ = ()

    def __cinit__(self) -> None:
        """Of the compiled class alone: it takes no arguments, and says so to who gives it some."""


class _Plain(msgspec.Struct, eq=False):
    pass


if not COMPILED:  # a Struct is made in 60 ns, a class with slots in 129
    globals()["Record"] = _Plain
