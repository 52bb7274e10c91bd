"""Hosts with leases on a simulated network: whatever happens, no actor is owned by two that both may serve it.

The hosts run the real logic. Their clocks drift and have different readings, they are paused and killed, every
statement may be late, lost on its way, or done with its answer lost. Time passes anywhere between two of these. The
database does what the schema's statements do, one at a time.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

from msgspec import Struct

from theatre_gevent.logic import lease as leases
from theatre_gevent.logic.lease import Action, Lease, Pace, decide
from theatre_gevent.logic.observation import Dead, Observer

DURATION = 10.0
MARGIN = 2.0
REFS = ("r", "s")
RATES = (1.0, 1.004, 0.996, 1.0)
"""How fast each host's clock runs."""
TIMES = (0.3, 1.0, 2.0, 3.4)


class Life(Struct, frozen=True):
    host_id: str
    epoch: int


class Row(Struct):
    life: Life
    renewals: int = 0
    address: str = ""
    lease_duration: float = DURATION
    leaving: bool = False
    fenced: bool = False


class Database:
    """What the tables hold, and what the statements do to them."""

    def __init__(self) -> None:
        self.hosts: dict[Life, Row] = {}
        self.owners: dict[str, Life] = {}
        self.sequence = 0

    def register(self, host_id: str, previous: int) -> int:
        """A new life. It fences the one that this very process has ended, no other."""
        self.sequence += 1
        before = self.hosts.get(Life(host_id, previous))
        if before is not None:
            before.fenced = True
        life = Life(host_id, self.sequence)
        self.hosts[life] = Row(life)
        return self.sequence

    def renew(self, life: Life) -> bool:
        row = self.hosts[life]
        if row.fenced:
            return False
        row.renewals += 1
        return True

    def poll(self) -> list[Row]:
        return [Row(row.life, row.renewals) for row in self.hosts.values() if not row.fenced]

    def fence(self, dead: Dead) -> bool:
        row = self.row(dead.life)
        if row.renewals == dead.renewals:
            row.fenced = True
        return row.fenced

    def row(self, life: Any) -> Row:
        return self.hosts[life]

    def claim(self, life: Life, ref: str) -> bool:
        if self.hosts[life].fenced:
            return False
        owner = self.owners.get(ref)
        if owner is None or owner == life or self.hosts[owner].fenced:
            self.owners[ref] = life
        return self.owners[ref] == life

    def release(self, life: Life, ref: str) -> None:
        if self.owners.get(ref) == life:
            del self.owners[ref]


class Statement:
    """On its way to the database, or, with an answer, back."""

    def __init__(self, verb: str, sent: float, args: tuple[Any, ...]) -> None:
        self.verb = verb
        self.sent = sent
        self.args = args
        self.done = False
        self.lost = False
        self.answer: Any = None


