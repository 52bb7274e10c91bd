"""Two hosts never serve the same actor, whatever happens to clocks, processes and the network.

See `tests.lease_simulation`. That it can fail is shown by planted bugs, each of which it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.lease_simulation import RATES, REFS, TIMES, Cluster, Row, SimulatedHost
from theatre_gevent.logic.lease import DRIFT
from theatre_gevent.logic.observation import Dead

indices = st.integers(0, len(RATES) - 1)
places = st.integers(0, 3)


class Machine(RuleBasedStateMachine):
    """Hypothesis picks what happens, and makes the story of a failure as short as it can."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()

    @rule(seconds=st.sampled_from(TIMES))
    def time_passes(self, seconds: float) -> None:
        self.cluster.pass_time(seconds)

    @rule(which=indices, early=st.booleans())
    def a_lease_is_about_to_end(self, which: int, early: bool) -> None:
        self.cluster.a_lease_is_about_to_end(which, early)

    @rule(which=indices)
    def somebody_seems_dead(self, which: int) -> None:
        self.cluster.somebody_seems_dead(which)

    @rule(which=indices)
    def a_host_stops_or_goes_on(self, which: int) -> None:
        self.cluster.a_host_stops_or_goes_on(which)

    @rule(which=indices)
    def a_host_is_killed_and_started_again(self, which: int) -> None:
        self.cluster.a_host_is_killed_and_started_again(which)

    @rule(which=indices, ref=st.sampled_from(REFS))
    def a_host_claims(self, which: int, ref: str) -> None:
        self.cluster.a_host_claims(which, ref)

    @rule(which=indices, ref=st.sampled_from(REFS))
    def a_host_gives_back(self, which: int, ref: str) -> None:
        self.cluster.a_host_gives_back(which, ref)

    @rule(which=indices)
    def a_host_polls(self, which: int) -> None:
        self.cluster.a_host_polls(which)

    @rule(which=indices, number=places)
    def a_statement_is_done(self, which: int, number: int) -> None:
        self.cluster.a_statement_is_done(which, number)

    @rule(which=indices, number=places)
    def an_answer_is_here(self, which: int, number: int) -> None:
        self.cluster.an_answer_is_here(which, number)

    @rule(which=indices, number=places)
    def an_answer_is_lost(self, which: int, number: int) -> None:
        self.cluster.an_answer_is_lost(which, number)

    @rule(which=indices)
    def a_network_that_works(self, which: int) -> None:
        self.cluster.a_network_that_works(which)

    @invariant()
    def one_owner(self) -> None:
        self.cluster.check()


TestMachine = Machine.TestCase
TestMachine.settings = settings(stateful_step_count=50, max_examples=60, deadline=None)


def walk(kind: type[Cluster], seed: int, steps: int = 200) -> tuple[str | None, int]:
    """Run a cluster at random; return what went wrong, and how often an actor was served."""
    random, cluster, served = Random(seed), kind(), 0
    for _ in range(steps):
        try:
            cluster.step(random)
            cluster.check()
        except AssertionError as error:
            return str(error), served
        served += sum(host.serves(ref) for host in cluster.hosts for ref in REFS)
    return None, served


def test_two_hosts_never_serve_one_actor() -> None:
    served = 0
    for seed in range(200):
        problem, count = walk(Cluster, seed)
        assert problem is None, f"seed {seed}"
        served += count
    assert served > 30_000, "most of the time somebody serves: else there is nothing to see"


# -- planted bugs ----------------------------------------------------------------------------------------------


class CountsFromTheAnswer(Cluster):
    """The lease begins when the answer is here."""

    def renewed(self, host: SimulatedHost, sent: float) -> bool:
        return host.lease.renew(host.now, host.now)


class BeginsFromTheAnswer(Cluster):
    """The same for a registration."""

    def begin(self, host: SimulatedHost, sent: float) -> None:
        host.lease.begin(host.now)


class ObservesFromBefore(Cluster):
    """Others are counted from before the poll was sent, and so perhaps from before they renewed."""

    def observe(self, host: SimulatedHost, sent: float, rows: list[Row]) -> list[Dead]:
        return host.observer.observe(rows, sent, host.life)


class IgnoresDrift(Cluster):
    """Others wait exactly as long as the lease lasts, by clocks of another speed."""

    def observe(self, host: SimulatedHost, sent: float, rows: list[Row]) -> list[Dead]:
        return host.observer.observe([impatient(row) for row in rows], host.now, host.life)


def impatient(row: Row) -> Row:
    row.lease_duration /= 1 + DRIFT  # what `waits_for_dead` puts on top
    return row


