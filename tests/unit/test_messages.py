"""Refs and lifecycle messages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theatre_gevent import DeadLetter, Initialize, InitReason, InvalidRef, Ref, Shutdown, TheatreError

names = st.text(min_size=1)


@given(names, names)
def test_refs_are_equal_by_type_and_id(kind: str, name: str) -> None:
    one, two = Ref(kind, name), Ref(kind, name)
    assert one == two
    assert hash(one) == hash(two)
    assert {one: 1}[two] == 1
    assert (one.type, one.id) == (kind, name)
    assert str(one) == f"{kind}/{name}"
    assert copy.copy(one) == one
    assert copy.deepcopy(one) == one


@given(names, names)
def test_refs_differ_by_type_and_id(one: str, two: str) -> None:
    assert (Ref("t", one) == Ref("t", two)) is (one == two)
    assert (Ref(one, "i") == Ref(two, "i")) is (one == two)
    assert (Ref(one, two) == Ref(two, one)) is (one == two)


@pytest.mark.parametrize("bad", ["", None, 1, b"bytes", ["list"], 1.5, True])
@pytest.mark.parametrize("place", ["type", "id"])
def test_a_ref_needs_two_strings(bad: Any, place: str) -> None:
    good = {"type": "t", "id": "i", place: bad}
    with pytest.raises(InvalidRef, match=rf"Ref {place} must be a non-empty string, got ") as caught:
        Ref(**good)
    assert repr(bad) in str(caught.value)
    assert isinstance(caught.value, TheatreError)


def test_a_ref_does_not_change() -> None:
    ref = Ref("t", "i")
    with pytest.raises(AttributeError):
        ref.id = "other"  # type: ignore[misc]


def test_lifecycle_messages_compare_by_value() -> None:
    assert Initialize() == Initialize(InitReason.NEW)
    assert Initialize(InitReason.REACTIVATION) != Initialize()
    assert Shutdown() == Shutdown()
    match Initialize(InitReason.FAILOVER):
        case Initialize(reason):
            assert reason is InitReason.FAILOVER


def test_a_dead_letter_tells_what_became_of_a_message() -> None:
    letter = DeadLetter(Ref("t", "i"), "body", None, "why")
    assert (letter.ref, letter.message, letter.sender, letter.reason, letter.error) == (
        Ref("t", "i"),
        "body",
        None,
        "why",
        None,
    )