class SimulatedHost:
    """A host: its lease, what it has activated, and its clock."""

    def __init__(self, host_id: str, rate: float, start: float, cluster: Cluster) -> None:
        self.host_id = host_id
        self.rate = rate
        self.cluster = cluster
        self.now = start
        self.paused = False
        self.be_born()

    def be_born(self) -> None:
        """A new process, which knows nothing."""
        self.epoch = 0
        self.lease = Lease(DURATION)
        self.pace = Pace(DURATION)
        self.observer = self.cluster.new_observer()
        self.phase = leases.Phase.EXPIRED
        self.actors: set[str] = set()
        self.in_flight: list[Statement] = []
        self.registering = False

    @property
    def life(self) -> Life:
        return Life(self.host_id, self.epoch)

    def send(self, verb: str, *args: Any) -> None:
        self.in_flight.append(Statement(verb, self.now, args))

    def under_way(self) -> set[str]:
        """What has not been answered; a release counts until it is done, since a late one shall not meet a claim."""
        return {s.verb for s in self.in_flight if not s.lost or s.verb == "release"}

    def serves(self, ref: str) -> bool:
        """A turn that began now would go through."""
        return not self.paused and ref in self.actors and not self.lease.expired(self.now)

    def work(self) -> None:
        """What the keeper and the guard do by themselves."""
        action = decide(
            self.phase,
            remaining=self.lease.remaining(self.now),
            safety_margin=MARGIN,
            failures=self.pace.failures,
            max_renewal_failures=2,
        )
        if action is Action.EXPIRE:
            self.actors.clear()
            self.phase = leases.Phase.EXPIRED
        elif action is Action.REJOIN and not self.registering:
            self.registering = True
            self.send("register", self.host_id, self.epoch)
        elif action is Action.FREEZE:
            self.phase = leases.Phase.FROZEN
        elif action is Action.UNFREEZE:
            self.phase = leases.Phase.SERVING
        if self.cluster.may_renew(self) and "renew" not in self.under_way():
            self.send("renew", self.life)

    def poll(self) -> None:
        if "poll" not in self.under_way():
            self.send("poll")

    def claim(self, ref: str) -> None:
        if self.phase is leases.Phase.SERVING and "release" not in self.under_way():
            self.send("claim", self.life, ref)

    def give_back(self, ref: str) -> None:
        if ref in self.actors and "claim" not in self.under_way():
            self.actors.discard(ref)
            self.send("release", self.life, ref)

    def lost(self, statement: Statement) -> None:
        """The connection broke: the answer will never come."""
        if statement.verb == "register":
            self.registering = False
        elif statement.verb == "renew":
            self.pace.failed(statement.sent, self.now)

    def answered(self, statement: Statement) -> None:
        sent, args, answer = statement.sent, statement.args, statement.answer
        if statement.verb == "register":
            self.registering = False
            self.epoch = answer
            self.cluster.begin(self, sent)
            self.pace.succeeded(sent)
            self.phase = leases.Phase.SERVING
        elif statement.verb == "renew" and args[0] == self.life:
            if not answer:
                self.lease.end()
            elif self.cluster.renewed(self, sent):
                self.pace.succeeded(sent)
        elif statement.verb == "poll":
            for dead in self.cluster.observe(self, sent, answer):
                self.send("fence", dead)
        elif statement.verb == "claim" and answer and args[0] == self.life and not self.lease.expired(self.now):
            self.actors.add(args[1])


