"""Where a message goes, how often it is tried, and what is remembered of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from theatre_gevent import Ref
from theatre_gevent.logic import envelopes
from theatre_gevent.logic.routing import (
    LOCAL,
    MAX_ATTEMPTS,
    RETRIED,
    Decision,
    Forward,
    GiveUp,
    NoRoute,
    PlacementCache,
    Retry,
    decide,
    decide_retry,
)

ALL = ("a", "b", "c")


@pytest.mark.parametrize(
    ("active", "cached", "owner", "chosen", "live", "avoid", "decision"),
    [
        (True, "b", "c", "c", ALL, None, LOCAL),
        (True, None, None, None, (), None, LOCAL),
        (False, "b", "c", "c", ALL, None, Forward("b")),
        (False, "a", "c", "c", ALL, None, LOCAL),
        (False, "b", "c", "a", ALL, "b", Forward("c")),
        (False, "b", "c", "a", ("a", "c"), None, Forward("c")),
        (False, "b", "b", "a", ("a", "c"), None, LOCAL),
        (False, None, None, "a", ALL, None, LOCAL),
        (False, None, None, "b", ALL, None, Forward("b")),
        (False, None, None, "b", ALL, "b", Forward("b")),
        (False, "b", None, "b", ALL, "b", Forward("b")),
        (False, None, None, None, (), None, NoRoute("the cluster has no live members that this host knows")),
        (False, None, None, "b", ("a",), None, NoRoute("its owner 'b' is not among the live members ['a']")),
    ],
)
def test_the_first_that_names_a_live_host_decides(
    active: bool,
    cached: str | None,
    owner: str | None,
    chosen: str | None,
    live: tuple[str, ...],
    avoid: str | None,
    decision: Decision,
) -> None:
    assert decide("a", active=active, cached=cached, owner=owner, chosen=chosen, live=live, avoid=avoid) == decision


hosts = st.none() | st.sampled_from("abcd")


@given(st.booleans(), hosts, hosts, hosts, st.sets(st.sampled_from("abcd")), hosts)
def test_nothing_is_forwarded_to_a_dead_host_or_to_oneself(
    active: bool, cached: str | None, owner: str | None, chosen: str | None, live: set[str], avoid: str | None
) -> None:
    decision = decide("a", active=active, cached=cached, owner=owner, chosen=chosen, live=live, avoid=avoid)
    if isinstance(decision, Forward):
        assert decision.host_id in live - {"a"}
        assert decision.host_id in (cached, owner, chosen)
    assert isinstance(decision, NoRoute) <= (not active and not live & {owner, chosen})


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


class CacheMachine(RuleBasedStateMachine):
    """The cache against a list that is searched from its end."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PlacementCache(ttl=10.0, max_size=4)
        self.model: list[tuple[Ref, str, float]] = []  # least recently used first
        self.now = 100.0

    keys = st.integers(0, 6).map(lambda number: Ref("a", str(number)))
    hosts = st.sampled_from("abc")

    def take(self, ref: Ref) -> tuple[Ref, str, float] | None:
        for entry in self.model:
            if entry[0] == ref:
                self.model.remove(entry)
                return entry
        return None

    @rule(ref=keys, host=hosts)
    def put(self, ref: Ref, host: str) -> None:
        self.cache.put(ref, host, self.now)
        self.take(ref)
        self.model = [*self.model, (ref, host, self.now + 10.0)][-4:]

    @rule(ref=keys)
    def get(self, ref: Ref) -> None:
        entry = self.take(ref)
        if entry is not None and entry[2] > self.now:
            self.model.append(entry)
            assert self.cache.get(ref, self.now) == entry[1]
        else:
            assert self.cache.get(ref, self.now) is None

    @rule(ref=keys, host=st.none() | hosts)
    def evict(self, ref: Ref, host: str | None) -> None:
        entry = self.take(ref)
        fits = entry is not None and host in (None, entry[1])
        if entry is not None and not fits:
            self.model.append(entry)
            self.model.sort(key=lambda one: list(self.cache._entries).index(one[0]))
        assert self.cache.evict(ref, host) is fits

    @rule(host=hosts)
    def evict_host(self, host: str) -> None:
        gone = [entry for entry in self.model if entry[1] == host]
        self.model = [entry for entry in self.model if entry[1] != host]
        assert self.cache.evict_host(host) == len(gone)

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.clear()

    @invariant()
    def same(self) -> None:
        assert list(self.cache._entries) == [entry[0] for entry in self.model]
        assert len(self.cache) == len(self.model) <= 4


TestPlacementCache = CacheMachine.TestCase


def test_a_cache_needs_room_and_time() -> None:
    for ttl, size in ((0.0, 1), (-1.0, 1), (1.0, 0)):
        with pytest.raises(ValueError, match="ttl must be above 0 and max_size 1 or more"):
            PlacementCache(ttl, size)
