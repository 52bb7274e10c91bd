"""Clusters under a virtual clock: whatever goes wrong, the invariants hold, and afterwards everybody serves again.

See `tests.simulation`. That it can fail is shown by planted bugs, each of which is found.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from tests.simulation.host import Process, Rules
from tests.simulation.store import Owned, SimulatedStore
from tests.simulation.world import KINDS, NAMES, Fault, Violation, World
from theatre_gevent.cluster.ownership import Ownership
from theatre_gevent.cluster.store import HostRow, Life
from theatre_gevent.logic import lease as leases
from theatre_gevent.logic.lease import Action, Lease
from theatre_gevent.logic.observation import Dead
from theatre_gevent.messages import Ref

LENGTHS = (0.5, 2.0, 4.0, 7.0, 12.0)
faults = st.builds(
    Fault,
    st.sampled_from(KINDS),
    st.sampled_from(NAMES),
    st.integers(0, 60).map(lambda halves: 3 + halves / 2),
    st.sampled_from(LENGTHS),
)
plans = st.lists(faults, max_size=8)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What claims that fail log, a thousand times, is of no use here."""
    logger = logging.getLogger("theatre_gevent.cluster")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def plan(seed: int) -> list[Fault]:
    """Return faults picked at random, some of them close together."""
    random, found = Random(seed), list[Fault]()
    for _ in range(random.randrange(1, 5)):
        start, name = random.uniform(3.0, 30.0), random.choice(NAMES)
        for _ in range(random.randrange(1, 4)):
            found.append(Fault(random.choice(KINDS), name, start, random.choice(LENGTHS)))
            start += random.uniform(0.0, 5.0)
    return found


def tight(seed: int) -> list[Fault]:
    """Return faults in which a second matters: statements and answers take long, then a host is cut off."""
    random, start = Random(seed), 4.0
    victim, other = random.sample(NAMES, 2)
    found = []
    for _ in range(3):
        slow = random.uniform(2.0, 8.0)
        found.append(Fault(random.choice(("slow", "late", "slow")), victim, start, slow))
        found.append(Fault("slow", other, start, slow + random.uniform(0.0, 12.0)))
        if random.random() < 0.8:
            found.append(Fault("no way there", victim, start + slow, 9.0))
        start += slow + 12.0
    return found


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(plans, st.integers(0, 1 << 16))
def test_the_invariants_hold_whatever_goes_wrong(faults: list[Fault], seed: int) -> None:
    World(faults, seed).run()


def test_the_invariants_hold_in_random_stories() -> None:
    began, lived, handled, outcomes = time.perf_counter(), 0.0, 0, Counter[str]()
    for faults, seed in [(kind(seed), seed) for seed in range(50, 70) for kind in (plan, tight)]:
        world = World(faults, seed).run()
        lived += world.lived
        handled += world.handled
        outcomes += world.outcomes
    print(f"{lived / (time.perf_counter() - began):,.0f} host-seconds a second")
    assert handled > 10_000
    assert outcomes["handled"] > 0.7 * outcomes.total(), "else nobody gets anywhere, and nothing is tried"
    assert len(outcomes) > 3, "and some are refused"


def test_the_same_seed_makes_the_same_story() -> None:
    first, second = (World(plan(5), 5).run() for _ in range(2))
    assert (first.handled, first.outcomes, first.store.owned) == (second.handled, second.outcomes, second.store.owned)


# -- planted bugs: in the hosts ----------------------------------------------------------------------------------------


class LeaseFromTheAnswer(Rules):
    """A renewal is counted from when its answer is here."""

    def renewed(self, lease: Lease, sent: float, now: float) -> bool:
        return lease.renew(now, now)


class LifeFromTheAnswer(Rules):
    """The same for a registration."""

    def begin(self, lease: Lease, sent: float, now: float) -> None:
        lease.begin(now)


class NoDrift(Rules):
    """Others wait half of what they must."""

    def observe(self, process: Process, rows: list[HostRow], sent: float, now: float) -> list[Dead]:
        short = [
            HostRow(r.life, r.address, None, r.lease_duration / 2, r.renewals, r.leaving, r.fenced, 0) for r in rows
        ]
        return process.observer.observe(short, now, process.life)


class NeverExpires(Rules):
    """No turn looks at the end of the lease."""

    def expired(self, process: Process) -> bool:
        return False


class NeverFreezes(Rules):
    """The host works on until its lease has ended."""

    def decide(self, phase: leases.Phase, **given: Any) -> Action:
        return leases.decide(phase, **{**given, "safety_margin": 0.0, "max_renewal_failures": 1 << 30})


