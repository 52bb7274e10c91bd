"""Fields are found in whatever has them, compiled too, where their places are remembered by type."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from theatre_gevent import InvalidRef, Ref
from theatre_gevent.ref_fields import check


def with_slots(number: int) -> type:
    """A class of its own whose fields lie in a place of their own."""
    slots = (*(f"a{n}" for n in range(number)), "type", "id")
    return type(f"Slots{number}", (), {"__slots__": slots})


class Computed:
    """Nothing lies anywhere."""

    @property
    def type(self) -> str:
        return "echo"

    @property
    def id(self) -> str:
        return "1"


class Longer(Ref, frozen=True):
    """A Ref with one field more."""

    another: str = ""


class Dict(msgspec.Struct):
    """Fields in another order, tracked by the garbage collector."""

    id: Any
    type: Any


def holders(kind: Any, name: Any) -> list[Any]:
    """More kinds of objects than are remembered."""
    found: list[Any] = [SimpleNamespace(type=kind, id=name), Dict(id=name, type=kind)]
    for number in range(8):
        holder = with_slots(number)()
        holder.type, holder.id = kind, name
        found.append(holder)
    return found


def test_fields_are_read_from_objects_of_every_kind() -> None:
    for _ in range(3):
        for holder in [Ref("echo", "1"), Longer("echo", "1", "x"), Computed(), *holders("echo", "1")]:
            check(holder)
        for holder in holders("echo", ""):
            with pytest.raises(InvalidRef, match="Ref id must be a non-empty string, got ''"):
                check(holder)
        for holder in holders(7, "1"):
            with pytest.raises(InvalidRef, match="Ref type must be a non-empty string, got 7"):
                check(holder)


def test_what_is_not_there_is_an_attribute_error() -> None:
    kind = with_slots(0)
    full = kind()
    full.type, full.id = "echo", "1"
    check(full)  # its places are known from here on
    del full.id
    nothing: list[Any] = [full, kind(), object(), None, 7]
    for _ in range(2):
        for holder in nothing:
            with pytest.raises(AttributeError, match=r"id|type"):
                check(holder)
