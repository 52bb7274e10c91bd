"""Where a message goes, and how often it is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theatre_gevent.logic import envelopes
from theatre_gevent.logic.routing import (
    LOCAL,
    MAX_ATTEMPTS,
    RETRIED,
    Decision,
    Forward,
    GiveUp,
    NoRoute,
    Retry,
    decide,
    decide_retry,
)

ALL = ("a", "b", "c")


@pytest.mark.parametrize(
    ("owner", "chosen", "live", "decision"),
    [
        ("c", "b", ALL, Forward("c")),
        ("a", "b", ALL, LOCAL),
        ("b", "c", ("a", "c"), Forward("c")),
        ("b", "a", ("a", "c"), LOCAL),
        (None, "a", ALL, LOCAL),
        (None, "b", ALL, Forward("b")),
        (None, None, (), NoRoute("the cluster has no live members that this host knows")),
        (None, "b", ("a",), NoRoute("its owner 'b' is not among the live members ['a']")),
    ],
)
def test_the_first_that_names_a_live_host_decides(
    owner: str | None, chosen: str | None, live: tuple[str, ...], decision: Decision
) -> None:
    assert decide("a", owner=owner, chosen=chosen, live=live) == decision


hosts = st.none() | st.sampled_from("abcd")


@given(hosts, hosts, st.sets(st.sampled_from("abcd")))
def test_nothing_is_forwarded_to_a_dead_host_or_to_oneself(
    owner: str | None, chosen: str | None, live: set[str]
) -> None:
    decision = decide("a", owner=owner, chosen=chosen, live=live)
    if isinstance(decision, Forward):
        assert decision.host_id in live - {"a"}
        assert decision.host_id in (owner, chosen)
    assert isinstance(decision, NoRoute) is (not live & {owner, chosen})


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
