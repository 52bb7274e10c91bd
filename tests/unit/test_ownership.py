"""Claims and releases in batches, against a store in memory that fails on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent
import pytest
from gevent.event import Event

from tests.support import until
from theatre_gevent import InitReason, InvalidRef, NoOwner, Ref
from theatre_gevent.clock import SystemClock
from theatre_gevent.cluster.ownership import MAX_BATCH, Lost, Outcome, Ownership, Refused, StoreUnavailable, Won

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B, C = (Ref("a", name) for name in "123")


class MemoryStore:
    """Who owns what, and the number of the claim that wrote it. Statements wait while the gate is shut."""

    def __init__(self) -> None:
        self.rows: dict[Ref, tuple[str, int]] = {}
        self.statements: list[tuple[str, list[Ref]]] = []
        self.gate = Event()
        self.gate.set()
        self.away = 0
        self.lost = 0
        self.broken: set[Ref] = set()

    def claim(self, refs: list[Ref], again: list[int], number: int) -> list[Outcome]:
        self._begin("claim", refs)
        found = [self._claim(ref, asked, number) for ref, asked in zip(refs, again, strict=True)]
        self._end()
        return found

    def _claim(self, ref: Ref, asked: int, number: int) -> Outcome:
        if ref in self.broken:
            return Refused(InvalidRef(f"{ref} can't be kept"))
        owner = self.rows.get(ref)
        if owner is not None and owner[0] != "me":
            return Lost(owner[0], 7)
        known = owner is not None and not (asked and owner[1] >= asked)
        self.rows[ref] = ("me", number)
        return Won(InitReason.REACTIVATION if known else InitReason.NEW)

    def release(self, refs: list[Ref], number: int) -> None:
        self._begin("release", refs)
        for ref in refs:
            if self.rows.get(ref, ("", 0))[0] == "me" and self.rows[ref][1] <= number:
                del self.rows[ref]
        self._end()

    def _begin(self, verb: str, refs: list[Ref]) -> None:
        self.statements.append((verb, refs))
        self.gate.wait()
        if self.away:
            self.away -= 1
            raise StoreUnavailable("the database is away")

    def _end(self) -> None:
        if self.lost:
            self.lost -= 1
            raise StoreUnavailable("the answer was lost")


class Scene:
    def __init__(self, patience: float = 5.0) -> None:
        self.store = MemoryStore()
        self.told: list[tuple[Ref, Outcome]] = []
        self.ownership = Ownership(
            self.store, SystemClock(), gevent.spawn, lambda ref, outcome: self.told.append((ref, outcome)), patience
        )

    def wait(self) -> None:
        assert self.ownership.settle(5.0)

    def outcomes(self) -> dict[Ref, Outcome]:
        self.wait()
        assert len(dict(self.told)) == len(self.told), "each is told once"
        return dict(self.told)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.store.gate.set()
    scene.ownership.stop()


NEW, AGAIN = Won(InitReason.NEW), Won(InitReason.REACTIVATION)


def test_all_that_wait_go_into_one_statement(scene: Scene) -> None:
    scene.store.rows[B] = ("other", 1)
    for ref in (A, B, C):
        scene.ownership.claim(ref)
    assert scene.outcomes() == {A: NEW, B: Lost("other", 7), C: NEW}
    assert scene.store.statements == [("claim", [A, B, C])]


def test_what_comes_while_a_statement_is_under_way_goes_into_the_next(scene: Scene) -> None:
    scene.store.gate.clear()
    scene.ownership.claim(A)
    until(lambda: scene.store.statements)
    scene.ownership.claim(B)
    scene.ownership.claim(C)
    scene.store.gate.set()
    scene.wait()
    assert scene.store.statements == [("claim", [A]), ("claim", [B, C])]


def test_a_statement_is_bounded(scene: Scene) -> None:
    refs = [Ref("a", str(number)) for number in range(MAX_BATCH + 1)]
    for ref in refs:
        scene.ownership.claim(ref)
    assert len(scene.outcomes()) == len(refs)
    assert [len(statement[1]) for statement in scene.store.statements] == [MAX_BATCH, 1]


def test_a_release_that_is_not_under_way_is_taken_back(scene: Scene) -> None:
    scene.ownership.claim(A)
    scene.wait()
    scene.ownership.release(A)
    assert scene.ownership.take_back(A)
    assert not scene.ownership.take_back(A)
    scene.wait()
    assert scene.store.rows == {A: ("me", 1)}


@pytest.mark.parametrize("verb", ["away", "lost"])
def test_what_was_perhaps_given_back_is_not_kept_without_a_claim(scene: Scene, verb: str) -> None:
    """The release was done and its answer lost, say: somebody else may own it by now."""
    scene.ownership.claim(A)
    scene.wait()
    setattr(scene.store, verb, 1000)
    scene.ownership.release(A)
    until(lambda: scene.ownership.failures)
    until(lambda: scene.ownership.waiting())
    assert not scene.ownership.take_back(A)
    scene.told.clear()
    scene.ownership.claim(A)
    setattr(scene.store, verb, 0)
    assert scene.outcomes() == {A: NEW if verb == "lost" else AGAIN}


def test_what_was_perhaps_never_claimed_is_not_kept_without_a_claim() -> None:
    scene = Scene(patience=0.2)
    scene.store.away = 1000
    scene.ownership.claim(A)
    until(lambda: scene.told)
    until(lambda: scene.ownership.waiting())
    assert not scene.ownership.take_back(A)
    scene.store.away = 0
    scene.wait()
    assert scene.store.rows == {}
    scene.ownership.stop()


def test_a_claim_waits_for_the_release_that_is_under_way(scene: Scene) -> None:
    scene.ownership.claim(A)
    scene.wait()
    scene.told.clear()
    scene.store.gate.clear()
    scene.ownership.release(A)
    until(lambda: len(scene.store.statements) == 2)
    assert not scene.ownership.take_back(A)
    scene.ownership.claim(A)
    scene.store.gate.set()
    assert scene.outcomes() == {A: NEW}
    assert scene.store.rows == {A: ("me", 2)}


@pytest.mark.parametrize("verb", ["away", "lost"])
def test_a_claim_without_an_answer_is_asked_again(scene: Scene, verb: str) -> None:
    setattr(scene.store, verb, 2)
    scene.ownership.claim(A)
    assert scene.outcomes() == {A: NEW}, "the reason is that of the first attempt"
    assert [verb for verb, _ in scene.store.statements] == ["claim"] * 3
    assert scene.ownership.failures == 2


@pytest.mark.parametrize("verb", ["away", "lost"])
def test_a_release_without_an_answer_is_asked_again(scene: Scene, verb: str) -> None:
    scene.ownership.claim(A)
    scene.wait()
    setattr(scene.store, verb, 1)
    scene.ownership.release(A)
    scene.wait()
    assert scene.store.rows == {}


def test_a_release_whose_answer_was_lost_does_not_undo_a_later_claim(scene: Scene) -> None:
    scene.ownership.claim(A)
    scene.wait()
    scene.told.clear()
    scene.store.gate.clear()
    scene.store.lost = 1
    scene.ownership.release(A)
    until(lambda: len(scene.store.statements) == 2)
    scene.ownership.claim(A)
    scene.store.gate.set()
    assert scene.outcomes() == {A: NEW}
    assert scene.store.rows[A][0] == "me"
    assert [verb for verb, _ in scene.store.statements] == ["claim", "release", "claim"]


def test_what_can_not_be_claimed_fails_by_itself(scene: Scene) -> None:
    scene.store.broken.add(B)
    for ref in (A, B, C):
        scene.ownership.claim(ref)
    outcomes = scene.outcomes()
    assert (outcomes[A], outcomes[C]) == (NEW, NEW)
    assert isinstance(outcomes[B], Refused)


def test_an_unexpected_error_fails_what_was_in_the_statement_and_nothing_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> list[Outcome]:
        raise KeyError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "claim", broken)
        scene.ownership.claim(A)
        scene.wait()
    outcome = dict(scene.told)[A]
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, NoOwner)
    assert "a claim of 1 actors failed" in caplog.text
    scene.ownership.claim(B)
    assert scene.outcomes()[B] == NEW


def test_a_claim_fails_when_the_database_stays_away_and_is_given_back_in_case_it_happened() -> None:
    scene = Scene(patience=0.2)
    scene.store.lost = 1
    scene.store.away = 1000
    scene.ownership.claim(A)
    until(lambda: scene.told)
    outcome = scene.told[0][1]
    assert isinstance(outcome, Refused)
    assert "within 0.2 s" in str(outcome.error)
    scene.store.away = 0
    scene.wait()
    assert scene.store.statements[-1] == ("release", [A])
    scene.ownership.stop()


def test_an_answer_from_an_earlier_life_counts_for_nothing(scene: Scene) -> None:
    scene.store.gate.clear()
    scene.ownership.claim(A)
    until(lambda: scene.store.statements)
    scene.ownership.reset()
    scene.store.gate.set()
    scene.ownership.claim(B)
    assert scene.outcomes() == {B: NEW}


def test_a_claim_can_be_withdrawn_before_it_is_asked(scene: Scene) -> None:
    scene.store.gate.clear()
    scene.ownership.claim(A)
    until(lambda: scene.store.statements)
    scene.ownership.claim(B)
    assert scene.ownership.withdraw(B)
    assert not scene.ownership.withdraw(A), "it may be ours already"
    scene.store.gate.set()
    assert scene.outcomes() == {A: NEW}
