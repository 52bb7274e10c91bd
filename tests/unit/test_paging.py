"""Pages of actors: in order, whole, and never all of them sorted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theatre_gevent import Ref
from theatre_gevent.logic.paging import Page, cursor_of, key_of, read_cursor

REFS = st.lists(
    st.builds(Ref, st.sampled_from(["a", "b", "a/b", "ü%"]), st.text(min_size=1, max_size=3)), unique=True, max_size=40
)


@given(REFS, st.integers(1, 7), st.integers(1, 9), st.sampled_from([None, "a", "a/b"]), st.text(max_size=1))
def test_pages_together_are_all_that_was_wanted_in_order(
    refs: list[Ref], limit: int, width: int, kind: str | None, prefix: str
) -> None:
    wanted = sorted(
        (ref for ref in refs if (kind is None or ref.type == kind) and ref.id.startswith(prefix)), key=key_of
    )
    seen: list[Ref] = []
    after: str | None = None
    while True:
        page = Page(limit, kind, prefix, None if after is None else read_cursor(after))
        for start in range(0, len(refs), width):
            page.show(refs[start : start + width])
        assert page.total == len(wanted)
        assert len(page.refs()) <= limit
        seen += page.refs()
        after = page.next()
        if after is None:
            break
        assert len(page.refs()) == limit
    assert seen == wanted


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_cursor_is_read_as_it_was_made(kind: str, actor_id: str) -> None:
    try:
        kind.encode()
    except UnicodeEncodeError:
        return
    assert read_cursor(cursor_of(Ref(kind, actor_id))) == (kind, actor_id)


@pytest.mark.parametrize("text", ["", "x", "/x", "/"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="next"):
        read_cursor(text)
