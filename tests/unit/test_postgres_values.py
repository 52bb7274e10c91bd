"""How refs and host ids become values of Postgres: array literals, what no row can hold, the numbers of locks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theatre_gevent import Ref
from theatre_gevent.cluster.postgres import MAX_REF_BYTES, _array, lock_key, unstorable


def read_array(literal: str) -> list[str]:
    """Read an array literal by the rules in PostgreSQL's manual, for one dimension with every element quoted."""
    assert literal[0] == "{"
    assert literal[-1] == "}"
    found, place = [], 1
    while literal[place] != "}":
        assert literal[place] == '"'
        place += 1
        text = ""
        while literal[place] != '"':
            if literal[place] == "\\":
                place += 1
            text += literal[place]
            place += 1
        found.append(text)
        place += 1
        if literal[place] == ",":
            place += 1
    return found


@given(st.lists(st.text(alphabet=st.characters(blacklist_categories=["Cs"]) | st.sampled_from('"\\{},'))))
def test_an_array_holds_what_was_put_in(texts: list[str]) -> None:
    assert read_array(_array(texts)) == texts


@pytest.mark.parametrize("texts", [[], [""], ['"'], ["\\"], ['","'], ['a","b', "c"], ['\\","'], ["", ""], ["NULL"]])
def test_arrays_that_are_easily_broken(texts: list[str]) -> None:
    assert read_array(_array(texts)) == texts


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (Ref("a", "b"), None),
        (Ref("a", "x" * (MAX_REF_BYTES - 1)), None),
        (Ref("a", "x" * MAX_REF_BYTES), f"{MAX_REF_BYTES + 1} bytes"),
        (Ref("x" * MAX_REF_BYTES, "a"), f"{MAX_REF_BYTES + 1} bytes"),
        (Ref("ü", "ü" * (MAX_REF_BYTES // 2 - 1)), None),
        (Ref("ü", "ü" * (MAX_REF_BYTES // 2)), f"{MAX_REF_BYTES + 2} bytes"),
        (Ref("a", "b\0"), "NUL"),
        (Ref("\0", "b"), "NUL"),
        (Ref("ü", "\0"), "NUL"),
        (Ref("a", "\udfff"), "surrogate"),
        (Ref("\ud800", "\udc00"), "surrogate"),
    ],
)
def test_what_no_row_can_hold(ref: Ref, words: str | None) -> None:
    found = unstorable([Ref("fine", "1"), ref, Ref("fine", "2")])
    assert list(found) == ([] if words is None else [ref])
    if words is not None:
        assert words in found[ref]
        assert found[ref].startswith("ref ")


def test_lock_numbers_are_spread_and_stay_the_same() -> None:
    keys = [lock_key(f"host-{number}") for number in range(10_000)]
    assert len(set(keys)) == len(keys)
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys)
    assert min(keys) < 0 < max(keys)
    # Hosts of different versions of the library must agree.
    assert lock_key("a") == 1580250156692673509
    assert lock_key("\ud800") != lock_key("\ud801")
