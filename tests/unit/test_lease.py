"""The arithmetic of leases, the freeze table, and what is seen of other hosts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from theatre_gevent.logic.lease import (
    ATTEMPT,
    DRIFT,
    Action,
    Lease,
    Pace,
    Phase,
    decide,
    hub_patience,
    look_again_in,
    waits_for_dead,
)
from theatre_gevent.logic.observation import Change, Dead, Member, Members, Observer, changes, members_of

# -- the lease -------------------------------------------------------------------------------------------------


def test_a_lease_is_over_before_it_begins() -> None:
    lease = Lease(20.0)
    assert lease.expired(0.0)
    assert lease.remaining(0.0) == 0.0


def test_a_lease_is_counted_from_before_the_renewal_was_sent() -> None:
    lease = Lease(20.0)
    lease.begin(100.0)
    assert lease.until == 120.0
    assert lease.renew(110.0, now=118.0)  # 8 seconds on its way: they are not given back
    assert lease.until == 130.0
    assert lease.remaining(118.0) == 12.0
    assert not lease.expired(129.9)
    assert lease.expired(130.0)
    assert lease.remaining(131.0) == 0.0


def test_the_end_of_a_lease_is_final() -> None:
    lease = Lease(20.0)
    lease.begin(100.0)
    assert not lease.renew(119.0, now=120.0), "the answer came when it had ended"
    assert lease.until == 120.0
    lease.begin(130.0)
    assert not lease.expired(149.0)
    lease.end()
    assert lease.expired(-math.inf)
    assert not lease.renew(131.0, now=132.0)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=30))
def test_a_lease_only_moves_forward_and_never_promises_more_than_was_given(steps: list[tuple[float, float]]) -> None:
    lease, now, last = Lease(10.0), 50.0, 50.0
    lease.begin(now)
    for wait, travel in steps:
        before = lease.until
        sent = now + wait
        now = sent + travel
        if lease.renew(sent, now):
            last = sent
        assert lease.until >= before
        assert lease.until == last + 10.0


# -- pace ------------------------------------------------------------------------------------------------------


def test_a_lease_is_renewed_when_a_third_of_it_has_passed() -> None:
    pace = Pace(21.0)
    assert pace.due < 0, "the first attempt is due at once"
    pace.succeeded(100.0)
    assert pace.due == 107.0
    pace.hurry(103.0)
    assert pace.due == 103.0
    pace.hurry(105.0)
    assert pace.due == 103.0


def test_failures_count_thirds_of_a_lease_and_not_attempts() -> None:
    pace = Pace(21.0)
    pace.succeeded(100.0)
    pace.failed(101.0, 101.5)  # the connection broke before a renewal was due
    assert pace.failures == 0
    for sent in (107.0, 108.0, 110.0, 113.9):
        pace.failed(sent, sent)
        assert pace.failures == 1
    pace.failed(114.0, 116.0)
    assert pace.failures == 2
    pace.failed(113.0, 116.0)
    assert pace.failures == 2
    pace.succeeded(116.0)
    assert pace.failures == 0


def test_attempts_that_fail_at_once_are_made_at_least_twice_a_second() -> None:
    pace, now, waits = Pace(21.0), 107.0, []
    pace.succeeded(100.0)
    for _ in range(20):
        pace.failed(now, now)
        waits.append(pace.due - now)
        now = pace.due
    assert waits[0] < 0.1
    assert waits == sorted(waits)
    assert max(waits) < 0.5
    pace.succeeded(now)
    pace.failed(now, now)
    assert pace.due - now == pytest.approx(waits[0])


def test_a_host_without_a_life_fails_nothing() -> None:
    pace = Pace(21.0)
    pace.failed(1000.0, 1001.0)
    assert pace.failures == 0
    assert pace.due < 1001.5


@given(st.floats(0.1, 1000), st.floats(0, 1000))
def test_an_attempt_ends_before_the_lease_does(duration: float, remaining: float) -> None:
    patience = Pace(duration).patience(remaining)
    assert patience <= remaining
    assert patience <= ATTEMPT
    assert patience <= duration / 3


def test_the_hub_may_be_silent_for_less_than_a_lease() -> None:
    assert hub_patience(20.0) == 10.0


# -- the freeze table ------------------------------------------------------------------------------------------

S, F, E = Phase.SERVING, Phase.FROZEN, Phase.EXPIRED


@pytest.mark.parametrize(
    ("phase", "remaining", "failures", "flags", "action"),
    [
        (S, 20.0, 0, {}, Action.GO_ON),
        (S, 3.0, 0, {}, Action.GO_ON),
        (S, 2.9, 0, {}, Action.FREEZE),
        (S, 13.0, 1, {}, Action.GO_ON),
        (S, 6.6, 2, {}, Action.FREEZE),
        (S, 0.0, 0, {}, Action.EXPIRE),
        (S, 20.0, 0, {"fenced": True}, Action.EXPIRE),
        (S, 20.0, 0, {"conflict": True}, Action.EXPIRE),
        (S, 20.0, 0, {"reachable": False}, Action.GO_ON),
        (F, 2.9, 0, {}, Action.GO_ON),
        (F, 6.6, 2, {}, Action.GO_ON),
        (F, 13.0, 1, {}, Action.GO_ON),
        (F, 19.9, 0, {}, Action.UNFREEZE),
        (F, 19.9, 0, {"by_hand": True}, Action.GO_ON),
        (F, 0.0, 0, {"by_hand": True}, Action.EXPIRE),
        (F, 0.0, 3, {}, Action.EXPIRE),
        (F, 19.9, 0, {"fenced": True}, Action.EXPIRE),
        (E, 0.0, 3, {}, Action.REJOIN),
        (E, 0.0, 0, {"fenced": True}, Action.REJOIN),
        (E, 0.0, 0, {"reachable": False}, Action.GO_ON),
        (E, 0.0, 0, {"conflict": True}, Action.GO_ON),
    ],
)
def test_the_freeze_table(
    phase: Phase, remaining: float, failures: int, flags: dict[str, bool], action: Action
) -> None:
    decided = decide(phase, remaining=remaining, safety_margin=3.0, failures=failures, max_renewal_failures=2, **flags)
    assert decided is action


@given(
    st.sampled_from(Phase),
    st.floats(0, 100),
    st.floats(0.1, 30),
    st.integers(0, 5),
    st.integers(1, 5),
    st.fixed_dictionaries({name: st.booleans() for name in ("fenced", "conflict", "reachable", "by_hand")}),
)
def test_nobody_serves_who_may_not(
    phase: Phase, remaining: float, margin: float, failures: int, most: int, names: dict[str, bool]
) -> None:
    action = decide(
        phase, remaining=remaining, safety_margin=margin, failures=failures, max_renewal_failures=most, **names
    )
    may_own = remaining > 0 and not names["fenced"] and not names["conflict"]
    serves = action is Action.UNFREEZE or (action is Action.GO_ON and phase is Phase.SERVING)
    if serves:
        assert may_own
        assert remaining >= margin
        assert failures < most
    if phase is not Phase.EXPIRED:
        assert (action is Action.EXPIRE) is not may_own
    if action is Action.REJOIN:
        assert phase is Phase.EXPIRED


def test_time_alone_changes_a_decision_at_the_margin_and_at_the_end() -> None:
    assert look_again_in(20.0, 3.0) == 17.0
    assert look_again_in(2.0, 3.0) == 2.0
    assert look_again_in(0.0, 3.0) is None


@given(st.floats(0.01, 100), st.floats(0.01, 30))
def test_who_looks_when_told_misses_nothing(remaining: float, margin: float) -> None:
    def decision(left: float) -> Action:
        return decide(Phase.SERVING, remaining=left, safety_margin=margin, failures=0, max_renewal_failures=2)

    wait = look_again_in(remaining, margin)
    assert wait is not None
    assert 0 <= wait <= remaining
    assert decision(remaining) is decision(remaining - 0.99 * wait)


# -- others ----------------------------------------------------------------------------------------------------


class Life(Struct, frozen=True):
    host_id: str
    epoch: int


class HostRow(Struct):
    life: Life
    renewals: int = 0
    address: str = "10.0.0.1:1"
    lease_duration: float = 10.0
    leaving: bool = False
    fenced: bool = False


def Row(host_id: str, epoch: int, **columns: Any) -> HostRow:  # noqa: N802
    return HostRow(Life(host_id, epoch), **columns)


DEAD_AFTER = waits_for_dead(10.0)


def test_who_does_not_renew_for_as_long_as_its_lease_is_dead() -> None:
    assert 10.0 * (1 + DRIFT) == DEAD_AFTER > 10.0
    observer = Observer()
    assert observer.next_due() == math.inf
    assert observer.observe([Row("b", 7)], 100.0) == []
    assert observer.next_due() == 100.0 + DEAD_AFTER
    assert observer.observe([Row("b", 7)], 100.0 + DEAD_AFTER - 0.01) == []
    assert observer.observe([Row("b", 7)], 100.0 + DEAD_AFTER) == [Dead(Life("b", 7), 0)]
    assert observer.observe([Row("b", 7)], 200.0) == [Dead(Life("b", 7), 0)], "until it is fenced"
    assert observer.observe([Row("b", 7, fenced=True)], 201.0) == []
    assert observer.next_due() == math.inf


def test_who_renews_lives() -> None:
    observer = Observer()
    for step in range(50):
        assert observer.observe([Row("b", 7, renewals=step)], 100.0 + 9.0 * step) == []
    # However long nobody looked: what counts is that nothing came since somebody has seen it.
    assert observer.observe([Row("b", 7, renewals=51)], 9999.0) == []


def test_a_life_that_is_new_or_came_back_is_counted_from_now() -> None:
    observer = Observer()
    observer.observe([Row("b", 7)], 100.0)
    observer.observe([], 101.0)
    assert observer.observe([Row("b", 7), Row("b", 9)], 120.0) == []
    assert observer.observe([Row("b", 7), Row("b", 9, renewals=1)], 131.0) == [Dead(Life("b", 7), 0)]


def test_each_life_has_a_lease_of_its_own() -> None:
    observer = Observer()
    rows = [Row("b", 1, lease_duration=2.0), Row("c", 2)]
    observer.observe(rows, 0.0)
    assert observer.next_due() == waits_for_dead(2.0)
    assert observer.observe(rows, 3.0) == [Dead(Life("b", 1), 0)]


def test_a_host_does_not_fence_its_own_life_but_an_earlier_one() -> None:
    observer = Observer()
    rows = [Row("a", 1), Row("a", 5)]
    observer.observe(rows, 0.0, Life("a", 5))
    assert observer.observe(rows, 99.0, Life("a", 5)) == [Dead(Life("a", 1), 0)]


ME = Member("a", 5, "10.0.0.9:9")


def test_members_are_the_newest_lives_and_this_host_as_it_knows_itself() -> None:
    rows = [
        Row("c", 3, address="c:1", leaving=True),
        Row("b", 4, address="b:2"),
        Row("b", 2, address="b:1"),
        Row("d", 6, address="d:1", fenced=True),
        Row("a", 5, address="stale:1", leaving=True),
    ]
    members = members_of(rows, "a", ME)
    assert members.members == (ME, Member("b", 4, "b:2"), Member("c", 3, "c:1", leaving=True))
    assert members.ring == ("a", "b")
    assert members.hosts == {"a": "10.0.0.9:9", "b": "b:2", "c": "c:1"}
    assert members.get("b") == Member("b", 4, "b:2")
    assert members.get("d") is None
    assert members_of(rows, "a", None).ring == ("b",)
    assert members_of([], "a", None) == Members()


def test_a_peer_that_says_goodbye_is_out_of_the_ring_but_can_be_reached() -> None:
    members = members_of([Row("b", 4, address="b:2")], "a", ME)
    left = members.with_leaving("b", 4)
    assert left.ring == ("a",)
    assert left.hosts == members.hosts
    assert members.with_leaving("b", 3) == members, "that was an earlier life"
    assert members.with_leaving("x", 4) == members


def test_what_has_changed_is_told() -> None:
    b, c = Member("b", 1, "b:1"), Member("c", 2, "c:1")
    before = Members((ME, b))
    assert not changes(before, before)
    assert str(changes(before, before)) == "no change"
    assert changes(before, Members((ME, b, c))) == Change(joined=("c",))
    assert changes(before, Members((ME,))) == Change(gone=("b",))
    assert changes(before, Members((ME, Member("b", 3, "b:1")))) == Change(reborn=("b",))
    assert changes(before, Members((ME, Member("b", 1, "b:2")))) == Change(reborn=("b",))
    assert changes(before, before.with_leaving("b", 1)) == Change(leaving=("b",))
    assert str(changes(before, Members((c, Member("b", 1, "b:1", leaving=True))))) == "joined c; gone a; leaving b"


lives = st.builds(
    Row,
    host_id=st.sampled_from("abcd"),
    epoch=st.integers(1, 4),
    leaving=st.booleans(),
    fenced=st.booleans(),
)


@given(st.lists(lives, max_size=12, unique_by=lambda row: row.life), st.none() | st.just(ME))
def test_members_are_one_life_of_each_host_id(rows: list[HostRow], own: Member | None) -> None:
    members = members_of(rows, "a", own)
    names = [member.host_id for member in members.members]
    assert names == sorted(set(names))
    assert set(members.ring) <= set(members.hosts)
    assert ("a" in names) is (own is not None)
    for member in members.members:
        if member.host_id != "a":
            epochs = [row.life.epoch for row in rows if row.life.host_id == member.host_id and not row.fenced]
            assert member.epoch == max(epochs)