class Cluster:
    """Hosts, a database, and everything that happens between them.

    The methods before `pass_time` are where a test plants a bug.
    """

    def __init__(self) -> None:
        self.database = Database()
        self.ways = ["good"] * len(RATES)
        self.hosts = [
            # The last one is another process with the first one's host id, started while it still runs.
            SimulatedHost(name, rate, 1000.0 * number, self)
            for number, (name, rate) in enumerate(zip(("a", "b", "c", "a"), RATES, strict=True))
        ]

    def new_observer(self) -> Observer:
        return Observer()

    def begin(self, host: SimulatedHost, sent: float) -> None:
        host.lease.begin(sent)

    def renewed(self, host: SimulatedHost, sent: float) -> bool:
        return host.lease.renew(sent, host.now)

    def may_renew(self, host: SimulatedHost) -> bool:
        return not host.lease.expired(host.now) and host.now >= host.pace.due

    def observe(self, host: SimulatedHost, sent: float, rows: list[Row]) -> list[Dead]:
        return host.observer.observe(rows, host.now, host.life)

    def pass_time(self, seconds: float) -> None:
        for host in self.hosts:
            host.now += seconds * host.rate
        self.run()

    def run(self) -> None:
        self.check()  # what may happen before anybody notices the time
        for host in self.hosts:
            if not host.paused:
                host.work()

    def a_lease_is_about_to_end(self, which: int, early: bool) -> None:
        host = self.hosts[which]
        remaining = host.lease.remaining(host.now) / host.rate
        if remaining > 0.01:
            self.pass_time(remaining - 0.01 if early else remaining)

    def somebody_seems_dead(self, which: int) -> None:
        host = self.hosts[which]
        wait = (host.observer.next_due() - host.now) / host.rate
        if 0 < wait < math.inf:
            self.pass_time(wait)

    def a_host_stops_or_goes_on(self, which: int) -> None:
        self.hosts[which].paused = not self.hosts[which].paused
        self.run()

    def a_host_is_killed_and_started_again(self, which: int) -> None:
        self.hosts[which].be_born()
        self.run()

    def a_host_claims(self, which: int, ref: str) -> None:
        if not self.hosts[which].paused:
            self.hosts[which].claim(ref)

    def a_host_gives_back(self, which: int, ref: str) -> None:
        if not self.hosts[which].paused:
            self.hosts[which].give_back(ref)

    def a_host_polls(self, which: int) -> None:
        if not self.hosts[which].paused:
            self.hosts[which].poll()

    def a_statement_is_done(self, which: int, number: int) -> None:
        for statement in self.hosts[which].in_flight[number : number + 1]:
            if not statement.done:
                statement.done = True
                statement.answer = getattr(self.database, statement.verb)(*statement.args)

    def an_answer_is_here(self, which: int, number: int) -> None:
        host = self.hosts[which]
        for statement in host.in_flight[number : number + 1]:
            if statement.done and not host.paused:
                host.in_flight.remove(statement)
                if not statement.lost:
                    host.answered(statement)
        self.run()

    def an_answer_is_lost(self, which: int, number: int) -> None:
        """The connection breaks. What was on its way there may be done all the same, and late."""
        host = self.hosts[which]
        for statement in host.in_flight[number : number + 1]:
            if not statement.lost:
                statement.lost = True
                host.lost(statement)

    def a_network_that_works(self, which: int) -> None:
        """Everything that a host has under way is done and answered, and what follows from it."""
        host = self.hosts[which]
        for _ in range(4):
            for number in reversed(range(len(host.in_flight))):
                self.a_statement_is_done(which, number)
                self.an_answer_is_here(which, number)

    def check(self) -> None:
        """Nobody serves what another serves, and who serves owns."""
        for ref in REFS:
            serving = [host.life for host in self.hosts if host.serves(ref)]
            assert len(serving) <= 1, f"{ref} is served by {serving}"
        for host in self.hosts:
            for ref in host.actors if not host.paused else ():
                if host.serves(ref):
                    assert self.database.owners.get(ref) == host.life

    def step(self, random: Random) -> None:
        """Let something happen that is picked at random; how often is such that a run gets somewhere."""
        which, place = random.randrange(len(self.hosts)), random.randrange(4)
        happening = random.random()
        if happening < 0.12:
            self.ways[which] = random.choice(("good", "no way there", "no way back"))
        elif happening < 0.16:
            self.a_host_stops_or_goes_on(which)
        elif happening < 0.17:
            self.pass_time(random.uniform(5.0, 12.0))
        elif happening < 0.18:
            self.a_host_is_killed_and_started_again(which)
        elif happening < 0.23:
            random.choice((self.a_statement_is_done, self.an_answer_is_here, self.an_answer_is_lost))(which, place)
        elif happening < 0.25:
            self.a_host_gives_back(which, random.choice(REFS))
        elif happening < 0.28:
            self.a_lease_is_about_to_end(which, random.random() < 0.5)
        elif happening < 0.32:
            self.somebody_seems_dead(which)
        else:
            self.pass_time(random.choice(TIMES))
        for which in random.sample(range(len(self.hosts)), len(self.hosts)):
            if random.random() < 0.7:
                self.a_host_polls(which)
                self.a_host_claims(which, random.choice(REFS))
            if self.ways[which] == "good":
                self.a_network_that_works(which)
            else:
                event = self.a_statement_is_done if self.ways[which] == "no way back" else self.an_answer_is_here
                for number in reversed(range(len(self.hosts[which].in_flight))):
                    event(which, number)
