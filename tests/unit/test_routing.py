"""Where a message goes, and how often it is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theatre_gevent.logic import envelopes
from theatre_gevent.logic.routing import (
    MAX_ATTEMPTS,
    RETRIED,
    GiveUp,
    Retry,
    decide,
    decide_retry,
    why_nobody,
)

ALL = ("a", "b", "c")


@pytest.mark.parametrize(
    ("owner", "chosen", "live", "host_id"),
    [
        ("c", "b", ALL, "c"),
        ("b", "c", ("a", "c"), "c"),
        (None, "b", ALL, "b"),
        (None, None, (), None),
        (None, None, ALL, None),
        (None, "b", ("a",), None),
        ("b", None, ("a",), None),
    ],
)
def test_the_first_that_names_a_live_host_decides(
    owner: str | None, chosen: str | None, live: tuple[str, ...], host_id: str | None
) -> None:
    assert decide(owner, chosen, live) == host_id


def test_it_is_said_why_nobody_can_take_a_message() -> None:
    assert why_nobody(None, None, ()) == "the cluster has no live members that this host knows"
    assert why_nobody(None, "b", ("c", "a")) == "its owner 'b' is not among the live members ['a', 'c']"
    assert why_nobody("b", None, ("a",)) == "its owner 'b' is not among the live members ['a']"


hosts = st.none() | st.sampled_from("abcd")


@given(hosts, hosts, st.sets(st.sampled_from("abcd")))
def test_nothing_goes_to_a_dead_host(owner: str | None, chosen: str | None, live: set[str]) -> None:
    host_id = decide(owner, chosen, live)
    assert (host_id is None) is (not live & {owner, chosen})
    assert host_id is None or (host_id in live and host_id in (owner, chosen))


def test_only_who_did_not_take_a_message_is_followed_by_another_attempt() -> None:
    assert {envelopes.NOT_HERE, envelopes.HOST_FROZEN, envelopes.HOST_DRAINING} == RETRIED
    for code in range(20):
        result = decide_retry(code, 0, "b", 5.0)
        assert isinstance(result, Retry) is (code in RETRIED)
    assert decide_retry(envelopes.ACTOR_ERROR, 0, "b", 5.0) == GiveUp("host 'b' refused it")
    assert decide_retry(envelopes.INBOX_FULL, 0, "b", 5.0) == GiveUp("host 'b' refused it")


@given(st.sampled_from(sorted(RETRIED)), st.floats(0, 10))
def test_attempts_end_by_number_and_by_deadline(code: int, remaining: float) -> None:
    attempt, left = 0, remaining
    while isinstance(result := decide_retry(code, attempt, "b", left), Retry):
        assert 0 <= result.delay < left
        left -= result.delay
        attempt += 1
    assert attempt < MAX_ATTEMPTS
    if attempt == MAX_ATTEMPTS - 1:
        assert result == GiveUp("5 attempts, the last one refused by host 'b'")
    else:
        assert result == GiveUp(f"its deadline came after {attempt + 1} attempts, the last one refused by host 'b'")
