"""The simulation's database does what the real one does: the same statements in the same order on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.postgres_support import Cluster, cluster
from tests.simulation.store import Owned, SimulatedStore
from theatre_gevent import InitReason, Ref
from theatre_gevent.cluster import postgres
from theatre_gevent.cluster.store import HostFenced, Life

__all__ = ["cluster"]

REFS = tuple(Ref("t", name) for name in ("a", "b", "c"))
VERBS = (
    "register",
    "claim",
    "claim",
    "claim",
    "release",
    "renew",
    "fence",
    "fence_self",
    "set_leaving",
    "resign",
    "forget",
)
Step = tuple[str, int, int, int, tuple[Ref, ...]]

steps = st.tuples(
    st.sampled_from(VERBS),
    st.integers(0, 3),  # which life
    st.integers(1, 6),  # number of a claim or release, or renewals
    st.integers(0, 6),  # number of a claim whose answer was lost, or epoch of a life before
    st.lists(st.sampled_from(REFS), min_size=1, unique=True).map(tuple),
)


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except HostFenced as error:
        return f"fenced: {error}"


class Both:
    """A real and a simulated database with the same story."""

    def __init__(self, cluster: Cluster) -> None:
        self.real = cluster.admin
        self.real.run("TRUNCATE hosts, actor_ownership")
        self.real.run("ALTER SEQUENCE theatre_epochs RESTART")
        self.simulated = SimulatedStore()
        self.lives: list[Life] = []
        for name in "ab":
            self.register(name, None)

    def register(self, name: str, previous: int | None) -> None:
        epoch = postgres.next_epoch(self.real)
        assert epoch == self.simulated.next_epoch()
        self.lives.append(Life(name, epoch))
        address = f"127.0.0.1:{epoch}"
        postgres.register(self.real, self.lives[-1], address, 3.0, previous_epoch=previous)
        self.simulated.register(self.lives[-1], address, 3.0, previous_epoch=previous)

    def step(self, step: Step) -> None:
        verb, which, number, other, refs = step
        life = self.lives[which % len(self.lives)]
        real, simulated = self.real, self.simulated
        pair: tuple[Any, Any] = (None, None)
        if verb == "register":
            self.register(life.host_id, other or None)
        elif verb == "claim":
            again = [other if n % 2 else 0 for n in range(len(refs))] if other else []
            pair = (
                outcome(lambda: postgres.claim(real, life, number, refs, again)),
                outcome(lambda: simulated.claim(life, number, refs, again)),
            )
        elif verb == "release":
            pair = postgres.release(real, life, number, refs), simulated.release(life, number, refs)
        elif verb == "fence":
            pair = postgres.fence(real, life, number - 1), simulated.fence(life, number - 1)
        elif verb == "forget":
            pair = postgres.forget_fenced(real, 0.0), simulated.forget_fenced()
        else:
            pair = getattr(postgres, verb)(real, life), getattr(simulated, verb)(life)
        assert pair[0] == pair[1]

    def compare(self) -> None:
        rows = postgres.hosts(self.real, fenced=True)
        told = [(row.life, row.address, row.lease_duration, row.renewals, row.leaving, row.fenced) for row in rows]
        others = self.simulated.hosts(fenced=True)
        assert told == [(r.life, r.address, r.lease_duration, r.renewals, r.leaving, r.fenced) for r in others]
        assert postgres.owners(self.real, REFS) == self.simulated.owners(REFS)
        owned = self.real.run("SELECT actor_type, actor_id, host_id, epoch, claim, reason FROM actor_ownership")
        reasons = {1: InitReason.NEW, 2: InitReason.REACTIVATION, 3: InitReason.FAILOVER}
        assert self.simulated.owned == {Ref(r[0], r[1]): Owned(Life(r[2], r[3]), r[4], reasons[r[5]]) for r in owned}


def test_both_do_the_same(cluster: Cluster) -> None:
    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(steps, min_size=5, max_size=40))
    def story(told: list[Step]) -> None:
        both = Both(cluster)
        for step in told:
            both.step(step)
        both.compare()

    story()
