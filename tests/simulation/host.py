"""A host of the simulation. It decides by the real code: lease and pace, observation, ring, routing, freezing, claims.

Left out is what these rest on: sockets, greenlets of actors, SQL. The parts are wired as in `cluster.keeping`,
`cluster.guard`, `cluster.router` and `cluster.claiming`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult, Event

from theatre_gevent import Ref
from theatre_gevent.cluster.ownership import Lost, Outcome, Ownership, StoreUnavailable, Won
from theatre_gevent.cluster.store import HostFenced, HostRow, Life
from theatre_gevent.logic import lease as leases
from theatre_gevent.logic import routing
from theatre_gevent.logic.envelopes import HOST_FROZEN, NOT_HERE
from theatre_gevent.logic.lease import ATTEMPT, Action, Lease, Pace, Phase
from theatre_gevent.logic.observation import Dead, Member, Members, Observer, members_of
from theatre_gevent.logic.ring import HashRing

if TYPE_CHECKING:
    from tests.simulation.world import World

DURATION, MARGIN, POLL = 6.0, 1.5, 1.0
LOOK = 0.5
REQUEST_TIMEOUT = 3.0
HAND_OVER = leases.waits_for_dead(DURATION) + POLL + ATTEMPT
PLACEMENT_TTL = 5.0

ring_of = lru_cache(HashRing)
"""Rings are values, and to make one takes as long as to simulate three seconds."""


class Rules:
    """What a host does that keeps it safe, and where tests plant bugs."""

    ownership: type[Ownership] = Ownership

    def begin(self, lease: Lease, sent: float, _: float) -> None:
        """A life was registered."""
        lease.begin(sent)

    def renewed(self, lease: Lease, sent: float, now: float) -> bool:
        """A renewal was accepted."""
        return lease.renew(sent, now)

    def expired(self, process: Process) -> bool:
        """Tell whether nothing may be done any more, at the start of a turn."""
        return process.lease.expired(process.now())

    def observe(self, process: Process, rows: list[HostRow], _: float, now: float) -> list[Dead]:
        """Take in what the database says of the others."""
        return process.observer.observe(rows, now, process.life)

    def decide(self, phase: Phase, **given: Any) -> Action:
        """Decide what the host has to do."""
        return leases.decide(phase, **given)

    def end_life(self, process: Process) -> None:
        """The lease has ended."""
        process.actors.clear()
        process.ownership.reset()


class Message:
    """Something that a host was asked to send, until it is known what became of it."""

    def __init__(self, ref: Ref, origin: str, deadline: float, *, probe: bool) -> None:
        self.ref = ref
        self.origin = origin
        self.deadline = deadline
        self.probe = probe
        self.attempt = 0
        self.owner: str | None = None
        self.outcome = ""
        self.handled = 0

    def __str__(self) -> str:
        return f"{self.ref} does not answer {self.origin}: {self.outcome or 'no word'}"


class Process:
    """One process of a host.

    Attributes:
        actors: What is active here, and the life in which it was activated.
    """

    def __init__(self, world: World, name: str, rate: float, start: float) -> None:
        self.world = world
        self.rules = world.rules
        self.name = name
        self.rate = rate
        self._zero = start - world.now * rate
        self.dead = self.paused = self.leaving = False
        self.sends = True
        self._deferred: list[Callable[[], object]] = []
        # the keeper
        self.life = Life(name, 0)
        self.lease = Lease(DURATION)
        self.pace = Pace(DURATION)
        self.observer = Observer()
        self.members = Members()
        self.doubtful: list[Life] = []
        self.phase = Phase.EXPIRED
        self.fenced = False
        self.reachable = True
        self._busy = self._registering = False
        self._poll_due = start
        self._fences: list[Dead] = []
        self._looked = self._look_at = self._keep_at = start
        # the router
        self.ring = ring_of(())
        self.actors: dict[Ref, Life] = {}
        self.held: dict[Ref, list[Message]] = {}
        self.held_since: dict[Ref, float] = {}
        self.ways: dict[Ref, str] = {}
        self._ways_until = 0.0
        self.ownership = self.rules.ownership(self, self, gevent.spawn, self._claimed, REQUEST_TIMEOUT)  # type: ignore[arg-type]

    # -- time ----------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Read this machine's clock."""
        return self._zero + self.world.now * self.rate

    monotonic = now

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Do something after so many seconds of this clock; when the process goes on, if it stands still then."""
        self.world.after(max(0.0, seconds) / self.rate, lambda: self.do(call))

    def do(self, call: Callable[[], object]) -> None:
        """Do something now, or when the process goes on."""
        if self.dead:
            return
        if self.paused:
            self._deferred.append(call)
        else:
            call()

    def sleep(self, seconds: float) -> None:
        """Let a greenlet wait."""
        awake = Event()
        self.after(seconds, lambda: self._wake(awake.set))
        awake.wait()

    def _wake(self, call: Callable[..., object], *args: Any) -> None:
        self.world.stirred = True
        call(*args)

    def start(self) -> None:
        """Begin."""
        self._keep()
        self.look()
        self._traffic()

    def pause(self) -> None:
        """Stand still."""
        self.paused = True

    def resume(self) -> None:
        """Go on with whatever has come meanwhile, in any order."""
        self.paused = False
        deferred, self._deferred = self._deferred, []
        self.world.random.shuffle(deferred)
        for call in deferred:
            self.do(call)

    def end(self) -> None:
        """The process is gone."""
        self.dead = True
        self.ownership.stop()

    def stop(self) -> None:
        """Stop in good order: give everything back, then end the life."""
        self.leaving = True
        self.statement("set_leaving", (self.life,), lambda _: None, lambda: None)
        for ref in list(self.actors):
            self._passivate(ref)
        self.after(1.0, lambda: self.statement("resign", (self.life,), lambda _: self.end(), self.end))

    # -- the database --------------------------------------------------------------------------------------------------

    def statement(
        self,
        verb: str,
        args: tuple[Any, ...],
        done: Callable[[Any], object],
        failed: Callable[[], object],
        patience: float = ATTEMPT,
    ) -> None:
        """Ask the database."""
        self.world.statement(self, verb, args, done, failed, patience)

    def _blocking(self, verb: str, *args: Any) -> Any:
        answer: AsyncResult[Any] = AsyncResult()
        self.statement(verb, args, lambda value: self._wake(answer.set, value), lambda: self._wake(answer.set, None))
        found = answer.get()
        if isinstance(found, HostFenced):
            self._poll_due = self.now()
        if found is None or isinstance(found, Exception):
            raise StoreUnavailable("the database does not answer")
        return found

    def claim(self, refs: list[Ref], again: list[int], number: int) -> list[Outcome]:
        """As `PostgresClaims` does."""
        claimed = self._blocking("claim", self.life, number, refs, again if any(again) else ())
        return [
            Won(claimed.mine[ref])
            if ref in claimed.mine
            else Lost(claimed.foreign[ref].host_id, claimed.foreign[ref].epoch)
            for ref in refs
        ]

    def release(self, refs: list[Ref], number: int) -> None:
        """As `PostgresClaims` does."""
        self._blocking("release", self.life, number, refs)

    # -- the keeper ----------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        if self._busy or self._look_after():
            return  # goes on with the answer
        now = self.now()
        renewal = self.pace.due if not self.lease.expired(now) else now + LOOK
        self._keep_at = at = max(now + 0.001, min(renewal, self._poll_due, self.observer.next_due(), now + LOOK))
        self.after(at - now, lambda: self._keep() if self._keep_at == at else None)

    def _look_after(self) -> bool:
        """Ask what is due; tells whether something was."""
        now = self.now()
        if self.life.epoch and not self.lease.expired(now) and now >= self.pace.due:
            self._ask("renew", (self.life,), self._renewed, self.pace.patience(self.lease.remaining(now)))
        elif self._fences:
            dead = self._fences.pop()
            self._ask("fence", (dead.life, dead.renewals), lambda _sent, _told: None)
        elif now >= min(self._poll_due, self.observer.next_due()):
            self._poll_due = now + POLL
            self._ask("hosts", (), self._polled)
        else:
            return False
        return True

    def _ask(
        self, verb: str, args: tuple[Any, ...], done: Callable[[float, Any], object], patience: float = ATTEMPT
    ) -> None:
        """One statement at a time, over the one connection of the keeper."""
        sent = self.now()
        self._busy = True

        def answered(value: Any) -> None:
            self._busy, self.reachable = False, True
            done(sent, value)
            self.look()
            self._keep()

        def failed() -> None:
            self._busy = self.reachable = self._registering = False
            self.pace.failed(sent, self.now())
            if verb == "register":
                self.doubtful.append(args[0])
            self.look()
            self._keep()

        self.statement(verb, args, answered, failed, max(0.05, patience))

    def _renewed(self, sent: float, renewals: int | None) -> None:
        if renewals is None:
            self._is_fenced()
        elif self.rules.renewed(self.lease, sent, self.now()):
            self.pace.succeeded(sent)

    def _is_fenced(self) -> None:
        self.lease.end()
        self.fenced = True

    def _polled(self, sent: float, rows: list[HostRow]) -> None:
        lives = not self.lease.expired(self.now())
        if lives and all(row.life != self.life for row in rows):
            self._is_fenced()
            lives = False
        own = Member(self.name, self.life.epoch, "", self.leaving) if lives else None
        self._fences += self.rules.observe(self, rows, sent, self.now())
        members = members_of(rows, self.name, own)
        if members != self.members:
            self.members = members
            self.ring = ring_of(members.ring)
            self.ways.clear()

    def _register(self) -> None:
        if self._busy or self._registering or self.leaving:
            return
        self._registering = True
        if self.doubtful:
            doubtful = self.doubtful[0]
            self._ask("fence_self", (doubtful,), lambda _sent, _told: self._doubt_is_over(doubtful))
        else:
            self._ask("next_epoch", (), self._got_epoch)

    def _doubt_is_over(self, life: Life) -> None:
        self._registering = False
        self.doubtful.remove(life)

    def _got_epoch(self, _: float, epoch: int) -> None:
        life, previous = Life(self.name, epoch), self.life.epoch
        self.world.begun(life)

        def begun(sent: float, _: Any) -> None:
            self._registering = False
            self.life = life
            self.fenced = False
            self.rules.begin(self.lease, sent, self.now())
            self.pace.succeeded(sent)
            self.phase = Phase.SERVING
            self._poll_due = self.now()

        self._ask("register", (life, "", DURATION, previous), begun)

    # -- the guard -----------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> bool:
        """Tell whether it takes messages."""
        return not self.dead and self.phase is Phase.SERVING

    def look(self) -> None:
        """As `LeaseGuard.look`."""
        now = self.now()
        remaining, since, self._looked = self.lease.remaining(now), now - self._looked, now
        action = self.rules.decide(
            self.phase,
            remaining=remaining,
            safety_margin=MARGIN,
            failures=self.pace.failures,
            max_renewal_failures=2,
            fenced=self.fenced,
            reachable=self.reachable,
        )
        if action is Action.EXPIRE:
            if self.phase is Phase.SERVING and not self.fenced and since < MARGIN:
                self.world.violate(f"the lease of {self.life} has ended, and it had not frozen before")
            self._expire()
        elif action is Action.FREEZE:
            self.phase = Phase.FROZEN
            self._fail_held("frozen")
        elif action is Action.UNFREEZE:
            self.phase = Phase.SERVING
        elif action is Action.REJOIN:
            self._register()
        due = leases.look_again_in(remaining, MARGIN)
        self._look_at = now + max(0.001, LOOK if due is None else min(LOOK, due))
        at = self._look_at
        self.after(at - now, lambda: self.look() if self._look_at == at else None)

    def _expire(self) -> None:
        self.phase = Phase.EXPIRED
        self.rules.end_life(self)
        self._fail_held("expired")

    def _fail_held(self, why: str) -> None:
        held, self.held = self.held, {}
        for messages in held.values():
            for message in messages:
                self._refuse(message, HOST_FROZEN, None, why)

    # -- messages ------------------------------------------------------------------------------------------------------

    def _traffic(self) -> None:
        """Send to somebody, now and then have an actor leave."""
        from tests.simulation.world import REFS, TRAFFIC

        random = self.world.random
        if self.sends and not self.leaving:
            self.send(random.choice(REFS))
            if random.random() < 0.4:
                self._passivate(random.choice(REFS))
        self.after(random.uniform(0.5, 1.5) * TRAFFIC, self._traffic)

    def send(self, ref: Ref, *, probe: bool = False) -> Message:
        """Send a message."""
        message = Message(ref, self.name, self.now() + REQUEST_TIMEOUT, probe=probe)
        self.route(message)
        return message

    def receive(self, verb: str, *args: Any) -> None:
        """Something has come from another host."""
        self.do(lambda: getattr(self, verb)(*args))

    def route(self, message: Message) -> None:
        """Bring a message that was sent here on its way, as `ClusterRouter` does."""
        ref = message.ref
        if not self.serving or self.rules.expired(self):
            self._settle(message, "frozen")
        elif ref in self.actors:
            self._handle(message)
        elif ref in self.held:
            self.held[ref].append(message)
        elif (way := self._way(ref)) is not None and message.owner is None:
            self.world.carry(self.name, way, "arrive", message, self.name)
        else:
            chosen = self.ring.owner(ref) or self.name
            host_id = routing.decide(message.owner, chosen, self.members.hosts)
            if host_id is None:
                self._settle(message, "no route")
            elif host_id == self.name:
                self._hold(message)
            else:
                self._learn(ref, host_id)
                self.world.carry(self.name, host_id, "arrive", message, self.name)

    def _way(self, ref: Ref) -> str | None:
        if self.now() >= self._ways_until:
            self.ways.clear()
        return self.ways.get(ref)

    def _learn(self, ref: Ref, host_id: str) -> None:
        if self.now() >= self._ways_until:
            self._ways_until = self.now() + PLACEMENT_TTL
        self.ways[ref] = host_id

    def _hold(self, message: Message) -> None:
        ref = message.ref
        self.world.stirred = True
        if self.ownership.take_back(ref):
            self._activate(ref)
            self._handle(message)
            return
        self.held.setdefault(ref, []).append(message)
        self.held_since.setdefault(ref, self.now())
        self.ownership.claim(ref)

    def arrive(self, message: Message, _: str) -> None:
        """A message has come from another host."""
        if not self.serving or self.leaving or self.rules.expired(self):
            self._refuse(message, HOST_FROZEN, None, "frozen")
        elif message.ref in self.actors:
            self._handle(message)
        elif message.ref in self.held:
            self.held[message.ref].append(message)
        else:
            self._hold(message)

    def _claimed(self, ref: Ref, outcome: Outcome) -> None:
        """As `Claiming`: in the greenlet of claims."""
        held = self.held.pop(ref, [])
        since = self.held_since.pop(ref, self.now())
        if isinstance(outcome, Won):
            if not held or not self.serving or self.leaving:
                if ref not in self.actors:
                    self.ownership.release(ref)
                for message in held:
                    self._refuse(message, HOST_FROZEN, None, "frozen")
                return
            self._activate(ref)
            for message in held:
                self._handle(message)
        elif isinstance(outcome, Lost):
            elsewhere = outcome.host_id != self.name and outcome.host_id in self.ring.members
            if held and not elsewhere and self.now() - since < HAND_OVER:
                self.held[ref], self.held_since[ref] = held, since
                self.after(0.05, lambda: self._claim_again(ref))
                return
            for message in held:
                self._refuse(message, NOT_HERE, outcome.host_id if elsewhere else None, "owned elsewhere")
        else:
            for message in held:
                self._settle(message, "no owner")

    def _claim_again(self, ref: Ref) -> None:
        if ref in self.held:
            self.world.stirred = True
            self.ownership.claim(ref)

    def _activate(self, ref: Ref) -> None:
        self.actors[ref] = self.life
        self.world.check(ref)

    def _passivate(self, ref: Ref) -> None:
        if self.actors.pop(ref, None) is not None:
            self.world.stirred = True
            self.ownership.release(ref)

    def _handle(self, message: Message) -> None:
        """A turn begins."""
        if self.rules.expired(self):
            self._expire()
            self._refuse(message, HOST_FROZEN, None, "expired")
            return
        if self.lease.expired(self.now()):
            self.world.violate(f"{message.ref} handles a message at {self.life} after the end of its lease")
        self.world.check(message.ref)
        self.world.handled += 1
        message.handled += 1
        if message.handled > 1:
            self.world.violate(f"{message.ref} handles a message of {message.origin} twice")
        self._answer(message, "settle", "handled")

    def _answer(self, message: Message, verb: str, *args: Any) -> None:
        if message.origin == self.name:
            self.receive(verb, message, *args)
        else:
            self.world.carry(self.name, message.origin, verb, message, *args)

    def _refuse(self, message: Message, code: int, owner: str | None, why: str) -> None:
        if message.origin == self.name and code == HOST_FROZEN:
            self._settle(message, why)
        else:
            self._answer(message, "refused", code, owner, self.name)

    def refused(self, message: Message, code: int, owner: str | None, by: str) -> None:
        """A message was not taken: perhaps it is sent again."""
        if self.ways.get(message.ref) == by:
            del self.ways[message.ref]
        verdict = routing.decide_retry(code, message.attempt, by, message.deadline - self.now())
        if isinstance(verdict, routing.Retry):
            message.attempt += 1
            message.owner = owner
            self.after(verdict.delay, lambda: self.route(message))
        else:
            self._settle(message, verdict.reason)

    def settle(self, message: Message, outcome: str) -> None:
        """The answer is here."""
        self._settle(message, outcome)

    def _settle(self, message: Message, outcome: str) -> None:
        if message.outcome:
            self.world.violate(f"a message to {message.ref} has two outcomes: {message.outcome}, {outcome}")
        message.outcome = outcome
        self.world.outcomes[outcome] += 1