class NeverExpires(Cluster):
    """Nobody looks at the end of the lease, after a pause for instance."""

    def __init__(self) -> None:
        super().__init__()
        for host in self.hosts:
            host.serves = partial(serves_for_ever, host)  # type: ignore[method-assign]


def serves_for_ever(host: SimulatedHost, ref: str) -> bool:
    return not host.paused and ref in host.actors


class FencesWithoutComparing(Cluster):
    """A fence does not look at the renewals."""

    def __init__(self) -> None:
        super().__init__()

        def fence(dead: Dead) -> bool:
            self.database.row(dead.life).fenced = True
            return True

        self.database.fence = fence  # type: ignore[method-assign]


class FencesItsNamesake(Cluster):
    """A registration ends the other lives of the host id, though their process may be alive."""

    def __init__(self) -> None:
        super().__init__()
        register = self.database.register

        def fence_all(host_id: str, previous: int) -> int:
            for row in self.database.hosts.values():
                row.fenced |= row.life.host_id == host_id
            return register(host_id, previous)

        self.database.register = fence_all  # type: ignore[method-assign]


class KeepsItsActors(Cluster):
    """A host that rejoins keeps what it had."""

    def begin(self, host: SimulatedHost, sent: float) -> None:
        super().begin(host, sent)
        host.actors |= {ref for ref, owner in self.database.owners.items() if owner.host_id == host.host_id}


@pytest.mark.parametrize(
    "bug", [ObservesFromBefore, NeverExpires, FencesWithoutComparing, FencesItsNamesake, KeepsItsActors]
)
def test_a_planted_bug_is_found(bug: type[Cluster]) -> None:
    assert any(walk(bug, seed)[0] for seed in range(100))


A, B = 0, 1  # the first two hosts; B's clock runs 0.4 % faster


def pass_time(cluster: Cluster, seconds: float) -> None:
    """Let time pass, for A by itself, while B renews and polls all the time."""
    for _ in range(int(seconds / 0.01)):
        cluster.pass_time(0.01)
        cluster.a_host_polls(B)
        cluster.a_network_that_works(B)


def take_over(cluster: Cluster) -> None:
    """B sees at once when A is dead by its clock, and claims what A has."""
    while cluster.database.owners.get("r") != cluster.hosts[B].life:
        pass_time(cluster, 0.01)
        cluster.a_host_claims(B, "r")
        cluster.a_network_that_works(B)


def an_answer_is_late(cluster: Cluster) -> None:
    """The first renewal is done at once, and answered when the lease is nearly over; then A is cut off."""
    for which in (A, B):
        cluster.a_network_that_works(which)
    cluster.a_host_claims(A, "r")
    cluster.a_network_that_works(A)
    cluster.pass_time(3.4)
    cluster.a_statement_is_done(A, 0)
    pass_time(cluster, 6.0)
    cluster.an_answer_is_here(A, 0)
    take_over(cluster)


def a_registration_is_late(cluster: Cluster) -> None:
    """The same with the registration."""
    cluster.a_statement_is_done(A, 0)
    cluster.a_network_that_works(B)
    pass_time(cluster, 8.0)
    cluster.an_answer_is_here(A, 0)
    cluster.a_host_claims(A, "r")
    claim = next(n for n, statement in enumerate(cluster.hosts[A].in_flight) if statement.verb == "claim")
    cluster.a_statement_is_done(A, claim)
    cluster.an_answer_is_here(A, claim)
    assert cluster.hosts[A].serves("r")
    take_over(cluster)


def a_clock_is_fast(cluster: Cluster) -> None:
    """A is cut off and B sees its last renewal at once."""
    for which in (A, B):
        cluster.a_network_that_works(which)
    cluster.a_host_claims(A, "r")
    cluster.a_network_that_works(A)
    cluster.a_host_polls(B)
    cluster.a_network_that_works(B)
    take_over(cluster)


@pytest.mark.parametrize(
    ("story", "bug"),
    [
        (an_answer_is_late, CountsFromTheAnswer),
        (a_registration_is_late, BeginsFromTheAnswer),
        (a_clock_is_fast, IgnoresDrift),
    ],
)
def test_a_story_ends_well_but_for_the_bug(story: Callable[[Cluster], None], bug: type[Cluster]) -> None:
    for kind in (Cluster, bug):
        cluster = kind()
        cluster.run()
        cluster.hosts[A].rate, cluster.hosts[B].rate = 1.0, 1.004
        if kind is bug:
            with pytest.raises(AssertionError, match="is served by"):
                story(cluster)
        else:
            story(cluster)
            assert not cluster.hosts[A].serves("r")
