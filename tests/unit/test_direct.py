"""Fields are found in whatever has them, compiled too, where their places are remembered by type."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from theatre_gevent import InvalidRef, Ref
from theatre_gevent.ref_fields import check

SLOTS = [
    type(f"Slots{number}", (), {"__slots__": (*(f"a{n}" for n in range(number)), "type", "id")}) for number in range(8)
]
"""More classes than are remembered, with the fields in places of their own."""


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
    """Objects of several kinds with these fields."""
    found: list[Any] = [Dict(id=name, type=kind), SimpleNamespace(type=kind, id=name)]
    for made in SLOTS:
        holder = made()
        holder.type, holder.id = kind, name
        found.append(holder)
    return found


class Answering:
    """Has fields, and says something else about them."""

    __slots__ = ("id", "type")

    def __getattribute__(self, name: str) -> object:
        return "said"


def test_a_class_that_answers_by_itself_is_asked() -> None:
    """The first of the tests here: the others leave no place to remember another class at."""
    holder: Any = Answering()
    holder.type = holder.id = 7
    for _ in range(3):
        check(holder)


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
    """Some of the classes are among those that are remembered by now, others are not."""
    for holder in holders("echo", "1"):
        check(holder)
        del holder.id
        for _ in range(6):
            with pytest.raises(AttributeError, match="id"):
                check(holder)
    nothing: list[Any] = [object(), None, 7, *(made() for made in SLOTS)]
    for holder in nothing:
        with pytest.raises(AttributeError, match="type"):
            check(holder)
    for holder in holders("echo", "1"):
        check(holder)