class NeverThaws(Rules):
    """Who is frozen stays so, as long as its lease is renewed."""

    def decide(self, phase: leases.Phase, **given: Any) -> Action:
        action = leases.decide(phase, **given)
        return Action.GO_ON if action is Action.UNFREEZE else action


class NeverRejoins(Rules):
    """Who has lost its lease stays away."""

    def decide(self, phase: leases.Phase, **given: Any) -> Action:
        action = leases.decide(phase, **given)
        return Action.GO_ON if action is Action.REJOIN and given["failures"] else action


class KeepsItsActors(Rules):
    """The end of a lease ends no activation."""

    def end_life(self, process: Process) -> None:
        process.ownership.reset()

    def begin(self, lease: Lease, sent: float, now: float) -> None:
        lease.begin(sent)


class ForgetsWhatIsGivenBack(Ownership):
    """What is claimed again is given back all the same, if it was to be."""

    def claim(self, ref: Ref) -> None:
        returned = dict(self._returned)
        super().claim(ref)
        self._returned = returned

    def take_back(self, ref: Ref) -> bool:
        return False


class KeepsInDoubt(Ownership):
    """What was to be given back is kept, though it may have been given back already."""

    def take_back(self, ref: Ref) -> bool:
        return self._returned.pop(ref, None) is not None


class TakesBackInDoubt(Rules):
    """See `KeepsInDoubt`."""

    ownership = KeepsInDoubt


class GivesBackLate(Rules):
    """See `ForgetsWhatIsGivenBack`."""

    ownership = ForgetsWhatIsGivenBack


# -- planted bugs: in the database -------------------------------------------------------------------------------------


class ReleasesWithoutNumber(SimulatedStore):
    """A release that is late removes a newer claim of the same life."""

    def may_release(self, row: Owned, life: Life, number: int) -> bool:
        return row.life == life


class ReleasesWithoutEpoch(SimulatedStore):
    """A release removes the claim of another life of the host."""

    def may_release(self, row: Owned, life: Life, number: int) -> bool:
        return row.life.host_id == life.host_id and row.claim <= number


class RenewsTheFenced(SimulatedStore):
    """A life that is over is renewed."""

    def renew(self, life: Life) -> int | None:
        self.lives[life].renewals += 1
        return self.lives[life].renewals


class ComparesWithoutEpoch(SimulatedStore):
    """Whether a claimer lives is asked by its host id: any life of it will do."""

    def check_claimer(self, life: Life) -> None:
        if not any(self.is_alive(each) for each in self.lives if each.host_id == life.host_id):
            super().check_claimer(life)


class ClaimerUnchecked(SimulatedStore):
    """A claim does not look at the claimer's own life."""

    def check_claimer(self, life: Life) -> None:
        return


class OwnerUnchecked(SimulatedStore):
    """A claim takes from whoever has it."""

    def may_keep(self, owner: Life) -> bool:
        return False


Bug = type[Rules] | type[SimulatedStore]

BUGS: dict[Bug, tuple[Callable[[int], list[Fault]], int]] = {
    LeaseFromTheAnswer: (tight, 1),
    LifeFromTheAnswer: (tight, 5),
    NoDrift: (plan, 0),
    NeverExpires: (plan, 0),
    NeverFreezes: (plan, 0),
    NeverThaws: (plan, 2),
    NeverRejoins: (plan, 1),
    KeepsItsActors: (plan, 0),
    TakesBackInDoubt: (tight, 49),
    GivesBackLate: (plan, 5),
    ReleasesWithoutNumber: (plan, 82),
    ReleasesWithoutEpoch: (plan, 83),
    RenewsTheFenced: (plan, 26),
    ComparesWithoutEpoch: (plan, 52),
    ClaimerUnchecked: (plan, 16),
    OwnerUnchecked: (plan, 0),
}
"""What kind of story finds each bug, and the seed of one that does: where to begin to look."""


def breaks(bug: Bug, faults: list[Fault], seed: int) -> str | None:
    """Return what a bug does in a story, None if nothing."""
    given: dict[str, Any] = {"rules" if issubclass(bug, Rules) else "store": bug}
    try:
        World(faults, seed, **given).run()
    except Violation as error:
        return str(error)
    return None


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    stories, first = BUGS[bug]
    assert any(breaks(bug, stories(seed), seed) for seed in range(first, first + 300))


def test_what_is_found_is_told_as_a_short_story() -> None:
    """Who works on while its lease ends needs no more than being cut off from the database, or standing still."""
    options = settings(max_examples=200, phases=[Phase.generate, Phase.shrink], database=None, deadline=None)
    story = find(plans, lambda faults: breaks(NeverFreezes, faults, 1) is not None, settings=options)
    assert len(story) == 1
    assert story[0].kind == "no way there"
